"""Values by the hash of a name, found for a name or for what it ends in: one look for each label."""

from libc.stdint cimport uint32_t, uint64_t

from ._atomic cimport load_acquire, store_release

cdef struct Suffixes:              # one writer, any number of readers
    uint64_t* pairs                # hash and value, behind each other; 0: free
    uint64_t mask                  # places less one, a power of two less one
    uint32_t used


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
