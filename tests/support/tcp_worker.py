"""Know how to run the worker for connections without a daemon: nobody takes its misses, and clients can be anybody."""

import contextlib
import socket
import threading

from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock
from funkenshield.forward._miss_path import MissPath
from funkenshield.server._connection_limits import ConnectionLimits
from funkenshield.server._listener_table import ListenerTable
from funkenshield.server._tcp_worker import TcpWorker

LOOPBACK = "127.0.0.1"
LIMITS = {
    "max_connections": 100, "max_per_client": 0, "memory": 1 << 20, "max_in_flight": 10, "write_buffer": 1 << 16,
    "idle_timeout": 60.0,
}  # fmt: skip


class Running:
    """A worker for connections that serves in a thread of its own."""

    def __init__(self, stack, *, proxied=False, refuses=False, manner=None, **limits):
        self.clock = Clock()
        self.miss_path = MissPath(Cache(1 << 22, self.clock), 1 << 10)
        self.limits = ConnectionLimits(self.miss_path.cache)
        self.limits.configure(**LIMITS | limits)
        self.worker = TcpWorker(self.miss_path.cache, self.miss_path, self.limits)
        if proxied:  # whoever connects has to tell first whose connection it is
            self.miss_path.settings_writer.set_proxies(((bytes([127, 0, 0, 0]), 8),))
        if refuses:
            self.miss_path.settings_writer.guard.set_access([], [], default_allow=False, refuse=True)
        listener = stack.enter_context(socket.create_server((LOOPBACK, 0), backlog=512))
        listener.setblocking(False)
        self.address = listener.getsockname()
        self.worker.follow(ListenerTable([(0, listener.fileno(), -1, None, self._http(manner))]))
        thread = threading.Thread(target=self.worker.run, daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(self.worker.stop)

    def _http(self, manner):
        """Return what requests are judged by, so that the worker speaks HTTP; None: it does not."""
        if manner is None:
            return None
        from funkenshield.server._http2 import Http2Listener

        listener = Http2Listener(self.miss_path.cache)
        listener.use(manner)
        return listener

    def counters(self):
        return self.worker.answering.counters() | self.worker.connections.counters()

    @property
    def connections(self):
        return self.limits.held[0]

    @property
    def memory(self):
        return self.limits.held[1]


def connect(stack, running, octets=b""):
    """Connect, say something, and return the socket."""
    sock = stack.enter_context(socket.create_connection(running.address, timeout=10.0))
    with contextlib.suppress(OSError):
        sock.sendall(octets)
    return sock


def has_ended(sock):
    """Tell whether the worker has ended a connection by now."""
    sock.setblocking(False)
    try:
        return not sock.recv(1)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
