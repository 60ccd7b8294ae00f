"""The front's process, as the daemon has it: started, told what to serve, and started again where it ends.

It knows the process and what both say to each other. What the process does is in `front`.
"""

import asyncio
import base64
import contextlib
import ctypes
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import Config
from ..config.types import Endpoint
from ..core import early_signals
from ..server._relayed import RelayedListener
from ..server._tcp_worker import TcpWorker
from ..server.listeners import OpenListener
from ..server.quic import ALPN, QuicListener

log = logging.getLogger(__name__)

START_TIMEOUT = 10.0  # seconds until it should serve
PAUSE_MIN, PAUSE_MAX = 0.1, 30.0  # seconds before it is started again
SERVED_WELL = 60.0  # seconds after which an end is no sequel of the one before
END_TIMEOUT, END_POLL = 2.0, 0.01
LINE_MAX = 1 << 20
ROOT = str(Path(__file__).parents[2])  # where the package is, which need not be installed
START = (
    "import sys; sys.path.append(sys.argv[1]); from funkenshield.quic.front import main; main(*map(int, sys.argv[2:]))"
)
OF_FRONT = ("accepted", "refused", "evicted", "retries", "resets", "dropped", "excessive_load", "internal_errors")
HANDSHAKES = ("full", "resumed", "failed", "limited")
SECRET = 32  # octets
AMBIENT, IS_SET, RAISE, CLEAR_ALL = 47, 1, 2, 4  # <linux/prctl.h>
CAPABILITIES = 64

_prctl = ctypes.CDLL(None).prctl
_prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


@contextlib.contextmanager
def ambient_capabilities_kept_back() -> Iterator[None]:
    """Have what this thread starts meanwhile, as any user but root, go without the capabilities of the service."""
    ours = [number for number in range(CAPABILITIES) if _prctl(AMBIENT, IS_SET, number, 0, 0) == 1]
    _prctl(AMBIENT, CLEAR_ALL, 0, 0, 0)
    try:
        yield
    finally:
        for number in ours:
            _prctl(AMBIENT, RAISE, number, 0, 0)


def begin(descriptor: int, passed: Sequence[int], nice: int) -> "subprocess.Popen[bytes]":
    """Start the process with an end of the pair that it is told by, and what else is passed; OSError: it cannot be.

    Its priority follows from the daemon's, `nice`, whatever that of this thread is now. Signals come to all processes
    where a service manager sends them: until this one ignores them, they wait. It is given all that it needs.
    """
    command = [sys.executable, "-P", "-c", START, ROOT, str(descriptor), str(nice)]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, early_signals.ALL)
    try:
        with ambient_capabilities_kept_back():
            return subprocess.Popen(command, pass_fds=passed, stdin=subprocess.DEVNULL)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class QuicFront:
    """The process that serves QUIC listeners of a daemon of priority `nice`; where there are none, there is none."""

    def __init__(self, worker: TcpWorker, nice: int, retry_secret: bytes = b"") -> None:
        self._worker, self._nice = worker, nice  # who decides about queries
        self._relayed = {transport: RelayedListener(transport) for transport in ALPN}
        self.retry_secret = retry_secret or os.urandom(SECRET)  # the next daemon has it, too
        self._secrets = [base64.b64encode(each).decode() for each in (self.retry_secret, os.urandom(SECRET))]
        self._listeners: list[OpenListener] = []
        self._are_some = asyncio.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._told: dict[str, Any] = {}
        self._may_serve, self._ready = asyncio.Event(), asyncio.Event()
        self._is_leaving = self._has_ended = self._is_outdated = False
        self._running: asyncio.Task[None] | None = None
        self._before: Counter[str] = Counter()  # what processes that ended have counted
        self._statuses_before: Counter[int] = Counter()
        self._counted: dict[str, Any] = {"connections": 0, "memory": 0, "counted": {}, "statuses": {}}

    def load(self) -> None:
        """Have the process run from now on, while there are listeners; it serves nobody until `start`."""
        self._running = asyncio.create_task(self._run())

    def start(self) -> None:
        """Have it serve."""
        self._may_serve.set()

    async def _run(self) -> None:
        """Keep the process running."""
        pause = PAUSE_MIN
        while not self._is_leaving:
            await self._are_some.wait()
            self._is_outdated = False
            began = time.monotonic()
            try:
                why = await self._serve()
            except OSError as error:
                why = f"cannot be started: {error.strerror or error}"
            except Exception:
                log.exception("QUIC: internal error")
                why = "is not followed any more"
            if self._is_leaving or self._is_outdated:
                continue
            pause = PAUSE_MIN if time.monotonic() - began > SERVED_WELL else min(pause * 2, PAUSE_MAX)
            log.error("QUIC: its process %s; it is started again in %.1f seconds", why, pause)
            await asyncio.sleep(pause)

    async def _serve(self) -> str:
        """Start the process, and follow what it says; return how it ended."""
        own, other = socket.socketpair()
        with contextlib.ExitStack() as given:
            given.enter_context(other)
            unused = given.enter_context(contextlib.ExitStack())
            unused.enter_context(own)
            relays = [self._relay(each, given) for each in self._listeners]
            passed = [other.fileno(), *relays, *(each.quic[0].fileno() for each in self._listeners)]
            self._process = begin(other.fileno(), passed, self._nice)
            unused.pop_all()
        reader, self._writer = await asyncio.open_connection(sock=own, limit=LINE_MAX)
        try:
            await self._may_serve.wait()
            if self._is_outdated:
                return "has other listeners"
            self._told = {}
            self._tell([(each.quic[0].fileno(), relay) for each, relay in zip(self._listeners, relays, strict=True)])
            while line := await reader.readline():
                self._take(json.loads(line))
            return f"ended with status {await self._end()}"
        finally:
            self._ready.clear()
            self._has_ended = True
            self._writer.close()
            self._writer = None
            self._keep_counters()
            await self._end()

    def _relay(self, listener: OpenListener, given: contextlib.ExitStack) -> int:
        """Connect the worker to the process that is to be started; return the descriptor of its end."""
        ours, other = socket.socketpair()
        ours.setblocking(False)
        self._worker.relays.offer(ours.detach(), listener.number, self._relayed[listener.transport])
        return given.enter_context(other).fileno()

    async def _end(self) -> int:
        """Wait until the process has ended, but not for ever; return its status."""
        assert self._process is not None
        until = time.monotonic() + END_TIMEOUT
        while self._process.poll() is None:
            await asyncio.sleep(END_POLL)
            if time.monotonic() > until:
                self._process.kill()
        return self._process.returncode

    # ---------------------------------------------------------------- what both say

    def _settings(self) -> dict[str, Any]:
        """Return what the process is to do."""
        config = self._config
        return {
            "log": {"level": config.log.level, "format": config.log.format},
            "limits": {
                "max_connections": config.quic.max_connections,
                "max_connections_per_client": config.tcp.max_connections_per_client,
                "memory": config.tcp.memory,
                "max_in_flight": config.tcp.max_in_flight,
                "write_buffer": config.tcp.write_buffer,
                "idle_timeout": config.quic.idle_timeout,
                "handshakes_per_client": config.tls.handshakes_per_second_per_client,
                "handshake_timeout": config.tls.handshake_timeout,
            },
            "secrets": self._secrets,  # as `strangers` names them
            "listeners": [self._listener(each) for each in self._listeners],
        }

    def _listener(self, listener: OpenListener) -> dict[str, Any]:
        contexts, asked = self._shown[listener.endpoint].contexts, (listener.endpoint, listener.transport)
        sections = {(each.endpoint, each.section.transport): each.section for each in self._config.all_listeners}
        return {
            "number": listener.number,
            "transport": listener.transport,
            "paths": sections[asked].paths if asked in sections else (),
            **(contexts.as_told() if contexts else {}),
        }

    def configure(
        self, config: Config, listeners: Iterable[OpenListener], shown: Mapping[Endpoint, QuicListener]
    ) -> None:
        """Follow a configuration; where there are other listeners than before, the process starts anew."""
        before, self._listeners = self._listeners, [each for each in listeners if each.quic]
        self._config, self._shown = config, shown
        if before == self._listeners:
            self.follow()
            return
        self._are_some.set() if self._listeners else self._are_some.clear()
        self._is_outdated = True
        if self._writer is not None:
            self._writer.close()

    def follow(self) -> None:
        """Tell the process what has changed, certificates included; called about once a second."""
        if self._told and not self._is_outdated and self._told != self._settings():
            self._tell()

    def _tell(self, descriptors: Iterable[tuple[int, int]] = ()) -> None:
        """Tell the process what to do, at first with the descriptors of each listener: its socket, and its relay."""
        self._told = self._settings()
        self._say({"settings": self._told, "descriptors": list(descriptors)})

    def _say(self, what: dict[str, Any]) -> None:
        """Say something to the process, if it still listens."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(json.dumps(what).encode() + b"\n")

    def _take(self, said: dict[str, Any]) -> None:
        if "ready" in said and not self._ready.is_set():
            self._ready.set()
            if self._has_ended:
                log.info("QUIC: its process serves again")
        if "counters" in said:
            self._counted = said["counters"]

    # ---------------------------------------------------------------- the end

    async def ready(self) -> None:
        """Wait until it serves, if it is to, but not for ever."""
        if not self._listeners:
            return
        try:
            await asyncio.wait_for(self._ready.wait(), START_TIMEOUT)
        except TimeoutError:
            log.error("QUIC: its process does not serve yet")

    def leave(self, *, handed_over: bool = False) -> None:
        """Have it take no more connections; where another process is there by now, nothing of them, either."""
        self._is_leaving = True
        self._say({"leave": True, "handed_over": handed_over})

    @property
    def connections(self) -> int:
        """How many connections there are, as of a second ago."""
        return int(self._counted["connections"])

    async def close(self) -> None:
        """End the process, which tells its clients."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    # ---------------------------------------------------------------- numbers

    def _keep_counters(self) -> None:
        """Add what the process has counted to what those before have."""
        self._before.update(self._counted["counted"])
        self._statuses_before.update({int(status): count for status, count in self._counted["statuses"].items()})
        self._counted = {"connections": 0, "memory": 0, "counted": {}, "statuses": {}}

    def counters(self) -> dict[str, Any]:
        """Return what happened to connections, as of a second ago."""
        counted = self._before + Counter(self._counted["counted"])
        return {
            "quic_connections": self.connections,
            "quic_buffered_bytes": self._counted["memory"],
            **{f"quic_{name}": counted[name] for name in OF_FRONT},
            "quic_handshakes": {result: counted[f"handshakes_{result}"] for result in HANDSHAKES},
        }

    def statuses(self) -> Counter[int]:
        """Return how many responses there were of each status of HTTP."""
        return self._statuses_before + Counter({int(k): v for k, v in self._counted["statuses"].items()})
