"""A rule executor before a stand-in for the fast gear that notes what it is told."""

import asyncio
from types import SimpleNamespace

import dns.message
import dns.rcode
from support.wires import ask_wire

from funkenshield import rules as given
from funkenshield.config.match import Match
from funkenshield.rules.compiler import IdAllocator, Rule, Stop
from funkenshield.rules.executor import ActiveRules, RuleExecutor

CLIENT, WIRE = b"client", ask_wire("www.example.")
HANDLE, GENERATION, AT, NEXT = 7, 3, 5, 6
SILENT = object()  # in place of an answer


class PythonRulesStandIn:
    """Notes what happens to queries, and answers questions with what it was given."""

    def __init__(self):
        self.done = []
        self.answers = []
        self.settles = True
        self.transport = "udp"
        self.stream = 0  # that all queries come from
        self.settings_writer = SimpleNamespace(cache=SimpleNamespace())

    def server_name(self, client):
        return ""

    def client_info(self, client):
        return bytes([192, 0, 2, 1]), self.transport, 0, 0b10, self.stream

    def resume(self, client, wire, at, generation, **how):
        assert (client, wire) == (CLIENT, WIRE)
        self.done.append(("resume", at, generation, {key: it for key, it in how.items() if it != -1}))

    def reply(self, client, wire, response):
        assert (client, wire) == (CLIENT, WIRE)
        self.done.append(("reply", response))

    def drop(self, client, query):
        self.done.append(("drop",))

    def set_ttl_limits(self, number, shortest, longest):
        self.done.append(("set_ttl_limits", number, shortest, longest))

    def settle(self, handle, response):
        self.done.append(("settle", handle, response))
        return self.settles

    def give_up(self, handle):
        self.done.append(("give up", handle))

    def turn_away(self, handle):
        self.done.append(("turn away", handle))

    def conclude(self, handle, response, at, generation):
        self.done.append(("conclude", handle, response, at, generation))
        return True

    def ask(self, client, wire, at, generation, number, *, route):
        self.done.append(("ask", wire, at, generation, route))
        self.answers.append(number)


class Scene:
    """A executor and one rule in force, in each chain and as the route 9."""

    def __init__(self, function=None, action=None, answer=SILENT, **rule):
        self.python_rules = PythonRulesStandIn()
        self.ids = IdAllocator(tags={"new": 0, "known": 1})
        self.executor = RuleExecutor(self.python_rules, self.ids, self.dispatch)
        self.answer = answer
        self.dispatched = 0
        action = action or given.Action(call="rules.py:function")
        self.rule = Rule("rule", "queries", Match(), action, function, **rule)
        self.activate()

    def activate(self, generation=GENERATION, deadline=2.5, rule=None):
        stop = {AT: Stop(rule or self.rule, None, NEXT, NEXT)}
        active = ActiveRules(generation, (stop, stop, stop), {9: rule or self.rule}, ["127.0.0.1:53"], deadline)
        self.executor.configure(active)

    def dispatch(self):
        self.dispatched += 1
        while self.python_rules.answers and self.answer is not SILENT:
            self.executor.take_answer(self.python_rules.answers.pop(), self.answer)

    def begin(self, kind):
        if kind == "query":
            self.executor.handle_queries([(CLIENT, WIRE, 0, 0, AT, GENERATION)])
        elif kind == "miss":
            self.executor.handle_misses([(HANDLE, 9, WIRE, 2.5, CLIENT)])
        elif kind == "review":
            self.executor.handle_responses([(HANDLE, AT, GENERATION, WIRE, RESPONSE, CLIENT)])
        else:
            self.executor.handle_uncached(CLIENT, WIRE, 9)

    async def end(self):
        while self.executor._tasks:
            await asyncio.wait(self.executor._tasks)
        await self.executor.close()
        return self.python_rules.done

    def run(self, kind="query"):
        async def play():
            self.begin(kind)
            return await self.end()

        return asyncio.run(play())


def message(rcode="NOERROR"):
    made = dns.message.make_response(dns.message.from_wire(WIRE))
    made.set_rcode(dns.rcode.from_text(rcode))
    return made


RESPONSE = message("NXDOMAIN").to_wire()


def returning(result):
    async def function(query):
        return result

    return function


def rcode_of(wire):
    return dns.rcode.to_text(dns.message.from_wire(wire).rcode())
