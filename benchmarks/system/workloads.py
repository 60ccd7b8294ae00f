"""What is asked: names from a fixed seed, the same in each run, and the zone that has them."""

import itertools
import random
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ZONE = "bench.example"
HOT = 1_000
MANY = 100_000
MILLION = 1_000_000
SIGNED = 1_050  # octets of a record that looks like a signature: with an address, a response has 1,200 octets


@dataclass(frozen=True)
class Streams:
    """Twenty connections, each with so many outstanding queries, and replaced after so many answers; 0: never.

    They are over "tcp", "tls" or "https"; a handshake takes up the session of the connection before, where `resumed`.
    """

    over: str
    open: int
    each: int = 0
    resumed: bool = False


@dataclass(frozen=True)
class Workload:
    """A stream of queries; `warm` names were asked before. Where each is for one use, no pass may be repeated."""

    title: str
    warm: list[str]
    asked: list[str]
    floor: str = "reflect"
    dnssec: bool = False
    streams: Streams | None = None
    once: bool = False

    def wires(self, names: Iterable[str]) -> list[bytes]:
        """Return queries for A; with `dnssec`, with DO set and room for 4,096 octets."""
        head = struct.pack("!6H", 0, 0x0100, 1, 0, 0, self.dnssec)
        tail = struct.pack("!2H", 1, 1) + (struct.pack("!BHHIH", 0, 41, 4096, 0x8000, 0) if self.dnssec else b"")
        below = "".join(f"{chr(len(label))}{label}" for label in ZONE.split(".")).encode() + b"\0"
        return [
            head + b"".join(bytes([len(each)]) + each.encode() for each in name.split(".")) + below + tail
            for name in names
        ]

    def write(self, path: Path) -> Path:
        """Write the queries as a data file."""
        path.write_text("".join(f"{name}.{ZONE} A\n" for name in self.asked))
        return path


def workloads(misses: int) -> dict[str, Workload]:
    """Return all workloads by name; so many queries there are in those that can be asked once."""
    dice = random.Random(2011)
    hot = [f"h{number}" for number in range(HOT)]
    many = [f"u{number:06}" for number in range(MANY)]
    denied = hot[: HOT * 7 // 10] + [f"x{number}.none" for number in range(HOT * 3 // 10)]
    signed = [f"s{number}.signed" for number in range(HOT)]
    weights = list(itertools.accumulate(1 / rank for rank in range(1, MILLION + 1)))
    zipf = [f"z{rank:06}" for rank in dice.choices(range(MILLION), cum_weights=weights, k=misses)]
    warm = sorted(set(zipf))
    for k in range(0, misses, 10):
        zipf[k + dice.randrange(min(10, misses - k))] = f"n{k:06}"
    for each in many, denied, signed:
        dice.shuffle(each)
    fresh = [f"m{number:07}{'abcdefghijklmno'[: dice.randrange(16)]}" for number in range(misses)]  # of many lengths
    return {
        "hot": Workload("1,000 names", hot, hot),
        "uniform": Workload("100,000 names, each as often", many, many),
        "zipf": Workload("Zipf over 1,000,000 names, a tenth of them misses", warm, zipf, once=True),
        "miss": Workload("all misses, names of 16 lengths", [], fresh, floor="relay", once=True),
        "denied": Workload("1,000 names, three in ten NXDOMAIN", denied, denied),
        "signed": Workload("1,000 names, answers of 1,200 octets with signatures", signed, signed, dnssec=True),
        **_over_streams(hot),
    }


def _over_streams(hot: list[str]) -> dict[str, Workload]:
    """Return the workloads over connections; the floor of those over HTTPS would have to speak HTTP."""
    kinds = {
        "tcp": ("20 connections, each with 20 queries", Streams("tcp", 20)),
        "tcp-one": ("20 connections, one query at a time", Streams("tcp", 1)),
        "tcp-each": ("a connection for each query", Streams("tcp", 1, 1)),
    }
    for over in "tls", "https":
        kinds |= {
            over: ("20 connections, each with 20 queries", Streams(over, 20)),
            f"{over}-one": ("20 connections, one query at a time", Streams(over, 1)),
            f"{over}-full": ("a connection and a handshake for each query", Streams(over, 1, 1)),
            f"{over}-resumed": ("a resumed session for each query", Streams(over, 1, 1, resumed=True)),
        }
    return {
        which: Workload(
            f"1,000 names over {streams.over.upper()}, {title}",
            hot, hot, floor="" if streams.over == "https" else "streams", streams=streams,
        )
        for which, (title, streams) in kinds.items()
    }  # fmt: skip


def write_zone(path: Path) -> None:
    """Write the zone of all these names: a wildcard, names without one, and addresses that look signed."""
    dice = random.Random(2011)
    signature = "13 2 300 20400101000000 20200101000000 4711 bench.example."
    lines = [
        f"$ORIGIN {ZONE}.\n$TTL 86400\n@ SOA ns mail 1 3600 600 86400 300\n@ NS ns\nns A 127.0.0.1\n* A 192.0.2.1",
        "none A 192.0.2.2",
        f"@ DNSKEY 257 3 13 {'A' * 88}\n@ RRSIG DNSKEY {signature} {'A' * 88}",  # so that signatures are sent
    ]
    for number in range(HOT):
        octets = "".join(dice.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=4 * SIGNED // 3))
        lines.append(f"s{number}.signed A 192.0.2.3\ns{number}.signed RRSIG A {signature} {octets}")
    path.write_text("\n".join(lines) + "\n")
