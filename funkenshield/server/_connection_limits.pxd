"""What all workers' connections may be, and are: limits, set by the control thread, and totals that each counts in."""

cimport cython
from libc.stdint cimport uint64_t

from ..cache._store cimport Cache
from ..core._limits cimport LISTENERS_MAX
from ..core._rate_limit cimport Limit
from ..core._siphash cimport Secret

cdef extern from *:
    # Defined in `_atomic`; here with a type.
    const Limit* load_limit "FS_LOAD_ACQUIRE"(const Limit* const* place) noexcept nogil
    void store_limit "FS_STORE_RELEASE"(const Limit** place, const Limit* limit) noexcept nogil

cdef struct Totals:                # what all workers' connections may be, and are; each word is written atomically
    uint64_t connections_max, per_client_max, memory_max, in_flight_max, write_buffer, idle, handshake
    const Limit* handshakes        # of a client; NULL: there is no limit
    uint64_t connections, encrypted, memory
    uint64_t prefixes              # that hold memory
    uint64_t* by_client            # connections
    uint64_t* by_prefix
    uint64_t* memory_of            # octets, by prefix
    uint64_t[LISTENERS_MAX] by_listener  # connections
    const void* server_names       # the ServerNames that rules ask for; NULL: none
    const Secret* secret


@cython.final
cdef class ConnectionLimits:
    cdef:
        Cache cache
        Totals totals
        object handshake_rate      # what the limit of handshakes is kept in
        object server_names        # and what rules' names are

    cdef int _limit_handshakes(self, double rate) except -1
