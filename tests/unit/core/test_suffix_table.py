"""Show that each suffix of a name is found, the longest first, whatever its labels are; seen by zones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funkenshield.cache._zone_table import Zones

label = st.one_of(st.sampled_from([b"\0", b"\3com", b"x" * 63]), st.binary(min_size=1, max_size=63)).map(bytes.lower)
labels = st.lists(label, max_size=12).filter(lambda found: sum(map(len, found)) + len(found) < 255)


def wire(parts):
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def found(name, *known):
    """Return the name that is found where these are known."""
    zones = Zones()
    zones.assign(known)
    return zones.name(zones.number(name)) if zones.number(name) else None


@given(labels, st.data())
def test_the_longest_known_suffix_is_found(name, data):
    suffixes = [wire(name[start:]) for start in range(len(name) + 1)]
    known = data.draw(st.sets(st.sampled_from(suffixes)))
    assert found(wire(name), *known) == max(known, key=len, default=None)


@given(labels, labels)
def test_nothing_is_a_suffix_that_does_not_begin_with_a_label(name, other):
    whole = wire(name)
    begins = {len(wire(name[start:])) for start in range(len(name) + 1)}
    inside = {whole[at:] for at in range(len(whole)) if len(whole) - at not in begins}
    assert found(whole, *inside) is None
    assert found(whole, wire(other)) == (wire(other) if other == name[len(name) - len(other) :] else None)


@pytest.mark.parametrize("count", [0, 1, 2, 126, 127])
def test_names_have_as_many_suffixes_as_labels_and_one_more(count):
    name = wire([b"a"] * count)
    assert [found(name, wire([b"a"] * left)) is not None for left in range(128)] == [
        left <= count for left in range(128)
    ]
