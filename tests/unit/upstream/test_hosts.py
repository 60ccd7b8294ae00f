"""Upstreams by host name: looked up where nobody waits, followed as addresses change, never the shield itself."""

import asyncio
import logging
import socket
import threading

import pytest

from funkenshield.config import Config, Endpoint, load
from funkenshield.config.schema import ADDRESSES_MAX
from funkenshield.core._limits import MEMBERS_MAX
from funkenshield.upstream import hosts
from funkenshield.upstream.hosts import RETRY, URGENT, Hosts, nameservers, system_lookup

HOST = Endpoint("ns1.test", 53)
INTERVAL = 60.0
ONE, TWO = "192.0.2.1", "192.0.2.2"


def at(*addresses):
    return tuple(Endpoint(each, 53) for each in addresses)


class Story:
    """Hosts whose names are looked up in `known`, by a clock of our own."""

    def __init__(self, known, **config):
        self.now, self.changes, self.asked, self.known = 0.0, 0, [], known
        self.config = Config.model_validate({"upstreams": ["ns1.test:53"]} | config)
        self.hosts = Hosts(lambda: self.now, self._changed, self._itself_at, self._lookup)
        self.hosts.configure(self.config)

    def _changed(self):
        self.changes += 1

    def _itself_at(self, endpoint):
        return endpoint if endpoint.host == "127.0.0.1" else None

    def _lookup(self, place):
        self.asked.append(place)
        found = self.known[place.host]
        if isinstance(found, Exception):
            raise found
        return found

    async def pass_time(self, seconds, down=()):
        """Let so many seconds pass, with a look each second; return how often a name was looked up."""
        before = len(self.asked)
        for _ in range(round(seconds)):
            self.now += 1
            self.hosts.housekeeping(set(down))
            if waited := [host.looking for host in self.hosts._hosts.values() if host.looking]:
                await asyncio.wait(waited, timeout=5)
        return len(self.asked) - before


def told(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 20))


def test_a_name_is_looked_up_at_the_start_and_after_each_interval_and_what_changes_is_told():
    story = Story({"ns1.test": [TWO, ONE, ONE]})

    async def run():
        assert story.hosts.addresses == {HOST: ()}
        await story.hosts.look_up_new(story.config)
        assert story.hosts.addresses == {HOST: at(ONE, TWO)}
        await story.hosts.look_up_new(story.config)
        assert (len(story.asked), story.changes) == (1, 1)
        story.known["ns1.test"] = [ONE, TWO]  # in another order
        assert await story.pass_time(INTERVAL) == 1
        assert story.changes == 1
        story.known["ns1.test"] = [TWO]
        assert await story.pass_time(INTERVAL) == 1
        assert story.hosts.addresses == {HOST: at(TWO)}
        assert story.changes == 2

    told(run())


def test_what_cannot_be_resolved_is_told_once_and_tried_again_and_keeps_its_addresses(caplog):
    story = Story({"ns1.test": socket.gaierror(-2, "Name or service not known")})

    async def run():
        await story.hosts.look_up_new(story.config)
        assert (story.hosts.addresses, story.hosts.failing) == ({HOST: ()}, 1)
        assert await story.pass_time(RETRY) == 1
        assert await story.pass_time(14) == 3  # 3, 7 and 15 seconds after the first
        story.known["ns1.test"] = [ONE]
        await story.pass_time(INTERVAL)
        assert (story.hosts.addresses, story.hosts.failing) == ({HOST: at(ONE)}, 0)
        for nothing in OSError("no network"), [], UnicodeError("label too long"):
            story.known["ns1.test"] = nothing
            assert await story.pass_time(INTERVAL) >= 1
            assert story.hosts.addresses == {HOST: at(ONE)}
        assert story.changes == 1

    with caplog.at_level(logging.INFO, hosts.log.name):
        told(run())
    assert caplog.messages == [
        "upstream ns1.test:53 cannot be resolved: Name or service not known; it is not queried until it can be",
        "upstream ns1.test:53 resolved: 192.0.2.1:53",
        "upstream ns1.test:53 cannot be resolved: no network; its last addresses stay in use",
    ]


def test_a_host_that_is_down_is_looked_up_soon_but_not_all_the_time():
    story = Story({"ns1.test": [ONE]})

    async def run():
        await story.hosts.look_up_new(story.config)
        assert await story.pass_time(URGENT - 1, at(ONE)) == 0
        assert await story.pass_time(1, at(ONE)) == 1
        assert await story.pass_time(2 * URGENT, at(ONE)) == 2
        assert await story.pass_time(2 * URGENT, at(TWO)) == 0

    told(run())


def test_nobody_waits_for_a_name_that_takes_long(monkeypatch):
    monkeypatch.setattr(hosts, "WAIT", 0.01)
    may_end = threading.Event()

    async def run():
        story = Story({"ns1.test": [ONE]})
        lookup = story.hosts._lookup
        story.hosts._lookup = lambda place: may_end.wait(10) and lookup(place)
        await story.hosts.look_up_new(story.config)
        assert story.hosts.addresses == {HOST: ()}
        for _ in range(100):
            story.now += 1
            story.hosts.housekeeping(set())  # no second look-up meanwhile
        may_end.set()
        assert await story.pass_time(1) == 1
        assert story.hosts.addresses == {HOST: at(ONE)}

    told(run())


def test_where_no_thread_can_be_had_it_is_tried_again(monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    async def run():
        story = Story({"ns1.test": [ONE]})
        with monkeypatch.context() as patched:
            patched.setattr("threading.Thread.start", refuse)
            await story.hosts.look_up_new(story.config)
        assert story.hosts.addresses == {HOST: ()}
        await story.pass_time(RETRY)
        assert story.hosts.addresses == {HOST: at(ONE)}

    told(run())


def test_the_shield_itself_is_left_out_and_that_is_told_once(caplog):
    story = Story({"ns1.test": ["127.0.0.1", "::ffff:192.0.2.1"]})

    async def run():
        await story.hosts.look_up_new(story.config)
        await story.pass_time(2 * INTERVAL)
        assert story.hosts.addresses == {HOST: at(ONE)}

    told(run())
    assert caplog.messages == [
        "upstream ns1.test:53: 127.0.0.1:53 left out: it is the shield itself, listening on 127.0.0.1:53"
    ]


def test_a_reload_keeps_what_is_known_and_forgets_names_that_are_gone():
    story = Story({"ns1.test": [ONE], "ns2.test": [TWO]})

    async def run():
        await story.hosts.look_up_new(story.config)
        new = Config.model_validate({"upstreams": ["ns1.test:53", "ns2.test:53"]})
        await story.hosts.look_up_new(new)
        story.hosts.configure(new)
        assert story.hosts.addresses == {HOST: at(ONE), Endpoint("ns2.test", 53): at(TWO)}
        story.hosts.configure(Config.model_validate({"upstreams": ["ns2.test:53"]}))
        assert story.hosts.addresses == {Endpoint("ns2.test", 53): at(TWO)}
        assert len(story.asked) == 2

    told(run())


def test_the_nameservers_of_this_machine_are_followed_at_once(tmp_path, monkeypatch):
    file = tmp_path / "resolv.conf"
    file.write_text("# nameserver 192.0.2.9\nsearch test\nnameserver 192.0.2.1 # one\nnameserver nobody\n")
    monkeypatch.setattr(hosts, "FILE", file)

    async def run():
        story = Story({}, upstreams="resolv.conf")
        story.hosts._lookup = system_lookup
        (place,) = story.config.host_names
        assert str(place) == "resolv.conf"
        await story.hosts.look_up_new(story.config)
        assert story.hosts.addresses == {place: at(ONE)}
        file.write_text("nameserver 192.0.2.2\nnameserver 192.0.2.1\n")
        await story.pass_time(1)
        assert story.hosts.addresses == {place: at(ONE, TWO)}
        file.unlink()
        await story.pass_time(1)
        assert story.hosts.addresses == {place: at(ONE, TWO)}

    told(run())


def test_nameservers_are_what_the_file_says():
    text = "nameserver\t::1\n;nameserver 192.0.2.1\noptions edns0\nnameserver fe80::1%eth0\nnameserver\n"
    assert nameservers(text) == ["::1", "fe80::1%eth0"]


# ------------------------------------------------------------ what the configuration makes of addresses

TABLES = """
zones = [{ name = "a.test", upstreams = ["ns3.test:5353", "192.0.2.9:53"] }, { name = "b.test", group = "tls" }]

[[upstreams]]
address = ["192.0.2.8:53", "ns1.test:53"]

[[upstreams]]
address = "ns2.test:853"
transport = "tls"
tls.server_name = "ns2.test"
groups = "tls"
source = "127.0.0.1"
"""


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "f.toml"
    file.write_text(TABLES)
    return load(file)


def test_upstreams_are_where_their_names_are_and_are_called_by_them(config):
    assert list(map(str, config.host_names)) == ["ns1.test:53", "ns2.test:853", "ns3.test:5353"]
    resolved = config.resolved(
        {
            HOST: at(ONE, "2001:db8::1"),
            Endpoint("ns2.test", 853): (Endpoint(TWO, 853), Endpoint("2001:db8::2", 853)),
            Endpoint("ns3.test", 5353): (Endpoint(ONE, 5353),),
        }
    )
    assert list(map(str, resolved.members("default"))) == [
        "192.0.2.8:53", "ns1.test:53 (192.0.2.1:53)", "ns1.test:53 ([2001:db8::1]:53)",
    ]  # fmt: skip
    assert list(map(str, resolved.members("tls"))) == [
        "tls://ns2.test:853#ns2.test from 127.0.0.1 (192.0.2.2:853)",  # from there, nothing else can be reached
    ]
    a, b = resolved.zones
    assert list(map(str, resolved.upstreams_of(a))) == ["ns3.test:5353 (192.0.2.1:5353)", "192.0.2.9:53"]
    assert resolved.upstreams_of(b) == resolved.members("tls")
    assert resolved.host_names == []
    assert len(config.host_names) == 3


def test_what_has_no_address_yet_is_not_asked(config):
    resolved = config.resolved({})
    assert list(map(str, resolved.all_upstreams)) == ["192.0.2.8:53", "192.0.2.9:53"]
    assert resolved.members("tls") == ()


def test_so_many_addresses_as_fit_are_asked():
    many = at(*(f"192.0.2.{number}" for number in range(1, 101)))
    config = Config.model_validate({"upstreams": "ns1.test:53"})
    assert len(config.resolved({HOST: many}).all_upstreams) == ADDRESSES_MAX
    names = [f"ns{number}.test:53" for number in range(20)]
    config = Config.model_validate({"upstreams": [*names, "192.0.3.1:53"]})
    everywhere = {
        place: tuple(each._replace(port=1000 + number) for each in many)
        for number, place in enumerate(config.host_names)
    }
    assert MEMBERS_MAX / 2 < len(config.resolved(everywhere).all_upstreams) <= MEMBERS_MAX


def test_without_names_a_configuration_is_what_it_was():
    config = Config()
    assert config.resolved({}) is config
