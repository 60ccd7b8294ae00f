"""Which connections of a worker have to end, for their listeners are gone, and which of them are waited for.

All are looked at, some at a time, so that many hold up nobody. Who has just come has a moment for his first query: it
is on its way, and he chose this process.
"""

cimport cython
from libc.stdint cimport uint64_t

from ..core._atomic cimport load_relaxed, store_relaxed
from ._connections cimport LINGERING, SHAKING, Connection, Connections, can_be_passed_on
from ._listening cimport ListeningSockets

cdef enum:
    AT_ONCE = 64                   # connections that are looked at before others have their turn
    FIRST_WITHIN = 250000000       # nanoseconds from the last handshake to the first query
    AGAIN_AFTER = 50               # milliseconds until newcomers are looked at again


@cython.final
cdef class Dismissals:
    """Whom a worker dismisses; but for `has_newcomers`, the worker's alone."""

    def __cinit__(self, Connections connections not None, ListeningSockets listening not None) -> None:
        self.connections, self.listening, self.place = connections, listening, -1

    @property
    def has_newcomers(self) -> bool:
        """Whether some may have just come to listeners that are gone, and not asked yet; any thread may ask."""
        return load_relaxed(&self.newcomers) != 0

    cdef void begin(self) noexcept nogil:
        """Look at all connections, from the first on; there may be newcomers until all have been looked at."""
        self.place, self.passed_over = 0, 0
        store_relaxed(&self.newcomers, 1)

    cdef void go_on(self, uint64_t now) noexcept nogil:
        """Let `next` look at some more, or at newcomers again."""
        self.left = AT_ONCE
        if self.place < 0 and self.newcomers and now >= self.again_at:
            self.begin()

    cdef Connection* next(self, uint64_t now) noexcept nogil:
        """Return one that has to end, once its client has answers to what he has asked; NULL: there is none for now."""
        cdef Connection* connection
        while self.place >= 0 and self.left:
            self.left -= 1
            connection = self.connections.next_after(&self.place)
            if connection == NULL:
                store_relaxed(&self.newcomers, self.passed_over)
                self.again_at = now + AGAIN_AFTER * 1000000
            elif not self.concern(connection):
                continue
            elif connection.has_asked or not connection.listed[SHAKING] and connection.active + FIRST_WITHIN <= now:
                return connection
            else:
                self.passed_over += 1
        return NULL

    cdef bint concern(self, const Connection* connection) noexcept nogil:
        """Tell whether the listener of a connection is gone, or another process has it, and cannot go on here."""
        return not (connection.relays or connection.listed[LINGERING]) and (
            self.listening.sockets[connection.listener].fd < 0
            or self.connections.handing_over and not can_be_passed_on(connection))

    cdef int patience(self) noexcept nogil:
        """Return after how many milliseconds there is something to be done; -1: there is nothing."""
        return 0 if self.place >= 0 else AGAIN_AFTER if self.newcomers else -1
