"""Know what ten thousand clients cost over QUIC that say nothing once they are connected: memory, and nobody anything.

SILENT_CLIENTS has another number of them. A handshake costs this client some ten times what it costs a C one.
"""

import os
import time

import dns.message
import pytest
from support.certificates import HOST, Authority
from support.client import Address, free_port
from support.control import stats
from support.encrypted import shown
from support.over_quic import OverQuic
from support.proc import busy, children, descriptors, resident
from support.rig import asked, behind, data, numbered
from support.until import until

pytest.importorskip("qh3")
pytestmark = [pytest.mark.proof, pytest.mark.timeout(1800)]
SILENT = int(os.environ.get("SILENT_CLIENTS", "10000"))
EACH = 64 << 10  # octets
SECONDS, BUSY = 5.0, 0.1  # for so long they are looked at, and of that the process may work at most
A_PREFIX = 50  # of them
ACKNOWLEDGED = 0.03  # seconds after which nothing is under way
IDLE = 600.0  # seconds, longer than it takes to have them all


def source(number):
    """Return the address of a silent client, whose /24 has no more than its share of others'."""
    return f"127.{1 + number // A_PREFIX // 250}.{number // A_PREFIX % 250}.{1 + number % A_PREFIX}"


def test_silent_clients_cost_memory_and_nobody_anything(tmp_path):
    authority, address = Authority(tmp_path), Address("127.0.0.1", free_port())
    listener = {"address": str(address), "transport": "quic", "certificates": [shown(authority.issue(HOST))]}
    options = {"quic": {"max_connections": SILENT + SILENT // 5, "idle_timeout": IDLE}}
    with behind(numbered(1), listeners=[listener], **options) as (shield, _):
        [front] = children(shield.process)
        opened = descriptors(front)

        def connect(source):
            return OverQuic(address, "quic", trusted=authority.file, source=source, idle_timeout=IDLE)

        connect(source(0)).close()
        before = resident(front)
        for number in range(1, SILENT):
            client = connect(source(number))
            client.pump(ACKNOWLEDGED)
            client.close()
        until(lambda: stats(shield)["quic_connections"] == SILENT, within=10.0)
        grown = (resident(front) - before) / SILENT
        worked, began = busy(front), time.monotonic()
        time.sleep(SECONDS)
        worked = (busy(front) - worked) / (time.monotonic() - began)
        print(f"{SILENT} silent clients: {grown / 1024:.1f} KiB each, {worked:.3f} of a core")
        assert grown < EACH
        assert worked < BUSY
        with connect("127.200.0.1") as another:
            reply = another.reply(another.ask(b"\0\0" + asked("a.test").to_wire()[2:]), 10.0)
            assert data(dns.message.from_wire(reply)) == ["192.0.2.1"]
        assert data(shield.udp(asked("a.test"))) == ["192.0.2.1"]
        assert stats(shield)["quic_evicted"] == stats(shield)["quic_refused"] == 0
        assert descriptors(front) == opened
