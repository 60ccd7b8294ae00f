"""The cache: one arena of answers, one writer, any number of readers that never wait.

It knows keys, ages and octets, and where room is made; what may be stored was decided before
(`_entry`), and when to sweep or purge is decided in Python (`expiry`, `daemon`, `admin/commands`).

Eviction is S3-FIFO (Yang et al., SOSP 2023) over a log of segments (Segcache, NSDI 2021): new answers
fill a small queue of segments, and only what was asked for again moves on to the main queue; there,
what was asked for since its last turn gets another one. So a flood of names that are asked once walks
through a tenth of the memory and leaves everything else alone.
"""

import os
import sys

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
)

from ..core._atomic cimport load_relaxed, load_relaxed32, load_relaxed8, store_relaxed, store_release
from ..core._clock cimport TICKS_PER_SECOND, Clock, ticks
from ..core._epochs cimport Epochs
from ..core._memory cimport free, zeros
from ..core._suffix_table cimport Suffixes, suffix_set
from ..wire._message cimport (
    CACHEABLE, KEY_FLAGS, KEY_PREFIX, KEY_TYPE, MESSAGE_MAX, WITH_SUBNET, Query, get16, hash_key, is_name, name_size,
    parse_query, set_subnet, source_prefix
)
from ._entry cimport (
    ANSWER_MAX, FAILURE, KEEP, Answer, EntryState, answer_body, answer_key, answer_name, answer_size, answers_question,
    build, render
)
from ._export cimport Exported, read_entry, write_entry
from ._freshness cimport DEAD, STALE_IF_ERROR, servable_until, freshness_of, mark_used
from ._index cimport (
    SLOTS, SUBNET_WORDS, TAG_SHIFT, answer_at, find, find_set, has_key, hash_of, lengths_in_use, may_use, not_purged,
    shorter_length, subnet_word, tag_in, tag_matches, tag_of
)
from ._purges cimport BELOW, EXACT, LET_EXPIRE, Purges
from ._zone_table cimport Zones

cdef extern from * nogil:
    """
    #include <sys/mman.h>
    #ifndef MADV_POPULATE_WRITE    /* of Linux 5.14; glibc knows it since 2.35 */
    #define MADV_POPULATE_WRITE 23
    #endif
    """
    int madvise(void* start, size_t length, int advice)
    int MADV_HUGEPAGE, MADV_POPULATE_WRITE

cdef enum:
    HUGE_PAGE = 1 << 21
    AHEAD = 4 * HUGE_PAGE          # octets of memory that stand ready
    MEMORY_MIN = 7 << 19           # the least that can be configured, less what is for denials
    OCTETS_PER_SLOT = 88           # of memory: about half of what a usual answer takes
    SMALL_SHARE = 10           # the small queue gets one segment in so many
    READY = 3                      # segments that stand ready, so that a reader inside holds nobody up

cdef struct Ledger:                # what the writer knows of its arena, as another process takes it over
    uint64_t subnets[SUBNET_WORDS]
    uint32_t lengths[SUBNET_WORDS * 64]
    Queue small, main, leaving, free
    uint64_t touched, prepared

cdef struct PurgeNotes:            # followed by the rules, as they are in the table
    uint64_t count, everything, rules
    uint32_t let_expire_at


cdef class Cache:
    """A bounded store of answers that one thread writes and all may read.

    Memory ownership: index and arena are one mapping of `memory` octets, of which only what was once
    used takes real memory, or with `huge_pages` will be soon; segments and scratch are small and its own.
    All is freed with it, so whoever reads must be gone by then.
    """

    def __cinit__(self, size_t memory, Clock clock not None, bytes secret=None, bint huge_pages=False,
                  int memory_file=-1) -> None:
        if memory < MEMORY_MIN:
            raise ValueError(f"the cache needs at least {MEMORY_MIN} octets, not {memory}")
        if secret is None:
            secret = os.urandom(16)
        if len(secret) != 16:
            raise ValueError("the hash secret has 16 octets")
        self.clock = clock
        memcpy(&self.index.secret, <char*> secret, 16)
        self._map(memory, memory_file, huge_pages)
        self.scratch = <Answer*> zeros(1, ANSWER_MAX)
        self.epochs = Epochs()
        self.zones = Zones()
        self.index.zone_settings = self.zones.zone_settings
        self.purges = Purges()
        self.purges.rules.secret = self.index.secret
        self.index.rules = &self.purges.rules

    def __dealloc__(self) -> None:
        if self.mapped != NULL:
            munmap(self.mapped, self.memory + HUGE_PAGE)
        free(self.segments)
        free(self.scratch)

    def _map(self, size_t memory, int memory_file, bint huge_pages) -> None:
        """Get memory: of a file that has so many octets (memfd_create(2)), or of nobody else (-1)."""
        cdef:
            void* mapped = mmap(NULL, memory + HUGE_PAGE, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
            void* aligned = <void*> ((<size_t> mapped + HUGE_PAGE - 1) // HUGE_PAGE * HUGE_PAGE)
        if mapped == MAP_FAILED:
            raise MemoryError(f"cannot allocate {memory} octets for the cache")
        if memory_file >= 0 and mmap(aligned, memory, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory_file,
                                     0) == MAP_FAILED:
            munmap(mapped, memory + HUGE_PAGE)
            raise MemoryError(f"cannot map {memory} octets for the cache")
        if self.mapped != NULL:
            munmap(self.mapped, self.memory + HUGE_PAGE)
        self.mapped, self.memory, self.index.slots = mapped, memory, <uint64_t*> aligned
        self.index.sets = memory // (OCTETS_PER_SLOT * 16) + 1
        self.touched = 0
        self.prepared = 0 if huge_pages else memory  # a small page is given soon enough
        if huge_pages:
            madvise(aligned, memory, MADV_HUGEPAGE)
        self.segment_size = 1 << 17
        while self.segment_size < 1 << 18 and self.segment_size * 128 < memory:
            self.segment_size <<= 1
        self._lay_out()

    def _lay_out(self) -> None:
        """Divide the memory: the index first, then as many whole segments as fit."""
        cdef:
            size_t taken = (self.index.sets * 128 + 63) & ~63
            int32_t segment
        self.index.arena = <uint8_t*> self.index.slots + taken
        self.segments_total = <uint32_t> ((self.memory - taken) // self.segment_size)
        free(self.segments)
        self.segments = <Segment*> zeros(self.segments_total, sizeof(Segment))
        self.small = self.main = self.leaving = self.free = Queue(-1, -1, 0)
        for segment in range(self.segments_total - 1, -1, -1):  # the lowest is used first
            self._free(segment)

    # ------------------------------------------------------------ writing

    cdef Put put(self, Answer* answer, uint32_t now) noexcept nogil:
        """Store an answer under its key, instead of what was there. Only the writer calls this.

        Caller must ensure that zone and number of purges are set: those of when it was asked for.
        """
        cdef:
            uint64_t key_hash = hash_of(&self.index, answer)
            uint64_t* slot
            size_t size = answer_size(answer)
            Queue* queue = &self.small
            const Answer* old
            int32_t segment
        slot = self._slot_under(key_hash, answer)
        if not not_purged(&self.index, answer):
            return OUTDATED
        if slot != NULL:
            old = answer_at(&self.index, slot[0])
            if (answer.kind == FAILURE and old.kind != FAILURE and not_purged(&self.index, old)
                    and freshness_of(old, &self.index.zone_settings[old.zone], now) != DEAD):
                return KEPT_OLD
            if load_relaxed8(&old.marks.used):
                queue = &self.main
        segment = self._room(queue, size, now)
        if segment < 0:
            self.insert_failures += 1
            return NO_ROOM
        if slot == NULL:
            slot = self._choose_slot(key_hash, now)
        self._append(segment, answer, size, slot, tag_of(key_hash))
        self.stored += 1
        return STORED

    cdef Put put_for(self, const Query* query, Answer* answer, uint32_t now) noexcept nogil:
        """Store the answer to a query, and let the query find it: what it found of a narrower scope is outdated."""
        cdef:
            Put result
            const Answer* stored
            const Answer* found
        if query.subnet:
            self._fit_subnet(query, answer)
        result = self.put(answer, now)
        if result != STORED or not query.subnet or answer.kind == FAILURE:
            return result
        stored = answer_at(&self.index, self._slot_of(answer)[0])
        found = find(&self.index, query)
        while found != NULL and found != stored:
            self._unlink(self._slot_of(found))
            found = find(&self.index, query)
        return result

    cdef void drop(self, const Query* query) noexcept nogil:
        """Take out what is stored for a query, if anything is."""
        cdef const Answer* answer = find(&self.index, query)
        if answer != NULL:
            self._unlink(self._slot_of(answer))

    cdef void _fit_subnet(self, const Query* query, Answer* answer) noexcept nogil:
        """Keep an answer for fewer than it is true for, where its prefix length is not, and cannot come, in use.

        That is the next longer one in use, or else what was asked about: so clients and upstreams may say what they
        like, and look-ups try a few lengths. Caller must ensure that the answer is the scratch, and to this query.
        """
        cdef:
            const uint8_t* subnet = answer_name(answer) + name_size(answer_name(answer))
            uint8_t* behind = <uint8_t*> answer_body(answer)
            Query narrowed = query[0]
            int32_t prefix = source_prefix(query)
            int32_t shorter
        if (not get16(answer_key(answer) + KEY_FLAGS) & WITH_SUBNET or subnet[1] == prefix
                or may_use(&self.index, subnet[0], subnet[1])):
            return
        shorter = shorter_length(&self.index, subnet[0], prefix)
        while shorter > subnet[1]:
            prefix = shorter
            shorter = shorter_length(&self.index, subnet[0], prefix)
        set_subnet(&narrowed, <uint8_t> prefix)
        memmove(behind + narrowed.key_length - answer.key_length, behind, answer.body + answer.options)
        answer.key_length = narrowed.key_length
        memcpy(<uint8_t*> answer_key(answer), narrowed.key, narrowed.key_length)

    cdef void _count_subnet(self, const Answer* answer, int32_t change) noexcept nogil:
        """Note that one more answer, or one less, may be found under its subnet's prefix length by longer ones."""
        cdef:
            const uint8_t* subnet = answer_name(answer) + name_size(answer_name(answer))
            uint64_t* word
            uint64_t bit
            uint32_t* live
        if not get16(answer_key(answer) + KEY_FLAGS) & WITH_SUBNET or not subnet[1] or answer.scope > subnet[1]:
            return
        word = &self.index.subnets[subnet_word(subnet[0], subnet[1])]
        bit = <uint64_t> 1 << subnet[1] % 64
        live = &self.lengths[64 * (word - self.index.subnets) + subnet[1] % 64]
        live[0] += change
        if not live[0]:
            store_relaxed(word, load_relaxed(word) & ~bit)
        elif change > 0 and may_use(&self.index, subnet[0], subnet[1]):
            store_relaxed(word, load_relaxed(word) | bit)

    cdef uint32_t _servable_until(self, const Answer* answer) noexcept nogil:
        return servable_until(answer, &self.index.zone_settings[answer.zone])

    cdef void _append(self, int32_t segment, const Answer* answer, size_t size, uint64_t* slot,
                      uint64_t tag) noexcept nogil:
        """Write an answer at a segment's end, then let the slot lead to it."""
        cdef:
            Segment* home = &self.segments[segment]
            uint64_t offset = self._offset(segment) + home.used
            Answer* copy = <Answer*> (self.index.arena + offset)
        memcpy(copy, answer, sizeof(Answer) - sizeof(EntryState))  # a reader may be leaving marks
        memcpy(copy + 1, answer + 1, size - sizeof(Answer))
        copy.marks.expires = load_relaxed32(&answer.marks.expires)
        copy.marks.refresh_after = load_relaxed32(&answer.marks.refresh_after)
        copy.marks.purges = load_relaxed32(&answer.marks.purges)
        copy.marks.failed = load_relaxed8(&answer.marks.failed)
        copy.marks.used = 0
        home.used += <uint32_t> size
        home.live += 1
        home.soonest = min(home.soonest, self._servable_until(copy))
        home.checked = min(home.checked, copy.marks.purges)
        self._count_subnet(copy, 1)
        if slot[0]:
            self._count_subnet(answer_at(&self.index, slot[0]), -1)
            self.segments[self._segment_of(slot[0])].live -= 1
        store_release(slot, tag | offset >> 3)

    cdef uint64_t* _slot_of(self, const Answer* answer) noexcept nogil:
        """Return the slot that leads to this answer's key, or NULL."""
        return self._slot_under(hash_of(&self.index, answer), answer)

    cdef uint64_t* _slot_under(self, uint64_t key_hash, const Answer* answer) noexcept nogil:
        """Return the slot that leads to this answer's key, whose hash is known, or NULL."""
        cdef:
            uint64_t* slots = find_set(&self.index, key_hash)
            uint64_t tag = tag_of(key_hash)
            const Answer* other
            size_t i
        for i in range(SLOTS):
            if tag_matches(slots[i], tag):
                other = answer_at(&self.index, slots[i])
                if has_key(other, answer_key(answer), answer.key_length):
                    return slots + i
        return NULL

    cdef uint64_t* _choose_slot(self, uint64_t key_hash, uint32_t now) noexcept nogil:
        """Return the slot for a key that has none yet: an empty one, or the one that is missed least."""
        cdef:
            uint64_t* slots = find_set(&self.index, key_hash)
            uint64_t* victim = slots
            const Answer* other
            size_t i
        for i in range(SLOTS):
            if not slots[i]:
                return slots + i
        for i in range(SLOTS):
            other = answer_at(&self.index, slots[i])
            if self._servable_until(other) <= now:
                victim = slots + i
                break
            if not load_relaxed8(&other.marks.used):
                victim = slots + i
        self.evicted += 1
        return victim

    cdef uint64_t _offset(self, int32_t segment) noexcept nogil:
        """Return where a segment starts; eight octets are left out so that no offset is zero."""
        return <uint64_t> segment * self.segment_size + 8

    cdef int32_t _segment_of(self, uint64_t slot) noexcept nogil:
        return <int32_t> (((slot & ((<uint64_t> 1 << TAG_SHIFT) - 1)) << 3) // self.segment_size)

    cdef void _unlink(self, uint64_t* slot) noexcept nogil:
        self._count_subnet(answer_at(&self.index, slot[0]), -1)
        self.segments[self._segment_of(slot[0])].live -= 1
        store_release(slot, 0)

    # ------------------------------------------------------------ making room

    cdef bint _has_room(self, int32_t segment, size_t size) noexcept nogil:
        return segment >= 0 and self.segments[segment].used + size + 8 <= self.segment_size

    cdef int32_t _room(self, Queue* queue, size_t size, uint32_t now) noexcept nogil:
        """Return the segment at the queue's end, a fresh one where it has no room for `size`, or -1."""
        if self._has_room(queue.last, size):
            return queue.last
        while self.free.length + self.leaving.length < READY:
            self._evict(now)
        self._reclaim()
        return self._append_free(queue)

    cdef int32_t _append_free(self, Queue* queue) noexcept nogil:
        """Put an empty segment at the queue's end; -1: readers still hold all that could be one."""
        cdef int32_t segment
        if not self.free.length:
            return -1
        segment = self._take_first(&self.free)
        store_relaxed(&self.touched, max(load_relaxed(&self.touched), <uint64_t> segment + 1))
        self.segments[segment] = Segment(used=0, live=0, left=0, soonest=0xffffffff,
                                         checked=<uint32_t> self.purges.rules.count, next=-1, in_use=True)
        self._enqueue(queue, segment)
        return segment

    cdef void _enqueue(self, Queue* queue, int32_t segment) noexcept nogil:
        """Put a segment at a queue's end."""
        self.segments[segment].next = -1
        if queue.last >= 0:
            self.segments[queue.last].next = segment
        else:
            queue.first = segment
        queue.last = segment
        queue.length += 1

    cdef void _let_go(self, int32_t segment) noexcept nogil:
        """Put aside a segment that the index no longer leads to, until its readers have left."""
        self.segments[segment].in_use = False
        self.segments[segment].left = self.epochs.end()
        self._enqueue(&self.leaving, segment)

    cdef void _reclaim(self) noexcept nogil:
        """Free what no reader can see any more: all that left before the oldest reader entered."""
        while self.leaving.length and self.epochs.have_left(self.segments[self.leaving.first].left):
            self._free(self._take_first(&self.leaving))

    cdef void _free(self, int32_t segment) noexcept nogil:
        """Have a segment be filled before all others that are free: so the same few are used again."""
        self.segments[segment].next = self.free.first
        self.free.first = segment
        self.free.length += 1

    cdef int32_t _take_first(self, Queue* queue) noexcept nogil:
        cdef int32_t segment = queue.first
        queue.first = self.segments[segment].next
        if queue.first < 0:
            queue.last = -1
        queue.length -= 1
        return segment

    cdef void _evict(self, uint32_t now) noexcept nogil:
        """Empty the oldest segment of the queue that has more than its share.

        What may still serve and was asked for moves to the end of the main queue; of one of its segments at most
        three quarters may, so that every eviction gains room and none takes longer than one walk.
        """
        cdef:
            bint small = self.small.length > self.segments_total // SMALL_SHARE or self.main.length < 2
            int32_t segment = self._take_first(&self.small if small else &self.main)
            size_t allowance = self.segment_size if small else self.segment_size * 3 // 4
            size_t at = 0
            size_t size
            const Answer* answer
            uint64_t* slot = NULL
        while True:
            answer = self._next_live(segment, &at, &slot)
            if answer == NULL:
                break
            size = answer_size(answer)
            if not not_purged(&self.index, answer):
                self._unlink(slot)
                self.purged += 1
                continue
            if self._servable_until(answer) > now and load_relaxed8(&answer.marks.used) and size <= allowance:
                if not self._has_room(self.main.last, size):
                    self._reclaim()
                    self._append_free(&self.main)
                if self._has_room(self.main.last, size):
                    self._append(self.main.last, answer, size, slot, tag_in(slot[0]))
                    allowance -= size
                    continue
            self._unlink(slot)
            self.evicted += 1
        self._let_go(segment)

    cdef const Answer* _next_live(self, int32_t segment, size_t* at, uint64_t** slot) noexcept nogil:
        """Return the next answer of a segment that the index leads to, and the slot that does; NULL: there is none.

        `at` are the octets of the segment that were looked at.
        """
        cdef const Answer* answer
        while at[0] < self.segments[segment].used:
            answer = <const Answer*> (self.index.arena + self._offset(segment) + at[0])
            at[0] += answer_size(answer)
            slot[0] = self._slot_of(answer)
            if slot[0] != NULL and answer_at(&self.index, slot[0][0]) == answer:
                return answer
        return NULL

    # ------------------------------------------------------------ for expiry, and memory ahead

    def sweep(self, int32_t segment) -> int:
        """Take what is dead or was purged out of a segment; return how many answers were dead.

        Raises IndexError where there is no such segment.
        """
        cdef:
            Segment* swept = self._segment(segment)
            uint32_t now = ticks(self.clock.now())
            uint32_t purges = <uint32_t> self.purges.rules.count
            uint32_t soonest = 0xffffffff
            size_t at = self._offset(segment)
            size_t end = at + swept.used
            uint64_t dead = 0
            bint purged
            const Answer* answer
            uint64_t* slot
        if not swept.in_use or swept.soonest > now and swept.checked == purges:
            return 0
        while at < end:
            answer = <const Answer*> (self.index.arena + at)
            at += answer_size(answer)
            purged = not not_purged(&self.index, answer)
            if not purged and self._servable_until(answer) > now:
                soonest = min(soonest, self._servable_until(answer))
                continue
            slot = self._slot_of(answer)
            if slot == NULL or answer_at(&self.index, slot[0]) != answer:
                continue
            self._unlink(slot)
            self.purged += purged
            dead += not purged
        swept.soonest = soonest
        swept.checked = purges
        self.expired += dead
        return dead

    @property
    def needs_memory(self) -> bool:
        """Tell whether `prepare` has something to do."""
        return self.prepared + AHEAD // 2 < min(self._wanted(), self.memory)

    def prepare(self) -> None:
        """Have the kernel give the memory that is written next: the index, and some of the arena.

        Any thread may call this, one at a time; neither the writer nor readers wait for it. Where the kernel cannot do
        it (before Linux 5.14), it gives memory as it is written.
        """
        cdef:
            size_t end = min(self._wanted(), self.memory)
            bint failed
        while self.prepared < end:
            with nogil:
                failed = madvise(<uint8_t*> self.index.slots + self.prepared,
                                 min(<size_t> HUGE_PAGE, self.memory - self.prepared), MADV_POPULATE_WRITE) != 0
            self.prepared = self.memory if failed else self.prepared + HUGE_PAGE

    cdef size_t _wanted(self) noexcept nogil:
        """Return the octets, from the index on, that are or will soon be written to."""
        return (self.index.arena - <uint8_t*> self.index.slots
                + load_relaxed(&self.touched) * self.segment_size + AHEAD)

    # ------------------------------------------------------------ purges

    def purge(self, bytes name not None, *, bint below, int32_t qtype=-1, bint let_expire=False) -> bytes:
        """Take out what is stored for a name, with `below` for all names under it too; it is gone when this returns.

        `name` is a name on the wire in lower case; `qtype` keeps to one type. With `let_expire` it is not
        gone but past its time. The cost is that of one note, whatever is stored; after very many it is one of the
        zone, or of the parent: return the name that it was of. Raises ValueError where the name is none, or where
        that is asked for less than a whole zone, and OverflowError where there is room for no note.
        """
        cdef size_t noted
        if not is_name(name, len(name), 0) or name_size(name) != len(name):
            raise ValueError("that is no name on the wire")
        if let_expire and (qtype >= 0 or not below):
            raise ValueError("only whole zones are let expire")
        noted = self.purges.add(name, len(name), len(self.zones.name(self.zones.find(name, 0))),
                                LET_EXPIRE if let_expire else BELOW if below else EXACT, qtype, ticks(self.clock.now()))
        if not noted:
            raise OverflowError("too many purges at once; try again in a minute or two")
        self.epochs.outdate_copies()
        if self.purges.rules.everything == self.purges.rules.count:
            self.forget_purges(0)
        return name[len(name) - noted:]

    @property
    def purges_total(self) -> int:
        """Return the number of the last purge."""
        return self.purges.rules.count

    @property
    def purges_settled(self) -> int:
        """Return the number of the last purge that every stored answer was held against."""
        cdef:
            uint32_t settled = <uint32_t> self.purges.rules.count
            uint32_t i
        for i in range(self.segments_total):
            if self.segments[i].in_use:
                settled = min(settled, self.segments[i].checked)
        return settled

    def forget_purges(self, uint64_t number) -> bool:
        """Forget the purges up to this number and before one of everything; return False where readers forbid it.

        Caller must ensure that nothing comes any more that was asked for before.
        """
        if self.purges.swapped and not self.epochs.have_left(self.purges.swapped):
            return False
        self.purges.retire(max(min(number, <uint64_t> self.purges_settled), self.purges.rules.everything))
        self.purges.swapped = self.epochs.end()
        return True

    def collect(self) -> None:
        """Give back the segments in which nothing is left that the index leads to."""
        self._collect(&self.small)
        self._collect(&self.main)
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

    # ------------------------------------------------------------ snapshots

    @property
    def layout(self) -> bytes:
        """Return what tells the form of `export` from any other; builds that lay entries out differently share it."""
        return f"entries 4, {sizeof(Exported)} octets, {sys.byteorder} endian".encode()

    def export(self, int32_t segment) -> bytes:
        """Return the answers of a segment that may still serve, with times relative to now, for `restore`."""
        cdef:
            Segment* source = self._segment(segment)
            uint32_t now = ticks(self.clock.now())
            size_t at = 0, filled = 0
            const Answer* answer
            uint64_t* slot = NULL
            bytearray copies
        if not source.in_use:
            return b""
        copies = bytearray(source.used + source.live * sizeof(Exported))
        while True:
            answer = self._next_live(segment, &at, &slot)
            if answer == NULL:
                return bytes(copies[:filled])
            if not_purged(&self.index, answer) and self._servable_until(answer) > now:
                filled += write_entry(<uint8_t*> copies + filled, answer, now)

    def restore(self, bytes answers not None, double age, int64_t purges=-1) -> int:
        """Store what `export` returned so many seconds ago; return how many answers that were.

        `purges` is the number of the last purge then, where later ones follow by `take_purges`. Raises ValueError
        where the octets are no answers; those before them are stored.
        """
        cdef:
            const uint8_t* wire = answers
            Answer* answer = self.scratch
            uint32_t now = ticks(self.clock.now())
            int64_t aged = <int64_t> (min(max(age, 0.0), 1e8) * TICKS_PER_SECOND)
            size_t left = len(answers)
            size_t size
            uint64_t restored = 0
        if purges >= 0:
            self.purges.rules.count = <uint64_t> purges
        while left:
            size = read_entry(answer, wire, left, now, aged)
            wire += size
            left -= size
            answer.zone = <uint16_t> self.zones.find(answer_name(answer), get16(answer_key(answer) + KEY_TYPE))
            answer.marks.purges = <uint32_t> self.purges.rules.count
            if answer.born and self._servable_until(answer) > now:
                restored += self.put(answer, now) == STORED
        return restored

    # ------------------------------------------------------------ from one process to the next

    @property
    def arena_layout(self) -> str:
        """Return what tells how the memory is laid out: with the same, another process can go on with it.

        An answer whose fields are all different shows the place of each.
        """
        cdef Answer probe
        memset(&probe, 0, sizeof(Answer))
        probe.born, probe.zone, probe.ttls, probe.key_length, probe.body, probe.options = 1, 2, 3, 4, 5, 6
        probe.flags, probe.counts[0], probe.edns_flags, probe.rcode_high, probe.opt, probe.kind = 7, 8, 9, 10, 11, 12
        probe.form, probe.scope, probe.everybody, probe.reduced, probe.bare = 13, 14, 15, 16, 17
        probe.marks = EntryState(expires=18, refresh_after=19, purges=20, failed=21, used=22)
        octets = (<char*> &probe)[:sizeof(Answer)].hex()
        return (f"1 {octets} {self.memory} {self.segment_size} {self.index.sets} {SLOTS} {TAG_SHIFT} {sizeof(Segment)}"
                f" {sizeof(Ledger)} {TICKS_PER_SECOND} {KEY_PREFIX}")

    @property
    def secret(self) -> bytes:
        """Return what keys are hashed with."""
        return (<char*> &self.index.secret)[:sizeof(self.index.secret)]

    def stamp(self, int32_t segment) -> tuple[int, int]:
        """Return what is another where something was stored in a segment since."""
        cdef Segment* stamped = self._segment(segment)
        return stamped.left, stamped.used if stamped.in_use else 0

    def ledger(self) -> bytes:
        """Return all that the writer knows of its memory, for `take_over`; nobody may write from now on."""
        cdef Ledger ledger
        memset(&ledger, 0, sizeof(Ledger))
        memcpy(ledger.subnets, self.index.subnets, sizeof(ledger.subnets))
        memcpy(ledger.lengths, self.lengths, sizeof(ledger.lengths))
        ledger.small, ledger.main, ledger.leaving, ledger.free = self.small, self.main, self.leaving, self.free
        ledger.touched, ledger.prepared = self.touched, self.prepared
        return ((<char*> &ledger)[:sizeof(Ledger)] + (<char*> self.segments)[:self.segments_total * sizeof(Segment)]
                + self.purge_notes())

    def take_over(self, bytes octets not None) -> None:
        """Go on where another writer has stopped, whose memory this is: its `ledger` says what is in it.

        Caller must ensure that its `arena_layout` is the same, and that nobody has read or written here yet. Raises
        ValueError where the octets are no ledger of such memory.
        """
        cdef:
            Ledger ledger
            size_t segments = self.segments_total * sizeof(Segment)
            const uint8_t* wire = octets
        if len(octets) < <ssize_t> (sizeof(Ledger) + segments):
            raise ValueError("a ledger is truncated")
        self.take_purges(octets[sizeof(Ledger) + segments:])
        memcpy(&ledger, wire, sizeof(Ledger))
        memcpy(self.index.subnets, ledger.subnets, sizeof(ledger.subnets))
        memcpy(self.lengths, ledger.lengths, sizeof(ledger.lengths))
        memcpy(self.segments, wire + sizeof(Ledger), segments)
        self.small, self.main, self.leaving, self.free = ledger.small, ledger.main, ledger.leaving, ledger.free
        self.touched, self.prepared = ledger.touched, max(self.prepared, ledger.prepared)
        while self.leaving.length:  # its readers are gone
            self._free(self._take_first(&self.leaving))

    def purge_notes(self) -> bytes:
        """Return all purges that entries are held against, for `take_purges`."""
        cdef:
            const Suffixes* rules = <const Suffixes*> self.purges.rules.table
            PurgeNotes notes
            uint64_t place
            bytearray pairs = bytearray()
        memset(&notes, 0, sizeof(PurgeNotes))
        notes.count, notes.everything = self.purges.rules.count, self.purges.rules.everything
        notes.rules, notes.let_expire_at = rules.used, self.purges.rules.let_expire_at
        for place in range(rules.mask + 1 if rules.used else 0):
            if rules.pairs[2 * place]:
                pairs += (<char*> (rules.pairs + 2 * place))[:16]
        return (<char*> &notes)[:sizeof(PurgeNotes)] + bytes(pairs)

    def take_purges(self, bytes octets not None) -> None:
        """Hold entries against the purges of another cache with the same secret, and go on with their numbers.

        Raises ValueError where the octets are no `purge_notes`.
        """
        cdef:
            PurgeNotes notes
            const uint8_t* wire = octets
            uint64_t[2] pair
            uint64_t k
        if len(octets) < <ssize_t> sizeof(PurgeNotes):
            raise ValueError("notes of purges are truncated")
        memcpy(&notes, wire, sizeof(PurgeNotes))
        if len(octets) != <ssize_t> (sizeof(PurgeNotes) + notes.rules * sizeof(pair)):
            raise ValueError("notes of purges are truncated")
        if self.purges.rules.count > notes.count:  # all are known, and later ones
            return
        for k in range(notes.rules):
            memcpy(pair, wire + sizeof(PurgeNotes) + k * sizeof(pair), sizeof(pair))
            suffix_set(<Suffixes*> self.purges.rules.table, pair[0], pair[1])
        self.purges.rules.everything, self.purges.rules.let_expire_at = notes.everything, notes.let_expire_at
        self.purges.rules.count = notes.count

    def let_go(self) -> None:
        """Go on without what is stored, in a little memory of its own: another process has the rest.

        Caller must ensure that no reader runs.
        """
        self._map(MEMORY_MIN, -1, False)
        memset(self.index.subnets, 0, sizeof(self.index.subnets))
        memset(self.lengths, 0, sizeof(self.lengths))

    def take_back(self, size_t memory, int memory_file, bytes octets not None) -> None:
        """Have all back after `let_go`, for the other process has done nothing with it."""
        self._map(memory, memory_file, False)
        self.take_over(octets)

    cdef Segment* _segment(self, int32_t segment) except NULL:
        if not 0 <= segment < <int32_t> self.segments_total:
            raise IndexError(f"segment {segment} of {self.segments_total}")
        return &self.segments[segment]

    # ------------------------------------------------------------ for Python

    def store(self, bytes query not None, bytes response not None, *, bint over_stream=True) -> bool:
        """Store the response to a query; False: the rules of caching forbid it, or there is no room.

        Raises ValueError where the query has no key or the response is none to it.
        """
        cdef:
            Query parsed
            uint64_t now = self.clock.now()
            uint32_t zone
        self._parse(&parsed, query)
        if len(response) > MESSAGE_MAX or not answers_question(&parsed, response, len(response)):
            raise ValueError("that is no response to this query")
        zone = self.zones.find(parsed.key + KEY_PREFIX, parsed.qtype)
        if build(self.scratch, &parsed, response, len(response), &self.index.zone_settings[zone].ttl_limits, now,
                 self.clock.wall(), over_stream) != KEEP:
            return False
        self.scratch.zone = <uint16_t> zone
        self.scratch.marks.purges = <uint32_t> self.purges.rules.count
        return self.put_for(&parsed, self.scratch, ticks(now)) == STORED

    def lookup(self, bytes query not None, size_t limit=MESSAGE_MAX) -> bytes | None:
        """Return the answer to a query as its client would get it in at most `limit` octets, or None."""
        cdef:
            Query parsed
            uint8_t[MESSAGE_MAX] out
            const Answer* answer
            uint32_t now = ticks(self.clock.now())
        self._parse(&parsed, query)
        answer = find(&self.index, &parsed)
        if answer == NULL or freshness_of(answer, &self.index.zone_settings[answer.zone], now) >= STALE_IF_ERROR:
            return None
        mark_used(answer)
        size = render(out, min(limit, MESSAGE_MAX), answer, &parsed, &self.index.zone_settings[answer.zone].manner, now,
                      NULL)
        return (<char*> out)[:size]

    cdef int _parse(self, Query* parsed, bytes query) except -1:
        if len(query) > MESSAGE_MAX or parse_query(parsed, query, len(query)) != CACHEABLE:
            raise ValueError("that is no query that a cache may answer")
        hash_key(parsed, &self.index.secret)
        return 0

    def counters(self) -> dict:
        """Return what is held and what happened to it, as numbers by name."""
        cdef:
            uint64_t live = 0
            uint64_t used = 0
            uint32_t i
        for i in range(self.segments_total):
            if self.segments[i].in_use:
                live += self.segments[i].live
                used += self.segments[i].used
        return {
            "entries": live, "bytes": used, "limit_bytes": self.memory, "inserts": self.stored,
            "insert_failures": self.insert_failures, "evictions": self.evicted,
            "expirations": self.expired, "purged_entries": self.purged,
            "ecs_prefix_lengths": lengths_in_use(&self.index, 0) + lengths_in_use(&self.index, 1),
            "purge_rules": (<Suffixes*> self.purges.rules.table).used,
        }
