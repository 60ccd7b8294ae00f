"""Show that the sketches find what is frequent, whatever comes beside it, and take no more memory for it."""

import random

from funkenshield.events._top import Sketch

PLACES = 1024


def test_few_keys_are_counted_exactly():
    sketch = Sketch()
    for number in range(50):
        for _ in range(number + 1):
            sketch.count(b"key %d" % number)
    assert sketch.counts() == {b"key %d" % number: (number + 1, 0) for number in range(50)}


def test_what_is_frequent_stays_in_a_flood_of_others_and_no_count_is_too_low():
    sketch, rng = Sketch(), random.Random(1)
    asked = [b"frequent %d" % (number % 20) for number in range(20000)] + [rng.randbytes(12) for _ in range(100000)]
    rng.shuffle(asked)
    for key in asked:
        sketch.count(key)
    counted = sketch.counts()
    assert len(counted) <= PLACES
    for number in range(20):
        count, error = counted[b"frequent %d" % number]
        assert count - error <= 1000 <= count
    first = sorted(counted, key=lambda key: -counted[key][0])[:20]
    assert sorted(first) == sorted(b"frequent %d" % number for number in range(20))


def test_keys_may_be_as_long_as_names():
    sketch = Sketch()
    sketch.count(bytes(255))
    assert sketch.counts() == {bytes(255): (1, 0)}
