"""Show what is made of a daemon's answers: rates since the last seconds, tables, and what somebody should know of."""

import pytest
from support.shown import histogram, rule, upstream
from support.status import UNIX, block, failure, line, most, status

from funkenshield.screen.shown import SPAN, Readings


def shown(*answers):
    """Return what is shown after answers that came a second after each other."""
    readings = Readings()
    return [readings.take(each, at, UNIX + at) for at, each in enumerate(answers)][-1]


def told(**more):
    """Return the problems that are told."""
    return [(each.text, each.grave) for each in shown(status(), status(**more)).problems]


def test_the_first_answer_has_no_rates_and_the_second_has():
    first = shown(status(queries=10_000))
    assert not first.has_rates
    assert first.rate(0.0) == "–"
    assert first.history == ()
    second = shown(status(queries=10_000), status(queries=10_700))
    assert second.has_rates
    assert second.told["rates"]["queries"] == 700
    assert second.history == (700,)


def test_rates_are_of_the_last_seconds_and_history_of_each():
    found = shown(*(status(queries=1000 * n * n) for n in range(8)))
    assert found.told["seconds"] == SPAN
    assert found.told["rates"]["queries"] == pytest.approx(1000 * (49 - 16) / 3)
    assert found.history == tuple(1000 * (2 * n + 1) for n in range(7))


def test_after_a_restart_nothing_is_compared_with_what_was_before():
    found = shown(status(queries=10_000, start_time_seconds=1.0), status(queries=5, start_time_seconds=2.0))
    assert not found.has_rates
    assert found.history == ()


def test_latencies_are_those_of_the_last_seconds():
    before = status(cache_miss_latency_histogram=histogram(b0=1000))
    found = shown(before, status(cache_miss_latency_histogram=histogram(b0=1000, b7=100)))
    assert 0.025 < found.told["latency"]["p50"] < 0.05


def test_what_is_asked_for_most_is_told_per_second_and_as_a_share_of_all():
    top = {
        "seconds": 5.0, "outcomes": {"hit": 900, "forwarded": 100}, "names": most("name", www__example__com=500),
        "clients": [{"client": "192.0.2.1", "queries": 20, "error": 15}],
    }  # fmt: skip
    tables = shown(status(top=top)).tables
    assert tables["names"] == [{"name": "www.example.com", "rate": 100.0, "share": 0.5, "unsure": False}]
    assert tables["clients"] == [{"name": "192.0.2.1", "rate": 4.0, "share": 0.02, "unsure": True}]
    assert tables["zones"] == []


def test_upstreams_have_the_state_that_operators_know():
    one = upstream("one", state="draining (by command)", up=0, why="by command")
    (row,) = shown(status(upstreams=[one]), status(upstreams=[one | {"queries": 50}])).tables["upstreams"]
    assert (row["state"], row["why"], row["queries"], row["up"]) == ("draining (by command)", "by command", 50.0, False)


def test_rules_are_told_with_what_they_do():
    ads = rule(7) | {"name": "ads", "enabled": False, "match": "suffix = ads.test.", "action": "nxdomain"}
    (row,) = shown(status(rules=[ads])).tables["rules"]
    assert (row["matches"], row["enabled"], row["does"]) == (7, False, "suffix = ads.test. -> nxdomain")


def test_other_tables_are_as_the_daemon_says():
    rows = {"failures": [failure("a.test.")], "blocks": [block("192.0.2.0/24")], "log": [line("reloaded")]}
    tables = shown(status(**rows)).tables
    assert (tables["failures"], tables["blocks"], tables["changes"]) == tuple(rows.values())


def test_where_all_is_well_nothing_is_told():
    assert told(upstreams=[upstream("one")], queries=100, cache_hits=100) == []


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"resolution_failures": 9, "failures": [failure("a.test.")]},
         ("9.0 queries/s fail for clients, lately a.test. A: one did not answer in time", True)),
        ({"zone_limit_exceeded": 4}, ("4.0 queries/s are turned away: too many wait already", True)),
        ({"log": [line("reload failed: f.toml: x", "error"), line("reloaded")]},
         ("reload failed: f.toml: x; the configuration before is in force", True)),
        ({"upstreams": [upstream("one"), upstream("two", state="down", up=0, why="5 timeouts")]},
         ("upstream two is down: 5 timeouts", True)),
        ({"upstreams": [upstream("one"), upstream("two", state="draining (by command)", up=0, why="by command")]},
         ("upstream two is draining (by command)", False)),
        ({"upstreams": [upstream("one", tcp_verification_active=1)]},
         ("upstream one: somebody seems to forge its answers; they are verified over TCP", True)),
        ({"tls_certificate_expiry_timestamp_seconds": {"a.pem": UNIX + 1 + 7200}},
         ("certificate a.pem expires in 2 h", False)),
        ({"tls_certificate_expiry_timestamp_seconds": {"a.pem": UNIX - 9}}, ("certificate a.pem has expired", True)),
        ({"steered": {"rules disabled": ["ads"]}}, ("rule ads is disabled by command", False)),
        ({"steered": {"log level": "debug"}}, ("the log's level is debug, by command", False)),
    ],
)  # fmt: skip
def test_what_is_no_good_is_told_in_a_line(more, problem):
    assert told(**more) == [problem]


def test_the_gravest_comes_first():
    problems = told(upstreams=[upstream("one", state="down", up=0, why="5 timeouts")], resolution_failures=1)
    assert problems[0] == ("no upstream is in service: only what is cached is answered", True)
    assert len(problems) == 3


def test_a_reload_that_worked_after_one_that_failed_is_no_problem():
    assert told(log=[line("reloaded"), line("reload failed: x", "error")]) == []


@pytest.mark.parametrize("lacking", ["stats", "top", "upstreams", "log", "steered"])
def test_an_answer_of_another_version_is_an_error_that_can_be_told(lacking):
    answer = status()
    del answer[lacking]
    with pytest.raises((LookupError, TypeError, ValueError, AttributeError)):
        shown(answer)
