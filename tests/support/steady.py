"""Know how to ask all the time over connections that may end, and what a client has lost by how they did.

What is not answered when a connection ends in order is asked again on another one, and that is no loss (RFC 7766 6.2.4,
RFC 9113 6.8): after close_notify, and over HTTP/2 on streams that GOAWAY says nobody has looked at. Lost is what any
other end leaves open, and what gets no answer in time.
"""

import contextlib
import threading
from collections import Counter

from support import http2, quick
from support.client import connected, frame

TIMEOUT = 5.0  # seconds
PAUSE = 0.001  # seconds between two turns


class Steady(threading.Thread):
    """One client, which has so many queries open at a time, until it is ended; `counts` says what became of them."""

    def __init__(self, open_connection, names, window=4):
        super().__init__(daemon=True)
        self._open, self._names, self._window = open_connection, names, window
        self._ending = threading.Event()
        self._next = 0
        self.counts = Counter()

    def run(self):
        while not self._ending.is_set():
            try:
                with self._open() as connection:
                    self._ask_until_it_ends(connection)
            except OSError as error:
                self.counts[f"no connection: {error!r}"] += 1

    def end(self):
        """Ask no more; return what became of all queries."""
        self._ending.set()
        self.join(2 * TIMEOUT)
        assert not self.is_alive()
        return self.counts

    def _ask_until_it_ends(self, connection):
        open_queries = {}
        self.counts["connections"] += 1
        while open_queries or not self._ending.is_set():
            while len(open_queries) < self._window and not self._ending.wait(PAUSE):
                self._next += 1
                with contextlib.suppress(OSError):  # what comes says how it ended
                    wire = quick.query(self._names[self._next % len(self._names)], quick.A, ident=self._next & 0xFFFF)
                    open_queries[connection.ask(wire)] = wire
            try:
                answered = connection.answers()
            except OSError as error:
                self.counts[f"lost: {error!r}"] += len(open_queries)
                return
            if answered is None:
                again = [number for number in open_queries if connection.may_be_asked_again(number)]
                self.counts["asked again"] += len(again)
                self.counts["lost: an end in order"] += len(open_queries) - len(again)
                return
            for number in answered:
                del open_queries[number]
                self.counts["answered"] += 1


class OverTls:
    """A connection with queries behind their lengths (RFC 7858)."""

    def __init__(self, sock):
        self._sock, self._received = sock, b""

    def ask(self, wire):
        """Ask, and return what the query is known by."""
        self._sock.sendall(frame(wire))
        return wire[:2]

    def answers(self):
        """Return what was answered, at least one query; None: the connection has ended in order, else OSError."""
        found = []
        while not found:
            octets = self._sock.recv(1 << 16)
            if not octets:
                return None
            self._received += octets
            while len(self._received) >= 2 + (length := int.from_bytes(self._received[:2])):
                found.append(self._received[2:4])
                self._received = self._received[2 + length :]
        return found

    def may_be_asked_again(self, number):
        return True


class OverHttps:
    """A connection with requests (RFC 8484)."""

    def __init__(self, sock):
        self._client, self._told = http2.Client(sock), set()

    def ask(self, wire):
        return self._client.get(wire)

    def answers(self):
        while not (found := [n for n, each in self._client.responses.items() if each.status == 200 and each.ended]):
            if not (octets := self._client.sock.recv(1 << 16)):
                return None
            self._client.take(octets)
        for number in found:
            del self._client.responses[number]
        return found

    def may_be_asked_again(self, number):
        return self._client.goaway == http2.NO_ERROR and number > self._client.last_stream


def opening(kind, address, context, name="dns.test"):
    """Return how a connection is opened that is of a kind."""

    @contextlib.contextmanager
    def opened():
        with (
            connected(address, timeout=TIMEOUT) as sock,
            context.wrap_socket(sock, server_hostname=name, suppress_ragged_eofs=False) as encrypted,
        ):
            yield kind(encrypted)

    return opened


def lost(counts):
    """Return what was lost, by why."""
    return {what: count for what, count in counts.items() if count and what.startswith(("lost", "no connection"))}
