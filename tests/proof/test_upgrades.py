"""Show that upgrades under load lose nothing: many in a row, over UDP and TCP, and to a build with another layout."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import quick
from support.client import udp_wire
from support.control import stats
from support.nameservers import nsd
from support.upgrades import upgradable

pytestmark = [
    pytest.mark.proof,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("dnsperf") is None, reason="takes dnsperf"),
]
ROOT = Path(__file__).parents[2]
NAMES = [f"hot{number}.wild.shield.test" for number in range(5000)]
RATE, UPGRADES = 20_000, 20  # queries a second
PAUSE = 0.5  # seconds between two upgrades
TOML = 'cache.memory = "64MiB"'
LOADS = {"udp": ("-b", "8000", "-c", "8"), "tcp": ("-m", "tcp", "-c", "8")}


class Load:
    """dnsperf at a steady rate, until it is ended."""

    def __init__(self, shield, folder, options):
        (folder / "names").write_text("".join(f"{name} A\n" for name in NAMES))
        host, port = shield.address
        self._process = subprocess.Popen(
            ["dnsperf", "-s", host, "-p", str(port), "-d", folder / "names", "-l", "600", "-Q", str(RATE), "-q", "5000",
             "-t", "5", *options],
            stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def end(self):
        """End it; return how many queries were sent, but for those on their way then, completed, and lost."""
        self._process.send_signal(2)
        report = self._process.communicate(timeout=60)[0]
        found = {
            kind: int(count) for kind, count in re.findall(r"Queries (sent|completed|lost|interrupted): +(\d+)", report)
        }
        assert re.search(r"Response codes: +NOERROR \d+ \(100.00%\)", report), report
        return found["sent"] - found.get("interrupted", 0), found["completed"], found["lost"]


def fill(shield):
    for name in NAMES:
        assert udp_wire(shield, quick.query(name, quick.A))
    counted = stats(shield)
    assert counted["cache_entries"] >= len(NAMES)


@pytest.mark.parametrize("transport", LOADS)
def test_twenty_in_a_row_lose_nothing(transport, tmp_path):
    with nsd() as nameserver, upgradable([nameserver], workers=0, toml=TOML) as running:
        fill(running.shield)
        load = Load(running.shield, tmp_path, LOADS[transport])
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
        load = Load(running.shield, tmp_path, LOADS["udp"])
        for installed in (other, ROOT) * 3:
            time.sleep(PAUSE)
            package.unlink()
            package.symlink_to(installed)
            assert running.upgrade()["ok"], running.shield.log
            assert stats(running.shield)["cache_entries"] >= len(NAMES)
        time.sleep(PAUSE)
        sent, completed, lost = load.end()
        assert (lost, completed) == (0, sent)
        assert stats(running.shield)["cache_misses"] == 0
