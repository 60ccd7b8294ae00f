"""One frame: where on a screen of any size everything stands, what is selected, and the line that is typed.

On a large screen all tables are seen; on a small one, the table that is looked at.
"""

from dataclasses import dataclass

from rich import box
from rich.align import Align
from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table as Grid
from rich.text import Text

from .head import OUTCOMES, RCODES, bars, figures, legend, mixture, problems, title
from .shown import Problem, Row, Shown
from .tables import TABLES, Table, place_of, visible
from .viewer import Viewer
from .wording import FALLING, RISING, clock, plain

WIDE, HIGH = 120, 40  # cells from which on all tables are seen at once
ROWS_AT_ONCE = (("names", "clients", "zones"), ("upstreams", "rules"), ("changes", "failures", "blocks"))
SIDE_MAX = 46  # cells of a panel beside the figures
HEAD, PROBLEMS = 12, 4  # lines
SHEET_ROWS = 10  # of each table, where all are printed
HELP = (
    ("1 - 8, Tab, left, right", "look at another table"),
    ("up, down, PgUp, End", "select a row; it stays selected. Home: the first"),
    ("Enter", "show a row as a whole"),
    ("e", "explain why a name is answered as it is"),
    ("/", "show only rows with a text; Esc: all again"),
    ("s, S", "sort by the next column; the other way round"),
    ("Space", "pause: the daemon is asked nothing"),
    ("n", "look at the next daemon, where several run"),
    ("q, Ctrl-C", "quit"),
    ("", ""),
    ("p", "purge the name, or the zone and all below it"),
    ("b", "block a client or a prefix for some time"),
    ("d, D", "drain an upstream, take it down; d: disable a rule"),
    ("u", "give back an upstream, enable a rule, unblock"),
    ("r", "read the configuration again"),
    ("", "these ask first, and show what the daemon answers"),
)
HINTS = {  # keys that the last line tells, by table
    "names": ("e explain", "p purge"), "zones": ("p purge",), "clients": ("b block",),
    "blocks": ("b block", "u unblock"), "upstreams": ("d drain", "D down", "u up"),
    "rules": ("d disable", "u enable"), "failures": ("e explain", "p purge"),
    "changes": (),
}  # fmt: skip
ALWAYS = ("/ filter", "s sort", "Space pause", "r reload", "h help", "q quit")


@dataclass(frozen=True)
class Daemon:
    """Which daemon is looked at, and whether it answers."""

    place: str  # of its socket
    number: int = 1
    known: int = 1  # daemons
    gone: str = ""  # why it does not answer
    since: float = 0.0  # Unix time
    now: float = 0.0


@dataclass(frozen=True)
class Look:
    """What a terminal can show."""

    width: int
    height: int
    colours: bool = True


def frame(viewer: Viewer, daemon: Daemon, look: Look) -> RenderableType:
    """Return all that is seen."""
    place = daemon.place if daemon.known == 1 else f"{daemon.place} ({daemon.number} of {daemon.known}, n: next)"
    state = "not reachable" if daemon.gone else "paused" if viewer.paused else "live"
    layout = Layout()
    layout.split_column(
        Layout(title(viewer.shown, place, state, clock(daemon.now, daemon.now), look.width), size=1),
        Layout(_body(viewer, daemon, look)),
        Layout(_last_line(viewer, look), size=1),
    )
    return layout


def _body(viewer: Viewer, daemon: Daemon, look: Look) -> RenderableType:
    if viewer.helping:
        return _help()
    shown = viewer.shown
    if shown is None:
        told = f"{daemon.place} does not answer: {daemon.gone}" if daemon.gone else "asking the daemon ..."
        return Align.center(Text(plain(told), justify="center"), vertical="middle")
    if viewer.explained:
        return Padding(Text("\n".join(map(plain, viewer.explained)), overflow="fold"), (1, 2))
    if viewer.opened is not None:
        return _opened(viewer.table, viewer.opened, shown)
    gone = (Problem(f"no answer since {clock(daemon.since, daemon.now)} ({daemon.gone}); asked again each second"),)
    found = (*(gone if daemon.gone else ()), *shown.problems)
    arranged = _large if look.width >= WIDE and look.height >= HIGH else _small
    return arranged(viewer, shown, found, look)


def sheet(viewer: Viewer, daemon: Daemon, look: Look) -> RenderableType:
    """Return all that there is, one below the other, for a printer or a file: nothing is selected there."""
    shown = viewer.shown
    assert shown is not None
    parts: list[RenderableType] = [
        title(shown, daemon.place, "", clock(daemon.now, daemon.now), look.width),
        figures(shown, look.width),
        legend(shown),
        problems(shown.problems, shown, len(shown.problems)),
    ]
    for table in TABLES:
        rows = shown.tables[table.name][:SHEET_ROWS]
        parts += [
            Text(),
            Text(table.title, "bold"),
            _rows(table, viewer, shown, look.width, len(rows) + 1, focused=False),
        ]
    return Group(*parts)


# ---------------------------------------------------------------- the two arrangements


def _small(viewer: Viewer, shown: Shown, found: tuple[Problem, ...], look: Look) -> Layout:
    """Return figures, and the table that is looked at."""
    width, lines = look.width - 2, 1 if look.height < 30 else PROBLEMS
    mixed = Group(*([mixture(shown, width)] if look.colours else []), legend(shown))
    layout = Layout()
    layout.split_column(
        Layout(Padding(figures(shown, width), (0, 1)), size=5),
        Layout(Padding(mixed, (0, 1)), size=1 + look.colours),
        Layout(Padding(problems(found, shown, lines), (0, 1)), size=lines),
        Layout(_tabs(viewer), size=1),
        Layout(Padding(_rows(viewer.table, viewer, shown, width, look.height - 9 - look.colours - lines), (0, 1))),
    )
    return layout


def _large(viewer: Viewer, shown: Shown, found: tuple[Problem, ...], look: Look) -> Layout:
    """Return figures, what became of queries, and all tables."""
    layout, upper, side = Layout(), Layout(size=HEAD), min(look.width // 4, SIDE_MAX)
    width = look.width - 2 * side
    upper.split_row(
        Layout(
            _panel(
                "Now",
                Group(
                    figures(shown, width - 4),
                    mixture(shown, width - 4) if look.colours else legend(shown),
                    problems(found, shown, PROBLEMS),
                ),
            ),
            size=width,
        ),
        Layout(_panel("Outcomes", bars(shown.told["outcomes"], OUTCOMES, side - 4)), size=side),
        Layout(_panel("Responses", _responses(shown, side - 4)), size=side),
    )
    rest = look.height - 2 - HEAD
    needed = 3 + max(len(shown.tables[name]) for name in ROWS_AT_ONCE[1])
    middle = min(max(needed, 6), rest // 3)  # few of these come and go: the others have what is left
    heights = [rest - middle - (rest - middle) // 2, middle, (rest - middle) // 2]
    layout.split_column(
        upper,
        *(
            _side_by_side(names, viewer, shown, look, height)
            for names, height in zip(ROWS_AT_ONCE, heights, strict=True)
        ),
    )
    return layout


def _side_by_side(names: tuple[str, ...], viewer: Viewer, shown: Shown, look: Look, height: int) -> Layout:
    row = Layout(size=height)
    width = look.width // len(names)
    widths = [look.width - width * (len(names) - 1)] + [width] * (len(names) - 1)
    tables = {each.name: each for each in TABLES}
    row.split_row(*(
        Layout(_boxed(tables[name], viewer, shown, cells, height), size=cells)
        for name, cells in zip(names, widths, strict=True)
    ))  # fmt: skip
    return row


def _boxed(table: Table, viewer: Viewer, shown: Shown, width: int, height: int) -> Panel:
    focused = table is viewer.table
    rows = _rows(table, viewer, shown, width - 4, height - 2, focused=focused)
    return _panel(_heading(table, viewer), rows, focused=focused)


def _panel(heading: str | Text, content: RenderableType, *, focused: bool = False) -> Panel:
    head = heading if isinstance(heading, Text) else Text(heading, "bold default")
    return Panel(
        content, title=head, title_align="left", box=box.HEAVY if focused else box.ROUNDED,
        border_style="cyan" if focused else "bright_black", padding=(0, 1),
    )  # fmt: skip


def _responses(shown: Shown, width: int) -> RenderableType:
    used = {name.upper(): value for name, value in shown.told["transports"].items()}
    return Group(bars(shown.told["rcodes"], RCODES, width), Text(), bars(used, {}, width))


# ---------------------------------------------------------------- tables


def _tabs(viewer: Viewer) -> Text:
    """Return the names of all tables, with the keys that lead there."""
    line = Text(no_wrap=True, overflow="ellipsis")
    for number, table in enumerate(TABLES, 1):
        chosen = table is viewer.table
        line.append(f" {number} ", "bold reverse cyan" if chosen else "cyan")
        line.append(f"{table.title}", "bold reverse cyan" if chosen else "")
    return line


def _heading(table: Table, viewer: Viewer) -> Text:
    number = TABLES.index(table) + 1
    wanted = viewer.views[table.name].wanted
    return Text.assemble(
        (f"{number} ", "cyan"),
        (table.title, "bold default"),
        (f" with {plain(wanted)}" if wanted else "", "bold yellow"),
    )


def _rows(
    table: Table, viewer: Viewer, shown: Shown, width: int, height: int, *, focused: bool = True
) -> RenderableType:
    """Return as many rows as fit, the selected one among them."""
    view = viewer.views[table.name]
    rows = visible(table, shown, view)
    columns = [each for each in table.columns if each.least <= width]
    grid = Grid(box=None, expand=True, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        mark = ""
        if column is table.columns[view.sort]:
            mark = FALLING if column.falling != view.reverse else RISING
        grid.add_column(
            Text(f"{column.title}{mark}", "bold underline" if mark else "bold"),
            justify="right" if column.is_number else "left", no_wrap=True, overflow="ellipsis",
            ratio=column.weight or None,
        )  # fmt: skip
    room, place = max(height - 1, 0), place_of(table, rows, view)
    first = max(min(place - room // 2, len(rows) - room), 0)
    for number, row in enumerate(rows[first : first + room], first):
        chosen = focused and number == place
        cells = (Text(column.text(row, shown), "" if chosen else column.style(row)) for column in columns)
        grid.add_row(*cells, style="reverse" if chosen else table.style(row))
    if rows:
        return grid
    return Text(f"no row has {plain(view.wanted)!r}" if view.wanted else table.empty, "bright_black")


# ---------------------------------------------------------------- what lies above all


def _help() -> RenderableType:
    grid = Grid.grid(padding=(0, 3, 0, 0))
    grid.add_column(no_wrap=True, style="bold cyan")
    grid.add_column()
    for keys, meaning in HELP:
        grid.add_row(Text(keys), Text(meaning))
    told = Text("Rates are of the last three seconds; names, clients, zones of the last five to ten.")
    return Padding(Group(grid, Text(), told), (1, 2))


def _opened(table: Table, row: Row, shown: Shown) -> RenderableType:
    """Return a row as a whole, a line for each column, and what else is known."""
    grid = Grid.grid(padding=(0, 3, 0, 0))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for column in table.columns:
        grid.add_row(Text(column.title), Text(column.text(row, shown), column.style(row)))
    for key in ("address", "times"):
        if key in row:
            grid.add_row(Text(key.capitalize()), Text(plain(row[key])))
    return Padding(grid, (1, 2))


def _last_line(viewer: Viewer, look: Look) -> Text:
    """Return what is asked, typed or said, or else what keys there are."""
    line = Text(no_wrap=True, overflow="ellipsis")
    if viewer.message:
        line.append(f" {plain(viewer.message)}", "bold red" if viewer.is_bad else "bold green")
    elif viewer.question is not None:
        line.append(f" {viewer.question.text}", "bold yellow")
        line.append("  y: yes, any other key: no", "bold")
    elif viewer.entry is not None:
        line.append(f" {viewer.entry.prompt}: ", "bold yellow")
        line.append(f"{plain(viewer.entry.text)}_", "bold")
        line.append("  Enter, Esc", "bright_black")
    elif viewer.is_covered:
        line.append(" any key goes back", "bold")
    else:
        if viewer.view.wanted:
            line.append(f" only with {plain(viewer.view.wanted)!r}, Esc: all ", "bold yellow")
        for key, meaning in (hint.split() for hint in (*HINTS[viewer.table.name], *ALWAYS)):
            line.append(f" {key}", "bold cyan")
            line.append(f" {meaning} ")
    line.truncate(look.width, overflow="ellipsis", pad=True)
    return line
