"""Rules become a program: conditions become tests with two branches, actions what it stops at.

A condition is compiled backwards, from where it leads to: `all` of a and b is a, which leads to b if it is true, `any`
is a, which leads to b if it is not, and `not` swaps the two. It knows what a program looks like, and nothing of
how rules are written or loaded, nor of what Python does for them.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from ipaddress import IPv4Network, IPv6Network, ip_address
from operator import or_
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeVar, get_args

from ..cache._store import Cache
from ..config.action import Action
from ..config.match import FLAGS, Match, RateSection, Transport, minutes_of
from ..config.rule import ChainName, OnError
from ..config.types import Endpoint
from ..core._limits import LISTENERS_MAX
from ..core._rate_limit import RateTable
from ..core.files import read_file
from ..errors import ConfigError
from ..policy._guard import Guard
from ..policy._rule_program import ACTIONS_OF, TESTS, Chain
from ..policy._server_names import ServerNameTable
from ..wire.names import name_to_wire

log = logging.getLogger("funkenshield.rules")

CHAINS: tuple[ChainName, ...] = get_args(ChainName)
NAME, TYPE, SOURCE = range(3)  # dimensions
NOWHERE = 0xFFFFFFFF  # the rule before the first one
START, END = 0, 0xFFFFFFFF  # of a chain, as nodes
RULES_MAX = 4096
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
TRANSPORTS: tuple[Transport, ...] = get_args(Transport)  # in the order of their numbers
PER = ("source", "zone", "name", "all")
RCODES = {"nodata": 0, "servfail": 2, "nxdomain": 3, "refused": 5}
COMPILED = {"allow": "pass", "drop": "drop", "truncate": "truncate", "skip_cache": "uncached", "continue": "count"}
NUMBERS_MAX = 65535
TAGS_MAX = 64
LISTS, LISTS_MAX = "lists of TLS server names", 64

Key = TypeVar("Key")
Leaf = tuple[str, int, int]  # test, its own `more`, value
Names = frozenset[tuple[bytes, bool]]  # on the wire, and whether names below it are meant too
Numbered = list[tuple[bytes, int, int]]  # a name, its class, and that of all below it; or a prefix, its bits, its class


@dataclass(frozen=True)
class Rule:
    """What is done with which queries of a chain."""

    name: str
    chain: ChainName
    match: Match
    action: Action
    function: Callable[..., Any] | None = None  # that the action `call` calls
    on_error: OnError = "servfail"
    cache: bool = False
    key: str = ""  # of its answers: another one for any other rule, and for itself after a change
    inline: bool = False  # the function never blocks, and needs no thread

    @property
    def answers(self) -> bool:
        """Tell whether it is to the cache what an upstream is: its answers are kept."""
        kind = self.action.kind
        return self.chain == "queries" and (kind in {"answer", "zone", "zone_file"} or (kind == "call" and self.cache))


@dataclass(frozen=True)
class Stop:
    """A node where Python decides: a condition if there is a regular expression, or else the rule's action."""

    rule: Rule
    regex: re.Pattern[str] | None
    yes: int
    no: int


class Condition(NamedTuple):
    """Where the file says what a node tests: a key of a table of conditions."""

    match: Match
    key: str


@dataclass(frozen=True)
class Compiled:
    """A chain that is ready to run, and what it needs of Python."""

    chain: Chain
    rules: tuple[Rule, ...]
    stops: dict[int, Stop]
    conditions: dict[int, Condition]  # by the node that tests it, for those who explain


@dataclass
class IdAllocator:
    """Numbers of rules in the cache, which stay the same from rules to rules.

    Where none is left, those are given out again that neither the rules in force have, nor those before or after them.
    Whoever uses one must see to it that the cache has forgotten what it was: `purge_reused`.
    """

    routes: dict[str, int] = field(default_factory=dict)
    ttl_limits: dict[tuple[int, int], int] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)
    server_names: dict[frozenset[str], int] = field(default_factory=dict)  # lists of them
    generation: int = 0
    _users: list[set[object]] = field(default_factory=lambda: [set(), set(), set()])  # rules before, in force, after
    _free: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    _reused: bool = False
    _lock: Lock = field(default_factory=Lock, repr=False)  # rules are read in a thread, beside functions that run

    def route(self, key: str) -> int:
        """Return the number of who is asked; ConfigError where there are no more."""
        return self._id(self.routes, key, "routes", self._users[2], NUMBERS_MAX)

    def ttl_limit(self, limits: tuple[int, int], *, once: bool = False) -> int:
        """Return the number of a least and a greatest TTL, of rules or `once`; ConfigError where there are no more."""
        return self._id(self.ttl_limits, limits, "TTL limits", set() if once else self._users[2], NUMBERS_MAX)

    def tag(self, name: str, *, by_function: bool = False) -> int:
        """Return the bit of a tag of rules, or of functions of those in force; ConfigError where there are no more."""
        return 1 << self._id(self.tags, name, "tags", self._users[1 if by_function else 2], TAGS_MAX, 0)

    def server_name_list(self, names: frozenset[str]) -> int:
        """Return the bit of a list of TLS server names; ConfigError where there are no more."""
        return 1 << self._id(self.server_names, names, LISTS, self._users[2], LISTS_MAX, 0)

    def server_name_table(self) -> ServerNameTable | None:
        """Return the lists that each TLS server name is in; None where rules have none."""
        lists: dict[str, int] = defaultdict(int)
        with self._lock:
            for names, number in self.server_names.items():
                for name in names:
                    lists[name] |= 1 << number
        return ServerNameTable(lists) if lists else None

    def _id(self, ids: dict[Key, int], key: Key, what: str, users: set[object], most: int, first: int = 1) -> int:
        with self._lock:
            if key not in ids and len(ids) == most:
                self._reclaim(ids, what)
            if key not in ids and len(ids) == most:
                raise ConfigError(f"rules: more than {most} {what} at once")
            users.add((what, key))
            if key not in ids:
                ids[key] = self._free[what].pop() if self._free[what] else len(ids) + first
            return ids[key]

    def _reclaim(self, ids: dict[Key, int], what: str) -> None:
        """Take back what no rules have any more."""
        had = set().union(*self._users)
        self._free[what] = [ids.pop(key) for key in list(ids) if (what, key) not in had]
        self._reused |= what not in {"tags", LISTS}  # no key has them

    def purge_reused(self, cache: Cache) -> None:
        """Have the cache forget all, where a number may mean something else from now on."""
        if self._reused:
            self._reused = False
            log.warning("rules: all numbers of routes or TTL limits were in use: the whole cache is purged")
            cache.purge(b"\0", below=True)

    def next_generation(self) -> int:
        """Return a number for one more set of rules, those that are read from now on."""
        with self._lock:
            self._users[2] = set()
        self.generation = self.generation % NUMBERS_MAX + 1
        return self.generation

    def activate(self) -> None:
        """Let the rules that were read last be those in force."""
        with self._lock:
            self._users = [*self._users[1:], set()]


def group_key(group: str) -> str:
    """Return the key of the route to a group of upstreams."""
    return f"group {group}"


def route_key(rule: Rule) -> str:
    """Return the key of the route that a rule sends queries to: a group of upstreams, or the rule itself."""
    return group_key(rule.action.forward) if rule.action.kind == "forward" else f"rule {rule.key or rule.name}"


def compile_chain(
    rules: Sequence[Rule], ids: IdAllocator, generation: int, guard: Guard, listeners: Sequence[Endpoint | None]
) -> Compiled:
    """Return the program of a chain of rules, which knows listeners by their numbers.

    Raises ConfigError for a list of names that cannot be read, and where there are too many rules.
    """
    if len(rules) > RULES_MAX:
        raise ConfigError(f"rules: a chain has at most {RULES_MAX} rules, not {len(rules)}")
    made = _ProgramBuilder(ids, guard, listeners)
    starts = [made.rule(number, rule) for number, rule in enumerate(rules)]
    program = Chain(generation, made.nodes, starts, *made.tables(), made.limits)
    return Compiled(program, tuple(rules), made.stops, made.conditions)


class _ProgramBuilder:
    """A program that is being put together."""

    def __init__(self, ids: IdAllocator, guard: Guard, listeners: Sequence[Endpoint | None]) -> None:
        self.nodes: list[tuple[int, int, int, int, int, int]] = [(TESTS["next"], 0, NOWHERE, 0, 0, 0)]
        self.stops: dict[int, Stop] = {}
        self.conditions: dict[int, Condition] = {}
        self.limits: list[RateTable] = []
        self._limited = 0  # how many limits there were before the rule that is being compiled
        self._ids = ids
        self._guard = guard
        self._listeners = list(listeners)
        self._number = 0  # of the rule that is being compiled
        self._files: dict[str, Names] = {}
        self._slow: dict[int, bool] = {}  # by the identity of a table; the rules outlive this
        self._dimensions = (_Dimension(), _Dimension(), _Dimension())

    def rule(self, rule_number: int, rule: Rule) -> int:
        """Add a rule; return where it starts."""
        self._number = rule_number
        self._limited = len(self.limits)
        following = self._add(TESTS["next"])
        start = self._match(rule, rule.match, self._action(rule, following), following)
        for number, dimension in enumerate(self._dimensions):
            dimension.wanted.append(self._possible(rule.match, number))
        return start

    def _add(self, op: int, more: int = 0, value: int = 0, yes: int = 0, no: int = 0) -> int:
        self.nodes.append((op, more, self._number, value, yes, no))
        return len(self.nodes) - 1

    # ---------------------------------------------------------------- actions

    def _action(self, rule: Rule, following: int) -> int:
        """Add what a rule does; an action that goes on leads to what follows."""
        action, kind = rule.action, rule.action.kind
        value = 0
        if kind == "forward" or rule.answers:
            name, value = "route", self._ids.route(route_key(rule))
        elif kind in RCODES:
            name, value = "error", RCODES[kind]
        elif action.ttl is not None:
            name, value = "ttl_limits", self._ids.ttl_limit((action.ttl.min, action.ttl.max))
        elif kind == "tag":
            name, value = "tag", self._ids.tag(action.tag)
        else:
            name = COMPILED.get(kind, "call")
        node = self._add(ACTIONS_OF[name], int(rule.answers), value, following)
        if name == "call":
            self.stops[node] = Stop(rule, None, following, following)
        return node

    # ---------------------------------------------------------------- conditions

    def _test(self, match: Match, key: str, op: int, more: int, value: int, yes: int, no: int) -> int:
        """Add a node that tests what a key of a table says."""
        node = self._add(op, more, value, yes, no)
        self.conditions[node] = Condition(match, key)
        return node

    def _match(self, rule: Rule, match: Match, yes: int, no: int) -> int:
        """Add a condition that leads to `yes` or `no`; return where it starts. What costs little is asked first."""
        if match.regex:
            node = self._test(match, "regex", ACTIONS_OF["ask"], 0, 0, yes, no)
            self.stops[node] = Stop(rule, re.compile(match.regex), yes, no)
            yes = node
        yes = self._tables(rule, match, yes, no, slow=True)
        if match.rate is not None:
            limit = self._limit(rule, match.rate)
            yes = self._test(match, "rate", TESTS["over"], PER.index(match.rate.per), limit, yes, no)
        yes = self._tables(rule, match, yes, no, slow=False)
        for key, leaves in reversed(list(self._leaves(match))):
            otherwise = no
            for op, more, value in reversed(leaves):
                otherwise = self._test(match, key, TESTS[op], more, value, yes, otherwise)
            yes = otherwise
        if match.transport is not None:
            number = TRANSPORTS.index(match.transport)
            yes = self._test(match, "transport", TESTS["transport"], 0, number, yes, no)
        for wanted, op in ((match.edns, "edns"), (match.do, "do")):
            if wanted is not None:
                yes = self._test(match, op, TESTS[op], 0, 0, yes if wanted else no, no if wanted else yes)
        return yes

    def _tables(self, rule: Rule, match: Match, yes: int, no: int, *, slow: bool) -> int:
        """Add the tables in a table that Python may be asked about, or those that it is not; return where they start.

        Of `any`, too, those that it is asked about come last.
        """
        groups: list[tuple[tuple[Match, ...], bool]] = [((each,), True) for each in match.all]
        if match.any:
            groups.append((tuple(sorted(match.any, key=self._is_slow)), True))
        if match.not_ is not None:
            groups.append(((match.not_,), False))
        for tables, wanted in reversed(groups):
            if any(map(self._is_slow, tables)) != slow:
                continue
            found, otherwise = (yes, no) if wanted else (no, yes)
            for each in reversed(tables):
                otherwise = self._match(rule, each, found, otherwise)
            yes = otherwise
        return yes

    def _is_slow(self, match: Match) -> bool:
        """Tell whether Python may have to be asked; each table of a deep nest is looked at once."""
        if id(match) not in self._slow:
            below = (*match.all, *match.any, *((match.not_,) if match.not_ else ()))
            self._slow[id(match)] = bool(match.regex) or any(map(self._is_slow, below))
        return self._slow[id(match)]

    def _leaves(self, match: Match) -> Iterator[tuple[str, list[Leaf]]]:
        """Yield the tests of each key of a table, of which one must be true."""
        if match.opcode:
            yield "opcode", [("opcodes", 0, sum(1 << code for code in set(match.opcode)))]
        if match.flags:
            yield "flags", [("flags", 0, sum(FLAGS[name] for name in set(match.flags)))]
        if match.tag:
            yield "tag", [("tagged", 0, sum(self._ids.tag(name) for name in set(match.tag)))]
        if match.tls_server_name:
            number = self._ids.server_name_list(frozenset(match.tls_server_name))
            yield "tls_server_name", [("server_names", 0, number)]
        if match.listener:
            yield "listener", [("listeners", 0, sum(self._listener(endpoint) for endpoint in set(match.listener)))]
        for dimension in (TYPE, SOURCE, NAME):
            for key, number in self._own_sets(match, dimension):
                yield key, [("in", dimension, number)]
        for key, numbers in (("qclass", match.qclass), ("rcode", match.rcode), ("option", match.option)):
            if numbers:
                yield key, [(key, 0, each) for each in numbers]
        if match.time or match.days:
            begin, end = minutes_of(match.time or "00:00-24:00")
            days = sum(1 << DAYS.index(day) for day in set(match.days or DAYS))
            yield "time" if match.time else "days", [("time", 0, begin | end << 16 | days << 32)]
        for key, op, ratio in (
            ("source_ratio", "share", match.source_ratio),
            ("probability", "chance", match.probability),
        ):
            if ratio is not None:
                yield key, [(op, 0, round(ratio * 2**32))]

    def _limit(self, rule: Rule, rate: RateSection) -> int:
        """Add a limit, which is the same one after a reload that leaves its rule; return its number."""
        what = (rule.chain, rule.name, len(self.limits) - self._limited, rate.per)
        self.limits.append(
            self._guard.rate_table(what, rate.limit, rate.window, rate.ipv4_prefix_length, rate.ipv6_prefix_length)
        )
        return len(self.limits) - 1

    def _listener(self, endpoint: Endpoint) -> int:
        if endpoint not in self._listeners:
            known = ", ".join(map(str, filter(None, self._listeners)))
            raise ConfigError(f"rules: {endpoint} is not a listen address; those are {known}")
        return sum(1 << number % LISTENERS_MAX for number, each in enumerate(self._listeners) if each == endpoint)

    # ---------------------------------------------------------------- sets and classes

    def _own_sets(self, match: Match, dimension: int) -> list[tuple[str, int]]:
        """Return the keys of a table that name sets in a dimension, and the sets' numbers."""
        wanted: list[tuple[str, Any]] = []
        if dimension == TYPE and match.qtype:
            wanted.append(("qtype", frozenset(match.qtype)))
        if dimension == SOURCE and match.source:
            wanted.append(("source", frozenset(match.source)))
        if dimension == NAME:
            if match.suffix:
                wanted.append(("suffix", frozenset((_on_wire(name.encode()), True) for name in match.suffix)))
            if match.suffix_file:
                wanted.append(("suffix_file", self._names_in(match.suffix_file)))
            if match.name:
                wanted.append(("name", frozenset((_on_wire(name.encode()), False) for name in match.name)))
        numbers = self._dimensions[dimension].sets
        return [(key, numbers.setdefault(each, len(numbers))) for key, each in wanted]

    def _names_in(self, path: str) -> Names:
        if path not in self._files:
            self._files[path] = frozenset((name, True) for name in read_names(Path(path)))
        return self._files[path]

    def _possible(self, match: Match, dimension: int) -> int | None:
        """Return the sets of a dimension, one bit each, of which a query must be in one to match; None: it need not."""
        own = self._own_sets(match, dimension)
        if own:
            return 1 << own[0][1]
        for each in match.all:
            found = self._possible(each, dimension)
            if found is not None:
                return found
        branches = [self._possible(each, dimension) for each in match.any]
        if not branches or None in branches:
            return None
        return reduce(or_, filter(None, branches), 0)

    def tables(self) -> tuple[Numbered, dict[int, int], Numbered, list[list[int]], list[list[int]]]:
        """Return names, types and sources with their classes; for each class its rules, and its sets."""
        names, types, sources = self._dimensions
        return (
            [(name, names.class_of(exact), names.class_of(below)) for name, exact, below in self._named()],
            {qtype: types.class_of(sets) for qtype, sets in types.members().items()},
            [(each.network_address.packed, each.prefixlen, sources.class_of(sets)) for each, sets in self._sourced()],
            [dimension.rules_by_class() for dimension in self._dimensions],
            [list(dimension.classes) for dimension in self._dimensions],
        )

    def _named(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield each name of all sets, with the sets that it is in, and those that all below it are in."""
        members = self._dimensions[NAME].members()
        suffixes: dict[bytes, int] = {}
        exact: dict[bytes, int] = {}
        for (name, below), sets in members.items():
            table = suffixes if below else exact
            table[name] = table.get(name, 0) | sets
        for name in suffixes.keys() | exact.keys():
            inherited, rest = suffixes.get(name, 0), name
            while rest != b"\0":
                rest = rest[1 + rest[0] :]
                inherited |= suffixes.get(rest, 0)
            yield name, inherited | exact.get(name, 0), inherited

    def _sourced(self) -> Iterator[tuple[IPv4Network | IPv6Network, int]]:
        """Yield each prefix of all sets, with the sets that all in it are in: those of wider prefixes too."""
        members: dict[IPv4Network | IPv6Network, int] = self._dimensions[SOURCE].members()
        widths = sorted({(prefix.version, prefix.prefixlen) for prefix in members})
        for prefix in members:
            sets = 0
            for version, width in widths:
                if version == prefix.version and width <= prefix.prefixlen:
                    sets |= members.get(prefix.supernet(new_prefix=width), 0)
            yield prefix, sets


@dataclass
class _Dimension:
    """Sets of names, types or sources, by number, and classes: which of them something is in, one bit each."""

    sets: dict[Any, int] = field(default_factory=dict)
    wanted: list[int | None] = field(default_factory=list)  # by rule: of which sets a query must be; None: it need not
    classes: dict[int, int] = field(default_factory=lambda: {0: 0})  # by the sets that each is in

    def members(self) -> dict[Any, int]:
        """Return for each member of the sets which of them it is in."""
        found: dict[Any, int] = {}
        for members, number in self.sets.items():
            for member in members:
                found[member] = found.get(member, 0) | 1 << number
        return found

    def class_of(self, sets: int) -> int:
        """Return the number of the class of what is in these sets."""
        return self.classes.setdefault(sets, len(self.classes))

    def rules_by_class(self) -> list[int]:
        """Return the rules that can match for each class, one bit each; none at all where no rule asks."""
        if all(each is None for each in self.wanted):
            return []
        always = sum(1 << rule for rule, wanted in enumerate(self.wanted) if wanted is None)
        by_set = [0] * len(self.sets)
        for rule, wanted in enumerate(self.wanted):
            for number in _bits(wanted or 0):
                by_set[number] |= 1 << rule
        return [reduce(or_, map(by_set.__getitem__, _bits(sets)), always) for sets in self.classes]


def _bits(number: int) -> Iterator[int]:
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest


PLAIN_NAME = re.compile(rb"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}")


def read_names(path: Path) -> Iterable[bytes]:
    """Return the names of a file, on the wire: one on each line, or several behind an address, as in a file of hosts.

    `#` begins a comment; a `*.` before a name may be there, and says nothing. Raises ConfigError with file and line.
    """
    try:
        lines = read_file(path).lower().splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    found: set[bytes] = set()
    for number, line in enumerate(lines, 1):
        words = line.split(b"#", 1)[0].split()
        try:
            if len(words) > 1 and not _is_address(words.pop(0)):
                raise ValueError("more than one name; write one per line, or an address before them (hosts file)")
            found.update(_on_wire(word.removeprefix(b"*.").strip(b".") or word) for word in words)
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: {error}") from None
    return found


@lru_cache(16)  # a file has many lines, and few addresses
def _is_address(word: bytes) -> bool:
    try:
        ip_address(word.decode())
    except ValueError:
        return False
    return True


def _on_wire(text: bytes) -> bytes:
    """Return a name on the wire, quickly where it is a plain one; ValueError where it is none."""
    plain = text.removesuffix(b".")
    if PLAIN_NAME.fullmatch(plain) and len(plain) < 254:
        return b"".join(bytes((len(label),)) + label for label in plain.split(b".")) + b"\0"
    return name_to_wire(text.decode())
