"""All rules together: they are read, compiled, put in force, replaced, and end.

It knows the order of things, and which files rules were read from. `rules`, `compiler` and
`executor` have how a rule is written, compiled and run.
"""

import asyncio
import inspect
import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..config import Config, Endpoint
from ..core.files import Version, noted, version_of
from ..errors import ConfigError, FunkenShieldError
from ..forward._python_rules import PythonRules
from ..policy._guard import Guard
from ..zones import settings
from . import Hook, RuleSet, load
from .compiler import CHAINS, Compiled, IdAllocator, compile_chain, group_key, route_key
from .executor import ActiveRules, RuleExecutor
from .wording import told_action, told_match

log = logging.getLogger(__name__)

TIMEOUTS = {"setup": 30.0, "teardown": 5.0}  # seconds; a service manager waits for the daemon, and that for a teardown
GRACE = 0.2  # seconds in which queries that workers stopped at a rule come to its function


@dataclass(frozen=True)
class PreparedRules:
    """Rules that are ready to be put in force."""

    rules: RuleSet
    chains: tuple[Compiled | None, ...]
    generation: int
    versions: Mapping[Path, Version]  # of the files that they were read from
    listeners: Sequence[Endpoint | None] = ()  # by number; None: there is none


def _prepare(config: Config, ids: IdAllocator, guard: Guard, listeners: Sequence[Endpoint | None]) -> PreparedRules:
    with noted() as read:
        rules, generation = load(config), ids.next_generation()
        chains = ([rule for rule in rules.rules if rule.chain == chain] for chain in CHAINS)
        made = tuple(compile_chain(of, ids, generation, guard, listeners) if of else None for of in chains)
        for group in settings.groups(config):
            ids.route(group_key(group))
    return PreparedRules(rules, made, generation, read, listeners)


def check(config: Config) -> None:
    """Read and compile the rules of a configuration, for nobody; ConfigError where that cannot be done."""
    _prepare(config, IdAllocator(), Guard(1 << 16), config.endpoints)


class RuleEngine:
    """All rules, those in force and those that are to be."""

    def __init__(self, python_rules: PythonRules, dispatch: Callable[[], None]) -> None:
        self.ids = IdAllocator()
        self.executor = RuleExecutor(python_rules, self.ids, dispatch)
        self._python_rules = python_rules
        self._active = PreparedRules(RuleSet(), (None,) * len(CHAINS), 0, {})
        self._versions: Mapping[Path, Version | None] = {}
        self.disabled: set[str] = set()  # names, of rules that are not asked, whatever the configuration says

    def prepare(self, config: Config, listeners: Sequence[Endpoint | None] | None = None) -> PreparedRules:
        """Read and compile the rules of a configuration; ConfigError where that cannot be done, and nothing changes.

        `listeners` are its own, by their numbers; None: these are in their order.
        """
        guard = self._python_rules.settings_writer.guard
        return _prepare(config, self.ids, guard, config.endpoints if listeners is None else listeners)

    def activate(self, prepared: PreparedRules, config: Config, groups: Mapping[str, int]) -> dict[int, int]:
        """Let these rules be followed from now on; return the groups of upstreams by their routes.

        `groups` are their numbers by name. What the rules before need is left for queries that are with them.
        """
        self.ids.activate()
        self.ids.purge_reused(self._python_rules.settings_writer.cache)
        routes = {self.ids.routes[group_key(name)]: group for name, group in groups.items()}
        for number, group in routes.items():
            self._python_rules.set_route(number, group=group)
        answering = {self.ids.routes[route_key(rule)]: rule for rule in prepared.rules.rules if rule.answers}
        for number in answering:
            self._python_rules.set_route(number, function=True)
        for (shortest, longest), number in list(self.ids.ttl_limits.items()):
            self._python_rules.set_ttl_limits(number, shortest, longest)
        stops = tuple(compiled.stops if compiled else {} for compiled in prepared.chains)
        listeners = [str(endpoint or "") for endpoint in prepared.listeners]
        self.executor.configure(ActiveRules(prepared.generation, stops, answering, listeners, config.forward.deadline))
        self._active, self._versions = prepared, prepared.versions
        for name in self.disabled:
            self._set_enabled(name)
        self.set_local_time()
        chains = (compiled.chain if compiled else None for compiled in prepared.chains)
        self._python_rules.settings_writer.set_chains(*chains)
        return routes

    def set_local_time(self) -> None:
        """Tell the rules what the local time is: that changes twice a year, in many places."""
        offset = time.localtime().tm_gmtoff
        for compiled in self._active.chains:
            if compiled is not None:
                compiled.chain.set_offset(offset)

    def files_changed(self) -> bool:
        """Tell whether a file that rules were read from is another since."""
        before, self._versions = self._versions, {path: version_of(path) for path in self._versions}
        return before != self._versions

    async def set_up(self, prepared: PreparedRules | None = None) -> None:
        """Call what is to be called before rules, or those that are in force, begin; ConfigError where that fails."""
        for hook in (prepared or self._active).rules.setups:
            if failure := await _call("setup", hook, TIMEOUTS["setup"]):
                raise ConfigError(failure)

    async def tear_down(self, rules: RuleSet) -> None:
        """Call what is to be called when rules are in force no more, once no function of theirs runs."""
        if rules.teardowns:
            await asyncio.sleep(GRACE)
            await self.executor.drain()
        clock = asyncio.get_running_loop().time
        end = clock() + TIMEOUTS["teardown"]  # of all of them together
        for hook in rules.teardowns:
            if failure := await _call("teardown", hook, max(end - clock(), 0.0)):
                log.error("%s", failure)

    @property
    def compiled(self) -> tuple[Compiled | None, ...]:
        """The programs in force, by chain."""
        return self._active.chains

    def enable(self, name: str, *, enabled: bool) -> None:
        """Have a rule asked, or not, from now on, over reloads too; FunkenShieldError where there is none."""
        if name not in (known := [rule.name for rule in self.rule_set.rules]):
            close = get_close_matches(name, known)
            raise FunkenShieldError(f"no rule {name}" + (f"; did you mean {' or '.join(close)}?" if close else ""))
        self.disabled.discard(name) if enabled else self.disabled.add(name)
        self._set_enabled(name)
        log.warning("rule %s %s by command", name, "enabled" if enabled else "disabled")

    def _set_enabled(self, name: str) -> None:
        for compiled in filter(None, self._active.chains):
            for number, rule in enumerate(compiled.rules):
                if rule.name == name:
                    compiled.chain.enable(number, name not in self.disabled)

    def route_name(self, route: int) -> str:
        """Return where rules send queries of a route: "group NAME", or "rule NAME"."""
        if rule := self.executor.active.routes.get(route):
            return f"rule {rule.name}"
        return next((key for key, number in self.ids.routes.items() if number == route), str(route))

    def lists_with(self, server_name: str) -> int:
        """Return the lists of rules that a TLS server name is in, one bit each."""
        table = self.ids.server_name_table()
        return table.lists_with(server_name.lower().encode()) if table and server_name else 0

    def listed(self) -> list[dict[str, Any]]:
        """Return each rule in force, in the order in which they are asked, with what it did."""
        return [
            {
                "name": rule.name, "chain": rule.chain, "action": told_action(rule), "match": told_match(rule.match),
                "enabled": rule.name not in self.disabled, "matches": matched, **self.executor.counters(rule.name),
            }
            for compiled in filter(None, self._active.chains)
            for rule, matched in zip(compiled.rules, compiled.chain.matched(), strict=True)
        ]  # fmt: skip

    @property
    def names(self) -> tuple[int, list[list[str]]]:
        """The names of the rules in force, by chain, and their generation."""
        chains = [[rule.name for rule in compiled.rules] if compiled else [] for compiled in self._active.chains]
        return self._active.generation, chains

    @property
    def rule_set(self) -> RuleSet:
        """The rules in force."""
        return self._active.rules

    async def close(self) -> None:
        """End what rules still do, and tear down."""
        await self.executor.close()
        await self.tear_down(self.rule_set)

    def counters(self) -> dict[str, dict[str, float]]:
        """Return what each rule did: how often it matched, and what Python was called for."""
        return {
            rule.name: {"matches": matched, **self.executor.counters(rule.name)}
            for compiled in filter(None, self._active.chains)
            for rule, matched in zip(compiled.rules, compiled.chain.matched(), strict=True)
        }


async def _call(what: str, hook: Hook, seconds: float) -> str:
    """Call a hook, for so many seconds; return in a line how it failed, and where, or else nothing."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            result = hook()
            if inspect.isawaitable(result):
                await result
    except (Exception, SystemExit) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        why = f"{type(error).__name__}: {error} at {frame.filename}:{frame.lineno}"
        if limit.expired():
            why = f"not done within {TIMEOUTS[what]:g} s"
        return f"rules: {what} {getattr(hook, '__name__', repr(hook))}: {why}"
    return ""
