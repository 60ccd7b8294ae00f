"""What a worker does between receiving and sending, in batches, without sockets: parse all, fetch all, process
each, decide about each.

Queries are made here, too: names are numbers, so that ten million of them take no memory.
"""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from funkenshield._fastpath cimport (
    SEND, Counters, QueryContext, SettingsWriter, load_settings, parse_and_hash, process_query
)
from funkenshield.cache._index cimport SLOTS, Index, fetch, find_set
from funkenshield.cache._store cimport Cache
from funkenshield.core._atomic cimport LINE, prefetch_by_load
from funkenshield.core._clock cimport NANOSECONDS, ticks
from funkenshield.core._epochs cimport Reader, enter, leave
from funkenshield.policy._guard cimport GuardTable, check_response, load_guard_table
from funkenshield.policy._rule_state cimport RuleState
from funkenshield.wire._message cimport HEADER, Query, Verdict

cdef enum:
    BATCH = 64
    DIGITS = 8
    ROOM = 512

cdef uint64_t FACTOR = 6364136223846793005  # of Knuth's linear congruential generator


@cython.final
cdef class Hits:
    """Clients that settings hold for; `model` is a query whose first label is of eight digits."""

    cdef:
        SettingsWriter settings_writer
        Cache cache
        Reader* reader
        uint8_t[ROOM] model
        size_t length
        uint8_t[BATCH][ROOM] wires
        Query[BATCH] queries
        Verdict[BATCH] verdicts
        uint8_t[4096] out
        Counters counts

    def __cinit__(self, SettingsWriter settings_writer not None, bytes model not None) -> None:
        if not HEADER + 1 + DIGITS < len(model) < ROOM:
            raise ValueError("that is no model of a query")
        self.settings_writer, self.cache = settings_writer, settings_writer.cache
        self.reader = self.cache.epochs.join()
        self.length = len(model)
        memcpy(self.model, <const uint8_t*> model, self.length)

    def run(self, uint64_t count, uint64_t names, uint64_t seed=1) -> int:
        """Ask so many queries, in whole batches, for so many names; return how many were answered."""
        cdef uint64_t answered = 0
        with nogil:
            while count >= BATCH:
                answered += self._batch(names, &seed)
                count -= BATCH
        return answered

    def walk(self, uint64_t count, uint64_t octets, uint64_t seed=1) -> None:
        """Fetch what so many hits fetch, in the same batches, and do nothing else: memory's own part of a hit.

        That is a set of the index, and three cache lines somewhere in the first `octets` of the arena.
        """
        cdef:
            const Index* index = &self.cache.index
            const uint64_t* slots
            const uint8_t* place
            uint64_t at = seed
            int32_t _i
        with nogil:
            while count >= BATCH:
                for _i in range(BATCH):
                    at = at * FACTOR + 1
                    slots = find_set(index, at)
                    prefetch_by_load(slots)
                    prefetch_by_load(slots + SLOTS // 2)
                for _i in range(BATCH):
                    at = at * FACTOR + 1
                    place = index.arena + (at >> 16) % octets // 8 * 8
                    prefetch_by_load(place)
                    prefetch_by_load(place + LINE)
                    prefetch_by_load(place + 2 * LINE)
                count -= BATCH

    cdef uint64_t _batch(self, uint64_t names, uint64_t* seed) noexcept nogil:
        cdef:
            QueryContext context
            const GuardTable* guard_table
            uint64_t now = self.cache.clock.now()
            uint64_t answered = 0
            uint8_t[4] address
            int32_t i
        memset(&context, 0, sizeof(QueryContext))
        address[0], address[1], address[2], address[3] = 192, 0, 2, 1
        context.client.address, context.client.octets, context.client.datagram = address, 4, True
        context.client.now, context.client.wall = now, <uint32_t> (now // NANOSECONDS)
        context.now, context.counters = ticks(now), &self.counts
        context.reply, context.limit = self.out, 512
        for i in range(BATCH):
            seed[0] = seed[0] * FACTOR + 1
            self._write(self.wires[i], (seed[0] >> 32) % names)
        enter(self.reader)
        context.settings = load_settings(&self.settings_writer.settings)
        guard_table = load_guard_table(context.settings.guard_table)
        for i in range(BATCH):
            self.verdicts[i] = parse_and_hash(context.settings, &self.queries[i], self.wires[i], self.length)
        fetch(context.settings.index, self.queries, BATCH)
        for i in range(BATCH):
            memset(&context.rule_state, 0, sizeof(RuleState))
            context.query, context.verdict = &self.queries[i], self.verdicts[i]
            if process_query(&context) != SEND:
                continue
            if guard_table != NULL:
                context.length = check_response(guard_table, &context.client, self.out, context.length,
                                                &self.counts.guard)
            answered += context.length > 0
        leave(self.reader)
        return answered

    cdef void _write(self, uint8_t* wire, uint64_t number) noexcept nogil:
        cdef int32_t k
        memcpy(wire, self.model, self.length)
        for k in range(DIGITS):
            wire[HEADER + DIGITS - k] = <uint8_t> (c'0' + number % 10)
            number //= 10
