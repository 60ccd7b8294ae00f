"""The cache: one arena of answers, one writer, any number of readers that never wait.

It knows keys, ages and octets, and where room is made; what may be stored was decided before
(`_answer`), and when to sweep or purge is decided in Python (`expiry`, `purge`).

Eviction is S3-FIFO (Yang et al., SOSP 2023) over a log of segments (Segcache, NSDI 2021): newcomers
fill a small queue of segments, and only what was asked for again moves on to the residents; there,
what was asked for since its last turn gets another one. So a flood of names that are asked once walks
through a tenth of the memory and leaves everything else alone.
"""

cimport cython
import os

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap

from ._answer cimport (
    ANSWER_MAX, FAILURE, KEEP, Answer, Extra, answer_key, answer_size, answers_question, build, render
)
from ._atomic cimport barrier, peek_octet, publish, witness
from ._clock cimport Clock, ticks
from ._wire cimport KEY_PREFIX, MESSAGE_MAX, NAME_MAX, PLAIN, Query, get16, hash_key, parse_query

cdef enum:
    MEMORY_MIN = 1 << 22
    OCTETS_PER_SLOT = 88           # of memory: about half of what a usual answer takes
    NEWCOMERS_SHARE = 10           # newcomers get one segment in so many
    RESERVE = 3                    # segments that stand ready, so that a reader inside holds nobody up


@cython.final
cdef class Cache:
    """A bounded store of answers that one thread writes and all may read.

    Memory ownership: index and arena are one mapping of `memory` octets, of which only what was once
    used takes real memory; segments, readers and scratch are small and its own. All is freed with it,
    so whoever reads must be gone by then.
    """

    def __cinit__(self, size_t memory, Clock clock not None, bytes secret=None) -> None:
        if memory < MEMORY_MIN:
            raise ValueError(f"the cache needs at least {MEMORY_MIN} octets, not {memory}")
        if secret is None:
            secret = os.urandom(16)
        if len(secret) != 16:
            raise ValueError("the hash secret has 16 octets")
        self.clock = clock
        self.memory = memory
        memcpy(&self.index.secret, <char*> secret, 16)
        self.index.sets = memory // (OCTETS_PER_SLOT * 16) + 1
        self.index.slots = <uint64_t*> mmap(NULL, memory, PROT_READ | PROT_WRITE,
                                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if <void*> self.index.slots == MAP_FAILED:
            self.index.slots = NULL
            raise MemoryError(f"no {memory} octets for the cache")
        self.segment_size = 1 << 17
        while self.segment_size < 1 << 20 and self.segment_size * 128 < memory:
            self.segment_size <<= 1
        self._lay_out()
        self.readers = <Reader*> calloc(READERS_MAX, sizeof(Reader))
        self.scratch = <Answer*> malloc(ANSWER_MAX)
        if self.segments == NULL or self.readers == NULL or self.scratch == NULL:
            raise MemoryError("no memory for the cache's own books")
        self.epoch = 1
        self.index.epoch = &self.epoch
        self.set_policy()

    def __dealloc__(self) -> None:
        if self.index.slots != NULL:
            munmap(self.index.slots, self.memory)
        free(self.segments)
        free(self.readers)
        free(self.scratch)

    def _lay_out(self) -> None:
        """Divide the memory: the index first, then as many whole segments as fit."""
        cdef:
            size_t taken = (self.index.sets * 128 + 63) & ~63
            int32_t segment
        self.index.arena = <uint8_t*> self.index.slots + taken
        self.segment_count = <uint32_t> ((self.memory - taken) // self.segment_size)
        self.segments = <Segment*> calloc(self.segment_count, sizeof(Segment))
        if self.segments == NULL:
            return
        self.newcomers = Queue(-1, -1, 0)
        self.residents = Queue(-1, -1, 0)
        self.leaving = -1
        self.free = -1
        for segment in range(self.segment_count - 1, -1, -1):  # the lowest is used first, and again
            self.segments[segment].next = self.free
            self.free = segment
        self.free_count = self.segment_count

    cdef Reader* join(self) except NULL:
        """Return a place for one more reader."""
        if self.reader_count == READERS_MAX:
            raise ValueError(f"a cache has at most {READERS_MAX} readers")
        self.reader_count += 1
        return &self.readers[self.reader_count - 1]

    # ------------------------------------------------------------ writing

    cdef Put put(self, const Answer* answer, uint32_t now) noexcept nogil:
        """Store an answer under its key, instead of what was there. Only the writer calls this.

        Caller must ensure that the hash is that of the key.
        """
        cdef:
            uint64_t* slot = self._slot_of(answer)
            size_t size = answer_size(answer)
            Queue* queue = &self.newcomers
            const Answer* old
            int32_t segment
        if slot != NULL:
            old = answer_at(&self.index, slot[0])
            if answer.kind == FAILURE and old.kind != FAILURE and now < old.expires:
                return KEPT_OLD
            if peek_octet(&old.used):
                queue = &self.residents
        segment = self._room(queue, size, now)
        if segment < 0:
            self.no_room += 1
            return NO_ROOM
        self._append(segment, answer, size, self._choose_slot(answer, now))
        self.stored += 1
        return STORED

    cdef void _append(self, int32_t segment, const Answer* answer, size_t size, uint64_t* slot) noexcept nogil:
        """Write an answer at a segment's end, then let the slot lead to it."""
        cdef:
            Segment* home = &self.segments[segment]
            uint64_t offset = self._offset(segment) + home.used
            Answer* copy = <Answer*> (self.index.arena + offset)
        memcpy(copy, answer, sizeof(Answer) - 1)  # all but `used`, the last: a reader may be marking it
        memcpy(copy + 1, answer + 1, size - sizeof(Answer))
        copy.used = 0
        home.used += <uint32_t> size
        home.live += 1
        home.soonest = min(home.soonest, answer.expires)
        if slot[0]:
            self.segments[self._segment_of(slot[0])].live -= 1
        publish(slot, tag_of(answer.hash) | offset >> 3)

    cdef uint64_t* _slot_of(self, const Answer* answer) noexcept nogil:
        """Return the slot that leads to this key, or NULL."""
        cdef:
            uint64_t* slots = find_set(&self.index, answer.hash)
            uint64_t tag = tag_of(answer.hash)
            const Answer* other
            size_t i
        for i in range(SLOTS):
            if leads_to(slots[i], tag):
                other = answer_at(&self.index, slots[i])
                if (other.hash == answer.hash and other.key_length == answer.key_length
                        and memcmp(answer_key(other), answer_key(answer), answer.key_length) == 0):
                    return slots + i
        return NULL

    cdef uint64_t* _choose_slot(self, const Answer* answer, uint32_t now) noexcept nogil:
        """Return the slot of this key, or an empty one, or the one that is missed least."""
        cdef:
            uint64_t* slot = self._slot_of(answer)
            uint64_t* slots = find_set(&self.index, answer.hash)
            uint64_t* victim = slots
            const Answer* other
            size_t i
        if slot != NULL:
            return slot
        for i in range(SLOTS):
            if not slots[i]:
                return slots + i
        for i in range(SLOTS):
            other = answer_at(&self.index, slots[i])
            if other.expires <= now:
                victim = slots + i
                break
            if not peek_octet(&other.used):
                victim = slots + i
        self.displaced += 1
        return victim

    cdef uint64_t _offset(self, int32_t segment) noexcept nogil:
        """Return where a segment starts; eight octets are left out so that no offset is zero."""
        return <uint64_t> segment * self.segment_size + 8

    cdef int32_t _segment_of(self, uint64_t slot) noexcept nogil:
        return <int32_t> (((slot & ((<uint64_t> 1 << TAG_SHIFT) - 1)) << 3) // self.segment_size)

    cdef void _unlink(self, uint64_t* slot) noexcept nogil:
        self.segments[self._segment_of(slot[0])].live -= 1
        publish(slot, 0)

    # ------------------------------------------------------------ making room

    cdef bint _has_room(self, int32_t segment, size_t size) noexcept nogil:
        return segment >= 0 and self.segments[segment].used + size + 8 <= self.segment_size

    cdef int32_t _room(self, Queue* queue, size_t size, uint32_t now) noexcept nogil:
        """Return the segment at the queue's end, a fresh one where it has no room for `size`, or -1."""
        if self._has_room(queue.last, size):
            return queue.last
        while self.free_count + self.leaving_count < RESERVE:
            self._evict(now)
        self._reclaim()
        return self._append_free(queue)

    cdef int32_t _append_free(self, Queue* queue) noexcept nogil:
        """Put an empty segment at the queue's end; -1: readers still hold all that could be one."""
        cdef int32_t segment = self.free
        if segment < 0:
            return -1
        self.free = self.segments[segment].next
        self.free_count -= 1
        self.segments[segment] = Segment(used=0, live=0, left=0, soonest=0xffffffff, next=-1, state=FILLING)
        if queue.last >= 0:
            self.segments[queue.last].state = FULL
            self.segments[queue.last].next = segment
        else:
            queue.first = segment
        queue.last = segment
        queue.length += 1
        return segment

    cdef void _let_go(self, int32_t segment) noexcept nogil:
        """Put aside a segment that the index no longer leads to, until its readers have left."""
        barrier()
        self.segments[segment].state = LEAVING
        self.segments[segment].left = self.epoch
        self.segments[segment].next = self.leaving
        self.leaving = segment
        self.leaving_count += 1
        announce(&self.epoch, self.epoch + 1)

    cdef void _reclaim(self) noexcept nogil:
        """Free what no reader can see any more: all that left before the oldest reader entered."""
        cdef:
            uint64_t oldest = self.epoch
            uint64_t seen
            int32_t segment = self.leaving
            int32_t following
            uint32_t i
        if segment < 0:
            return
        for i in range(self.reader_count):
            seen = witness(&self.readers[i].seen)
            if seen and seen < oldest:
                oldest = seen
        self.leaving = -1
        self.leaving_count = 0
        while segment >= 0:
            following = self.segments[segment].next
            if self.segments[segment].left < oldest:
                self.segments[segment].state = FREE
                self.segments[segment].next = self.free
                self.free = segment
                self.free_count += 1
            else:
                self.segments[segment].next = self.leaving
                self.leaving = segment
                self.leaving_count += 1
            segment = following

    cdef int32_t _take_first(self, Queue* queue) noexcept nogil:
        cdef int32_t segment = queue.first
        queue.first = self.segments[segment].next
        if queue.first < 0:
            queue.last = -1
        queue.length -= 1
        return segment

    cdef void _evict(self, uint32_t now) noexcept nogil:
        """Empty the oldest segment of the queue that has more than its share.

        What is fresh and was asked for moves to the residents' end; of a resident segment at most
        three quarters may, so that every eviction gains room and none takes longer than one walk.
        """
        cdef:
            bint newcomers = (self.newcomers.length > self.segment_count // NEWCOMERS_SHARE
                              or self.residents.length < 2)
            int32_t segment = self._take_first(&self.newcomers if newcomers else &self.residents)
            size_t allowance = self.segment_size if newcomers else self.segment_size * 3 // 4
            size_t at = self._offset(segment)
            size_t end = at + self.segments[segment].used
            size_t size
            const Answer* answer
            uint64_t* slot
        while at < end:
            answer = <const Answer*> (self.index.arena + at)
            size = answer_size(answer)
            at += size
            slot = self._slot_of(answer)
            if slot == NULL or answer_at(&self.index, slot[0]) != answer:
                continue
            if _is_purged(answer, &self.purging):
                self._unlink(slot)
                self.purged += 1
                continue
            if answer.expires > now and peek_octet(&answer.used) and size <= allowance:
                if not self._has_room(self.residents.last, size):
                    self._reclaim()
                    self._append_free(&self.residents)
                if self._has_room(self.residents.last, size):
                    self._append(self.residents.last, answer, size, slot)
                    allowance -= size
                    continue
            self._unlink(slot)
            self.evicted += 1
        self._let_go(segment)

    # ------------------------------------------------------------ policies' tools

    def sweep(self, int32_t segment, double keep=0) -> int:
        """Take what expired more than `keep` seconds ago out of a segment; return how many that were.

        Raises IndexError where there is no such segment.
        """
        cdef:
            Segment* swept = self._segment(segment)
            uint32_t before = ticks(self.clock.now() - min(self.clock.now(), <uint64_t> (keep * 1e9)))
            size_t at = self._offset(segment)
            size_t end = at + swept.used
            uint32_t soonest = 0xffffffff
            uint64_t count = 0
            const Answer* answer
            uint64_t* slot
        if swept.state not in (FILLING, FULL) or swept.soonest > before:
            return 0
        while at < end:
            answer = <const Answer*> (self.index.arena + at)
            at += answer_size(answer)
            if answer.expires > before:
                soonest = min(soonest, answer.expires)
                continue
            slot = self._slot_of(answer)
            if slot != NULL and answer_at(&self.index, slot[0]) == answer:
                self._unlink(slot)
                count += 1
        swept.soonest = soonest
        self.expired += count
        return count

    def begin_purge(self, bytes name not None, *, bint below, int qtype=-1) -> None:
        """Say what `purge` takes out; what an eviction would keep goes too, until `end_purge`.

        `name` is a name on the wire in lower case; with `below`, all names under it go too; `qtype`
        keeps to one type. Raises ValueError where the name is none.
        """
        if not 1 <= len(name) <= NAME_MAX:
            raise ValueError(f"a name has 1 to {NAME_MAX} octets, not {len(name)}")
        memcpy(self.purging.name, <char*> name, len(name))
        self.purging.length = len(name)
        self.purging.below = below
        self.purging.qtype = qtype

    def end_purge(self) -> None:
        """Say that every segment was purged."""
        self.purging.length = 0

    def purge(self, int32_t segment) -> int:
        """Take what `begin_purge` said out of a segment; return how many answers that were.

        Raises IndexError where there is no such segment.
        """
        cdef:
            Segment* purged = self._segment(segment)
            size_t at = self._offset(segment)
            size_t end = at + purged.used
            uint64_t before = self.purged
            const Answer* answer
            uint64_t* slot
        if purged.state not in (FILLING, FULL):
            return 0
        while at < end:
            answer = <const Answer*> (self.index.arena + at)
            at += answer_size(answer)
            if not _is_purged(answer, &self.purging):
                continue
            slot = self._slot_of(answer)
            if slot != NULL and answer_at(&self.index, slot[0]) == answer:
                self._unlink(slot)
                self.purged += 1
        return self.purged - before

    def collect(self) -> None:
        """Give back the segments in which nothing is left that the index leads to."""
        self._collect(&self.newcomers)
        self._collect(&self.residents)
        self._reclaim()

    cdef void _collect(self, Queue* queue) noexcept nogil:
        cdef:
            int32_t before = -1
            int32_t segment = queue.first
            int32_t following
        while segment >= 0 and segment != queue.last:
            following = self.segments[segment].next
            if self.segments[segment].live:
                before = segment
            else:
                if before < 0:
                    queue.first = following
                else:
                    self.segments[before].next = following
                queue.length -= 1
                self._let_go(segment)
            segment = following

    cdef Segment* _segment(self, int32_t segment) except NULL:
        if not 0 <= segment < <int32_t> self.segment_count:
            raise IndexError(f"segment {segment} of {self.segment_count}")
        return &self.segments[segment]

    # ------------------------------------------------------------ for Python

    def set_policy(self, *, uint32_t shortest=0, uint32_t longest=86400, uint32_t negative=3600,
                   uint32_t failure=5, uint16_t payload=1232, bint keep_ttl=False) -> None:
        """Say how long answers are held (seconds) and how they look (octets of UDP payload, TTLs)."""
        if not 512 <= payload <= 4096:
            raise ValueError(f"a UDP payload has 512 to 4096 octets, not {payload}")
        self.bounds = Bounds(shortest, longest, negative, failure)
        self.manner = Manner(payload, keep_ttl)

    def store(self, bytes query not None, bytes response not None) -> bool:
        """Store the response to a query; False: the rules of caching forbid it, or there is no room.

        Raises ValueError where the query has no key or the response is none to it.
        """
        cdef:
            Query parsed
            Extra own
            uint64_t now = self.clock.now()
        self._parse(&parsed, query)
        if len(response) > MESSAGE_MAX or not answers_question(&parsed, response, len(response)):
            raise ValueError("that is no response to this query")
        if build(self.scratch, &parsed, response, len(response), &self.bounds, now, self.clock.wall(),
                 &own) != KEEP:
            return False
        return self.put(self.scratch, ticks(now)) == STORED

    def lookup(self, bytes query not None, size_t limit=MESSAGE_MAX) -> bytes | None:
        """Return the answer to a query as its client would get it in at most `limit` octets, or None."""
        cdef:
            Query parsed
            uint8_t[MESSAGE_MAX] out
            const Answer* answer
            uint32_t now = ticks(self.clock.now())
        self._parse(&parsed, query)
        answer = find(&self.index, &parsed)
        if answer == NULL or answer.expires <= now:
            return None
        mark_used(answer)
        size = render(out, min(limit, MESSAGE_MAX), answer, &parsed, &self.manner, now, NULL)
        return (<char*> out)[:size]

    cdef int _parse(self, Query* parsed, bytes query) except -1:
        if len(query) > MESSAGE_MAX or parse_query(parsed, query, len(query)) != PLAIN:
            raise ValueError("that is no query that a cache may answer")
        hash_key(parsed, &self.index.secret)
        return 0

    @property
    def segments_total(self) -> int:
        """Return how many segments there are, in use or not."""
        return self.segment_count

    def counters(self) -> dict:
        """Return what is held and what happened to it, as numbers by name."""
        cdef:
            uint64_t live = 0
            uint64_t used = 0
            uint32_t i
        for i in range(self.segment_count):
            if self.segments[i].state == FILLING or self.segments[i].state == FULL:
                live += self.segments[i].live
                used += self.segments[i].used
        return {
            "entries": live, "octets": used, "memory": self.memory, "stored": self.stored,
            "evicted": self.evicted + self.displaced, "expired": self.expired, "purged": self.purged,
            "no_room": self.no_room,
        }


cdef bint _is_purged(const Answer* answer, const Purge* purging) noexcept nogil:
    """Tell whether an answer is to be taken out; its name is compared on labels' borders, never inside one."""
    cdef:
        const uint8_t* name = answer_key(answer) + KEY_PREFIX
        size_t length = answer.key_length - KEY_PREFIX
        size_t at = 0
    if not purging.length or purging.qtype >= 0 and get16(answer_key(answer) + 4) != purging.qtype:
        return False
    if purging.below:
        while length - at > purging.length:
            at += 1 + name[at]
    return length - at == purging.length and memcmp(name + at, purging.name, purging.length) == 0
