"""What somebody looks at, and what keys do about it: to the screen at once, to the daemon only after a second key.

It knows keys by name, and requests as the control socket takes them; who reads keys and who asks the daemon is told
elsewhere.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..admin.explained import lines_of
from ..config.types import parse_prefix, parse_time
from .shown import Row, Shown, addresses_of
from .tables import TABLES, Table, View, place_of, visible
from .wording import duration, plain

ASKING = 10.0  # seconds that the daemon has for a request
RELOADING = 120.0
PAGE = 10  # rows
TYPED_MAX = 255  # characters
BLOCKED_FOR = "1h"


@dataclass(frozen=True)
class Request:
    """What the daemon is to do, and what is said when it has done it."""

    members: Mapping[str, Any]
    done: Callable[[Mapping[str, Any]], str]  # from its response
    timeout: float = ASKING
    explains: bool = False  # it only shows something of the daemon that is looked at


@dataclass(frozen=True)
class Question:
    """What has to be answered by "y" before something is asked for."""

    text: str
    request: Request


@dataclass
class Entry:
    """A line that is typed."""

    prompt: str
    text: str
    typed: Callable[[str], "Question | Request | None"]
    """What is to be done: at each key, where `is_live`, else at Enter; ValueError says what is wrong."""
    is_live: bool = False


@dataclass
class Viewer:
    """Which table is looked at and how; what is asked, typed, and said."""

    focus: int = 0
    views: dict[str, View] = field(default_factory=lambda: {each.name: View(each.sort) for each in TABLES})
    paused: bool = False
    helping: bool = False
    opened: Row | None = None  # the row that is shown as a whole
    explained: tuple[str, ...] = ()  # why a question is answered as it is
    entry: Entry | None = None
    question: Question | None = None
    message: str = ""
    is_bad: bool = False  # what the message says
    wants_end: bool = False
    wants_other: bool = False  # another daemon
    shown: Shown | None = None

    @property
    def table(self) -> Table:
        """The table that is looked at."""
        return TABLES[self.focus]

    @property
    def view(self) -> View:
        """How that is looked at."""
        return self.views[self.table.name]

    @property
    def is_covered(self) -> bool:
        """Whether something else is seen in place of the tables."""
        return self.helping or self.opened is not None or bool(self.explained)

    @property
    def limit(self) -> int:
        """How much of what is asked for most the daemon is to tell."""
        return 200 if any(self.views[each].wanted or self.views[each].selected for each in ("names", "zones")) else 50

    def rows(self) -> list[Row]:
        """Return the rows of the table that is looked at."""
        return visible(self.table, self.shown, self.view) if self.shown else []

    def selected(self) -> Row | None:
        """Return the row that keys are about."""
        rows = self.rows()
        return rows[place_of(self.table, rows, self.view)] if rows else None

    def say(self, text: str, *, bad: bool = False) -> None:
        """Say something, until the next key."""
        self.message, self.is_bad = text, bad

    # ---------------------------------------------------------------- keys

    def press(self, key: str) -> Request | None:
        """Do what a key is for; return what the daemon is to do now, if anything."""
        self.say("")
        if self.question is not None:
            question, self.question = self.question, None
            if key in {"y", "Y"}:
                return question.request
            self.say("nothing was changed")
        elif self.entry is not None:
            return self._type(self.entry, key)
        elif self.is_covered:
            self.helping, self.opened, self.explained = False, None, ()
        elif act := KEYS.get(key):
            return act(self)
        elif key.isdecimal() and 0 < int(key) <= len(TABLES):
            self.focus = int(key) - 1
        return None

    def _type(self, entry: Entry, key: str) -> Request | None:
        """Change the line that is typed, or be done with it."""
        if key == "esc":
            self.entry = None
            if entry.is_live:
                entry.typed("")
            return None
        if key == "enter":
            try:
                then = None if entry.is_live else entry.typed(entry.text.strip())
            except ValueError as error:
                self.say(str(error), bad=True)
                return None
            self.entry, self.question = None, then if isinstance(then, Question) else None
            return then if isinstance(then, Request) else None
        if key == "backspace":
            entry.text = entry.text[:-1]
        elif key == "clear":
            entry.text = ""
        elif len(key) == 1 and key.isprintable() and len(entry.text) < TYPED_MAX:
            entry.text += key
        if entry.is_live:
            entry.typed(entry.text)
        return None

    # ---------------------------------------------------------------- what is looked at

    def move(self, rows: int) -> None:
        """Select another row, so many below."""
        found = self.rows()
        if found:
            place = min(max(place_of(self.table, found, self.view) + rows, 0), len(found) - 1)
            self.view.selected = self.table.key(found[place])

    def to_end(self, *, last: bool) -> None:
        """Select the last row; or the first, whichever that will be."""
        found = self.rows()
        self.view.selected = self.table.key(found[-1]) if last and found else None

    def turn(self, tables: int) -> None:
        """Look at another table."""
        self.focus = (self.focus + tables) % len(TABLES)

    def sort(self) -> None:
        """Sort by the next column."""
        columns = sum(bool(each.title) for each in self.table.columns)
        self.view.sort, self.view.reverse = (self.view.sort + 1) % columns, False
        self.say(f"sorted by {self.table.columns[self.view.sort].title.lower()}; S turns the order round")

    def reverse(self) -> None:
        """Sort the other way round."""
        self.view.reverse = not self.view.reverse

    def filter(self) -> None:
        """Have typed what rows must have."""

        def typed(text: str) -> None:
            self.view.wanted, self.view.selected = text, None

        self.entry = Entry(f"{self.table.title} with", self.view.wanted, typed, is_live=True)

    def forget(self) -> None:
        """Select nothing, and show all rows."""
        self.view.wanted, self.view.selected = "", None

    def pause(self) -> None:
        """Ask nothing more, or go on."""
        self.paused = not self.paused

    def open(self) -> None:
        """Show a row as a whole."""
        self.opened = self.selected()

    def explain(self) -> Request | None:
        """Have explained why a name is answered as it is; of other rows, the name is typed."""
        row = self.selected()
        if row is not None and self.table.name in {"names", "failures"}:
            return self._explain(f"{row['name']} {row.get('type', 'A')}")
        self.entry = Entry("Explain which name, and type", "", self._explain)
        return None

    def _explain(self, text: str) -> Request:
        name, _, qtype = text.partition(" ")

        def done(response: Mapping[str, Any]) -> str:
            self.explained = (f"{name} {qtype or 'A'}, asked from 127.0.0.1", "", *lines_of(response))
            return ""

        return Request({"command": "explain", "name": name, "type": qtype.strip() or "A"}, done, explains=True)

    def help(self) -> None:
        """Show what keys do."""
        self.helping = True

    def end(self) -> None:
        """Be done."""
        self.wants_end = True

    def other(self) -> None:
        """Look at another daemon."""
        self.wants_other = True

    # ---------------------------------------------------------------- what the daemon is to do

    def purge(self) -> None:
        """Ask whether to purge what is selected, or have it typed."""
        row = self.selected()
        if row is not None and self.table.name in {"names", "zones", "failures"}:
            self.question = _purge(str(row["name"]), below=self.table.name == "zones")
        else:
            self.entry = Entry("Purge which name, and all below it", "", lambda text: _purge(text, below=True))

    def block(self) -> None:
        """Have typed whom to block and for how long: whoever is selected, unless something else is typed."""
        row = self.selected()
        key = {"clients": "name", "blocks": "prefix"}.get(self.table.name)
        whom = f"{row[key]} {BLOCKED_FOR}" if row is not None and key else ""
        self.entry = Entry("Block which prefix, for how long", whom, _block)

    def take_out(self) -> None:
        """Ask whether to drain an upstream, or to disable a rule."""
        row = self.selected()
        if row is not None and self.table.name == "upstreams":
            self.question = self._steer("drain", row, "it gets no new queries; what waits for it goes on waiting")
        elif row is not None and self.table.name == "rules":
            self.question = _enable(row, enabled=False)
        else:
            self.say("select an upstream (4) to drain, or a rule (5) to disable", bad=True)

    def take_down(self) -> None:
        """Ask whether to take an upstream out of service at once."""
        row = self.selected()
        if row is not None and self.table.name == "upstreams":
            self.question = self._steer("down", row, "what waits for it is asked elsewhere")
        else:
            self.say("select an upstream (4) to take down", bad=True)

    def _steer(self, how: str, row: Row, then: str) -> Question:
        """Return the question whether to steer an upstream: all of its addresses, whichever row is selected."""
        verb = {"drain": "Drain", "down": "Take down", "up": "Give back"}[how]
        done = {"drain": "draining", "down": "down", "up": "given back"}[how]
        addresses = addresses_of(row["name"], self.shown.tables["upstreams"]) if self.shown else 1
        request = Request(
            {"command": f"upstream {how}", "name": row["name"]},
            lambda response: "; ".join(f"{plain(each)}: {done}" for each in response["upstreams"]),
        )
        whom = f"all {addresses} addresses of {plain(row['name'])}" if addresses > 1 else plain(row["name"])
        return Question(f"{verb} {whom}: {then}?", request)

    def give_back(self) -> None:
        """Ask whether to undo such: give back an upstream, enable a rule, remove a block."""
        row = self.selected()
        if row is not None and self.table.name == "upstreams":
            self.question = self._steer("up", row, "its health decides again")
        elif row is not None and self.table.name == "rules":
            self.question = _enable(row, enabled=True)
        elif row is not None and self.table.name == "blocks":
            self.question = _unblock(str(row["prefix"]))
        else:
            self.say("select an upstream (4), a rule (5) or a block (6) to give back", bad=True)

    def reload(self) -> None:
        """Ask whether to have the configuration read again."""
        self.question = Question(
            "Read the configuration again?", Request({"command": "reload"}, _reloaded, timeout=RELOADING)
        )


KEYS: dict[str, Callable[[Viewer], Request | None]] = {
    "up": lambda viewer: viewer.move(-1), "k": lambda viewer: viewer.move(-1),
    "down": lambda viewer: viewer.move(1), "j": lambda viewer: viewer.move(1),
    "pageup": lambda viewer: viewer.move(-PAGE), "pagedown": lambda viewer: viewer.move(PAGE),
    "home": lambda viewer: viewer.to_end(last=False), "end": lambda viewer: viewer.to_end(last=True),
    "tab": lambda viewer: viewer.turn(1), "right": lambda viewer: viewer.turn(1),
    "backtab": lambda viewer: viewer.turn(-1), "left": lambda viewer: viewer.turn(-1),
    "enter": Viewer.open, "e": Viewer.explain, "esc": Viewer.forget,
    "/": Viewer.filter, "s": Viewer.sort, "S": Viewer.reverse,
    " ": Viewer.pause, "h": Viewer.help, "?": Viewer.help, "q": Viewer.end, "n": Viewer.other,
    "p": Viewer.purge, "b": Viewer.block, "d": Viewer.take_out, "D": Viewer.take_down, "u": Viewer.give_back,
    "r": Viewer.reload,
}  # fmt: skip


# ---------------------------------------------------------------- requests


def _purge(name: str, *, below: bool) -> Question:
    if not name:
        raise ValueError('the name is empty; the root, and all below it, is "."')
    everything = name == "." and below
    what = "the whole cache" if everything else f"{plain(name)}{' and all names below it' if below else ''}"
    request = {"command": "purge", "name": name, "below": below}
    return Question(f"Purge {what}?", Request(request, lambda _: f"purged: {what}"))


def _block(text: str) -> Question:
    """Return the question whether to block; ValueError where that is no prefix, or no time."""
    prefix, _, written = text.partition(" ")
    parse_prefix(prefix)
    seconds = parse_time(written.strip() or BLOCKED_FOR)
    request = {"command": "block add", "prefix": prefix, "seconds": seconds}
    told = f"{prefix} for {duration(seconds)}"
    return Question(f"Block {told}: drop all of its queries?", Request(request, lambda _: f"blocked: {told}"))


def _unblock(prefix: str) -> Question:
    request = Request(
        {"command": "block remove", "prefix": prefix},
        lambda response: f"{plain(prefix)}: {response['removed']} removed",
    )
    return Question(f"Block {plain(prefix)} no more?", request)


def _enable(row: Row, *, enabled: bool) -> Question:
    verb = "enable" if enabled else "disable"
    request = Request(
        {"command": f"rules {verb}", "name": row["name"]}, lambda _: f"rule {plain(row['name'])}: {verb}d"
    )
    return Question(f"{verb.capitalize()} rule {plain(row['name'])}?", request)


def _reloaded(response: Mapping[str, Any]) -> str:
    """Return what became of a reload; ValueError where it was refused."""
    if not response["reloaded"]:
        raise ValueError(f"reload failed: {'; '.join(response['errors'])}")
    return "; ".join(["reloaded", *response["warnings"]])
