"""The clock that everything else is told by: one reading for a batch, and a hand that tests may move.

It knows the kernel's two clocks and nothing of DNS. Ages, expiries and deadlines follow the clock since boot: nobody
sets it, and it goes on while the machine sleeps, as time does where answers come from. So a wall clock set back an
hour changes no answer; only RRSIG expiration, certificates and cookies ask for the time of day.
"""

from posix.time cimport CLOCK_BOOTTIME, CLOCK_REALTIME, clock_gettime, timespec

from ._atomic cimport load_relaxed, store_relaxed


cdef uint64_t _read(int which) noexcept nogil:
    cdef timespec t
    clock_gettime(which, &t)
    return <uint64_t> t.tv_sec * NANOSECONDS + <uint64_t> t.tv_nsec


cdef class Clock:
    """Time since this clock was made, which starts thirty days in, so that there is a time for what is older."""

    def __cinit__(self, uint64_t start=0, uint64_t moved=0) -> None:
        """Begin now, or go on with another process's clock, of the same boot, whose `origin` this is."""
        self.start, self.moved = start or _read(CLOCK_BOOTTIME) - <uint64_t> 30 * 86400 * NANOSECONDS, moved

    @property
    def origin(self) -> tuple[int, int]:
        """Return what makes another process's clock show the same time."""
        return self.start, self.moved

    cdef uint64_t now(self) noexcept nogil:
        return _read(CLOCK_BOOTTIME) - self.start + load_relaxed(&self.moved)

    cdef uint64_t wall(self) noexcept nogil:
        return _read(CLOCK_REALTIME) + load_relaxed(&self.moved)

    def seconds(self) -> float:
        """Return the time on this clock, in seconds."""
        return self.now() / 1e9

    def advance(self, double seconds) -> None:
        """Move the clock forward by so many seconds (never back: it only grows)."""
        if not 0 <= seconds < 1e9:
            raise ValueError(f"a clock advances by 0 to 1e9 seconds, not by {seconds}")
        store_relaxed(&self.moved, self.moved + <uint64_t> (seconds * 1e9))
