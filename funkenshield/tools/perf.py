"""Measure how fast a DNS server answers: queries from a file, a load for some seconds, a report.

It knows data files, what a run is and how its figures are read by people; the packets are `_loadgen`'s.
Measuring prints nothing unless it is given a console.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..errors import FunkenShieldError
from ._loadgen import Load

SLICE = 0.25  # seconds between two looks at the clock and two drawings of the live line
COUNTS = ("sent", "answered", "lost", "outstanding", "late", "mismatched", "refused", "truncated", "octets")
PERCENTILES = (50, 90, 95, 99, 99.9)


class Report(NamedTuple):
    """What a run measured: sent = answered + lost + outstanding, where that is 0 unless it was cut short."""

    sent: int
    answered: int
    lost: int
    outstanding: int
    late: int  # responses to queries that count as lost
    mismatched: int  # datagrams that answer no outstanding query: a wrong ID or question, a duplicate
    refused: int  # ICMP errors: nobody listens on the port
    truncated: int
    octets: int  # of all answers
    seconds: float  # from the first query to the last query or answer
    qps: float  # answers per second
    rcodes: Mapping[str, int]
    latency: Mapping[str, float]  # milliseconds: min, mean, p50 to p99.9 (within 1.6 %), max


def read_queries(path: str, *, edns: bool = False, dnssec: bool = False) -> list[bytes]:
    """Return the queries of a data file, or of standard input if the path is `-`: see `make_queries`."""
    source = "stdin" if path == "-" else path
    try:
        with nullcontext(sys.stdin) if path == "-" else open(path, encoding="utf-8") as lines:
            return make_queries(lines, edns=edns, dnssec=dnssec, rd=True, source=source)
    except UnicodeDecodeError:
        raise FunkenShieldError(f"{source}: not UTF-8 text") from None
    except OSError as error:
        raise FunkenShieldError(f"{source}: {error.strerror}") from None


def make_queries(lines: Iterable[str], *, edns: bool, dnssec: bool, rd: bool, source: str = "data") -> list[bytes]:
    """Return one query message, with ID 0, for each line `name type`.

    Blank lines and those that start with `#` or `;` are skipped. `dnssec` sets the DO bit, which implies
    EDNS. Raises FunkenShieldError with `source:line:` for a line that is no query, and if there is none.
    """
    flags = dns.flags.RD if rd else 0
    model = dns.message.make_query(
        dns.name.root, "A", flags=flags, id=0, use_edns=edns or dnssec, want_dnssec=dnssec
    ).to_wire()
    header, tail = model[:12], model[15:]  # between them: the root's one octet and the two of the type
    queries = []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields or fields[0][0] in "#;":
            continue
        try:
            queries.append(header + _name_and_type(fields) + tail)
        except ValueError as error:
            raise FunkenShieldError(f"{source}:{number}: {error}") from None
    if not queries:
        raise FunkenShieldError(f"{source}: no queries")
    return queries


def _name_and_type(fields: list[str]) -> bytes:
    if len(fields) != 2:
        raise ValueError(f"expected a name and a type, not {' '.join(fields)!r}")
    name, rdtype = fields
    try:
        code = dns.rdatatype.from_text(rdtype)
    except (dns.exception.DNSException, ValueError):
        raise ValueError(f"unknown type {rdtype!r}") from None
    try:
        wire = dns.name.from_text(name).to_wire() or b""  # None only if it writes to a file
    except (dns.exception.DNSException, ValueError) as error:
        raise ValueError(f"bad name {name!r}: {error}") from None
    return wire + code.to_bytes(2, "big")


def run_perf(
    queries: Sequence[bytes],
    server: str,
    port: int,
    seconds: float,
    *,
    window: int = 100,
    rate: float = 0.0,
    limit: int = 0,
    timeout: float = 5.0,
    console: Console | None = None,
) -> Report:
    """Load a server (an IPv4 or IPv6 address) and return what was measured; print it if given a console.

    At most `window` queries are outstanding, `rate` a second are sent (0: as fast as the window lets) and
    `limit` in all (0: until the seconds are over). Raises FunkenShieldError if that cannot be done.
    """
    try:
        load = Load(queries, server, port, window=window, rate=rate, limit=limit, timeout=timeout)
        with _live_line(console) as draw:
            report = measure(load, seconds, draw)
    except (ValueError, OSError) as error:
        raise FunkenShieldError(f"cannot load {server} port {port}: {error}") from None
    if console is not None:
        console.print(to_text(report), markup=False, highlight=False, soft_wrap=True)
    return report


def measure(load: Load, seconds: float, draw: Callable[[str], None] | None = None) -> Report:
    """Run a load for so many seconds, wait for what is then outstanding, and report; Ctrl-C ends either early."""
    end = time.monotonic() + seconds
    before = load.snapshot()
    with suppress(KeyboardInterrupt):
        while (left := end - time.monotonic()) > 0 and load.run(min(left, SLICE)):
            if draw is not None:
                now = load.snapshot()
                draw(f"{_pace(before, now):9,.0f} queries/s, {now['lost']:,} lost, {left:.0f} s to go")
                before = now
    with suppress(KeyboardInterrupt):
        load.drain()
    return _report(load)


def to_text(report: Report) -> str:
    """Return the report as lines for people."""
    rows = [("queries sent", f"{report.sent:,}")]
    rows += [(name, _share(getattr(report, name), report.sent)) for name in COUNTS[1:-1]]
    rows += [
        ("run time", f"{report.seconds:.3f} s"),
        ("queries/s", f"{report.qps:,.0f}"),
        *((f"latency {name}", f"{value:.3f} ms") for name, value in report.latency.items()),
        *((f"rcode {name}", _share(count, report.answered)) for name, count in report.rcodes.items()),
    ]
    return "\n".join(f"{name:<16}{value}" for name, value in rows)


def _share(count: int, whole: int) -> str:
    return f"{count:,} ({count / whole:.2%})" if count else "0"


def _pace(before: dict[str, Any], now: dict[str, Any]) -> float:
    """Return the answers per second between two snapshots, of which the first may be from before the run."""
    spent = now["ended"] - max(before["ended"], now["began"])
    return (now["answered"] - before["answered"]) / spent * 1e9 if spent else 0.0


def _report(load: Load) -> Report:
    now = load.snapshot()
    answered = now["answered"]
    latency = {"min": now["least"] / 1e6, "mean": now["total"] / max(answered, 1) / 1e6}
    latency |= {f"p{percent}": load.percentile(percent) / 1e6 for percent in PERCENTILES}
    latency["max"] = now["most"] / 1e6
    return Report(
        **{name: now[name] for name in COUNTS},
        seconds=(now["ended"] - now["began"]) / 1e9,
        qps=_pace({**now, "answered": 0, "ended": 0}, now),
        rcodes={dns.rcode.to_text(dns.rcode.Rcode(code)): n for code, n in enumerate(now["rcodes"]) if n},
        latency=latency if answered else dict.fromkeys(latency, 0.0),
    )


@contextmanager
def _live_line(console: Console | None) -> Iterator[Callable[[str], None] | None]:
    """Yield what redraws the progress line, or None where no person is looking."""
    if console is None or not console.is_terminal:
        yield None
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda line: live.update(Text(line), refresh=True)
