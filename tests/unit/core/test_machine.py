"""Show that the shield keeps within what its machine, and its control group, let it have, and says so."""

import os
import resource
import subprocess

import pytest
from support.client import Address, free_port
from support.process import COMMAND

from funkenshield.admin.process import need_descriptors
from funkenshield.cache import hugepages
from funkenshield.config import load
from funkenshield.core import machine
from funkenshield.daemon import Daemon
from funkenshield.errors import ConfigError

CAVE = 9223372036854771712  # what version 1 has for no limit
CORES = len(os.sched_getaffinity(0))


@pytest.fixture
def groups(tmp_path):
    """Return a function that makes control groups: lines of /proc/self/cgroup, and files; it returns both folders."""

    def make(lines, files):
        (tmp_path / "proc" / "self").mkdir(parents=True)
        (tmp_path / "proc" / "self" / "cgroup").write_text(lines)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        return tmp_path / "proc", tmp_path / "cgroup"

    return make


@pytest.mark.parametrize(
    ("lines", "files", "octets"),
    [
        ("0::/a/b\n", {"a/memory.max": 96 << 20, "a/b/memory.max": "max"}, 96 << 20),
        ("0::/a/b\n", {"a/memory.max": 96 << 20, "a/b/memory.max": 80 << 20}, 80 << 20),
        ("0::/\n", {"memory.max": 64 << 20}, 64 << 20),
        ("8:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": 99 << 20}, 99 << 20),
        ("8:memory:/a\n", {"memory/a/memory.limit_in_bytes": CAVE}, None),
        ("", {}, None),
    ],
)
def test_memory_is_the_least_that_any_control_group_allows(groups, lines, files, octets):
    machines = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert machine.memory(*groups(lines, files)) == (octets or machines)


@pytest.mark.parametrize(
    ("lines", "files", "cores"),
    [
        ("0::/a\n", {"a/cpu.max": "50000 100000"}, 1),
        ("0::/a\n", {"a/cpu.max": "150000 100000"}, min(2, CORES)),
        ("0::/a\n", {"a/cpu.max": "max 100000"}, CORES),
        ("4:cpu,cpuacct:/a\n", {"cpu,cpuacct/a/cpu.cfs_quota_us": 70000, "cpu,cpuacct/a/cpu.cfs_period_us": 100000}, 1),
        ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": -1, "cpu/a/cpu.cfs_period_us": 100000}, CORES),
        ("0::/a\n", {"a/cpu.max": "nonsense"}, CORES),
    ],
)
def test_workers_are_as_many_as_may_run(groups, lines, files, cores):
    assert machine.cores(*groups(lines, files)) == cores


def test_a_cache_that_was_said_to_be_too_large_is_told_and_the_default_fits(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(machine, "memory", lambda: 100 << 20)
    file = tmp_path / "file.toml"
    file.write_text('cache.memory = "512MiB"')
    with pytest.raises(ConfigError, match=r"^cache.memory: 512 MiB is too large: .* has 100 MiB; at most 36 MiB"):
        hugepages.fitted(load(file))
    assert hugepages.fitted(load(None)).cache.memory == 25 << 20
    assert caplog.messages == ["cache.memory reduced to 25 MiB: this machine or control group has 100 MiB"]
    file.write_text('cache.memory = "36MiB"')
    assert hugepages.fitted(load(file)).cache.memory == 36 << 20


def test_without_a_place_for_its_default_socket_it_does_without(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/proc/nowhere")
    file = tmp_path / "file.toml"
    file.write_text(f'listen = ["127.0.0.1:{free_port()}"]\nworkers = 1')
    daemon = Daemon(load(file))
    daemon._bound.close()
    assert daemon._control is None
    file.write_text(file.read_text() + '\ncontrol.socket = ""')
    daemon = Daemon(load(file))
    daemon._bound.close()
    assert daemon._control is None
    file.write_text(file.read_text().replace('""', '"/proc/nowhere/control"'))
    with pytest.raises(Exception, match=r"^/proc/nowhere/control: cannot create the control socket: No such file"):
        Daemon(load(file))


@pytest.mark.parametrize("lacking", [1, 0])
def test_with_too_few_descriptors_it_says_how_many_and_with_enough_it_starts(tmp_path, lacking):
    file = tmp_path / "file.toml"
    file.write_text(f'listen = ["{Address("127.0.0.1", free_port())}"]\nworkers = 2\ntcp.max_connections = 5\n')
    most = need_descriptors(load(file)) - lacking
    with subprocess.Popen(
        [*COMMAND, "run", "-c", file, "--control", tmp_path / "control"], stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most)),  # noqa: PLW1509
    ) as process:  # fmt: skip
        said = process.stderr.readline()
        if not lacking:
            assert f"tcp.max_connections reduced to {most - need_descriptors(load(file))}: " in said
            assert "ready" in process.stderr.readline()
            process.terminate()
        said += process.stderr.read()
    assert process.returncode == (1 if lacking else 0)
    if lacking:
        told = f"funkenshield: cannot start: {most + 1} file descriptors are needed, the limit is {most}; raise it"
        assert said.startswith(told)
        assert said.count("\n") == 1
    else:
        assert "Too many open files" not in said
