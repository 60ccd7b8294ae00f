"""The recipes in `examples/`, each started as a user would start it."""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import dns.dnssec
import dns.name
import dns.rdatatype
import pytest
from faults.load import Load
from support.client import Address, free_port
from support.process import Shield
from support.rig import answering, ask, asked, data, rcode, received
from support.stopwatch import Stopwatch
from support.until import until
from support.upstream import ScriptedUpstream, servfail

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@contextlib.contextmanager
def started(recipe, folder, old, new=None, **environment):
    """Run a copy of a recipe on a free port, in front of these upstreams; yield the shield."""
    folder = Path(shutil.copytree(EXAMPLES, folder / "examples"))
    port = free_port()
    text = (folder / recipe).read_text()
    for before, after in (("8054", port), ("8053", old.address.port), ("8055", new.address.port if new else "")):
        text = text.replace(f"127.0.0.1:{before}", f"127.0.0.1:{after}")
    (folder / recipe).write_text(text)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "funkenshield", "run", "-c", folder / recipe, "--control", folder / "control"],
            stdout=log, stderr=log, cwd=ROOT, env=os.environ | environment,
        )  # fmt: skip
    shield = Shield(process, folder, [Address("127.0.0.1", port)])
    try:
        shield._wait_until_ready()
        yield shield
        shield.terminate()
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def old():
    with ScriptedUpstream(answering("192.0.2.1")) as upstream:
        yield upstream


@pytest.fixture
def new():
    with ScriptedUpstream(answering("192.0.2.2")) as upstream:
        yield upstream


def test_every_recipe_is_listed_and_right():
    page = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        assert path.name == "README.md" or f"]({path.name})" in page, path
    for path in EXAMPLES.glob("*.toml"):
        done = subprocess.run(
            [sys.executable, "-m", "funkenshield", "check", "-c", path.relative_to(ROOT)],
            capture_output=True, text=True, cwd=ROOT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_transparent(tmp_path, old):
    with started("transparent.toml", tmp_path, old) as shield:
        for tcp in (False, False, True):
            assert data(ask(shield, "www.example.com", tcp=tcp)) == ["192.0.2.1"]
        assert received(old) == {"www.example.com.": 3}


def test_caching(tmp_path, old):
    with started("caching.toml", tmp_path, old) as shield:
        for tcp in (False, False, True):
            assert data(ask(shield, "www.example.com", tcp=tcp)) == ["192.0.2.1"]
        assert received(old) == {"www.example.com.": 1}


def test_primary(tmp_path, old):
    with started("primary.toml", tmp_path, old) as shield:
        wanted = {
            "127.0.0.1": ("REFUSED", "REFUSED"),
            "127.0.0.2": ("NOERROR", "REFUSED"),
            "127.0.0.3": ("REFUSED", "NOERROR"),
        }
        for source, (transfers, updates) in wanted.items():
            assert rcode(ask(shield, asked("example.com", "IXFR"), source=source)) == transfers
            assert rcode(ask(shield, asked("example.com", "SOA", opcode="UPDATE"), source=source)) == updates
        assert received(old) == {"example.com.": 2}
        assert data(ask(shield, "www.example.com")) == ["192.0.2.1"]


def test_delaying(tmp_path, old):
    with started("delaying.toml", tmp_path, old) as shield:
        took = []

        def wait_for_one():
            begun = time.monotonic()
            took.append((ask(shield, "x.example.com", timeout=2.0), time.monotonic() - begun))

        threads = [threading.Thread(target=wait_for_one) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        answered = sorted(seconds for response, seconds in took if response is not None)
        assert len(answered) == 5
        assert [seconds > 1 for seconds in answered] == [False, True, True, True, True]
        assert data(ask(shield, "x.example.com", source="127.0.0.9")) == ["192.0.2.1"]
        stopwatch = Stopwatch()
        for _ in range(10):
            assert data(ask(shield, asked("x.example.com", flags=""))) == ["192.0.2.1"]
        assert stopwatch.seconds() < 1


def test_signing(tmp_path, old):
    with started("signing.toml", tmp_path, old) as shield:
        keys = {}
        for name, rdtype in (("miek.nl", "DNSKEY"), ("www.miek.nl", "A")):
            for _ in range(2):
                response = ask(shield, asked(name, rdtype, do=True), tcp=True)
                owner = dns.name.from_text(name)
                covered = response.find_rrset(response.answer, owner, 1, dns.rdatatype.from_text(rdtype))
                signatures = response.find_rrset(
                    response.answer, owner, 1, dns.rdatatype.RRSIG, dns.rdatatype.from_text(rdtype)
                )
                keys.setdefault(dns.name.from_text("miek.nl"), covered)
                dns.dnssec.validate(covered, signatures, keys)
        assert data(ask(shield, "www.miek.nl")) == ["192.0.2.1"]
        assert data(ask(shield, asked("www.example.com", do=True))) == ["192.0.2.1"]
        assert received(old) == {"www.miek.nl.": 2, "www.example.com.": 1}
        assert shield.stats()["rules"]["answers"]["handler_calls"] == 1


def test_split_horizon(tmp_path, old, new):
    with started("split-horizon.toml", tmp_path, old, new) as shield:
        for _ in range(2):
            assert data(ask(shield, "www.example.com", source="127.10.0.1")) == ["192.0.2.2"]
            assert data(ask(shield, "www.example.com", source="127.0.0.1")) == ["192.0.2.1"]
            assert data(ask(shield, "www.example.org", source="127.10.0.1")) == ["192.0.2.1"]
        assert received(old) == {"www.example.com.": 1, "www.example.org.": 1}
        assert received(new) == {"www.example.com.": 1}


def test_block_list(tmp_path, old):
    with started("block-list.toml", tmp_path, old) as shield:
        assert rcode(ask(shield, "www.ads.example.com")) == rcode(ask(shield, "tracker.example.net")) == "NXDOMAIN"
        names = [f"bad{number}.example{number % 97}.test" for number in range(100_000)]
        with Load(shield) as load:
            load.go_on(0.2)
            fresh = shield.folder / "fresh"
            fresh.write_text("\n".join(names))
            fresh.replace(shield.folder / "blocked.txt")
            until(lambda: rcode(ask(shield, names[-1])) == "NXDOMAIN", within=15)
            load.go_on(0.2)
        assert load.outcome == load.flawless
        for name in (names[0], f"www.{names[50_000]}", names[77_777].upper()):
            assert rcode(ask(shield, name)) == "NXDOMAIN"
        assert rcode(ask(shield, "ads.example.com")) == rcode(ask(shield, f"x{names[0]}")) == "NOERROR"


def test_canary(tmp_path, old, new):
    sources = [f"127.20.{number // 250}.{number % 250 + 1}" for number in range(400)]
    with started("canary.toml", tmp_path, old, new) as shield:
        first = [data(ask(shield, "x.example.com", source=source)) for source in sources]
        assert 4 <= first.count(["192.0.2.2"]) <= 45
        assert [data(ask(shield, "x.example.com", source=source)) for source in sources] == first
        new.handle = servfail
        lucky = sources[first.index(["192.0.2.2"])]
        assert data(ask(shield, "y.example.com", source=lucky)) == ["192.0.2.1"]


def test_query_log(tmp_path, old):
    queries = tmp_path / "queries"
    with started("query-log.toml", tmp_path, old, QUERY_LOG=str(queries)) as shield:
        for number in (1, 2, 2):
            assert data(ask(shield, f"n{number}.example.com", source=f"127.30.0.{number}")) == ["192.0.2.1"]
        until((queries / "127.30.0.1.log").exists)
        ask(shield, asked("last.example.com", "TXT"), source="127.30.0.1")
    assert [line.split()[1:] for line in (queries / "127.30.0.1.log").read_text().splitlines()] == [
        ["n1.example.com.", "A"],
        ["last.example.com.", "TXT"],
    ]
    assert len((queries / "127.30.0.2.log").read_text().splitlines()) == 2


def test_query_log_goes_on_after_what_cannot_be_written(tmp_path, old):
    queries = tmp_path / "queries"
    one, other = queries / "127.30.0.1.log", queries / "127.30.0.2.log"
    one.mkdir(parents=True)
    with started("query-log.toml", tmp_path, old, QUERY_LOG=str(queries)) as shield:
        ask(shield, "lost.example.com", source="127.30.0.1")
        until(lambda: f"query log: [Errno 21] Is a directory: '{one}'; lines lost: 1" in shield.log)
        one.rmdir()
        ask(shield, "n1.example.com", source="127.30.0.1")
        ask(shield, "n2.example.com", source="127.30.0.2")
        until(lambda: one.exists() and other.exists())
    assert [line.split()[1] for each in (one, other) for line in each.read_text().splitlines()] == [
        "n1.example.com.",
        "n2.example.com.",
    ]
