"""Wheels in `dist` are such as PyPI takes, and what was linked into them is nobody else's."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from funkenshield.xdp import bpf

ROOT = Path(__file__).parents[2]
WHEELS = sorted(ROOT.glob("dist/*.whl"))
MIB = 1 << 20
pytestmark = pytest.mark.release
each_wheel = pytest.mark.parametrize("wheel", WHEELS, ids=lambda wheel: wheel.name)


def printed(*command):
    """Return what a command prints; it is to succeed."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def modules(wheel, tmp_path):
    """Return all compiled modules of a wheel."""
    with zipfile.ZipFile(wheel) as opened:
        return [Path(opened.extract(name, tmp_path)) for name in opened.namelist() if name.endswith(".so")]


def test_there_are_wheels():
    assert WHEELS


@each_wheel
def test_it_runs_where_its_name_says(wheel):
    promised = re.search(r"-(manylinux|musllinux)_(\d+)_(\d+)_(x86_64|aarch64)\.whl$", wheel.name)
    assert promised
    shown = " ".join(printed(sys.executable, "-m", "auditwheel", "show", wheel).split())
    good = re.search(r'following platform tag: "(manylinux|musllinux)_(\d+)_(\d+)_(x86_64|aarch64)"', shown)
    assert good
    assert (good[1], good[4]) == (promised[1], promised[4])
    assert (int(good[2]), int(good[3])) <= (int(promised[2]), int(promised[3]))  # it may run on older ones, too
    with zipfile.ZipFile(wheel) as opened:
        assert not [name for name in opened.namelist() if ".libs/" in name]  # where auditwheel puts what it misses


@each_wheel
def test_it_has_what_encrypts_and_nothing_of_it_is_seen_outside(wheel, modules):
    assert {"_tls", "_http2"} <= {module.name.partition(".")[0] for module in modules}
    assert len(modules) == len(list(ROOT.glob("funkenshield/**/_*.pyx")))
    for module in modules:
        table = [line.split() for line in printed("readelf", "--wide", "--dyn-syms", module).splitlines()]
        defined = [entry[7] for entry in table if len(entry) == 8 and entry[4] != "LOCAL" and entry[6].isdecimal()]
        assert f"PyInit_{module.name.partition('.')[0]}" in defined
        assert [name for name in defined if not name.startswith(("PyInit_", "__pyx_"))] == []


@each_wheel
def test_it_is_small(wheel, modules):
    assert wheel.stat().st_size < 8 * MIB
    assert sum(module.stat().st_size for module in modules) < 24 * MIB
    assert not [module for module in modules if ".symtab" in printed("readelf", "--sections", "--wide", module)]


@each_wheel
@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
def test_the_kernel_takes_its_programs(wheel, tmp_path):
    """Whatever compiler made them: each leaves out other checks, which the kernel's verifier would see."""
    with ExitStack() as stack:
        opened = stack.enter_context(zipfile.ZipFile(wheel))
        programs = [opened.extract(name, tmp_path) for name in opened.namelist() if name.endswith(".bpf.o")]
        assert {Path(each).name for each in programs} == {"answers.bpf.o", "queries.bpf.o"}
        for made in map(bpf.Object.read, map(Path, programs)):
            maps = {name: bpf.create_map(name, kind) for name, kind in made.maps.items()}
            (entry,) = made.programs
            for each in (*maps.values(), made.load(entry, maps)):
                stack.callback(os.close, each)


@pytest.mark.parametrize("run", [["uv", "tool", "run", "--from"], ["pipx", "run", "--spec"]], ids=lambda run: run[0])
def test_it_runs_without_being_installed(run, tmp_path):
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    ours = list(ROOT.glob(f"dist/*-{python}-manylinux_*_{os.uname().machine}.whl"))
    if not ours:
        pytest.skip(f"there is no wheel for {python} on this machine")
    environment = {"UV_PYTHON": sys.executable, "PIPX_DEFAULT_PYTHON": sys.executable, "PIPX_HOME": tmp_path / "pipx"}
    done = subprocess.run(
        [sys.executable, "-m", *run, *ours, "funkenshield", "demo", "-l", "0.2", "--json"],
        env={**os.environ, **environment}, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


def test_all_wheels_of_a_release_are_configured():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pythons = {each.rpartition(" ")[2].replace(".", "") for each in project["classifiers"] if ":: 3." in each}
    found = {
        identifier
        for machine in ("x86_64", "aarch64")
        for identifier in printed(
            sys.executable, "-m", "cibuildwheel", "--platform", "linux", "--archs", machine,
            "--print-build-identifiers", ROOT,
        ).split()
    }  # fmt: skip
    assert found == {
        f"cp{python}-{library}_{machine}"
        for python in pythons
        for library in ("manylinux", "musllinux")
        for machine in ("x86_64", "aarch64")
    }
