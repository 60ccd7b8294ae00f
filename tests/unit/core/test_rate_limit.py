"""How much came lately: against an exact bucket, and under a flood of forged sources."""

import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funkenshield.core._rate_limit import RateTable

SECOND = 10**9
ALICE, BOB = bytes([192, 0, 2, 1]), bytes([198, 51, 100, 9])


@given(
    st.floats(0.5, 1000),
    st.floats(0.1, 10),
    st.lists(st.tuples(st.integers(0, 2 * SECOND), st.integers(1, 3)), max_size=60),
)
def test_a_bucket_leaks_at_its_rate(rate, burst, arrivals):
    table = RateTable(4096, rate, burst)
    now, level = 7 * SECOND, 0.0
    room = max(burst * rate, 1.0)
    for wait, weight in arrivals:
        now += wait
        level = max(0.0, level - wait / SECOND * rate)
        exceeded = table.exceeds(ALICE, now, weight)
        if abs(level + weight - room) > 0.01 + rate * 1e-4:  # each charge is rounded to 2**-20 s
            assert exceeded == (level + weight > room)
        if not exceeded:
            level += weight


def test_prefixes_count_together_and_apart():
    table = RateTable(4096, 1.0, 1.0, ipv4=24, ipv6=56)
    assert not table.exceeds(bytes([192, 0, 2, 1]), SECOND)
    assert table.exceeds(bytes([192, 0, 2, 200]), SECOND)
    assert not table.exceeds(bytes([192, 0, 3, 1]), SECOND)
    six = bytes.fromhex("20010db8000000aa")
    assert not table.exceeds(six + bytes(8), SECOND)
    assert table.exceeds(bytes.fromhex("20010db8000000ff") + bytes(8), SECOND)
    assert not table.exceeds(bytes.fromhex("20010db8000001ff") + bytes(8), SECOND)


def test_what_else_is_counted_by_itself():
    table = RateTable(4096, 1.0, 1.0)
    assert not table.exceeds(ALICE, SECOND, more=1)
    assert not table.exceeds(ALICE, SECOND, more=2)
    assert table.exceeds(ALICE, SECOND, more=1)


def test_who_is_over_has_his_rate_all_the_time():
    table = RateTable(4096, 10.0, 1.0)
    passed = sum(not table.exceeds(ALICE, SECOND + k * SECOND // 1000) for k in range(10_000))
    assert 105 <= passed <= 111  # ten seconds' worth, and a burst of one


@pytest.mark.parametrize("hours", [0, 140, 30 * 24 + 9, 30 * 24 + 150, 30 * 24 + 300])  # due times wrap every 291
def test_a_flood_of_forged_sources_lets_nobody_off(hours):
    table = RateTable(1 << 16, 5.0, 10.0)
    start = SECOND + hours * 3600 * SECOND
    dice = random.Random(4)
    for _ in range(50):  # he has had all that he may
        table.exceeds(ALICE, start)
    assert table.exceeds(ALICE, start)
    for k in range(50_000):
        table.exceeds(dice.randbytes(4), start + k)
    assert table.exceeds(ALICE, start + 50_000)


def test_who_was_there_days_ago_keeps_no_place():
    table = RateTable(1 << 12, 5.0, 10.0)
    dice = random.Random(4)
    for _ in range(5_000):
        table.exceeds(dice.randbytes(4), SECOND)
    now = SECOND + 8 * 86400 * SECOND
    for _ in range(50):
        table.exceeds(ALICE, now)
    for k in range(5_000):
        table.exceeds(dice.randbytes(4), now + k)
    assert table.exceeds(ALICE, now + 5_000)


def test_a_word_from_long_ago_is_no_debt():
    table = RateTable(4096, 1.0, 2.0)
    for hours in range(0, 200, 5):
        assert not table.exceeds(BOB, SECOND + hours * 3600 * SECOND)


def test_times_that_wrap_are_no_debt():
    table = RateTable(4096, 1.0, 3600.0)
    assert not table.exceeds(ALICE, SECOND, 3600)
    for hours in (18, 19, 24, 120):
        assert not table.exceeds(ALICE, SECOND + hours * 3600 * SECOND)


def test_two_batches_whose_clocks_differ_let_nobody_off():
    table = RateTable(4096, 100.0, 1.0)
    late = [50_000 * (k % 2) for k in range(100_000)]  # nanoseconds
    assert sum(not table.exceeds(ALICE, SECOND + 10_000 * k - late[k]) for k in range(100_000)) in range(195, 203)


def test_a_rate_far_above_the_units_of_time_holds():
    table = RateTable(4096, 4e6, 0.01)
    passed = sum(not table.exceeds(ALICE, SECOND + k * 1000, 8) for k in range(100_000))  # 8 million a second
    assert 8 * passed == pytest.approx(4e6 * (0.1 + 0.01), rel=0.02)


def test_a_rate_far_below_them_holds():
    table = RateTable(4096, 1 / 100_000, 1.0)
    assert [table.exceeds(ALICE, second * SECOND) for second in (1, 2, 99_000, 100_002)] == [False, True, True, False]


def test_who_is_in_debt_is_limited_until_he_stops():
    table = RateTable(4096, 10.0, 1.0, indebted=True)
    assert sum(not table.exceeds(ALICE, SECOND + k * SECOND // 100) for k in range(1000)) in range(10, 13)
    assert table.exceeds(ALICE, 11 * SECOND + SECOND // 2)
    assert not table.exceeds(ALICE, 13 * SECOND)


def test_many_threads_share_one_limit():
    table = RateTable(1 << 16, 100.0, 10.0)
    passed = []

    def ask():
        passed.append(sum(not table.exceeds(ALICE, SECOND) for _ in range(2000)))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(passed) == pytest.approx(1000, abs=5)
