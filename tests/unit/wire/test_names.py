"""Show that names and types go over the wire as people mean them, and that what is none is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funkenshield.admin.commands import purge
from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock
from funkenshield.wire.names import name_from_wire, name_to_wire, type_number

labels = st.lists(st.binary(min_size=1, max_size=63), max_size=8)

NAMES = {
    ".": b"\0",
    "com": b"\3com\0",
    "Example.COM.": b"\7example\3com\0",
    r"a\.B.c": b"\3a.b\1c\0",
    r"\255\000": b"\2\xff\0\0",
    r"\@": b"\1@\0",
    "*._x": b"\1*\2_x\0",
    "BÜCHER.example": b"\x0dxn--bcher-kva\7example\0",
    ".".join(["x" * 63] * 3 + ["y" * 61]): (b"\x3f" + b"x" * 63) * 3 + b"\x3d" + b"y" * 61 + b"\0",
}
NO_NAMES = ["", "@", "..", ".a", "a..b", "x" * 64, ".".join(["x" * 63] * 4), r"\256", "\\", "\udc80", "x" * 300]


@pytest.mark.parametrize(("text", "wire"), NAMES.items())
def test_a_name_is_absolute_and_in_lower_case(text, wire):
    assert name_to_wire(text) == wire
    assert name_to_wire(name_from_wire(wire)) == wire


@pytest.mark.parametrize("text", NO_NAMES)
def test_what_is_no_name_is_told(text):
    with pytest.raises(ValueError, match=r"is not a name: .|the name is empty; the root is \"\.\""):
        name_to_wire(text)


@given(labels)
def test_every_name_can_be_typed(parts):
    wire = b"".join(bytes([len(part)]) + part for part in parts) + b"\0"
    if len(wire) > 255:
        with pytest.raises(ValueError, match="not a name"):
            name_from_wire(wire)
        return
    lower = b"".join(bytes([len(part)]) + part.lower() for part in parts) + b"\0"
    assert name_from_wire(wire).endswith(".")
    assert name_to_wire(name_from_wire(wire)) == lower


@pytest.mark.parametrize("wire", [b"", b"\1", b"\1a", b"\300\0", b"\100" + bytes(65)])
def test_octets_that_are_no_name_are_told(wire):
    with pytest.raises(ValueError, match=r"not a name: ."):
        name_from_wire(wire)


@pytest.mark.parametrize(
    ("text", "number"), [("a", 1), ("AAAA", 28), ("Type65280", 65280), ("any", 255), ("NSEC3PARAM", 51)]
)
def test_a_type_has_a_number(text, number):
    assert type_number(text) == number


@pytest.mark.parametrize("text", ["", "1", "TYPE", "TYPE-1", "TYPE65536", "A AAAA"])
def test_what_is_no_type_is_told(text):
    with pytest.raises(ValueError, match=f"^{text} is not a type$"):
        type_number(text)


def test_a_purge_tells_whose_answers_it_took():
    cache = Cache(1 << 22, Clock())
    assert purge(cache) == b"\0"
    assert purge(cache, "Example.COM", "txt", below=False) == b"\7example\3com\0"
    assert cache.purges_total == 2
