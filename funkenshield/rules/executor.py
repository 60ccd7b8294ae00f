"""Rules in Python: a rule's function is called, may be waited for, and what it returns is done.

    a query that stopped at a rule        -> goes on, or is answered
    a miss that a function answers        -> is settled, as if an upstream had answered
    a response that stopped at a rule     -> goes on, changed or not, or is given up

It knows calls, and how long they took. What an action does is told in `handlers`, where a query stops in `compiler`.
"""

import asyncio
import inspect
import logging
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

import dns.message

from ..cache._entry import is_response_to
from ..config.action import Action
from ..forward._python_rules import PythonRules
from ..wire._message import error_response
from . import handlers
from .compiler import END, RCODES, START, IdAllocator, Rule, Stop, route_to
from .query import PAYLOAD, Query, Sender

log = logging.getLogger("funkenshield.rules")

CALLS_MAX = 10_000  # that are waited for at once
THREADS = 8  # that functions are called in
DEPTH = 8  # of questions that rules ask about questions of rules
REST = 15.0  # seconds; more than a deadline and a delay can be
ASKED = 1 << 63  # questions of rules are numbered from here on
LARGEST = 65535  # octets of a response, whatever its client takes: who sends it cuts it
TC = 0x02  # in the third octet of a header
REFUSED, SERVFAIL = 5, 2


@dataclass(frozen=True)
class ActiveRules:
    """The rules in force: where they stop, by chain and node, and who answers in an upstream's place, by way."""

    generation: int = 0
    stops: tuple[Mapping[int, Stop], ...] = ({}, {}, {})
    routes: Mapping[int, Rule] = field(default_factory=dict)
    listeners: Sequence[str] = ()
    deadline: float = 2.5


class RuleCall:
    """One query on its way through one rule's function; each kind ends in its own way."""

    at = END  # where it goes on
    route = -1  # who is asked when the function asks on; -1: whoever would be

    def __init__(self, decider: "Decider", rule: Rule, client: bytes, wire: bytes, left: float) -> None:
        self.decider, self.inflight = decider, decider.inflight
        self.rule, self.client, self.wire, self.left = rule, client, wire, left
        self.generation = decider.active.generation

    def query(self, response: bytes | None = None) -> Query:
        """Return what the function is given."""
        return Query(self.wire, self.decider.sender(self.client), self._ask, response)

    async def _ask(self, wire: bytes) -> bytes:
        return await self.decider.ask(self.client, wire, self.at, self.generation, self.route)

    def conclude(self, result: object) -> None:
        """Do what a function, or a rule whose function failed, returned."""
        if isinstance(result, dns.message.Message):
            self.answer(result.to_wire(max_size=LARGEST))
        elif isinstance(result, bytes):
            self.answer(result)
        elif result is None or (isinstance(result, Action) and result.kind == "continue"):
            self.go_on()
        elif not isinstance(result, Action):
            raise TypeError(f"a rule returns an Action, a response or None, not {type(result).__name__}")
        elif result.kind in RCODES:
            self.answer(error_response(self.wire, RCODES[result.kind], PAYLOAD))
        elif result.kind == "drop":
            self.drop()
        elif result.kind == "allow":
            self.let_pass()
        elif result.kind in handlers.HANDLERS:
            self.left += result.delay
            self.decider.start(self, partial(handlers.HANDLERS[result.kind], result))
        else:
            self.adjust(result)

    def fail(self) -> None:
        """Give the query what its rule says for a function that failed."""
        self.conclude(Action.model_validate(self.rule.on_error))

    def answer(self, response: bytes) -> None:
        """Answer with this response."""
        raise NotImplementedError

    def go_on(self) -> None:
        """Let the next rule be asked."""
        raise NotImplementedError

    def drop(self) -> None:
        """Answer nothing."""
        raise NotImplementedError

    def let_pass(self) -> None:
        """Let it go its usual way, past all rules."""
        raise NotImplementedError

    def adjust(self, action: Action) -> None:
        """Do what only some can."""
        raise TypeError(f"the action {action.kind} is not possible here")


class QueryCall(RuleCall):
    """A query that stopped at a rule, or that is never cached."""

    def __init__(
        self, decider: "Decider", rule: Rule, client: bytes, wire: bytes, left: float, at: int, generation: int
    ) -> None:
        super().__init__(decider, rule, client, wire, left)
        self.at, self.generation = at, generation

    def answer(self, response: bytes) -> None:
        """Answer the client. Raises ValueError for what is no response to his query."""
        if not is_response_to(self.wire, response):
            raise ValueError("not a response to this query")
        self.inflight.reply(self.client, self.wire, response)

    def go_on(self) -> None:
        """Let it go on in its chain."""
        self.inflight.resume(self.client, self.wire, self.at, self.generation, route=self.route)

    def drop(self) -> None:
        """Leave the client without an answer."""
        self.inflight.drop(self.client)

    def let_pass(self) -> None:
        """Let it go on behind the chain."""
        self.inflight.resume(self.client, self.wire, END, self.generation, route=self.route)

    def adjust(self, action: Action) -> None:
        """Change its course."""
        numbers = self.decider.numbers
        resume = partial(self.inflight.resume, self.client, self.wire, route=self.route)
        if action.kind == "forward":
            key = route_to(Rule("", "queries", self.rule.match, action))
            if key not in numbers.routes:
                raise ValueError(f"there is no group {action.forward} of upstreams")
            resume(END, self.generation, route=numbers.routes[key])
        elif action.kind == "tag":
            resume(self.at, self.generation, tags=numbers.tag(action.tag))
        elif action.kind == "skip_cache":
            resume(self.at, self.generation, uncached=True)
        elif action.ttl is not None:
            number = numbers.bound((action.ttl.min, action.ttl.max))
            self.inflight.set_ttl_limits(number, action.ttl.min, action.ttl.max)
            resume(self.at, self.generation, ttl_limits=number)
        elif action.kind == "truncate" and self.decider.sender(self.client).transport == "udp":
            wire = bytearray(error_response(self.wire, 0, PAYLOAD))
            wire[2] |= TC
            self.answer(bytes(wire))
        elif action.kind == "truncate":
            self.let_pass()
        else:
            super().adjust(action)


class MissCall(RuleCall):
    """A miss, whose answer is kept for all who ask the same: to them, the function is an upstream."""

    route = 0

    def __init__(self, decider: "Decider", rule: Rule, client: bytes, wire: bytes, left: float, handle: int) -> None:
        super().__init__(decider, rule, client, wire, left)
        self.handle = handle

    def answer(self, response: bytes) -> None:
        """Answer all who wait."""
        if not self.inflight.settle(self.handle, response):
            raise ValueError("not a response to this query, or too late")

    def go_on(self) -> None:
        """Ask an upstream, and keep what it says as the function's answer."""
        self.let_pass()

    def drop(self) -> None:
        """Give it up: those who wait get what is stale, or SERVFAIL."""
        self.inflight.give_up(self.handle)

    def let_pass(self) -> None:
        """Ask an upstream, and keep what it says as the function's answer."""
        self.decider.start(self, _resolve)


async def _resolve(query: Query) -> bytes:
    return await query.resolve_wire()


class ReviewCall(RuleCall):
    """A response that stopped at a rule."""

    def __init__(
        self, decider: "Decider", rule: Rule, client: bytes, wire: bytes, left: float, handle: int, at: int,
        generation: int, response: bytes,
    ) -> None:  # fmt: skip
        super().__init__(decider, rule, client, wire, left)
        self.handle, self.response, self.generation, self.next = handle, response, generation, at

    def query(self, response: bytes | None = None) -> Query:
        """Return what the function is given: with the response."""
        return super().query(self.response)

    async def _ask(self, wire: bytes) -> bytes:
        """Ask for something else; this question's answer is what all who ask it wait for, and is there."""
        return self.response if wire == self.wire else await super()._ask(wire)

    def answer(self, response: bytes) -> None:
        """Let this response stand in the place of the other."""
        self.inflight.conclude(self.handle, response, END, self.generation)

    def go_on(self) -> None:
        """Let the next rule see the response."""
        self.inflight.conclude(self.handle, self.response, self.next, self.generation)

    def drop(self) -> None:
        """Let it be as if there had been no response."""
        self.inflight.conclude(self.handle, None, END, self.generation)

    def let_pass(self) -> None:
        """Let the response be."""
        self.answer(self.response)


class Decider:
    """Runs the functions of rules, and counts what they take."""

    def __init__(self, inflight: PythonRules, numbers: IdAllocator, dispatch: Callable[[], None]) -> None:
        self.inflight = inflight
        self.numbers = numbers
        self.active = ActiveRules()
        self.rejected = 0
        self._dispatch = dispatch
        self._before = ActiveRules()
        self._tags: dict[int, frozenset[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._questions: dict[int, asyncio.Future[bytes]] = {}
        self._depths: dict[int, int] = {}  # of questions
        self._next = ASKED
        self._calls: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._seconds: dict[str, float] = defaultdict(float)
        self._told: dict[str, float] = defaultdict(lambda: -1.0)  # when an error was reported last
        self._threads: Threads | None = None
        self._closing = False

    def configure(self, active: ActiveRules) -> None:
        """Follow these rules from now on; queries that stopped at those before may still end there."""
        self._before, self.active = self.active, active

    def counters(self) -> dict[str, dict[str, float]]:
        """Return for each rule that Python does something for: calls, errors, and seconds that they took in all."""
        return {
            name: {
                "handler_calls": self._calls[name],
                "handler_errors": self._errors[name],
                "handler_seconds": round(self._seconds[name], 6),
            }
            for name in self._calls
        }

    def sender(self, client: bytes) -> Sender:
        """Return whose query it is."""
        address, transport, listener, tags, _ = self.inflight.who(client)
        listeners = self.active.listeners
        if tags not in self._tags:
            known = list(self.numbers.tags.items())  # others may be added meanwhile, by a thread that reads rules
            self._tags[tags] = frozenset(name for name, at in known if tags >> at & 1)
        return Sender(
            address, transport, listeners[listener] if listener < len(listeners) else "", self._tags[tags]
        )  # fmt: skip

    # ---------------------------------------------------------------- batches

    def _stop(self, generation: int, chain: int, at: int) -> Stop | None:
        active = next((each for each in (self.active, self._before) if each.generation == generation), None)
        return active.stops[chain].get(at) if active else None

    def decide(self, stopped: list[tuple[bytes, bytes, int, int, int, int]]) -> None:
        """Decide about queries that stopped at a rule; those of rules that are no more begin anew."""
        for client, wire, _stream, chain, at, generation in stopped:
            stop = self._stop(generation, chain, at)
            if stop is None:
                self.inflight.resume(client, wire, START, self.active.generation)
            elif stop.regex is not None:
                self.inflight.resume(client, wire, _next(stop, wire), generation)
            else:
                call = QueryCall(self, stop.rule, client, wire, self.active.deadline, stop.yes, generation)
                self.start(call, _function(stop.rule))

    def review(self, stopped: list[tuple[int, int, int, bytes, bytes, bytes]]) -> None:
        """Decide about responses that stopped at a rule; those of rules that are no more stay as they are."""
        for handle, at, generation, wire, response, client in stopped:
            stop = self._stop(generation, 1, at)
            if stop is None:
                self.inflight.conclude(handle, response, END, generation)
            elif stop.regex is not None:
                self.inflight.conclude(handle, response, _next(stop, wire), generation)
            else:
                call = ReviewCall(
                    self, stop.rule, client, wire, self.active.deadline, handle, stop.yes, generation, response
                )
                self.start(call, _function(stop.rule))

    def handle(self, misses: list[tuple[int, int, bytes, float, bytes]]) -> None:
        """Answer misses in place of an upstream."""
        for handle, route, wire, left, client in misses:
            rule = self.active.routes.get(route) or self._before.routes.get(route)
            if rule is None:
                self.inflight.give_up(handle)
            else:
                self.start(MissCall(self, rule, client, wire, left, handle), _function(rule))

    def serve(self, client: bytes, query: bytes, route: int) -> None:
        """Answer a query that is never cached."""
        rule = self.active.routes.get(route) or self._before.routes.get(route)
        if rule is None:
            self.inflight.reply(client, query, error_response(query, SERVFAIL, PAYLOAD))
            return
        call = QueryCall(self, rule, client, query, self.active.deadline, END, self.active.generation)
        call.route = 0
        self.start(call, _function(rule))

    # ---------------------------------------------------------------- one call

    def start(self, call: RuleCall, function: Callable[[Query], Any]) -> None:
        """Call a function, and do what it returns, now or when that is there."""
        name = call.rule.name
        begun = time.perf_counter()
        self._calls[name] += 1
        try:
            if function is call.rule.function and _may_block(call.rule):
                if self._turned_away(call, self._threads.waiting if self._threads is not None else 0):
                    return
                result = self._in_a_thread(function, call.query())
            else:
                result = function(call.query())
            if inspect.isawaitable(result):
                self._wait_for(call, result, begun, last=function is _resolve)
                return
            self._seconds[name] += time.perf_counter() - begun
            call.conclude(result)
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            self._failed(call, error)

    def _in_a_thread(self, function: Callable[[Query], Any], query: Query) -> Awaitable[object]:
        if self._threads is None:
            self._threads = Threads(THREADS)
        return self._threads.call(function, query)

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
        call.answer(error_response(call.wire, REFUSED, PAYLOAD))
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
            self._seconds[call.rule.name] += seconds
            call.conclude(found)
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            if self._closing:
                raise
            self._failed(call, error, last=last)
        self._dispatch()

    def _failed(self, call: RuleCall, error: BaseException, *, last: bool = False) -> None:
        """Count and report an error, and give the query what its rule says; `last`: that has failed too."""
        name = call.rule.name
        self._errors[name] += 1
        self._report(call.rule, error)
        try:
            if last:
                call.drop()
            else:
                call.fail()
        except Exception as again:  # a query that cannot even be refused
            log.debug("rule %s", name, exc_info=again)
            with suppress(Exception):
                call.drop()

    def _report(self, rule: Rule, error: BaseException) -> None:
        """Write an error to the log, for each rule one a second: a flood of queries is no flood of lines."""
        name, now = rule.name, time.monotonic()
        if self._told[name] + 1 > now:
            return
        self._told[name] = now
        frames = traceback.extract_tb(error.__traceback__)
        own = getattr(getattr(rule.function, "__code__", None), "co_filename", "")
        frame = next((each for each in reversed(frames) if each.filename == own), frames[-1] if frames else None)
        where = f" at {frame.filename}:{frame.lineno}" if frame and not isinstance(error, TimeoutError) else ""
        told = "timed out" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
        log.error("rule %s: %s%s", name, told, where)
        log.debug("rule %s", name, exc_info=error)

    # ---------------------------------------------------------------- questions of rules

    async def ask(self, client: bytes, wire: bytes, at: int, generation: int, route: int) -> bytes:
        """Return the answer to a query that goes on from there; OSError where it gets none."""
        depth = self._depths.get(self.inflight.who(client)[4], 0) + 1
        if depth > DEPTH:
            raise OSError(f"rules resolve queries of rules, {DEPTH} deep")
        number, self._next = self._next, self._next + 1
        self._depths[number] = depth
        self._questions[number] = future = asyncio.get_running_loop().create_future()
        try:
            self.inflight.ask(client, wire, at, generation, number, route=route)
            self._dispatch()
            answer: bytes = await future
        finally:
            del self._questions[number], self._depths[number]
        return answer

    def answered(self, number: int, response: bytes) -> None:
        """Take the answer to a question; b"": there is none."""
        future = self._questions.get(number)
        if future is None or future.done():
            return
        if response:
            future.set_result(response)
        else:
            future.set_exception(OSError("no answer"))

    @property
    def is_busy(self) -> bool:
        """Tell whether functions are waited for."""
        return bool(self._tasks)

    async def rest(self) -> None:
        """Wait until the functions that run now have ended, as their deadlines see to."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=REST)

    async def close(self) -> None:
        """End what is still waited for."""
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._threads is not None:
            self._threads.close()
        handlers.close()


class CallResult(NamedTuple):
    """What a function returned, and the seconds that it took."""

    result: object
    seconds: float


class Threads:
    """Threads that functions are called in; unlike an executor's, they keep no process from ending."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._calls: SimpleQueue[tuple[Future[CallResult], Callable[[], object]] | None] = SimpleQueue()
        for _ in range(count):
            Thread(target=self._run, name="rule", daemon=True).start()

    def call(self, function: Callable[[Query], Any], query: Query) -> Awaitable[CallResult]:
        """Have a function called; what it returned, and when, can be waited for."""
        future: Future[CallResult] = Future()
        self._calls.put((future, partial(function, query)))
        return asyncio.wrap_future(future)

    @property
    def waiting(self) -> int:
        """How many calls no thread has begun, those among them that were given up."""
        return self._calls.qsize()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function = call
            if not future.set_running_or_notify_cancel():
                continue
            begun = time.perf_counter()
            try:
                future.set_result(CallResult(function(), time.perf_counter() - begun))
            except StopIteration as error:  # no future takes that one
                future.set_exception(RuntimeError(f"StopIteration: {error}"))
            except BaseException as error:  # whoever waits for it is told
                future.set_exception(error)

    def close(self) -> None:
        """End the threads, each when its function has ended."""
        for _ in range(self._count):
            self._calls.put(None)


def _may_block(rule: Rule) -> bool:
    """Tell whether a rule's function is called in a thread: it is not async, and its rule does not say `inline`."""
    return not (rule.inline or inspect.iscoroutinefunction(rule.function))


def _next(stop: Stop, wire: bytes) -> int:
    """Return where a query goes on whose name a regular expression is asked about."""
    assert stop.regex is not None
    name = Query(wire, Sender(b"")).qname.lower().rstrip(".")
    return stop.yes if stop.regex.search(name) else stop.no


def _function(rule: Rule) -> Callable[[Query], Any]:
    """Return what a rule does, as a function of a query."""
    if rule.action.kind in {"zone", "zone_file"} and rule.function is not None:
        respond = rule.function
        return lambda query: respond(query.wire, True)
    if rule.function is not None:
        return rule.function
    return partial(handlers.HANDLERS[rule.action.kind], rule.action)
