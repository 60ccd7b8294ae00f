"""Zones: which settings are a name's.

It knows names and their numbers; the longest zone that a name is in decides. Only the control thread asks
for a name, once for a miss; an answer in the cache carries its zone's number.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from ..core._atomic cimport copy_words
from ..core._clock cimport TICKS_PER_SECOND
from ..core._limits cimport EDNS_UDP_SIZE
from ..core._memory cimport free, zeros
from ..core._random cimport draw_secret
from ..core._suffix_table cimport parent_of, suffix_key, suffix_set, suffix_value
from ..wire._message cimport DS, is_name, name_size
from ._zone_settings cimport STALE_IMMEDIATE, STALE_OFF, STALE_ON_FAILURE, RenderOptions, TtlLimits, ZoneSettings

_MODES = {"off": STALE_OFF, "on-failure": STALE_ON_FAILURE, "immediate": STALE_IMMEDIATE}


cdef class Zones:
    """Settings by number, and numbers by name.

    Memory ownership: settings and table are its own.
    """

    def __cinit__(self) -> None:
        self.zone_settings = <ZoneSettings*> zeros(ZONES_MAX, sizeof(ZoneSettings))
        self.numbers.pairs = <uint64_t*> zeros(4 * ZONES_MAX, 16)
        self.numbers.mask = 4 * ZONES_MAX - 1
        draw_secret(&self.secret)
        self.names = [None] * ZONES_MAX
        self.fresh = 1
        self.configure(0)

    def __dealloc__(self) -> None:
        free(self.zone_settings)
        free(self.numbers.pairs)

    cdef uint32_t find(self, const uint8_t* name, uint16_t qtype) noexcept nogil:
        """Return the number of the zone that a question is about. Caller must ensure that the name is in lower case.

        The DS records of a zone are its parent's (RFC 4035 3.1.4.1).
        """
        cdef:
            const uint8_t* end = name + name_size(name)
            const uint8_t* suffix = parent_of(name) if qtype == DS and name[0] else name
            uint64_t number = 0
        while self.count and not number and suffix != NULL:
            number = suffix_value(&self.numbers, suffix_key(&self.secret, suffix, end - suffix))
            suffix = parent_of(suffix)
        return <uint32_t> number

    def number(self, bytes name not None, uint16_t qtype=0) -> int:
        """Return the number of the zone that a question is about, or 0; the name is on the wire, in lower case."""
        cdef const uint8_t* wire = name
        if not is_name(wire, len(name), 0) or name_size(wire) != len(name):
            raise ValueError("that is no name on the wire")
        return self.find(wire, qtype)

    def group(self, uint32_t number) -> int:
        """Return the group of upstreams that a zone asks."""
        return self.zone_settings[number % ZONES_MAX].group

    def name(self, uint32_t number) -> bytes:
        """Return the name of a zone; zone 0 is everything, and the root's."""
        return self.names[number] or b"\0"

    @property
    def numbered(self) -> dict:
        """Return the zones' names by their numbers; zone 0 has none."""
        return {number: name for number, name in enumerate(self.names) if name is not None}

    def resume(self, dict numbered not None) -> None:
        """Let zones have the numbers that another process gave them, until `assign` says which there are now."""
        for number, name in numbered.items():
            if not 0 < number < ZONES_MAX:
                raise ValueError(f"zones are numbered below {ZONES_MAX}")
            self.names[number] = name

    def assign(self, names) -> list:
        """Let these be the zones from now on; return the names that were not before, or are no longer.

        A zone that stays keeps its number; one that leaves gives its number back. Raises ValueError where
        there are too many.
        """
        cdef bytes name
        wanted = set(names)
        had = {name for name in self.names if name is not None}
        if len(wanted) >= ZONES_MAX:
            raise ValueError(f"there can be {ZONES_MAX - 1} zones, not {len(wanted)}")
        for number in range(1, ZONES_MAX):
            if self.names[number] not in wanted:
                self.names[number] = None
        for name in sorted(wanted - had):
            while self.names[self.fresh] is not None:
                self.fresh = self.fresh % (ZONES_MAX - 1) + 1
            self.names[self.fresh] = name
            self.fresh = self.fresh % (ZONES_MAX - 1) + 1  # a number that was given back is used last
        memset(self.numbers.pairs, 0, 4 * ZONES_MAX * 16)
        self.numbers.used = 0
        for number, name in enumerate(self.names):
            if name is not None:
                suffix_set(&self.numbers, suffix_key(&self.secret, name, len(name)), number)
        self.count = <uint32_t> len(wanted)
        return sorted(wanted ^ had)

    def configure(self, uint32_t zone, *, uint32_t shortest=0, uint32_t longest=86400, uint32_t negative=3600,
                  uint32_t failure=5, uint16_t payload=EDNS_UDP_SIZE, bint keep_ttl=False, bint shuffle=False,
                  str stale="off", uint32_t stale_longest=86400, uint32_t stale_ttl=30, double client_timer=1.8,
                  double recheck=30, bint prefetch=False, bint nxdomain_cut=False, bint trust_nsec=False,
                  uint32_t group=0, uint32_t max_outstanding=0xffffffff) -> None:
        """Say how a zone's answers are held and served; times are seconds, the payload is octets."""
        cdef ZoneSettings settings
        if not 512 <= payload <= 4096:
            raise ValueError(f"a UDP payload has 512 to 4096 octets, not {payload}")
        if zone >= ZONES_MAX or group >= ZONES_MAX:
            raise ValueError(f"zones are numbered below {ZONES_MAX}")
        settings = ZoneSettings(
            ttl_limits=TtlLimits(shortest, longest, negative, failure),
            manner=RenderOptions(payload, keep_ttl, shuffle, stale_ttl),
            stale_mode=_MODES[stale], prefetch=prefetch, nxdomain_cut=nxdomain_cut,
            trust_nsec=trust_nsec, group=group, max_outstanding=max_outstanding,
            stale_longest=stale_longest * TICKS_PER_SECOND, client_timer=<uint64_t> (client_timer * 1e9),
            recheck=<uint32_t> (recheck * TICKS_PER_SECOND),
        )
        copy_words(&self.zone_settings[zone], &settings, sizeof(ZoneSettings))
