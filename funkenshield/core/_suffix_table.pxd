"""The suffixes of a name; and values by a name's hash, found for it or for what it ends in: one look for each label."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ._atomic cimport load_acquire, store_release
from ._siphash cimport Secret, siphash

cdef struct Suffixes:              # one writer, any number of readers
    uint64_t* pairs                # hash and value, behind each other; 0: free
    uint64_t mask                  # places less one, a power of two less one
    uint32_t used


cdef inline const uint8_t* parent_of(const uint8_t* name) noexcept nogil:
    """Return a name on the wire without its first label; NULL: it is the root. So all suffixes of a name are walked.

    Caller must ensure that it is whole, and has no pointers.
    """
    return name + 1 + name[0] if name[0] else NULL


cdef inline uint32_t label_count(const uint8_t* name) noexcept nogil:
    """Return how many labels a name has, the root not counted."""
    cdef uint32_t labels = 0
    while name[0]:
        name = parent_of(name)
        labels += 1
    return labels


cdef inline const uint8_t* last_two_labels(const uint8_t* name, size_t* length) noexcept nogil:
    """Return what a name ends in, or all of it if it has no more than two labels, and in `length` its octets."""
    cdef:
        const uint8_t* last = name
        const uint8_t* rest = name
    while rest[0]:
        name, last, rest = last, rest, parent_of(rest)
    length[0] = rest + 1 - name
    return name


cdef inline uint64_t suffix_key(const Secret* secret, const uint8_t* name, size_t length) noexcept nogil:
    """Return the hash of a name; never 0, which is a free place."""
    return siphash(secret, name, length) | 1


cdef inline uint64_t suffix_value(const Suffixes* table, uint64_t key) noexcept nogil:
    """Return the value of a hash, or 0."""
    cdef:
        uint64_t place = key >> 32 & table.mask
        uint64_t found = load_acquire(table.pairs + 2 * place)
    while found:
        if found == key:
            return load_acquire(table.pairs + 2 * place + 1)
        place = (place + 1) & table.mask
        found = load_acquire(table.pairs + 2 * place)
    return 0


cdef inline void suffix_set(Suffixes* table, uint64_t key, uint64_t value) noexcept nogil:
    """Give a hash a value. Caller must ensure that a quarter of the places stays free."""
    cdef uint64_t place = key >> 32 & table.mask
    while table.pairs[2 * place] and table.pairs[2 * place] != key:
        place = (place + 1) & table.mask
    store_release(table.pairs + 2 * place + 1, value)
    if not table.pairs[2 * place]:
        store_release(table.pairs + 2 * place, key)
        table.used += 1


cdef inline bint suffixes_full(const Suffixes* table) noexcept nogil:
    return table.used > table.mask // 4 * 3
