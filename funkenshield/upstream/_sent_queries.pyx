"""What is asked over UDP: how many queries for a question are outstanding at once, and what was asked lately.

A question is a name, a type and a class. Whoever has many for one outstanding, which differ in something else, can
answer each with the same forged response: so only a few are (RFC 5452 5). What answers none of them is forged, or
it is late; it is late where it answers what was asked a little while ago, from the same socket under the same ID.

What follows from that is for `forward/_transport`.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..core._clock cimport TICKS_PER_SECOND, ticks
from ..core._memory cimport free, zeros
from ..core._random cimport draw_secret
from ..core._siphash cimport siphash
from ..wire._message cimport HEADER, QDCOUNT, QUESTION_FIXED, QUESTION_MAX, fold_all, get16, plain_end


cdef inline bint _is(const Ended* ended, uint64_t mixed, uint64_t now) noexcept nogil:
    return ended.sent and ended.tag == <uint32_t> (mixed >> 32) and ticks(now) - ended.sent <= LATE * TICKS_PER_SECOND


cdef inline uint64_t _mixed(uint64_t question, int32_t socket, uint16_t message_id) noexcept nogil:
    """Return a hash of all three; that of the question is keyed, so nobody can steer it."""
    cdef uint64_t mixed = (question | COUNTED) ^ (<uint64_t> socket << 16 | message_id) * <uint64_t> 0x9e3779b97f4a7c15
    mixed = (mixed ^ (mixed >> 33)) * <uint64_t> 0xff51afd7ed558ccd
    return mixed ^ (mixed >> 33)


cdef class SentQueries:
    """The questions of at most `capacity` attempts, and more that have ended; what is remembered is overwritten.

    Those that were answered have a small table of their own: it stays near the processor, and most end so.
    Memory ownership: the tables are its own. One thread calls everything here.
    """

    def __cinit__(self, uint32_t capacity) -> None:
        draw_secret(&self.secret)
        self.outstanding_mask = 1
        while self.outstanding_mask < capacity:
            self.outstanding_mask <<= 1
        self.given_up_mask = 2 * self.outstanding_mask - 1
        self.outstanding_mask -= 1
        self.outstanding = <uint8_t*> zeros(self.outstanding_mask + 1, 1)
        self.answered = <Ended*> zeros(ANSWERED, sizeof(Ended))
        self.given_up = <Ended*> zeros(self.given_up_mask + 1, sizeof(Ended))

    def __dealloc__(self) -> None:
        free(self.outstanding)
        free(self.answered)
        free(self.given_up)

    cdef uint64_t hash(self, const uint8_t* wire, size_t length) noexcept nogil:
        """Return the keyed hash of a message's first question in lower case; one that is malformed is none at all.

        It is to be counted. The caller ensures that there is a whole header.
        """
        cdef:
            uint8_t[QUESTION_MAX] folded
            int32_t end = plain_end(wire, length, HEADER) + QUESTION_FIXED if get16(wire + QDCOUNT) else HEADER
            size_t question = end - HEADER if HEADER < end and <size_t> end <= length else 0
        fold_all(folded, wire + HEADER, question)
        return siphash(&self.secret, folded, question) | COUNTED

    cdef bint enter(self, uint64_t question) noexcept nogil:
        """Count an attempt; False: ALIKE_MAX are outstanding for this question, so this one must go another way."""
        cdef uint8_t* count = &self.outstanding[question >> 1 & self.outstanding_mask]
        if count[0] >= ALIKE_MAX:
            return False
        count[0] += 1
        return True

    cdef void leave(self, uint64_t question) noexcept nogil:
        """Take back an `enter`, if it was counted."""
        self.outstanding[question >> 1 & self.outstanding_mask] -= question & COUNTED

    cdef void remember(self, uint64_t question, int32_t socket, uint16_t message_id, uint64_t sent,
                       bint answered) noexcept nogil:
        """Note an attempt that has ended, with its answer or without, and when it was made (nanoseconds)."""
        cdef:
            uint64_t mixed = _mixed(question, socket, message_id)
            Ended* place = &self.answered[mixed % ANSWERED] if answered else &self.given_up[mixed & self.given_up_mask]
        place[0] = Ended(<uint32_t> (mixed >> 32), ticks(sent))

    cdef bint is_late(self, uint64_t question, int32_t socket, uint16_t message_id, uint64_t now) noexcept nogil:
        """Tell whether a response that answers nothing would have answered what was asked lately."""
        cdef uint64_t mixed = _mixed(question, socket, message_id)
        return (_is(&self.answered[mixed % ANSWERED], mixed, now)
                or _is(&self.given_up[mixed & self.given_up_mask], mixed, now))
