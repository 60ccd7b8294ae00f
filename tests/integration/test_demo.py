"""What can be seen with nothing but the package does what the README says."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest
from support.client import ask

COMMAND = [sys.executable, "-m", "funkenshield"]
NAMESERVER, SHIELD = ("127.0.0.1", 8053), ("127.0.0.1", 8054)


@pytest.fixture
def playground():
    """Run what `make run` runs, and yield the three lines that it says."""
    with subprocess.Popen([*COMMAND, "playground"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 0


def test_playground_says_in_three_lines_what_runs_where_and_what_to_try(playground):
    assert "127.0.0.1:8053" in playground[0]
    assert "127.0.0.1:8054" in playground[1]
    dig = re.search(r"dig .*", playground[2])
    assert dig
    shown = subprocess.run([*dig[0].split(), "+short"], capture_output=True, text=True, timeout=10).stdout
    assert sorted(shown.splitlines()) == ["20 mail.atoom.net.", "40 mx-ext.tjeb.nl."]


def test_playground_is_left_with_nothing_running(playground):
    assert ask("miek.nl", "A", server=SHIELD).answer
    assert ask("miek.nl", "A", server=NAMESERVER).answer


def test_playground_shows_what_the_shield_says():
    with subprocess.Popen(
        [*COMMAND, "playground"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for _ in range(3):
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=10)[1]
    assert re.search(r"INFO +draining\n.*INFO +stopped\n", said)
    assert process.returncode == 0


def test_demo_measures_both_and_their_ratio():
    shown = subprocess.run([*COMMAND, "demo", "-l", "0.5", "--json"], capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout)
    for run in ("alone", "shielded"):
        assert found[run]["answered"] > 100
        assert found[run]["rcodes"] == {"NOERROR": found[run]["answered"]}
    assert found["ratio"] == pytest.approx(found["shielded"]["qps"] / found["alone"]["qps"])
    assert found["ratio"] > 2  # it is twenty and more where nothing else runs


def test_demo_says_in_one_line_that_a_port_is_taken(playground):
    shown = subprocess.run([*COMMAND, "demo", "-l", "0.5"], capture_output=True, text=True, timeout=60)
    assert shown.returncode == 1
    assert "cannot listen on 127.0.0.1:8053" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_nameserver_answers_from_a_zone_file(tmp_path):
    zone = tmp_path / "zone"
    zone.write_text("$ORIGIN try.test.\n@ 300 SOA ns h 1 2 3 4 5\n@ 300 NS ns\nns 300 A 192.0.2.1\n")
    with subprocess.Popen(
        [*COMMAND, "ns", "--listen", "127.0.0.1:8063", "--zone", str(zone)], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "ready" in process.stderr.readline()
        assert ask("ns.try.test", "A", server=("127.0.0.1", 8063)).answer[0][0].address == "192.0.2.1"
        process.terminate()
        assert process.wait(5) == 0


def test_perf_reports_what_it_did(playground, tmp_path):
    data = tmp_path / "queries"
    data.write_text("miek.nl A\nnope.miek.nl AAAA\n")
    started = time.monotonic()
    shown = subprocess.run(
        [*COMMAND, "perf", "-d", str(data), "-s", SHIELD[0], "-p", str(SHIELD[1]), "-l", "1", "--json"],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert time.monotonic() - started < 15
    found = json.loads(shown.stdout)
    assert found["sent"] == found["answered"] + found["lost"]
    assert abs(found["rcodes"]["NOERROR"] - found["rcodes"]["NXDOMAIN"]) <= 200
