"""What would become of a question: the functions that decide about queries, on copies of all that they would change.

    settings in force -> a copy that leads to copies: the guard's counts, the rules' counts, the entry
    process_query, with that copy -> what it answered, what it counted, which way the rules went

So nothing here decides, and nothing that is in force is written to: no counter, no rate, no mark of an entry, nobody's
turn. (But for the number of the last purge that an entry was held against, which the next look-up would write.) The
rules say only in the end under which key an entry is looked for: so a question is decided about twice, first with an
empty cache, then with one that has a copy of the entry for that key.
"""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .._fastpath cimport (
    ASK, SEND, Counters, Outcome, QueryContext, Settings, counters_as_dict, parse_with_ecs, process_query,
    resume_query
)
from ..cache._entry cimport ANSWER_MAX, Answer, answer_size
from ..cache._freshness cimport STALE_IF_ERROR, freshness_of
from ..cache._index cimport SLOTS, Index, find, hash_of, tag_of
from ..cache._listing cimport describe
from ..cache._store cimport Cache
from ..cache._zone_settings cimport ZoneSettings
from ..core._clock cimport NANOSECONDS, ticks
from ..core._memory cimport free, zeros
from ..core._prefix_table cimport octets_of
from ..core._rate_limit cimport CELLS, Limit, key_of, set_aside, source_exceeds
from ..forward._admission cimport Admission
from ..forward._attempts cimport Attempts
from ..forward._client_replies cimport is_cached
from ..forward._miss_path cimport MissPath
from ..forward._outbox cimport STREAM, Client
from ..forward._pending cimport FUNCTION, SHARES
from ..policy._guard cimport ALARMS, DYNBLOCKS_MAX, LIMITS_MAX, Alarm, GuardTable, check_response
from ..policy._rrl cimport KINDS, set_rrl_aside
from ..policy._rule_program cimport Trace, trace_of
from ..policy._rule_state cimport ANSWERS, OVER_HTTPS, OVER_UDP, QUERIES, RuleState
from ..server._kernel_answers cimport reason_against
from ..upstream._selection cimport Tried, note_try, retransmission_timeout_of
from ..wire._ecs_upstream cimport ECS_QUERY_MAX
from ..wire._message cimport (
    CACHEABLE, CHAOS, HEADER, MESSAGE_MAX, NAME_MAX, NOTIFY, OPCODE, Query, is_transfer, lower_name, name_size,
    plain_end
)

cdef enum:
    LINES = LIMITS_MAX + DYNBLOCKS_MAX + KINDS
    ENTRY = 8                      # octets before the copied entry: a slot of zeros is free


@cython.final
cdef class Question:
    """A query as it would be decided about now; `decide` it, and again while `fetch` says so.

    Memory ownership: query, copies and reply are its own. One thread, the one that writes to the cache, calls all of
    it, without anything between that changes what is in force.
    """

    cdef:
        MissPath miss_path
        readonly Trace queries, answers  # what became of the rules; None: there are none in that chain
        bytes wire, address
        uint8_t* ecs_query
        uint8_t* reply
        uint8_t* arena             # of a cache with one entry, or none
        uint64_t[2 * SLOTS] slots  # with room for their alignment
        Query query
        QueryContext context
        Settings settings
        Index index
        GuardTable guard_table
        const GuardTable* guarded
        Alarm[ALARMS] alarms
        uint64_t[LINES * CELLS] lines
        Counters counts
        Outcome outcome
        uint8_t has_entry
        uint64_t entry_hash

    def __cinit__(self, MissPath miss_path not None, bytes wire not None, bytes address not None, *,
                  uint8_t transport=OVER_UDP, uint8_t listener=0, uint64_t server_names=0) -> None:
        if not HEADER <= len(wire) <= MESSAGE_MAX:
            raise ValueError(f"a query has {HEADER} to {MESSAGE_MAX} octets, not {len(wire)}")
        self.miss_path, self.wire, self.address = miss_path, wire, address
        self.ecs_query = <uint8_t*> zeros(1, ECS_QUERY_MAX)
        self.reply = <uint8_t*> zeros(1, 2 * (MESSAGE_MAX + 1))
        self.arena = <uint8_t*> zeros(1, ENTRY + ANSWER_MAX)
        self.context.client.address, self.context.client.octets = address, octets_of(address)
        self.context.client.now = miss_path.cache.clock.now()
        self.context.client.wall = <uint32_t> (miss_path.cache.clock.wall() // NANOSECONDS)
        self.context.client.transport, self.context.client.listener = transport, listener
        self.context.client.datagram, self.context.client.server_names = transport == OVER_UDP, server_names
        self.context.now = ticks(self.context.client.now)

    def __dealloc__(self) -> None:
        free(self.ecs_query)
        free(self.reply)
        free(self.arena)

    # ------------------------------------------------------------ the fast path

    def decide(self) -> None:
        """Let it be decided about, up to an answer, a miss, or a rule where Python must decide."""
        cdef:
            QueryContext* context = &self.context
            const uint8_t* wire = self.wire
        memset(&self.counts, 0, sizeof(Counters))
        memset(&context.rule_state, 0, sizeof(RuleState))
        self.settings = self.miss_path.settings_writer.settings[0]
        context.verdict = parse_with_ecs(&self.settings, &self.query, wire, len(self.wire), context.client.address,
                                         context.client.octets, self.ecs_query)
        self._copy_index()
        self._copy_guard()
        self._trace_rules()
        context.settings, context.query, context.counters = &self.settings, &self.query, &self.counts
        context.client.proven = False
        context.reply, context.length = self.reply, 0
        context.limit = self.miss_path.replies.payload()
        context.limit = min(context.limit, <size_t> self.query.payload) if context.client.datagram else MESSAGE_MAX
        self._conclude(process_query(context))

    def resume(self, uint32_t node) -> None:
        """Let it go on at a node of its chain, where it has stopped."""
        self.context.rule_state.at = node
        self._conclude(resume_query(&self.context))

    cdef void _conclude(self, Outcome outcome) noexcept nogil:
        """Take an outcome; a reply is held against the limits of responses."""
        self.outcome = outcome
        if outcome & SEND and self.guarded != NULL:
            set_rrl_aside(&self.guard_table.rrl, &self.context.client, self.reply, self.context.length,
                          self.lines + (LIMITS_MAX + DYNBLOCKS_MAX) * CELLS)
            check_response(self.guarded, &self.context.client, self.reply + MESSAGE_MAX + 1, self._copy_reply(),
                           &self.counts.guard)

    cdef size_t _copy_reply(self) noexcept nogil:
        memcpy(self.reply + MESSAGE_MAX + 1, self.reply, self.context.length)
        return self.context.length

    def fetch(self) -> bool:
        """Have the entry copied that was looked for and not there; False: there is none, or it is there."""
        cdef:
            const Index* index = &self.miss_path.cache.index
            const Answer* answer
        if self.has_entry or not self.counts.cache_misses:
            return False
        answer = find(index, &self.query)
        if answer == NULL:
            return False
        memcpy(self.arena + ENTRY, answer, answer_size(answer))
        self.has_entry, self.entry_hash = True, hash_of(index, answer)
        return True

    cdef void _copy_index(self) noexcept nogil:
        """Let the index be one set, which leads to the copied entry at most."""
        cdef uint64_t* slots = <uint64_t*> ((<size_t> &self.slots[0] + 63) & ~<size_t> 63)
        self.index = self.miss_path.cache.index
        self.index.arena, self.index.slots, self.index.sets = self.arena, slots, 1
        memset(slots, 0, SLOTS * sizeof(uint64_t))
        if self.has_entry:
            slots[0] = tag_of(self.entry_hash) | ENTRY >> 3
        self.settings.index = &self.index

    cdef void _copy_guard(self) noexcept nogil:
        """Let the guard's limits count in copies, and its alarms be raised for nobody."""
        cdef:
            const GuardTable* table = self.miss_path.settings_writer.guard.guard_table
            uint32_t k
        self.guarded = NULL if table == NULL else &self.guard_table
        self.settings.guard_table = &self.guarded
        if table == NULL:
            return
        self.guard_table, self.guard_table.alarms = table[0], self.alarms
        memset(self.alarms, 0, sizeof(self.alarms))
        for k in range(table.limit_count):
            self._count_aside(&self.guard_table.limits[k], self.lines + k * CELLS)
        for k in range(table.dynblock_count):
            self._count_aside(&self.guard_table.dynblocks[k], self.lines + (LIMITS_MAX + k) * CELLS)

    cdef void _count_aside(self, Limit* limit, uint64_t* line) noexcept nogil:
        set_aside(limit, key_of(limit, self.context.client.address, self.context.client.octets, 0), line)

    cdef int _trace_rules(self) except -1:
        """Let the rules be traced."""
        queries, _, answers = self.miss_path.settings_writer.chains()
        self.queries = self.answers = None
        if queries is not None:
            self.queries = trace_of(queries, &self.query, &self.context.client)
            self.settings.programs[QUERIES] = &self.queries.program
        if answers is not None:
            self.answers = trace_of(answers, &self.query, &self.context.client)
            self.settings.programs[ANSWERS] = &self.answers.program
        return 0

    # ------------------------------------------------------------ what came of it

    @property
    def stopped(self) -> tuple | None:
        """Return at which chain and node Python decides; None: nowhere."""
        cdef const RuleState* rule_state = &self.context.rule_state
        return (rule_state.chain, rule_state.at) if rule_state.stopped else None

    def facts(self) -> dict:
        """Return what came of it: whether it was answered, and is handed over, and what would have been counted."""
        cdef const RuleState* rule_state = &self.context.rule_state
        return {
            "answered": self.outcome & SEND != 0, "handed_over": self.outcome & ASK != 0,
            "counted": {name: count for name, count in counters_as_dict(&self.counts).items() if count},
            "reply": self.reply[:self.context.length] if self.outcome & SEND else b"",
            "cacheable": self.context.verdict == CACHEABLE, "proven": self.context.client.proven != 0,
            "subnet_added": self.query.added != 0,
            "route": rule_state.route, "ttl_limits": rule_state.ttl_limits, "skip_cache": rule_state.skip_cache != 0,
            "tags": rule_state.tags, "by_function": rule_state.by_function != 0,
            "key": self.query.key[:self.query.key_length],
        }

    def entry(self) -> dict | None:
        """Return what the entry is that the question was decided about with; None: there is none."""
        if not self.has_entry:
            return None
        return describe(&self.miss_path.cache.index, <const Answer*> (self.arena + ENTRY), self.context.now)

    def reason_against_kernel(self) -> int:
        """Return why a worker answers what is answered from the cache, and the kernel does not: a Reason; 0: it may."""
        return reason_against(&self.context)

    def limits(self) -> list:
        """Return for each limit of queries whether one more of this client is over it."""
        cdef:
            const GuardTable* table = self.miss_path.settings_writer.guard.guard_table
            Limit limit
            uint64_t[CELLS] line
            list over = []
            uint32_t k
        for k in range(table.limit_count if table != NULL else 0):
            limit = table.limits[k]
            self._count_aside(&limit, line)
            over.append(source_exceeds(&limit, self.context.client.address, self.context.client.octets, 0, 1,
                                       self.context.client.now))
        return over

    # ------------------------------------------------------------ a miss

    def miss(self) -> dict:
        """Return what becomes of it where it is handed over: which way it takes, and who would be asked.

        The ways are "refused" (a transfer as a request), "alone" (by itself, in Python), "local", "synthesised",
        "function", "coalesced", "queued", and "rejected", with the counter of why. "stale": there is an answer if all
        else fails.
        """
        cdef:
            Admission admission = self.miss_path.admission
            Cache cache = self.miss_path.cache
            Query* query = &self.query
            Client client = self._client()
            const Answer* stored = <const Answer*> (self.arena + ENTRY)
            const ZoneSettings* settings
            uint8_t[NAME_MAX] room
            const uint8_t* name = lower_name(query, room)
            uint16_t zone = <uint16_t> cache.zones.find(name, query.qtype)
            uint16_t group
            bint cached = is_cached(&client, query)
            bint stale = False
            int32_t first
            uint32_t quota
            uint32_t[SHARES] shares
            uint64_t* against
            dict found
        if not cached:
            if self.context.client.transport >= OVER_HTTPS and is_transfer(query):  # a request, with a number
                return {"way": "refused"}
        elif self.has_entry:
            stale = freshness_of(stored, &cache.index.zone_settings[stored.zone], self.context.now) == STALE_IF_ERROR
        settings = &cache.index.zone_settings[zone]
        group = admission.queries.routes[client.rule_state.route] if client.rule_state.route else settings.group
        found = {
            "zone": zone, "cached": cached, "stale": stale, "group": group,
            "client_timeout": settings.client_timer / 1e9, "timeout": admission.attempts.timeout / 1e9,
            "deadline": admission.attempts.deadline / 1e9, "attempts": admission.attempts.most,
            "refuse_overload": self.miss_path.replies.refuse_overload,
        }
        if not cached and ((query.flags & OPCODE) == NOTIFY or client.fd == STREAM and is_transfer(query)):
            return found | {"way": "alone"}
        if admission._tell_of_resolver(query, name) is not None:
            return found | {"way": "local"}
        if (cached and not client.rule_state.route
                and admission._local_response(query, zone, self.context.client.now) is not None):
            return found | {"way": "local" if query.qclass == CHAOS else "synthesised"}
        first = admission.queries.find(query) if cached else -1
        if first >= 0 and stale and admission.queries.pool[first].answered_stale:
            return found | {"way": "rejected", "why": "answered_stale"}
        against = admission.objection(&client, query, zone, group, first < 0, &quota, shares)
        if against != NULL:
            return found | {"way": "rejected", "why": (
                "zone_limit_exceeded" if against == &admission.zone_limit_exceeded else
                "outstanding_limit_exceeded" if against == &admission.outstanding_limit_exceeded else
                "upstreams_saturated" if against == &admission.upstreams_saturated else "fair_share_exceeded")}
        if first >= 0:
            return found | {"way": "coalesced"}
        if group == FUNCTION:
            return found | {"way": "function"}
        if plain_end(query.wire, query.length, HEADER) < 0:
            name = b"\0"
        chosen, ranks = self.miss_path.upstreams.outlook(group, (<char*> name)[:name_size(name)])
        found |= {"way": "queued", "chosen": chosen, "ranks": ranks}
        if chosen not in dict(ranks):
            return found
        return found | {"another_after": self._another_after(chosen, group) / 1e9}

    cdef uint64_t _another_after(self, int32_t chosen, uint16_t group) noexcept:
        """Return after how many nanoseconds of an upstream's silence it is asked anew, or another is."""
        cdef:
            Attempts attempts = self.miss_path.admission.attempts
            Tried tried
        tried.count = 0
        note_try(&tried, chosen)
        if not attempts.upstreams.has_other(group, &tried):
            return attempts.timeout
        return retransmission_timeout_of(&attempts.upstreams.all[chosen], attempts.retry_after, attempts.timeout)

    cdef Client _client(self) noexcept:
        """Return who asks, as far as that matters for what he may wait for."""
        cdef Client client
        memset(&client, 0, sizeof(Client))
        client.fd = 0 if self.context.client.datagram else STREAM  # no descriptor: nothing is sent
        client.octets, client.proven = self.context.client.octets, self.context.client.proven
        client.listener, client.transport = self.context.client.listener, self.context.client.transport
        client.added, client.rule_state = self.query.added, self.context.rule_state
        memcpy(client.ip, self.context.client.address, client.octets)
        return client
