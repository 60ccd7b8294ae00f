"""Know how to serve and ask over HTTP, octet by octet, in one event loop: what browsers never send, too."""

import asyncio
import contextlib
import socket
import time

from funkenshield.web.http import HttpServer

HOST = "Host: 127.0.0.1\r\n"


@contextlib.asynccontextmanager
async def serving(respond, elapsed=time.monotonic):
    """Serve; yield the server, and its address."""
    server = HttpServer(respond, elapsed)
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    door = server.serve(listening)
    try:
        yield server, listening.getsockname()
    finally:
        door.close()


async def exchange(address, octets, timeout=5.0, source=None):
    """Send octets, from an address if that matters, and return all that comes until the end.

    That is the status, the fields by name in lower case, and the body.
    """
    reader, writer = await asyncio.open_connection(*address, local_addr=source and (source, 0))
    try:
        writer.write(octets)
        async with asyncio.timeout(timeout):
            came = await reader.read()
    finally:
        writer.close()
    head, _, body = came.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return (int(first.split(" ")[1]) if first else 0), fields, body


async def until(condition):
    """Wait until something is so."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)
