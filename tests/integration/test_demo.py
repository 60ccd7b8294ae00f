"""What can be seen with nothing but the package does what the README says."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from support.client import ask, free_port
from support.stopwatch import Stopwatch

import funkenshield

COMMAND = [sys.executable, "-m", "funkenshield"]
PACKAGE = Path(funkenshield.__file__).parent
NAMESERVER, SHIELD = ("127.0.0.1", 8053), ("127.0.0.1", 8054)
ELSEWHERE = ["--nameserver", f"127.0.0.1:{free_port()}", "--shield", f"127.0.0.1:{free_port()}"]


@pytest.fixture(scope="module")
def playground():
    """Run what `make run` runs, and yield the six lines that it says; another one needs other ports."""
    with subprocess.Popen([*COMMAND, "playground"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield [process.stdout.readline() for _ in range(6)]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_playground_says_in_few_lines_what_runs_where_and_what_to_try(playground):
    assert "127.0.0.1:8053" in playground[0]
    assert "127.0.0.1:8054" in playground[1]
    dig = re.search(r"dig .*", playground[2])
    assert dig
    shown = subprocess.run([*dig[0].split(), "+short"], capture_output=True, text=True, timeout=10).stdout
    assert sorted(shown.splitlines()) == ["20 mail.atoom.net.", "40 mx-ext.tjeb.nl."]


def test_playground_says_how_it_is_asked_for_its_counters(playground):
    command = playground[3].removeprefix("and then").split()
    assert command[1:4] == ["-m", "funkenshield", "stats"]
    ask("miek.nl", "A", server=SHIELD)
    shown = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, timeout=15)
    assert re.search(r"^queries +[1-9]", shown.stdout, re.M), shown.stderr


def test_playground_shows_what_happens_on_a_page(playground):
    (url,) = re.findall(r"^look at +(http://127\.0\.0\.1:8055/)$", playground[4])
    ask("miek.nl", "A", server=SHIELD)
    with urllib.request.urlopen(url, timeout=5) as page, urllib.request.urlopen(f"{url}api/overview") as overview:
        assert b"FunkenShield" in page.read()
        assert json.load(overview)["totals"]["queries"] >= 1


def test_where_another_program_has_the_pages_port_it_is_elsewhere(playground):
    with subprocess.Popen([*COMMAND, "playground", *ELSEWHERE], stdout=subprocess.PIPE, text=True) as process:
        url = [process.stdout.readline() for _ in range(6)][4].split()[-1]
        with urllib.request.urlopen(f"{url}ready", timeout=5) as page:
            assert page.read() == b"ok\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_playground_is_left_with_nothing_running(playground):
    assert ask("miek.nl", "A", server=SHIELD).answer
    assert ask("miek.nl", "A", server=NAMESERVER).answer


def test_playground_shows_what_the_shield_says():
    with subprocess.Popen(
        [*COMMAND, "playground", *ELSEWHERE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for _ in range(3):
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=10)[1]
    assert re.search(r"INFO +draining\n.*INFO +stopped\n", said)
    assert process.returncode == 0


def test_the_playground_leaves_nothing_behind(tmp_path):
    """A secret of cookies is kept where the next start finds it; this shield has no next one."""
    environment = {**os.environ, "STATE_DIRECTORY": str(tmp_path)}
    with subprocess.Popen(
        [*COMMAND, "playground", *ELSEWHERE], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_demo_measures_both_and_their_ratio():
    shown = subprocess.run(
        [*COMMAND, "demo", "-l", "0.5", "--json", *ELSEWHERE], capture_output=True, text=True, timeout=60
    )
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


def test_who_is_told_that_a_port_is_taken_is_told_what_to_do(playground):
    elsewhere = ["--nameserver", f"127.0.0.1:{free_port()}"]
    for flags, port, flag in (([], 8053, "--nameserver"), (elsewhere, 8054, "--shield")):
        shown = subprocess.run([*COMMAND, "playground", *flags], capture_output=True, text=True, timeout=60)
        assert shown.returncode == 1
        (line,) = shown.stderr.splitlines()
        assert f"cannot listen on 127.0.0.1:{port}" in line
        assert line.endswith(" ".join(["-m funkenshield playground", *flags, flag, "ADDR:PORT"]))


def test_a_folder_that_is_called_like_the_package_is_not_taken_for_it(tmp_path):
    (tmp_path / "funkenshield").mkdir()
    (tmp_path / "funkenshield" / "__init__.py").write_text("raise SystemExit('not this one')")
    places = ["--nameserver", f"127.0.0.1:{free_port()}", "--shield", f"127.0.0.1:{free_port()}"]
    command = [sys.executable, "-P", "-m", "funkenshield", "demo", "-l", "0.2", "--json", *places]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["shielded"]["answered"]


def test_where_nothing_is_built_a_line_says_so(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "funkenshield", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shown = subprocess.run([*COMMAND, "demo"], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert shown.returncode == 1
    (line,) = shown.stderr.splitlines()
    assert line.startswith("funkenshield: funkenshield.forward._miss_path is not installed for ")
    assert "`make run`" in line


def test_nameserver_answers_from_a_zone_file(tmp_path):
    zone = tmp_path / "zone"
    zone.write_text("$ORIGIN try.test.\n@ 300 SOA ns h 1 2 3 4 5\n@ 300 NS ns\nns 300 A 192.0.2.1\n")
    with subprocess.Popen(
        [*COMMAND, "nameserver", "--listen", "127.0.0.1:8063", "--zone", str(zone)], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "ready" in process.stderr.readline()
        assert ask("ns.try.test", "A", server=("127.0.0.1", 8063)).answer[0][0].address == "192.0.2.1"
        process.terminate()
        assert process.wait(5) == 0


def test_perf_reports_what_it_did(playground, tmp_path):
    data = tmp_path / "queries"
    data.write_text("miek.nl A\nnope.miek.nl AAAA\n")
    stopwatch = Stopwatch()
    shown = subprocess.run(
        [*COMMAND, "perf", "-d", str(data), "-s", SHIELD[0], "-p", str(SHIELD[1]), "-l", "1", "--json"],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert stopwatch.seconds() < 15
    found = json.loads(shown.stdout)
    assert found["sent"] == found["answered"] + found["lost"]
    assert abs(found["rcodes"]["NOERROR"] - found["rcodes"]["NXDOMAIN"]) <= 200
