"""The cache on its way to the disk and back: answers as octets that say nothing of this process.

It knows the form of an answer, and trusts none that comes back: what would lead a reader astray is
refused. The file around it is `snapshot`'s business.
"""

cimport cython
import sys

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ..core._atomic cimport load_relaxed32
from ..core._clock cimport TICKS_PER_SECOND, ticks
from ..wire._message cimport KEY_MAX, KEY_PREFIX, WITH_SUBNET, get16, is_name, name_size, rule_choices_of
from ._entry cimport (
    ANSWER_MAX, FAILURE, SECTIONS, Answer, EntryState, answer_body, answer_key, answer_name, answer_size, answer_ttls
)
from ._index cimport answer_at, not_purged
from ._store cimport FILLING, FULL, STORED, Cache, Segment


@cython.final
cdef class Shelf:
    """What `snapshot` keeps of a cache."""

    cdef Cache cache

    def __cinit__(self, Cache cache not None) -> None:
        self.cache = cache

    @property
    def layout(self) -> bytes:
        """Return what tells the form of `export` from any other."""
        return f"answers 3, {sizeof(Answer)} octets, {sys.byteorder} endian".encode()

    @property
    def segments_total(self) -> int:
        """Return how many segments there are, in use or not."""
        return self.cache.segments_total

    @property
    def purges_total(self) -> int:
        """Return the number of the last purge."""
        return self.cache.purges_total

    def export(self, int32_t segment) -> bytes:
        """Return the answers of a segment that may still serve, with times relative to now, for `restore`."""
        cdef:
            Cache cache = self.cache
            Segment* source = cache._segment(segment)
            uint32_t now = ticks(cache.clock.now())
            size_t at = cache._offset(segment)
            size_t end = at + source.used
            size_t filled = 0
            size_t size
            Answer copy
            const Answer* answer
            const uint64_t* slot
            bytearray copies
            uint8_t* out
        if source.state not in (FILLING, FULL):
            return b""
        copies = bytearray(source.used)
        out = copies
        while at < end:
            answer = <const Answer*> (cache.index.arena + at)
            size = answer_size(answer)
            at += size
            slot = cache._slot_of(answer)
            if (slot == NULL or answer_at(&cache.index, slot[0]) != answer or not not_purged(&cache.index, answer)
                    or cache._dies(answer) <= now or answer.kind == FAILURE or rule_choices_of(answer_key(answer))):
                continue
            memcpy(&copy, answer, sizeof(Answer) - sizeof(EntryState))
            copy.born = now - answer.born
            copy.marks = EntryState(
                expires=load_relaxed32(&answer.marks.expires) - now, retry=0, purges=0, failed=0, used=0)
            memcpy(out + filled, &copy, sizeof(Answer))
            memcpy(out + filled + sizeof(Answer), answer + 1, size - sizeof(Answer))
            filled += size
        return bytes(copies[:filled])

    def restore(self, bytes answers not None, double age) -> int:
        """Store what `export` returned so many seconds ago; return how many answers that were.

        Raises ValueError where the octets are no answers; those before them are stored.
        """
        cdef:
            const uint8_t* wire = answers
            Cache cache = self.cache
            Answer* answer = cache.scratch
            uint32_t now = ticks(cache.clock.now())
            int64_t aged = <int64_t> (min(max(age, 0.0), 1e8) * TICKS_PER_SECOND)
            int64_t born, expires
            size_t left = len(answers)
            size_t size
            uint64_t restored = 0
        while left:
            if left < sizeof(Answer):
                raise ValueError("an entry is truncated")
            memcpy(answer, wire, sizeof(Answer))
            size = answer_size(answer)
            if size > left or size > ANSWER_MAX:
                raise ValueError("an entry is truncated")
            memcpy(answer, wire, size)
            if not _is_sound(answer):
                raise ValueError("an entry is malformed")
            wire += size
            left -= size
            born = <int64_t> now - answer.born - aged
            expires = <int64_t> now + <int32_t> answer.marks.expires - aged
            if born <= 0 or expires <= 0:  # older than anything that this clock can tell
                continue
            answer.zone = <uint16_t> cache.zones.find(answer_name(answer), get16(answer_key(answer) + 4))
            answer.born = <uint32_t> born
            answer.marks = EntryState(expires=<uint32_t> expires, retry=0, purges=<uint32_t> cache.purges.rules.count,
                                      failed=0, used=0)
            if cache._dies(answer) > now:
                restored += cache.put(answer, now) == STORED
        return restored


cdef bint _is_sound(const Answer* answer) noexcept nogil:
    """Tell whether all that is read of an answer stands where it may. Caller must ensure that it is whole."""
    cdef:
        const uint8_t* name = answer_name(answer)
        const uint8_t* body = answer_body(answer)
        uint16_t i, ttl
        size_t length, room
    if answer.kind >= FAILURE or answer.form != SECTIONS or answer.answers > answer.ttls:
        return False
    if not KEY_PREFIX < answer.key_length <= KEY_MAX or not is_name(name, answer.key_length - KEY_PREFIX, 0):
        return False
    if rule_choices_of(answer_key(answer)):
        return False
    length = name_size(name)
    room = answer.key_length - KEY_PREFIX - length
    if get16(answer_key(answer)) & WITH_SUBNET:
        if room < 2 or name[length] > 2 or name[length + 1] > 128 or room != 2 + (name[length + 1] + 7) // 8:
            return False
    elif room:
        return False
    for i in range(answer.ttls):
        ttl = answer_ttls(answer)[i]
        if ttl < 5 or ttl + 6 > answer.body or ttl + 6 + get16(body + ttl + 4) > answer.body:
            return False
    return True
