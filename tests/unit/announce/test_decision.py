"""Routes are announced, withdrawn, held back and kept as rounds over time say; time is given, nothing is asked."""

from functools import reduce
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from funkenshield.announce.decision import Seen, Standing, decide
from funkenshield.config.announce import AnnounceSection

WELL, BAD, LEAVING = Seen(), Seen(trouble="silent"), Seen(leaving="it ends")
LAST = Seen(trouble="silent", last=True)
SECTION = AnnounceSection(rise=3, fall=2, hold=10, hold_max=60)


BEGINNING = Standing()


def after(*rounds, start=BEGINNING, began=0.0, section=SECTION):
    """Return how routes stand after each of these rounds, a second apart."""
    found, now = [], began
    for seen in rounds:
        found.append(start := decide(start, seen, now, section))
        now += 1
    return found


def told(*rounds, **how):
    return [each.announced for each in after(*rounds, **how)]


def test_it_says_nothing_until_it_knows():
    assert told(WELL, WELL, WELL, WELL) == [None, None, True, True]
    assert told(BAD, BAD, BAD) == [None, False, False]
    assert told(WELL, BAD, WELL, WELL, BAD, WELL) == [None] * 6  # what another process has said stays in force
    assert told(LEAVING) == [False]


UP = after(WELL, WELL, WELL)[-1]


def test_a_single_bad_round_is_no_reason():
    assert told(BAD, WELL, BAD, WELL, start=UP) == [True] * 4
    assert told(BAD, BAD, start=UP) == [True, False]


def test_whoever_is_about_to_end_is_withdrawn_at_once():
    assert told(LEAVING, start=UP) == [False]


def test_the_last_one_stays_whatever_happens_and_goes_once_it_is_not_the_last():
    ending = Seen(leaving="it ends", last=True)
    assert told(LAST, LAST, LAST, ending, BAD, start=UP) == [True, True, True, True, False]
    assert told(LAST, LAST, LAST) == [None] * 3


def down_for(standing):
    """Return how long routes stay withdrawn if all is well from now on, in seconds."""
    start, now = standing.since, standing.since
    while not standing.announced:
        now += 1
        standing = decide(standing, WELL, now, SECTION)
    return now - start, standing


def test_each_time_it_is_held_back_for_longer_and_then_not_any_more():
    standing, held = UP, []
    for _ in range(5):
        bad = decide(standing, BAD, standing.since + 1, SECTION)
        took, standing = down_for(decide(bad, BAD, standing.since + 2, SECTION))
        held.append(took)
    assert held == [10, 20, 40, 60, 60]
    settled = decide(decide(standing, BAD, standing.since + 60, SECTION), BAD, standing.since + 61, SECTION)
    assert down_for(settled)[0] == 10


def test_the_first_withdrawal_without_an_announcement_is_held_too():
    assert down_for(after(BAD, BAD)[-1])[0] == 10


def test_where_nobody_else_answers_it_is_not_held_back():
    down = after(BAD, BAD, start=UP, began=10.0)[-1]
    alone = Seen(last=True)
    assert told(alone, alone, alone, start=down, began=12.0) == [False, False, True]
    assert told(WELL, WELL, WELL, start=down, began=12.0) == [False, False, False]


def test_without_a_hold_rise_is_all():
    section = AnnounceSection(rise=1, fall=1, hold=0, hold_max=0)
    assert told(WELL, BAD, WELL, LEAVING, WELL, section=section) == [True, False, True, False, True]


@examples(200)
@given(st.lists(st.builds(Seen, st.sampled_from(["", "bad"]), st.sampled_from(["", "", "ends"]), st.booleans())))
def test_of_all_histories(rounds):
    stands = [BEGINNING, *after(*rounds)]
    for (before, now), seen in zip(pairwise(stands), rounds, strict=True):
        if before.announced and seen.last:
            assert now.announced, "the last one is never withdrawn"
        if seen.leaving and not seen.last:
            assert not now.announced, "whoever ends has no route"
        if now.announced and not before.announced:
            assert not seen.why, "a bad round announces nothing"
        assert now.hold <= SECTION.hold_max
    changes = [each.since for before, each in pairwise(stands) if before.announced is not each.announced]
    assert changes == sorted(set(changes))


@pytest.mark.parametrize("flap", [3, 5, 11])
def test_an_endless_flap_becomes_rare(flap):
    rounds = [WELL if (second // flap) % 2 == 0 else BAD for second in range(3600)]
    stands = after(*rounds)
    changes = sum(before.announced is not now.announced for before, now in pairwise(stands))
    assert changes <= 2 * (3600 / SECTION.hold_max) + 10
    assert reduce(lambda most, each: max(most, each.hold), stands, 0) == SECTION.hold_max
