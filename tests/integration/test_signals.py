"""Show what signals do that come before the daemon is ready: none kills it by default, none is lost."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.client import free_port
from support.process import COMMAND
from support.until import until

WAITING = """
import time
from pathlib import Path

Path("{folder}/begun").touch()
while not Path("{folder}/go").exists():
    time.sleep(0.01)
"""


@pytest.fixture
def starting(tmp_path):
    """Return a function that starts a daemon, and returns when it is at its rules, which take until `go` is there."""
    (tmp_path / "rules.py").write_text(WAITING.format(folder=tmp_path))
    file = tmp_path / "funkenshield.toml"
    file.write_text(f'listen = ["127.0.0.1:{free_port()}"]\nworkers = 1\nrules = "{tmp_path}/rules.py"\n')
    started = []

    def start(*before, **environment):
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                [*before, *COMMAND, "run", "-c", file, "--control", tmp_path / "control"],
                stderr=log, env=os.environ | environment,
            )  # fmt: skip
        started.append(process)
        until((tmp_path / "begun").exists, 15)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_and_cleanly_when_it_is_told_to_before_it_is_ready(starting, tmp_path, number):
    process = starting()
    assert (tmp_path / "control").is_socket()
    process.send_signal(number)
    assert process.wait(5) == 0
    assert (tmp_path / "log").read_text() == ""
    assert not (tmp_path / "control").exists()


def test_what_comes_before_it_is_ready_does_not_kill_it_and_a_reload_is_remembered(starting, tmp_path):
    process = starting()
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        process.send_signal(number)
    (tmp_path / "go").touch()
    until(lambda: "reloaded" in (tmp_path / "log").read_text() or process.poll() is not None, 15)
    assert process.poll() is None
    process.terminate()
    assert process.wait(5) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, None), (signal.SIGUSR1, None)])
def test_it_knows_what_to_do_before_it_has_loaded_anything(starting, tmp_path, number, code):
    (tmp_path / "click.py").write_text(WAITING.format(folder=tmp_path) + "raise SystemExit(7)")
    process = starting(PYTHONPATH=str(tmp_path))
    process.send_signal(number)
    if code is None:
        (tmp_path / "go").touch()
    assert process.wait(5) == (7 if code is None else code)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="takes root, and unshare")
def test_as_process_1_it_ends_when_it_is_told_to_before_it_is_ready(starting):
    process = starting("unshare", "--pid", "--fork", "--kill-child")
    inner = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    os.kill(int(inner), signal.SIGTERM)
    assert process.wait(5) == 0


LATE = """
import asyncio, os, signal
from funkenshield.core import early_signals
from funkenshield.admin.process import signals_handled

NUMBERS = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
early_signals.hold()

async def main():
    told = asyncio.Queue()
    with signals_handled({each: lambda each=each: told.put_nowait(each) for each in NUMBERS}):
        for each in NUMBERS:
            os.kill(os.getpid(), each)
            print((await told.get()).name)
    send()

def send(kill=os.kill, pid=os.getpid(), numbers=tuple(map(int, NUMBERS))):
    for each in numbers:
        kill(pid, each)

class Last:
    def __del__(self, send=send):  # when Python winds up, by when it follows no signals any more
        send()

last = Last()
asyncio.run(main())
"""


def test_what_comes_after_it_has_ended_does_not_kill_it():
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["SIGTERM", "SIGINT", "SIGHUP"], "")
