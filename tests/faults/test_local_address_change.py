"""Show that nobody notices when our own address changes (DHCP, a VPN): queries go by new sockets, nobody is blamed."""

import contextlib

import pytest
from support.namespace import add_address, in_namespace, ip
from support.path import TRUTH, Arrived, Path, told

from funkenshield.upstream.health import Signals

FAMILIES = {"IPv4": ("10.9.0.", 32, "-4"), "IPv6": ("fd00:9::", 128, "-6")}
families = pytest.mark.parametrize("family", FAMILIES)


class Moving:
    """A shield in a namespace whose upstream is at .1, and that asks it from another address."""

    def __init__(self, stack, family):
        self.net, self.bits, self.version = FAMILIES[family]
        add_address(f"{self.net}1", self.bits)
        ip(f"{self.version} route del local {self.net}1 dev lo table local")
        self._address = 2
        self._take()
        self.path = Path(stack, sockets=4, host=f"{self.net}1")

    def _take(self):
        add_address(f"{self.net}{self._address}", self.bits)
        to = f"local {self.net}1 dev lo table local src {self.net}{self._address}"
        ip(f"{self.version} route replace {to}")

    def move(self):
        """Have another address in place of ours."""
        ip(f"addr del {self.net}{self._address}/{self.bits} dev lo")
        self._address += 1
        self._take()

    def come_back(self):
        """Have a way to the upstream again."""
        self._take()

    def leave(self):
        """Have no way to the upstream any more."""
        ip(f"addr del {self.net}{self._address}/{self.bits} dev lo")
        ip(f"{self.version} route replace unreachable {self.net}1 table local")

    def arrived(self, count):
        """Return so many queries as they arrived, each from our address."""
        came = [self.path.server.recvfrom(512) for _ in range(count)]
        assert {peer[0] for _, peer in came} <= {f"{self.net}{self._address}"}
        self._peers = dict(came)
        return [Arrived(wire, peer[1]) for wire, peer in came]

    def answer(self, *asked):
        for each in asked:
            self.path.server.sendto(told(each, TRUTH), self._peers[each.wire])
            assert self.path.miss_path.receive() == 1

    def assert_served(self, names):
        """Assert that all names are answered, and that this took one try each."""
        counters = self.path.table.counters(0)
        heard = [self.path.client.recv(512)[-4:] for _ in names]
        assert heard == [TRUTH] * len(names)
        assert (
            counters["network_errors"],
            counters["timeouts"],
            Signals(*self.path.table.signals(0)).consecutive_failures,
        ) == (
            0,
            0,
            0,
        )


def moving(story, family):
    def told_story():
        with contextlib.ExitStack() as stack:
            story(Moving(stack, family))

    in_namespace(told_story)


def test_over_ipv4_a_query_goes_by_a_new_socket_at_once():
    def story(here):
        names = here.path.fresh(40)
        here.path.hand_over(*names)
        here.answer(*here.arrived(40))
        here.assert_served(names)
        here.move()
        for _ in range(10):  # whatever sockets are drawn
            here.path.clock.advance(0.2)
            names = here.path.fresh(8)
            here.path.hand_over(*names)
            here.path.miss_path.send()
            here.answer(*here.arrived(8))
            here.assert_served(names)

    moving(story, "IPv4")


@families
def test_what_waits_when_the_address_changes_is_asked_from_the_new_one(family):
    def story(here):
        names = here.path.fresh(40)
        here.path.hand_over(*names)
        here.arrived(40)
        here.move()
        here.path.upstream.follow_source_address(here.path.miss_path.abandon)
        here.path.miss_path.send()
        here.answer(*here.arrived(40))
        here.assert_served(names)
        assert here.path.miss_path.pending_queries == 0

    moving(story, family)


@families
def test_an_update_that_may_have_arrived_is_not_sent_again(family):
    def story(here):
        update = b"\0\7\x28\0\0\1\0\0\0\0\0\0" + b"\4test\0\0\6\0\1"
        here.path.miss_path.settings_writer.set_allowed(updates=((b"\x7f\0\0\0", 8),))
        here.path.hand_over(update)
        here.arrived(1)
        here.move()
        here.path.upstream.follow_source_address(here.path.miss_path.abandon)
        here.path.miss_path.send()
        assert here.path.nothing_arrived()
        here.path.clock.advance(0.1)
        here.path.miss_path.tick()
        assert here.path.client.recv(512)[3] & 15 == 2  # SERVFAIL, at once

    moving(story, family)


def test_where_no_way_leads_there_a_client_is_told_so_in_time_and_the_next_is_served():
    def story(here):
        here.leave()
        here.path.hand_over(*here.path.fresh(4))
        for _ in range(5):
            here.path.clock.advance(0.2)
            here.path.miss_path.send()
            here.path.miss_path.tick()
        assert [here.path.client.recv(512)[3] & 15 for _ in range(4)] == [2] * 4
        assert here.path.table.counters(0)["network_errors"] == 0
        here.come_back()
        here.path.clock.advance(0.2)
        names = here.path.fresh(4)
        here.path.hand_over(*names)
        here.answer(*here.arrived(4))

    moving(story, "IPv4")


def test_an_upstream_that_refuses_is_to_blame():
    def story(here):
        here.path.server.close()
        here.path.hand_over(*here.path.fresh(1))
        here.path.miss_path.receive()
        assert here.path.table.counters(0)["network_errors"] == 1

    moving(story, "IPv4")
