"""What the result of a rule's function does, for queries, misses and responses."""

import asyncio

import dns.message
import pytest

from funkenshield import rules as given
from funkenshield.rules import compiler
from funkenshield.rules.compiler import END
from unit.rules.executor_helpers import GENERATION, HANDLE, NEXT, RESPONSE, WIRE, Scene, message, rcode_of, returning

# ---------------------------------------------------------------- every result, for every kind of call


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
    scene.python_rules.settles = False
    assert scene.run("miss") == [("settle", HANDLE, b"no response"), ("give up", HANDLE)]
    assert "not a response to this query, or too late" in caplog.text


def test_a_miss_that_is_over_is_given_up_once_and_for_all():
    scene = Scene(returning(given.refuse()))
    scene.python_rules.settles = False
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


def test_bounds_that_differ_from_query_to_query_do_not_run_out(monkeypatch):
    monkeypatch.setattr(compiler, "NUMBERS_MAX", 4)
    lives = iter(range(1, 50))
    scene = Scene(lambda query: given.ttl(max=next(lives)), inline=True)
    purged = []
    scene.python_rules.settings_writer.cache.purge = lambda name, below: purged.append(
        (name, below, scene.python_rules.done[-1])
    )
    for _ in range(6):
        scene.begin("query")
    done = asyncio.run(scene.end())
    assert [each[-1] for each in done if each[0] == "set_ttl_limits"] == [1, 2, 3, 4, 5, 6]
    assert {each[-1]["ttl_limits"] for each in done if each[0] == "resume"} == {1, 2, 3, 4}
    assert purged == [(b"\0", True, done[7])], "before the first is used again"


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
    scene.python_rules.transport = "tcp"
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
