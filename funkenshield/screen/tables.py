"""The tables of the screen: their columns, what rows are sorted by, which rows are shown.

It knows rows as `shown` makes them, and nothing of where on the screen they stand.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from .shown import Row, Shown, name_of
from .wording import bar, clock, count, duration, latency, percent, plain, rate

BAR = 16  # cells
Text = Callable[[Row, Shown], str]
STATES = {"up": "green", "down": "bold red", "draining": "yellow", "disabled": "yellow"}
LEVELS = {"warning": "yellow", "error": "bold red", "critical": "bold red"}


@dataclass(frozen=True)
class Column:
    """One column: what its cells say, and what rows are sorted by."""

    title: str
    text: Text
    value: Callable[[Row], Any]
    is_number: bool = False
    weight: int = 0  # its part of what is left of the width; 0: as wide as its cells are
    least: int = 0  # cells that the table has; it is left out where it has fewer
    falling: bool = False  # the largest first
    style: Callable[[Row], str] = lambda row: ""


@dataclass(frozen=True)
class Table:
    """Rows of one kind."""

    name: str
    title: str
    columns: tuple[Column, ...]  # those without a title come last, and are not sorted by
    key: Callable[[Row], str]
    empty: str  # what is said where there is no row
    sort: int = 0  # the column that rows are sorted by at first
    style: Callable[[Row], str] = lambda row: ""


@dataclass
class View:
    """How one table is looked at."""

    sort: int
    reverse: bool = False
    wanted: str = ""  # text that rows must have
    selected: str | None = None  # the key of a row; None: the first one, whichever that is


def _named(title: str, key: str = "name", **more: Any) -> Column:  # noqa: ANN401 - as a column has it
    """Return the column of what rows are called."""
    return Column(title, lambda row, _: plain(row[key]), lambda row: str(row[key]).lower(), weight=3, **more)


def _rate(title: str, key: str, **more: Any) -> Column:  # noqa: ANN401 - as a column has it
    return Column(
        title, lambda row, shown: shown.rate(row[key]), lambda row: row[key], is_number=True, falling=True, **more
    )


def _address(row: Row) -> tuple[int, bytes]:
    """Return what addresses are sorted by."""
    try:
        address = ip_address(row["name"])
    except ValueError:
        return 0, b""
    return address.version, address.packed


def _domain(row: Row) -> list[str]:
    """Return what names are sorted by: as in a zone, from the last label on."""
    return str(row["name"]).lower().split(".")[::-1]


def _most(name: str, title: str, head: str, value: Callable[[Row], Any]) -> Table:
    """Return a table of what there is most of."""
    columns = (
        Column(head, lambda row, _: plain(row["name"]), value, weight=1),
        Column("Queries/s", lambda row, _: rate(row["rate"]), lambda row: row["rate"], is_number=True, falling=True),
        Column("Share", lambda row, _: percent(row["share"]), lambda row: row["share"], is_number=True, falling=True),
        Column(
            "", lambda row, _: bar(row["share"], BAR)[0], lambda row: row["share"], least=70, style=lambda _: "cyan"
        ),
    )
    return Table(
        name, title, columns, lambda row: str(row["name"]), "nothing is asked for now", sort=1,
        style=lambda row: "dim" if row["unsure"] else "",
    )  # fmt: skip


def _upstream(row: Row, shown: Shown) -> str:
    """Return what an upstream is called: with the address, where it has several, each of which is a row."""
    return plain(name_of(row, shown.tables["upstreams"]))


def _state_style(row: Row) -> str:
    return next((style for state, style in STATES.items() if row["state"].startswith(state)), "")


def _trouble(key: str, style: str = "bold red") -> Callable[[Row], str]:
    return lambda row: style if row[key] else "dim"


UPSTREAMS = Table(
    "upstreams",
    "Upstreams",
    (
        Column("Upstream", _upstream, lambda row: (str(row["name"]).lower(), row["address"]), weight=3),
        Column("State", lambda row, _: plain(row["state"]), lambda row: (row["up"], -row["queries"]),
               style=_state_style),
        _rate("Queries/s", "queries"),
        Column("Waiting", lambda row, _: count(row["outstanding"]), lambda row: row["outstanding"], is_number=True,
               least=64, falling=True),
        Column("Median", lambda row, _: latency(row["latency"].get("p50")), lambda row: row["latency"].get("p50", 0),
               is_number=True, falling=True),
        Column("p95", lambda row, _: latency(row["latency"].get("p95")), lambda row: row["latency"].get("p95", 0),
               is_number=True, falling=True, least=74),
        Column("Failed/s", lambda row, shown: shown.rate(row["failures"]), lambda row: row["failures"], is_number=True,
               falling=True, style=_trouble("failures")),
        Column("Why", lambda row, _: plain(row["why"]), lambda row: row["why"], weight=2, least=90),
    ),
    lambda row: f"{row['name']} {row['address']}",
    "there is no upstream",
    sort=1,
)  # fmt: skip

RULES = Table(
    "rules",
    "Rules",
    (
        _named("Rule"),
        _rate("Hits/s", "rate"),
        Column("Hits", lambda row, _: count(row["matches"]), lambda row: row["matches"], is_number=True, falling=True),
        Column("Errors", lambda row, _: count(row["errors"]), lambda row: row["errors"], is_number=True, falling=True,
               least=90, style=_trouble("errors")),
        Column("State", lambda row, _: "on" if row["enabled"] else "disabled", lambda row: row["enabled"],
               style=lambda row: "" if row["enabled"] else STATES["disabled"]),
        Column("Does", lambda row, _: plain(row["does"]), lambda row: row["does"], weight=4, least=74),
    ),
    lambda row: str(row["name"]),
    "no rules are configured",
    sort=1,
    style=lambda row: "" if row["enabled"] else "dim",
)  # fmt: skip

BLOCKS = Table(
    "blocks",
    "Blocks",
    (
        _named("Prefix", "prefix"),
        Column("Ends in", lambda row, _: duration(row["seconds"]), lambda row: row["seconds"], is_number=True),
        Column("Does", lambda row, _: plain(row["action"]), lambda row: row["action"], least=50),
        Column("Why", lambda row, _: plain(row["reason"]), lambda row: row["reason"], weight=3),
    ),
    lambda row: str(row["prefix"]),
    "nobody is blocked",
    sort=1,
)

FAILURES = Table(
    "failures",
    "Failures",
    (
        Column("When", lambda row, shown: clock(row["time"], shown.told["time"]), lambda row: row["time"],
               falling=True),
        Column("Question", lambda row, _: plain(f"{row['name']} {row['type']}"), lambda row: row["name"].lower(),
               weight=4),
        Column("Times", lambda row, _: count(row["times"]), lambda row: row["times"], is_number=True, falling=True,
               least=90),
        Column("Upstream", lambda row, _: plain(row["upstream"]) or "none", lambda row: row["upstream"], weight=2,
               least=70),
        Column("Why", lambda row, _: plain(row["text"]), lambda row: row["text"], weight=3),
    ),
    lambda row: f"{row['time']} {row['name']} {row['type']} {row['upstream']}",
    "no client felt a failure",
)  # fmt: skip

CHANGES = Table(
    "changes",
    "Changes",
    (
        Column("When", lambda row, shown: clock(row["time"], shown.told["time"]), lambda row: row["time"],
               falling=True),
        Column("What the daemon logged", lambda row, _: plain(row["text"]), lambda row: row["text"], weight=1,
               style=lambda row: LEVELS.get(row["level"], "")),
    ),
    lambda row: f"{row['time']} {row['text']}",
    "nothing was logged yet",
)  # fmt: skip

TABLES = (
    _most("names", "Names", "Name", _domain),
    _most("clients", "Clients", "Client", _address),
    _most("zones", "Zones", "Zone", _domain),
    UPSTREAMS,
    RULES,
    BLOCKS,
    FAILURES,
    CHANGES,
)


def visible(table: Table, shown: Shown, view: View) -> list[Row]:
    """Return the rows that are wanted, in the order that is wanted."""
    column = table.columns[view.sort]
    rows = [row for row in shown.tables[table.name] if view.wanted.lower() in searched(table, row, shown)]
    return sorted(rows, key=column.value, reverse=column.falling != view.reverse)


def searched(table: Table, row: Row, shown: Shown) -> str:
    """Return the text of a row, in which what is wanted is looked for."""
    return " ".join(column.text(row, shown) for column in table.columns).lower()


def place_of(table: Table, rows: Sequence[Row], view: View) -> int:
    """Return which of the rows is selected; the first, where that one is there no more."""
    keys = [table.key(row) for row in rows]
    return keys.index(view.selected) if view.selected in keys else 0
