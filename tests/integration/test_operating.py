"""Commands to a daemon that runs: what they show, what they change, and what bad input gets."""

import json
import re

import pytest
from click.testing import CliRunner
from support.control import request, stats
from support.rig import (
    PATIENT,
    Holding,
    answerers,
    ask,
    ask_each,
    behind,
    data,
    names,
    numbered,
    placed,
    rcode,
    received,
)
from support.until import until

from funkenshield import cli

RULES = [
    {"name": "ads", "match": {"suffix": ["ads.test"], "qtype": ["A", "AAAA"]}, "action": "nxdomain"},
    {"name": "numbers", "match": {"regex": "^www[0-9]"}, "action": "refused"},
]
ONE, TWO = "one", "two"


@pytest.fixture(scope="module")
def running():
    """Yield a shield, and its upstreams: the first is asked first, and holds its answers when it is told to."""
    first = Holding(numbered(1))
    with first, behind(
        placed(first, name=ONE), placed(numbered(2), name=TWO), forward=PATIENT | {"policy": "order"}, rules=RULES,
        zones=[{"name": "z.test"}], stale={"mode": "immediate"},
    ) as (shield, one, two):  # fmt: skip
        yield shield, one, two


@pytest.fixture
def shield(running):
    return running[0]


def run(shield, *args):
    """Run a command, and return how it ended: with an exit code, and never with another exception."""
    done = CliRunner().invoke(cli.main, [*args, "--control", str(shield.control)])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done


def printed(shield, *args):
    """Return the lines that a command prints, each with single spaces, after asserting that it was right."""
    done = run(shield, *args)
    assert (done.exit_code, done.exception) == (0, None), done.stderr
    return lines(done.stdout)


def told(shield, *args):
    """Return the response of the daemon to a command."""
    (line,) = printed(shield, *args, "--json")
    return json.loads(line)


def explained(shield, *args):
    return told(shield, "explain", *args)


def lines(text):
    """Return the lines of a text, each with single spaces."""
    return [" ".join(line.split()) for line in text.splitlines()]


# ---------------------------------------------------------------- why


def test_a_miss_and_a_hit_are_explained_and_nothing_is_counted(running):
    shield, one, _ = running
    (name,) = names(1)
    before = stats(shield)
    miss = explained(shield, name, "A", "--no-ad", "--no-edns")
    assert (miss["outcome"], miss["upstream"], miss["candidates"]) == ("forwarded", ONE, [ONE])
    assert stats(shield)["queries"] == before["queries"]
    assert received(one)[name] == 0
    assert data(ask(shield, name)) == ["192.0.2.1"]
    hit = explained(shield, name, "A", "--no-ad", "--no-edns")
    assert (hit["outcome"], hit["rcode"]) == ("hit", "NOERROR")
    (entry,) = (step["entry"] for step in hit["steps"] if step["step"] == "cache")
    assert (entry["name"], entry["type"], entry["freshness"], entry["lifetime"]) == (name, "A", "fresh", 300.0)
    assert explained(shield, name)["outcome"] == "forwarded", "other flags, another entry"
    assert received(one)[name] == 1


def test_the_steps_are_printed_in_the_order_in_which_they_are_taken(shield):
    found = printed(shield, "explain", "www.ads.test", "AAAA", "--from", "192.0.2.1")
    assert found[:2] == [f"listener {shield.address}, over udp", "guard allowed"]
    assert found[2:] == [
        "rules chain queries: ads matched",
        "ads: matched", "yes qtype = A, AAAA", "yes suffix = ads.test.", "-> nxdomain", "numbers: not reached",
        "=> rule NXDOMAIN: the rule ads decides",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "more", "outcome", "rule"),
    [
        ("www7.test", (), "rule", "numbers"),
        ("www.test", ("--transport", "tcp"), "forwarded", None),
        ("x.ads.test", ("--from", "2001:db8::1"), "rule", "ads"),
    ],
)
def test_a_rule_is_named_that_decides(shield, name, more, outcome, rule):
    found = explained(shield, name, *more)
    assert (found["outcome"], found.get("rule")) == (outcome, rule)
    response = ask(shield, name, tcp="tcp" in more)
    assert rcode(response) == found.get("rcode", "NOERROR")


def test_who_is_blocked_and_where_a_query_waits_are_explained(running):
    shield, one, _ = running
    printed(shield, "block", "add", "192.0.2.0/24")
    assert explained(shield, "a.test", "--from", "192.0.2.9")["outcome"] == "blocked"
    printed(shield, "block", "remove", "192.0.2.0/24")
    assert explained(shield, "a.test", "--from", "192.0.2.9")["outcome"] == "forwarded"
    (name,) = names(1)
    one.hold()
    try:
        assert ask(shield, name, timeout=0.2) is None
        assert explained(shield, name, "--no-ad", "--no-edns")["outcome"] == "coalesced"
    finally:
        one.let_go()
    until(lambda: stats(shield)["outstanding_queries"] == 0)


# ---------------------------------------------------------------- all at once


def test_one_request_tells_all_that_a_screen_shows(shield):
    told, stats, upstreams, rules, blocks, failures = request(
        shield, b'{"command": "status"}',
        *(json.dumps({"command": each}).encode() for each in (
            "stats", "upstream list", "rules list", "block list", "failures"
        )),
    )  # fmt: skip
    assert told["stats"].keys() == stats["stats"].keys()
    for each in (upstreams, rules, blocks, failures):
        (name,) = each.keys() - {"ok"}
        assert told[name] == each[name]
    assert told["about"].keys() == {"version", "host", "pid"}
    assert told["steered"] == {"log level": None, "upstreams": {}, "rules disabled": []}
    assert any(each["text"].startswith("ready: listening on") for each in told["log"])
    assert request(shield, b'{"command": "status", "limit": 0}')[0]["error"] == "top: limit must be 1 to 1000"


# ---------------------------------------------------------------- the cache


def test_the_cache_is_looked_into_and_dumped(running, tmp_path):
    shield, _, _ = running
    asked = [f"entry{number}.z.test." for number in range(450)]
    ask_each(shield, asked)
    found = [json.loads(line) for line in printed(shield, "cache", "lookup", asked[0], "--json")]
    assert [(each["name"], each["type"], each["zone"], each["kind"]) for each in found] == [
        (asked[0], "A", "z.test.", "positive")
    ]
    comment, record, *_ = printed(shield, "cache", "lookup", asked[0], "A")
    assert comment.startswith(f"; {asked[0]} IN A: NOERROR, positive, ")
    assert re.fullmatch(rf"{asked[0]} (300|29\d) IN A 192.0.2.1", record)
    assert len(printed(shield, "cache", "list", "--zone", "z.test")) == 100
    all_of_zone = printed(shield, "cache", "list", "--zone", "z.test", "--limit", "1000", "--json")
    assert sorted(json.loads(line)["name"] for line in all_of_zone) == sorted(asked)
    printed(shield, "cache", "dump", str(tmp_path / "dump"), "--zone", "z.test")
    records = [line for line in (tmp_path / "dump").read_text().splitlines() if line and not line.startswith(";")]
    assert sorted(line.split()[0] for line in records) == sorted(asked)
    assert run(shield, "cache", "lookup", "nobody.asked.test").exit_code == 1


# ---------------------------------------------------------------- steering


def state(shield, name):
    return {each["name"]: each["state"] for each in told(shield, "upstream", "list")["upstreams"]}[name]


def test_an_upstream_that_drains_gets_nothing_new_and_finishes_what_it_has(running):
    shield, one, two = running
    asked = names(2)
    one.hold()
    assert ask(shield, asked[0], timeout=0.2) is None
    assert printed(shield, "upstream", "drain", ONE) == ["one: draining"]
    assert state(shield, ONE) == "draining (by command)"
    assert answerers(ask_each(shield, asked[1:])) == {2: 1}
    one.let_go()
    until(lambda: stats(shield)["outstanding_queries"] == 0)
    assert data(ask(shield, asked[0])) == ["192.0.2.1"]
    assert received(two)[asked[0]] == 0
    assert told(shield, "reload")["reloaded"]
    assert state(shield, ONE) == "draining (by command)", "no reload brings it back"
    printed(shield, "upstream", "up", ONE)
    assert state(shield, ONE) == "up"
    assert answerers(ask_each(shield, names(3))) == {1: 3}


def test_what_waits_for_an_upstream_that_is_taken_down_is_asked_elsewhere(running):
    shield, one, two = running
    (name,) = names(1)
    one.hold()
    try:
        assert ask(shield, name, timeout=0.2) is None
        printed(shield, "upstream", "down", ONE)
        until(lambda: received(two)[name] == 1)
        assert data(ask(shield, name)) == ["192.0.2.2"]
    finally:
        one.let_go()
        printed(shield, "upstream", "up", ONE)


def test_a_rule_is_disabled_over_reloads_until_it_is_enabled(shield):
    assert rcode(ask(shield, "a.ads.test")) == "NXDOMAIN"
    printed(shield, "rules", "disable", "ads")
    assert rcode(ask(shield, "b.ads.test")) == "NOERROR"
    assert told(shield, "reload")["reloaded"]
    assert rcode(ask(shield, "c.ads.test")) == "NOERROR"
    ads, numbers = told(shield, "rules", "list")["rules"]
    assert (ads["name"], ads["enabled"], ads["action"]) == ("ads", False, "nxdomain")
    assert (numbers["name"], numbers["enabled"], numbers["match"]) == ("numbers", True, "regex = ^www[0-9]")
    assert explained(shield, "d.ads.test")["steps"][2]["rules"][0]["verdict"] == "disabled"
    assert told(shield, "config", "show")["steered"]["rules disabled"] == ["ads"]
    printed(shield, "rules", "enable", "ads")
    assert rcode(ask(shield, "e.ads.test")) == "NXDOMAIN"


def test_the_level_of_the_log_is_set_until_it_is_set_back(shield):
    assert told(shield, "log", "level")["level"] == "info"
    printed(shield, "log", "level", "error")
    before = shield.log.count("reloaded")
    assert told(shield, "reload")["reloaded"]
    assert shield.log.count("reloaded") == before
    assert printed(shield, "log", "level", "default") == ["info (configured: info)"]
    assert told(shield, "reload")["reloaded"]
    until(lambda: shield.log.count("reloaded") == before + 1)


def test_what_is_in_force_is_shown_with_what_differs_from_the_default(shield):
    options = {each["key"]: each for each in told(shield, "config", "show")["config"]}
    assert options["forward.policy"] == {
        "key": "forward.policy", "value": "order", "default": "round-robin", "differs": True,
        "origin": "",
    }  # fmt: skip
    assert options["minimal_any"]["differs"] is False
    assert options["zones[0].name"]["value"] == "z.test."
    changed = printed(shield, "config", "show", "--changed")
    assert '* forward.policy = "order" # default: "round-robin"' in changed
    assert all(line.startswith("*") for line in changed)


def test_a_reload_tells_what_became_of_it(shield):
    file = shield.folder / "funkenshield.toml"
    right = file.read_text()
    try:
        file.write_text("workers = 7\n" + right.replace("workers = 1\n", ""))
        done = run(shield, "reload")
        assert (done.exit_code, done.stderr) == (0, "")
        assert lines(done.stdout) == ["warning: workers: the new value takes effect after a restart", "reloaded"]
        file.write_text('minimal_any = "what"\nttl.max = -1\n' + right)
        done = run(shield, "reload")
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.splitlines() == [
            f'funkenshield: reload failed: {file}: minimal_any: "what" is neither true nor false (without quotes)',
            f"funkenshield: reload failed: {file}: ttl.max: -1 is too small; at least 1 s",
        ]
        assert run(shield, "reload", "--json").exit_code == 1
    finally:
        file.write_text(right)
    assert run(shield, "reload").exit_code == 0


# ---------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("upstream down nobody", "no upstream nobody; there are one, two"),
        ("rules disable adds", "no rule adds; did you mean ads?"),
        ("rules enable x", "no rule x"),
        ("explain a..test", "explain: a..test is not a name: A DNS label is empty."),
        ("explain a.test NONSENSE", "explain: NONSENSE is not a type"),
        ("explain a.test A --from here", "explain: here is no address"),
        ("explain a.test A --subnet x/9", "explain: 'x/9' does not appear to be an IPv4 or IPv6 network"),
        (
            "explain a.test A --listener 192.0.2.1:53",
            "explain: there is no listener for queries over udp at 192.0.2.1:53",
        ),
        ("explain a.test A --transport tls", "explain: there is no listener for queries over tls"),
        ("cache lookup a..test", "cache entries: a..test is not a name: A DNS label is empty."),
        ("cache list --type NONSENSE", "cache entries: NONSENSE is not a type"),
        ("purge --name a..test", "cannot purge: a..test is not a name: A DNS label is empty."),
        ("block add 192.0.2.1/99", ""),
        ("cache dump /no/such/folder/file", "/no/such/folder/file: No such file or directory"),
    ],
)
def test_what_is_asked_for_and_is_not_there_gets_one_line(shield, typed, said):
    done = run(shield, *typed.split())
    assert (done.exit_code, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"funkenshield: {said}")


@pytest.mark.parametrize(
    "typed", ["log level loud", "explain", "cache list --limit 0", "upstream", "explain a.test A --transport carrier"]
)
def test_what_is_typed_wrong_is_told(shield, typed):
    done = run(shield, *typed.split())
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Usage: ")


def test_where_nothing_is_to_be_listed_that_is_said(shield):
    assert printed(shield, "block", "list") == ["nobody is blocked"]


@pytest.mark.parametrize("sent", [b"stats", b"{", b"[1]", b"\xff\xfe", b"[" * 60000])
def test_what_is_no_request_is_told_what_one_is(shield, sent):
    assert [each["error"] for each in request(shield, sent)] == [
        "a request must be a JSON object, on a line of its own"
    ]


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"command": "purge"}, "purge: name is missing"),
        ({"command": "purge", "name": 1}, "purge: name must be text"),
        ({"command": "purge", "name": "a.", "belw": True}, "purge: no member belw; there are name, below, type"),
        ({"command": "block add", "prefix": "192.0.2.1", "seconds": True}, "block add: seconds must be a number"),
        ({"command": "log level", "level": "loud"}, "log level: level must be one of debug, info, warning, error or"),
        ({"command": "upstream dwn", "name": "one"}, "no such command; did you mean upstream down"),
        ({"command": 7}, "no such command; commands are stats, failures, top, ready, status, explain, "),
        ({"command": "cache entries", "limit": 0}, "cache entries: limit must be 1 to 200"),
        ({"command": "cache entries", "after": [1]}, "cache entries: after must be what"),
        ({"command": "cache entries", "after": [-1, 0]}, "cache entries: after must be what"),
        ({"command": "explain", "name": "a.", "flags": ["XX"]}, "explain: "),
        ({"command": "stats", "version": 2}, "this daemon speaks version 1 of the protocol, not 2"),
        ([], "a request must be a JSON object"),
    ],
)
def test_a_request_that_is_wrong_gets_one_line(shield, sent, said):
    (response,) = request(shield, json.dumps(sent).encode())
    assert response["ok"] is False
    assert response["error"].startswith(said)
    assert "\n" not in response["error"]
