"""The longest prefix that an address is in, against the standard library's arithmetic."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funkenshield.core._prefix_table import longest


def networks(octets):
    """Draw prefixes that often lie within each other: few addresses, many lengths."""
    few = st.integers(0, 7).map(lambda number: number << (octets * 8 - 3)) | st.integers(0, 2 ** (8 * octets) - 1)
    return st.tuples(few, st.integers(0, octets * 8)).map(
        lambda drawn: ip_network((drawn[0].to_bytes(octets), drawn[1]), strict=False)
    )


def naive(table, address):
    fitting = [network for network in table if network.version == address.version and address in network]
    return table[max(fitting, key=lambda network: network.prefixlen)] if fitting else 0


@given(
    st.dictionaries(networks(4) | networks(16), st.integers(1, 2**32 - 1), max_size=30),
    st.lists(st.integers(0, 2**32 - 1).map(lambda n: n.to_bytes(4)) | st.binary(min_size=16, max_size=16)),
)
def test_the_longest_prefix_decides(table, addresses):
    edges = [edge.packed for network in table for edge in (network.network_address, network.broadcast_address)]
    beyond = [
        ((int.from_bytes(edge) + step) % 2 ** (8 * len(edge))).to_bytes(len(edge)) for edge in edges for step in (-1, 1)
    ]
    asked = [*addresses, *edges, *beyond]
    prefixes = [(network.network_address.packed, network.prefixlen, value) for network, value in table.items()]
    assert longest(prefixes, asked) == [naive(table, ip_address(each)) for each in asked]


def test_an_empty_table_knows_nobody():
    assert longest([], [bytes(4), bytes(16)]) == [0, 0]


def test_everybody():
    assert longest([(bytes(4), 0, 7)], [bytes(4), b"\xff" * 4, bytes(16)]) == [7, 7, 0]


@pytest.mark.parametrize("prefix", [(bytes(5), 8, 1), (bytes(4), 33, 1), (bytes(16), 129, 1)])
def test_what_is_no_prefix(prefix):
    with pytest.raises(ValueError, match="a prefix has"):
        longest([prefix], [])
