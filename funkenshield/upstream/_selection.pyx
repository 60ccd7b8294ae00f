"""Upstreams as compiled code sees them: who is well, how busy, how fast, and which one is asked next.

    rank each member -> the best rank's -> one of them, by the group's policy

Every policy chooses among the best only, so each of them respects health, bounds and what was tried
before. Whether an upstream is well is judged by the control thread, about once a second; between its
judgements, one that answers nothing several times in a row is passed over here.
"""

from libc.math cimport log
from libc.stdint cimport int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from ..core._clock cimport NANOSECONDS
from ..core._latency_histogram cimport histogram_as_dict, observe_latency
from ..core._limits cimport GROUPS_MAX, MEMBERS_MAX, UPSTREAMS_MAX
from ..core._memory cimport free, zeros
from ..core._random cimport random16
from ..core._siphash cimport Secret, siphash
from ..wire._message cimport NAME_MAX, REFUSED, SERVFAIL, fold_all, is_name, name_size

cdef extern from *:
    int leading_zeros "__builtin_clzll"(unsigned long long) noexcept nogil

cdef enum Rank:                    # the lower, the better
    WELL
    RECOVERING                     # well again, but not its turn yet
    WELL_BUT_TRIED
    ILL                            # by all that is known: but all that is known may be wrong
    ILL_AND_TRIED
    BUSY
    OUT
    RANKS

cdef enum:
    KEPT_FREE = 5                  # one in so many of the queries that an upstream may be asked is no second try

cdef uint64_t MEMORY = <uint64_t> 300 * NANOSECONDS      # unsolicited replies count together for so long
cdef uint64_t SUSPICION = <uint64_t> 240 * NANOSECONDS   # after the last unsolicited reply, at least; and at most
cdef uint64_t UNCERTAINTY = <uint64_t> 120 * NANOSECONDS  # so much longer, that nobody knows when it ends
cdef double BALANCE = 1.25         # how far above its fair share of outstanding queries HASH lets an upstream go
cdef Secret NO_SECRET              # the same name leads every shield to the same upstream, whenever it was started
FAILURE_REASONS = ("timeout", "connection_refused", "connection_closed", "unreachable", "local", "other", "servfail",
                   "refused")
_RANK_NAMES = ("up", "recovering", "tried", "down", "down, tried", "busy", "out of service")  # by Rank
POLICIES = {"round-robin": ROUND_ROBIN, "order": ORDER, "least-outstanding": LEAST_OUTSTANDING, "random": RANDOM,
            "latency": LATENCY, "hash": HASH}


cdef inline bint _is_better(uint8_t policy, const Upstream* one, const Upstream* other) noexcept nogil:
    """Tell whether one upstream is asked before another."""
    if policy == ORDER:
        return one.order < other.order
    return <uint64_t> one.outstanding * other.weight < <uint64_t> other.outstanding * one.weight


cdef str reason_name(uint8_t reason):
    """Return the name of a FailureReason."""
    return FAILURE_REASONS[reason]


cdef class UpstreamTable:
    """Upstreams by number, in groups by number.

    Memory ownership: both tables are its own. One thread calls everything here.
    """

    def __cinit__(self) -> None:
        cdef int32_t n
        self.all = <Upstream*> zeros(UPSTREAMS_MAX, sizeof(Upstream))
        self.groups = <Group*> zeros(GROUPS_MAX, sizeof(Group))
        for n in range(UPSTREAMS_MAX):
            self.forget(n)

    def __dealloc__(self) -> None:
        free(self.all)
        free(self.groups)

    # ------------------------------------------------------------ what the control thread says

    cdef Upstream* _known(self, int32_t upstream) except NULL:
        if not 0 <= upstream < UPSTREAMS_MAX:
            raise ValueError(f"upstreams are numbered below {UPSTREAMS_MAX}")
        return &self.all[upstream]

    def forget(self, int32_t upstream) -> None:
        """Start an upstream's counters anew, for its number is given to another; it is not asked until `set_health`."""
        cdef Upstream* known = self._known(upstream)
        cdef uint32_t outstanding = known.outstanding  # which end yet
        memset(known, 0, sizeof(Upstream))
        known.state, known.share, known.fall, known.weight = FORCED_DOWN, WHOLE, 1, 1
        known.max_outstanding, known.outstanding = 0xffffffff, outstanding

    def set_upstream(self, int32_t upstream, *, uint16_t order=1, uint16_t weight=1,
                     uint32_t max_outstanding=0xffffffff, bint over_stream=False, bint random_case=False,
                     bint proxied=False, uint64_t seed=0) -> None:
        """Say how an upstream is reached, and what its share is."""
        cdef Upstream* known = self._known(upstream)
        known.order, known.weight, known.seed = order, max(weight, <uint16_t> 1), seed
        known.max_outstanding = max_outstanding
        if random_case and not known.random_case:
            known.case_lost = known.keeps_case = 0
        known.over_stream, known.random_case, known.proxied = over_stream, random_case, proxied

    def set_health(self, int32_t upstream, *, bint in_service=True, bint forced=False, double share=1.0,
                   uint16_t fall=0xffff, double hedge_after=0.0) -> None:
        """Say whether an upstream is asked, how much of its share it gets, and when another is asked too (seconds)."""
        cdef Upstream* known = self._known(upstream)
        if in_service and known.state != UP:
            known.timeouts_in_a_row = known.hedges_in_a_row = 0
        known.state = UP if in_service else FORCED_DOWN if forced else DOWN
        known.share = <uint16_t> (max(0.0, min(share, 1.0)) * WHOLE)
        known.fall = fall
        known.hedge_after = <uint64_t> (hedge_after * 1e9)

    def case_lost(self, int32_t upstream) -> int:
        """Return how many responses over TCP in a row did not spell their name as it was drawn; 0 if any ever did."""
        return 0 if self._known(upstream).keeps_case else self._known(upstream).case_lost

    def suspected_until(self, int32_t upstream) -> float:
        """Return until when nothing is believed that comes from an upstream over UDP, in the clock's seconds."""
        return self._known(upstream).suspected_until / 1e9

    def decay_latency(self, int32_t upstream) -> None:
        """Let what is known of an upstream's latency count less: nobody has asked it for a while."""
        self._known(upstream).mean -= self._known(upstream).mean >> 4

    def set_group(self, uint32_t group, str policy not None, members) -> None:
        """Say who is in a group, and how one of them is chosen. Raises ValueError where there are too many."""
        cdef uint8_t count = 0
        if group >= GROUPS_MAX or len(members) > MEMBERS_MAX:
            raise ValueError(f"{GROUPS_MAX} groups of {MEMBERS_MAX} upstreams")
        for number in members:
            self._known(number)
        for number in members:
            self.groups[group].members[count] = number
            count += 1
        self.groups[group].policy = POLICIES[policy]
        self.groups[group].count = count

    # ------------------------------------------------------------ whom to ask

    def next_of(self, uint32_t group, tried=(), bytes name not None=b"\0") -> int:
        """Return the upstream of a group that is to be asked after those that were tried, or -1: none can be.

        The name, on the wire, is the one that is asked for. Raises ValueError where it is none.
        """
        cdef:
            const uint8_t* wire = name
            Tried before
        if not is_name(wire, len(name), 0):
            raise ValueError("that is no name on the wire")
        before.count = 0
        for number in tried[-TRIES_MAX:]:
            note_try(&before, number)
        return max(self.choose(group % GROUPS_MAX, &before, wire), -1)

    def outlook(self, uint32_t group, bytes name not None=b"\0") -> tuple:
        """Return whom `next_of` would return, or why nobody, and how good a choice each of the group is.

        That is (number, rank by its name) for each; nobody's turn is taken.
        """
        cdef:
            Group* asked = &self.groups[group % GROUPS_MAX]
            uint32_t turn = asked.turn
            const uint8_t* wire = name
            Tried nobody
            int32_t chosen
        if not is_name(wire, len(name), 0):
            raise ValueError("that is no name on the wire")
        nobody.count = 0
        chosen = self.choose(group % GROUPS_MAX, &nobody, wire)
        asked.turn = turn
        ranks = [(asked.members[k], _RANK_NAMES[self._rank(asked.members[k], &nobody)]) for k in range(asked.count)]
        return {NOBODY_UP: "down", ALL_BUSY: "busy"}.get(chosen, chosen), ranks

    cdef int32_t choose(self, uint32_t group, const Tried* tried, const uint8_t* name) noexcept nogil:
        """Return the upstream of a group that is asked next, NOBODY_UP or ALL_BUSY; `name` is on the wire."""
        cdef:
            Group* asked = &self.groups[group]
            int16_t[MEMBERS_MAX] candidates
            uint32_t count = 0
            uint32_t k
            uint8_t rank
            uint8_t best = RANKS
        for k in range(asked.count):
            rank = self._rank(asked.members[k], tried)
            if rank < best:
                best = rank
                count = 0
            if rank == best:
                candidates[count] = asked.members[k]
                count += 1
        if best >= BUSY:
            return ALL_BUSY if best == BUSY else NOBODY_UP
        return candidates[0] if count == 1 else self._elect(asked, candidates, count, name)

    cdef uint32_t room(self, uint32_t group) noexcept nogil:
        """Return how many more queries the upstreams of a group may be asked at once; any number where none may be."""
        cdef:
            Group* asked = &self.groups[group]
            Upstream* member
            uint32_t left = 0
            uint32_t k
            bint one = False
        for k in range(asked.count):
            member = &self.all[asked.members[k]]
            if member.state != FORCED_DOWN:
                one = True
                left += member.max_outstanding - min(member.outstanding, member.max_outstanding)
        return left if one else 0xffffffff

    cdef bint has_other(self, uint32_t group, const Tried* tried) noexcept nogil:
        """Tell whether a group has an upstream that is well and was not tried yet."""
        cdef:
            Group* asked = &self.groups[group]
            uint32_t k
        for k in range(asked.count):
            if self._rank(asked.members[k], tried) <= RECOVERING:
                return True
        return False

    cdef uint8_t _rank(self, int32_t upstream, const Tried* tried) noexcept nogil:
        """Return how good a choice an upstream is, before all policy."""
        cdef Upstream* ranked = &self.all[upstream]
        if ranked.state == FORCED_DOWN:
            return OUT
        if ranked.outstanding >= ranked.max_outstanding - (ranked.max_outstanding // KEPT_FREE if tried.count else 0):
            return BUSY
        if ranked.state == DOWN or ranked.timeouts_in_a_row >= ranked.fall:
            return ILL_AND_TRIED if was_tried(tried, upstream) else ILL
        if was_tried(tried, upstream):
            return WELL_BUT_TRIED
        if ranked.share < WHOLE and random16(&self.randomness) % WHOLE >= ranked.share:
            return RECOVERING
        return WELL

    cdef int32_t _elect(self, Group* group, const int16_t* candidates, uint32_t count,
                        const uint8_t* name) noexcept nogil:
        """Return one of several that are as good, by the group's policy; where two are alike, each has its turn."""
        cdef:
            int16_t[MEMBERS_MAX] alike
            uint32_t tied = 0
            uint32_t k
            Upstream* best
            Upstream* other
        if group.policy == RANDOM:
            return self._by_weight(candidates, count)
        if group.policy == LATENCY:
            return self._by_latency(candidates, count)
        if group.policy == HASH:
            return self._by_name(candidates, count, name)
        group.turn += 1
        if group.policy == ROUND_ROBIN:
            return candidates[group.turn % count]
        for k in range(count):
            best, other = &self.all[alike[0] if tied else candidates[k]], &self.all[candidates[k]]
            if _is_better(group.policy, other, best):
                tied = 0
            if not _is_better(group.policy, best, other):
                alike[tied] = candidates[k]
                tied += 1
        return alike[group.turn % tied]

    cdef int32_t _by_weight(self, const int16_t* candidates, uint32_t count) noexcept nogil:
        cdef:
            uint32_t drawn = (<uint32_t> random16(&self.randomness) << 16) | random16(&self.randomness)
            uint32_t total = 0
            uint32_t k
        for k in range(count):
            total += self.all[candidates[k]].weight
        drawn = <uint32_t> ((<uint64_t> drawn * total) >> 32)
        for k in range(count):
            if drawn < self.all[candidates[k]].weight:
                break
            drawn -= self.all[candidates[k]].weight
        return candidates[k]

    cdef int32_t _by_latency(self, const int16_t* candidates, uint32_t count) noexcept nogil:
        """Return the one of two, drawn at random, where a query would wait less: behind those that wait already."""
        cdef:
            uint32_t one = random16(&self.randomness) % count
            uint32_t two = (one + 1 + random16(&self.randomness) % (count - 1)) % count
            Upstream* a = &self.all[candidates[one]]
            Upstream* b = &self.all[candidates[two]]
        if (a.mean or b.mean) * (a.outstanding + 1) <= (b.mean or a.mean) * (b.outstanding + 1):
            return candidates[one]
        return candidates[two]

    cdef int32_t _by_name(self, const int16_t* candidates, uint32_t count, const uint8_t* name) noexcept nogil:
        """Return where a name belongs (weighted rendezvous hashing), or the next place where there is room."""
        cdef:
            uint8_t[NAME_MAX] folded
            size_t size = name_size(name)
            uint64_t hashed, mixed
            uint32_t k
            double score
            double best = -1.0
            uint64_t outstanding = 1
            uint64_t weight = 0
            int32_t chosen = candidates[0]
            Upstream* member
        fold_all(folded, name, size)
        hashed = siphash(&NO_SECRET, folded, size)
        for k in range(count):
            outstanding += self.all[candidates[k]].outstanding
            weight += self.all[candidates[k]].weight
        for k in range(count):
            member = &self.all[candidates[k]]
            if member.outstanding + 1 > BALANCE * outstanding * member.weight / weight + 1:
                continue
            mixed = hashed ^ member.seed
            mixed = (mixed ^ (mixed >> 33)) * <uint64_t> 0xff51afd7ed558ccd
            mixed = (mixed ^ (mixed >> 33)) * <uint64_t> 0xc4ceb9fe1a85ec53
            score = member.weight / -log(((mixed >> 11) + 1) / 9007199254740994.0)
            if score > best:
                best = score
                chosen = candidates[k]
        return chosen

    # ------------------------------------------------------------ how they do

    cdef void record_tcp_fallback(self, int32_t upstream, uint16_t rcode, uint64_t latency) noexcept nogil:
        """Note a response over TCP of an upstream that is asked over UDP: that is no sign of its health."""
        cdef Upstream* known = &self.all[upstream]
        known.answered += 1
        known.tcp_fallback_replies += 1
        observe_latency(&known.latency, latency)
        known.rcodes[min(rcode, <uint16_t> (RCODES - 1))] += 1

    cdef void record_reply(self, int32_t upstream, uint16_t rcode, uint64_t latency, bint timed) noexcept nogil:
        """Note a response after so many nanoseconds; `timed`: what that is as a rule is told by it."""
        cdef:
            Upstream* known = &self.all[upstream]
            int bits = 63 - leading_zeros(latency | 1024)
        known.answered += 1
        known.timeouts_in_a_row = known.hedges_in_a_row = 0
        observe_latency(&known.latency, latency)
        known.rcodes[min(rcode, <uint16_t> (RCODES - 1))] += 1
        known.servfails += rcode == SERVFAIL
        if rcode == SERVFAIL or rcode == REFUSED:
            self.record_failure(upstream, reason_of_rcode(rcode))
        if timed:
            known.latencies[min((bits - 10) * 4 + ((latency >> (bits - 2)) & 3), <uint64_t> (LATENCIES - 1))] += 1
            self._time(known, latency)

    cdef void _time(self, Upstream* known, uint64_t latency) noexcept nogil:
        """Take a latency into mean and deviation (RFC 6298 2)."""
        cdef uint64_t off = latency - known.mean if latency > known.mean else known.mean - latency
        if not known.mean:
            known.mean, known.deviation = latency | 1, latency >> 1
        else:
            known.deviation += (off >> 2) - (known.deviation >> 2)
            known.mean += (latency >> 3) - (known.mean >> 3)

    cdef void record_timeout(self, int32_t upstream, uint64_t asked, uint64_t now, bint timed) noexcept nogil:
        """Note that what was asked then should have been answered.

        It may still come, later than it was waited for: that, too, tells something of its latency, where `timed`.
        """
        cdef Upstream* known = &self.all[upstream]
        known.timeouts += 1
        self.record_failure(upstream, TIMED_OUT)
        if timed and known.mean and now - asked > known.mean:
            self._time(known, now - asked)
        self.record_loss(upstream, asked, now)

    cdef void forgive_timeout(self, int32_t upstream) noexcept nogil:
        """Take back one silence in a row."""
        cdef Upstream* known = &self.all[upstream]
        known.timeouts_in_a_row -= known.timeouts_in_a_row > 0

    cdef void record_loss(self, int32_t upstream, uint64_t asked, uint64_t now) noexcept nogil:
        """Note that what was asked then is not answered; what was asked together counts as once in a row."""
        cdef Upstream* known = &self.all[upstream]
        if asked >= known.timed_out_at:
            known.timeouts_in_a_row += 1
            known.timed_out_at = now

    cdef void record_failure(self, int32_t upstream, uint8_t reason) noexcept nogil:
        """Note why a query failed."""
        self.all[upstream].failures[reason] += 1
        self.all[upstream].reason = reason

    def last_failure(self, int32_t upstream) -> str:
        """Return why the latest query failed that did."""
        return reason_name(self._known(upstream).reason)

    cdef void record_unsolicited(self, int32_t upstream, uint64_t now) noexcept nogil:
        """Note a datagram that answers nothing, nor what was asked lately: some of them make an upstream suspect."""
        cdef:
            Upstream* known = &self.all[upstream]
            uint64_t until = now + SUSPICION + (UNCERTAINTY >> 16) * random16(&self.randomness)
        known.unsolicited_replies += 1
        if now > known.unsolicited_since + MEMORY:
            known.unsolicited_since, known.recent_unsolicited = now, 0
        known.recent_unsolicited += 1
        if self.suspect_after and known.recent_unsolicited >= self.suspect_after:
            known.spoof_detections += now >= known.suspected_until
            known.suspected_until = max(until, known.suspected_until)

    def signals(self, int32_t upstream) -> tuple:
        """Return what tells whether it is well: answered, unanswered, SERVFAILs; unanswered and hedged in a row.

        Only the way counts that it is asked as a rule.
        """
        cdef Upstream* known = self._known(upstream)
        unanswered = known.timeouts + known.network_errors
        return (known.answered - known.tcp_fallback_replies, unanswered, known.servfails, known.timeouts_in_a_row,
                known.hedges_in_a_row)

    def counters(self, int32_t upstream) -> dict:
        """Return what happened between the shield and an upstream, as numbers by name, and histograms.

        Bucket k of `latencies` begins at (4 + k % 4) << (8 + k // 4) nanoseconds, the first one at 0.
        """
        cdef Upstream* known = self._known(upstream)
        return {
            "queries": known.sent, "responses": known.answered, "timeouts": known.timeouts,
            "outstanding_queries": known.outstanding, "unexpected_replies": known.unexpected_replies,
            "unsolicited_replies": known.unsolicited_replies, "spoof_detections": known.spoof_detections,
            "network_errors": known.network_errors, "hedged_queries": known.hedged,
            "tcp_fallback_failures": known.tcp_fallback_failures,
            "rcodes": known.rcodes,
            "failures": dict(zip(FAILURE_REASONS, known.failures)),
            "client_visible_failures": dict(zip(FAILURE_REASONS, known.client_visible_failures)),
            "latency_histogram": histogram_as_dict(&known.latency),
            "latencies": known.latencies,
        }
