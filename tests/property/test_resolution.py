"""Show that whatever upstreams do, and whatever is said of them, each client gets one answer, and in time."""

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.examples import examples
from support.quick import A, query
from support.waiting import TURN, Stage

from funkenshield.upstream._selection import POLICIES

NOERROR, SERVFAIL, REFUSED = 0, 2, 5
TRIES = 4

members = st.integers(0, 3)
attempts = st.integers(0, 59)


class Forwarding(RuleBasedStateMachine):
    """Queries that go to four upstreams in any order of events, against what must be true of all of them.

    The model knows, for each name, its clients, since when they wait, its attempts that have not ended, and how many
    there were. A name's query is over as soon as one of its clients is answered; then all of them must be.
    """

    @initialize(
        policy=st.sampled_from(sorted(POLICIES)), attempts=st.integers(1, TRIES), capacity=st.integers(1, 12),
        deadline=st.sampled_from([0.5, 2.5, 6.0]), hedge=st.booleans(),
        retry_on=st.sampled_from([(), (SERVFAIL,), (SERVFAIL, REFUSED)]), limit=st.integers(1, 9),
    )  # fmt: skip
    def start(self, policy, attempts, capacity, deadline, hedge, retry_on, limit):
        options = {"timeout": 0.4, "retry_after": 0.05, "attempts": attempts, "deadline": deadline, "hedge": hedge}
        each = [{"max_outstanding": limit if n % 2 else 99} for n in range(4)]
        self.stage = Stage(4, policy, each=each, capacity=capacity, retry_on=retry_on, **options)
        self.tries, self.deadline = attempts, deadline
        self.forced, self.group = set(), set(range(4))
        self.waiting = {}  # stream -> (name, since)
        self.attempts = {}  # name -> the attempts that have not ended
        self.made = Counter()  # name -> attempts
        self.stream = 0
        self.turned_away = None  # the stream of one who asked in vain, though others wait for the same

    def settle(self):
        """Have all that is due sent, and take what clients got: each once, and all who wait for a name at once."""
        over = set()
        for attempt in self.stage.asked():
            assert attempt.upstream in self.group - self.forced
            name = attempt.wire[12:]
            self.attempts.setdefault(name, []).append(attempt)
            self.made[name] += 1
            assert self.made[name] <= self.tries
        for stream, framed in self.stage.miss_path.outbox.take_streams():
            name, _ = self.waiting.pop(stream)
            assert framed[14 : 14 + len(name)] == name
            if self.turned_away != stream:
                over.add(name)
        for name in over:
            assert name not in {other for other, _ in self.waiting.values()}
            self.attempts.pop(name, None)
            self.made.pop(name, None)

    @rule(which=st.integers(0, 5))
    def submit(self, which):
        wire = query(f"n{which}.test", A)
        self.stream += 1
        known = wire[12:] in {name for name, _ in self.waiting.values()}
        before = self.over_bounds()
        self.stage.miss_path.submit(self.stream, bytes(4), wire)
        self.turned_away = self.stream if known and self.over_bounds() > before else None
        self.waiting[self.stream] = wire[12:], self.stage.clock.seconds()
        self.settle()
        self.turned_away = None

    def over_bounds(self):
        """Return how many were refused because everything was taken, or their share of it."""
        counters = self.stage.miss_path.counters()
        return counters["outstanding_limit_exceeded"] + counters["fair_share_exceeded"]

    @rule(which=attempts, rcode=st.sampled_from([NOERROR, NOERROR, SERVFAIL, REFUSED]))
    def resolve(self, which, rcode):
        if attempt := self.take(which):
            assert self.stage.answer(attempt, rcode)
            assert not self.stage.answer(attempt._replace(handle=attempt.handle + (1 << 32)), rcode)
            self.settle()

    @rule(which=attempts)
    def fail(self, which):
        if attempt := self.take(which):
            self.stage.miss_path.fail(attempt.handle)
            self.settle()

    def take(self, which):
        """Return one of the attempts that have not ended, if there are any; the model ends it.

        Nothing that is drawn depends on them: what the shield does is up to time and chance as well.
        """
        pending = [attempt for each in self.attempts.values() for attempt in each]
        if not pending:
            return None
        attempt = pending[which % len(pending)]
        self.attempts[attempt.wire[12:]].remove(attempt)
        return attempt

    @rule(seconds=st.sampled_from([0.01, 0.06, 0.2, 0.45, 1.0, 7.0]))
    def advance(self, seconds):
        self.stage.clock.advance(seconds)
        late = self.stage.clock.seconds() - self.deadline - TURN
        self.stage.miss_path.tick()
        self.settle()
        assert all(since > late for _, since in self.waiting.values())

    @rule(upstream=members, in_service=st.booleans(), forced=st.booleans(), share=st.sampled_from([0.0, 0.5, 1.0]))
    def judge(self, upstream, in_service, forced, share):
        self.stage.table.set_health(
            upstream, in_service=in_service, forced=forced, share=share, fall=3, hedge_after=0.03
        )
        (self.forced.add if forced and not in_service else self.forced.discard)(upstream)

    @rule(group=st.sets(members), policy=st.sampled_from(sorted(POLICIES)))
    def regroup(self, group, policy):
        self.group = group
        self.stage.table.set_group(0, policy, sorted(group))

    @invariant()
    def every_pending_query_is_one_that_somebody_waits_for(self):
        if self.stream:
            opened = Counter(attempt.upstream for each in self.attempts.values() for attempt in each)
            assert [self.stage.counters(n)["outstanding_queries"] for n in range(4)] == [opened[n] for n in range(4)]
            assert self.stage.miss_path.pending_queries == len(self.waiting)

    def teardown(self):
        if self.stream:
            self.advance(7.0)
            assert (self.waiting, self.stage.miss_path.pending_queries) == ({}, 0)
            assert [self.stage.counters(n)["outstanding_queries"] for n in range(4)] == [0] * 4


TestForwarding = pytest.mark.slow(Forwarding.TestCase)
TestForwarding.settings = examples(150, stateful_step_count=40)
