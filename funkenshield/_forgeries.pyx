"""Names that attract answers which nobody asked for: somebody may be guessing (RFC 5452).

Who forges answers must name the name. So wrong ones are counted by name, and what comes to a name that
attracts many is not believed any more, right as it may look: it is asked for again over TCP, where nobody
can guess. A flood of wrong answers to many names, as a slow upstream sends them, makes no name suspect.
"""

cimport cython
import os

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from ._clock cimport NANOSECONDS
from ._siphash cimport siphash
from ._wire cimport HEADER, QUESTION_MAX, fold, get16, question_length

cdef uint64_t SUSPICION = <uint64_t> 10 * NANOSECONDS  # how long answers are remembered


@cython.final
cdef class Forgeries:
    """The last few thousand names that got wrong answers.

    Memory ownership: the table is its own.
    """

    def __cinit__(self) -> None:
        cdef bytes secret = os.urandom(16)
        memcpy(&self.secret, <char*> secret, 16)
        self.names = <Attraction*> calloc(NAMES, sizeof(Attraction))
        if self.names == NULL:
            raise MemoryError("no memory for forged names")

    def __dealloc__(self) -> None:
        free(self.names)

    cdef Attraction* _find(self, const uint8_t* wire, size_t length, uint32_t* tag) noexcept nogil:
        """Return where a response's name is counted, and its tag; NULL where it has no question."""
        cdef:
            uint8_t[QUESTION_MAX] folded
            int32_t question = question_length(wire, length) if length > HEADER and get16(wire + 4) == 1 else -1
            int32_t at
            uint64_t hashed
        if question <= 0:
            return NULL
        for at in range(question):
            folded[at] = fold(wire[HEADER + at])
        hashed = siphash(&self.secret, folded, question)
        tag[0] = <uint32_t> (hashed >> 32)
        return &self.names[hashed % NAMES]

    cdef void note(self, const uint8_t* wire, size_t length, uint64_t now) noexcept nogil:
        """Count a response that answers nothing."""
        cdef:
            uint32_t tag = 0
            Attraction* found = self._find(wire, length, &tag) if self.bound else NULL
        if found == NULL:
            return
        if found.tag != tag or now > found.since + SUSPICION:
            found[0] = Attraction(tag, 0, now)
        found.count += 1
        if found.count >= self.bound:
            self.alert_until = now + SUSPICION

    cdef bint suspects(self, const uint8_t* wire, size_t length, uint64_t now) noexcept nogil:
        """Tell whether a response, right as it looks, should be fetched in a way that cannot be forged."""
        cdef:
            uint32_t tag = 0
            Attraction* found
        if now >= self.alert_until:
            return False
        found = self._find(wire, length, &tag)
        return found != NULL and found.tag == tag and found.count >= self.bound and now <= found.since + SUSPICION
