"""How many instructions a hit takes, from the query's octets to the response's: valgrind always counts the same.

Timings are benchmarks; this is what guards the fast path against growing by the way. `instructions.json` says how many
there are, by architecture and compiler. Where the count rises by more than 5 % on purpose, change that file.
"""

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import dns.message
import dns.rrset
import pytest

ROOT = Path(__file__).parent.parent.parent
KEPT = Path(__file__).with_name("instructions.json")
ASKED = 6400
PROGRAM = f"""
import sys
from hits import Hits
from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock
from funkenshield._fastpath import SettingsWriter
query, response = map(bytes.fromhex, sys.argv[1:])
clock = Clock()
cache = Cache(1 << 22, clock)
assert cache.store(query, response)
clock.advance(3)  # so that TTLs are counted down
assert Hits(SettingsWriter(cache), query).run({ASKED}, 1) == {ASKED}
"""


def build_hits() -> Path:
    """Build the clients of the benchmarks; return the folder that they are in."""
    program = "from compiled import hits; print(hits().__file__)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT / "benchmarks" / "micro", capture_output=True, text=True, check=True
    )
    return Path(done.stdout.splitlines()[-1]).parent


def count_instructions(folder: Path) -> float:
    query = dns.message.make_query("00000000.bench.example.", "A", id=7)
    response = dns.message.make_response(query)
    response.answer.append(dns.rrset.from_text(query.question[0].name, 86400, "IN", "A", "192.0.2.1"))
    out = folder / "counted"
    command = [
        "valgrind", "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=__pyx_f_4hits_4Hits__batch",
        f"--callgrind-out-file={out}", sys.executable, "-c", PROGRAM, query.to_wire().hex(), response.to_wire().hex(),
    ]  # fmt: skip
    path = os.pathsep.join([str(build_hits()), str(ROOT)])
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counted = re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.MULTILINE)
    assert counted is not None
    return int(counted[1]) / ASKED


@pytest.fixture
def here():
    compiler = subprocess.run(["gcc", "-dumpversion"], capture_output=True, text=True, check=True).stdout.strip()
    return f"{platform.machine()}, gcc {compiler.split('.')[0]}"


def test_a_hit_takes_no_more_instructions_than_it_did(tmp_path, here):
    kept = json.loads(KEPT.read_text())
    counted = count_instructions(tmp_path)
    if here not in kept:
        pytest.skip(f"nobody has counted on {here}; here it is {counted:.0f}: put that into {KEPT.name}")
    assert counted <= 1.05 * kept[here]["hit"], f"{counted:.0f} instructions, where there were {kept[here]['hit']}"
    assert counted >= 0.9 * kept[here]["hit"], f"{counted:.0f} instructions: well done; say so in {KEPT.name}"
