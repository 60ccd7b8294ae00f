"""Know how a scenario is written, line by line; it does not know how one is played.

    # What the scenario is about: the first line of each file. Comments stand anywhere.
    config   TOML                           a line of configuration; "upstream2" in it becomes an address
    upstream QUERY -> REPLY [then REPLY]    from now on such queries are replied to so; the last line that fits counts
    client   QUERY -> EXPECTED              somebody asks, and gets this; `-> nothing` where nothing may come
    NAME     asks QUERY                     somebody asks, and does not wait:
    NAME     gets EXPECTED                  what he gets, now or before
    upstream answers                        what it `held` back goes out
    upstream leaves                         nobody is there any more
    upstream asked N [for QUERY]            so many (such) queries came to it, since the beginning
    upstream received QUERY                 how the last one looked; `untouched` is as it was asked, but for the ID
    after    N s                            time passes, at no cost
    purge    all | zone NAME | name NAME [TYPE]
    counted  NAME N                         what the shield's own counters say

A line that is indented belongs to the one above. The other upstreams are upstream2, upstream3, ...; unless config
says so, the shield asks the first alone. now+N is N seconds after the scenario began, as an RRSIG has it. How
messages are told is in `told` and `message`.
"""

import re
import time
from dataclasses import dataclass

from conformance.told import Expected, Query, Reply

ANYBODY = "client"


class NotationError(Exception):
    """A line that cannot be understood, after its file and number."""


@dataclass(frozen=True)
class Behave:
    upstream: str
    query: Query
    replies: tuple[Reply, ...]


@dataclass(frozen=True)
class Answers:
    upstream: str


@dataclass(frozen=True)
class Leaves:
    upstream: str


@dataclass(frozen=True)
class WasAsked:
    upstream: str
    count: int
    query: Query | None


@dataclass(frozen=True)
class Received:
    upstream: str
    query: Query | None  # None: untouched


@dataclass(frozen=True)
class Asks:
    client: str
    query: Query


@dataclass(frozen=True)
class Gets:
    client: str
    answer: Expected | None  # None: nothing


@dataclass(frozen=True)
class Client:
    query: Query
    answer: Expected | None


@dataclass(frozen=True)
class After:
    seconds: float


@dataclass(frozen=True)
class Purge:
    request: dict


@dataclass(frozen=True)
class Counted:
    name: str
    count: int


@dataclass(frozen=True)
class Line:
    """A statement, and where it stands."""

    where: str
    text: str
    step: object


@dataclass(frozen=True)
class Scenario:
    """A file as it was understood."""

    title: str
    config: str
    upstreams: list[str]
    lines: list[Line]


def read(path):
    """Return the Scenario of a file; NotationError names file, line and what is wrong with it."""
    text = path.read_text(encoding="utf-8")
    if not re.match(r"# \S", text):
        raise NotationError(f"{path}:1: a scenario begins with a comment: what it is about")
    now = int(time.time())
    config, lines = [], []
    for number, statement in _statements(re.sub(r"\bnow([+-]\d+)\b", lambda found: str(now + int(found[1])), text)):
        word, _, rest = statement.partition(" ")
        if word == "config":
            config.append(rest.strip())
            continue
        try:
            step = _step(word, rest.strip())
        except ValueError as error:
            raise NotationError(f"{path}:{number}: {error}\n    {statement}") from None
        lines.append(Line(f"{path}:{number}", statement, step))
    names = {getattr(line.step, "upstream", "upstream") for line in lines} | {"upstream"}
    return Scenario(text.splitlines()[0].lstrip("# "), "\n".join(config), sorted(names), lines)


def _statements(text):
    """Yield number and text of each statement, its continuation lines joined and comments taken off."""
    number, statement = 0, ""
    for at, line in enumerate(text.splitlines(), 1):
        bare = re.match(r'(?:"[^"]*"|[^"#]|(?<=\S)#)*', line)[0].rstrip()
        if not bare:
            continue
        if bare[0] != " ":
            if statement:
                yield number, statement
            number, statement = at, bare
        else:
            statement += " " + bare.strip()
    if statement:
        yield number, statement


def _step(word, rest):
    """Return what a statement says; ValueError where it says nothing that is known."""
    verb, _, more = rest.partition(" ")
    more = more.strip()
    found = re.fullmatch(r"(\d+(?:\.\d+)?) s", rest) if word == "after" else None
    match word, verb:
        case "client", _ if " -> " in rest:
            query, answer = rest.split(" -> ", 1)
            step = Client(Query.told(query), _expected(answer))
        case _, "asks":
            step = Asks(word, Query.told(more))
        case _, "gets":
            step = Gets(word, _expected(more))
        case "after", _ if found:
            step = After(float(found[1]))
        case "purge", _:
            step = Purge(_purge(rest.split()))
        case "counted", _ if more.isdecimal():
            step = Counted(verb, int(more))
        case _ if re.fullmatch(r"upstream\d*", word):
            step = _upstream(word, verb, more, rest)
        case _:
            raise ValueError("unknown statement")
    return step


def _upstream(name, verb, more, rest):
    match verb:
        case "answers" if not more:
            return Answers(name)
        case "leaves" if not more:
            return Leaves(name)
        case "asked" if found := re.fullmatch(r"(\d+)(?: for (.+))?", more):
            return WasAsked(name, int(found[1]), Query.told(found[2]) if found[2] else None)
        case "received":
            return Received(name, None if more == "untouched" else Query.told(more))
    query, arrow, replies = rest.partition(" -> ")
    if not arrow:
        raise ValueError("unknown statement")
    return Behave(name, Query.told(query), tuple(map(Reply.told, re.split(r"\sthen\s", replies))))


def _expected(text):
    return None if text == "nothing" else Expected.told(text)


def _purge(words):
    match words:
        case ["all"]:
            return {"name": ".", "below": True}
        case ["zone", name]:
            return {"name": name, "below": True}
        case ["name", name]:
            return {"name": name}
        case ["name", name, rdtype]:
            return {"name": name, "type": rdtype}
    raise ValueError("purge all, zone NAME, or name NAME [TYPE]")
