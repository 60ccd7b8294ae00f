"""Know how to stand between the shield and a nameserver: pass everything on, write down every query."""

import asyncio
import contextlib
import socket

from support.client import LARGEST, Address, address_of, frame
from support.server import LoopbackServer, Received, frames


class RecordingRelay(LoopbackServer):
    """Forward to `target` what clients send, over the same transport, and back what it replies.

    Each UDP client gets a socket of its own towards the target, each TCP connection one connection. Each query
    goes on after `delay` seconds.
    """

    def __init__(self, target, host="127.0.0.1", port=0, *, delay=0.0):
        super().__init__(host, port)
        self._target = address_of(target)
        self._delay = delay
        self._paths: dict[Address, socket.socket] = {}

    def serve(self, query, send):
        if query.source not in self._paths:
            self._paths[query.source] = self._path(send)
        self._loop.call_later(self._delay, self._send, self._paths[query.source], query.wire)

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
                self._loop.call_later(self._delay, onward.write, frame(wire))
            await asyncio.sleep(self._delay)
            onward.write_eof()
            await back
        finally:
            back.cancel()
            self._writers.discard(onward)
            onward.close()

    @staticmethod
    def _send(path, wire):
        with contextlib.suppress(OSError):  # nobody listens there: silence, as on any network
            path.send(wire)

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
