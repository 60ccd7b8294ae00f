"""The program for interfaces, as the kernel runs it: what it takes for a query of ours, and what it leaves alone."""

import os
import random
import socket
import struct
from contextlib import ExitStack

import pytest
from support import frames
from support.frames import IPV6, SERVICE_TAG, TAG, TCP, UDP
from support.wires import ask_wire

from funkenshield.xdp import bpf

PASS, REDIRECT = 2, 4
VLAN = 5  # that has an interface
AF_XDP, SOL_XDP, RX_RING = 44, 283, 2
V4, V6, CLIENT_6 = ("192.0.2.1", 53), ("2001:db8::1", 53), ("2001:db8::9", 5353)
QUERY = ask_wire("www.example.com")
DATAGRAM, DATAGRAM_6 = frames.udp(QUERY), frames.udp(QUERY, CLIENT_6, V6)
RESPONSE = QUERY[:2] + b"\x81" + QUERY[3:]


def key_of(address, port):
    """Return a listener as the map has it."""
    ip = frames.packed(address)
    return (ip if len(ip) == 16 else bytes(10) + b"\xff\xff" + ip) + struct.pack("!HH", port, 0)


@pytest.fixture(scope="module")
def run(programs):
    """Yield what runs the program, with two listeners and a socket, on a frame, and tells what becomes of it."""
    with ExitStack() as stack:
        maps = {name: bpf.create_map(name, kind) for name, kind in programs.maps.items()}
        program = programs.load("take_queries", maps)
        for fd in (*maps.values(), program):
            stack.callback(os.close, fd)
        taking = stack.enter_context(socket.socket(AF_XDP, socket.SOCK_RAW))
        taking.setsockopt(SOL_XDP, RX_RING, 64)
        bpf.update(maps["vlans"], struct.pack("=I", VLAN), b"\1")
        bpf.update(maps["sockets"], struct.pack("=I", 0), struct.pack("=I", taking.fileno()))

        def run(frame, **state):
            """Return what becomes of a frame; `taking` or `flags` are others meanwhile."""
            bpf.update(maps["state"], bytes(4), struct.pack("=I", state.get("taking", 1)))
            for number, listener in enumerate((V4, V6)):
                value = frames.SHIELD + struct.pack("=BB", number, state.get("flags", 0))
                bpf.update(maps["listeners"], key_of(*listener), value)
            left = bpf.try_out(program, frame)
            assert left.frame == frame
            return left.action

        yield run


def test_what_the_verifier_says_is_told():
    beyond = struct.pack("=BBhi", 0x61, 0x10, 4096, 0) + struct.pack("=BBhi", 0x95, 0, 0, 0)
    made = bpf.Object({"reads": bpf.Program(beyond, {})}, {}, b"GPL")
    with pytest.raises(bpf.ProgramError, match=r"refuses reads: .* invalid bpf_context access off=4096 size=4"):
        made.load("reads", {})


@pytest.mark.parametrize(
    "ways", [{}, {"tags": ((TAG, VLAN),)}, {"tags": ((TAG, 0xA000 | VLAN),)}], ids=["untagged", "tagged", "urgent"]
)
@pytest.mark.parametrize(("client", "server"), [(("192.0.2.9", 5353), V4), (CLIENT_6, V6)], ids=["IPv4", "IPv6"])
def test_a_query_for_a_listener_is_taken(run, client, server, ways):
    assert run(frames.query(QUERY, client, server, **ways)) == REDIRECT
    assert run(frames.query(QUERY[:12], client, server, **ways)) == REDIRECT  # malformed, which is for us to say
    assert run(frames.query(QUERY, client, (server[0], 5300), **ways)) == PASS


def test_what_no_frame_of_a_socket_holds_is_the_kernels(run):
    """Else it would be lost, on a link whose MTU lets it come."""
    for size, action in (1792, REDIRECT), (1793, PASS):
        assert run(frames.query(QUERY.ljust(size - 14 - 20 - 8, b"\0"))) == action


def test_the_sum_of_udp_is_not_asked_for(run):
    """Interfaces of virtual machines and containers leave it to be made by hardware that is not there."""
    datagram = DATAGRAM[:6] + b"\x12\x34" + DATAGRAM[8:]
    assert run(frames.ethernet(frames.ipv4(datagram))) == REDIRECT


OTHERS = {
    "to another address": frames.query(QUERY, server=("192.0.2.2", 53)),
    "to another address, IPv6": frames.query(QUERY, CLIENT_6, ("2001:db8::2", 53)),
    "to another interface": frames.query(QUERY, to=frames.CLIENT),
    "from many interfaces": frames.query(QUERY, source=b"\1" + frames.CLIENT[1:]),
    "to all interfaces": frames.query(QUERY, to=b"\xff" * 6),
    "in another VLAN": frames.query(QUERY, tags=((TAG, 6),)),
    "in no VLAN, but urgent": frames.query(QUERY, tags=((TAG, 0xA000),)),
    "in a VLAN of a VLAN": frames.query(QUERY, tags=((TAG, VLAN), (TAG, VLAN))),
    "in a VLAN of a service's": frames.query(QUERY, tags=((SERVICE_TAG, VLAN), (TAG, VLAN))),
    "in a service's": frames.query(QUERY, tags=((SERVICE_TAG, VLAN),)),
    "a response": frames.query(RESPONSE),
    "shorter than a header": frames.query(QUERY[:11]),
    "TCP": frames.ethernet(frames.ipv4(DATAGRAM, protocol=TCP)),
    "TCP, IPv6": frames.ethernet(frames.ipv6(DATAGRAM_6, following=TCP), IPV6),
    "ARP": frames.ethernet(DATAGRAM, 0x0806),
    "with options": frames.ethernet(frames.ipv4(DATAGRAM, options=b"\1\1\1\0")),
    "a first fragment": frames.ethernet(frames.ipv4(DATAGRAM, fragment=0x2000)),
    "a later fragment": frames.ethernet(frames.ipv4(DATAGRAM, fragment=8)),
    "a wrong sum of IPv4": frames.query(QUERY)[:24] + b"\0\0" + frames.query(QUERY)[26:],
    "IPv4, said to be IPv6": frames.ethernet(frames.ipv4(DATAGRAM), IPV6),
    "IPv6, said to be IPv4": frames.ethernet(frames.ipv6(DATAGRAM_6)),
    "an extension header": frames.ethernet(
        frames.ipv6(struct.pack("!BBHI", UDP, 0, 0x104, 0) + DATAGRAM_6, following=60), IPV6
    ),
    "from port 0": frames.query(QUERY, ("192.0.2.9", 0)),
    "from nowhere": frames.query(QUERY, ("0.0.0.0", 5353)),
    "from loopback": frames.query(QUERY, ("127.0.0.1", 5353)),
    "from many": frames.query(QUERY, ("224.0.0.1", 5353)),
    "from all": frames.query(QUERY, ("255.255.255.255", 5353)),
    "from itself": frames.query(QUERY, (V4[0], 5353)),
    "from itself, IPv6": frames.query(QUERY, (V6[0], 5353), V6),
    "from loopback, IPv6": frames.query(QUERY, ("::1", 5353), V6),
    "from many, IPv6": frames.query(QUERY, ("ff02::1", 5353), V6),
    "to IPv4 in IPv6": frames.query(QUERY, CLIENT_6, (f"::ffff:{V4[0]}", 53)),
    "from IPv4 in IPv6": frames.query(QUERY, ("::ffff:192.0.2.9", 5353), V6),
    "a packet longer than the frame": frames.ethernet(frames.ipv4(DATAGRAM, length=600)),
    "a packet longer than the frame, IPv6": frames.ethernet(frames.ipv6(DATAGRAM_6, length=600), IPV6),
    "a packet shorter than its header": frames.ethernet(frames.ipv4(DATAGRAM, length=10)),
    "a datagram longer than the packet": frames.ethernet(frames.ipv4(frames.udp(QUERY, length=len(QUERY) + 9))),
    "a datagram shorter than its header": frames.ethernet(frames.ipv4(frames.udp(QUERY, length=7))),
}


@pytest.mark.parametrize("frame", OTHERS.values(), ids=OTHERS)
def test_everything_else_is_the_kernels(run, frame):
    assert run(frame) == PASS


def test_nothing_is_taken_while_nobody_takes_it(run):
    assert run(frames.query(QUERY), taking=0) == PASS
    assert run(frames.query(QUERY), taking=1) == REDIRECT


def test_processes_of_this_machine_are_clients_where_they_come_by_the_loopback(run):
    for client, server in (("127.0.0.1", 5353), V4), (("192.0.2.1", 5353), V4), (("::1", 5353), V6):
        assert run(frames.query(QUERY, client, server), flags=2) == REDIRECT


def test_what_frames_say_leads_nowhere(run):
    """Cut, and mutated: it is taken where the frame still says that it is a query for us, and the verdict is sound."""
    rng = random.Random(21)
    whole = [frames.query(QUERY), frames.query(QUERY, tags=((TAG, VLAN),)), frames.query(QUERY, CLIENT_6, V6)]
    for _ in range(2000):
        frame = bytearray(rng.choice(whole))
        for _ in range(rng.randrange(4)):
            frame[rng.randrange(len(frame))] = rng.randrange(256)
        frame = bytes(frame[: rng.randrange(14, len(frame) + 1)])
        if run(frame) == REDIRECT:
            sent = frames.read(frame)
            assert sent.server in (V4, V6)
            assert sent.to == frames.SHIELD
            assert len(sent.payload) >= 12
