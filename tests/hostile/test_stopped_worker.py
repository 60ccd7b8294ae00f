"""Know that a worker which the kernel stops in the midst of a batch finds nothing freed when it goes on.

It is stopped by a library that is loaded into the shield (`stopped.c`), after it has received and before it answers:
whatever it had looked up by then would be gone, for what is freed is overwritten at once.
"""

import json
import os
import socket
import struct
import subprocess
from pathlib import Path

import pytest
from rules.changing import configure, reloaded
from support.control import request, stats
from support.rig import behind, good, names, rcodes
from support.until import until
from support.wires import ask_wire

CHANGES = 40


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """Return three words of shields to come: whether workers stop, how many have, the seconds that the clock is on."""
    library, file = tmp_path / "stopped.so", tmp_path / "words"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("stopped.c")], check=True)
    file.write_bytes(bytes(24))
    monkeypatch.setenv("LD_PRELOAD", f"{os.environ.get('LD_PRELOAD', '')} {library}")  # behind a sanitizer's
    monkeypatch.setenv("STOPPED", str(file))
    monkeypatch.setenv("PYTHONMALLOC", "malloc")
    monkeypatch.setenv("MALLOC_PERTURB_", "165")
    return Words(file)


class Words:
    """Words of a process, in a file that it has mapped."""

    def __init__(self, path):
        self._path = path

    def __getitem__(self, number):
        return struct.unpack("3q", self._path.read_bytes())[number]

    def __setitem__(self, number, value):
        with self._path.open("r+b") as file:
            file.seek(8 * number)
            file.write(struct.pack("q", value))


def block(shield, prefix):
    told = json.dumps({"command": "block add", "prefix": prefix, "seconds": 10_000}).encode()
    assert request(shield, told) == [{"ok": True}]


def test_all_settings_change_while_a_worker_is_stopped(stopped):
    (name,) = names(1)
    with (
        behind(good, guard={"rrl": {"all_per_second": 1e5}}) as (shield, upstream),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.settimeout(10)
        sock.connect(shield.address)
        sock.send(ask_wire(name))
        assert rcodes([sock.recv(4096)]) == {0: 1}
        stopped[0] = 1
        sock.send(ask_wire(name))
        until(lambda: stopped[1] == 1)
        for number in range(CHANGES):
            block(shield, f"192.0.2.{number}")
        before = stats(shield)["reloads"]
        for number in range(CHANGES // 2):
            configure(
                shield, upstream, guard={"rrl": {"all_per_second": 1e5 + number}},
                proxy_protocol_from=[f"192.0.2.{number}"],
                cookies={"mode": "serve" if number % 2 else "off"},
                rules=[{"match": {"suffix": f"x{number}.test"}, "action": "refused"}],
            )  # fmt: skip
            reloaded(shield, before + 1 + number)
        stopped[2] = 3  # no time is long enough
        block(shield, "192.0.2.255")
        stopped[0] = 0
        assert rcodes([sock.recv(4096)]) == {0: 1}
        assert stats(shield)["cache_hits"] == 1
    assert upstream.count(name) == 1
