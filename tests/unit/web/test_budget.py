"""Show that all who read have so much of the time, that nobody takes it from his neighbours, and that debts end."""

from support.shown import Clock

from funkenshield.web.budget import BURST, SHARE, Budget

ONE, OTHER = b"\xc0\0\2", b"\xc0\0\3"


def taken(budget, clock, seconds, cost, *prefixes):
    """Let each of these ask all the time; return how much of it each takes."""
    took = dict.fromkeys(prefixes, 0.0)
    for _ in range(round(seconds / 0.01)):
        clock.at += 0.01
        for prefix in prefixes:
            if budget.has_turn(prefix):
                budget.spend(prefix, cost)
                took[prefix] += cost
    return took


def test_all_together_take_a_share_of_the_time():
    clock = Clock()
    took = taken(Budget(clock), clock, 20.0, 0.003, *(bytes((192, 0, k)) for k in range(20)))
    assert 20.0 * SHARE < sum(took.values()) < 20.0 * SHARE + BURST + 20 * 0.003


def test_who_asks_all_the_time_leaves_something_for_whoever_comes():
    clock = Clock()
    budget = Budget(clock)
    taken(budget, clock, 100.0, 0.003, ONE)
    assert not budget.has_turn(ONE)
    for _ in range(5):
        assert budget.has_turn(OTHER)
        budget.spend(OTHER, 0.001)


def test_two_who_ask_all_the_time_get_the_same():
    clock = Clock()
    budget = Budget(clock)
    taken(budget, clock, 30.0, 0.003, ONE)
    took = taken(budget, clock, 100.0, 0.002, ONE, OTHER)
    assert 0.9 < took[ONE] / took[OTHER] < 1.1


def test_debts_are_paid_off_and_forgotten():
    clock = Clock()
    budget = Budget(clock)
    budget.spend(ONE, 1.0)
    assert not budget.has_turn(OTHER), "one request took more than all may"
    clock.at += 1.0 / SHARE
    assert budget.has_turn(ONE)
    assert budget._owed == {}
