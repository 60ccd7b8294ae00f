"""Memory for the tables of compiled code: zeros at first, and then what `free` gives back."""

from libc.stdlib cimport calloc, free


cdef inline void* zeros(size_t count, size_t size) except NULL:
    """Return `count` times `size` octets; raises MemoryError where there is no room for them."""
    cdef void* made = calloc(count, size)
    if made == NULL:
        raise MemoryError(f"no memory for {count} times {size} octets")
    return made
