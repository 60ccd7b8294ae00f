"""Know how to ask at a steady rate while something breaks, and what became of every query."""

import asyncio
import itertools
import threading
import time
from collections import Counter

from support import quick
from support.client import address_of

PATIENCE = 4.0  # seconds that the last answers may take


class Load(asyncio.DatagramProtocol):
    """Queries over UDP, so many a second, each for a name of its own, while the context is entered.

    Leaving it waits for what is still to come; then `lost` is what never came, and `unasked` what came twice.
    """

    _serial = itertools.count()

    def __init__(self, server, rate=250, zone="wild.shield.test."):
        self.sent = self.unasked = 0
        self.rcodes: Counter[int] = Counter()
        self.slowest = 0.0  # seconds
        self._server, self._rate, self._zone = address_of(server), rate, zone
        self._waiting: dict[bytes, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")

    @property
    def lost(self):
        """How many queries have no answer."""
        return len(self._waiting)

    @property
    def outcome(self):
        """What became of all queries, for an assertion: rcodes, lost, unasked."""
        return dict(self.rcodes), self.lost, self.unasked

    @property
    def flawless(self):
        """The outcome that it should be."""
        return {0: self.sent}, 0, 0

    def go_on(self, seconds):
        """Let so many seconds of load pass."""
        goal = self.sent + seconds * self._rate
        while self.sent < goal:
            assert self._thread.is_alive()
            time.sleep(0.02)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    async def _run(self):
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, remote_addr=self._server)
        turn = loop.time()
        while not self._over.is_set():
            ident = (self.sent & 0xFFFF).to_bytes(2)
            query = quick.query(f"load{next(self._serial)}.{self._zone}", quick.A)
            self._waiting[ident] = loop.time()
            transport.sendto(ident + query[2:])
            self.sent += 1
            turn += 1 / self._rate
            await asyncio.sleep(turn - loop.time())
        end = loop.time() + PATIENCE
        while self._waiting and loop.time() < end:
            await asyncio.sleep(0.02)
        transport.abort()

    def datagram_received(self, data, addr):
        began = self._waiting.pop(data[:2], None)
        if began is None:
            self.unasked += 1
            return
        self.rcodes[data[3] & 15] += 1
        self.slowest = max(self.slowest, asyncio.get_running_loop().time() - began)
