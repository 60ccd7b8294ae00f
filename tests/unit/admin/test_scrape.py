"""Show that pages are made one at a time, whoever goes away before the end of one, and none fails in silence."""

import asyncio
import socket
import struct
import threading

from funkenshield.admin.scrape import MetricsServer

REQUEST = b"GET /metrics HTTP/1.1\r\n\r\n"


def test_who_asks_and_resets_has_no_second_page_made_meanwhile():
    may_end = threading.Event()
    begun, made, at_once, counting = [], [0], [0], threading.Lock()

    def make():
        with counting:
            made[0] += 1
            at_once[0] = max(at_once[0], made[0])
        assert may_end.wait(10)
        with counting:
            made[0] -= 1
        return "text/plain", b"page"

    def render(accept):
        begun.append(accept)
        return make

    async def until(condition):
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.001)

    async def story():
        server = MetricsServer(render, {})
        serving = await asyncio.get_running_loop().create_server(server.protocol, "127.0.0.1", 0)
        address = serving.sockets[0].getsockname()
        for _ in range(5):
            with socket.create_connection(address) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.sendall(REQUEST)
                await until(lambda: at_once[0] and server.count)
                await asyncio.sleep(0.02)
            await until(lambda: not server.count)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(REQUEST)
        await asyncio.sleep(0.02)
        assert at_once == [1]
        may_end.set()
        assert (await reader.read()).endswith(b"page")
        writer.close()
        assert at_once == [1]
        assert len(begun) == 2, "who went away while others had their turn has no page made"
        serving.close()

    asyncio.run(story())


def fail(*_):
    raise RuntimeError("can't start new thread")


def test_a_page_that_cannot_be_made_is_an_error_for_who_asks_and_told_once_and_the_next_is_made(caplog):
    async def scrape(address):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(REQUEST)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return answer

    async def story():
        server = MetricsServer(fail, {})
        serving = await asyncio.get_running_loop().create_server(server.protocol, "127.0.0.1", 0)
        address = serving.sockets[0].getsockname()
        for render in fail, lambda _: fail:
            server.render = render
            assert (await scrape(address)).startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        server.render = lambda _: lambda: ("text/plain", b"page")
        assert (await scrape(address)).endswith(b"page")
        assert server.count == 0
        serving.close()

    asyncio.run(story())
    assert caplog.messages == ['internal error, no metrics page: RuntimeError("can\'t start new thread")']


def test_probes_say_by_their_status_whether_something_is_so():
    async def story():
        server = MetricsServer(fail, {"/live": lambda: True, "/ready": lambda: False})
        serving = await asyncio.get_running_loop().create_server(server.protocol, "127.0.0.1", 0)
        address = serving.sockets[0].getsockname()
        not_so = "/ready", b"503 Service Unavailable", b"not serving\n"
        for path, status, said in ("/live", b"200 OK", b"ok\n"), not_so:
            for method, body in ("GET", said), ("HEAD", b""):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(f"{method} {path}?verbose HTTP/1.1\r\n\r\n".encode())
                answer = await asyncio.wait_for(reader.read(), 5)
                assert answer.startswith(b"HTTP/1.1 " + status + b"\r\n")
                assert answer.partition(b"\r\n\r\n")[2] == body
                writer.close()
        serving.close()

    asyncio.run(story())
