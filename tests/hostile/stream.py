"""Know how to ask at a steady rate over TCP, from a process of its own: nothing but Python's library, nothing imported.

    stream.py HOST PORT RATE SECONDS QUERY...      queries in hexadecimal

It prints what it got as JSON: queries sent and lost, rcodes, and the 50th and 99th percentile and the most of the
latencies, in milliseconds. Four connections are made once, and kept; a query goes out when due, however many wait.
"""

import json
import select
import socket
import sys
import time
from collections import Counter

CONNECTIONS = 4
PATIENCE = 3.0  # seconds that the last answers may take


class Pipe:
    """A connection, its queries without an answer by their IDs, and what came of a message that is not whole."""

    def __init__(self, address):
        self.sock = socket.create_connection(address, PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.waiting = {}
        self._came = b""

    def fileno(self):
        return self.sock.fileno()

    def ask(self, ident, query, now):
        self.waiting[ident] = now
        self.sock.sendall(len(query).to_bytes(2) + ident + query[2:])

    def replies(self):
        """Yield the time that each query took whose answer has come, and the rcode; EOFError at the end."""
        octets = self.sock.recv(65536)
        now = time.monotonic()
        if not octets:
            raise EOFError("the server has closed")
        self._came += octets
        while len(self._came) >= 2 and len(self._came) >= 2 + int.from_bytes(self._came[:2]):
            end = 2 + int.from_bytes(self._came[:2])
            reply, self._came = self._came[2:end], self._came[end:]
            yield now - self.waiting.pop(reply[:2]), reply[3] & 15


def load(address, rate, seconds, queries):
    """Ask so many a second for so long; return what came of it."""
    pipes = [Pipe(address) for _ in range(CONNECTIONS)]
    took, rcodes = [], Counter()
    sent, total = 0, int(rate * seconds)
    start = now = time.monotonic()
    while (sent < total or any(pipe.waiting for pipe in pipes)) and now < start + seconds + PATIENCE:
        while sent < total and sent <= (now - start) * rate:
            pipes[sent % CONNECTIONS].ask((sent & 0xFFFF).to_bytes(2), queries[sent % len(queries)], now)
            sent += 1
        due = start + sent / rate if sent < total else now + 0.1
        for pipe in select.select(pipes, [], [], max(0.0, due - time.monotonic()))[0]:
            for seconds_taken, rcode in pipe.replies():
                took.append(seconds_taken)
                rcodes[rcode] += 1
        now = time.monotonic()
    took = sorted(took) or [seconds]
    shares = {"p50": 0.5, "p99": 0.99, "max": 1 - 1e-9}
    return {
        "sent": sent,
        "lost": sent - rcodes.total(),
        "rcodes": rcodes,
        "latency": {key: took[int(len(took) * share)] * 1e3 for key, share in shares.items()},
    }


if __name__ == "__main__":
    host, port, rate, seconds, *queries = sys.argv[1:]
    print(json.dumps(load((host, int(port)), float(rate), float(seconds), [*map(bytes.fromhex, queries)])))
