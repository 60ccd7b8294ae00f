"""What Python decides, at the wire: every query gets an answer, whatever a function makes of it."""

import signal

import dns.flags
import pytest
from support.rig import ask, asked, behind, data, rcode, received, silent
from support.until import until
from support.upstream import Delayed, answer, nxdomain, truncated

FUNCTIONS = """
import pathlib

from funkenshield.rules import *

@shield.setup
async def begin():
    print("set up", file=open("FOLDER/hooks", "a"), flush=True)
    pathlib.Path("FOLDER/secrets").unlink(missing_ok=True)

@shield.teardown
async def end():
    print("torn down", file=open("FOLDER/hooks", "a"), flush=True)

@shield.rule(suffix("silent.test"), cache=True)
async def silent(query):
    return None

@shield.rule(suffix("large.test"), cache=True)
async def large(query):
    return query.respond(*(f'TXT "{number:0200}"' for number in range(20)))

@shield.rule(suffix("empty.test"))
async def empty(query):
    return b""

@shield.rule(suffix("again.test"), chain="responses")
async def again(query):
    return await query.resolve()

@shield.rule(suffix("unwanted.test"), chain="responses")
async def unwanted(query):
    return drop() if query.rcode == "NXDOMAIN" else None

@shield.rule(suffix("stuck.test"))
def stuck(query):
    import time

    time.sleep(60)
"""


def script(query):
    """Answer large.* over TCP alone, and anything else at once."""
    return truncated(query) if query.name.to_text().startswith("part.") and query.transport == "udp" else whole(query)


def whole(query):
    return answer(query, "A 192.0.2.1")


def rule(name, suffix, action):
    return {"name": name, "chain": "responses", "match": {"suffix": suffix}, "action": action}


@pytest.fixture
def stage(tmp_path):
    """A shield with functions, and its upstream."""
    file = tmp_path / "functions.py"
    file.write_text(FUNCTIONS.replace("FOLDER", str(tmp_path)))
    rules = [
        rule("not stored", "once.test", "skip_cache"),
        rule("short", "short.test", {"ttl": {"max": 7}}),
        rule("seen", ["seen.test", "once.test", "short.test"], {"log": "{rcode}"}),
    ]
    with behind(script, rules=rules, rules_file=str(file), forward={"timeout": 1.0, "deadline": 1.0}) as (
        shield,
        upstream,
    ):
        yield shield, upstream


def test_rules_of_responses_see_what_came_truncated_once_it_is_whole(stage):
    shield, upstream = stage
    response = ask(shield, "part.seen.test")
    assert (data(response), response.flags & dns.flags.TC) == (["192.0.2.1"], 0)
    assert received(upstream)["part.seen.test."] == 2


def test_what_rules_said_of_a_response_before_python_looks_at_it_holds(stage):
    shield, upstream = stage
    assert [data(ask(shield, "x.once.test")) for _ in range(2)] == [["192.0.2.1"]] * 2
    assert received(upstream)["x.once.test."] == 2
    assert ask(shield, "x.short.test").answer[0].ttl <= 7


def test_a_query_that_is_never_cached_and_whose_function_says_nothing_is_asked_of_the_upstream_once(stage):
    shield, upstream = stage
    assert data(ask(shield, asked("x.silent.test", options=[(65001, b"x")]))) == ["192.0.2.1"]
    assert received(upstream)["x.silent.test."] == 1


@pytest.mark.parametrize("tcp", [False, True])
def test_a_function_may_answer_more_than_a_datagram_holds(stage, tcp):
    shield, _ = stage
    response = ask(shield, asked("x.large.test", "TXT", edns=0), tcp=tcp)
    assert [bool(response.flags & dns.flags.TC), len(data(response))] == ([False, 20] if tcp else [True, 0])


@pytest.mark.parametrize("tcp", [False, True])
def test_octets_that_are_no_response_are_an_error_of_the_function(stage, tcp):
    shield, _ = stage
    assert rcode(ask(shield, "x.empty.test", tcp=tcp)) == "SERVFAIL"


def test_a_rule_of_responses_that_asks_its_own_question_is_told_what_it_knows(stage):
    shield, upstream = stage
    assert data(ask(shield, "x.again.test")) == ["192.0.2.1"]
    assert received(upstream)["x.again.test."] == 1


def test_who_is_silent_is_still_left_for_another_after_python_has_dropped_a_late_response(tmp_path):
    """The first says late what is not wanted, while the second is waited for in vain."""
    file = tmp_path / "functions.py"
    file.write_text(FUNCTIONS.replace("FOLDER", str(tmp_path)))
    forward = {"policy": "order", "timeout": 1.0, "retry_after": 1.0, "deadline": 20.0, "attempts": 3}
    servers = lambda query: Delayed(1.3, nxdomain(query)), silent, whole
    with behind(*servers, rules_file=str(file), forward=forward) as (shield, *upstreams):
        assert data(ask(shield, "x.unwanted.test")) == ["192.0.2.1"]
        assert [received(upstream)["x.unwanted.test."] for upstream in upstreams] == [1, 1, 1]


# ---------------------------------------------------------------- the end


def test_a_function_that_does_not_return_keeps_no_shield_from_ending(stage):
    shield, _ = stage
    assert rcode(ask(shield, "x.stuck.test")) == "SERVFAIL"
    shield.terminate()


def test_nothing_is_set_up_for_a_reload_that_names_what_is_not_there(stage, tmp_path):
    shield, _ = stage
    reload_with(shield, "/nowhere", "cookies.secret_file: /nowhere: No such file")
    assert (tmp_path / "hooks").read_text().splitlines() == ["set up"]
    assert data(ask(shield, "x.silent.test")) == ["192.0.2.1"]


def test_what_was_set_up_for_a_reload_that_fails_is_torn_down(stage, tmp_path):
    """The secrets are there when they are looked for, and gone when they are taken up."""
    shield, _ = stage
    secrets = tmp_path / "secrets"
    secrets.write_text("00" * 16 + "\n")
    reload_with(shield, secrets, f"reload failed: {secrets}: No such file")
    assert (tmp_path / "hooks").read_text().splitlines() == ["set up", "set up", "torn down"]
    assert data(ask(shield, "x.silent.test")) == ["192.0.2.1"]


def reload_with(shield, secrets, told):
    """Have a shield read its configuration with other secrets; wait until it tells what is wrong."""
    config = shield.folder / "funkenshield.toml"
    config.write_text(config.read_text() + f'[cookies]\nsecret_file = "{secrets}"\n')
    shield.process.send_signal(signal.SIGHUP)
    until(lambda: told in shield.log)
