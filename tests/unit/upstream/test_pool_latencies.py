"""Show that quantiles of latency are right within a bucket, and that they are of the last seconds alone."""

from bisect import bisect_left
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.waiting import Stage

from funkenshield.core._latency_histogram import LATENCY_BOUNDS
from funkenshield.upstream.pool import RECENT, WINDOW, Latencies, bucket_start, quantile

BUCKETS = 96
FIRST, LAST = bucket_start(0), bucket_start(BUCKETS) - 1  # nanoseconds


def bucket_of(nanoseconds):
    """Return the bucket that a latency falls into, found the slow way."""
    return max(bucket for bucket in range(BUCKETS) if bucket_start(bucket) <= nanoseconds)


def histogram(samples):
    counts = [0] * BUCKETS
    for sample in samples:
        counts[bucket_of(sample)] += 1
    return counts


latencies = st.lists(st.integers(FIRST, LAST), min_size=1, max_size=60)


def test_buckets_begin_where_the_one_before_ends_four_for_each_power_of_two():
    starts = [bucket_start(bucket) for bucket in range(BUCKETS + 1)]
    assert starts == sorted(set(starts))
    assert (starts[0], starts[-1]) == (1 << 10, 1 << 34)
    for power in range(24):
        assert starts[4 * power] == 1 << power + 10
        widths = {late - early for early, late in zip(starts[4 * power :], starts[4 * power + 1 :][:4], strict=False)}
        assert widths == {1 << power + 8}


@given(latencies, st.floats(0.001, 1.0))
def test_a_quantile_lies_in_the_bucket_of_the_sample_that_it_is(samples, share):
    found = quantile(histogram(samples), share) * 1e9
    rank = ceil(share * len(samples) - 1e-9)
    bucket = bucket_of(sorted(samples)[max(rank, 1) - 1])
    assert bucket_start(bucket) * (1 - 1e-9) <= found <= bucket_start(bucket + 1) * (1 + 1e-9)


@given(latencies, st.lists(st.floats(0.0, 1.0), min_size=2, max_size=9))
def test_a_larger_share_takes_as_long_or_longer(samples, shares):
    counts = histogram(samples)
    found = [quantile(counts, share) for share in sorted(shares)]
    assert found == sorted(found)


def test_of_nothing_there_is_no_quantile():
    assert quantile([], 0.5) == quantile([0] * BUCKETS, 0.99) == 0.0


def test_within_a_bucket_samples_are_taken_to_lie_evenly():
    counts = [0] * BUCKETS
    counts[40] = 8
    start, end = bucket_start(40), bucket_start(41)
    for eighths in range(1, 9):
        assert quantile(counts, eighths / 8) == pytest.approx((start + (end - start) * eighths / 8) / 1e9)


@pytest.mark.parametrize("seconds", [0.002, 0.0999, 0.3, 1.0, 4.0, 17.1, 25.0])
def test_the_fast_gear_counts_into_the_same_buckets(seconds):
    stage = Stage(1, deadline=30.0)
    (measured,) = stage.teach(0, seconds)
    expected = min(round(measured * 1e9), LAST)
    assert stage.counters(0)["latencies"] == histogram([expected])


@pytest.mark.parametrize("seconds", [bound * share for bound in LATENCY_BOUNDS for share in (0.7, 0.98, 1.0)] + [25.0])
def test_the_histogram_that_is_exported_counts_each_latency_at_its_bound(seconds):
    stage = Stage(1, deadline=30.0)
    measured = [round(each * 1e9) for each in stage.teach(0, seconds, seconds)]
    counted = stage.counters(0)["latency_histogram"]
    bounds = [round(bound * 1e9) for bound in LATENCY_BOUNDS]
    wanted = [0] * (len(bounds) + 1)
    for each in measured:
        wanted[bisect_left(bounds, each)] += 1
    assert counted["counts"] == wanted
    assert counted["sum"] == pytest.approx(sum(measured) / 1e9)
    assert stage.counters(0)["responses"] == 2


# ---------------------------------------------------------------- of the last seconds


def only(seconds, count):
    """Return a histogram of so many responses that took as long."""
    return histogram([round(seconds * 1e9)] * count)


def total(*histograms):
    return [sum(counts) for counts in zip(*histograms, strict=True)]


def near(seconds):
    """Say what is in the same bucket: a quarter of a power of two."""
    return pytest.approx(seconds, rel=0.26)


def test_what_was_there_at_the_start_does_not_count():
    recent = Latencies()
    assert recent.recent(0.5) == 0.0
    recent.take(only(1.0, 1000), 0.0)
    assert recent.recent(0.5) == 0.0
    recent.take(total(only(1.0, 1000), only(0.01, RECENT)), 1.0)
    assert recent.recent(0.5) == near(0.01)


def test_of_few_responses_nothing_is_told():
    recent = Latencies()
    recent.take(only(0.1, 0), 0.0)
    recent.take(only(0.1, RECENT - 1), 1.0)
    assert recent.recent(0.95) == 0.0
    recent.take(only(0.1, RECENT), 2.0)
    assert recent.recent(0.95) == near(0.1)


def test_what_is_older_than_two_windows_is_forgotten_and_what_is_younger_than_one_is_not():
    recent, counts = Latencies(), only(0.1, 0)
    seen = {}
    for second in range(100):
        counts = total(counts, only(1.0 if second < 50 else 0.01, 100))
        recent.take(counts, float(second))
        seen[second] = recent.recent(0.01), recent.recent(0.99)
    for second, (fastest, slowest) in seen.items():
        if 0 < second < 50:
            assert fastest == near(1.0)
        if second >= 50:
            assert fastest == near(0.01)
        if 0 < second < 50 + WINDOW - 1:
            assert slowest == near(1.0), second
        if second > 50 + 2 * WINDOW:
            assert slowest == near(0.01), second


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.lists(st.floats(0.1, 30), min_size=60, max_size=60))
def test_what_counts_came_between_the_last_look_and_one_at_least_a_window_before(arrived, steps):
    """Each look adds responses in a bucket of its own: so the quantile of nearly 0 tells which look is the oldest."""
    recent, counts, now, looks = Latencies(), [0] * BUCKETS, 0.0, []
    for look, (count, step) in enumerate(zip(arrived, steps, strict=False)):
        now += step
        counts = [*counts]
        counts[look] += count + RECENT
        recent.take(counts, now)
        looks.append(now)
        oldest = recent.recent(1e-9)
        if look == 0:
            assert oldest == 0.0
            continue
        first = bucket_of(oldest * 1e9 + 1)
        assert 1 <= first <= look
        assert all(first <= other for other in range(1, look + 1) if looks[other - 1] > now - WINDOW)


# ---------------------------------------------------------------- asleep


@pytest.mark.parametrize("comes", [False, True], ids=["silence", "an answer"])
def test_an_hour_that_nobody_was_awake_is_no_slowness(comes):
    stage = Stage(2, deadline=2.5)
    stage.teach(0, *[0.01] * 50)
    before = stage.counters(0)["latency_histogram"]["sum"]
    (attempt,) = stage.ask()
    stage.clock.advance(3600)
    if comes:
        assert stage.answer(attempt)
    stage.wait(0)
    assert stage.counters(0)["latency_histogram"]["sum"] - before <= 2.5 + 1e-6
    stage.teach(0, *[0.01] * 30)
    _, most, _ = stage.silence(expected=0)
    assert most < 0.6, "its silence is news as early as before"
