"""The cache that nodes share, as the miss path sees it: what is looked up there, and what is told to it.

    queued -> set_aside -> Python asks the nodes' store -> read: a hit | resume: on to an upstream
    stored -> tell -> Python writes it there

It knows which misses may be answered by what another node has stored. Where that is kept, under which names, and
whether it is to be believed is decided in Python (`cluster`): entries come here as they are on disk.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from ..cache._entry cimport FAILURE, Answer, answer_key, answer_name, answer_size
from ..cache._export cimport read_entry, write_entry
from ..cache._freshness cimport servable_until
from ..cache._index cimport find, has_key
from ..cache._store cimport OUTDATED
from ..cache._zone_table cimport ZONES_MAX
from ..core._atomic cimport load_relaxed32
from ..core._clock cimport TICKS_PER_SECOND, ticks
from ..wire._message cimport (
    KEY_FLAGS, KEY_PREFIX, WITH_SUBNET, Query, drop_subnet, get16, name_size, set_subnet, source_prefix
)
from ._attempts cimport Attempts
from ._outbox cimport NOBODY
from ._pending cimport FAILED, LOOKED_UP, QUEUED, SENT, PendingQuery

NAME_AT = KEY_PREFIX               # octets of a cache key before the name
_SHARING = {"off": NOT_SHARED, "beside": BESIDE, "before": BEFORE}


cdef bint _is_of(const Answer* answer, const Query* query) noexcept nogil:
    """Tell whether an entry is about what a query asks; that of a wider client subnet, or for everybody, is, too."""
    cdef:
        Query expected = query[0]
        size_t subnet = KEY_PREFIX + name_size(answer_name(answer))
    if query.subnet and get16(answer_key(answer) + KEY_FLAGS) & WITH_SUBNET:
        if answer_key(answer)[subnet + 1] > source_prefix(query):
            return False
        set_subnet(&expected, answer_key(answer)[subnet + 1])
    elif query.subnet:
        drop_subnet(&expected)
    return has_key(answer, expected.key, expected.key_length)


cdef class SharedCache:
    """Which misses are looked up, and what came of that; one thread, with the GIL, calls all of it."""

    def __cinit__(self, Attempts attempts not None) -> None:
        self.attempts, self.queries, self.pool = attempts, attempts.queries, attempts.pool
        self.cache = attempts.queries.cache
        self.lookups, self.stored = [], []

    def configure(self, uint32_t zone, str sharing not None) -> None:
        """Say what the nodes' cache is to a zone, by number: "off", "beside" upstreams, or "before" them."""
        if zone >= ZONES_MAX:
            raise ValueError(f"zones are numbered below {ZONES_MAX}")
        self.sharing[zone] = _SHARING[sharing]

    def use(self, *, bint lookups, bint stores) -> None:
        """Say whether somebody takes what is to be looked up, and what is to be stored."""
        self.looks_up, self.stores = lookups, stores

    # ------------------------------------------------------------ looked up

    cdef int set_aside(self, int32_t* listed, uint32_t count) except -1:
        """Note which of the queries that are queued are looked up, and have some of them wait for that."""
        cdef:
            uint32_t k
            int32_t i
            PendingQuery* pending
            Query query
            bint first
        for k in range(count):
            i = listed[k]
            pending = &self.pool[i]
            if pending.stage != QUEUED or not self.sharing[pending.zone] or not self._concerns(pending):
                continue
            pending.looked_up = True
            first = self.sharing[pending.zone] == BEFORE
            if first:
                pending.stage = LOOKED_UP
            self.queries.read(i, &query)
            self.lookups.append(
                (self.queries.handle(i, 0), (<char*> query.key)[:query.key_length], pending.zone, first)
            )
        return 0

    cdef bint _concerns(self, const PendingQuery* pending) noexcept nogil:
        """Tell whether another node may know the answer to a query: not where rules, or it alone, decide about it.

        Nor where it is only refreshed: what others have is not newer.
        """
        return not (pending.looked_up or pending.uncached or pending.by_function or pending.client.fd == NOBODY
                    or pending.client.rule_state.route or pending.client.rule_state.ttl_limits)

    cdef int resume(self, uint64_t handle) except -1:
        """Have a query that was looked up in vain, or for too long, sent to an upstream, unless it is over."""
        cdef int32_t i = self.queries.held(handle)
        if i >= 0 and self.pool[i].stage == LOOKED_UP and self.attempts.queued_count < self.queries.capacity:
            self.attempts.queue(i)
        return 0

    cdef int32_t wanted(self, uint64_t handle) noexcept nogil:
        """Return the query that an entry was looked up for, or -1 where its answer is known, or Python looks at it."""
        cdef int32_t i = self.queries.held(handle)
        if i >= 0 and self.pool[i].looked_up and self.pool[i].stage in (LOOKED_UP, SENT, FAILED):
            return i
        return -1

    cdef bint read(self, int32_t i, bytes entry, double age, uint64_t now) except -1:
        """Store an entry that another node wrote so many seconds ago; True: it is fresh, and in the cache's scratch.

        What has expired may serve if upstreams fail. Raises ValueError where the octets are no entry for this query.
        """
        cdef:
            Query query
            PendingQuery* pending = &self.pool[i]
            Answer* answer = self.cache.scratch
            const Answer* known
            uint32_t tick = ticks(now)
        self.queries.read(i, &query)
        if (read_entry(answer, entry, len(entry), tick, <int64_t> (min(max(age, 0.0), 1e8) * TICKS_PER_SECOND))
                != <size_t> len(entry) or not _is_of(answer, &query)):
            raise ValueError("an entry is not about what was asked")
        answer.zone, answer.marks.purges = pending.zone, pending.purges
        if not answer.born or servable_until(answer, &self.cache.index.zone_settings[pending.zone]) <= tick:
            return False
        known = find(&self.cache.index, &query)
        if known != NULL and known.kind != FAILURE and load_relaxed32(&known.marks.expires) >= answer.marks.expires:
            return False
        if self.cache.put_for(&query, answer, tick) == OUTDATED:
            return False
        if answer.marks.expires > tick:
            return True
        pending.stale_at = min(pending.stale_at, now + self.cache.index.zone_settings[pending.zone].client_timer)
        return False

    def take_lookups(self) -> list:
        """Return what is to be looked up: (handle, cache key, zone, whether it waits for that)."""
        taken, self.lookups = self.lookups, []
        return taken

    # ------------------------------------------------------------ stored

    cdef int tell(self, int32_t i, const Answer* answer, uint64_t now) except -1:
        """Note what was stored here, for others, unless rules have made something else of it.

        Caller must ensure that no purge concerns it.
        """
        cdef:
            Query query
            uint8_t[SHARED_MAX + 64] octets  # what is written is at most as long as an answer
            size_t size
            uint32_t tick = ticks(now)
            int32_t left = <int32_t> (load_relaxed32(&answer.marks.expires) - tick)
            const PendingQuery* pending = &self.pool[i]
        if (not self.sharing[pending.zone] or pending.by_function or pending.regrouped or pending.ttl_limits
                or left < <int32_t> TICKS_PER_SECOND or answer_size(answer) > SHARED_MAX):
            return 0
        if len(self.stored) >= STORES_MAX:
            self.store_drops += 1
            return 0
        self.queries.read(i, &query)  # as it is looked up, whatever subnet the answer is for
        size = write_entry(octets, answer, tick)
        if size:
            self.stored.append((
                (<char*> query.key)[:query.key_length], pending.zone, (<char*> octets)[:size],
                (servable_until(answer, &self.cache.index.zone_settings[pending.zone]) - tick) / TICKS_PER_SECOND,
            ))
        return 0

    def take_stored(self) -> list:
        """Return what was stored here: (cache key, zone, entry, seconds for which it may serve)."""
        taken, self.stored = self.stored, []
        return taken
