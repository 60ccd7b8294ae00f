"""Zones: which settings are a name's."""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ..core._siphash cimport Secret
from ..core._suffix_table cimport Suffixes
from ._zone_settings cimport ZoneSettings

cdef enum:
    ZONES_MAX = 4096               # zone 0 is everything that has no zone of its own


@cython.final
cdef class Zones:
    cdef:
        ZoneSettings* zone_settings  # by zone; read by everybody
        Suffixes numbers
        Secret secret
        list names                 # by zone, on the wire, in lower case; None: the number is free
        uint32_t count             # of zones with names
        uint32_t fresh             # the number to look at first for a new one

    cdef uint32_t find(self, const uint8_t* name, uint16_t qtype) noexcept nogil
