"""Know how a client who means well asks for warm names over UDP and TCP, 1,000 times a second each, and what he got.

Each way has a process of its own, so that what this one does to the shield meanwhile costs him no time.
"""

import json
import subprocess
import sys
from pathlib import Path

from support import quick
from support.pipeline import ask_all
from support.process import COMMAND
from support.stopwatch import Stopwatch

RATE = 1000  # a second, each way
NAMES = [f"warm{n}.wild.shield.test." for n in range(100)]
LARGE = quick.query("big.shield.test.")  # its answer has 3,000 octets
QUERIES = [quick.query(name, quick.A) for name in NAMES]
STREAM = Path(__file__).with_name("stream.py")


class Behaved:
    """Two well-behaved clients of a shield, for so many seconds from when the context is entered."""

    def __init__(self, shield, folder, seconds):
        assert not any(reply[3] & 15 for reply in ask_all(shield, [*QUERIES, LARGE])), "warm"
        host, port = shield.address
        names = folder / "names"
        names.write_text("".join(f"{name} A\n" for name in NAMES))
        ways = ["-d", names, "-s", host, "-p", str(port), "-l", str(seconds), "-Q", str(RATE), "-q", "4000", "-t", "3"]
        self.shield = shield
        self._commands = {
            "udp": [*COMMAND, "perf", *ways, "--json"],
            "tcp": [sys.executable, STREAM, host, str(port), str(RATE), str(seconds), *map(bytes.hex, QUERIES)],
        }

    def going(self):
        """Tell whether one still asks, or waits."""
        return any(process.poll() is None for process in self._processes.values())

    def __enter__(self):
        self._stopwatch = Stopwatch()
        self._processes = {
            way: subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
            for way, command in self._commands.items()
        }
        return self

    def __exit__(self, kind, *_):
        self.waited = 1000 * self._stopwatch.waited()  # milliseconds, for processors
        for process in self._processes.values():
            if kind:
                process.kill()
            process.wait(30)
        self.reports = {} if kind else {way: json.load(each.stdout) for way, each in self._processes.items()}
        for process in self._processes.values():
            process.stdout.close()

    @property
    def outcome(self):
        """What each got, for an assertion: queries lost, and how often which rcode."""
        return {
            way: (report["lost"], {str(code): count for code, count in report["rcodes"].items()})
            for way, report in self.reports.items()
        }

    @property
    def flawless(self):
        """The outcome that it should be."""
        return {way: (0, {"NOERROR" if way == "udp" else "0": each["sent"]}) for way, each in self.reports.items()}

    @property
    def p99(self):
        """The milliseconds that 99 of 100 answers took at most, each way."""
        return {way: report["latency"]["p99"] for way, report in self.reports.items()}
