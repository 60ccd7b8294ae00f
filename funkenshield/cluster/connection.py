"""A connection to a store that speaks Redis' protocol (RESP 2): requests go out and replies come back in order.

It knows octets on their way, and for how long a connection is left alone after it failed. hiredis, which writes and
reads them, is an extra (`funkenshield[redis]`), and nothing here loads it before a store is configured.
"""

import asyncio
import logging
import random
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

from ..config.cluster import StoreAddress
from ..core.logs import RateLimited
from ..errors import ConfigError

log = logging.getLogger(__name__)
limited = RateLimited(log)

REPLY_MAX = 8 << 20  # octets of one reply: whoever fills the store fills no memory here
CONNECTING = 3.0  # seconds that a connection may take
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds until the next attempt: twice as long each time
PROVEN = 30.0  # seconds after which a connection has been a good one
GET_IT = "cluster.store: hiredis is not installed: pip install 'funkenshield[redis]'"
Word = bytes | str | int


class StoreError(Exception):
    """The store is not there, or does not do what it is asked."""


def load() -> Any:  # noqa: ANN401 - a module
    """Return hiredis; ConfigError, with what to do, where it is not installed."""
    try:
        import hiredis
    except ImportError:
        raise ConfigError(GET_IT) from None
    return hiredis


class Connection(asyncio.Protocol):
    """Requests are pipelined: whoever gives up waiting for a reply disturbs nobody else.

    `ended` is done, with a StoreError, when it is over.
    """

    def __init__(self) -> None:
        self._hiredis = load()
        self._incomplete = object()
        self._reader = self._hiredis.Reader(notEnoughData=self._incomplete)
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._unread = 0
        self._transport: asyncio.Transport | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def outstanding(self) -> int:
        """Return how many requests have no reply."""
        return len(self._waiting)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready for requests."""
        self._transport = cast(asyncio.Transport, transport)

    def request(self, *words: Word) -> "asyncio.Future[Any]":
        """Send a request; what is returned gets the reply, or StoreError, which it may be as well."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.ended.done() or self._transport is None:
            reply.set_exception(StoreError("the connection is closed"))
        else:
            self._waiting.append(reply)
            self._transport.write(self._hiredis.pack_command(words))
        return reply

    def data_received(self, data: bytes) -> None:
        """Give each reply to whoever waits for it."""
        self._unread += len(data)
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not self._incomplete:
                self._unread = 0
                self._take(reply)
        except (self._hiredis.HiredisError, MemoryError, IndexError) as error:
            self.fail(f"what it sent is no reply: {error}")
        if self._unread > REPLY_MAX:
            self.fail(f"a reply has more than {REPLY_MAX >> 20} MiB")

    def _take(self, reply: object) -> None:
        waiting = self._waiting.popleft()
        if waiting.done():
            return
        if isinstance(reply, self._hiredis.HiredisError):
            waiting.set_exception(StoreError(str(reply)))
        else:
            waiting.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell all who wait."""
        self.fail(str(error or "it closed the connection"))

    def fail(self, why: str) -> None:
        """End the connection; all who wait, and `ended`, get the reason."""
        if self._transport is not None:
            self._transport.abort()
        for each in (self.ended, *self._waiting):
            if not each.done():
                each.set_exception(StoreError(why))
                each.exception()  # nobody has to look
        self._waiting.clear()


async def within(seconds: float, reply: Awaitable[Any]) -> Any:  # noqa: ANN401 - whatever the store says
    """Return a reply that comes in so many seconds; StoreError."""
    try:
        async with asyncio.timeout(seconds):
            return await reply
    except TimeoutError:
        raise StoreError(f"no reply in {seconds * 1000:g} ms") from None


def context_of(address: StoreAddress) -> ssl.SSLContext | None:
    """Return what a store is verified by, None without TLS; ConfigError."""
    try:
        return ssl.create_default_context(cafile=address.ca_file or None) if address.tls else None
    except OSError as error:
        raise ConfigError(f"cluster.ca_file: {address.ca_file}: {error.strerror or error}") from None


async def connect(address: StoreAddress, password: str = "", context: ssl.SSLContext | None = None) -> Connection:
    """Return a connection that is logged in; OSError or StoreError."""
    loop = asyncio.get_running_loop()
    if address.path:
        _, connection = await loop.create_unix_connection(Connection, address.path)
    else:
        _, connection = await loop.create_connection(Connection, address.host, address.port, ssl=context)
    try:
        if password:
            await connection.request("AUTH", *([address.user] if address.user else []), password)
        if address.database:
            await connection.request("SELECT", address.database)
    except BaseException:
        connection.fail("not logged in")
        raise
    return connection


async def keep(
    title: str,
    connect: Callable[[], Awaitable[Connection]],
    serve: Callable[[Connection], Awaitable[None]],
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Have a connection served for ever: after each failure, there is a pause, and then another one."""
    pause = FIRST_PAUSE
    while True:
        began = clock()
        try:
            connection = await within(CONNECTING, connect())
            try:
                await serve(connection)
            finally:
                connection.fail("given up")
        except Exception as error:  # whatever the store, or who is at its address, says
            why = str(error) if isinstance(error, StoreError) else getattr(error, "strerror", None) or repr(error)
            limited.warning(f"store {title}", "cluster store, %s: %s", title, why)
        pause = FIRST_PAUSE if clock() - began > PROVEN else min(2 * pause, LONGEST_PAUSE)
        await sleep(pause * random.uniform(0.75, 1.25))
