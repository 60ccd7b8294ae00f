"""How functions of rules are called: where, how long, and what becomes of those that fail."""

import asyncio
import re
import threading

import pytest
from support.wires import ask_wire

from funkenshield import rules as given
from funkenshield.config.match import Match
from funkenshield.forward.forwarder import LOOKUPS
from funkenshield.rules import executor as executing
from funkenshield.rules.compiler import END, START, Rule, Stop
from funkenshield.rules.executor import ActiveRules
from unit.rules.executor_helpers import AT, CLIENT, GENERATION, HANDLE, NEXT, RESPONSE, WIRE, Scene, rcode_of, returning

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
        assert scene.python_rules.done == []
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


@pytest.mark.parametrize("kind", ["miss", "review"])
def test_when_too_many_are_waited_for_nothing_is_kept_of_that(kind, monkeypatch):
    monkeypatch.setattr(executing, "CALLS_MAX", 0)
    assert Scene(returning(None)).run(kind) == [("turn away", HANDLE)]


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
        assert (scene.python_rules.done, scene.executor._tasks) == ([], set())

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


@pytest.mark.parametrize(("kind", "done"), [("query", "reply"), ("miss", "turn away"), ("review", "turn away")])
def test_where_nobody_has_time_for_what_a_function_asks_its_query_is_turned_away(kind, done, caplog):
    async def look(query):
        return await query.resolve_wire(ask_wire("other.example."))

    scene = Scene(look, answer=None)
    asked, ended = scene.run(kind)
    assert (asked[0], ended[0]) == ("ask", done)
    assert done != "reply" or rcode_of(ended[1]) == "REFUSED"
    assert scene.executor.counters("rule")["handler_errors"] == 0
    assert caplog.text == ""


def test_questions_about_questions_come_to_an_end(caplog):
    class Endless(Scene):
        """Every question stops at the rule that asks it."""

        def dispatch(self):
            if self.python_rules.answers:
                self.python_rules.stream = self.python_rules.answers.pop()
                self.begin("query")

    async def play():
        scene = Endless(resolve)
        scene.begin("query")
        while not any(done[0] == "reply" for done in scene.python_rules.done):
            await asyncio.sleep(0)
        await scene.executor.close()
        return [done[0] for done in scene.python_rules.done]

    assert asyncio.run(play()) == ["ask"] * executing.DEPTH + ["reply"]
    assert "rules resolve queries of rules, 8 deep" in caplog.text


def test_an_answer_that_nobody_waits_for_any_more_is_nothing():
    scene = Scene(resolve)
    scene.executor.take_answer(LOOKUPS, RESPONSE)
    assert scene.python_rules.done == []


# ---------------------------------------------------------------- rules that are replaced


def test_queries_of_the_rules_before_end_there_and_those_of_older_ones_begin_anew():
    scene = Scene(returning(None))
    scene.activate(GENERATION + 1, rule=Rule("other", "queries", Match(), given.refuse(), returning(given.drop())))
    assert scene.run() == [("resume", NEXT, GENERATION, {})]
    scene.activate(GENERATION + 2)
    scene.python_rules.done.clear()
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
    assert scene.python_rules.done == [
        ("resume", 21, GENERATION, {}),
        ("resume", 22, GENERATION, {}),
        ("conclude", HANDLE, RESPONSE, 21, GENERATION),
    ]
