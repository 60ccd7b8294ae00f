"""What can be seen with nothing but the package: the small nameserver, the shield before it, and 2011 again."""

import asyncio
import contextlib
import json
import os
import re
import signal
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

from .errors import ConfigError, FunkenShieldError
from .fields import Endpoint, parse_endpoint
from .nameserver import Zone, serve
from .perf import make_queries, run_perf

NAMESERVER, SHIELD = Endpoint("127.0.0.1", 8053), Endpoint("127.0.0.1", 8054)
QUESTIONS = ["miek.nl A", "miek.nl AAAA"]  # those of 2011
PATIENCE = 5.0  # seconds that a server is given to start


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
        try:
            nameserver = await serve(*endpoint, delay=delay, zone=served)
        except OSError as error:
            raise FunkenShieldError(f"cannot listen on {endpoint}: {os.strerror(error.errno or 0)}") from None
        print(f"nameserver ready on {endpoint}", file=sys.stderr, flush=True)
        await stopping.wait()
        await nameserver.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


@contextlib.contextmanager
def both(nameserver: Endpoint, shield: Endpoint) -> Iterator[subprocess.Popen[str]]:
    """Have the nameserver, and the shield in front of it, run as processes of their own; yield the shield's."""
    with tempfile.TemporaryDirectory(prefix="funkenshield-") as folder, contextlib.ExitStack() as stack:
        _start(stack, "ns", "--listen", str(nameserver))
        yield _start(stack, "run", "--listen", str(shield), "--upstream", str(nameserver),
                     "--control", f"{folder}/control.sock")  # fmt: skip


def _start(stack: contextlib.ExitStack, *arguments: str) -> subprocess.Popen[str]:
    """Start a command and wait until it says that it is ready; what else it says is told on standard error.

    Where it ends before, that is the error.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "funkenshield", *arguments], stderr=subprocess.PIPE, text=True, process_group=0
    )
    assert process.stderr is not None
    stack.callback(process.stderr.close)
    said, ready = [], False
    for line in process.stderr:
        if ready := bool(re.search(r"\bready\b", line)):  # "already in use" is not
            break
        said.append(line)
    telling = threading.Thread(target=_tell, args=(chain(said if ready else (), process.stderr),), daemon=True)
    telling.start()
    stack.callback(telling.join, PATIENCE)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    if not ready:
        raise FunkenShieldError("".join(said).strip().replace("funkenshield: ", "") or f"{arguments[0]} did not start")
    return process


def _tell(lines: Iterable[str]) -> None:
    """Pass on what a server says, for as long as somebody reads it."""
    with contextlib.suppress(OSError):
        for line in lines:
            os.write(sys.stderr.fileno(), line.encode())  # not through a buffer, whose lock the end would wait for


def run_playground() -> None:
    """Run both until a signal comes, and say what to try."""
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with both(NAMESERVER, SHIELD) as shield:
        print(f"nameserver  {NAMESERVER}  the zone miek.nl, answered by plain Python")
        print(f"shield      {SHIELD}  in front of it; stop both with Ctrl-C")
        print(f"try         dig @{SHIELD.host} -p {SHIELD.port} miek.nl MX", flush=True)
        while not stopped and shield.poll() is None:
            time.sleep(0.1)
        if not stopped:
            raise FunkenShieldError("the shield ended by itself")


def run_experiment(seconds: float, *, as_json: bool) -> None:
    """Measure the nameserver alone, then through the shield, and print both with their ratio."""
    if not 0.1 <= seconds <= 3600:
        raise ConfigError(f"-l: 0.1 to 3600 seconds, not {seconds}")
    queries = make_queries(QUESTIONS, edns=False, dnssec=False, rd=False)
    console = Console()
    with both(NAMESERVER, SHIELD), console.status("measuring the nameserver alone") as status:
        alone = run_perf(queries, *NAMESERVER, seconds, window=20)
        status.update("measuring through the shield")
        shielded = run_perf(queries, *SHIELD, seconds, window=20)
    ratio = shielded.qps / alone.qps if alone.qps else 0.0
    if as_json:
        print(json.dumps({"alone": alone.as_dict(), "shielded": shielded.as_dict(), "ratio": ratio}))
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
