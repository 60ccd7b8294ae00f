"""Show that what the page says is what was counted between two readings."""

import pytest
from support.shown import counted, histogram, rule, upstream

from funkenshield.config import Config
from funkenshield.web.overview import LISTED, OUTCOMES, SAMPLE, Reading, overview, sample, zones


def shown(after, before=None, seconds=5.0):
    return overview(Reading(0.0, 1000.0, before or counted()), Reading(seconds, 1000.0 + seconds, after))


def test_rates_are_by_the_time_between_and_each_query_counts_for_one_outcome():
    told = shown(
        counted(
            queries=100, cache_hits=60, stale_answers=10, cache_misses=40, coalesced_queries=15, local_answers=5,
            queries_by_transport={"udp": 75, "tcp": 25}, responses={"udp": {"NOERROR": 90}, "tcp": {"NOERROR": 10}},
        )
    )  # fmt: skip
    assert told["rates"]["queries"] == 20
    assert {name: rate for name, rate in told["outcomes"].items() if rate} == {
        "hits": 10, "stale": 2, "forwarded": 4, "coalesced": 3, "local": 1,
    }  # fmt: skip
    assert sum(told["outcomes"].values()) == 20
    assert (told["transports"], told["rcodes"]) == ({"udp": 15, "tcp": 5}, {"NOERROR": 20})


def test_what_is_not_read_at_the_same_time_is_no_negative_rate():
    assert shown(counted(coalesced_queries=3, cache_misses=1))["outcomes"]["forwarded"] == 0


@pytest.mark.parametrize(
    ("buckets", "told"),
    [
        ({}, {"p50": None, "p95": None, "p99": None}),
        ({"b0": 100}, {"p50": 0.000125, "p95": 0.000237, "p99": 0.000247}),
        ({"b0": 50, "b5": 50}, {"p50": 0.00025, "p95": 0.0095, "p99": 0.0099}),
        ({"b15": 1}, {"p50": 10.0, "p95": 10.0, "p99": 10.0}),
    ],
)
def test_latencies_are_quantiles_of_what_came_between(buckets, told):
    before = counted(cache_miss_latency_histogram=histogram(b7=1000))
    after = counted(cache_miss_latency_histogram=histogram(**{"b7": 1000} | buckets))
    assert shown(after, before)["latency"] == told


def test_upstreams_out_of_service_come_first_and_tables_are_bounded():
    many = {f"u{n}": upstream(f"u{n}", queries=n) for n in range(LISTED * 2)}
    many["down"] = upstream("down", up=0, state="down", timeouts=10, failures={"timeout": 5})
    before = counted(upstreams={"down": upstream("down")})
    rows = shown(counted(upstreams=many, rules={f"r{n}": rule(n) for n in range(LISTED * 2)}), before)
    assert (rows["upstreams"][0]["name"], rows["upstreams"][0]["timeouts"], rows["upstreams"][0]["failures"]) == (
        "down",
        2,
        1,
    )
    assert len(rows["upstreams"]) == len(rows["rules"]) == LISTED
    assert rows["rules"][0] == {"name": f"r{LISTED * 2 - 1}", "matches": LISTED * 2 - 1, "rate": 0, "errors": 0}


def test_rules_stand_in_their_order_where_there_are_not_too_many():
    rows = shown(counted(rules={"b": rule(1), "a": rule(11)}), counted(rules={"b": rule(1), "a": rule(1)}))["rules"]
    assert [(row["name"], row["rate"]) for row in rows] == [("b", 0), ("a", 2)]


def test_a_sample_has_a_number_for_each_column():
    kept = sample(shown(counted(cache_hits=50, cache_entries=7)))
    assert len(kept) == len(SAMPLE)
    assert (kept[SAMPLE.index("hits")], kept[SAMPLE.index("entries")], kept[SAMPLE.index("p50")]) == (10, 7, None)
    assert set(OUTCOMES) - {"malformed"} <= set(SAMPLE)


def test_zones_tell_who_is_asked_and_which_serials_are_known():
    config = Config.model_validate({"zones": [{"name": "a.test", "watch": True}, {"name": "b.test"}]})
    rows = zones(config, {"a.test. 192.0.2.1:53": 7, "a.test. 192.0.2.2:53": 6, "a.test.b.test. x": 1})
    assert rows == [
        {"name": "a.test", "upstreams": "default", "watched": 60.0, "serials": [6, 7]},
        {"name": "b.test", "upstreams": "default", "watched": None, "serials": []},
    ]
