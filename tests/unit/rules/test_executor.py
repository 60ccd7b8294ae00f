"""What becomes of a query that stopped at a rule, before a stand-in for the fast gear that notes what it is told."""

import asyncio
import re
import threading

import dns.message
import dns.rcode
import pytest
from support.wires import ask_wire

from funkenshield import rules as given
from funkenshield.config.match import Match
from funkenshield.forward.uncached import LOOKUPS
from funkenshield.rules import executor as executing
from funkenshield.rules.compiler import END, START, IdAllocator, Rule, Stop
from funkenshield.rules.executor import ActiveRules, RuleExecutor

CLIENT, WIRE = b"client", ask_wire("www.example.")
HANDLE, GENERATION, AT, NEXT = 7, 3, 5, 6
SILENT = object()  # in place of an answer


class Inflight:
    """Notes what happens to queries, and answers questions with what it was given."""

    def __init__(self):
        self.done = []
        self.answers = []
        self.settles = True
        self.transport = "udp"
        self.stream = 0  # that all queries come from

    def who(self, client):
        return bytes([192, 0, 2, 1]), self.transport, 0, 0b10, self.stream

    def resume(self, client, wire, at, generation, **how):
        assert (client, wire) == (CLIENT, WIRE)
        self.done.append(("resume", at, generation, {key: it for key, it in how.items() if it != -1}))

    def reply(self, client, wire, response):
        assert (client, wire) == (CLIENT, WIRE)
        self.done.append(("reply", response))

    def drop(self, client):
        self.done.append(("drop",))

    def set_ttl_limits(self, number, shortest, longest):
        self.done.append(("set_ttl_limits", number, shortest, longest))

    def settle(self, handle, response):
        self.done.append(("settle", handle, response))
        return self.settles

    def give_up(self, handle):
        self.done.append(("give up", handle))

    def conclude(self, handle, response, at, generation):
        self.done.append(("conclude", handle, response, at, generation))
        return True

    def ask(self, client, wire, at, generation, number, *, route):
        self.done.append(("ask", wire, at, generation, route))
        self.answers.append(number)


class Scene:
    """A executor and one rule in force, in each chain and as the route 9."""

    def __init__(self, function=None, action=None, answer=SILENT, **rule):
        self.inflight = Inflight()
        self.ids = IdAllocator(tags={"new": 0, "known": 1})
        self.executor = RuleExecutor(self.inflight, self.ids, self.dispatch)
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
        while self.inflight.answers and self.answer is not SILENT:
            self.executor.take_answer(self.inflight.answers.pop(), self.answer)

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
        return self.inflight.done

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


# ---------------------------------------------------------------- every result, for every errand


@pytest.mark.parametrize("result", [message(), message().to_wire()], ids=["message", "wire"])
@pytest.mark.parametrize(
    ("kind", "done"),
    [
        ("query", ("reply", message().to_wire())),
        ("miss", ("settle", HANDLE, message().to_wire())),
        ("review", ("conclude", HANDLE, message().to_wire(), END, GENERATION)),
        ("serve", ("reply", message().to_wire())),
    ],
)
def test_a_response_is_the_answer(kind, done, result):
    assert Scene(returning(result)).run(kind) == [done]


@pytest.mark.parametrize("result", [None, given.proceed()], ids=["None", "proceed"])
@pytest.mark.parametrize(
    ("kind", "done"),
    [
        ("query", ("resume", NEXT, GENERATION, {})),
        ("review", ("conclude", HANDLE, RESPONSE, NEXT, GENERATION)),
        ("serve", ("resume", END, GENERATION, {"route": 0})),
    ],
)
def test_nothing_lets_the_next_rule_be_asked(kind, done, result):
    assert Scene(returning(result)).run(kind) == [done]


@pytest.mark.parametrize("result", [None, given.proceed(), given.allow()])
def test_a_miss_whose_function_says_nothing_is_asked_of_an_upstream_for_it(result):
    done = Scene(returning(result), answer=RESPONSE).run("miss")
    assert done == [("ask", WIRE, END, GENERATION, 0), ("settle", HANDLE, RESPONSE)]


def test_a_miss_that_no_upstream_answers_either_is_given_up():
    assert Scene(returning(None), answer=b"").run("miss")[1:] == [("give up", HANDLE)]


def test_a_miss_whose_answer_is_none_to_it_is_an_error_that_says_so(caplog):
    scene = Scene(returning(b"no response"), on_error="drop")
    scene.inflight.settles = False
    assert scene.run("miss") == [("settle", HANDLE, b"no response"), ("give up", HANDLE)]
    assert "not a response to this query, or too late" in caplog.text


def test_a_miss_that_is_over_is_given_up_once_and_for_all():
    scene = Scene(returning(given.refuse()))
    scene.inflight.settles = False
    assert [done[0] for done in scene.run("miss")] == ["settle", "settle", "give up"]


@pytest.mark.parametrize(
    ("action", "rcode"),
    [
        (given.refuse(), "REFUSED"),
        (given.nxdomain(), "NXDOMAIN"),
        (given.servfail(), "SERVFAIL"),
        (given.nodata(), "NOERROR"),
    ],
)
@pytest.mark.parametrize(("kind", "at"), [("query", 1), ("miss", 2), ("review", 2), ("serve", 1)])
def test_an_error_is_the_answer(kind, at, action, rcode):
    (done,) = Scene(returning(action)).run(kind)
    assert rcode_of(done[at]) == rcode


@pytest.mark.parametrize(
    ("kind", "done"),
    [
        ("query", ("drop",)),
        ("miss", ("give up", HANDLE)),
        ("review", ("conclude", HANDLE, None, END, GENERATION)),
        ("serve", ("drop",)),
    ],
)
def test_what_is_dropped_gets_no_answer(kind, done):
    assert Scene(returning(given.drop())).run(kind) == [done]


@pytest.mark.parametrize(
    ("kind", "done"),
    [
        ("query", ("resume", END, GENERATION, {})),
        ("review", ("conclude", HANDLE, RESPONSE, END, GENERATION)),
        ("serve", ("resume", END, GENERATION, {"route": 0})),
    ],
)
def test_what_passes_is_asked_about_no_more(kind, done):
    assert Scene(returning(given.allow())).run(kind) == [done]


@pytest.mark.parametrize(("kind", "at"), [("query", 1), ("miss", 2), ("review", 2), ("serve", 1)])
def test_records_of_an_action_are_the_answer(kind, at):
    (done,) = Scene(returning(given.answer("300 A 192.0.2.9"))).run(kind)
    assert [rrset.to_text() for rrset in dns.message.from_wire(done[at]).answer] == ["www.example. 300 IN A 192.0.2.9"]


@pytest.mark.parametrize(
    ("action", "changed"),
    [
        (given.tag("new"), {"tags": 1}),
        (given.skip_cache(), {"uncached": True}),
    ],
)
def test_a_query_goes_on_changed(action, changed):
    assert Scene(returning(action)).run() == [("resume", NEXT, GENERATION, changed)]


def test_a_query_goes_on_within_bounds_that_are_made_known_first():
    assert Scene(returning(given.ttl(min=5, max=50))).run() == [
        ("set_ttl_limits", 1, 5, 50),
        ("resume", NEXT, GENERATION, {"ttl_limits": 1}),
    ]


def test_a_query_is_forwarded_behind_its_chain():
    scene = Scene(returning(given.forward("inner")))
    scene.ids.route("group inner")
    assert scene.run() == [("resume", END, GENERATION, {"route": 1})]


def test_a_group_that_nobody_is_in_is_an_error_that_says_so(caplog):
    (done,) = Scene(returning(given.forward("nobody"))).run()
    assert rcode_of(done[1]) == "SERVFAIL"
    assert "there is no group nobody of upstreams" in caplog.text


def test_truncating_is_for_datagrams():
    (done,) = Scene(returning(given.truncate())).run()
    assert dns.message.from_wire(done[1]).flags & dns.flags.TC
    scene = Scene(returning(given.truncate()))
    scene.inflight.transport = "tcp"
    assert scene.run() == [("resume", END, GENERATION, {})]


@pytest.mark.parametrize("kind", ["miss", "review"])
def test_what_cannot_be_done_is_an_error(kind, caplog):
    (done,) = Scene(returning(given.tag("new"))).run(kind)
    assert rcode_of(done[2]) == "SERVFAIL"
    assert "the action tag is not possible here" in caplog.text


def test_a_response_is_whole_whatever_the_client_takes():
    async def much(query):
        return query.respond(*(f'TXT "{number:0200}"' for number in range(20)))

    (done,) = Scene(much).run("miss")
    assert len(dns.message.from_wire(done[2]).answer[0]) == 20


# ---------------------------------------------------------------- functions


def test_a_function_is_given_the_query_and_its_sender():
    async def function(query):
        return [query.qname, query.qtype, str(query.source), query.transport, query.listener, query.tags, query.rcode]

    scene = Scene(function)
    seen = []
    scene.executor.start = lambda call, function: seen.append(asyncio.run(function(scene.executor.query(call))))
    scene.begin("query")
    scene.begin("review")
    said = ["www.example.", "A", "192.0.2.1", "udp", "127.0.0.1:53", {"known"}]
    assert seen == [[*said, ""], [*said, "NXDOMAIN"]]


def test_a_function_that_is_not_async_may_return_what_is_awaited():
    def function(query):
        return returning(None)(query)

    assert Scene(function).run() == [("resume", NEXT, GENERATION, {})]


def test_a_slow_function_runs_in_a_thread_and_keeps_nobody_waiting():
    go, threads = threading.Event(), []

    def slow(query):
        threads.append(threading.current_thread())
        go.wait(5)

    async def play():
        scene = Scene(slow)
        scene.begin("query")
        assert scene.inflight.done == []
        go.set()
        assert await scene.end() == [("resume", NEXT, GENERATION, {})]

    asyncio.run(play())
    assert threads != [threading.main_thread()]


@pytest.mark.parametrize(("how", "on_the_loop"), [({}, False), ({"inline": True}, True)], ids=["def", "inline"])
def test_a_function_is_always_called_where_its_rule_says_however_fast_it_is(how, on_the_loop):
    threads = []

    async def play():
        scene = Scene(lambda query: threads.append(threading.current_thread() is threading.main_thread()), **how)
        for _ in range(60):
            scene.begin("query")
            while scene.executor._tasks:
                await asyncio.wait(scene.executor._tasks)
        await scene.end()

    asyncio.run(play())
    assert threads == [on_the_loop] * 60


# ---------------------------------------------------------------- what goes wrong


def fail(query):
    raise LookupError("not found")


async def fail_later(query):
    await asyncio.sleep(0)
    raise LookupError("not found")


async def await_what_is_cancelled(query):
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


def run_out(query):
    return next(iter(()))


def leave(query):
    raise SystemExit(1)


@pytest.mark.parametrize("function", [fail, fail_later, await_what_is_cancelled, run_out, leave, returning(42)])
@pytest.mark.parametrize(
    ("on_error", "done"),
    [
        ("servfail", ("reply", "SERVFAIL")),
        ("refused", ("reply", "REFUSED")),
        ("drop", ("drop",)),
        ("allow", ("resume", END, GENERATION, {})),
    ],
)
def test_a_query_whose_function_fails_gets_what_its_rule_says(function, on_error, done, caplog):
    scene = Scene(function, on_error=on_error)
    (found,) = scene.run()
    assert (("reply", rcode_of(found[1])) if found[0] == "reply" else found) == done
    assert "rule rule: " in caplog.text
    assert scene.executor.counters("rule")["handler_errors"] == 1


def test_an_error_is_logged_with_file_and_line(caplog):
    Scene(fail).run()
    line = fail.__code__.co_firstlineno + 1
    assert f"rule rule: LookupError: not found at {__file__}:{line}" in caplog.text


@pytest.mark.parametrize("kind", ["query", "miss", "review", "serve"])
def test_who_takes_too_long_has_failed(kind, caplog):
    async def never(query):
        await asyncio.Event().wait()

    async def play():
        scene = Scene(never)
        scene.activate(deadline=0.01)
        if kind == "miss":
            scene.executor.handle_misses([(HANDLE, 9, WIRE, 0.01, CLIENT)])
        else:
            scene.begin(kind)
        (done,) = await scene.end()
        assert rcode_of(done[2 if kind in {"miss", "review"} else 1]) == "SERVFAIL"
        assert scene.dispatched

    asyncio.run(play())
    assert "timed out" in caplog.text


@pytest.mark.parametrize("function", [fail, returning(None)], ids=["thread", "async"])
def test_when_too_many_are_waited_for_a_query_is_refused_and_its_function_not_called(function, monkeypatch):
    monkeypatch.setattr(executing, "CALLS_MAX", 0)
    scene = Scene(function)
    (done,) = scene.run()
    assert rcode_of(done[1]) == "REFUSED"
    assert scene.executor.rejected == 1
    assert scene.executor._threads._threads == []
    assert scene.executor.counters("rule")["handler_errors"] == 0


def test_calls_do_not_heap_up_behind_functions_that_do_not_return(monkeypatch, caplog):
    monkeypatch.setattr(executing, "THREADS", 1)
    monkeypatch.setattr(executing, "CALLS_MAX", 3)
    go = threading.Event()

    async def play():
        scene = Scene(lambda query: go.wait(5))
        scene.activate(deadline=0.01)
        for _ in range(8):
            scene.begin("query")
            await asyncio.sleep(0.02)
        go.set()
        return [rcode_of(done[1]) for done in await scene.end()]

    assert asyncio.run(play()) == ["SERVFAIL"] * 4 + ["REFUSED"] * 4


def test_what_is_waited_for_at_the_end_is_ended_without_an_answer():
    async def never(query):
        await asyncio.Event().wait()

    async def play():
        scene = Scene(never)
        scene.begin("query")
        await asyncio.sleep(0)
        await scene.executor.close()
        assert (scene.inflight.done, scene.executor._tasks) == ([], set())

    asyncio.run(play())


# ---------------------------------------------------------------- questions


async def resolve(query):
    return await query.resolve_wire()


@pytest.mark.parametrize(("kind", "at", "route"), [("query", NEXT, -1), ("miss", END, 0), ("serve", END, 0)])
def test_a_question_goes_to_whatever_is_behind_the_rule(kind, at, route):
    done = Scene(resolve, answer=RESPONSE).run(kind)
    assert done[0] == ("ask", WIRE, at, GENERATION, route)
    assert done[1][-1] == RESPONSE


def test_a_question_that_gets_no_answer_is_an_error_of_the_function(caplog):
    _, done = Scene(resolve, answer=b"").run()
    assert rcode_of(done[1]) == "SERVFAIL"
    assert "OSError: no answer" in caplog.text


def test_who_asks_for_what_a_response_answers_is_given_the_response():
    assert Scene(resolve).run("review") == [("conclude", HANDLE, RESPONSE, END, GENERATION)]


def test_a_response_can_be_looked_at_beside_another_question():
    other = ask_wire("other.example.")

    async def look(query):
        return await query.resolve_wire(other)

    done = Scene(look, answer=b"other answer").run("review")
    assert done == [("ask", other, END, GENERATION, -1), ("conclude", HANDLE, b"other answer", END, GENERATION)]


def test_questions_about_questions_come_to_an_end(caplog):
    class Endless(Scene):
        """Every question stops at the rule that asks it."""

        def dispatch(self):
            if self.inflight.answers:
                self.inflight.stream = self.inflight.answers.pop()
                self.begin("query")

    async def play():
        scene = Endless(resolve)
        scene.begin("query")
        while not any(done[0] == "reply" for done in scene.inflight.done):
            await asyncio.sleep(0)
        await scene.executor.close()
        return [done[0] for done in scene.inflight.done]

    assert asyncio.run(play()) == ["ask"] * executing.DEPTH + ["reply"]
    assert "rules resolve queries of rules, 8 deep" in caplog.text


def test_an_answer_that_nobody_waits_for_any_more_is_nothing():
    scene = Scene(resolve)
    scene.executor.take_answer(LOOKUPS, RESPONSE)
    assert scene.inflight.done == []


# ---------------------------------------------------------------- rules that are replaced


def test_queries_of_the_rules_before_end_there_and_those_of_older_ones_begin_anew():
    scene = Scene(returning(None))
    scene.activate(GENERATION + 1, rule=Rule("other", "queries", Match(), given.refuse(), returning(given.drop())))
    assert scene.run() == [("resume", NEXT, GENERATION, {})]
    scene.activate(GENERATION + 2)
    scene.inflight.done.clear()
    assert scene.run() == [("resume", START, GENERATION + 2, {})]


def test_responses_of_older_rules_stay_as_they_are():
    scene = Scene(fail)
    scene.activate(GENERATION + 1)
    scene.activate(GENERATION + 2)
    assert scene.run("review") == [("conclude", HANDLE, RESPONSE, END, GENERATION)]


def test_misses_of_a_way_that_is_no_more_are_given_up_and_what_is_never_cached_fails():
    scene = Scene(fail)
    scene.executor.configure(ActiveRules())
    scene.executor.configure(ActiveRules())
    assert scene.run("miss") == [("give up", HANDLE)]
    assert rcode_of(scene.run("serve")[1][1]) == "SERVFAIL"


def test_a_regular_expression_chooses_the_node_to_go_on_at():
    scene = Scene()
    stop = Stop(scene.rule, re.compile(r"^www\."), 21, 22)
    other = Stop(scene.rule, re.compile(r"\.$"), 21, 22)
    chain = {AT: stop, AT + 1: other}
    scene.executor.configure(ActiveRules(GENERATION, (chain, chain, chain)))
    scene.executor.handle_queries([(CLIENT, WIRE, 0, 0, AT, GENERATION), (CLIENT, WIRE, 0, 0, AT + 1, GENERATION)])
    scene.executor.handle_responses([(HANDLE, AT, GENERATION, WIRE, RESPONSE, CLIENT)])
    assert scene.inflight.done == [
        ("resume", 21, GENERATION, {}),
        ("resume", 22, GENERATION, {}),
        ("conclude", HANDLE, RESPONSE, 21, GENERATION),
    ]
