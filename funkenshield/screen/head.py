"""The upper part of the screen: who is looked at, the figures that matter, and what is no good."""

from collections.abc import Iterator, Mapping

from rich.console import Group, RenderableType
from rich.text import Text

from .shown import Problem, Shown
from .wording import BAD, FULL, GOOD, REST, bar, count, duration, latency, octets, percent, plain, rate, sparkline

OUTCOMES = {  # as the web page has them: what becomes of queries, and how it is drawn
    "hits": "green", "stale": "yellow", "forwarded": "blue", "coalesced": "cyan", "local": "bright_black",
    "rules": "magenta", "limited": "bright_yellow", "overload": "red", "malformed": "bright_black",
    "failed": "bright_red",
}  # fmt: skip
RCODES = {"NOERROR": "green", "NXDOMAIN": "blue", "SERVFAIL": "bright_red", "REFUSED": "yellow"}
LABEL, VALUE, FIGURE = 11, 9, 8  # cells
ROOMY = 100  # cells of a line in which there is room for all
ALL = 100.0  # percent


def title(shown: Shown | None, place: str, state: str, time: str, width: int) -> Text:
    """Return the line at the top: which daemon this is, and whether it is there: "live", "paused" or else what."""
    name = " FunkenShield"
    if shown is not None:
        version = f" {shown.about['version']}" if width >= ROOMY else ""
        name += f"{version} on {shown.about['host']}, up {duration(shown.told['gauges']['uptime_seconds'])}"
    left, state = Text(plain(f"{name}  {place}")), f" {state} " if state else ""
    left.truncate(max(width - len(state) - len(time) - 2, 0), overflow="ellipsis", pad=True)
    style = {" live ": "black on green", " paused ": "black on yellow"}.get(state, "bold white on red")
    return Text.assemble((left.plain, "reverse"), (state, style), (f" {time} ", "reverse"), no_wrap=True)


def figures(shown: Shown, width: int) -> RenderableType:
    """Return the lines of figures: label, figure, and what else there is to be said of it."""
    return Group(*(
        Text.assemble((label.ljust(LABEL), "bold"), value, "  ", more, no_wrap=True, overflow="ellipsis")
        for label, value, more in _figures(shown, max(width - LABEL - VALUE - 2, 0))
    ))  # fmt: skip


def _figure(text: str, style: str = "bold") -> Text:
    return Text(text.rjust(VALUE), style)


def _figures(shown: Shown, room: int) -> Iterator[tuple[str, Text, Text]]:
    told, gauges = shown.told, shown.told["gauges"]
    outcomes, rates, took = told["outcomes"], told["rates"], told["latency"]
    total = f"{count(told['totals']['queries'])} in all"
    line = sparkline(shown.history, max(room - len(total) - 2, 0))
    yield "Queries", _figure(f"{shown.rate(rates['queries'])}/s"), Text.assemble((line, "cyan"), f"  {total}")

    from_cache = outcomes["hits"] + outcomes["stale"]
    looked_up = from_cache + outcomes["forwarded"] + outcomes["coalesced"] + outcomes["local"]
    ratio = from_cache / looked_up if looked_up else None
    hits, misses = told["totals"]["cache_hits"], told["totals"]["cache_misses"]
    since = f"{percent(hits / (hits + misses))} since the start" if hits + misses else "nothing was looked up yet"
    drawn = _bar(ratio or 0.0, max(room - len(since) - 2, 0), "green")
    yield "From cache", _figure(percent(ratio), "bold green"), Text.assemble(drawn, f"  {since}")

    asked = outcomes["forwarded"]
    more = f"median {latency(took['p50'])}  p95 {latency(took['p95'])}  p99 {latency(took['p99'])}"
    waiting = f"  waiting {count(gauges['outstanding_queries'])}"
    yield "Forwarded", _figure(f"{shown.rate(asked)}/s"), Text(more + waiting)

    failed, code = outcomes["failed"], told["rcodes"].get("SERVFAIL", 0.0)
    more = (
        f"SERVFAIL {shown.rate(code)}  timeouts {shown.rate(told['timeouts'])}  "
        f"limited {shown.rate(outcomes['limited'])}  overload {shown.rate(outcomes['overload'])}"
    )
    yield "Failed", _figure(f"{shown.rate(failed)}/s", "bold bright_red" if failed else "bold"), Text(more)

    share = gauges["cache_bytes"] / gauges["cache_limit_bytes"] if gauges["cache_limit_bytes"] else 0.0
    more = (
        f"  {octets(gauges['cache_bytes'])} of {octets(gauges['cache_limit_bytes'])}, "
        f"{count(gauges['cache_entries'])} entries"
    )
    drawn = _bar(share, max(room - len(more), 0), "blue")
    yield "Cache full", _figure(percent(share)), Text.assemble(drawn, more)


def _bar(share: float, width: int, style: str) -> Text:
    drawn, rest = bar(share, width)
    return Text.assemble((drawn, style), (rest, "bright_black"))


def mixture(shown: Shown, width: int) -> Text:
    """Return what became of queries, as one bar of all colours."""
    drawn, used, upto = Text(), 0, 0.0
    for name, share in _shares(shown.told["outcomes"]):
        upto += share
        cells = round(upto * width) - used
        drawn.append(FULL * cells, OUTCOMES[name])
        used += cells
    return drawn.append(REST * (width - used), "bright_black")


def legend(shown: Shown) -> Text:
    """Return what became of queries, in words: only what there is."""
    words = Text("  ").join(
        Text.assemble((f"{FULL} ", OUTCOMES[name]), f"{name} ", (percent(share), "bold"))
        for name, share in _shares(shown.told["outcomes"])
    )
    if not words:
        words = Text("no queries now" if shown.has_rates else "waiting for the second reading ...", "bright_black")
    words.no_wrap, words.overflow = True, "ellipsis"
    return words


def _shares(counted: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return the share of each, the largest first."""
    total = sum(counted.values())
    found = ((name, value / total) for name, value in counted.items() if value)
    return sorted(found, key=lambda each: -each[1])


def bars(counted: Mapping[str, float], styles: Mapping[str, str], width: int) -> RenderableType:
    """Return a line for each that was counted: its name, its rate, its share, as a bar too."""
    names = max((len(plain(name)) for name in counted), default=0)
    room = max(width - names - 2 * FIGURE - 3, 0)
    return Group(*(
        Text.assemble(
            plain(name).ljust(names), (rate(counted[name]).rjust(FIGURE), "bold"), percent(share).rjust(FIGURE), "  ",
            _bar(share, room, styles.get(name, "cyan")), no_wrap=True, overflow="ellipsis",
        )
        for name, share in _shares(counted)
    ))  # fmt: skip


def problems(found: tuple[Problem, ...], shown: Shown, lines: int) -> RenderableType:
    """Return at most so many lines about what is no good; or one, that all is well."""
    if not found:
        up = len(shown.tables["upstreams"])
        known = "the upstream is in service" if up == 1 else f"all {up} upstreams are in service"
        return Text(f"{GOOD} {known}, no client feels a failure", "green")
    of = {lines: f"({lines} of {len(found)}) "} if len(found) > lines else {}
    return Group(*(
        Text(
            f"{BAD} {of.get(number, '')}{plain(each.text)}", "bold red" if each.grave else "yellow",
            no_wrap=True, overflow="ellipsis",
        )
        for number, each in enumerate(found[:lines], 1)
    ))  # fmt: skip
