"""Show that no answer is torn while workers read what the writer overwrites, evicts and uses again.

Two workers serve UDP from one cache, the smallest there is; the writer stores its size over and over, so that no
segment rests. Each payload carries its version and a checksum, and has the name that it belongs to in it.
"""

import contextlib
import random
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from struct import pack

import pytest
from support.client import Address, free_port
from support.quick import answer, payload_of, query, sealed, unseal

from funkenshield.cache._store import Cache
from funkenshield.config import Endpoint
from funkenshield.core._clock import Clock
from funkenshield.forward._miss_path import MissPath
from funkenshield.server._listener_table import ListenerTable
from funkenshield.server._udp_worker import Worker
from funkenshield.server.sockets import bind_udp

SECONDS = 5.0
MEMORY = 1 << 22
NAMES = [f"n{number}.readers.test" for number in range(4000)]
SIZES = [0, 40, 200, 400]  # octets of payload; with them all an answer fits into 512
WINDOW = 64  # queries that a client sends before it reads
SOCKETS = 8  # of each client, so that the kernel gives some to either worker
LAST = 0xFFFF  # the ID of a query with two questions, which is answered in its turn with FORMERR
STOPPER = pack("!6H", LAST, 0, 2, 0, 0, 0)


@pytest.fixture(autouse=True)
def _eager_threads():
    """Let threads take turns often, as clients do nothing but short system calls."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@contextlib.contextmanager
def running_workers(cache, count):
    """Run so many workers on one port of loopback, as the daemon does; what they miss stays unanswered."""
    miss_path = MissPath(cache, 1)
    workers = [Worker(cache, miss_path) for _ in range(count)]
    address = Address("127.0.0.1", free_port())
    sockets = bind_udp(Endpoint(*address), count, 1 << 20)
    with contextlib.ExitStack() as undo:
        for worker, opened in zip(workers, sockets, strict=True):
            undo.enter_context(opened)
            worker.follow(ListenerTable([(0, opened.fileno(), sockets[0].fileno(), None, None)]))
        for worker in workers:
            thread = threading.Thread(target=worker.run)
            thread.start()
            undo.callback(thread.join)
            undo.callback(worker.stop)
        yield workers, address


class Versions:
    """The newest version of each name: the writer's to write, and for clients to compare with."""

    def __init__(self, cache):
        self.cache = cache
        self.newest = dict.fromkeys(NAMES, 0)
        self.octets = 0

    def store(self, name, size):
        """Store the next version of a name."""
        self.newest[name] += 1
        asked = query(name)
        response = answer(asked, sealed(name, self.newest[name], size), ttl=86400)
        self.octets += len(response)
        return self.cache.store(asked, response)


def check_answers(address, versions, stop, seed):
    """Ask for names until `stop` is set, and check each answer; return how many there were."""
    rng, checked = random.Random(seed), 0
    with contextlib.ExitStack() as undo:
        sockets = [undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(SOCKETS)]
        for opened in sockets:
            opened.settimeout(0.5)
            opened.connect(address)
        seen = [dict.fromkeys(NAMES, 0) for _ in sockets]
        while not stop.is_set():
            which = rng.randrange(SOCKETS)
            names = rng.choices(NAMES, k=WINDOW)
            for ident, name in enumerate(names):
                sockets[which].send(query(name, ident=ident))
            sockets[which].send(STOPPER)
            while (response := sockets[which].recv(65535))[:2] != STOPPER[:2]:
                name = names[int.from_bytes(response[:2])]
                version = unseal(name, payload_of(query(name), response))
                assert seen[which][name] <= version <= versions.newest[name], "an answer of another time"
                seen[which][name] = version
                checked += 1
    return checked


@pytest.mark.slow
def test_no_answer_is_torn():
    cache = Cache(MEMORY, Clock())
    versions, stop, rng = Versions(cache), threading.Event(), random.Random(7)
    lost = 0
    with running_workers(cache, 2) as (workers, address), ThreadPoolExecutor(2) as clients:
        asking = [clients.submit(check_answers, address, versions, stop, seed) for seed in range(2)]
        end = time.monotonic() + SECONDS
        while time.monotonic() < end or versions.octets < 5 * MEMORY:  # each segment is used again and again
            if any(client.done() for client in asking):
                break
            for _ in range(100):
                lost += not versions.store(rng.choice(NAMES), rng.choice(SIZES))
            if rng.random() < 0.005:
                cache.purge(b"\4test\0", below=True)
                cache.sweep(rng.randrange(cache.segments_total))
                cache.collect()
        stop.set()
        checked = [client.result() for client in asking]
        tallies = [worker.counters() for worker in workers]
    counters = cache.counters()
    assert sum(checked) > 10_000
    assert sum(checked) == sum(tally["cache_hits"] for tally in tallies)
    assert min(tally["cache_hits"] for tally in tallies) > 1000, "either worker has its share"
    assert min(counters["evictions"], counters["purged_entries"]) > 0
    assert counters["bytes"] <= MEMORY
    assert lost == counters["insert_failures"] < counters["inserts"] / 100
