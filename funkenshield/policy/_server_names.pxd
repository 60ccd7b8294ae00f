"""In which lists of rules a TLS server name is: one bit for each list."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

cdef struct Listed:
    char* name                     # lower case; with a dot before it: all below it
    size_t length
    uint64_t lists                 # that it is in, one bit each

cdef struct ServerNames:
    uint64_t serial                # tells this table from others; never 0
    Listed* listed
    uint32_t count


cdef uint64_t lists_with(const ServerNames* names, const char* name) noexcept nogil


@cython.final
cdef class ServerNameTable:
    cdef ServerNames made
