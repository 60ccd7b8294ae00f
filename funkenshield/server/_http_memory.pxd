"""Memory that is counted for the session that holds it: functions as nghttp2 takes them, whose owner is the session."""

from libc.stdlib cimport calloc, free, malloc, realloc

from ._http cimport HttpSession

cdef extern from "<malloc.h>" nogil:
    size_t malloc_usable_size(void* octets)


cdef inline void* _counted(void* made, void* owner) noexcept nogil:
    if made != NULL:
        (<HttpSession*> owner).held += malloc_usable_size(made)
    return made


cdef inline void* take(size_t size, void* owner) noexcept nogil:
    return _counted(malloc(size), owner)


cdef inline void* take_zeros(size_t count, size_t size, void* owner) noexcept nogil:
    return _counted(calloc(count, size), owner)


cdef inline void* resize(void* octets, size_t size, void* owner) noexcept nogil:
    cdef:
        size_t before = malloc_usable_size(octets) if octets != NULL else 0
        void* made = _counted(realloc(octets, size), owner)
    if made != NULL:
        (<HttpSession*> owner).held -= before
    return made


cdef inline void give_back(void* octets, void* owner) noexcept nogil:
    if octets != NULL:
        (<HttpSession*> owner).held -= malloc_usable_size(octets)
        free(octets)
