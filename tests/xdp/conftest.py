"""Know that programs for the kernel take root, and a build that has them."""

from pathlib import Path

import pytest
from support.network import as_root

from funkenshield.xdp import bpf

PROGRAMS = Path(bpf.__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if "xdp" in item.path.parts:
            item.add_marker(as_root)


@pytest.fixture(scope="session")
def programs():
    """Return what clang has made of the program for interfaces."""
    return bpf.Object.read(PROGRAMS / "queries.bpf.o")
