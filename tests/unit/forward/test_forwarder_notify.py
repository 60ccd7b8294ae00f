"""Show that a NOTIFY is answered, and gives its place back, whatever goes wrong with its upstreams."""

import asyncio
import contextlib
from ipaddress import ip_network
from unittest.mock import Mock

import dns.message
import dns.opcode
import pytest
from dns.rcode import SERVFAIL
from support.path import LOOPBACK, Path

from funkenshield.config import ForwardSection
from funkenshield.forward.forwarder import Forwarder
from funkenshield.upstream.pool import Upstreams


class Broken:
    """An upstream with a fault of ours."""

    async def exchange(self, *_, **__):
        raise ZeroDivisionError


def notify(ident):
    query = dns.message.make_query("zone.test.", "SOA", flags=0, id=ident)
    query.set_opcode(dns.opcode.NOTIFY)
    return query.to_wire()


@pytest.mark.parametrize("groups", [{}, {0: [Broken()]}], ids=["no group any more", "a fault"])
def test_a_notify_that_nobody_can_be_asked_gets_servfail_and_gives_its_place_back(groups):
    async def story():
        for ident in range(3):  # of which one at a time may be passed on
            path.hand_over(notify(ident))
            forwarder.dispatch()
            for _ in range(10):
                await asyncio.sleep(0)
            answer = dns.message.from_wire(path.client.recv(512))
            assert (answer.id, answer.opcode(), answer.rcode()) == (ident, dns.opcode.NOTIFY, SERVFAIL)

    with contextlib.ExitStack() as stack:
        path = Path(stack)
        path.miss_path.settings_writer.set_allowed(notifies=[(bytes([127, 0, 0, 0]), 8)])
        upstreams = Upstreams(path.miss_path.sockets, path.table, path.clock, path.miss_path.abandon)
        upstreams.groups = groups
        forwarder = Forwarder(path.miss_path, upstreams, Mock(), lambda _: True)
        forwarder.configure(ForwardSection(max_uncached=1), {}, {0: [ip_network(f"{LOOPBACK}/32")]})
        asyncio.run(story())
