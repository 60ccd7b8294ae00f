"""A listener whose queries come from an interface, as its clients on the other end of a wire find it."""

import contextlib
import re
import signal
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import frames, quick
from support.client import udp_wire
from support.control import stats
from support.edns import COOKIE, option, split_opt, with_opt
from support.frames import IPV6, SERVICE_TAG, TAG, UDP
from support.process import run_shield
from support.rig import numbered
from support.upstream import ScriptedUpstream
from support.wires import ask_wire, record_wire, reply_wire

from xdp.wires import HERE, HERE_6, SERVER, SERVER_6, THERE, THERE_6, Wire, counted, listener

BOTH = pytest.mark.parametrize("server", [SERVER, SERVER_6], ids=["IPv4", "IPv6"])
LARGE = 2000  # octets, which the link takes in no one packet
HIT = quick.query("hit.test", quick.A)
LOOPBACK = SERVER._replace(host="127.0.0.1")


def upstream_of(query):
    """Answer with an address; largely where the name says so."""
    if query.name.labels[0] == b"large":
        return reply_wire(query, record_wire(65280, bytes(LARGE)))
    return numbered(1)(query)


@pytest.fixture(scope="module")
def wire():
    with Wire() as laid:
        yield laid


@pytest.fixture(scope="module")
def shield(wire):
    """Yield a shield that has the question HIT in its cache."""
    with wire.near.entered(), ScriptedUpstream(upstream_of) as upstream:
        toml = f"udp.max_payload = 4096\n{listener(wire.name, SERVER, SERVER_6, LOOPBACK)}"
        with run_shield([upstream], toml=toml) as running:
            wire.ask(HIT)
            yield running


@BOTH
def test_a_hit_is_answered_by_a_frame(wire, shield, server):
    with counted(shield, wire, received=1, sent=1):
        assert wire.ask(HIT, server)[-4:] == b"\xc0\0\2\1"


@BOTH
def test_a_miss_is_answered_by_the_socket(wire, shield, server):
    with counted(shield, wire, received=1, sent=0):
        assert wire.ask(quick.query(f"miss{len(server.host)}.test", quick.A), server)[-4:] == b"\xc0\0\2\1"


@pytest.mark.parametrize(
    ("client", "server"), [((THERE, 5353), SERVER), ((THERE_6, 5353), SERVER_6)], ids=["IPv4", "IPv6"]
)
def test_a_frame_goes_back_as_it_came(wire, shield, client, server):
    with wire.raw() as exchange, counted(shield, wire, received=1, sent=1):
        came = exchange(wire.frame(HIT, client, server))
    assert came.checked
    assert (came.to, came.source) == (wire.macs[1], wire.macs[0])
    assert (came.client, came.server, came.tags, came.hops) == (server, client, (), 64)
    assert came.payload[-4:] == b"\xc0\0\2\1"


@pytest.mark.parametrize("tags", [((TAG, 5),), ((SERVICE_TAG, 7), (TAG, 5))], ids=len)
def test_who_is_in_a_vlan_that_has_no_interface_here_is_nobody(wire, shield, tags):
    with wire.raw() as exchange, counted(shield, wire, received=0, sent=0):
        assert exchange(wire.frame(HIT, tags=tags), within=0.5) is None


@BOTH
def test_who_has_no_cookie_gets_one_by_a_route(wire, shield, server):
    """By a frame, a neighbour would learn the cookie of whomever he names."""

    def ask(cookie, **counts):
        with counted(shield, wire, received=1, **counts):
            reply = wire.ask(with_opt(HIT, option(COOKIE, cookie)), server)
        assert HIT[12:] in reply
        return split_opt(reply)[1][4:]

    theirs = b"8octets!"
    cookie = ask(theirs, sent=0)
    assert (cookie[:8], len(cookie)) == (theirs, 24)
    assert ask(cookie, sent=1) == cookie
    assert len(ask(cookie[:-1] + bytes([cookie[-1] ^ 1]), sent=0)) == 24
    for forged in theirs, cookie:
        address = "192.0.2.77" if server is SERVER else "2001:db8::77"
        query = with_opt(HIT, option(COOKIE, forged))
        with wire.raw() as exchange, counted(shield, wire, received=1, sent=0):
            assert exchange(wire.frame(query, (address, 5353), server), within=0.3) is None


def test_those_without_a_cookie_cost_others_nothing(wire, shield):
    """Replies by both ways, in whatever order, lose no frame for later ones."""
    queries = [with_opt(HIT, option(COOKIE, b"8octets!")), HIT, quick.query("nothing.test", quick.A)] * 2000
    wire.ask(queries[2])
    with counted(shield, wire, received=6000, sent=4000):
        assert all(each[3] & 15 == 0 for each in wire.ask_all(queries, at_once=64))


def test_a_short_answer_has_a_whole_frame(wire, shield):
    """FORMERR for a header alone: less than an Ethernet frame must have."""
    with wire.raw() as exchange, counted(shield, wire, received=1, sent=1):
        assert exchange(wire.frame(HIT[:12])).payload == HIT[:2] + b"\x81\x01" + bytes(8)


def test_what_is_no_plain_query_comes_by_the_socket(wire, shield):
    datagram = frames.udp(HIT, (THERE, 5353), SERVER)
    for packet in (
        [frames.ipv4(datagram, THERE, HERE, options=b"\1\1\1\0")],
        [frames.ipv4(datagram[:24], THERE, HERE, fragment=0x2000), frames.ipv4(datagram[24:], THERE, HERE, fragment=3)],
    ):
        with wire.raw() as exchange, counted(shield, wire, received=0, sent=0):
            *first, last = (frames.ethernet(each, **wire.ways()) for each in packet)
            assert all(exchange(each, within=0) is None for each in first)
            assert exchange(last).payload[-4:] == b"\xc0\0\2\1"
    options = struct.pack("!BBHI", UDP, 0, 0x104, 0)
    behind = frames.ipv6(options + frames.udp(HIT, (THERE_6, 5353), SERVER_6), THERE_6, HERE_6, following=60)
    with wire.raw() as exchange, counted(shield, wire, received=0, sent=0):
        assert exchange(frames.ethernet(behind, IPV6, **wire.ways())).payload[-4:] == b"\xc0\0\2\1"


def test_nobody_reaches_the_loopback_by_a_wire(wire, shield):
    with wire.near.entered():
        assert udp_wire(LOOPBACK, HIT)[-4:] == b"\xc0\0\2\1"
    with wire.raw() as exchange, counted(shield, wire, received=0, sent=0):
        assert exchange(wire.frame(HIT, server=LOOPBACK), within=0.5) is None


def test_tcp_is_as_ever(wire, shield):
    with counted(shield, wire, received=0, sent=0):
        assert [each[-4:] for each in wire.ask_all([HIT], tcp=True)] == [b"\xc0\0\2\1"]


def test_many_clients_of_both_families_at_once(wire, shield):
    """Frames for several listeners come in one batch; each gets its own answers, and none is lost."""
    queries = [HIT, quick.query("nothing.test", quick.A)] * 2000
    wire.ask_all(queries[:2])

    def asked(server):
        return [each[-4:] for each in wire.ask_all(queries, server, at_once=64)]

    before = stats(shield)["listener_messages"]
    with ThreadPoolExecutor(4) as pool, counted(shield, wire, received=16000, sent=16000):
        for answers in pool.map(asked, [SERVER, SERVER_6] * 2):
            assert answers == [b"\xc0\0\2\1"] * 4000
    after = stats(shield)["listener_messages"]
    assert [after[str(each)] - before[str(each)] for each in (SERVER, SERVER_6)] == [8000, 8000]


def test_what_no_frame_holds_is_truncated(wire, shield):
    query = ask_wire("large.test", "TYPE65280", payload=4096)
    assert len(wire.ask(query)) > LARGE, "a miss is answered by the socket, in fragments"
    with counted(shield, wire, received=1, sent=1):
        reply = wire.ask(query)
    assert reply[2] & 2, "TC=1"
    assert [len(each) > LARGE for each in wire.ask_all([query], tcp=True)] == [True]


def without_it(shield, interface, why):
    """Show that a shield at port 5300 serves by sockets, and says why in one line."""
    assert re.findall(r"WARNING +(.*)", shield.log) == [f"{HERE}:5300: served by sockets alone: {interface}: {why}"]
    assert stats(shield)["xdp_attached"] == {interface: 0}


ELSEWHERE = SERVER._replace(port=5300)


def test_two_shields_have_no_interface_together(wire, shield):
    toml = listener(wire.name, ELSEWHERE)
    with wire.near.entered(), ScriptedUpstream(numbered(2)) as upstream, run_shield([upstream], toml=toml) as second:
        without_it(second, wire.name, "another program has its queues")
        with counted(shield, wire, received=0, sent=0):
            assert wire.ask(HIT, ELSEWHERE)[-4:] == b"\xc0\0\2\2"


@pytest.mark.parametrize(
    ("lacking", "wanted"), [("-net_raw", "CAP_NET_RAW"), ("-bpf,-sys_admin", "CAP_BPF and CAP_NET_ADMIN")]
)
def test_a_shield_without_privileges_says_which_it_wants(wire, lacking, wanted):
    toml = listener("lo", ELSEWHERE, generic_xdp="true")
    under = ("setpriv", f"--bounding-set={lacking}", "--")
    with (
        wire.near.entered(),
        ScriptedUpstream(numbered(2)) as upstream,
        run_shield([upstream], toml=toml, under=under) as second,
    ):
        without_it(second, "lo", f"that takes {wanted}, which this process does not have")
        assert wire.ask(HIT, ELSEWHERE)[-4:] == b"\xc0\0\2\2"


@pytest.mark.parametrize(
    ("interface", "why"),
    [("nowhere0", "there is no such interface"),
     ("lo", "its driver runs no programs (generic_xdp = true has the kernel do it)")],
)  # fmt: skip
def test_an_interface_that_cannot_is_told(wire, interface, why):
    toml = listener(interface, ELSEWHERE)
    with wire.near.entered(), ScriptedUpstream(numbered(2)) as upstream, run_shield([upstream], toml=toml) as second:
        without_it(second, interface, why)


class _KilledError(Exception):
    pass


def test_a_shield_that_is_killed_leaves_nothing():
    def is_attached():
        return "prog/xdp" in laid.near.run("ip", "link", "show", "dev", laid.name)

    with (
        contextlib.suppress(_KilledError),
        Wire() as laid,
        laid.near.entered(),
        ScriptedUpstream(numbered(2)) as upstream,
        run_shield([upstream], toml=listener(laid.name, SERVER)) as doomed,
    ):
        assert is_attached()
        doomed.process.send_signal(signal.SIGKILL)
        doomed.process.wait()
        assert not is_attached()
        raise _KilledError  # or a clean exit would be asked for
