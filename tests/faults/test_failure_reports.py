"""Show that what clients feel is told in the log, with upstream, reason and number, and counted by reason."""

import socket

import pytest
from support.control import stats
from support.rig import HASTY, PATIENT, SERVFAIL, ask_each, behind, counters, names, placed, rcodes, silent
from support.until import until
from support.upstream import servfail


class Nobody:
    """A port on which nobody listens, over UDP or TCP."""

    def __init__(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.address = taken.getsockname()


@pytest.mark.parametrize(
    ("upstream", "reason", "told"),
    [
        (silent, "timeout", "timed out"),
        (placed(Nobody()), "connection_refused", "refused the connection"),
        (placed(Nobody(), transport="tcp"), "connection_refused", "refused the connection"),
        (servfail, "servfail", "answered SERVFAIL"),
    ],
    ids=["silent", "refuses UDP", "refuses TCP", "SERVFAIL"],
)
def test_a_query_that_fails_is_told_with_upstream_reason_and_how_many(upstream, reason, told):
    with behind(upstream, forward=HASTY if upstream is silent else PATIENT) as (shield, server):
        assert rcodes(ask_each(shield, names(12))) == {SERVFAIL: 12}
        line = f"query failed: upstream {counters(shield, server)['name']} {told}"
        until(lambda: line in shield.log)
        assert shield.log.count(line) == 1
        counted = counters(shield, server)
        assert counted["client_visible_failures"] == dict.fromkeys(counted["client_visible_failures"], 0) | {reason: 12}
        assert counted["failures"][reason] >= 12
        if reason == "connection_refused":
            assert "timed out" not in shield.log


def test_where_nobody_may_be_asked_that_is_told():
    with behind(placed(silent, state="down")) as (shield, _):
        assert rcodes(ask_each(shield, names(3))) == {SERVFAIL: 3}
        until(lambda: "query failed: no upstream is available" in shield.log)
        assert stats(shield)["no_upstream_available"] == 3
