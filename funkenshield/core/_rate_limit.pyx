"""How much came lately, by key, in memory of fixed size.

    word:  | 24 bits: tag of the key | 40 bits: due time, in 2**-20 s |

What fits is charged: the due time moves on by what it costs. What does not fit is not charged, so a client that is
limited has his allowed rate all the time, and not only once he is silent; with a `debt` it is, up to there, and who
goes on is limited until he stops.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ._atomic cimport LINE, compare_exchange, load_relaxed
from ._memory cimport free, zeros
from ._prefix_table cimport octets_of
from ._random cimport draw_secret
from ._siphash cimport siphash

cdef enum:
    TAG_SHIFT = 40
    PART = 20                      # bits of a cost below a unit of time
    SECOND = 1 << 20               # units of time in a second
    COARSE = 1 << 10               # so many units are exact enough: what is left of one is not charged
    TURNS = 4                      # while others write the same word; then a charge is lost, rather than time

cdef uint64_t DUE = (<uint64_t> 1 << TAG_SHIFT) - 1
cdef uint64_t LONGEST = <uint64_t> 1 << 38    # three days: at most what a tolerance is, and a cost
cdef uint64_t SKEW = <uint64_t> 1 << 24       # 16 s: no two batches have clocks that differ by more
cdef uint64_t GOLDEN = 0x9e3779b97f4a7c15     # 2**64 divided by the golden ratio


cdef uint64_t key_of(const Limit* limit, const uint8_t* address, uint8_t octets, uint64_t more) noexcept nogil:
    """Return the key of a source prefix, and of what else (a name, a kind) is counted by itself."""
    cdef:
        uint8_t[25] data
        uint8_t bits = limit.ipv4 if octets == 4 else limit.ipv6
        uint8_t whole = bits // 8
    memset(data, 0, 25)
    memcpy(data, &more, 8)
    data[8] = octets
    memcpy(data + 9, address, whole)
    if bits % 8:
        data[9 + whole] = address[whole] & <uint8_t> (0xff00 >> bits % 8)
    return siphash(&limit.secret, data, 9 + octets)


cdef inline uint64_t _ahead(uint64_t word, uint64_t now, uint64_t most) noexcept nogil:
    """Return how far a word's due time lies ahead; further than `most`, it is one that passed long ago."""
    cdef uint64_t ahead = (word - now) & DUE
    return ahead if ahead <= most else 0


cdef bint exceeds(const Limit* limit, uint64_t key, uint64_t weight, uint64_t now) noexcept nogil:
    """Charge a key with so much, below 2**24, and tell whether that does not fit; `now` is nanoseconds."""
    cdef:
        uint64_t* line = limit.cells + (key & (limit.lines - 1)) * CELLS
        uint64_t* place
        uint64_t tag = key & ~DUE | (<uint64_t> 1 << TAG_SHIFT)  # never that of an empty word
        uint64_t units = (now // 1000000000 << PART) + (now % 1000000000 << PART) // 1000000000
        uint64_t most = limit.tolerance + limit.debt
        uint64_t part, cost, word, ahead
        uint32_t _turn
        bint over = False
    part = weight * (limit.cost & (SECOND - 1))
    if limit.cost >> PART < COARSE:
        # Part of a unit is charged as a whole one as often as it is large, or above 2**20 a second nothing would be.
        part += now * GOLDEN >> (64 - PART)
    cost = weight * (limit.cost >> PART) + (part >> PART)
    for _turn in range(TURNS):
        place = line + _choose(line, tag, units, most + SKEW)
        word = load_relaxed(place)
        # Another batch's clock may be ahead of this one's: a word a little beyond `most` is not one of long ago.
        ahead = _ahead(word, units, most + SKEW) if word & ~DUE == tag else 0
        over = ahead + cost > limit.tolerance
        if over and not limit.debt:
            return True
        if compare_exchange(place, word, tag | ((units + max(ahead, min(ahead + cost, most))) & DUE)):
            return over
    return over


cdef uint32_t _choose(const uint64_t* line, uint64_t tag, uint64_t now, uint64_t most) noexcept nogil:
    """Return where a key's word is, or else that of whoever is least ahead of his due time, by `most` at most."""
    cdef:
        uint64_t least = DUE
        uint64_t word, ahead
        uint32_t chosen = 0
        uint32_t k
    for k in range(CELLS):
        word = load_relaxed(line + k)
        if word & ~DUE == tag:
            return k
        ahead = _ahead(word, now, most) if word else 0
        if ahead < least:
            least = ahead
            chosen = k
    return chosen


cdef void set_aside(Limit* limit, uint64_t key, uint64_t* line) noexcept nogil:
    """Let a copy of a limit count in a copy of its line for a key, of CELLS words: from here on it charges nobody.

    What it says of this key is what the limit itself would say; it knows no other.
    """
    cdef:
        const uint64_t* counted = limit.cells + (key & (limit.lines - 1)) * CELLS
        uint32_t k
    for k in range(CELLS):
        line[k] = load_relaxed(counted + k)
    limit.cells, limit.lines = line, 1


# ---------------------------------------------------------------- for Python

cdef class RateTable:
    """A limit: so many a second, of which as many as come in `window` seconds, or one, may come at once.

    Of rates there is nothing below one in three days, and nothing above 10**12 a second. It takes `memory` octets,
    rounded down to a power of two of cache lines; none of them is touched before somebody is counted there.

    Memory ownership: the table is its own; whoever counts by its limit keeps it.
    """

    def __cinit__(self, size_t memory, double rate, double window, uint8_t ipv4=32, uint8_t ipv6=64,
                  bint indebted=False) -> None:
        cdef Limit* limit = &self.limit
        if not (rate > 0 and window >= 0 and ipv4 <= 32 and ipv6 <= 128):
            raise ValueError("a limit has a rate above 0, and prefixes no longer than addresses")
        limit.lines = 1
        while 2 * limit.lines * LINE <= memory:
            limit.lines *= 2
        self.memory = zeros(limit.lines + 1, LINE)
        limit.cells = <uint64_t*> ((<size_t> self.memory + LINE - 1) // LINE * LINE)
        draw_secret(&limit.secret)
        limit.cost = <uint64_t> min(<double> (LONGEST << PART), max(1.0, <double> SECOND * SECOND / rate + 0.5))
        limit.tolerance = <uint64_t> min(<double> LONGEST, window * SECOND)
        limit.tolerance = max(limit.tolerance, (limit.cost + SECOND - 1) >> PART)
        limit.debt = limit.tolerance if indebted else 0
        limit.ipv4, limit.ipv6 = ipv4, ipv6

    def __dealloc__(self) -> None:
        free(self.memory)

    def exceeds(self, bytes address not None, uint64_t now, uint64_t weight=1, uint64_t more=0) -> bool:
        """Charge a source, and tell whether that does not fit; `now` is nanoseconds."""
        return source_exceeds(&self.limit, address, octets_of(address), more, weight, now)
