"""Numbers, times and strangers' text, as a screen shows them: in few cells, and harmless."""

import time
from collections.abc import Sequence

NONE = "–"  # where there is nothing to be told
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
SPANS = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))


SPARK, FULL, HALF, REST = " ▁▂▃▄▅▆▇█", "━", "╸", "─"  # what bars are drawn with
GOOD, BAD, FALLING, RISING = "✔", "▲", "▼", "▲"
ASCII = str.maketrans("▁▂▃▄▅▆▇█━╸─✔▲▼╭╮╰╯│┃┏┓┗┛…–", ".:-=+*#@==-*^v++++||++++~-")


def plain(text: object) -> str:
    """Return text with what steers a terminal, turns text round or is not seen escaped."""
    return "".join(each if each.isprintable() else _escaped(each) for each in str(text))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def rate(value: float | None) -> str:
    """Return a rate in three or four digits."""
    if value is None:
        return NONE
    if value >= 1e6:
        return f"{value / 1e6:.2f} M"
    if value >= 1e5:
        return f"{value / 1e3:,.0f} k"
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 0.095 else f"{value:.2f}" if value else "0"


def count(value: int) -> str:
    """Return how many, as they are counted or in millions."""
    return f"{value / 1e9:,.2f} G" if value >= 1e9 else f"{value / 1e6:,.1f} M" if value >= 1e7 else f"{value:,}"


def percent(share: float | None) -> str:
    """Return a share of 1 in percent."""
    return NONE if share is None else f"{100 * share:.0f} %" if share >= 0.9995 else f"{100 * share:.1f} %"


def latency(seconds: float | None) -> str:
    """Return a short time in three digits."""
    if not seconds:
        return NONE
    if seconds >= 0.9995:
        return f"{seconds:.1f} s"
    thousandths = seconds * 1000
    return f"{thousandths:.{0 if thousandths >= 99.5 else 1 if thousandths >= 9.95 else 2}f} ms"


def duration(seconds: float) -> str:
    """Return a long time in its two largest units."""
    for unit, size, smaller, part in SPANS:
        if seconds >= size:
            rest = int(seconds % size // part)
            return f"{int(seconds // size)} {unit} {rest} {smaller}" if rest else f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def octets(value: float) -> str:
    """Return how much memory."""
    power = 0
    while value >= 1024 and power < len(UNITS) - 1:
        value, power = value / 1024, power + 1
    return f"{value:.1f} {UNITS[power]}" if power and value < 99.95 else f"{value:.0f} {UNITS[power]}"


def clock(unix: float, now: float) -> str:
    """Return a time of day; of another day, the day too."""
    then, today = time.localtime(unix), time.localtime(now)
    return time.strftime("%H:%M:%S" if then[:3] == today[:3] else "%d %b %H:%M", then)


def bar(share: float, width: int) -> tuple[str, str]:
    """Return a bar of so many cells, and what is left of them."""
    halves = round(min(max(share, 0.0), 1.0) * 2 * width)
    drawn = FULL * (halves // 2) + HALF * (halves % 2)
    return drawn, REST * (width - len(drawn))


def sparkline(values: Sequence[float], width: int) -> str:
    """Return the last values, each in a cell, the largest of them as high as it can be."""
    shown = values[-width:] if width > 0 else ()
    top = max(shown, default=0.0)
    steps = len(SPARK) - 1
    heights = (max(round(each / top * steps), 1) if each > 0 else 0 for each in shown)
    return "".join(SPARK[each] for each in heights).rjust(width)


def as_ascii(text: str) -> str:
    """Return what is drawn, for a terminal that knows nothing but ASCII."""
    return text.translate(ASCII).encode("ascii", "replace").decode()
