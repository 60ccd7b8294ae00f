"""Rules in Python: functions of rules are called, on the event loop or in a thread, and waited for within a deadline.

It knows calls, how long they took and that they failed. `calls` has what a result does, `compiler` where a query
stops.
"""

import asyncio
import inspect
import itertools
import logging
import time
import traceback
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import inf

from dns.rcode import SERVFAIL

from ..config.action import Action
from ..core._limits import EDNS_UDP_SIZE
from ..forward._python_rules import PythonRules
from ..forward.forwarder import LOOKUPS
from ..wire._message import error_response
from . import handlers
from .calls import Function, MissCall, QueryCall, ResponseCall, RuleCall, TurnedAwayError
from .compiler import END, IdAllocator, Rule, Stop
from .query import ClientInfo, Query
from .threads import CallResult, Threads

log = logging.getLogger("funkenshield.rules")

CALLS_MAX = 10_000  # that are waited for at once
THREADS = 8  # that functions are called in
DEPTH = 8  # of lookups that rules make for lookups of rules
DRAINING = 15.0  # seconds; more than a deadline and a delay can be
RESPONSES = 1  # a chain


@dataclass(frozen=True)
class ActiveRules:
    """The rules in force: where they stop, by chain and node, and who answers in an upstream's place, by route."""

    generation: int = 0
    stops: tuple[Mapping[int, Stop], ...] = ({}, {}, {})
    routes: Mapping[int, Rule] = field(default_factory=dict)
    listeners: Sequence[str] = ()
    deadline: float = 2.5


@dataclass
class CallStats:
    """What the calls of one rule's function came to."""

    calls: int = 0
    errors: int = 0
    seconds: float = 0.0
    reported: float = -inf  # when an error was reported last


class RuleExecutor:
    """Calls the functions of rules, and counts what they take."""

    def __init__(self, python_rules: PythonRules, ids: IdAllocator, dispatch: Callable[[], None]) -> None:
        self.active = ActiveRules()
        self.rejected = 0
        self._python_rules = python_rules
        self._ids = ids
        self._dispatch = dispatch
        self._previous = ActiveRules()
        self._tags: dict[int, frozenset[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lookups: dict[int, tuple[int, asyncio.Future[bytes]]] = {}  # depth, and answer
        self._next_lookup = itertools.count(LOOKUPS)
        self._stats: defaultdict[str, CallStats] = defaultdict(CallStats)
        self._threads = Threads(THREADS)
        self._closing = False

    def configure(self, active: ActiveRules) -> None:
        """Follow these rules from now on; queries that stopped at the previous ones may still end there."""
        self._previous, self.active = self.active, active
        self._tags.clear()  # their bits may be other tags' from now on

    def counters(self, rule: str) -> dict[str, float]:
        """Return how often a rule's function was called and failed, and the seconds that it took in all."""
        stats = self._stats.get(rule, CallStats())
        return {
            "handler_calls": stats.calls, "handler_errors": stats.errors, "handler_seconds": round(stats.seconds, 6)
        }  # fmt: skip

    def query(self, call: RuleCall) -> Query:
        """Return what a function is given."""
        address, transport, listener, tags, _ = self._python_rules.client_info(call.client)
        listeners = self.active.listeners
        if tags not in self._tags:
            known = list(self._ids.tags.items())  # others may be added meanwhile, by a thread that reads rules
            self._tags[tags] = frozenset(name for name, at in known if tags >> at & 1)
        name = listeners[listener] if listener < len(listeners) else ""
        server_name = self._python_rules.server_name(call.client)
        client = ClientInfo(address, transport, name, self._tags[tags], server_name)
        return Query(call.wire, client, partial(self._look_up, call), call.response)

    # ---------------------------------------------------------------- batches

    def handle_queries(self, stopped: list[tuple[bytes, bytes, int, int, int, int]]) -> None:
        """Go on with queries that stopped at a rule; those of rules that are gone begin again."""
        for client, wire, _stream, chain, at, generation in stopped:
            call = QueryCall(self._python_rules, self._ids, client, wire, self.active.deadline, generation, at)
            self._go_on(call, chain)

    def handle_responses(self, stopped: list[tuple[int, int, int, bytes, bytes, bytes]]) -> None:
        """Go on with responses that stopped at a rule; those of rules that are gone stay as they are."""
        for handle, at, generation, wire, response, client in stopped:
            call = ResponseCall(
                self._python_rules, self._ids, client, wire, self.active.deadline, generation, at, -1, handle, response
            )
            self._go_on(call, RESPONSES)

    def _go_on(self, call: QueryCall | ResponseCall, chain: int) -> None:
        rules = next((each for each in (self.active, self._previous) if each.generation == call.generation), None)
        stop = rules.stops[chain].get(call.at) if rules else None
        if stop is None:
            call.restart(self.active.generation)
        elif stop.regex is not None:
            name = Query(call.wire, ClientInfo(b"")).qname.lower().rstrip(".")
            call.at = stop.yes if stop.regex.search(name) else stop.no
            call.go_on()
        else:
            call.at = stop.yes
            self._run(call, stop.rule)

    def handle_misses(self, misses: list[tuple[int, int, bytes, float, bytes]]) -> None:
        """Answer misses in place of an upstream."""
        for handle, route, wire, left, client in misses:
            rule = self._rule_at(route)
            if rule is None:
                self._python_rules.give_up(handle)
            else:
                generation = self.active.generation
                call = MissCall(self._python_rules, self._ids, client, wire, left, generation, END, 0, handle)
                self._run(call, rule)

    def handle_uncached(self, client: bytes, query: bytes, route: int) -> None:
        """Answer a query that is never cached in place of an upstream."""
        rule = self._rule_at(route)
        if rule is None:
            self._python_rules.reply(client, query, error_response(query, SERVFAIL, EDNS_UDP_SIZE))
        else:
            active = self.active
            call = QueryCall(self._python_rules, self._ids, client, query, active.deadline, active.generation, END, 0)
            self._run(call, rule)

    def _rule_at(self, route: int) -> Rule | None:
        return self.active.routes.get(route) or self._previous.routes.get(route)

    # ---------------------------------------------------------------- one call

    def _run(self, call: RuleCall, rule: Rule) -> None:
        call.rule = rule
        self.start(call, rule.function or partial(handlers.HANDLERS[rule.action.kind], rule.action))

    def start(self, call: RuleCall, function: Function) -> None:
        """Call a function, and do what it returns, now or when that is there."""
        rule, stats, begun = call.rule, self._stats[call.rule.name], time.perf_counter()
        stats.calls += 1
        try:
            if function is rule.function and not rule.inline and not inspect.iscoroutinefunction(function):
                if self._turned_away(call, self._threads.waiting):
                    return
                result = self._threads.call(partial(function, self.query(call)))
            else:
                result = function(self.query(call))
            if inspect.isawaitable(result):
                self._wait_for(call, result, begun, last=function is Query.resolve_wire)
                return
            stats.seconds += time.perf_counter() - begun
            self._conclude(call, result)
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            self._failed(call, error)

    def _conclude(self, call: RuleCall, result: object) -> None:
        call.following = None
        call.conclude(result)
        if call.following is not None:
            self.start(call, call.following)

    def _wait_for(self, call: RuleCall, result: Awaitable[object], begun: float, *, last: bool) -> None:
        if self._turned_away(call):
            if inspect.iscoroutine(result):
                result.close()
            return
        task = asyncio.get_running_loop().create_task(self._finish(call, result, begun, last=last))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _turned_away(self, call: RuleCall, calls: int = 0) -> bool:
        """Refuse a query whose function would have to be waited for, where too many are, or wait for a thread."""
        if max(len(self._tasks), calls) < CALLS_MAX:
            return False
        self.rejected += 1
        call.turn_away()
        return True

    async def _finish(self, call: RuleCall, result: Awaitable[object], begun: float, *, last: bool) -> None:
        delayed = call.rule.action.delay  # is not what the deadline is for
        try:
            async with asyncio.timeout(call.left + delayed):
                found = await result
                seconds = time.perf_counter() - begun
                if isinstance(found, CallResult):  # it may have waited for a thread, and for us
                    found, seconds = found
                if inspect.isawaitable(found):
                    found = await found
            self._stats[call.rule.name].seconds += seconds
            self._conclude(call, found)
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            if self._closing:
                raise
            self._failed(call, error, last=last)
        self._dispatch()

    def _failed(self, call: RuleCall, error: BaseException, *, last: bool = False) -> None:
        """Count and report an error, and give the query what its rule says; `last`: that has failed too.

        That nobody has time for what the function asked is none of its errors: nobody has time for its query.
        """
        turned_away = isinstance(error, TurnedAwayError)
        if not turned_away:
            self._report(call.rule, error)
        try:
            if turned_away:
                call.turn_away()
            elif last:
                call.drop()
            else:
                self._conclude(call, Action.model_validate(call.rule.on_error))
        except Exception as again:  # a query that cannot even be refused
            log.debug("rule %s", call.rule.name, exc_info=again)
            with suppress(Exception):
                call.drop()

    def _report(self, rule: Rule, error: BaseException) -> None:
        """Count an error, and write it to the log, for each rule one a second: a flood of queries is no flood there."""
        stats, now = self._stats[rule.name], time.monotonic()
        stats.errors += 1
        if stats.reported + 1 > now:
            return
        stats.reported = now
        frames = traceback.extract_tb(error.__traceback__)
        own = getattr(getattr(rule.function, "__code__", None), "co_filename", "")
        frame = next((each for each in reversed(frames) if each.filename == own), frames[-1] if frames else None)
        where = f" at {frame.filename}:{frame.lineno}" if frame and not isinstance(error, TimeoutError) else ""
        what = "timed out" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
        log.error("rule %s: %s%s", rule.name, what, where)
        log.debug("rule %s", rule.name, exc_info=error)

    # ---------------------------------------------------------------- lookups of functions

    async def _look_up(self, call: RuleCall, wire: bytes) -> bytes:
        """Return the answer to a query that a function makes; OSError where it gets none."""
        if call.response is not None and wire == call.wire:  # its answer is what all who ask it wait for, and is there
            return call.response
        outer = self._lookups.get(self._python_rules.client_info(call.client)[4])
        depth = outer[0] + 1 if outer else 1
        if depth > DEPTH:
            raise OSError(f"rules resolve queries of rules, {DEPTH} deep")
        number = next(self._next_lookup)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._lookups[number] = depth, answer
        try:
            call.look_up(wire, number)
            self._dispatch()
            return await answer
        finally:
            del self._lookups[number]

    def take_answer(self, number: int, response: bytes | None) -> None:
        """Take the answer to a lookup; b"": there is none; None: it was turned away."""
        _, answer = self._lookups.get(number, (0, None))
        if answer is None or answer.done():
            return
        if response:
            answer.set_result(response)
        elif response is None:
            answer.set_exception(TurnedAwayError("nobody has time for this query"))
        else:
            answer.set_exception(OSError("no answer"))

    @property
    def is_busy(self) -> bool:
        """Tell whether functions are waited for."""
        return bool(self._tasks)

    async def drain(self) -> None:
        """Wait until the functions that run now have ended, as their deadlines see to."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=DRAINING)

    async def close(self) -> None:
        """End what is still waited for."""
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.close()
        handlers.close()
