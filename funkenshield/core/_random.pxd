"""Random numbers that nobody can guess, drawn from the kernel a page at a time (RFC 5452)."""

from libc.stdint cimport uint8_t, uint16_t

from ._siphash cimport Secret

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void* buffer, size_t length, unsigned int flags)

cdef struct Randomness:
    size_t left                    # octets of the page that nobody has had yet
    uint8_t page[2048]


cdef inline uint16_t random16(Randomness* randomness) noexcept nogil:
    cdef ssize_t got
    while randomness.left < 2:
        got = getrandom(randomness.page, sizeof(randomness.page), 0)
        if got > 0:
            randomness.left = <size_t> got
    randomness.left -= 2
    return (<uint16_t> randomness.page[randomness.left] << 8) | randomness.page[randomness.left + 1]


cdef inline void draw_secret(Secret* secret) noexcept nogil:
    """Draw the secret of a table of our own."""
    while getrandom(secret, sizeof(Secret), 0) != sizeof(Secret):
        pass
