"""Pending queries: who waits for what, in a pool of fixed size.

It knows places, and which query is the first of its question; the others who ask the same stand behind
it, which is decided in `_admission`. What a query waits for, and until when, is `_resolution`'s.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcmp, memcpy, memset

from ..cache._store cimport Cache
from ..cache._zone_table cimport ZONES_MAX
from ..core._fair_shares cimport COUNTERS, counter_of, hash_prefix, may_take, zone_number
from ..core._memory cimport free, zeros
from ..wire._message cimport Query, parse_query, set_id, set_rule_choices
from ._outbox cimport STREAM, Client


cdef class PendingQueries:
    """At most `capacity` clients that wait.

    Memory ownership: pool and tables are its own.
    """

    def __cinit__(self, Cache cache not None, uint32_t capacity) -> None:
        cdef uint32_t i
        if not 1 <= capacity <= PENDING_MAX:
            raise ValueError(f"1 to {PENDING_MAX} queries can be pending, not {capacity}")
        self.cache = cache
        self.capacity = capacity
        self.chain_mask = 1
        while self.chain_mask < capacity:
            self.chain_mask <<= 1
        self.pool = <PendingQuery*> zeros(capacity, sizeof(PendingQuery))
        self.chains = <int32_t*> zeros(self.chain_mask, sizeof(int32_t))
        self.repeats = <int32_t*> zeros(self.chain_mask, sizeof(int32_t))
        self.quotas = <uint32_t*> zeros(ZONES_MAX + QUOTAS, sizeof(uint32_t))
        self.shares = <uint32_t*> zeros(COUNTERS, sizeof(uint32_t))
        self.forgeable = <uint32_t*> zeros(COUNTERS, sizeof(uint32_t))
        self.equal = <uint32_t*> zeros(COUNTERS, sizeof(uint32_t))
        self.routes = <uint16_t*> zeros(CHOICES_MAX, sizeof(uint16_t))
        self.ttl_limits = <TtlBounds*> zeros(CHOICES_MAX, sizeof(TtlBounds))
        for i in range(self.chain_mask):
            self.chains[i] = -1
        self.chain_mask -= 1
        self.idle = -1

    def __dealloc__(self) -> None:
        cdef int32_t i
        for i in range(self.untouched):
            if self.pool[i].wire != self.pool[i].octets:
                free(self.pool[i].wire)
        free(self.pool)
        free(self.chains)
        free(self.repeats)
        free(self.quotas)
        free(self.shares)
        free(self.forgeable)
        free(self.equal)
        free(self.routes)
        free(self.ttl_limits)

    cdef uint32_t quota_of(self, const uint8_t* name, uint16_t zone) noexcept nogil:
        """Return which quota a name counts against: its zone's, or that of all names with the same last two labels."""
        return zone or ZONES_MAX + zone_number(&self.cache.index.secret, name, QUOTAS)

    cdef void find_shares(self, uint32_t* shares, const Client* client, uint32_t quota, uint16_t group) noexcept nogil:
        """Tell where a query counts for its client prefix."""
        cdef uint64_t prefix = hash_prefix(&self.cache.index.secret, client.ip, client.octets)
        shares[EVERYTHING] = counter_of(prefix, 0)
        shares[OF_ZONE] = counter_of(prefix, 1 + quota)
        shares[OF_GROUP] = counter_of(prefix, 1 << 16 | group)

    cdef uint32_t long_share(self, const Client* client) noexcept nogil:
        """Tell where a long query counts for its client prefix."""
        return counter_of(hash_prefix(&self.cache.index.secret, client.ip, client.octets), 1 << 17)

    cdef int32_t take(self, const Client* client, uint32_t quota, const uint32_t* shares) noexcept nogil:
        """Return a clean place in the pool for a client, or -1 where all are taken."""
        cdef:
            int32_t i = self.idle
            uint32_t k
            PendingQuery* pending
        if i >= 0:
            self.idle = self.pool[i].next
        elif self.untouched < <int32_t> self.capacity:
            i = self.untouched
            self.pool[i].wire = self.pool[i].octets
            self.untouched += 1
        else:
            return -1
        self.waiting += 1
        pending = &self.pool[i]
        pending.client = client[0]
        pending.quota, pending.forgeable = quota, client.fd >= 0 and not client.proven
        self.quotas[quota] += 1
        for k in range(SHARES):
            pending.shares[k] = shares[k]
            self.shares[shares[k]] += 1
        self.forgeable[shares[EVERYTHING]] += pending.forgeable
        pending.next = pending.chained = pending.attempt = -1
        memset(&pending.stage, 0, <uint8_t*> (pending + 1) - <uint8_t*> &pending.stage)
        return i

    cdef bint copy(self, int32_t i, const uint8_t* wire, size_t length) noexcept nogil:
        """Let a pending query be these octets, however many; False: there are too many long ones, or of its client."""
        cdef:
            PendingQuery* pending = &self.pool[i]
            uint32_t* held
            uint8_t* room = NULL
        if length > WIRE_MAX:
            held = &self.shares[self.long_share(&pending.client)]
            if self.long < self.long_max and may_take(held[0], self.long_max - self.long):
                room = <uint8_t*> malloc(length)
            if room == NULL:
                return False
            pending.wire = room
            self.long += 1
            held[0] += 1
        memcpy(pending.wire, wire, length)
        pending.length = <uint16_t> length
        return True

    cdef void give_back(self, int32_t i) noexcept nogil:
        """Put a place back into the pool. Caller must ensure that nobody stands behind it."""
        cdef:
            PendingQuery* pending = &self.pool[i]
            uint32_t k
        self.quotas[pending.quota] -= 1
        for k in range(SHARES):
            self.shares[pending.shares[k]] -= 1
        self.forgeable[pending.shares[EVERYTHING]] -= pending.forgeable
        if pending.uncached:
            self.equal_to(&pending.client, pending.hash)[0] -= 1
        if pending.wire != pending.octets:
            free(pending.wire)
            pending.wire = pending.octets
            self.long -= 1
            self.shares[self.long_share(&pending.client)] -= 1
        self.waiting -= 1
        pending.stage = IDLE
        pending.generation += 1
        pending.next = self.idle
        self.idle = i

    cdef uint32_t* equal_to(self, const Client* client, uint64_t hashed) noexcept nogil:
        """Return where it is counted how many queries wait alone that are the same, but for the ID."""
        cdef uint64_t prefix = hash_prefix(&self.cache.index.secret, client.ip, client.octets)
        return &self.equal[counter_of(prefix ^ hashed, 0)]

    cdef bint is_repeat(self, int32_t i, const Client* client, uint16_t message_id, uint64_t hashed) noexcept nogil:
        """Tell whether it is this very datagram that a pending query came in."""
        cdef const PendingQuery* pending = &self.pool[i]
        return (pending.stage != IDLE and pending.hash == hashed and pending.asked_id == message_id
                and pending.client.fd == client.fd and pending.client.peer.length == client.peer.length
                and not memcmp(pending.client.peer.address, client.peer.address, client.peer.length))

    cdef int32_t* repeat_of(self, uint16_t message_id, uint64_t hashed) noexcept nogil:
        """Return where it is noted who waits, alone or behind another, for the answer to the very same datagram."""
        return &self.repeats[(hashed ^ message_id) & self.chain_mask]

    cdef int32_t find(self, const Query* query) noexcept nogil:
        """Return the first who asked the same, or -1; one from before a purge will not have what is asked for now."""
        cdef:
            int32_t i = self.chains[query.hash & self.chain_mask]
            Query other
        while i >= 0:
            if self.pool[i].hash == query.hash and self.pool[i].purges == <uint32_t> self.cache.purges.rules.count:
                self.read(i, &other)
                if other.key_length == query.key_length and not memcmp(other.key, query.key, query.key_length):
                    return i
            i = self.pool[i].chained
        return -1

    cdef void read(self, int32_t i, Query* query) noexcept nogil:
        """Take a pending query apart, its key and hash included."""
        cdef const Client* client = &self.pool[i].client
        parse_query(query, self.pool[i].wire, self.pool[i].length)
        query.hash = self.pool[i].hash
        query.added = client.added
        if client.rule_state.route or client.rule_state.ttl_limits:
            set_rule_choices(query, client.rule_state.route, client.rule_state.ttl_limits)

    cdef void read_as_asked(self, int32_t i, Query* query) noexcept nogil:
        """Take a pending query apart as its client sent it."""
        set_id(self.pool[i].wire, self.pool[i].asked_id)
        self.read(i, query)

    cdef bint has_stream(self, int32_t i) noexcept nogil:
        """Tell whether somebody waits who came over TCP, and takes an answer of any length."""
        while i >= 0 and self.pool[i].client.fd != STREAM:
            i = self.pool[i].next
        return i >= 0

    cdef void release_waiting(self, int32_t i) noexcept nogil:
        """Put the places of those who stand behind a pending query back into the pool."""
        cdef int32_t behind = self.pool[i].next
        self.pool[i].next = -1
        while behind >= 0:
            i = behind
            behind = self.pool[i].next
            self.give_back(i)

    cdef void index_add(self, int32_t i) noexcept nogil:
        """Let a query be found by those who ask the same."""
        cdef int32_t* chain = &self.chains[self.pool[i].hash & self.chain_mask]
        self.pool[i].chained = chain[0]
        chain[0] = i

    cdef void coalesce(self, int32_t i, int32_t first) noexcept nogil:
        """Let a query wait behind the first who asked the same."""
        self.pool[i].stage = WAITING
        self.pool[i].next = self.pool[first].next
        self.pool[first].next = i

    cdef void index_remove(self, int32_t i) noexcept nogil:
        """Let a query be found no more."""
        cdef int32_t* link = &self.chains[self.pool[i].hash & self.chain_mask]
        while link[0] >= 0 and link[0] != i:
            link = &self.pool[link[0]].chained
        if link[0] == i:
            link[0] = self.pool[i].chained

    cdef uint64_t handle(self, int32_t i, uint16_t attempt) noexcept nogil:
        """Return a number that leads to this query and its attempt of this ID, and to no later query in its place."""
        return (<uint64_t> (self.pool[i].generation & 0x3ffffff) << 38) | (<uint64_t> attempt << 22) | <uint32_t> i

    cdef int32_t held(self, uint64_t handle) noexcept nogil:
        """Return the query that a handle leads to, or -1 where it is over."""
        cdef int32_t i = <int32_t> (handle & (PENDING_MAX - 1))
        if i >= self.untouched or self.pool[i].generation & 0x3ffffff != handle >> 38:
            return -1
        return i if self.pool[i].stage in (SENT, FAILED, DECIDING, LOOKED_UP) else -1
