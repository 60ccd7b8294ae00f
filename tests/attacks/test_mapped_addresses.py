"""Strangers who write their IPv4 address as an IPv6 one (::ffff:a.b.c.d), to be another to an access list or a limit.

It is the same address wherever it comes in: in the header of a front proxy, from a socket, in the configuration.
"""

import json
import socket
import threading
from ipaddress import ip_address

import pytest
from support.client import frame, udp_wire
from support.control import request, stats
from support.proxied import STREAM, told
from support.rig import answering, asked, behind, good
from support.wires import ask_wire

from funkenshield.cache._store import Cache
from funkenshield.config import Config
from funkenshield.config.types import parse_address, parse_endpoint, parse_prefix
from funkenshield.core._clock import Clock
from funkenshield.forward._miss_path import MissPath
from funkenshield.server._listener_table import ListenerTable
from funkenshield.server._udp_worker import Worker

NOERROR, REFUSED = 0, 5
NAME = "www.example.test."
PROXIES = ["127.0.0.1"]
DENIED = {"guard": {"access": {"deny": ["10.0.0.0/8"]}}}
DENIED_MAPPED = {"guard": {"access": {"deny": ["::ffff:10.0.0.0/104"]}}}
DENIED_OTHERS = {"guard": {"access": {"deny": ["::/0", "::fffe:0:0/95"]}}}


def by_udp(shield, source, name=NAME):
    return udp_wire(shield, told(source) + ask_wire(name))


def by_tcp(shield, source, name=NAME):
    with socket.create_connection(shield.address, 5) as sock, sock.makefile("rb") as stream:
        sock.sendall(told(source, transport=STREAM) + frame(ask_wire(name)))
        return stream.read(int.from_bytes(stream.read(2)))


transports = pytest.mark.parametrize("send", [by_udp, by_tcp], ids=["UDP", "TCP"])


@transports
@pytest.mark.parametrize("denied", [DENIED, DENIED_MAPPED], ids=["10/8", "::ffff:10.0.0.0/104"])
def test_a_mapped_address_is_on_the_access_list_of_its_own(denied, send):
    with behind(good, proxy_protocol_from=PROXIES, **denied) as (shield, upstream):
        for source, wanted in {
            "10.1.1.1": REFUSED, "::ffff:10.1.1.1": REFUSED, "::ffff:a01:101": REFUSED,
            "11.1.1.1": NOERROR, "::ffff:11.1.1.1": NOERROR, "::10.1.1.1": NOERROR, "::fffe:10.1.1.1": NOERROR,
            "64:ff9b::10.1.1.1": NOERROR,
        }.items():  # fmt: skip
            assert send(shield, source)[3] & 15 == wanted, source
        assert stats(shield)["acl_denied"] == 3
    assert upstream.count(NAME) == 1


@transports
def test_what_holds_for_ipv6_holds_for_no_mapped_address(send):
    with behind(good, proxy_protocol_from=PROXIES, **DENIED_OTHERS) as (shield, _):
        assert send(shield, "::ffff:10.1.1.1")[3] & 15 == NOERROR
        assert send(shield, "2001:db8::1")[3] & 15 == REFUSED


def test_each_has_a_limit_of_its_own_and_no_second_one():
    limits = [{"queries_per_second": 0.01, "window": 1.0, "action": "refuse"}]
    with behind(good, proxy_protocol_from=PROXIES, guard={"rate_limits": limits}) as (shield, _):
        sources = ["10.1.1.1", "::ffff:10.1.1.1", "::ffff:10.1.1.2", "10.1.1.2", "::ffff:10.1.1.3"]
        assert [by_udp(shield, source)[3] & 15 for source in sources] == [0, REFUSED, 0, REFUSED, 0]


def test_rules_blocks_and_what_is_allowed_go_by_it_too():
    rules = [
        {"match": {"source": "10.1.0.0/16"}, "action": {"answer": "A 192.0.2.81"}},
        {"match": {"source": "::ffff:10.2.0.0/112"}, "action": {"answer": "A 192.0.2.82"}},
    ]
    options = {"proxy_protocol_from": ["::ffff:127.0.0.1"], "rules": rules}

    def command(what, **more):
        return request(shield, json.dumps({"command": what, **more}).encode())

    with behind(answering("192.0.2.1"), forward={"allow": {"updates": ["::ffff:10.3.0.1"]}}, **options) as (shield, _):
        for source in ("10.1.0.1", "10.2.0.1", "10.3.0.1"):
            assert by_udp(shield, f"::ffff:{source}")[-1] == by_udp(shield, source)[-1]
        assert [by_udp(shield, f"::ffff:10.{n}.0.1")[-1] for n in (1, 2, 3)] == [81, 82, 1]
        update = asked("example.test", "SOA", flags="", opcode="UPDATE").to_wire()
        assert [udp_wire(shield, told(f"::ffff:10.{n}.0.1") + update)[3] & 15 for n in (3, 4)] == [NOERROR, REFUSED]
        blocked = {"prefix": "::ffff:10.9.0.0/112", "seconds": 60, "action": "refuse"}
        assert command("block add", **blocked) == [{"ok": True}]
        assert [each["prefix"] for each in command("block list")[0]["blocks"]] == ["10.9.0.0/16"]
        assert [by_udp(shield, source)[3] & 15 for source in ("10.9.0.1", "::ffff:10.9.0.1")] == [REFUSED, REFUSED]
        assert command("block remove", prefix="10.9.0.0/16") == [{"ok": True, "removed": 1}]
        assert by_udp(shield, "::ffff:10.9.0.1")[3] & 15 == NOERROR


def test_from_a_socket_that_serves_both_it_is_ipv4():
    """The daemon has none such, for IPV6_V6ONLY is set; a socket that somebody else has opened may be one."""
    miss_path = MissPath(Cache(4 << 20, Clock()), 16)
    guard = miss_path.settings_writer.guard
    worker = Worker(miss_path.cache, miss_path)
    with (
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as served,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        served.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        served.bind(("::", 0))
        served.setblocking(False)
        worker.follow(ListenerTable([(0, served.fileno(), served.fileno(), None, None)]))
        thread = threading.Thread(target=worker.run)
        thread.start()
        guard.set_access([], [(bytes([127, 0, 0, 0]), 8)])
        client.settimeout(10)
        client.connect(("127.0.0.1", served.getsockname()[1]))
        client.send(ask_wire(NAME))
        reply = client.recv(512)
        worker.stop()
        thread.join()
    assert reply[3] & 15 == REFUSED
    assert worker.counters()["acl_denied"] == 1


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.1.1.1", "10.1.1.1/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::fffe:0:0/95", "::fffe:0:0/95"),
        ("::/0", "::/0"),
        ("::10.0.0.0/104", "::a00:0/104"),
    ],
)
def test_prefixes_of_the_configuration(text, meant):
    assert str(parse_prefix(text)) == meant
    guard = {"access": {"deny": [text]}, "rrl": {"exempt": [text]}}
    zones = [{"name": "x.test", "allow_notify_from": [text]}]
    rules = [{"match": {"source": text}, "action": "drop"}]
    allow = {"transfers": [text], "updates": [text], "notifies": [text]}
    made = Config.model_validate({
        "guard": guard, "zones": zones, "rules": rules, "allow_notify_from": [text],
        "proxy_protocol_from": [text], "forward": {"allow": allow},
    })  # fmt: skip
    found = [
        *made.guard.access.deny, *made.guard.rrl.exempt, *made.zones[0].allow_notify_from, *made.rules[0].match.source,
        *made.allow_notify_from, *made.proxy_protocol_from, *made.forward.allow.transfers, *made.forward.allow.updates,
        *made.forward.allow.notifies,
    ]  # fmt: skip
    assert [str(each) for each in found] == [meant] * 9


def test_addresses_of_the_configuration():
    assert str(parse_endpoint("[::ffff:192.0.2.1]:53")) == "192.0.2.1:53"
    assert str(parse_endpoint("[2001:db8::1]:53")) == "[2001:db8::1]:53"
    for given in ("::ffff:192.0.2.1", ip_address("::ffff:192.0.2.1")):
        assert parse_address(given) == ip_address("192.0.2.1")
    upstream = {"address": "[::ffff:192.0.2.1]:53", "source": "::ffff:192.0.2.9"}
    made = Config.model_validate({"listen": ["[::ffff:127.0.0.1]:5353"], "upstreams": [upstream]})
    assert str(made.listen[0]) == "127.0.0.1:5353"
    assert str(made.upstreams[0].address[0]) == "192.0.2.1:53"
    assert str(made.upstreams[0].source) == "192.0.2.9"


def test_one_address_written_in_two_ways_is_one():
    with pytest.raises(ValueError, match=r"in both allow and deny: 10\.0\.0\.0/8"):
        Config.model_validate(
            {"guard": {"access": {"allow": ["10.0.0.0/8"], "deny": ["::ffff:10.0.0.0/104"]}}},
        )
    with pytest.raises(ValueError, match=r"more than once: 192\.0\.2\.1:53"):
        Config.model_validate({"upstreams": ["192.0.2.1:53", "[::ffff:192.0.2.1]:53"]})
