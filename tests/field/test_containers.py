"""Know that the daemon runs where there is little: few descriptors, little memory, no IPv6, nothing to write to.

Where it cannot, it says so in a line.
"""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from support import nameservers, quick
from support.client import Address, ask
from support.network import Network
from support.pipeline import ask_all
from support.process import COMMAND, run_shield
from support.until import until

PLACE = Address("127.0.0.1", 5353)
NO_PRIVILEGES = "setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"


@pytest.fixture(scope="module")
def server(network):
    with nameservers.nsd() as running:
        yield running


def in_mounts(*steps):
    """Return the command that becomes another one behind these steps, in mounts of its own."""
    return "unshare", "--mount", "sh", "-c", " && ".join([*steps, 'exec "$0" "$@"'])


@contextlib.contextmanager
def started(server, *under, control=None):
    """Start it at PLACE, without a file; yield the process, whose log is a pipe."""
    command = [*under, *COMMAND, "run", "--listen", str(PLACE), "--upstream", str(server.address)]
    if control:
        command += ["--control", control]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def assert_it_serves(shield, names=40):
    queries = [quick.query(f"host{n}.shield.test", quick.TXT) for n in range(names)]
    for tcp in False, True:
        assert [reply[3] & 15 for reply in ask_all(shield, queries, tcp=tcp)] == [0] * names


def served_over_tcp(shield):
    with contextlib.suppress(OSError, EOFError):
        return ask("www.shield.test.", server=shield, tcp=True).answer


def said_in_a_line(log):
    return "Traceback" not in log and log.splitlines()[-1].startswith("funkenshield: ")


# ------------------------------------------------------------ limits


LIMITS = {
    "a descriptor for nothing": "--nofile=16",
    "few descriptors": "--nofile=24",
    "fewer than sockets": "--nofile=32",
    "little memory": "--as=100000000",
}


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
def test_within_narrow_limits_it_serves_or_says_why_not(server, limit):
    with contextlib.ExitStack() as stack:
        try:
            shield = stack.enter_context(run_shield([server], under=("prlimit", limit)))
        except AssertionError as error:
            log = str(error).partition("never ready\n")[2].partition("\nassert")[0]
            assert said_in_a_line(log), log
        else:
            assert_it_serves(shield)


def test_clients_that_hold_connections_leave_descriptors_for_misses(server):
    """Sockets to upstreams give way to new ones all the time, and need descriptors, too."""
    toml = "forward = { source_port_lifetime = 1.0 }"
    with run_shield([server], under=("prlimit", "--nofile=64"), toml=toml) as shield, contextlib.ExitStack() as held:
        for _ in range(100):
            with contextlib.suppress(OSError):
                held.enter_context(socket.create_connection(shield.address, 2))
        for turn in range(5):
            queries = [quick.query(f"host{40 * turn + n}.shield.test", quick.TXT) for n in range(40)]
            assert [reply[3] & 15 for reply in ask_all(shield, queries)] == [0] * 40
            with contextlib.suppress(OSError):
                held.enter_context(socket.create_connection(shield.address, 0.5))
        held.close()
        until(lambda: served_over_tcp(shield))


# ------------------------------------------------------------ what is not there


def test_it_writes_to_nothing_but_the_folder_of_its_control_socket(server):
    with run_shield([server], under=in_mounts("mount --bind /tmp /tmp", "mount -o remount,bind,ro /")) as shield:
        assert_it_serves(shield)


def test_it_needs_no_place_to_write_to_at_all(server):
    """Then nobody can talk to it, and it says so."""
    with started(server, *in_mounts("mount -t tmpfs none /run", "mount -o remount,ro /run")) as shield:
        lines = list(itertools.takewhile(lambda line: "ready" not in line, shield.stderr))
        assert any("control" in line for line in lines)
        assert ask("www.shield.test.", server=PLACE).answer
        shield.terminate()
        assert shield.wait(10) == 0


def test_in_a_container_that_is_read_only_it_needs_nothing_but_its_environment(server):
    environ = {"LISTEN": PLACE, "UPSTREAMS": server.address, "WORKERS": 1, "CONTROL__SOCKET": "", "USER": "nobody"}
    environ |= {"CACHE__MEMORY": "16MiB", "SERVICE_HOST": "10.0.0.1", "PORT_53_UDP_ADDR": "10.0.0.1"}
    command = [*in_mounts("mount -o remount,bind,ro /"), *COMMAND, "run"]
    env = os.environ | {f"FUNKENSHIELD_{name}": str(value) for name, value in environ.items()}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as shield:
        try:
            assert next(line for line in shield.stderr if "ready" in line)
            assert ask("www.shield.test.", server=PLACE).answer
            shield.terminate()
            assert shield.wait(10) == 0
        finally:
            shield.kill()


def test_it_needs_none_of_the_systems_places(server):
    places = "/sys", "/proc", "/dev/shm", "/etc"
    with run_shield([server], under=in_mounts(*(f"mount -t tmpfs none {place}" for place in places))) as shield:
        assert_it_serves(shield)


def test_it_needs_no_privileges(server):
    with run_shield([server], under=NO_PRIVILEGES) as shield:
        assert_it_serves(shield)


@pytest.fixture
def four():
    """Be in a network without IPv6."""
    with Network() as own, own.entered(), nameservers.nsd() as server:
        own.without_ipv6()
        yield server


def test_without_ipv6_it_listens_on_all_that_there_is(four):
    with run_shield([four], listen=[("0.0.0.0", 53), ("::", 53)]) as shield:
        assert_it_serves(shield)
        assert ask("www.shield.test.", server=Address("127.0.0.1", 53)).answer


def test_without_ipv6_an_address_of_it_is_told_in_a_line(four, tmp_path):
    done = subprocess.run(
        [*COMMAND, "run", "--listen", "[::1]:53", "--upstream", str(four.address), "--control", tmp_path / "control"],
        capture_output=True,
        text=True,
        timeout=15,
    )
    assert done.returncode != 0
    assert said_in_a_line(done.stderr)
    assert "[::1]:53" in done.stderr


# ------------------------------------------------------------ the first process


@pytest.fixture
def first(server, tmp_path):
    """Start it as process 1; yield its number to us, and the one that waits for it."""
    alone = "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"
    with started(server, *alone, control=tmp_path / "control") as outer:
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        yield int(until(lambda: children.read_text().split())[0]), outer


def test_as_the_first_process_it_ends_when_it_is_told(first):
    inner, outer = first
    line = outer.stderr.readline()
    assert "ready" in line
    os.kill(inner, signal.SIGTERM)
    assert outer.wait(10) == 0


def test_as_the_first_process_it_ends_before_it_is_ready(first):
    """A signal without a handler is nothing to process 1."""
    inner, outer = first
    until(lambda: "funkenshield/_" in Path(f"/proc/{inner}/maps").read_text(), 15)  # its first lines have run
    os.kill(inner, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        outer.wait(10)
    assert outer.returncode is not None
