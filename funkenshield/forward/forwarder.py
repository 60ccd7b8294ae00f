"""Misses: to which upstream they go, and what happens when it does not answer.

    ready -> collect, receive -> dispatch    a batch at a time: misses, and what upstreams answered
    tick -> dispatch                         what an upstream left unanswered, to another
    ask over stream                          one query at a time: over TCP or TLS
    admit alone                              a transfer (`transfers`), or a NOTIFY (`notify`)

Python decides who may be asked (`upstream.pool`), and the compiled part (`_miss_path`) sends.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any, Protocol

import dns.rcode
from dns.rcode import REFUSED

from ..config import ForwardSection
from ..core.fair_shares import Shares, prefix_of
from ..core.logs import RateLimited
from ..upstream.axfr import is_transfer
from ..upstream.pool import Upstreams
from ..upstream.streams import UnsentError
from ..wire._message import error_response, inspect_query
from ..wire.names import name_from_wire
from ._miss_path import MissPath
from .loop_detection import Loops
from .notify import forward_notify
from .transfers import Transfers

log = logging.getLogger(__name__)
limited = RateLimited(log)

ROUNDS = 16  # of taking what came meanwhile, before the event loop has its turn
TICK = 0.016  # seconds; between two looks at the timers of pending queries


LOOKUPS = 1 << 63  # numbers from here on are no connections, but lookups of rules


class RuleHandler(Protocol):
    """Rules in Python, and what is left to them."""

    @property
    def is_busy(self) -> bool:
        """Tell whether functions are waited for."""

    def handle_queries(self, stopped: list[tuple[bytes, bytes, int, int, int, int]]) -> None:
        """Go on with queries that stopped at a rule."""

    def handle_responses(self, stopped: list[tuple[int, int, int, bytes, bytes, bytes]]) -> None:
        """Go on with responses that stopped at a rule."""

    def handle_misses(self, misses: list[tuple[int, int, bytes, float, bytes]]) -> None:
        """Answer misses in place of an upstream."""

    def handle_uncached(self, client: bytes, query: bytes, route: int) -> None:
        """Answer a query that is never cached in place of an upstream."""

    def take_answer(self, number: int, response: bytes | None) -> None:
        """Take the answer to a lookup of a rule; b"": there is none; None: it was turned away."""


class Forwarder:
    """The control thread's side of every miss."""

    def __init__(
        self,
        miss_path: MissPath,
        upstreams: Upstreams,
        handler: RuleHandler,
        poll: Callable[[str], bool],
    ) -> None:
        """Have misses decided by `handler`; `poll` is told of zones that have changed."""
        self.limit_exceeded = 0
        self._miss_path, self._upstreams, self._handler, self._poll = miss_path, upstreams, handler, poll
        self._transfers = Transfers(miss_path, upstreams)
        self._zones = miss_path.cache.zones
        self._loops = Loops()
        miss_path.notice_loops(self._loops.is_one)
        miss_path.renew_with(upstreams.renew)
        self._no_upstream = 0  # queries that failed for want of one, and were reported
        self._tasks: set[asyncio.Task[None]] = set()
        self._passing = Shares()
        self._transferring = Shares()
        self._equal: Counter[tuple[bytes, int]] = Counter()  # specials of one address, by all octets but the ID
        self._ticking: asyncio.TimerHandle | None = None
        self._share: Callable[[], None] | None = None

    def configure(
        self,
        settings: ForwardSection,
        groups: Mapping[int, int],
        notifiers: Mapping[int, Sequence[IPv4Network | IPv6Network]],
    ) -> None:
        """Follow these limits from now on, with groups of upstreams by route, and whose NOTIFY counts by zone."""
        self._settings = self._transfers.settings = settings
        self._groups, self._notifiers = groups, notifiers
        self.follow_upstreams()
        self._miss_path.set_limits(
            timeout=settings.timeout,
            deadline=settings.deadline,
            retry_after=settings.retry_after,
            update_timeout=settings.update_timeout,
            attempts=settings.attempts,
            retry_on=[dns.rcode.from_text(name) for name in settings.retry_on],
            hedge=settings.hedge,
            spoof_threshold=settings.spoof_threshold,
            refuse_overload=settings.overload == "refuse",
            retry_truncated=settings.retry_truncated,
            max_long=settings.max_uncached,
            max_forgeable=settings.max_outstanding_per_prefix,
        )

    def share_with(self, share: Callable[[], None]) -> None:
        """Say who asks other nodes what misses are looked up for, and tells them what was stored."""
        self._share = share

    def follow_upstreams(self) -> None:
        """Know the addresses that upstreams have now."""
        addresses = ((each.endpoint.host, each.section.source) for each in self._upstreams.all)
        self._loops.configure(str(address) for pair in addresses for address in pair if address)

    # ---------------------------------------------------------------- a batch at a time

    def ready(self) -> None:
        """Take what workers and upstreams have; called when either says that there is something."""
        try:
            for _ in range(ROUNDS):
                received = self._miss_path.receive()
                collected = self._miss_path.collect()
                self.dispatch()
                if not received and not collected:
                    break
        except Exception:  # a worker says it once: what it said it of may not have been taken
            asyncio.get_running_loop().call_soon(self.ready)
            raise

    def dispatch(self) -> None:
        """Decide for everything that waits for a decision, and for what comes of that."""
        miss_path = self._miss_path
        while self._decide():
            pass
        for lookup, framed in miss_path.outbox.take_streams():
            self._handler.take_answer(lookup, framed and framed[2:])
        self._transfers.notice()
        if self._ticking is None and miss_path.pending_queries:
            self._ticking = asyncio.get_running_loop().call_later(TICK, self._tick)

    def _decide(self) -> bool:
        """Decide for what waits now; True: a query may go on that is never cached, or that a function answered."""
        miss_path, rules = self._miss_path, self._miss_path.rules
        while (stopped := rules.take_stopped_queries()) or rules.has_stopped_responses:
            self._handler.handle_queries(stopped)
            self._handler.handle_responses(rules.take_stopped_responses())
        miss_path.send()
        if self._share is not None:
            self._share()
        misses = rules.take_handled()
        if misses:
            self._handler.handle_misses(misses)
        for carried in miss_path.take_stream_queries():
            self._start(self._ask_over_stream(*carried))
        specials = miss_path.take_notifies_and_transfers()
        for client, query, stream, route in specials:
            self._admit_alone(client, query, stream, route)
        return bool(misses or specials)

    def _tick(self) -> None:
        """Let pending queries grow older, and send those that an upstream failed to answer to another."""
        self._ticking = None
        self._miss_path.tick()
        self.dispatch()

    # ---------------------------------------------------------------- one query at a time

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _start_alone(
        self, key: tuple[bytes, int], shares: Shares, holder: bytes, work: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Start what is done for a transfer or a NOTIFY; equal ones, and those of one holder, are counted."""
        shares.add(holder, 1)
        self._equal[key] += 1
        self._start(self._run_alone(key, shares, holder, work))

    async def _run_alone(
        self, key: tuple[bytes, int], shares: Shares, holder: bytes, work: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Do it; who has the answer may ask again at once, so the share is given back in the same step."""
        try:
            await work()
        finally:
            shares.add(holder, -1)
            self._equal[key] -= 1
            if not self._equal[key]:
                del self._equal[key]

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Forget a task; that it failed, which none should, is for the log."""
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            limited.warning("lost", "internal error, query dropped: %r", task.exception())

    async def _ask_over_stream(
        self, handle: int, number: int, query: bytes, left: float, header: bytes, once: bool
    ) -> None:
        """Ask an upstream over TCP or TLS while `left` seconds last; `once`: not again where it may have arrived."""
        upstream = self._upstreams.by_number(number)
        response, why, unsent = None, 0, upstream is None
        try:
            async with asyncio.timeout(left):
                if upstream is not None:
                    most = self._settings.max_connections
                    response = await upstream.connections.exchange(query, most, header, once=once)
        except TimeoutError:  # so is the client's
            return
        except OSError as error:
            unsent = isinstance(error, UnsentError)
            log.debug("upstream %s: %s", upstream, error)
            why = error.errno or 0
        if response is None or not self._miss_path.resolve(handle, response):
            self._miss_path.fail(handle, why, unsent=unsent)
        self.dispatch()

    def _admit_alone(self, client: bytes, query: bytes, stream: int, route: int) -> None:
        """Let a transfer, or a NOTIFY, through within the bounds."""
        if route and route not in self._groups:
            self._handler.handle_uncached(client, query, route)
            return
        source = self._miss_path.rules.address_of(client)
        key = source, hash(query[2:])
        if self._loops.is_one(source, self._equal[key]):
            self.limit_exceeded += 1
            self._miss_path.rules.reply(client, query, error_response(query, REFUSED))
            return
        found = inspect_query(query)
        name = found["qname"].lower() if "qname" in found else b""  # however it is spelled, it is one zone
        zone = self._zones.number(name) if name else 0
        group = self._groups[route] if route else self._zones.group(zone)
        if is_transfer(found):
            if self._transferring.may_take(prefix_of(source), self._settings.max_transfers):
                work = partial(self._transfers.run, group, client, query, stream)
                self._start_alone(key, self._transferring, prefix_of(source), work)
            else:
                self._turn_away(client, query, stream)
        elif not name or not self._accepts_notify(zone, name, client):
            self._miss_path.rules.pass_on(client, query)
        elif self._passing.may_take(name, self._settings.max_uncached):  # who forges a notifier has one zone's share
            soon = partial(asyncio.get_running_loop().call_soon, self.dispatch)  # after the share is given back
            work = partial(forward_notify, self._miss_path, self._upstreams, self._settings, soon, group, client, query)
            self._start_alone(key, self._passing, name, work)
        else:
            self._turn_away(client, query, stream)

    def _turn_away(self, client: bytes, query: bytes, stream: int) -> None:
        """Refuse, or drop, what is over the bounds."""
        self.limit_exceeded += 1
        if stream or self._settings.overload == "refuse":
            self._miss_path.rules.reply(client, query, error_response(query, REFUSED))

    def _accepts_notify(self, zone: int, name: bytes, client: bytes) -> bool:
        """Tell whether a NOTIFY comes from where it may, and is for a zone of ours, whose serial is looked at then."""
        source = ip_address(self._miss_path.rules.address_of(client))
        notifiers = self._notifiers.get(zone, self._notifiers[0])
        return any(source in prefix for prefix in notifiers) and self._poll(name_from_wire(name))

    def _is_waited_for(self) -> bool:
        """Tell whether somebody waits for an answer, whoever is to give it."""
        passed = self._passing.taken or self._transferring.taken
        return bool(self._miss_path.pending_queries or passed or self._handler.is_busy)

    def housekeeping(self) -> None:
        """Report queries that failed because there was no upstream to ask; called about once a second."""
        failed = self._miss_path.counters()["no_upstream_available"]
        if failed != self._no_upstream:
            limited.warning("nobody", "query failed: no upstream is available", times=failed - self._no_upstream)
        self._no_upstream = failed

    async def drain(self, seconds: float) -> None:
        """Wait until nobody waits for an upstream any more, at most so long."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while self._is_waited_for() and loop.time() < end:
            await asyncio.sleep(TICK)
        if self._ticking is not None:
            self._ticking.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
