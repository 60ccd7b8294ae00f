"""In which lists of rules a TLS server name is: one bit for each list.

A connection is asked once, not each of its queries: what a rule then tests is a word.
"""

cimport cython
from collections.abc import Mapping

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, strlen

from ..core._memory cimport zeros

cdef uint64_t serials = 0


cdef uint64_t lists_with(const ServerNames* names, const char* name) noexcept nogil:
    """Return the lists that a name in lower case is in, one bit each."""
    cdef:
        size_t length = strlen(name)
        uint64_t lists = 0
        const Listed* each
        uint32_t k
    for k in range(names.count):
        each = &names.listed[k]
        if length == each.length or length > each.length and each.name[0] == c".":
            if memcmp(name + length - each.length, each.name, each.length) == 0:
                lists |= each.lists
    return lists


@cython.final
cdef class ServerNameTable:
    """Names in lower case, with the lists that each is in, one bit each; `*.` before a name: all that is below it.

    Memory ownership: the names are its own. Nothing of it is changed later.
    """

    def __cinit__(self, names: Mapping[str, int]) -> None:
        global serials
        cdef:
            Listed* each
            bytes octets
        serials += 1
        self.made.serial = serials
        self.made.listed = <Listed*> zeros(len(names) + 1, sizeof(Listed))
        for name, lists in names.items():
            octets = name.removeprefix("*").encode()
            each = &self.made.listed[self.made.count]
            each.name = <char*> zeros(len(octets) + 1, 1)
            memcpy(each.name, <const char*> octets, len(octets))
            each.length, each.lists = len(octets), lists
            self.made.count += 1

    def __dealloc__(self) -> None:
        for k in range(self.made.count):
            free(self.made.listed[k].name)
        free(self.made.listed)

    def lists_with(self, name: bytes) -> int:
        """Return the lists that a name in lower case is in, one bit each."""
        return lists_with(&self.made, name)
