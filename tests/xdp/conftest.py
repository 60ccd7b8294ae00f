"""Know that programs for the kernel take root, and a build that has them, as it has where there is clang."""

import shutil
from pathlib import Path

import pytest
from support.network import as_root

from funkenshield.xdp import bpf, interface

PROGRAMS = Path(bpf.__file__).parent
built = pytest.mark.skipif(
    not shutil.which("clang") and not all(path.exists() for path in interface.PROGRAMS.values()),
    reason="no programs were built, for want of clang",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if "xdp" in item.path.parts:
            item.add_marker(as_root)
            item.add_marker(built)


@pytest.fixture(scope="session")
def programs():
    """Return what clang has made of the program for interfaces."""
    return bpf.Object.read(PROGRAMS / "queries.bpf.o")
