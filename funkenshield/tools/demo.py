"""What can be seen with nothing but the package: the small nameserver, the shield before it, and 2011 again."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import dns.exception
import uvloop
from rich.console import Console
from rich.table import Table

from ..config import control_socket, default_socket
from ..config.admin import PAGE
from ..config.types import Endpoint, parse_endpoint
from ..errors import ConfigError, FunkenShieldError
from ..server.sockets import explained
from ..zones.local_zone import Zone
from .nameserver import serve
from .perf import make_queries, run_perf

EXIT_TIMEOUT = 5.0  # seconds for the last lines of a server
QUESTIONS = ["miek.nl A", "miek.nl AAAA"]  # those of 2011


def run_nameserver(listen: str, zone: Path | None, delay: float) -> None:
    """Serve a zone until a signal comes."""
    try:
        endpoint = parse_endpoint(listen)
        served = Zone.from_file(zone) if zone else None
    except OSError as error:
        raise ConfigError(f"{zone}: {error.strerror}") from None
    except (ValueError, KeyError, dns.exception.DNSException) as error:
        raise ConfigError(f"{zone or listen}: {error}") from None
    if not 0 <= delay <= 60:
        raise ConfigError(f"--delay: 0 to 60 seconds, not {delay}")

    async def main() -> None:
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        with explained(endpoint, "UDP and TCP"):
            nameserver = await serve(*endpoint, delay=delay, zone=served)
        print(f"nameserver ready on {endpoint}", file=sys.stderr, flush=True)
        await stopping.wait()
        await nameserver.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


@contextlib.contextmanager
def both(
    nameserver: str, shield: str, *sockets: Path, page: Endpoint | None = None
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Have the nameserver, and the shield in front of it, run as processes of their own; with its page, if wanted.

    Yield the shield's, and where it is controlled: at the first of these paths that no other daemon has, or else in a
    folder that is gone at the end.
    """
    with tempfile.TemporaryDirectory(prefix="funkenshield-") as folder, contextlib.ExitStack() as stack:
        _start(stack, folder, "--nameserver", "nameserver", "--listen", nameserver)
        run = "run", "--listen", shield, "--upstream", nameserver, "--control"
        more = {"FUNKENSHIELD_WEB__PAGE": "true", "FUNKENSHIELD_METRICS__LISTEN": str(page)} if page else {}
        for path in (*sockets, Path(folder, "control.sock")):
            try:
                started = _start(stack, folder, "--shield", *run, str(path), **more)
            except FunkenShieldError as error:
                if path not in sockets or not str(error).startswith(str(path)):
                    raise
            else:
                yield started, path
                return


def _start(
    stack: contextlib.ExitStack, folder: str, flag: str, *arguments: str, **environment: str
) -> subprocess.Popen[str]:
    """Start a command and wait until it says that it is ready; what else it logs goes to standard error.

    What it keeps goes into `folder`; `flag` is the one of ours that says where it listens. The command finds this
    package where we did, and not in the folder that it is started in. Where it ends before, what it said last is the
    error.
    """
    seen = os.pathsep.join(each or os.getcwd() for each in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "funkenshield", *arguments],
        stderr=subprocess.PIPE, text=True, errors="replace", process_group=0,
        env={**os.environ, "PYTHONPATH": seen, "STATE_DIRECTORY": folder, **environment},
    )  # fmt: skip
    assert process.stderr is not None
    stack.callback(process.stderr.close)
    said, ready = [], False
    for line in process.stderr:
        if ready := bool(re.search(r"\bready\b", line)):  # "already in use" is not
            break
        said.append(line)
    forwarding = threading.Thread(target=_forward, args=(chain(said if ready else (), process.stderr),), daemon=True)
    forwarding.start()
    stack.callback(forwarding.join, EXIT_TIMEOUT)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    if ready:
        return process
    lines = [line.strip() for line in said if line.strip()]
    why = lines[-1].removeprefix("funkenshield: ") if lines else f"{arguments[0]} did not start"
    if "address in use by another program" in why:
        why += f"; stop it, or choose another address: {_command()} {' '.join(sys.argv[1:])} {flag} ADDR:PORT"
    raise FunkenShieldError(why)


def _forward(lines: Iterable[str]) -> None:
    """Forward what a server logs, as long as somebody reads it."""
    with contextlib.suppress(OSError):
        for line in lines:
            os.write(sys.stderr.fileno(), line.encode())  # not through a buffer, whose lock the end would wait for


def _command() -> str:
    """Return how this command was called, as people type it."""
    called = sys.argv[0]
    return f"{Path(sys.executable).name} -m funkenshield" if called.endswith("__main__.py") else called


def run_playground(nameserver: str, shield: str) -> None:
    """Run both until a signal comes, and say what to try."""
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    endpoint, page = _endpoints(nameserver, shield)[1], _where_to_show()
    with both(nameserver, shield, Path(default_socket()), page=page) as (process, path):
        asked = "" if path == control_socket(None) else f" --control {path}"
        print(f"nameserver  {nameserver}  the zone miek.nl, answered by plain Python")
        print(f"shield      {shield}  in front of it; stop both with Ctrl-C")
        print(f"try         dig @{endpoint.host} -p {endpoint.port} miek.nl MX")
        print(f"and then    {_command()} stats{asked}")
        print(f"look at     http://{page}/")
        print(f"watch       {_command()} top{asked}", flush=True)
        while not stopped and process.poll() is None:
            time.sleep(0.1)
        if not stopped:
            raise FunkenShieldError("the shield exited unexpectedly")


def _where_to_show() -> Endpoint:
    """Return where the page can be: where it always is, or where another program is there, at any port."""
    for port in (PAGE.port, 0):
        with contextlib.suppress(OSError), socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((PAGE.host, port))
            return Endpoint(*tried.getsockname())
    return PAGE  # and the shield says why not


def _endpoints(*texts: str) -> list[Endpoint]:
    try:
        return [parse_endpoint(text) for text in texts]
    except ValueError as error:
        raise ConfigError(f"{', '.join(texts)}: {error}") from None


def run_experiment(nameserver: str, shield: str, seconds: float, *, as_json: bool) -> None:
    """Measure the nameserver alone, then through the shield, and print both with their ratio."""
    if not 0.1 <= seconds <= 3600:
        raise ConfigError(f"-l: 0.1 to 3600 seconds, not {seconds}")
    queries = make_queries(QUESTIONS, edns=False, dnssec=False, rd=False)
    console, endpoints = Console(), _endpoints(nameserver, shield)
    with both(nameserver, shield), console.status("measuring the nameserver alone") as status:
        alone = run_perf(queries, *endpoints[0], seconds, window=20)
        status.update("measuring through the shield")
        shielded = run_perf(queries, *endpoints[1], seconds, window=20)
    ratio = shielded.qps / alone.qps if alone.qps else 0.0
    if as_json:
        print(json.dumps({"alone": alone._asdict(), "shielded": shielded._asdict(), "ratio": ratio}))
        return
    table = Table(title="miek.nl, A and AAAA, 20 queries open")
    for heading in ("", "queries/s", "p50", "p99", "lost"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, report in (("nameserver alone", alone), ("through the shield", shielded)):
        table.add_row(name, f"{report.qps:,.0f}", f"{report.latency['p50']:.2f} ms",
                      f"{report.latency['p99']:.2f} ms", f"{report.lost:,}")  # fmt: skip
    table.add_row("ratio", f"{ratio:.1f} x")
    table.add_row("in 2011", "3,079 -> 27,506", style="dim")
    console.print(table)
