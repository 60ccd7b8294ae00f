"""A timing wheel: what is due when, in constant time, for as many things as there are numbers.

It knows numbers and turns (Varghese and Lauck, SOSP 1987), and nothing of what they stand for. Times
are nanoseconds; nothing is due early, nor more than a turn late.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from ._memory cimport free, zeros


cdef class Wheel:
    """A wheel for the numbers below `capacity`, each in one turn at most.

    Memory ownership: its tables are its own.
    """

    def __cinit__(self, uint32_t capacity) -> None:
        cdef int32_t turn
        self.earlier = <int32_t*> zeros(capacity, sizeof(int32_t))
        self.later = <int32_t*> zeros(capacity, sizeof(int32_t))
        self.turns = <int32_t*> zeros(capacity, sizeof(int32_t))
        for turn in range(WHEEL):
            self.heads[turn] = -1

    def __dealloc__(self) -> None:
        free(self.earlier)
        free(self.later)
        free(self.turns)

    cdef void begin(self, uint64_t now) noexcept nogil:
        """Set an empty wheel to a time: nobody turned it while there was nothing on it."""
        self.turned = now // TURN

    cdef void schedule(self, int32_t i, uint64_t when) noexcept nogil:
        """Have a number be due at a time, instead of when it was; too far away is once round."""
        cdef:
            uint64_t turn = min(max(when // TURN + 1, self.turned + 1), self.turned + WHEEL - 1) % WHEEL
            int32_t head
        self.unschedule(i)
        head = self.heads[turn]
        self.turns[i] = <int32_t> turn + 1
        self.earlier[i] = -1
        self.later[i] = head
        if head >= 0:
            self.earlier[head] = i
        self.heads[turn] = i

    cdef void unschedule(self, int32_t i) noexcept nogil:
        """Have a number not be due at all."""
        if not self.turns[i]:
            return
        if self.later[i] >= 0:
            self.earlier[self.later[i]] = self.earlier[i]
        if self.earlier[i] >= 0:
            self.later[self.earlier[i]] = self.later[i]
        else:
            self.heads[self.turns[i] - 1] = self.later[i]
        self.turns[i] = 0

    cdef int32_t due(self, uint64_t now) noexcept nogil:
        """Take off and return a number that is due; -1: none is any more."""
        cdef:
            uint64_t turns = now // TURN
            int32_t i
        if turns > self.turned + WHEEL:  # all that is on it is due
            self.turned = turns - WHEEL
        while True:
            i = self.heads[self.turned % WHEEL]
            if i >= 0:
                self.unschedule(i)
                return i
            if self.turned >= turns:
                return -1
            self.turned += 1
