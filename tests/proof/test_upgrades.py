"""Show that upgrades under load lose nothing: many in a row, however clients come, and to a build with another layout.

Over UDP and TCP, dnsperf is the client, and has every answer. Connections with TLS end at an upgrade, in order: there,
dnsperf and h2load are the load, which do not ask again what was open then, and clients that do have every answer.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from support import http2, quick
from support.certificates import HOST, Authority, believing
from support.client import Address, free_port, udp_wire
from support.control import stats
from support.http2 import trusting
from support.nameservers import nsd
from support.steady import OverHttps, OverTls, Steady, lost, opening
from support.upgrades import upgradable

pytestmark = [
    pytest.mark.proof,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not (shutil.which("dnsperf") and shutil.which("h2load")), reason="takes dnsperf and h2load"),
]
ROOT = Path(__file__).parents[2]
NAMES = [f"hot{number}.wild.shield.test" for number in range(5000)]
RATE, UPGRADES = 20_000, 20  # queries a second
PAUSE = 0.5  # seconds between two upgrades
TOML = 'cache.memory = "64MiB"'
LOADS = {"udp": ("-b", "8000", "-c", "8"), "tcp": ("-m", "tcp", "-c", "8")}
ENCRYPTED = {
    "tls": (OverTls, believing),
    "https": (OverHttps, lambda authority: trusting(authority.file)),
}
ENCRYPTED_RATE, CLIENTS = 5000, 6  # queries a second by dnsperf, and clients that notice each loss beside it


class Load:
    """dnsperf at a steady rate, until it is ended."""

    def __init__(self, address, folder, options, rate=RATE):
        (folder / "names").write_text("".join(f"{name} A\n" for name in NAMES))
        host, port = address
        self._process = subprocess.Popen(
            ["dnsperf", "-s", host, "-p", str(port), "-d", folder / "names", "-l", "600", "-Q", str(rate), "-q", "5000",
             "-t", "5", *options],
            stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def again(self):
        """Go on: it connects again by itself."""

    def end(self):
        """End it; return how many queries were sent, but for those on their way then, completed, and lost."""
        self._process.send_signal(2)
        report = self._process.communicate(timeout=60)[0]
        found = {
            kind: int(count) for kind, count in re.findall(r"Queries (sent|completed|lost|interrupted): +(\d+)", report)
        }
        assert re.search(r"Response codes: +NOERROR \d+ \(100.00%\)", report), report
        return found["sent"] - found.get("interrupted", 0), found["completed"], found["lost"]


class Requests:
    """h2load, which begins anew for each upgrade: it ends with its connections."""

    def __init__(self, address, folder):
        asked = (http2.in_target(quick.query(name, quick.A)) for name in NAMES[:500])
        (folder / "urls").write_text("".join(f"https://{HOST}{target}\n" for target in asked))
        host, port = address
        self._command = [
            "h2load",
            "-c",
            "4",
            "-m",
            "10",
            "-D",
            "3",
            f"--connect-to={host}:{port}",
            "-i",
            folder / "urls",
        ]
        self._counts = Counter()
        self.again()

    def again(self):
        if self._counts:
            self._count()
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)
        self._counts["runs"] += 1

    def _count(self):
        report = self._process.communicate(timeout=60)[0]
        self._counts += {kind: int(n) for n, kind in re.findall(r"(\d+) (started|succeeded|failed|errored)", report)}

    def end(self):
        """Return how many requests were sent, answered, and lost."""
        self._count()
        return self._counts["started"], self._counts["succeeded"], self._counts["failed"] + self._counts["errored"]


def fill(shield):
    for name in NAMES:
        assert udp_wire(shield, quick.query(name, quick.A))
    counted = stats(shield)
    assert counted["cache_entries"] >= len(NAMES)


@pytest.mark.parametrize("transport", LOADS)
def test_twenty_in_a_row_lose_nothing(transport, tmp_path):
    with nsd() as nameserver, upgradable([nameserver], workers=0, toml=TOML) as running:
        fill(running.shield)
        load = Load(running.shield.address, tmp_path, LOADS[transport])
        begun, hits, misses = time.monotonic(), 0, 0
        for _ in range(UPGRADES):
            time.sleep(PAUSE)
            before = stats(running.shield)
            hits, misses = hits + before["cache_hits"], misses + before["cache_misses"]
            assert running.upgrade()["ok"], running.shield.log
        time.sleep(PAUSE)
        sent, completed, lost = load.end()
        seconds = time.monotonic() - begun
        waits = [int(each) for each in re.findall(r"serves, after (\d+) ms", running.shield.log)]
        print(f"{sent} queries in {seconds:.0f} s, {lost} lost, {misses} misses; waits of {sorted(waits)} ms")
        assert (lost, completed) == (0, sent)
        assert sent > 0.8 * RATE * seconds
        assert misses - len(NAMES) <= hits / 1000
        assert stats(running.shield)["cache_misses"] == 0
        assert len(waits) == UPGRADES


@pytest.mark.parametrize("transport", ENCRYPTED)
def test_twenty_in_a_row_end_connections_in_order(transport, tmp_path):
    kind, context_of = ENCRYPTED[transport]
    door, authority = Address("127.0.0.1", free_port()), Authority(tmp_path)
    shown = authority.issue(HOST)
    toml = f"""{TOML}
        [[listeners]]
        address = "{door}"
        transport = "{transport}"
        certificates = [{{ certificate = "{shown.certificate}", key = "{shown.key}" }}]
    """
    with nsd() as nameserver, upgradable([nameserver], workers=0, toml=toml) as running:
        fill(running.shield)
        load = (
            Requests(door, tmp_path)
            if transport == "https"
            else Load(door, tmp_path, ("-c", "8", "-m", "dot"), ENCRYPTED_RATE)
        )
        opened = opening(kind, door, context_of(authority))
        clients = [Steady(opened, NAMES[number:]) for number in range(CLIENTS)]
        for each in clients:
            each.start()
        hits, misses = 0, 0
        for _ in range(UPGRADES):
            time.sleep(PAUSE)
            before = stats(running.shield)
            hits, misses = hits + before["cache_hits"], misses + before["cache_misses"]
            assert running.upgrade()["ok"], running.shield.log
            load.again()
        time.sleep(PAUSE)
        counts = sum((each.end() for each in clients), Counter())
        sent, _, left_open = load.end()
        print(f"{dict(counts)}; of the load's {sent}, {left_open} were open at an end; {hits} hits, {misses} misses")
        assert not lost(counts)
        assert counts["connections"] >= UPGRADES * CLIENTS
        assert misses - len(NAMES) <= hits / 1000


def build_with_another_layout(folder):
    """Make a copy of the package, with another field in each entry, and build it."""
    for each in ("funkenshield", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        source = ROOT / each
        if source.is_dir():
            shutil.copytree(source, folder / each, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy2(source, folder / each)
    entry = folder / "funkenshield" / "cache" / "_entry.pxd"
    told = "    uint16_t zone        # whose settings hold\n"
    text = entry.read_text()
    assert text.count(told) == 1
    entry.write_text(text.replace(told, "    uint64_t unused      # another layout\n" + told))
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], cwd=folder, check=True, timeout=1500,
        env=os.environ | {"FUNKENSHIELD_BUILD": "playground", "PYTHONPATH": str(folder)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def test_another_layout_of_entries_loses_nothing(tmp_path, monkeypatch):
    """The other build is not optimised: so it comes second, and what it can carry is not asked of it."""
    other, package = tmp_path / "other", tmp_path / "installed"
    other.mkdir()
    build_with_another_layout(other)
    package.symlink_to(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(package))
    monkeypatch.chdir(tmp_path)
    with nsd() as nameserver, upgradable([nameserver], workers=0, toml=TOML) as running:
        fill(running.shield)
        load = Load(running.shield.address, tmp_path, LOADS["udp"])
        for installed in (other, ROOT) * 3:
            time.sleep(PAUSE)
            package.unlink()
            package.symlink_to(installed)
            assert running.upgrade()["ok"], running.shield.log
            assert stats(running.shield)["cache_entries"] >= len(NAMES)
        time.sleep(PAUSE)
        sent, completed, lost = load.end()
        print(f"{sent} queries, {lost} lost")
        assert (lost, completed) == (0, sent)
        assert stats(running.shield)["cache_misses"] == 0
