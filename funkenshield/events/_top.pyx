"""What is asked for most, and by whom: bounded sketches of the last seconds.

A key stands in one of eight places; where all are taken, the one that was counted least gives way, and its count is
where the new one begins, as its error (space-saving: Metwally et al., ICDT 2005). So what is frequent stays, whatever
a flood of others brings, and no count is too low. Two windows of five seconds follow each other.
"""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from ..core._atomic cimport exchange, store_release
from ..core._clock cimport NANOSECONDS
from ..core._memory cimport zeros
from ..core._random cimport draw_secret
from ..core._siphash cimport Secret, siphash
from ..core._suffix_table cimport last_two_labels
from ..policy._rule_state cimport KINDS as KIND_COUNT
from ..wire._message cimport HEADER, NAME_MAX, QDCOUNT, fold_all, get16, plain_end
from ._event cimport Event, query_of, response_of
from ._names cimport kind_name

cdef uint64_t WINDOW = 5 * <uint64_t> NANOSECONDS
cdef tuple SUBJECT_NAMES = ("names", "clients", "zones")  # in the order of their numbers


cdef bint try_lock(Sketches* sketches) noexcept nogil:
    """Be the only one at the sketches; False: another is."""
    return exchange(&sketches.lock, 1) == 0


cdef void unlock(Sketches* sketches) noexcept nogil:
    store_release(&sketches.lock, 0)


cdef void turn(Sketches* sketches, uint64_t now) noexcept nogil:
    """Begin a new window where the current one is over. Caller must have the lock."""
    cdef Window* window = &sketches.windows[sketches.current]
    if window.began and now < window.began + WINDOW:
        return
    if window.began:
        sketches.current ^= 1
        window = &sketches.windows[sketches.current]
    memset(window, 0, sizeof(Window))
    window.began = now


cdef void count_event(Sketches* sketches, const Event* event) noexcept nogil:
    """Count a client's query. Caller must have the lock."""
    cdef:
        Window* window = &sketches.windows[sketches.current]
        const uint8_t* wire = query_of(event) if event.query else response_of(event)
        size_t length = event.query if event.query else event.response
        uint8_t[NAME_MAX] name
        const uint8_t* zone
        size_t size
    window.kinds[event.kind] += 1
    count_key(window.places[CLIENTS], &sketches.secret, event.address, event.octets)
    if length <= HEADER or not get16(wire + QDCOUNT):
        return
    length = <size_t> max(plain_end(wire, length, HEADER) - HEADER, 0)
    if length:
        fold_all(name, wire + HEADER, length)
        count_key(window.places[NAMES], &sketches.secret, name, length)
        zone = last_two_labels(name, &size)
        count_key(window.places[ZONES], &sketches.secret, zone, size)


cdef void count_key(Place* places, const Secret* secret, const uint8_t* key, size_t length) noexcept nogil:
    """Count a key, of 1 to KEY_ROOM octets."""
    cdef:
        uint64_t hashed = siphash(secret, key, length) | 1
        Place* place = &places[(hashed >> 32) % (PLACES // WAYS) * WAYS]
        Place* least = place
        uint32_t k
    for k in range(WAYS):
        if place[k].hash == hashed:
            place[k].count += 1
            return
        if place[k].count < least.count:
            least = &place[k]
    least.hash, least.error, least.length = hashed, least.count, <uint8_t> length
    least.count += 1
    memcpy(least.key, key, length)


cdef dict listed(Sketches* sketches, uint64_t now, uint32_t most):
    """Return what was counted in the last five to ten seconds. Caller must have the lock.

    That is, by subject, the first of (key, count, error), the most frequent first; what became of how many;
    and for how many seconds.
    """
    cdef:
        Window* window
        Place* place
        uint64_t began = now
        uint32_t w, s, k
    found = {name: {} for name in SUBJECT_NAMES}
    outcomes = {}
    for w in range(2):
        window = &sketches.windows[w]
        if not window.began or now > window.began + 2 * WINDOW:
            continue
        began = min(began, window.began)
        for k in range(KIND_COUNT):
            if window.kinds[k]:
                name = (<bytes> kind_name(<uint8_t> k)).decode()
                outcomes[name] = outcomes.get(name, 0) + window.kinds[k]
        for s in range(SUBJECTS):
            counted = found[SUBJECT_NAMES[s]]
            for k in range(PLACES):
                place = &window.places[s][k]
                if place.hash:
                    key = place.key[:place.length]
                    count, error = counted.get(key, (0, 0))
                    counted[key] = count + place.count, error + place.error
    first = {
        name: sorted(((key, *counts) for key, counts in counted.items()), key=_by_count)[:most]
        for name, counted in found.items()
    }
    return {**first, "outcomes": outcomes, "seconds": (now - began) / 1e9}


def _by_count(counted):
    return -counted[1], counted[0]


# ---------------------------------------------------------------- for tests

@cython.final
cdef class Sketch:
    """Counts of keys, by themselves."""

    cdef:
        Place* places
        Secret secret

    def __cinit__(self) -> None:
        self.places = <Place*> zeros(PLACES, sizeof(Place))
        draw_secret(&self.secret)

    def __dealloc__(self) -> None:
        free(self.places)

    def count(self, bytes key not None) -> None:
        """Count a key, of 1 to 255 octets."""
        if not 1 <= len(key) <= KEY_ROOM:
            raise ValueError("a key has 1 to 255 octets")
        count_key(self.places, &self.secret, key, len(key))

    def counts(self) -> dict:
        """Return (count, error) by key."""
        return {
            self.places[k].key[:self.places[k].length]: (self.places[k].count, self.places[k].error)
            for k in range(PLACES) if self.places[k].hash
        }
