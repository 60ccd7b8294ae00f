"""A hundred thousand queries of all kinds get the same octets by frames as by sockets, of workers and of the kernel.

Each is asked three times: of a listener with sockets, of one whose queries come by frames and whose table in the kernel
is cold, and of that again when it is hot. One in ten comes with the tag of a VLAN, as a frame. TTLs are those that were
sent: else a second goes by in between.
"""

import ctypes
import itertools
import os
import random
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from struct import pack

import pytest
from support import quick
from support.control import request, stats
from support.edns import COOKIE, SUBNET, option, split_opt, with_opt
from support.frames import TAG
from support.in_kernel import PROGRAMS, InKernel
from support.network import as_root
from support.process import run_shield
from support.quick import name_wire
from support.upstream import ScriptedUpstream
from support.wires import record_wire, reply_wire
from xdp.wires import SERVER, SERVER_6, THERE, THERE_6, Wire, listener

from funkenshield.xdp import bpf

COUNT, BATCH, TAGGED = 100_000, 500, 50
VLAN = 5
PIDFD_GETFD = 438  # a system call
HIT = quick.query("hit.test", quick.A)
A, NS, SOA, MX, TXT, AAAA, HTTPS, OTHER = 1, 2, 6, 15, 16, 28, 65, 65280
NAMES = [
    *(f"{kind}{n}.test" for kind in ("a", "many", "no", "large", "alias") for n in range(12)),
    "test", "a.b.c.d.test", ".".join(3 * ["x" * 40]), ".".join(4 * ["y" * 60]),
]  # fmt: skip
TYPES = [A, A, AAAA, TXT, MX, HTTPS, OTHER]
FLAGS = [0x0100, 0x0100, 0, 0x0110, 0x0120, 0x0130, 0x0020]  # RD, CD, AD
OTHER_PORTS = {SERVER: SERVER._replace(port=5300), SERVER_6: SERVER_6._replace(port=5300)}
CLIENT_COOKIE = b"8octets!"

pytestmark = [pytest.mark.proof, pytest.mark.timeout(900), as_root]


def upstream_of(query):
    """Answer as the name says: one record, many, none, more than a datagram has room for, or another name's."""
    rdtype, kind = query.message.question[0].rdtype, query.name.labels[0].lower()
    if kind.startswith(b"no"):
        return reply_wire(query, record_wire(SOA, b"\0\0" + bytes(16) + b"\0\0\1\0"), (0, 1, 0), 0x8403)
    if kind.startswith(b"alias"):
        alias = record_wire(5, b"\x01a\xc0\x0c", 3600) + record_wire(
            rdtype, rdata_of(rdtype, 0), 3600, b"\x01a\xc0\x0c"
        )
        return reply_wire(query, alias, (2, 0, 0), 0x8000)
    count = 16 if kind.startswith(b"many") else 30 + kind[-1] if kind.startswith(b"large") else 1
    records = [record_wire(rdtype, rdata_of(rdtype, k), 3600) for k in range(count)]
    return reply_wire(query, b"".join(records), (count, 0, 0))


def rdata_of(rdtype, number):
    """Return data of a record, of which each number has another."""
    return {
        A: bytes((192, 0, 2, number)), AAAA: bytes(15) + bytes([number]), TXT: b"\4text\1" + bytes([number]),
        MX: bytes((0, number, 0xC0, 12)), HTTPS: bytes((0, 1, 0, 0, 1, 0, 3, 2)) + b"h%c" % number,
    }.get(rdtype, bytes([number]) * 5)  # fmt: skip


def spelled(rng, wire):
    return bytes(each - 32 if 97 <= each <= 122 and rng.randrange(2) else each for each in wire)


def drawn(rng, cookie, *, is_tagged):
    """Return a query of some kind; those that are tagged have no option but a cookie of ours: all go back by frames."""
    name = spelled(rng, name_wire(rng.choice(NAMES)))
    opt = b""
    if rng.random() < 0.6:
        options = b""
        if rng.random() < 0.4:
            options = rng.choice([option(COOKIE, cookie)] if is_tagged else [
                option(3, b""), option(12, bytes(rng.randrange(20))), option(11, b""), option(COOKIE, CLIENT_COOKIE),
                option(COOKIE, cookie), option(SUBNET, b"\0\1\x18\0\xc6\x33\x64"), option(65001, b"x"),
            ])  # fmt: skip
        payload, flags = rng.choice((0, 512, 1232, 4096)), rng.choice((0, 0, 0x8000, 0 if is_tagged else 0x4000))
        opt = b"\0" + pack("!HHIH", 41, payload, flags, len(options)) + options
    head = pack("!6H", rng.getrandbits(16), rng.choice(FLAGS), 1, 0, 0, len(opt) > 0)
    return head + name + pack("!2H", rng.choice(TYPES), 1) + opt


def comparable(reply):
    """Return a reply without the server cookie that is made anew each second."""
    message, options = split_opt(reply)
    if options is None:
        return message, None
    at = options.find(pack("!2H", COOKIE, 24) + CLIENT_COOKIE)
    return (message, options) if at < 0 else (message, options[: at + 12] + options[at + 28 :])


def theirs(pid, kind):
    """Return a descriptor of the map that a process has of some kind."""
    told = {b"map_type": kind.kind, b"key_size": kind.key_size, b"value_size": kind.value_size}
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        words = dict(line.split(b":\t", 1) for line in entry.read_bytes().splitlines() if b":\t" in line)
        if all(words.get(each) == str(number).encode() for each, number in told.items()):
            process = os.pidfd_open(pid)
            taken = ctypes.CDLL(None).syscall(PIDFD_GETFD, process, int(entry.name), 0)
            os.close(process)
            return taken
    raise AssertionError("there is no such map")


def tagged(wire, queries, server):
    """Return what queries with the tag of a VLAN get, as their replies' frames carry it."""
    client = (THERE_6 if server is SERVER_6 else THERE, 5353)
    with wire.raw() as exchange:
        for query in queries:
            sent = exchange(wire.frame(query, client, server, tags=((TAG, VLAN),)))
            assert sent.checked
            assert (sent.tags, sent.to, sent.source) == (((TAG, VLAN),), wire.macs[1], wire.macs[0])
            yield sent.payload


def ask(wire, batch, server):
    """Return what a batch gets by frames, its last ones with tags."""
    plain = len(batch) - TAGGED
    return [*wire.ask_all(batch[:plain], server), *tagged(wire, batch[plain:], server)]


def test_octets_are_those_of_sockets_hot_and_cold():
    rng, came, counted = random.Random(21), Counter(), Counter()
    with ExitStack() as stack:
        wire = stack.enter_context(Wire())
        with wire.far.entered():  # else a veth keeps what the other end's program sends
            stack.callback(os.close, InKernel(stack, PROGRAMS / "queries.bpf.o", "take_queries").attach(wire.name))
        stack.enter_context(wire.near.entered())
        upstream = stack.enter_context(ScriptedUpstream(upstream_of))
        others = f"[[listeners]]\naddress = {[str(each) for each in OTHER_PORTS.values()]}\n"
        frames = listener(wire.name, SERVER, SERVER_6, kernel_answers="true")
        shield = stack.enter_context(run_shield([upstream], toml=f"ttl.serve_original = true\n{frames}{others}"))
        vlans = theirs(shield.process.pid, bpf.Object.read(PROGRAMS / "answers.bpf.o").maps["vlans"])
        stack.callback(os.close, vlans)
        bpf.update(vlans, pack("=I", VLAN), b"\1")
        cookies = {
            server: split_opt(wire.ask(with_opt(HIT, option(COOKIE, CLIENT_COOKIE)), server))[1][4:]
            for server in OTHER_PORTS
        }
        for number, server in zip(range(COUNT // BATCH), itertools.cycle(OTHER_PORTS), strict=False):
            batch = [drawn(rng, cookies[server], is_tagged=k >= BATCH - TAGGED) for k in range(BATCH)]
            wire.ask_all(batch, OTHER_PORTS[server], tcp=True)  # into the cache, also what is too long for a datagram
            expected = [comparable(each) for each in wire.ask_all(batch, OTHER_PORTS[server])]
            request(shield, b'{"command": "purge", "name": "nobody.example"}')  # all of the table is old then
            for state in "cold", "hot":
                before = stats(shield)["kernel_answers"]
                got = [comparable(each) for each in ask(wire, batch, server)]
                counted[state] += stats(shield)["kernel_answers"] - before
                for query, right, other in zip(batch, expected, got, strict=True):
                    assert right == other, (state, number, query.hex())
            came.update(kind for query, (reply, _) in zip(batch, expected, strict=True) for kind in kinds(query, reply))
        print(f"{COUNT} queries, each thrice: {dict(came)}; answered in the kernel: {dict(counted)}")
        assert counted["hot"] > 0.25 * COUNT > 3 * counted["cold"]
        assert min(came[kind] for kind in ("truncated", "NXDOMAIN", "options", "plain OPT", "no OPT", "DO")) > 1000


def kinds(query, reply):
    """Return what is to be told of a query and its reply."""
    options = (split_opt(query)[1] or b"") if query[11] else None
    yield "no OPT" if options is None else "options" if options else "plain OPT"
    if options is not None and query[-len(options) - 4] & 0x80:
        yield "DO"
    if reply[2] & 2:
        yield "truncated"
    if reply[3] & 15 == 3:
        yield "NXDOMAIN"
