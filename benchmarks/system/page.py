"""Turn measured figures into a page with charts.

    python -m benchmarks.system.page RESULTS.json [MORE.json ...] docs/benchmarks.md

Charts are written beside the page, into a folder of its name. Later files win where two have the same figures, and
what is of another run than the first file says so.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from .run import middle, ratio
from .servers import FLOORS, NAMES, servers

WIDTH, LEFT, ROW = 720, 130, 24  # of a chart, in pixels
OURS, FLOOR, PEER = "#b5432a", "#b9b9b9", "#5b7a99"

HEAD = """# Benchmarks

**What is biased here.** We wrote the bench, chose the workloads, and set up the peers; we know our own settings best.
All are asked for the same names with caches that hold them all, and none does what it may be better at: validation,
recursion, policies, many cores. FunkenShield and dnsdist pass responses on as they come, with the authority section;
resolvers take answers apart and give shorter ones. Some peers are older than their newest release: they are Debian's.

**What this machine cannot show.** It has two cores, in a virtual machine: one for the server, one for the load and the
nameserver behind. So the load is at times the bound, figures move by a tenth between runs, and nothing is said about
many cores, real networks, or hardware queues. Absolute figures mean nothing elsewhere: compare ratios within this run.
CPU for each query is user and system time of all processes of a server, over the queries it answered; latencies are at
half of the throughput that the same server reached, so they are for different loads, and few rounds say little of p99:
see "The slowest of a hundred hits". Over TCP, TLS and HTTPS, a query's connection and handshake count for it where it
has one of its own; the certificate has an ECDSA key (P-256), clients verify nothing, and over HTTPS they ask by POST.

`make bench` does all of this again, and writes this page. It takes forty minutes.
"""


def load(paths: list[Path]) -> dict[str, Any]:
    """Return the figures of several files together."""
    merged: dict[str, Any] = {}
    told: dict[str, str] = {}  # of which run a workload is; "" stands for all else
    for path in paths:
        run = json.loads(path.read_text())
        about = ", ".join(f"{key} {value}" for key, value in run["machine"].items())
        how = f"{run['rounds']} rounds, each of {run['seconds']:g} s for a figure"
        told |= dict.fromkeys(run["taken"], f"{run['date']}: {how}; {about}.")
        told.setdefault("", next(iter(told.values())))
        for key, value in run.items():
            if value or key not in merged:
                merged[key] = merged[key] | value if isinstance(value, dict) and key in merged else value
    return merged | {"told": told}


def chart(title: str, unit: str, bars: dict[str, tuple[float, float, float]]) -> str:
    """Return an SVG of bars: for each name the median, the least and the most."""
    height = 34 + ROW * len(bars) + 8
    scale = (WIDTH - LEFT - 120) / max(most for _, _, most in bars.values())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="13" role="img" aria-label="{title}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="8" y="20" font-weight="bold" fill="#222222">{title}</text>',
    ]
    for row, (name, (value, least, most)) in enumerate(bars.items()):
        top = 34 + ROW * row
        color = OURS if name == "funkenshield" else FLOOR if name in FLOORS else PEER
        y = top + ROW // 2
        parts += [
            f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end" fill="#222222">{name}</text>',
            f'<rect x="{LEFT}" y="{top + 3}" width="{value * scale:.1f}" height="{ROW - 6}" fill="{color}"/>',
            f'<path d="M{LEFT + least * scale:.1f} {y}H{LEFT + most * scale:.1f}" stroke="#222222"/>',
            f'<text x="{LEFT + most * scale + 6:.1f}" y="{y + 4}" fill="#222222">{value:.2f} {unit}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def table(rows: list[list[str]]) -> str:
    """Return a table whose first row is its head."""
    head, *rest = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rest)) + "\n"


def workload(results: dict[str, Any], which: str, charts: Path) -> str:
    """Return the section of a workload, and write its chart."""
    runs = results["taken"][which]
    costs = {name: [each["us"] for each in taken] for name, taken in runs.items()}
    bars = {name: (statistics.median(each), min(each), max(each)) for name, each in costs.items()}
    title = f"{which}: {results['titles'][which]}"
    (charts / f"{which}.svg").write_text(chart(f"CPU for each query, {title}", "us", bars))
    head = ["", "CPU, us (least - most)", "x floor", "x dnsdist", "queries/s", "lost", "p50", "p99", "p99.9, us"]
    floor = next((name for name in FLOORS if name in runs), "")
    rows = [head]
    for name, taken in runs.items():
        row = [name, f"{bars[name][0]:.2f} ({bars[name][1]:.2f} - {bars[name][2]:.2f})"]
        for other in floor, "dnsdist":
            beside = ratio(results, which, name, other)
            row.append(f"{beside:.2f}" if beside else "")
        row += [f"{middle(taken, 'qps'):,.0f}", f"{middle(taken, 'lost'):.2%}"]
        row += [f"{middle(taken, key):,.0f}" if key in taken[0] else "" for key in ("p50", "p99", "p99.9")]
        rows.append(row)
    told = results["told"][which]
    of = "" if told == results["told"][""] else f"Of another run, {told}\n\n"
    return f"## {title[0].upper()}{title[1:]}\n\n{of}![{title}]({charts.name}/{which}.svg)\n\n{table(rows)}"


def memory(results: dict[str, Any], charts: Path) -> str:
    """Return the section about memory, and write its chart."""
    taken = results["memory"]
    largest = max(taken["funkenshield"], key=int)
    bars = {name: (each[largest],) * 3 for name, each in taken.items()}
    title = f"memory for each of {int(largest):,} entries"
    (charts / "memory.svg").write_text(chart(title, "octets", bars))
    rows = [["octets for an entry", *(f"with {int(count):,}" for count in taken["funkenshield"]), "x dnsdist"]]
    for name, each in taken.items():
        beside = each[largest] / taken["dnsdist"][largest]
        rows.append([name, *(f"{octets:.0f}" for octets in each.values()), f"{beside:.2f}"])
    told = "Resident memory over that of the same process with 1,000 names, for each name."
    return f"## Memory\n\n{told}\n\n![{title}]({charts.name}/memory.svg)\n\n{table(rows)}"


def standing(results: dict[str, Any]) -> str:
    """Return what we want to reach, and where we are."""
    rows = [["", "wanted", "here"]]
    for which, other, wanted in (
        ("hot", "reflect", 1.05), ("hot", "dnsdist", 0.95), ("miss", "relay", 1.4), ("miss", "dnsdist", 0.85),
        ("tcp", "dnsdist", 0.5), ("tcp-one", "streams", 1.15), ("tcp-one", "dnsdist", 0.65), ("tls", "dnsdist", 0.55),
        ("tls-one", "dnsdist", 0.7), ("tls-full", "dnsdist", 1.0), ("tls-resumed", "dnsdist", 1.0),
        ("https", "dnsdist", 0.6), ("https-one", "dnsdist", 0.6), ("https-full", "dnsdist", 1.0),
        ("https-resumed", "dnsdist", 1.0),
    ):  # fmt: skip
        beside = ratio(results, which, "funkenshield", other)
        if beside:
            rows.append([f"CPU for each query, {which}, x {other}", f"{wanted:.2f}", f"{beside:.2f}"])
    taken = {name: list(each.values())[-1] for name, each in results["memory"].items()}
    if "dnsdist" in taken:
        rows.append(["memory for an entry, x dnsdist", "0.50", f"{taken['funkenshield'] / taken['dnsdist']:.2f}"])
    if results["tails"]:
        rows.append(["p99 of a hit at half load, over reflect's", "30 us", f"{over_floor(results, 'funkenshield')} us"])
    return f"## What we want to reach\n\n{table(rows)}"


def over_floor(results: dict[str, Any], name: str) -> str:
    """Return what a server's p99 is over the floor's, turn by turn: the median, the least and the most."""
    tails = results["tails"]
    more = [one - other for one, other in zip(tails[name], tails["reflect"], strict=True)]
    return f"{statistics.median(more):.0f} ({min(more):.0f} - {max(more):.0f})"


def slowest(results: dict[str, Any]) -> str:
    """Return the section about the slowest of a hundred hits."""
    tails = results["tails"]
    rows = [["", "p99, us (least - most)", "over reflect's in the same turn, us (least - most)"]]
    rows += [
        [name, f"{statistics.median(each):.0f} ({min(each):.0f} - {max(each):.0f})", over_floor(results, name)]
        for name, each in tails.items()
    ]
    told = (
        f"1,000 names, at half of what each had just reached. All run, and take {len(tails['reflect'])} turns,\n"
        "so short that most are free of the machine's hiccups, which are larger than what is between two servers."
    )
    return f"## The slowest of a hundred hits\n\n{told}\n\n{table(rows)}"


def check(results: dict[str, Any], other: str, asked: str) -> str:
    """Return the section about the same hits with the load of another program, if there was one."""
    rows = [["", f"us for a hit, with {other}"]]
    rows += [[name, f"{statistics.median(costs):.2f}"] for name, costs in results.get(other, {}).items()]
    told = f"As a check of our own load: {asked}."
    return f"## The same hits, loaded by {other}\n\n{told}\n\n{table(rows)}" if rows[1:] else ""


def page(results: dict[str, Any], charts: Path) -> str:
    """Return the page, and write its charts."""
    known = servers()
    about = [["", "what it is", "version"]]
    for name in (*FLOORS, *NAMES):
        version = results["versions"].get(name, "not installed here: absent")
        about.append([name, (known[name].__doc__ or "").splitlines()[0], version])
    parts = [
        HEAD,
        f"{results['told']['']}\n",
        table(about),
        standing(results),
        *(workload(results, which, charts) for which in results["taken"]),
        *([slowest(results)] if results["tails"] else []),
        memory(results, charts),
        check(results, "dnsperf", "1,000 names"),
        check(results, "h2load", "one name over HTTPS, 20 connections, one query at a time"),
    ]
    return "\n".join(parts)


def main() -> None:
    """Write the page."""
    *sources, target = map(Path, sys.argv[1:])
    if not sources:
        raise SystemExit((__doc__ or "").split("\n\n")[1].strip())
    charts = target.with_suffix("")
    charts.mkdir(exist_ok=True)
    target.write_text(page(load(sources), charts))


if __name__ == "__main__":
    main()
