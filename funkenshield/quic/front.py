"""The front: sockets that QUIC comes to, whose each datagram is, and what the daemon tells this process.

    datagram -> of a connection that there is: its state machine -> query -> relay -> a worker of the daemon
             -> of a stranger: proven? room? time? -> a connection, or a token to come back with (Retry), or nothing

The daemon starts it with one end of a socket pair, on which both write lines of JSON: settings, and numbers of
descriptors, come from there, counters go there. Where that ends, so does the process.
"""

import asyncio
import base64
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import time
from collections import Counter
from ipaddress import ip_address
from struct import pack, unpack
from typing import Any

import uvloop

from ..core import early_signals, logs
from ..core.logs import RateLimited
from ..server.quic import ALPN, QuicContexts
from .bounds import Bounds, Limits
from .connection import Connection, Services
from .handshake import Address, ServerConnection, Shown
from .relay import Relay
from .retry import CID
from .strangers import Begun, Secrets, Strangers, cid_of
from .tickets import Tickets

log = logging.getLogger(__name__)
limited = RateLimited(log)

AT_ONCE = 64  # datagrams of one socket, before others have their turn
DATAGRAM_MAX, ANCILLARY = 65535, 64  # octets
IP_PKTINFO, IPV4_LOCAL = 8, 12  # <linux/in.h>; octets of what is told with it
V4, V6 = (socket.IPPROTO_IP, IP_PKTINFO), (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)
SECOND = 1.0
NICE = 5  # workers go first, where there are fewer cores than work: a flood here costs them little
LINE_MAX = 1 << 24  # octets of what the daemon says
TIMER_SLACK = 0.001  # seconds
WAIT = 0.01  # seconds that acknowledgements and credit wait for an answer that takes them along


class Door:
    """One listener: its socket, its connections, and its relay to the daemon."""

    def __init__(
        self, told: dict[str, Any], secrets: Secrets, opened: socket.socket, relay: Relay, bounds: Bounds
    ) -> None:
        self._socket, self._bounds = opened, bounds
        self._alpn = ALPN[told["transport"]]
        self._routes: dict[bytes, Connection] = {}
        self._timers: dict[Connection, asyncio.TimerHandle] = {}
        self._unflushed: dict[Connection, None] = {}
        self._waiting: dict[Connection, None] = {}
        self._number = 0
        self._own: Address = opened.getsockname()[:2]
        self._strangers = Strangers(secrets, f"{self._alpn} {self._own}", bounds, self._send)
        self._loop = asyncio.get_running_loop()
        self.statuses: Counter[int] = Counter()
        self.is_leaving = False
        self._services = Services(
            alpn=self._alpn, paths=(), bounds=bounds, counters=bounds.counters, statuses=self.statuses, ask=relay.ask,
            send=self._send, route=self._route, flush_later=self._flush_later, ended=self._ended,
        )  # fmt: skip
        self.configure(told)
        self._loop.add_reader(opened.fileno(), self._receive)

    def configure(self, told: dict[str, Any]) -> None:
        """Show new connections what was told."""
        contexts = QuicContexts.as_read(told, self._alpn, self._bounds.limits.idle_timeout)
        tickets = Tickets(contexts.ticket_secret, contexts.ticket_lifetime, self._alpn)
        self._shown = Shown(contexts, tickets, self._strangers.resets.token)
        self._services = self._services._replace(paths=frozenset(path.encode() for path in told["paths"]))

    # ---------------------------------------------------------------- datagrams

    def _receive(self) -> None:
        now = time.monotonic()
        for _ in range(AT_ONCE):
            try:
                datagram, ancillary, _, address = self._socket.recvmsg(DATAGRAM_MAX, ANCILLARY)
            except BlockingIOError:
                break
            except OSError:  # of one that was sent: nobody is there (ICMP)
                continue
            try:
                self._take(datagram, address, ancillary, now)
            except BaseException as error:  # a panic of Rust's, too
                self._bounds.counters["internal_errors"] += 1
                limited.warning("error", "QUIC: internal error, a datagram is dropped: %r", error)
        for connection in [each for each in self._unflushed if each.can_wait]:  # an answer takes more along
            del self._unflushed[connection]
            if not self._waiting:
                self._loop.call_later(WAIT, self._flush_waiting)
            self._waiting[connection] = None
        self._flush(now)

    def _take(self, datagram: bytes, address: Address, ancillary: list[tuple[int, int, bytes]], now: float) -> None:
        """Give a datagram to its connection, or see whether one begins."""
        if len(datagram) <= CID:
            return
        if "%" in address[0]:  # its scope is the last number, too
            address = (address[0].partition("%")[0], *address[1:])
        connection = self._routes.get(cid_of(datagram))
        if connection is None:
            local = _local(ancillary)
            begun = self._strangers.take(datagram, address, local, now)
            connection = begun and self._begin(begun, address, local, now)
        if connection is None:
            return
        if connection.is_established:
            connection.receive(datagram, address, now)
        elif self._bounds.of_handshakes.may_go_on(connection.prefix, now):
            began = time.thread_time()
            connection.receive(datagram, address, now)
            self._bounds.of_handshakes.spend(connection.prefix, time.thread_time() - began)
        else:
            self._bounds.counters["dropped"] += 1
        self._unflushed[connection] = None

    def _begin(self, begun: Begun, address: Address, local: bytes, now: float) -> Connection | None:
        """Begin a connection, where there is room, and time."""
        if not self._bounds.may_begin(ip_address(address[0]).packed, now):
            return None
        quic = ServerConnection(self._shown, begun.original, begun.ours)
        self._number += 1
        asked = (str(ip_address(_asked(local))), self._own[1]) if local else self._own
        connection = Connection(self._services, quic, self._number, address[:2], asked, local, now)
        if not self._bounds.admit(connection, now):
            return None
        for cid in {begun.ours, quic.host_cid}:
            connection.add_route(cid)
        return connection

    def _send(self, datagram: bytes, address: Address, local: bytes) -> None:
        """Send a datagram, from the address that was asked; what the kernel has no room for is lost, as on the way."""
        with contextlib.suppress(OSError):
            if local:
                self._socket.sendmsg([datagram], [(*(V4 if len(local) == IPV4_LOCAL else V6), local)], 0, address)
            else:
                self._socket.sendto(datagram, address)

    # ---------------------------------------------------------------- connections

    def _route(self, cid: bytes, connection: Connection | None) -> None:
        if connection is None:
            self._routes.pop(cid, None)
        else:
            self._routes[cid] = connection

    def _flush_later(self, connection: Connection) -> None:
        if not self._unflushed:
            self._loop.call_soon(self._flush_now)
        self._unflushed[connection] = None

    def _flush_now(self) -> None:
        self._flush(time.monotonic())

    def _flush_waiting(self) -> None:
        self._unflushed |= self._waiting
        self._flush_now()

    def _flush(self, now: float) -> None:
        """Send what connections have for their clients, and be there when something is due."""
        unflushed, self._unflushed = self._unflushed, {}
        for connection in unflushed:
            self._waiting.pop(connection, None)
            self._arm(connection, connection.flush(now), now)
            if self.is_leaving and connection.is_idle and not connection.is_over:
                connection.give_way(now)

    def _arm(self, connection: Connection, due: float | None, now: float) -> None:
        timer = self._timers.get(connection)
        if due is None or connection.is_over:
            return
        if timer is None or timer.when() > self._loop.time() + (due - now) + TIMER_SLACK:
            if timer is not None:
                timer.cancel()
            self._timers[connection] = self._loop.call_later(max(due - now, TIMER_SLACK), self._due, connection)

    def _due(self, connection: Connection) -> None:
        """Do what is due, which may have moved since its timer was set."""
        self._timers.pop(connection, None)
        now = time.monotonic()
        connection.handle_timer(now)
        self._arm(connection, connection.flush(now), now)

    def _ended(self, connection: Connection) -> None:
        self._unflushed.pop(connection, None)
        self._waiting.pop(connection, None)
        if timer := self._timers.pop(connection, None):
            timer.cancel()

    def housekeeping(self, now: float) -> None:
        """Give up on what takes too long; called about once a second."""
        for connection in [each for each in self._timers if each.has_partial]:
            connection.expire(now)
            self._arm(connection, connection.flush(now), now)
        if self.is_leaving:
            for connection in [each for each in self._timers if each.is_idle]:
                connection.give_way(now)

    def leave(self, *, handed_over: bool) -> None:
        """Take no more connections; those whose client waits for nothing end, the others with their answers.

        What comes is another process's where it was handed over: either would miss what the other one reads.
        """
        self.is_leaving, self._strangers.are_welcome = True, False
        if handed_over:
            self._loop.remove_reader(self._socket.fileno())
        self.housekeeping(time.monotonic())

    def close(self) -> None:
        """End all connections, with a word to each client."""
        self._loop.remove_reader(self._socket.fileno())
        now = time.monotonic()
        for connection in list(self._timers):
            connection.give_way(now)
        self._socket.close()


def _local(ancillary: list[tuple[int, int, bytes]]) -> bytes:
    """Return what has a datagram leave from the address that another was sent to; b"": the socket has but one."""
    for level, kind, octets in ancillary:
        if (level, kind) == V4:
            return pack("=i4s4s", 0, octets[8:12], bytes(4))
        if (level, kind) == V6:
            address, interface = unpack("=16si", octets)
            return pack("=16si", address, interface if address[0] == 0xFE and address[1] & 0xC0 == 0x80 else 0)
    return b""


def _asked(local: bytes) -> bytes:
    """Return the address in that."""
    return local[4:8] if len(local) == IPV4_LOCAL else local[:16]


class Front:
    """All listeners, as the daemon says."""

    def __init__(self) -> None:
        self._doors: list[Door] = []
        self.relay_ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.bounds: Bounds | None = None

    async def configure(self, told: dict[str, Any], descriptors: list[tuple[int, int]]) -> None:
        """Follow settings; the first ones come with descriptors for each listener: its socket, and its relay."""
        logs.set_up(told["log"]["level"], told["log"]["format"])
        limits, secrets = Limits(**told["limits"]), Secrets(*map(base64.b64decode, told["secrets"]))
        if self.bounds is None:
            self.bounds = Bounds(limits, Counter())
        self.bounds.configure(limits)
        for number, (opened, relay) in enumerate(descriptors):
            _, protocol = await asyncio.get_running_loop().create_connection(
                lambda: Relay(self.relay_ended), sock=socket.socket(fileno=relay)
            )
            self._doors.append(
                Door(told["listeners"][number], secrets, socket.socket(fileno=opened), protocol, self.bounds)
            )
        for door, each in zip(self._doors, told["listeners"], strict=True):
            door.configure(each)

    def counters(self) -> dict[str, Any]:
        """Return what happened so far."""
        assert self.bounds is not None
        statuses: Counter[int] = Counter()
        for door in self._doors:
            statuses += door.statuses
        return {
            "connections": len(self.bounds), "memory": self.bounds.memory, "counted": dict(self.bounds.counters),
            "statuses": dict(statuses),
        }  # fmt: skip

    def housekeeping(self) -> None:
        """Called about once a second."""
        now = time.monotonic()
        if self.bounds is not None:
            self.bounds.end_handshakes(now)
        for door in self._doors:
            door.housekeeping(now)
        logs.summarize()

    def leave(self, *, handed_over: bool) -> None:
        """Take no more connections."""
        for door in self._doors:
            door.leave(handed_over=handed_over)

    def close(self) -> None:
        """End all connections."""
        for door in self._doors:
            door.close()


async def serve(channel: socket.socket) -> None:
    """Serve until the daemon, or the way to its worker, ends: the daemon starts another process then."""
    front = Front()
    reader, writer = await asyncio.open_connection(sock=channel, limit=LINE_MAX)

    def tell(what: dict[str, Any]) -> None:
        writer.write(json.dumps(what).encode() + b"\n")

    async def report() -> None:
        while True:
            await asyncio.sleep(SECOND)
            front.housekeeping()
            tell({"counters": front.counters()})

    async def follow() -> None:
        with contextlib.suppress(ConnectionError):  # the daemon has ended in the midst of what it was told
            while line := await reader.readline():
                told = json.loads(line)
                if "settings" in told:
                    await front.configure(told["settings"], told["descriptors"])
                    tell({"ready": True})
                elif "report" in told:
                    tell({"counters": front.counters(), "reported": told["report"]})
                elif "leave" in told:
                    front.leave(handed_over=told["handed_over"])
                    tell({"counters": front.counters()})

    following = asyncio.create_task(follow())
    reporting = asyncio.create_task(report())
    gc.freeze()
    try:
        await asyncio.wait([following, reporting, front.relay_ended], return_when=asyncio.FIRST_COMPLETED)
        for task in (following, reporting):
            if task.done():
                task.result()
    finally:
        following.cancel()
        reporting.cancel()
        writer.close()
        front.close()


def main(descriptor: int, nice: int) -> None:
    """Serve as the daemon says, which has the other end of a socket pair, and the priority `nice`."""
    for number in early_signals.ALL:  # which are for the daemon
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, early_signals.ALL)
    with contextlib.suppress(OSError):  # where this one was started with less, and may not have more
        os.setpriority(os.PRIO_PROCESS, 0, nice + NICE)
    logging.getLogger("quic").setLevel(logging.CRITICAL)  # what any client can cause is counted, not logged
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, socket.socket(fileno=descriptor) as channel:
        runner.run(serve(channel))
    logs.flush()
