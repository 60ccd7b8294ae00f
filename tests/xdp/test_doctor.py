"""What `funkenshield doctor` says of interfaces that can, and of some that cannot."""

import subprocess
import sys

import pytest
from support import forked

from funkenshield.xdp.doctor import examine
from xdp.wires import SERVER, Wire, listener


def doctor(*args):
    """Return the exit code, and what was found by its subject: whether it is right, and how it is told."""
    done = forked.command("doctor", "--xdp", *args)
    found = {line[4:15].strip(): (line[:4].strip() == "ok", line[15:]) for line in done.stdout.splitlines()}
    return done.returncode, found


@pytest.fixture(scope="module")
def wire():
    with Wire(queues=2) as laid, laid.near.entered():
        yield laid


def test_an_interface_that_can(wire):
    code, found = doctor(wire.name, "--attach")
    assert (code, all(is_right for is_right, _ in found.values())) == (0, True), found
    assert found["interface"][1] == f"{wire.name}, driver veth, 2 queues"
    assert found["MTU"][1] == "1500: answers of up to 1452 octets; longer ones by TCP"
    assert found["attached"][1] == "by its driver, with copies"
    assert "xdp" not in wire.near.run("ip", "link", "show", "dev", wire.name)


def test_what_keeps_the_kernel_from_answering_is_told(wire, tmp_path):
    file = tmp_path / "f.toml"
    file.write_text(f'upstreams = "192.0.2.53:53"\n{listener(wire.name, SERVER, kernel_answers="true")}')
    code, found = doctor(wire.name, "-c", file)
    assert (code, found["answers"]) == (0, (True, "nothing keeps the kernel from them"))
    file.write_text(f"guard.rrl.responses_per_second = 5\n{file.read_text()}")
    code, found = doctor(wire.name, "-c", file)
    off = "kernel answers are off, because of guard.rrl: workers answer all queries"
    assert (code, found["answers"]) == (1, (False, off))


def test_it_attaches_nothing_unasked(wire):
    code, found = doctor(wire.name)
    assert code == 0
    assert "attached" not in found


def test_interfaces_that_cannot(wire):
    assert doctor("nowhere0") == (1, {"interface": (False, "there is no such interface")})
    code, found = doctor("lo", "--attach")
    assert (code, {name for name in found if not found[name][0]}) == (1, {"attached"})
    assert found["attached"][1].startswith("by the kernel alone")
    assert found["MTU"] == (True, "65536: answers of up to 1920 octets; longer ones by TCP")
    wire.near.run("ip", "link", "set", "lo", "mtu", "590")
    assert doctor("lo")[1]["MTU"] == (False, "590 is below 600")


def test_tags_of_vlans_must_reach_the_program(wire, monkeypatch):
    """A veth takes none off by itself, and says that it does: who sends has them beside the frame."""
    monkeypatch.setattr("funkenshield.xdp.interface._vlans", lambda name: (5,) * (name == wire.name))
    (found,) = (each for each in examine(wire.name) if each.subject == "VLANs")
    assert (found.is_right, found.found) == (False, f"tags are taken off too early: ethtool -K {wire.name} rxvlan off")
    (found,) = (each for each in examine("lo") if each.subject == "VLANs")
    assert (found.is_right, found.found) == (True, "none on it: what has a tag is left alone")


def test_one_who_may_not_is_told(wire):
    under = ("setpriv", "--bounding-set=-bpf,-sys_admin,-net_raw", "--", sys.executable, "-m", "funkenshield", "doctor")
    done = subprocess.run([*under, "--xdp", wire.name], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("NO")]
    assert (done.returncode, lines) == (
        1,
        [
            "NO  program    that takes CAP_BPF and CAP_NET_ADMIN, which this process does not have",
            "NO  queue      that takes CAP_NET_RAW, which this process does not have",
        ],
    )
