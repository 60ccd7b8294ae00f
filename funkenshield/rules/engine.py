"""FunkenSturm: rules are read, compiled, put in force, replaced, and end.

It knows the order of things, and which files rules were read from. How a rule is written, compiled and run is told in
`rules`, `compiler` and `executor`.
"""

import asyncio
import inspect
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..config import Config
from ..core.files import Version, noted, version_of
from ..errors import ConfigError
from ..forward._python_rules import PythonRules
from ..policy._guard import Guard
from . import Hook, RuleSet, load
from .compiler import ChainName, Compiled, IdAllocator, compile_chain, route_to
from .executor import ActiveRules, Decider

log = logging.getLogger(__name__)

GRACE = 0.2  # seconds in which queries that workers stopped at a rule come to its function


@dataclass(frozen=True)
class Prepared:
    """Rules that are ready to be put in force."""

    rules: RuleSet
    chains: tuple[Compiled | None, Compiled | None, Compiled | None]  # queries, responses, answers
    generation: int
    seen: Mapping[Path, Version | None]  # which versions of the files that they are from were read


def _prepare(config: Config, numbers: IdAllocator, guard: Guard) -> Prepared:
    with noted() as read:
        rules = load(config)
        made = _compile(rules, config, numbers, guard)
    return Prepared(rules, *made, {path: read.get(path) for path in rules.files})


def _compile(
    rules: RuleSet, config: Config, numbers: IdAllocator, guard: Guard
) -> tuple[tuple[Compiled | None, Compiled | None, Compiled | None], int]:
    """Return the chains of rules, and their generation."""
    generation = numbers.next_generation()

    def compiled(chain: ChainName) -> Compiled | None:
        of = rules.of(chain)
        return compile_chain(of, numbers, generation, guard, config.listen) if of else None

    return (compiled("queries"), compiled("responses"), compiled("cache-hits")), generation


def check(config: Config) -> None:
    """Read and compile the rules of a configuration, for nobody; ConfigError where that cannot be done."""
    _prepare(config, IdAllocator(), Guard(1 << 16))


class FunkenSturm:
    """All rules, those in force and those that are to be."""

    def __init__(self, inflight: PythonRules, dispatch: Callable[[], None]) -> None:
        self.numbers = IdAllocator()
        self.decider = Decider(inflight, self.numbers, dispatch)
        self._inflight = inflight
        self._force = Prepared(RuleSet(), (None, None, None), 0, {})
        self._seen: Mapping[Path, Version | None] = {}

    def prepare(self, config: Config) -> Prepared:
        """Read and compile the rules of a configuration; ConfigError where that cannot be done, and nothing changes."""
        return _prepare(config, self.numbers, self._inflight.settings_writer.guard)

    def activate(self, prepared: Prepared, config: Config, groups: Mapping[str, int]) -> dict[int, int]:
        """Let these rules be followed from now on; return the groups of upstreams by their routes.

        `groups` are their numbers by name. What the rules before need is left for queries that are with them.
        """
        routes = {}
        for name, group in groups.items():
            number = self.numbers.route(f"group {name}")
            routes[number] = group
            self._inflight.set_route(number, group=group)
        answering = {self.numbers.route(route_to(rule)): rule for rule in prepared.rules.rules if rule.answers}
        for number in answering:
            self._inflight.set_route(number, function=True)
        for (shortest, longest), number in list(self.numbers.bounds.items()):
            self._inflight.set_ttl_limits(number, shortest, longest)
        stops = tuple(compiled.stops if compiled else {} for compiled in prepared.chains)
        listeners = [str(endpoint) for endpoint in config.listen]
        self.decider.configure(ActiveRules(prepared.generation, stops, answering, listeners, config.forward.deadline))
        queries, responses, answers = (compiled.chain if compiled else None for compiled in prepared.chains)
        self._force = prepared
        self._seen = prepared.seen
        self.keep_house()
        self._inflight.settings_writer.set_chains(queries, responses, answers)
        return routes

    def keep_house(self) -> None:
        """Tell the rules what the local time is: that changes twice a year, in many places."""
        offset = time.localtime().tm_gmtoff
        for compiled in self._force.chains:
            if compiled is not None:
                compiled.chain.set_offset(offset)

    def has_changed(self) -> bool:
        """Tell whether a file that rules were read from is another since."""
        now = {path: version_of(path) for path in self._seen}
        changed = now != self._seen
        self._seen = now
        return changed

    async def set_up(self, prepared: Prepared) -> None:
        """Call what is to be called before rules are in force; ConfigError where that fails."""
        for hook in prepared.rules.setups:
            try:
                await _call(hook)
            except (Exception, SystemExit) as error:
                raise ConfigError(_told("setup", hook, error)) from None

    async def set_up_first(self) -> None:
        """Call what is to be called before the rules that there are from the start."""
        await self.set_up(self._force)

    async def tear_down(self, rules: RuleSet) -> None:
        """Call what is to be called when rules are in force no more, once no function of theirs runs."""
        if rules.teardowns:
            await asyncio.sleep(GRACE)
            await self.decider.rest()
        for hook in rules.teardowns:
            try:
                await _call(hook)
            except (Exception, SystemExit) as error:
                log.error("%s", _told("teardown", hook, error))

    @property
    def rules(self) -> RuleSet:
        """The rules in force."""
        return self._force.rules

    async def close(self) -> None:
        """End what rules still do, and tear down."""
        await self.decider.close()
        await self.tear_down(self.rules)

    def counters(self) -> dict[str, dict[str, float]]:
        """Return what each rule did: how often it matched, and what Python was called for."""
        called = self.decider.counters()
        counted: dict[str, dict[str, float]] = {}
        for compiled in self._force.chains:
            if compiled is not None:
                for rule, matched in zip(compiled.rules, compiled.chain.matched(), strict=True):
                    nothing = {"handler_calls": 0, "handler_errors": 0, "handler_seconds": 0.0}
                    counted[rule.name] = {"matches": matched, **called.get(rule.name, nothing)}
        return counted


def _told(what: str, hook: Hook, error: BaseException) -> str:
    """Return in a line which hook failed, how, and where."""
    name, frame = getattr(hook, "__name__", repr(hook)), traceback.extract_tb(error.__traceback__)[-1]
    return f"rules: {what} {name}: {type(error).__name__}: {error} at {frame.filename}:{frame.lineno}"


async def _call(hook: Hook) -> None:
    result = hook()
    if inspect.isawaitable(result):
        await result
