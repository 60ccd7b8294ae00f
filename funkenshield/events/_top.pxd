"""What is asked for most, and by whom: bounded sketches of the last seconds."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ..core._siphash cimport Secret
from ..policy._rule_state cimport KINDS as KIND_COUNT
from ._event cimport Event

cdef enum:
    WAYS = 8                       # places that a key may stand in
    PLACES = 1024                  # of a sketch; a power of two
    KEY_ROOM = 255                 # octets: a name

cdef enum:                         # what is counted
    NAMES
    CLIENTS
    ZONES                          # names' last two labels
    SUBJECTS                       # how many there are

cdef struct Place:
    uint64_t hash                  # of the key; 0: free
    uint64_t count                 # at most
    uint64_t error                 # of which so many may be others'
    uint8_t length
    uint8_t[KEY_ROOM] key

cdef struct Window:                # of time
    uint64_t began                 # nanoseconds; 0: nothing was counted
    uint64_t[KIND_COUNT] kinds
    Place places[SUBJECTS][PLACES]

cdef struct Sketches:
    uint64_t lock                  # 1: somebody is at it
    Secret secret
    uint32_t current
    Window windows[2]              # the one that goes on, and the one before


cdef bint try_lock(Sketches* sketches) noexcept nogil
cdef void unlock(Sketches* sketches) noexcept nogil
cdef void turn(Sketches* sketches, uint64_t now) noexcept nogil
cdef void count_event(Sketches* sketches, const Event* event) noexcept nogil
cdef void count_key(Place* places, const Secret* secret, const uint8_t* key, size_t length) noexcept nogil
cdef dict listed(Sketches* sketches, uint64_t now, uint32_t most)
