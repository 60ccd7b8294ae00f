"""A connection to a store, which is a script here."""

import asyncio
import contextlib

import pytest

from funkenshield.cluster import connection as connections
from funkenshield.cluster.connection import StoreError, connect, keep, within
from funkenshield.config.cluster import StoreAddress

PONG = b"+PONG\r\n"


class Script(asyncio.Protocol):
    """A store that gives one reply after the other, whatever it is asked."""

    def __init__(self, replies, got, open_ends):
        self._replies, self._got, self._open_ends = iter(replies), got, open_ends

    def connection_made(self, transport):
        self._transport = transport
        self._open_ends.append(transport)

    def data_received(self, data):
        self._got.append(data)
        self._transport.write(next(self._replies, b""))


@contextlib.asynccontextmanager
async def scripted(*replies):
    """Run a script; yield where, and what it gets."""
    got, open_ends = [], []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Script(replies, got, open_ends), "127.0.0.1", 0)
    try:
        yield StoreAddress("127.0.0.1", server.sockets[0].getsockname()[1]), got
    finally:
        server.close()
        for each in open_ends:
            each.abort()
        await asyncio.sleep(0.01)


def told(*replies, story):
    async def run():
        async with scripted(*replies) as (address, got):
            connection = await connect(address)
            try:
                return await story(connection), got
            finally:
                connection.fail("over")
                await asyncio.sleep(0)

    return asyncio.run(run())


def test_replies_come_in_the_order_of_the_requests():
    async def story(connection):
        first, second = connection.request("GET", b"a"), connection.request("GET", "b")
        return await asyncio.gather(first, second)

    replies, got = told(b"$1\r\n1\r\n$1\r\n2\r\n", story=story)
    assert replies == [b"1", b"2"]
    assert got == [b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nGET\r\n$1\r\nb\r\n"]


def test_who_gives_up_disturbs_nobody_else():
    async def story(connection):
        with pytest.raises(StoreError, match="no reply in 10 ms"):
            await within(0.01, connection.request("GET", "a"))
        return await connection.request("GET", "b")

    assert told(b"", b"$1\r\n1\r\n$1\r\n2\r\n", story=story)[0] == b"2"


def test_an_error_is_raised_where_it_was_asked_for():
    async def story(connection):
        with pytest.raises(StoreError, match="OOM command not allowed"):
            await connection.request("SET", "a", "b")
        return await connection.request("PING")

    assert told(b"-OOM command not allowed\r\n", PONG, story=story)[0] == b"PONG"


@pytest.mark.parametrize(
    ("reply", "why"),
    [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "is no reply"), (PONG + PONG, "is no reply"), (b"", "gone")],
)
def test_what_is_no_reply_ends_the_connection(reply, why):
    async def story(connection):
        asked = connection.request("PING")
        if reply:
            if reply.startswith(PONG):
                assert await asked == b"PONG"
            else:
                with pytest.raises(StoreError, match=why):
                    await asked
        else:
            connection.fail("gone")
        with pytest.raises(StoreError, match=why):
            await connection.ended
        with pytest.raises(StoreError, match="closed"):
            await connection.request("PING")

    told(reply, story=story)


def test_a_reply_without_end_fills_no_memory(monkeypatch):
    monkeypatch.setattr(connections, "REPLY_MAX", 1000)

    async def story(connection):
        with pytest.raises(StoreError, match="MiB"):
            await connection.request("GET", "a")

    told(b"$100000\r\n" + bytes(2000), story=story)


def test_who_logs_in_says_who_he_is():
    async def story():
        async with scripted(b"+OK\r\n", b"+OK\r\n", PONG) as (address, got):
            connection = await connect(address._replace(user="shield", database=3), "secret")
            assert await connection.request("PING") == b"PONG"
            connection.fail("over")
            await asyncio.sleep(0)
            return got

    assert [each.split(b"\r\n")[2::2] for each in asyncio.run(story())] == [
        [b"AUTH", b"shield", b"secret"], [b"SELECT", b"3"], [b"PING"],
    ]  # fmt: skip


def test_a_wrong_password_is_told():
    async def story():
        async with scripted(b"-WRONGPASS invalid\r\n") as (address, _):
            with pytest.raises(StoreError, match="WRONGPASS"):
                await connect(address, "secret")
            await asyncio.sleep(0)

    asyncio.run(story())


def test_pauses_grow_until_a_connection_proved_good():
    pauses, now, lasts = [], [0.0], iter([0, 0, 0, 0, 0, 0, 0, 100, 0])

    class Fake:
        def fail(self, why):
            pass

    async def story():
        async def connect():
            return Fake()

        async def serve(connection):
            now[0] += next(lasts)
            raise StoreError("gone")

        async def sleep(seconds):
            pauses.append(seconds)
            if len(pauses) == 9:
                raise asyncio.CancelledError

        with contextlib.suppress(asyncio.CancelledError):
            await keep("look-ups", connect, serve, lambda: now[0], sleep)

    asyncio.run(story())
    expected = [1, 2, 4, 8, 16, 30, 30, 0.5, 1]
    assert all(0.75 * most <= pause <= 1.25 * most for pause, most in zip(pauses, expected, strict=True))


def test_whatever_goes_wrong_there_is_another_connection(caplog):
    pauses = []

    class Fake:
        def fail(self, why):
            pass

    async def connect():
        if len(pauses) == 1:
            raise UnicodeError("label too long")
        return Fake()

    async def serve(connection):
        b"OK".missing  # noqa: B018 - what a reply of another kind leads to

    async def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(keep("other", connect, serve, lambda: 0.0, sleep))
    assert "cluster store, other: AttributeError" in caplog.text
