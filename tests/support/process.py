"""Know how to run the real daemon: a configuration in a temporary folder, ready, asked, terminated.

It is seen only from outside: its command line, its ports, its log and its exit code.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support import client, forked
from support.client import Address, address_of, ask, free_port
from support.forked import Forked

__all__ = ["Shield", "ask", "free_port", "run_shield"]

COMMAND = (sys.executable, "-m", "funkenshield")
PRELOADED = os.environ.get("LD_PRELOAD")
READY_WITHIN = 30.0  # seconds
EXIT_WITHIN = 5.0  # seconds


@dataclass(frozen=True)
class Shield:
    """A daemon that serves; `address` is the first it listens on."""

    process: subprocess.Popen | Forked
    folder: Path
    addresses: list[Address]

    @property
    def address(self):
        return self.addresses[0]

    @property
    def control(self):
        """The path of the control socket."""
        return self.folder / "control"

    @property
    def log(self):
        """Everything that the daemon has written to stderr so far."""
        return (self.folder / "log").read_text(errors="replace")

    def udp(self, query, timeout=10.0):
        return client.exchange(query, server=self, timeout=timeout)

    def tcp(self, query, timeout=10.0):
        return client.exchange(query, server=self, tcp=True, timeout=timeout)

    def udp_wire(self, wire, timeout=10.0):
        return client.udp_wire(self, wire, timeout)

    def tcp_wire(self, wire, timeout=10.0):
        return client.tcp_wire(self, wire, timeout)

    def command(self, *args):
        """Run a subcommand against the control socket and return what it prints."""
        done = forked.command(*args, "--control", self.control)
        assert done.returncode == 0, f"{args} exited {done.returncode}\n{done.stderr}\n{self.log}"
        return done.stdout

    def stats(self):
        """Return the daemon's counters as a dict."""
        return json.loads(self.command("stats", "--json"))

    def terminate(self):
        """Send SIGTERM and assert a clean exit within five seconds; twice does no harm."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(EXIT_WITHIN)
        assert self.process.returncode == 0, f"exit code {self.process.returncode}\n{self.log}"

    def _wait_until_ready(self):
        deadline = time.monotonic() + READY_WITHIN
        while not re.search(r"\bready\b", self.log):
            if self.process.poll() is not None and "address in use by another program" in self.log:
                raise PortTakenError(self.log)
            assert self.process.poll() is None, f"exited {self.process.returncode}, never ready\n{self.log}"
            assert time.monotonic() < deadline, f"not ready within {READY_WITHIN} s\n{self.log}"
            time.sleep(0.01)


class PortTakenError(Exception):
    """Another shield's socket to an upstream got the port meanwhile."""


@contextlib.contextmanager
def run_shield(upstreams, *, listen=(), **options) -> Iterator[Shield]:
    """Run the daemon as `_run_once` does; where it chose the port itself, and that was taken meanwhile, on another."""
    with contextlib.ExitStack() as stack:
        for tries_left in range(0 if listen else 4, -1, -1):
            try:
                shield = stack.enter_context(_run_once(upstreams, listen=listen, **options))
                break
            except PortTakenError:
                assert tries_left, "no port is free"
        yield shield


@contextlib.contextmanager
def _run_once(upstreams, *, listen=(), workers=1, toml="", under=()) -> Iterator[Shield]:
    """Run the daemon in front of `upstreams`, each an Address or something that has one; none: `toml` names them.

    `listen` holds (host, port) pairs, by default one free port of 127.0.0.1; `toml` is more configuration,
    beginning at the top level; `under` is a command that becomes the daemon. Leaving asserts a clean exit, unless
    an exception is on its way already.
    """
    addresses = [Address(*pair) for pair in listen] or [Address("127.0.0.1", free_port())]
    with tempfile.TemporaryDirectory(prefix="funkenshield-") as name:
        folder = Path(name)
        config = folder / "funkenshield.toml"
        named = [str(address_of(upstream)) for upstream in upstreams]
        config.write_text(
            f"listen = {json.dumps([str(address) for address in addresses])}\n"
            + (f"upstreams = {json.dumps(named)}\n" if named else "")
            + f"workers = {workers}\n{toml}\n"
        )
        with (folder / "log").open("wb") as log:
            run = ("run", "-c", config, "--control", folder / "control")
            # When a reload happens is for tests to say, but for those of what else may cause one.
            env = {"FUNKENSHIELD_RELOAD_ON_CHANGE": "false"} | os.environ | {"FUNKENSHIELD_TEST_CLOCK": "1"}
            if under or os.environ.get("LD_PRELOAD") != PRELOADED:  # only a process that is started loads it
                process = subprocess.Popen([*under, *COMMAND, *run], stdout=log, stderr=log, env=env)
            else:
                process = Forked(run, stdout=log, stderr=log, env=env)
        shield = Shield(process, folder, addresses)
        try:
            shield._wait_until_ready()
            yield shield
            shield.terminate()
        finally:
            process.kill()
            process.wait()
