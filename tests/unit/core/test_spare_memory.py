"""Show which blocks of memory are kept for the next one, and that what is held is counted."""

import pytest

from funkenshield.core._spare_memory import SPARE_MAX, use


@pytest.mark.parametrize(
    ("size", "held"), [(1, 64), (64, 64), (65, 128), (256, 256), (257, 512), (1024, 1024), (1025, 1025), (0, 0)]
)
def test_a_block_is_one_of_a_few_sizes_or_as_large_as_it_must_be(size, held):
    assert use([size])[:2] == (held, 0)


def test_blocks_are_kept_up_to_a_bound_for_each_size_and_large_ones_are_not():
    most, held, spare = use([64] * 100 + [1000] * 3 + [1025, 1 << 20])
    assert (most, held) == (100 * 64 + 3 * 1024 + 1025 + (1 << 20), 0)
    assert spare == min(100, SPARE_MAX) + min(3, SPARE_MAX)
