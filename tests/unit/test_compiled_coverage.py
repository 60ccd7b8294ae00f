"""Counts of lines of C are given to the lines of Cython that they were made of."""

import importlib.util
import shutil
import subprocess
import sys

import pytest
from support.pages import ROOT

SOURCE = """\
cdef int loop(int n) noexcept nogil:
    cdef int i, total = 0
    for i in range(n):
        if i == 3 and n > 5:
            total += 5
        else:
            total += i
    return total


def run(int n, bint never=False):
    if never:
        raise ValueError("never")
    return loop(n)
"""


@pytest.fixture(scope="module")
def module():
    path = ROOT / "tools" / "compiled_coverage.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = sys.modules[path.stem] = importlib.util.module_from_spec(spec)  # where dataclasses look
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.slow
def test_lines_and_branches_are_counted(module, tmp_path):
    if not shutil.which("gcov"):
        pytest.skip("gcov is not there")
    package = tmp_path / "funkenshield"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_x.pyx").write_text(SOURCE)
    build = (
        "from setuptools import Extension, setup; from Cython.Build import cythonize; "
        "made = [Extension('funkenshield._x', ['funkenshield/_x.pyx'], "
        "extra_compile_args=['-O0', '-g0', '--coverage'], extra_link_args=['--coverage'])]; "
        "setup(name='x', packages=[], ext_modules=cythonize(made, language_level=3))"
    )
    for command in (build, "build_ext", "--inplace"), ("from funkenshield import _x; _x.run(4); _x.run(4)",):
        subprocess.run([sys.executable, "-c", *command], cwd=tmp_path, check=True, capture_output=True)
    (found,) = (each for name, each in module.counts(tmp_path).items() if name == "funkenshield/_x.pyx")
    text = SOURCE.splitlines()
    times = {text[line - 1].strip(): count for line, count in found.lines.items()}
    assert times["return total"] == 2
    assert times["total += i"] == 8
    assert times["total += 5"] == times['raise ValueError("never")'] == 0
    ways = {text[line - 1].strip(): [] for line, _ in found.branches}
    for (line, _), count in sorted(found.branches.items()):
        ways[text[line - 1].strip()].append(count)
    assert sorted(ways["for i in range(n):"]) == [2, 8]
    assert sorted(ways["if i == 3 and n > 5:"]) == [0, 2, 6, 8]
    assert sorted(ways["if never:"]) == [0, 2]
