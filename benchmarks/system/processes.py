"""Servers on 127.0.0.1: started on one core, looked at, ended. The load and the upstream have the other core.

It knows processes. What they serve is the servers' business, what they are asked the workloads'.
"""

import contextlib
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

import dns.message

TICK = 1 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
SERVER_CORE, LOAD_CORE = (sorted(os.sched_getaffinity(0)) * 2)[:2]
PORTS = {"tcp": 0, "tls": 7_000, "https": 14_000}  # over that of UDP
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


class Server(Protocol):
    """What can be run: a module of `servers`, or something like it."""

    def command(self, folder: Path, port: int, upstream: int, /) -> list[str]:
        """Write what it reads into a folder of its own; return the command that runs it in the foreground."""


@dataclass(frozen=True)
class Running:
    """A server that answers on a port, and all processes that it has started."""

    port: int
    session: int

    def port_over(self, transport: str) -> int:
        """Return the port of "tcp", "tls" or "https", of servers that have it."""
        return self.port + PORTS[transport]

    def cpu(self) -> float:
        """Return the seconds of CPU used so far, in user space and in the kernel."""
        return sum(int(fields[11]) + int(fields[12]) for fields in self._stat()) * TICK

    def memory(self) -> int:
        """Return the octets of memory that are resident."""
        return sum(int(fields[21]) for fields in self._stat()) * PAGE

    def _stat(self) -> Iterator[list[str]]:
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                with contextlib.suppress(OSError):
                    fields = (process / "stat").read_text().rpartition(")")[2].split()
                    if int(fields[3]) == self.session:
                        yield fields


def found(program: str) -> bool:
    """Tell whether a program is installed."""
    return shutil.which(program, path=PATH) is not None


def version(server: ModuleType) -> str:
    """Return what a server says of its version, in a line."""
    done = subprocess.run(server.VERSION, capture_output=True, text=True, check=False, env={**os.environ, "PATH": PATH})
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if any(map(str.isdigit, line))]
    return lines[0] if lines else "?"


@contextlib.contextmanager
def running(server: Server | ModuleType, folder: Path, upstream: int, core: int, probe: str = "") -> Iterator[Running]:
    """Run a server on one core until it is no longer needed; `probe` is a name that it must answer first."""
    folder.mkdir(exist_ok=True)
    port = _free_port()
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *server.command(folder, port, upstream)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=folder,
            env={**os.environ, "PATH": PATH},
        )  # fmt: skip
    try:
        if probe:
            _wait(process, port, probe, folder / "log")
        else:
            time.sleep(0.3)  # a floor answers nothing that can be read
        yield Running(port, process.pid)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    """Return a port that neither UDP uses, nor what is behind it TCP, TLS and HTTPS, and no client gets by chance."""
    for _ in range(100):
        port = random.randrange(10_000, 17_000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)).bind(("127.0.0.1", port))
            for more in PORTS.values():
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port + more))
            return port
    raise SystemExit("there is no free port")


def _wait(process: subprocess.Popen[bytes], port: int, name: str, log: Path) -> None:
    query = dns.message.make_query(name, "A").to_wire()
    end = time.monotonic() + 20
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(0.2)
        client.connect(("127.0.0.1", port))
        while time.monotonic() < end and process.poll() is None:
            with contextlib.suppress(OSError):
                client.send(query)
                if client.recv(4096)[3] & 15 == 0:
                    return
            time.sleep(0.05)
    raise SystemExit(f"does not answer: {process.args!r}\n{log.read_text(errors='replace')[-2000:]}")


def machine() -> dict[str, str]:
    """Return what the machine is."""
    model = "?"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "CPU implementer")):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model,
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
