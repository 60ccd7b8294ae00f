"""Who has this node's name besides this process, and who was only there before it."""

import pytest

from funkenshield.cluster.namesakes import FOLLOWS, Namesakes


@pytest.mark.parametrize(
    ("seen", "are_there"),
    [
        ({}, False),
        ({"before": range(0, 60, 5)}, False),  # a restart, an upgrade, the next pod of a node
        ({"other": range(0, 125, 5)}, True),
        ({"other": (0, 60, 120)}, True),  # where both write now and then
        ({"other": (0, 120)}, False),  # once, and once more: one process after another
        ({"other": range(0, 125, 5), "third": range(2, 125, 5)}, True),
        ({f"crashed{number}": (10 * number, 10 * number + 5) for number in range(12)}, False),
    ],
)
def test_a_namesake_is_who_is_there_for_longer_than_one_follows_another(seen, are_there):
    now = [0]
    namesakes = Namesakes(lambda: now[0])
    for at, instance in sorted((at, instance) for instance, times in seen.items() for at in times):
        now[0] = at
        namesakes.saw(instance)
    assert namesakes.are_there == are_there
    now[0] += FOLLOWS
    assert not namesakes.are_there
