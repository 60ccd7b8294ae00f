"""Know how to stand between the shield and a nameserver: pass everything on, write down every query."""

import asyncio
import contextlib
import socket

from support.client import LARGEST, Address, address_of, frame
from support.server import LoopbackServer, Received, frames


class RecordingRelay(LoopbackServer):
    """Forward to `target` what clients send, over the same transport, and back what it replies.

    Each UDP client gets a socket of its own towards the target, each TCP connection one connection.
    """

    def __init__(self, target, host="127.0.0.1"):
        super().__init__(host)
        self._target = address_of(target)
        self._paths: dict[Address, socket.socket] = {}

    def serve(self, query, send):
        if query.source not in self._paths:
            self._paths[query.source] = self._path(send)
        with contextlib.suppress(OSError):  # nobody listens there: silence, as on any network
            self._paths[query.source].send(query.wire)

    def release(self):
        for path in self._paths.values():
            self._loop.remove_reader(path)
            path.close()

    async def stream(self, reader, writer):
        source = Address(*writer.get_extra_info("peername")[:2])
        replies, onward = await asyncio.open_connection(*self._target)
        self._writers.add(onward)
        back = self._loop.create_task(_pipe(replies, writer))
        try:
            async for wire in frames(reader):
                self._record(Received(wire, "tcp", source))
                onward.write(frame(wire))
                await onward.drain()
            onward.write_eof()
            await back
        finally:
            back.cancel()
            self._writers.discard(onward)
            onward.close()

    def _path(self, send):
        path = socket.socket(self._target.family, socket.SOCK_DGRAM)
        path.setblocking(False)
        path.connect(self._target)

        def returned():
            with contextlib.suppress(OSError):
                send(path.recv(LARGEST))

        self._loop.add_reader(path, returned)
        return path


async def _pipe(reader, writer):
    """Copy octets until the reader ends, then end the writer."""
    with contextlib.suppress(OSError):
        while octets := await reader.read(LARGEST):
            writer.write(octets)
            await writer.drain()
        writer.close()
