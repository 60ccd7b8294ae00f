"""Know that a reload disturbs nobody who waits, and that what it says of upstreams is done, and told."""

import threading

from support.control import stats
from support.rig import (
    NOERROR,
    after,
    ask_each,
    behind,
    counters,
    good,
    names,
    numbered,
    placed,
    rcodes,
    silent,
)
from support.until import until
from support.upstream import ScriptedUpstream

from faults.test_policies import reconfigure

FORWARD = {"timeout": 0.6, "deadline": 2.5, "attempts": 3}


class Waiting:
    """Clients who ask for names, and wait for their answers while the context goes on."""

    def __init__(self, shield, asked):
        self.replies = []
        self._shield, self._count = shield, len(asked)
        self._thread = threading.Thread(target=lambda: self.replies.extend(ask_each(shield, asked)))

    def __enter__(self):
        self._thread.start()
        until(lambda: stats(self._shield)["outstanding_queries"] == self._count)
        return self

    def __exit__(self, *_):
        self._thread.join()


def test_another_weight_ends_no_connection():
    once = FORWARD | {"attempts": 1}
    with behind(placed(after(0.6, good), transport="tcp"), forward=once) as (shield, upstream):
        with Waiting(shield, names(5)) as clients:
            reconfigure(shield, [(upstream, {"transport": "tcp", "weight": 2})], forward=once)
        assert rcodes(clients.replies) == {NOERROR: 5}
        assert len(upstream.received) == 5
        assert counters(shield, upstream)["network_errors"] == 0


def test_who_waits_for_a_group_that_ends_is_asked_of_no_other():
    with ScriptedUpstream(silent) as secret, ScriptedUpstream(good) as other:
        zones = [{"name": "secret.a", "upstreams": [str(secret.address)]}]
        with behind(good, forward=FORWARD, zones=zones) as (shield, upstream):
            with Waiting(shield, ["www.secret.a."]):
                zones = [{"name": "public.b", "upstreams": [str(other.address)]}]
                reconfigure(shield, [(upstream, {})], forward=FORWARD, zones=zones)
            assert (secret.count("www.secret.a."), other.received, upstream.received) == (1, [], [])


def test_a_forced_state_is_told():
    with behind(good, numbered(2)) as (shield, first, second):
        reconfigure(shield, [(first, {"state": "down"}), (second, {})])
        until(lambda: "marked down: forced by configuration" in shield.log)
        assert counters(shield, first)["state"] == "down (forced)"
        reconfigure(shield, [(first, {}), (second, {})])
        until(lambda: "marked up: forced by configuration" in shield.log)


def test_random_case_can_be_had_again():
    def lowering(query):
        wire, end = good(query), len(query.wire)
        return wire[:12] + wire[12:end].lower() + wire[end:]

    with behind(placed(lowering, random_case=True)) as (shield, upstream):
        until(lambda: ask_each(shield, names(25)) and "random_case disabled" in shield.log)
        reconfigure(shield, [(upstream, {})])
        upstream.handle = good
        reconfigure(shield, [(upstream, {"random_case": True})])
        before = len(upstream.received)
        ask_each(shield, names(20))
        spelled = [query.name.to_text() for query in upstream.received[before:]]
        assert any(name != name.lower() for name in spelled)
