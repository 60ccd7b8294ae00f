"""Know that each file here has a network of its own: ports and addresses are all its own, whatever else runs."""

import pytest
from support.network import Network, as_root


def pytest_collection_modifyitems(items):
    for item in items:
        if "field" in item.path.parts:
            item.add_marker(as_root)


@pytest.fixture(scope="module", autouse=True)
def network():
    with Network() as own, own.entered():
        yield own
