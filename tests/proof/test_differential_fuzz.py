"""Know that who asks cleanly is answered rightly, whatever other clients and the upstream send meanwhile.

Queries and responses are mutated at once, over UDP and TCP: for dirty names, and for clean ones where they wait alone.
Lies about clean names come with all of that, and unasked. What clean clients get is compared octet by octet with what
is true, but for ID, TTLs and OPT. `make proof` has a minute of it; for half an hour under sanitizers:

    FUNKENSHIELD_SECONDS=1800 tools/sanitized asan -m proof tests/proof/test_differential_fuzz.py

All that is sent comes from a seed, which is printed; FUNKENSHIELD_SEED=N is another one.
"""

import contextlib
import itertools
import json
import os
import signal
import socket
import sys
import threading
import time
import zlib
from collections import Counter, deque
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from random import Random
from struct import pack

import pytest
from rules.changing import write
from support import quick
from support.client import LARGEST, Address, frame
from support.control import request, stats
from support.edns import OPT, SUBNET, option, with_opt
from support.pipeline import ask_all
from support.process import run_shield
from support.rig import toml
from support.server import Received, frames
from support.upstream import Delayed, ScriptedUpstream

from proof import dirt, seconds, truth

SECONDS = seconds(60)
SEED = int(os.environ.get("FUNKENSHIELD_SEED", time.time_ns() % 2**32))
WORKERS = 2
RATE, BURST, CONNECTIONS = 400, 20, 10  # dirty datagrams a second, and at a time; dirty connections a second
BATCH = 50  # clean queries
CLEAN = [f"{kind}{n}.clean." for n in range(8) for kind in truth.KINDS]
DIRTY = [*(f"d{n}.dirty." for n in range(400)), *(8 * CLEAN), ".", "dirty.", "clean.", "*.clean.", "a.none1.clean."]
SERVFAIL, REFUSED = 2, 5
RESET = b"\1\0\0\0\0\0\0\0"  # of SO_LINGER

pytestmark = [pytest.mark.proof, pytest.mark.timeout(SECONDS + 240)]


class Unframed(bytes):
    """What goes over TCP without its length."""


class DirtyUpstream(ScriptedUpstream):
    """A nameserver that tells the truth to who asks for it cleanly, and is beside itself otherwise."""

    def __init__(self):
        super().__init__(self.reply)
        self.sent = Counter()
        self._sources = deque(maxlen=64)
        self._dice = Random(SEED)

    def reply(self, query):
        asked = truth.read(query.wire)
        self.sent["dirty responses" if asked is None else "clean responses"] += 1
        return self._dirty(query) if asked is None else self._clean(query, asked)

    def _clean(self, query, asked):
        """Return the truth: at once, or late, or at once and late."""
        right, scope = truth.answer(asked)
        if query.transport == "udp" and len(right) + 50 > asked.limit:
            right = truth.cut(asked, right)
        if asked.edns_flags is not None:
            told = [option(SUBNET, asked.subnet[:3] + bytes([scope]) + asked.subnet[4:])] if asked.subnet else []
            right = with_opt(right, *told)
        reply, again = query.wire[:2] + right[2:], self._dice.random()
        return Delayed(again, reply) if again < 0.02 else [reply, Delayed(again, reply)] if again < 0.05 else reply

    def _dirty(self, query):
        """Return what comes of this query, with this seed, whenever it is asked in this way."""
        dice = Random(zlib.crc32(query.transport.encode() + query.wire[2:], SEED))
        replies = [dirt.response(dice, query.wire, CLEAN) for _ in range(dice.choice([0, 1, 1, 1, 1, 1, 2]))]
        if query.transport == "udp":
            self._unasked(query, dice)
        elif dice.random() < 0.02:
            replies.append(Unframed(dice.randbytes(dice.choice([1, 2, 3, 100]))))
        return Delayed(dice.random() * 3, replies) if dice.random() < 0.05 else replies

    def _unasked(self, query, dice):
        """Now and then, send a lie, more or less, to a port that was asked from lately."""
        self._sources.append(query.source)
        if dice.random() < 0.2:
            self.sent["unasked responses"] += 1
            lie = quick.answer(quick.query(dice.choice(CLEAN), ident=dice.getrandbits(16)), b"lie")
            self._datagrams.sendto(dirt.mutated(dice, lie, dice.choice([0, 1, 2])), dice.choice(self._sources))

    def _record(self, query):
        """Remember nothing of half an hour."""

    async def stream(self, reader, writer):
        source = Address(*writer.get_extra_info("peername")[:2])

        def send(reply):
            if not writer.is_closing():
                writer.write(reply if isinstance(reply, Unframed) else frame(reply))

        async for wire in frames(reader):
            self._take(Received(wire, "tcp", source), send)
            if self._dice.random() < 0.01:
                break


# ------------------------------------------------------------ what each does until it is over, and counts


def ask_cleanly(shield, over, seed, *, tcp):
    """Ask for what is known, and compare what comes."""
    dice, count, way = Random(seed), Counter(), "TCP" if tcp else "UDP"
    while not over.is_set():
        queries = [clean_query(dice) for _ in range(BATCH)]
        for query, reply in zip(queries, ask_all(shield, queries, tcp=tcp), strict=True):
            if reply[3] & 15 in (SERVFAIL, REFUSED):
                count["failed"] += 1
                continue
            try:
                truth.assert_right(query, reply, tcp=tcp)
            except Exception as wrong:
                raise AssertionError(f"{wrong}\nover {way}: {query.hex()}\ncame: {reply.hex()}") from wrong
            count[f"compared over {way}"] += 1
    return count


def clean_query(dice):
    """Return a query, with or without EDNS, for a name in some spelling that was asked for before, or never."""
    name = dice.choice(CLEAN)
    if dice.random() < 1 / 3:
        name = f"{name.split('.')[0]}-{dice.getrandbits(40):x}.clean."
    flags = dice.choice([0, quick.RD, quick.RD, quick.RD | 0x10])
    wire = quick.query(name, dice.choice([quick.TXT, quick.TXT, quick.TXT, quick.A]), flags=flags)
    wire = wire[: dirt.HEADER] + dirt.other_case(dice, wire[dirt.HEADER : -4]) + wire[-4:]
    with_subnet = name.startswith("net") or dice.random() < 0.1
    if not with_subnet and dice.random() < 0.5:
        return wire
    options = option(SUBNET, bytes([0, 1, 24, 0, 10, 0, dice.randrange(16)])) if with_subnet else b""
    size, flags = dice.choice([512, 1232, 4096]), dice.choice([0, 0, 0x8000, 0x4000])
    return wire[:10] + b"\0\1" + wire[12:] + b"\0" + pack("!2HIH", OPT, size, flags, len(options)) + options


def send_datagrams(shield, over, seed):
    """Send dirty queries over UDP, from three networks, and look at the size of what comes back."""
    dice, count = Random(seed), Counter()
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(3)]
        for number, sock in enumerate(socks):
            sock.bind((f"127.9.{number}.9", 0))
            sock.connect(shield.address)
            sock.setblocking(False)
        while not over.wait(BURST / RATE):
            sock = dice.choice(socks)
            for _ in range(BURST):
                sock.send(dirt.query(dice, DIRTY))
            count["dirty queries over UDP"] += BURST
            with contextlib.suppress(BlockingIOError):
                while True:
                    reply = sock.recv(LARGEST)
                    assert reply[2] & 0x80
                    assert len(reply) <= truth.PAYLOAD
                    count["responses to them"] += 1
    return count


def send_streams(shield, over, seed):
    """Send dirty queries over connections that end in any way, some with wrong lengths, some cut."""
    dice, count = Random(seed), Counter()
    while not over.wait(1 / CONNECTIONS):
        queries = [dirt.query(dice, DIRTY) for _ in range(dice.choice([1, 5, 20]))]
        octets = b"".join(map(frame, queries))
        if dice.random() < 0.3:
            octets = dirt.other_octets(dice, octets.ljust(dirt.HEADER, b"\0"))
        count["dirty queries over TCP"] += len(queries)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.9.3.9", 0))
            sock.settimeout(0.05)
            sock.connect(shield.address)
            sock.sendall(octets[: len(octets) - dice.choice([0, 0, 0, 1, 15])])
            if dice.random() < 0.3:
                sock.shutdown(socket.SHUT_WR)
            if dice.random() < 0.3:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            while dice.random() < 0.7 and sock.recv(LARGEST):
                pass
    return count


def operate(shield, over, upstream):
    """Purge, look at the counters, and reload."""
    listen, count = [str(address) for address in shield.addresses], Counter()
    for number in itertools.takewhile(lambda _: not over.wait(0.5), itertools.count()):
        purge = {"name": CLEAN[number % len(CLEAN)]} if number % 20 else {"name": "clean", "below": True}
        assert request(shield, json.dumps({"command": "purge"} | purge).encode()) == [{"ok": True}]
        assert stats(shield)["queries"]
        count["purges"] += 1
        if number % 4 == 0:
            told = toml(listen=listen, workers=WORKERS, **settings(number // 4, upstream))
            write(shield.folder / "funkenshield.toml", told)
            shield.process.send_signal(signal.SIGHUP)
    return count


def settings(number, upstream):
    """Return a configuration; what clean clients get is the same in all of them."""
    allowed = [["127.9.0.0/16"], []][number % 2]
    return {
        "upstreams": [{"address": str(upstream.address), "random_case": number % 4 > 1}],
        "forward": {
            "spoof_threshold": [0, 3][number % 2],
            "allow": {"transfers": allowed, "updates": allowed, "notifies": allowed},
        },
        "ttl": {"failure": 1},
        "stale": {"mode": ["on-failure", "immediate", "off"][number % 3]},
        "cookies": {"mode": ["off", "serve"][number % 2]},
        "minimal_any": bool(number % 2),
        "zones": [{"name": name, "nxdomain_cut": True, "aggressive_nsec": True} for name in ("clean", "dirty")],
        "rules": [{"chain": "responses", "match": {"suffix": f"d{number}.dirty"}, "action": "nxdomain"}],
    }


@pytest.fixture
def quick_turns():
    """Let threads take turns so often that none of them makes the upstream slow."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("quick_turns")
def test_who_asks_cleanly_is_answered_rightly_whatever_others_send():
    print(f"FUNKENSHIELD_SEED={SEED}")
    over = threading.Event()
    with (
        DirtyUpstream() as upstream,
        run_shield([], workers=WORKERS, toml=toml(**settings(0, upstream))) as shield,
        ThreadPoolExecutor() as pool,
    ):
        jobs = [
            pool.submit(ask_cleanly, shield, over, SEED + 1, tcp=False),
            pool.submit(ask_cleanly, shield, over, SEED + 2, tcp=True),
            pool.submit(send_datagrams, shield, over, SEED + 3),
            pool.submit(send_streams, shield, over, SEED + 4),
            pool.submit(operate, shield, over, upstream),
        ]
        wait(jobs, SECONDS, FIRST_EXCEPTION)
        over.set()
        wait(jobs)
        assert shield.process.poll() is None, shield.log
        count = sum((job.result() for job in jobs), upstream.sent)
        told = stats(shield)
    print(dict(count))
    print(
        {
            key: told[key]
            for key in (
                "queries",
                "cache_hits",
                "cache_misses",
                "uncached_queries",
                "resolution_failures",
                "malformed_queries",
                "reloads",
            )
        }
    )
    print(told["upstreams"][str(upstream.address)])
    assert min(count["compared over UDP"], count["compared over TCP"]) > 10 * SECONDS
    # Who shares three connections, one after the other, with what breaks them, is told of a failure.
    assert count["failed"] < 0.01 * (count["compared over UDP"] + count["compared over TCP"])
    assert told["cache_hits"] > SECONDS
    assert told["reloads"] > SECONDS / 10
