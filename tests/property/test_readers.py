"""Show that no answer is torn while workers read what the writer overwrites, evicts and uses again.

Two workers serve UDP from one cache; each payload carries its name, its version and a checksum. The cache is the
smallest there is and the writer stores several times its size every second, so that segments never rest.
"""

import contextlib
import random
import socket
import threading
import time
from dataclasses import dataclass, field
from struct import pack

import pytest
from support.quick import answer, payload_of, query, sealed, unseal

from funkenshield._cache import Cache
from funkenshield._clock import Clock
from funkenshield._fastpath import Worker
from funkenshield._inflight import Inflight
from funkenshield.config import Endpoint
from funkenshield.listeners import bind_udp

SECONDS = 5.0
NAMES = [f"n{number}.readers.test" for number in range(3000)]
SIZES = [0, 40, 300, 1100]  # octets of payload; all fit into a datagram
WINDOW = 48  # queries that a client sends before it reads


@contextlib.contextmanager
def running_workers(cache, count):
    """Run so many workers on one port of loopback, as the daemon does; nobody answers what they miss."""
    inflight = Inflight(cache, 1)
    workers = [Worker(cache, inflight) for _ in range(count)]
    sockets = [free := bind_udp(Endpoint("127.0.0.1", free_port()), count, 1 << 20)][0]
    with contextlib.ExitStack() as undo:
        for worker, opened in zip(workers, sockets, strict=True):
            undo.enter_context(opened)
            worker.listen(opened.fileno(), free[0].fileno())
        threads = [threading.Thread(target=worker.run) for worker in workers]
        for worker, thread in zip(workers, threads, strict=True):
            thread.start()
            undo.callback(thread.join)
            undo.callback(worker.stop)
        yield workers, sockets[0].getsockname()
