"""Show whom the fast gear asks, by each policy and each state of health, how long it waits, and whom it asks then.

Choices without outstanding queries are asked of the table; for the others the test is all upstreams: it takes what is
carried to them, and answers, fails or says nothing. Time is moved by hand.
"""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples
from support.quick import A, name_wire, query
from support.waiting import TURN, Stage, seed_of

from funkenshield.upstream._selection import POLICIES, UpstreamTable

NOERROR, SERVFAIL, REFUSED = 0, 2, 5
GROUPS, MEMBERS, UPSTREAMS, TRIES = 4096, 64, 256, 4
CHOICES = 10_000
NAMES = [name_wire(f"name{n}.example.com") for n in range(3000)]


def table_of(policy, *options, first=0):
    """Return a table with one group, 0, of upstreams that are well, each with its options, numbered from `first`."""
    table = UpstreamTable()
    for member, each in enumerate(options):
        table.set_upstream(first + member, **{"seed": seed_of(member), **each})
        table.set_health(first + member)
    table.set_group(0, policy, range(first, first + len(options)))
    return table


def choices(table, count=CHOICES, **asked):
    """Return how often each upstream is chosen."""
    return Counter(table.next_of(0, **asked) for _ in range(count))


# ---------------------------------------------------------------- policies


def test_round_robin_gives_each_exactly_its_turn():
    table = table_of("round-robin", *[{}] * 5)
    turns = [table.next_of(0) for _ in range(CHOICES)]
    assert Counter(turns) == dict.fromkeys(range(5), CHOICES // 5)
    assert turns[:5] * (CHOICES // 5) == turns


def test_at_random_each_gets_what_it_weighs_and_nobody_can_tell_who_is_next():
    table = table_of("random", {"weight": 1}, {"weight": 2}, {"weight": 5})
    drawn = [table.next_of(0) for _ in range(CHOICES)]
    for member, weight in enumerate((1, 2, 5)):
        assert abs(drawn.count(member) - CHOICES * weight / 8) < 350, "seven deviations"
    pairs = Counter(itertools.pairwise(drawn))
    assert abs(pairs[2, 2] - CHOICES * 25 / 64) < 500
    assert abs(pairs[0, 1] - CHOICES * 2 / 64) < 200


def test_the_heaviest_weights_are_no_harm():
    table = table_of("random", *[{"weight": 65535}] * MEMBERS)
    assert all(60 < count < 270 for count in choices(table).values())
    assert len(choices(table)) == MEMBERS


def test_by_order_the_lowest_is_asked_and_those_that_are_alike_have_their_turns():
    table = table_of("order", {"order": 9}, {"order": 3}, {"order": 0}, {"order": 3}, {"order": 0})
    assert choices(table) == {2: CHOICES // 2, 4: CHOICES // 2}
    assert choices(table, tried=[2]) == {4: CHOICES}
    assert choices(table, tried=[2, 4]) == {1: CHOICES // 2, 3: CHOICES // 2}
    assert choices(table, tried=[2, 4, 1, 3]) == {0: CHOICES}


@pytest.mark.parametrize("policy", ["least-outstanding", "latency"])
def test_where_nobody_has_anything_to_do_all_are_alike(policy):
    table = table_of(policy, *[{}] * 4)
    assert all(2000 < count < 3000 for count in choices(table).values())
    assert len(choices(table)) == 4


def belongs(table, names=NAMES):
    return {name: table.next_of(0, name=name) for name in names}


def test_a_name_belongs_to_one_whatever_its_case():
    table = table_of("hash", *[{}] * 4)
    first = belongs(table)
    assert belongs(table) == first
    assert {name.upper(): n for name, n in first.items()} == belongs(table, [name.upper() for name in NAMES])
    assert all(600 < count < 900 for count in Counter(first.values()).values())


def test_names_are_shared_by_weight():
    found = Counter(belongs(table_of("hash", {"weight": 1}, {"weight": 3}, {"weight": 6})).values())
    for member, weight in enumerate((1, 3, 6)):
        assert abs(found[member] - len(NAMES) * weight / 10) < 200


@pytest.mark.parametrize("leaves", range(4))
def test_when_one_leaves_its_names_are_shared_and_no_others_move(leaves):
    table = table_of("hash", *[{}] * 4)
    before = belongs(table)
    table.set_health(leaves, in_service=False)
    after = belongs(table)
    assert {name: n for name, n in after.items() if before[name] != leaves} == {
        name: n for name, n in before.items() if n != leaves
    }
    moved = Counter(n for name, n in after.items() if before[name] == leaves)
    assert all(count > 130 for count in moved.values())
    assert moved.keys() == {0, 1, 2, 3} - {leaves}
    table.set_health(leaves)
    assert belongs(table) == before


def test_a_heavier_one_only_takes_names_and_gives_none():
    before, after = (belongs(table_of("hash", {}, {"weight": weight}, {})) for weight in (1, 2))
    assert {after[name] for name in NAMES if after[name] != before[name]} == {1}


def test_names_belong_to_who_has_the_seed_and_not_to_a_number():
    assert {name: n - 100 for name, n in belongs(table_of("hash", *[{}] * 5, first=100)).items()} == belongs(
        table_of("hash", *[{}] * 5)
    )
    mirrored = table_of("hash", *({"seed": seed_of(4 - n)} for n in range(5)))
    assert {name: 4 - n for name, n in belongs(mirrored).items()} == belongs(table_of("hash", *[{}] * 5))


# ---------------------------------------------------------------- ranks, whatever the policy

every_policy = pytest.mark.parametrize("policy", POLICIES)


@every_policy
def test_the_well_before_the_recovering_before_the_tried_before_those_left_alone(policy):
    table = table_of(policy, *[{}] * 6)
    table.set_health(1, share=0.0)
    table.set_health(3, in_service=False)
    table.set_health(4, in_service=False)
    table.set_health(5, in_service=False, forced=True)
    assert choices(table, 100, tried=[2, 4]) == {0: 100}
    table.set_health(0, in_service=False, forced=True)
    assert choices(table, 100, tried=[2, 4]) == {1: 100}
    table.set_health(1, in_service=False, forced=True)
    assert choices(table, 100, tried=[2, 4]) == {2: 100}
    table.set_health(2, in_service=False, forced=True)
    assert choices(table, 100, tried=[2, 4]) == {3: 100}
    table.set_health(3, in_service=False, forced=True)
    assert choices(table, 100, tried=[2, 4]) == {4: 100}
    table.set_health(4, in_service=False, forced=True)
    assert choices(table, 100, tried=[2, 4]) == {-1: 100}


@every_policy
def test_what_was_tried_is_asked_again_only_when_all_were(policy):
    table = table_of(policy, *[{}] * TRIES)
    for tried in itertools.permutations(range(TRIES), 3):
        assert table.next_of(0, tried) == 6 - sum(tried)
    assert choices(table, 200, tried=list(range(TRIES))).keys() <= set(range(TRIES))


@every_policy
def test_a_group_without_members_has_nobody_to_ask(policy):
    table = table_of(policy)
    assert table.next_of(0) == table.next_of(GROUPS - 1) == -1


@every_policy
def test_who_is_not_in_the_group_is_not_asked(policy):
    table = table_of(policy, *[{}] * 9)
    table.set_group(7, policy, [8, 2, 5])
    asked = {table.next_of(7, name=name) for name in NAMES}
    assert asked <= {2, 5, 8}
    table.set_group(7, policy, [4])
    assert {table.next_of(7, name=name) for name in NAMES[:100]} == {4}
    table.set_group(7, policy, [])
    assert table.next_of(7) == -1


@pytest.mark.parametrize(
    ("share", "expected"), [(-1.0, 0), (0.0, 0), (1 / 16, 1 / 32), (0.5, 0.25), (1.0, 0.5), (2, 0.5)]
)
def test_who_recovers_gets_its_share_and_no_more(share, expected):
    """Of two in turn, one that is there has every second query; one that is there half of the time every fourth."""
    table = table_of("round-robin", {}, {})
    table.set_health(1, share=share)
    assert abs(choices(table)[1] / CHOICES - expected) < 0.04
    assert choices(table, 100, tried=[0]) == {1: 100}, "it comes before what was tried"


def test_those_left_alone_are_asked_where_no_other_can_be():
    table = table_of("round-robin", {}, {})
    for member in 0, 1:
        table.set_health(member, in_service=False)
    assert choices(table, 100) == {0: 50, 1: 50}


def test_a_number_that_is_given_away_starts_anew():
    table = table_of("round-robin", {})
    assert table.next_of(0) == 0
    table.forget(0)
    assert table.next_of(0) == -1
    table.set_health(0)
    assert table.next_of(0) == 0


# ---------------------------------------------------------------- mistakes

MISTAKES = {
    "an upstream too many": lambda table: table.set_health(UPSTREAMS),
    "an upstream below 0": lambda table: table.set_upstream(-1),
    "a forgotten stranger": lambda table: table.forget(UPSTREAMS),
    "a faded stranger": lambda table: table.decay_latency(-2),
    "signals of a stranger": lambda table: table.signals(1 << 30),
    "counters of a stranger": lambda table: table.counters(-(1 << 30)),
    "spelling of a stranger": lambda table: table.case_lost(UPSTREAMS),
    "a group too many": lambda table: table.set_group(GROUPS, "order", [0]),
    "a member that is none": lambda table: table.set_group(0, "order", [UPSTREAMS]),
    "a second member that is none": lambda table: table.set_group(0, "order", [1, UPSTREAMS]),
    "a member below 0": lambda table: table.set_group(0, "order", [-1]),
    "too many members": lambda table: table.set_group(0, "order", [0] * (MEMBERS + 1)),
    "no name": lambda table: table.next_of(0, name=b""),
    "a name without end": lambda table: table.next_of(0, name=b"\3www"),
    "a label too long": lambda table: table.next_of(0, name=b"\x40" + b"a" * 64 + b"\0"),
    "a compressed name": lambda table: table.next_of(0, name=b"\xc0\0"),
    "a name too long": lambda table: table.next_of(0, name=b"\x3f".ljust(64, b"a") * 4 + b"\0"),
}


@pytest.mark.parametrize("make", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_an_error_and_changes_nothing(make):
    table = table_of("round-robin", {}, {})
    with pytest.raises(ValueError, match=r"number|group|name"):
        make(table)
    assert choices(table, 100) == {0: 50, 1: 50}


def test_more_tries_than_can_be_noted_are_those_that_came_last():
    table = table_of("order", *({"order": n} for n in range(6)))
    assert table.next_of(0, range(5)) == 0
    assert table.next_of(0, [0] * 100 + [1, 2, 3]) == 4
    assert table.next_of(0, [-1, 1 << 15, 255]) == 0


def test_all_places_can_be_taken():
    table = UpstreamTable()
    for number in range(UPSTREAMS):
        table.set_health(number)
    for group in range(GROUPS):
        table.set_group(group, "round-robin", range(group % 4 * MEMBERS, group % 4 * MEMBERS + MEMBERS))
    for group in 0, 1, 2, 3, GROUPS - 1:
        asked = {table.next_of(group) for _ in range(MEMBERS)}
        assert asked == set(range(group % 4 * MEMBERS, group % 4 * MEMBERS + MEMBERS))


# ---------------------------------------------------------------- with outstanding queries


def test_least_outstanding_gives_each_as_many_as_it_weighs():
    stage = Stage(3, "least-outstanding", each=[{"weight": 1}, {"weight": 2}, {"weight": 5}])
    assert stage.whom(80) == {0: 10, 1: 20, 2: 50}


def test_least_outstanding_gives_more_to_who_ends_more():
    stage = Stage(2, "least-outstanding")
    asked = Counter()
    for _ in range(100):
        (attempt,) = stage.ask()
        asked[attempt.upstream] += 1
        if attempt.upstream == 1:
            stage.answer(attempt)
    assert asked == {0: 1, 1: 99}


def test_of_two_the_faster_is_asked_until_it_has_so_much_to_do_that_the_other_would_be():
    stage = Stage(2, "latency")
    for upstream, seconds in ((0, 0.2), (1, 0.02)):
        stage.teach(upstream, *[seconds] * 30)
    asked = [attempt.upstream for _ in range(20) for attempt in stage.ask()]
    assert 7 <= asked.index(0) <= 10, "ten behind one another wait as long as one at the slower"


def test_of_three_the_slowest_is_never_the_better_of_two():
    stage = Stage(3, "latency")
    for upstream, seconds in enumerate((0.01, 0.1, 0.4)):
        stage.teach(upstream, *[seconds] * 10)
    asked = Counter()
    for _ in range(300):
        (attempt,) = stage.ask()
        asked[attempt.upstream] += 1
        stage.miss_path.fail(attempt.handle)
        for other in stage.asked():  # another is asked at once: it is let down too
            stage.miss_path.fail(other.handle)
            for last in stage.asked():
                stage.miss_path.fail(last.handle)
        for member in stage.members:
            stage.table.set_health(member)
    assert asked[2] == 0
    assert 150 < asked[0] < 250


def test_who_was_not_asked_yet_is_tried():
    stage = Stage(2, "latency")
    stage.teach(0, *[0.001] * 5)
    assert stage.whom(20)[1] > 0


def test_who_is_not_known_does_not_get_every_query_until_it_answers():
    """It may never: with a black hole from the start, or a new one, all clients would wait for the timeout."""
    stage = Stage(2, "latency")
    stage.teach(0, *[0.001] * 20)
    found = Counter()
    for attempt in (attempt for _ in range(100) for attempt in stage.ask()):
        found[attempt.upstream] += 1
        if attempt.upstream == 0:
            stage.answer(attempt)
    assert found[0] > 50


def test_what_is_known_of_a_latency_fades_where_nobody_asks():
    stage = Stage(2, "latency")
    stage.teach(0, *[0.2] * 10)
    stage.teach(1, *[0.1] * 10)
    for _ in range(30):
        stage.table.decay_latency(0)
    assert stage.whom(1) == {0: 1}


def test_a_name_with_many_outstanding_queries_is_asked_of_the_next_in_line_too():
    """Each has at most a quarter more than its share, and one: before and after all else is as it was."""
    weights = 1, 2, 3
    stage = Stage(3, "hash", each=[{"weight": weight} for weight in weights])
    (first,) = stage.ask("hot.test", 1000)
    home = first.upstream
    for rdtype in range(1001, 1200):
        before = [stage.counters(n)["outstanding_queries"] for n in stage.members]
        (attempt,) = stage.ask("hot.test", rdtype)
        room = [opened + 1 <= 1.25 * (sum(before) + 1) * weights[n] / 6 + 1 for n, opened in enumerate(before)]
        assert room[attempt.upstream]
        assert attempt.upstream == home or not room[home]
    assert all(stage.counters(n)["outstanding_queries"] > 10 for n in stage.members)


@every_policy
def test_who_has_as_many_outstanding_as_it_may_is_passed_over_and_when_all_have_clients_are_refused(policy):
    stage = Stage(3, policy, each=[{"max_outstanding": 2}, {"max_outstanding": 3}, {"max_outstanding": 4}])
    attempts = [attempt for _ in range(9) for attempt in stage.ask()]
    assert Counter(attempt.upstream for attempt in attempts) == {0: 2, 1: 3, 2: 4}
    assert stage.heard() == []
    assert (stage.ask(), stage.heard()) == ([], [REFUSED])
    assert stage.miss_path.counters()["upstreams_saturated"] == 1
    stage.answer(attempts[0])
    (again,) = stage.ask()
    assert again.upstream == attempts[0].upstream
    assert stage.miss_path.pending_queries == 9


def test_who_finds_all_others_busy_waits_for_whom_he_has_asked():
    stage = Stage(2, each=[{}, {"max_outstanding": 1}])
    stage.table.set_group(0, "order", [1])
    stage.ask()
    stage.table.set_group(0, "order", [0, 1])
    stage.table.set_upstream(0, order=0, max_outstanding=1, over_stream=True)
    (attempt,) = stage.ask()
    assert [stage.wait(0.5) for _ in range(5)] == [[]] * 5
    assert stage.answer(attempt)
    assert stage.heard() == [NOERROR]


# ---------------------------------------------------------------- silence


def test_silent_so_many_times_in_a_row_and_it_is_left_alone_before_anybody_judges():
    stage = Stage(2, attempts=2)
    stage.table.set_health(0, fall=3)
    for silent in 1, 2, 3:
        assert stage.silence(0)[2] == 1
        assert stage.table.signals(0)[1:4] == (silent, 0, silent)
    assert stage.whom(20) == {1: 20}
    stage.table.set_health(1, in_service=False, forced=True)
    assert stage.whom(3) == {0: 3}, "it is asked where no other can be"


def test_what_was_asked_together_is_silence_once():
    stage = Stage(2)
    stage.table.set_health(0, fall=3)
    assert stage.whom(50) == {0: 50}
    assert len(stage.wait(1.1)) == 50
    assert stage.table.signals(0)[1:4] == (50, 0, 1)
    assert stage.whom(1) == {0: 1}


def test_one_answer_ends_a_silence():
    stage = Stage(2)
    stage.table.set_health(0, fall=3)
    for _ in range(2):
        stage.silence(0)
    stage.teach(0, 0.01)
    assert stage.table.signals(0)[3] == 0
    for _ in range(2):
        stage.silence(0)
    assert stage.whom(1) == {0: 1}


def test_who_comes_back_into_service_is_not_silent_any_more():
    stage = Stage(2)
    stage.table.set_health(0, fall=1)
    stage.silence(0)
    assert stage.table.signals(0)[3] == 1
    stage.table.set_health(0, in_service=False)
    stage.table.set_health(0, fall=1)
    assert stage.table.signals(0)[3] == 0
    assert stage.whom(1) == {0: 1}


# ---------------------------------------------------------------- how long is waited


def usual(latencies, patience, timeout):
    """Return how long an upstream's silence is no news: mean and four deviations (RFC 6298), within bounds."""
    mean, deviation = latencies[0], latencies[0] / 2
    for latency in latencies[1:]:
        deviation += (abs(latency - mean) - deviation) / 4
        mean += (latency - mean) / 8
    return max(patience, min(mean + 4 * deviation, timeout))


@examples(100)
@given(st.lists(st.floats(0.001, 0.9), min_size=1, max_size=12), st.sampled_from([0.02, 0.1, 0.4]))
def test_another_is_asked_after_the_mean_and_four_deviations(latencies, patience):
    stage = Stage(2, retry_after=patience, timeout=1.5)
    expected = usual(stage.teach(0, *latencies), patience, 1.5)
    least, most, then = stage.silence(0)
    assert (least <= expected + TURN, most >= expected - 1e-6, then) == (True, True, 1)


def test_who_is_fast_as_a_rule_is_given_patience_and_who_is_not_known_the_timeout():
    stage = Stage(3, retry_after=0.25, timeout=0.75)
    stage.teach(0, *[0.001] * 20)
    least, most, then = stage.silence(0)
    assert (least < 0.25 + TURN, most >= 0.25, then) == (True, True, 1)
    stage.table.set_health(0, in_service=False, forced=True)
    least, most, then = stage.silence(1)
    assert (least < 0.75 + TURN, most >= 0.75, then) == (True, True, 2)


def test_each_silence_doubles_the_wait_at_least_up_to_the_timeout():
    stage = Stage(2, retry_after=0.01, timeout=0.5, attempts=2)
    measured = stage.teach(0, *[0.05] * 40)
    expected = usual(measured, 0.01, 9)
    for _ in range(7):
        least, most, _ = stage.silence(0)
        assert least <= 0.5 + TURN
        assert most >= min(expected, 0.5) - 1e-6
        expected *= 2


def test_where_there_is_no_other_it_is_given_the_timeout_and_asked_again():
    stage = Stage(1, retry_after=0.01, timeout=0.5, attempts=3, deadline=5)
    stage.teach(0, *[0.02] * 20)
    least, most, then = stage.silence(0)
    assert (least < 0.5 + TURN, most >= 0.5, then) == (True, True, 0)


def test_the_last_try_is_waited_for_until_the_deadline():
    stage = Stage(4, retry_after=0.1, timeout=0.2, attempts=3, deadline=2.0)
    tried = [attempt.upstream for attempt in stage.ask()]
    for _ in range(18):
        tried += [attempt.upstream for attempt in stage.wait(0.1)]
    assert (tried, stage.heard()) == ([0, 1, 2], [])
    assert (stage.wait(0.2 + TURN), stage.heard()) == ([], [SERVFAIL])
    assert [stage.table.signals(n)[1] for n in stage.members] == [1, 1, 1, 0]
    assert [stage.counters(n)["outstanding_queries"] for n in stage.members] == [0] * 4


def test_the_first_answer_counts_whose_ever_it_is():
    stage = Stage(2, timeout=0.3)
    (first,) = stage.ask()
    (second,) = stage.wait(0.3 + TURN)
    assert stage.answer(first)
    assert stage.heard() == [NOERROR]
    assert not stage.answer(second)
    assert (stage.heard(), stage.counters(1)["outstanding_queries"], stage.counters(1)["responses"]) == ([], 0, 0)


def test_who_says_that_it_cannot_be_reached_is_passed_over_at_once():
    stage = Stage(3, attempts=3)
    (attempt,) = stage.ask()
    for then in 1, 2:
        stage.miss_path.fail(attempt.handle)
        (attempt,) = stage.asked()
        assert attempt.upstream == then
    stage.miss_path.fail(attempt.handle)
    assert (stage.asked(), stage.heard()) == ([], [SERVFAIL])
    assert [stage.counters(n)["network_errors"] for n in stage.members] == [1, 1, 1]


@pytest.mark.parametrize("rcode", [SERVFAIL, REFUSED])
def test_a_failure_of_one_is_the_last_word_only_where_no_other_can_be_asked(rcode):
    stage = Stage(2, attempts=4, retry_on=[rcode])
    (attempt,) = stage.ask()
    assert stage.answer(attempt, rcode)
    (other,) = stage.asked()
    assert (other.upstream, stage.heard()) == (1, [])
    assert stage.answer(other, rcode)
    assert (stage.asked(), stage.heard()) == ([], [rcode])
    (attempt,) = stage.ask()
    stage.answer(attempt, 7 - rcode)
    assert (stage.asked(), stage.heard()) == ([], [7 - rcode]), "of this one nothing was said"


def test_a_failure_is_not_the_last_word_while_another_is_asked():
    stage = Stage(3, timeout=0.3, attempts=3, retry_on=[SERVFAIL])
    (first,) = stage.ask()
    (second,) = stage.wait(0.3 + TURN)
    assert stage.answer(first, SERVFAIL)
    assert (stage.asked(), stage.heard()) == ([], [])
    assert stage.answer(second)
    assert (stage.asked(), stage.heard()) == ([], [NOERROR])


def test_what_is_answered_before_it_is_sent_again_is_not_sent_again():
    stage = Stage(2, timeout=0.3)
    (first,) = stage.ask()
    stage.clock.advance(0.3 + TURN)
    stage.miss_path.tick()
    assert stage.answer(first)
    assert (stage.heard(), stage.asked(), stage.miss_path.counters()["retries"]) == ([NOERROR], [], 0)


def test_what_is_late_before_it_is_sent_is_not_sent():
    stage = Stage(1, deadline=1.0)
    assert stage.miss_path.submit(1, bytes(4), query("www.test", A))
    stage.clock.advance(1.0 + TURN)
    stage.miss_path.tick()
    assert (stage.heard(), stage.asked(), stage.counters(0)["queries"]) == ([SERVFAIL], [], 0)


# ---------------------------------------------------------------- hedging


def test_a_slow_one_is_helped_and_not_blamed():
    stage = Stage(2, hedge=True, retry_after=0.02)
    stage.teach(0, *[0.3] * 7)
    stage.table.set_health(0, hedge_after=0.05)
    least, most, then = stage.silence(0)
    assert (least < 0.05 + TURN, most >= 0.05, then) == (True, True, 1)
    counters = stage.counters(0)
    assert (counters["hedged_queries"], counters["timeouts"], stage.table.signals(0)[3]) == (1, 0, 0)
    assert stage.miss_path.counters()["hedged_queries"] == 1


def test_an_eighth_of_all_queries_is_hedged_and_no_more():
    stage = Stage(2, hedge=True, timeout=2.0, retry_after=2.0)
    stage.table.set_health(0, hedge_after=0.05)
    hedged = []
    for number in range(1, 33):
        (attempt,) = stage.ask()
        if more := stage.wait(0.05 + TURN):
            hedged.append(number)
            assert [other.upstream for other in more] == [1]
        assert stage.answer(attempt)
    assert hedged == [8, 16, 24, 32]


def test_a_query_that_could_be_sent_nowhere_is_not_hedged():
    """The first says SERVFAIL before it is slow; no socket leads to the second."""
    stage = Stage(2, hedge=True, timeout=2.0, retry_after=1.0, retry_on=[SERVFAIL], attempts=2)
    stage.table.set_health(0, hedge_after=0.05)
    stage.table.set_upstream(1, order=1, over_stream=False)
    for _ in range(16):  # so that hedging is not too dear
        (attempt,) = stage.ask()
        assert stage.answer(attempt)
    stage.heard()
    (attempt,) = stage.ask()
    assert stage.answer(attempt, SERVFAIL)
    assert (stage.asked(), stage.wait(2 * TURN), stage.heard()) == ([], [], [SERVFAIL])
    assert [stage.counters(n)["hedged_queries"] for n in (0, 1)] == [0, 0]


@pytest.mark.parametrize(("hedge", "after"), [(False, 0.05), (True, 0.0), (True, 0.5)])
def test_nothing_is_hedged_where_that_is_off_or_no_sooner(hedge, after):
    stage = Stage(2, hedge=hedge, timeout=0.3)
    stage.teach(0, *[0.01] * 20)
    stage.table.set_health(0, hedge_after=after)
    assert stage.silence(0)[2] == 1
    assert (stage.counters(0)["hedged_queries"], stage.counters(0)["timeouts"]) == (0, 1)
