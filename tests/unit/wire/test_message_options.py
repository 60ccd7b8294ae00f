"""Show which EDNS options of a query go upstream where Python sends it: all but those that are hop by hop."""

from struct import pack

import pytest

from funkenshield.wire._message import without_hops

NOTIFY = 0x2000
NSID, COOKIE, KEEPALIVE, PADDING = 3, 10, 11, 12


def option(code, data=b"", size=None):
    return pack("!2H", code, len(data) if size is None else size) + data


def asked(options, flags=0):
    opt = b"\0" + pack("!2HIH", 41, 1232, 0, len(options)) + options
    return pack("!6H", 7, flags, 1, 0, 0, 1) + b"\4test\0" + pack("!2H", 1, 1) + opt


@pytest.mark.parametrize("flags", [0, NOTIFY])
def test_options_that_are_hop_by_hop_end_here(flags):
    stay = option(NSID), option(65001, b"1"), option(65001)
    hops = option(COOKIE, bytes(8)), option(KEEPALIVE), option(PADDING, bytes(3))
    mixed = b"".join(one for pair in zip(stay, hops, strict=True) for one in pair)
    assert without_hops(asked(mixed, flags)) == asked(b"".join(stay), flags)


@pytest.mark.parametrize(
    ("rest", "stays"),
    [(b"\0", True), (b"\0\x0a\0", True), (option(65001, b"1", 2), True), (option(COOKIE, b"1", 8), False)],
    ids=["an octet", "no length", "not whole", "hop by hop, and not whole"],
)
def test_what_is_no_whole_option_stays_unless_it_is_hop_by_hop(rest, stays):
    found = without_hops(asked(option(COOKIE, bytes(8)) + rest, NOTIFY))
    assert found == asked(rest if stays else b"", NOTIFY)
