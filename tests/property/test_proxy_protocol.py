"""Show that headers of PROXY protocol version 2 are read as a small model reads them, whatever was done to them.

Each is cut at every octet, and every octet of it is made another one; and prefixes hold what the standard library says.
"""

from ipaddress import ip_address, ip_network
from struct import unpack_from

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples
from support.proxied import DGRAM, INET, INET6, LOCAL, PROXY, SIGNATURE, STREAM, UNIX, UNSPEC, block, local, told

from funkenshield._fastpath import SettingsWriter
from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock
from funkenshield.wire._proxy_protocol import header, parse_header

THOROUGH = examples(300)
ADDRESSES = {INET: 12, INET6: 36, UNIX: 216}  # octets of both ends

MAPPED = bytes(10) + b"\xff\xff"

addresses = (st.ip_addresses() | st.ip_addresses(v=4).map(lambda each: ip_address(MAPPED + each.packed))).map(str)
ports = st.integers(0, 0xFFFF)
tlvs = st.binary(max_size=40)


def read(octets):
    """Return what the header at the start says, as `parse_header` does; None where there is none."""
    if len(octets) < 16:
        return (0, None) if octets[:12] == SIGNATURE[: len(octets)] else None
    command, family, rest = unpack_from("!BBH", octets, 12)
    size = 0
    if command == PROXY and family != UNSPEC:
        size = ADDRESSES.get(family & 0xF0, 0) if family & 0x0F in (STREAM, DGRAM) else 0
        command = size and command
    if octets[:12] != SIGNATURE or command not in (LOCAL, PROXY) or rest < size:
        return None
    width = {12: 4, 36: 16}.get(size, 0)
    return (0, None) if len(octets) < 16 + rest else (16 + rest, unmapped(octets[16 : 16 + width]) or None)


def unmapped(address):
    """Return an address as IPv4 where it is a mapped one."""
    return address.removeprefix(MAPPED) if len(address) == 16 else address


def found(octets):
    try:
        return parse_header(octets)
    except ValueError:
        return None


headers = st.one_of(
    st.builds(told, addresses, transport=st.sampled_from([STREAM, DGRAM]), tlvs=tlvs),
    st.builds(local, tlvs),
    st.builds(block, st.just(PROXY), st.sampled_from([UNSPEC, UNIX | STREAM, INET | DGRAM, INET6]), tlvs),
    st.builds(block, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=230)),
)


@THOROUGH
@given(headers, st.binary(max_size=30))
def test_a_header_is_read_whole_and_in_pieces(octets, query):
    assert found(octets + query) == read(octets + query)
    for end in range(len(octets)):
        assert found(octets[:end]) == read(octets[:end])


@examples(60)
@given(headers, st.integers(1, 255), st.binary(max_size=4))
def test_a_header_with_any_octet_changed_is_read_as_what_it_is_then(octets, change, query):
    for at in range(len(octets)):
        changed = octets[:at] + bytes([octets[at] ^ change]) + octets[at + 1 :] + query
        assert found(changed) == read(changed)


@THOROUGH
@given(st.binary(max_size=80))
def test_what_is_no_header_is_none(octets):
    assert found(octets) == read(octets)


@THOROUGH
@given(addresses, ports, addresses, ports, st.booleans())
def test_what_we_write_tells_the_source_and_where_it_went(source, port, destination, to_port, datagram):
    one, other = ip_address(source), ip_address(destination)
    written = header(one.packed, port, other.packed, to_port, datagram=datagram)
    wide = 6 in (one.version, other.version)
    ends = [MAPPED + end.packed if wide and end.version == 4 else end.packed for end in (one, other)]
    assert written == block(
        PROXY, (INET6 if wide else INET) | (DGRAM if datagram else STREAM),
        ends[0] + ends[1] + port.to_bytes(2) + to_port.to_bytes(2),
    )  # fmt: skip
    assert parse_header(written + b"query") == (len(written), unmapped(ends[0]))


def test_an_address_has_4_or_16_octets():
    with pytest.raises(ValueError, match="4 or 16"):
        header(b"12345", 1, b"1234", 2, datagram=True)


# ---------------------------------------------------------------- who is trusted

networks = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), st.tuples(st.ip_addresses(v=6), st.integers(0, 128))
).map(lambda pair: ip_network(pair, strict=False))


@pytest.fixture(scope="module")
def settings_writer():
    return SettingsWriter(Cache(4 << 20, Clock()))


def trust(settings_writer, prefixes):
    settings_writer.set_proxies(tuple((prefix.network_address.packed, prefix.prefixlen) for prefix in prefixes))


@pytest.mark.slow
@THOROUGH
@given(prefixes=st.lists(networks, max_size=64), others=st.lists(st.ip_addresses(), max_size=8), flip=st.integers(0))
def test_a_proxy_is_whoever_is_in_a_prefix(settings_writer, prefixes, others, flip):
    trust(settings_writer, prefixes)
    near = [
        ip_address((int(each.network_address) ^ 1 << flip % each.max_prefixlen).to_bytes(each.max_prefixlen // 8))
        for each in prefixes
    ]
    for address in (*others, *near, *(each.broadcast_address for each in prefixes)):
        assert settings_writer.is_proxy(address.packed) == any(address in prefix for prefix in prefixes)


def test_a_wrong_table_leaves_the_one_in_force(settings_writer):
    trust(settings_writer, [ip_network("192.0.2.0/24")])
    with pytest.raises(ValueError, match="at most 64"):
        settings_writer.set_proxies(((bytes(4), 8),) * 65)
    for wrong in ((bytes(5), 8), (bytes(4), 33), (bytes(16), -1)):
        with pytest.raises(ValueError, match="no prefix"):
            settings_writer.set_proxies((wrong,))
    assert settings_writer.is_proxy(bytes([192, 0, 2, 7]))
    assert not settings_writer.is_proxy(bytes([192, 0, 3, 7]))
