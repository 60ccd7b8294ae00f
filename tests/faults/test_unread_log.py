"""Show that whoever reads the log, or does not, keeps nobody waiting; and that what was not written is counted."""

import fcntl
import json
import os
import re
import signal
import socket
import subprocess

import pytest
from dns.message import make_query
from support.client import Address, free_port
from support.control import stats
from support.process import COMMAND, Shield
from support.until import until
from support.upstream import ScriptedUpstream, answer

SIZE = 4096  # octets of the pipe
TALKATIVE = f"""
[[rules]]
action = {{ log = "{"x" * 200} {{qname}}" }}
"""


@pytest.fixture
def upstream():
    with ScriptedUpstream(lambda query: answer(query, "A 192.0.2.1")) as running:
        yield running


@pytest.fixture
def shield(upstream, tmp_path):
    """Run a shield that says much, into a pipe that nobody reads from once it is ready."""
    address = Address("127.0.0.1", free_port())
    file = tmp_path / "funkenshield.toml"
    file.write_text(
        f"listen = {json.dumps([str(address)])}\nupstreams = {json.dumps([str(upstream.address)])}\nworkers = 1\n"
        + TALKATIVE
    )
    with subprocess.Popen(
        [*COMMAND, "run", "-c", file, "--control", tmp_path / "control"], stderr=subprocess.PIPE
    ) as process:
        fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, SIZE)
        while b"ready" not in process.stderr.readline():
            assert process.poll() is None
        try:
            yield Shield(process, tmp_path, [address])
        finally:
            process.kill()


def ask_much(shield, count, *, names=1):
    """Have more said than the pipe takes."""
    queries = [make_query(f"n{n}.miek.nl", "A").to_wire() for n in range(names)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(shield.address)
        asking.settimeout(10)
        for n in range(count):
            asking.send(queries[n % names])
            assert asking.recv(512)[7] == 1  # record in the answer


def read_all(pipe):
    """Return the lines that are left in a pipe, until its end."""
    return pipe.read().decode().splitlines()


def test_a_log_that_nobody_reads_keeps_no_miss_no_command_and_no_end_waiting(shield, upstream):
    ask_much(shield, 60, names=60)
    assert len(upstream.received) == 60
    os.kill(shield.process.pid, signal.SIGHUP)
    until(lambda: stats(shield)["reloads"] == 1)
    shield.process.terminate()
    assert shield.process.wait(10) == 0


def test_lines_that_did_not_fit_are_told_once_there_is_room(shield):
    ask_much(shield, 1200)
    told = lost = 0
    while told + lost < 1200:
        line = shield.process.stderr.readline().decode()
        told += " n0.miek.nl" in line
        found = re.search(r"WARNING (\d+) log lines lost", line)
        lost += int(found[1]) if found else 0
    assert told + lost == 1200
    assert 100 < lost < 300  # a thousand lines wait, and some are in the pipe
    shield.process.terminate()
    assert read_all(shield.process.stderr)[-1].endswith("stopped")
    assert shield.process.wait(10) == 0


def test_a_log_whose_reader_is_gone_changes_nothing(shield, upstream):
    shield.process.stderr.close()
    ask_much(shield, 30, names=30)
    assert len(upstream.received) == 30
    shield.process.terminate()
    assert shield.process.wait(10) == 0
