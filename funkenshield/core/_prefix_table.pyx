"""Values by the longest prefix that an address is in: prefixes cut the line of all addresses into spans.

    10.0.0.0/8 = 1, 10.1.0.0/16 = 2      ..10.0.0.0)[10.0.0.0 = 1)[10.1.0.0 = 2)[10.2.0.0 = 1)[11.0.0.0 = 0..

It knows addresses as numbers, and nothing of what the values mean.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ._memory cimport free, zeros


cdef inline uint64_t _get64(const uint8_t* at) noexcept nogil:
    cdef:
        uint64_t value = 0
        size_t i
    for i in range(8):
        value = value << 8 | at[i]
    return value


cdef uint32_t prefix_value(const Prefixes* table, const uint8_t* address, uint8_t octets) noexcept nogil:
    """Return the value of the longest prefix that an address is in; 0 where it is in none."""
    cdef:
        const Span* spans = table.ipv4 if octets == 4 else table.ipv6
        uint32_t left = table.ipv4_count if octets == 4 else table.ipv6_count
        uint64_t high = 0
        uint64_t low
        uint32_t half
        const Span* middle
    if not left:
        return 0
    if octets == 4:
        low = <uint64_t> address[0] << 24 | <uint64_t> address[1] << 16 | <uint64_t> address[2] << 8 | address[3]
    else:
        high, low = _get64(address), _get64(address + 8)
    while left > 1:  # the span is among the `left` ones that begin at `spans`
        half = left >> 1
        middle = spans + half
        if middle.high < high or middle.high == high and middle.low <= low:
            spans = middle
            left -= half
        else:
            left = half
    return spans.value


def _spans(prefixes, octets):
    """Return where spans begin, and the value from there on, in order; prefixes are nested, or apart."""
    edges, spans = [], {0: 0}  # of what begins at one address, the last is that of the longest prefix
    inside = [(1 << octets * 8, 0)]  # prefixes that the line is in now, as (end, value); the longest is first
    for address, bits, value in prefixes:
        if len(address) not in (4, 16) or not 0 <= bits <= 8 * len(address):
            raise ValueError("that is no prefix: a prefix has an address of 4 or 16 octets, and no more bits")
        if len(address) == octets:
            size = 1 << octets * 8 - bits
            edges.append((int.from_bytes(address, "big") // size * size, -size, value))
    edges.sort(key=lambda edge: edge[:2])
    for start, negative, value in [*edges, (1 << octets * 8, 0, 0)]:
        while inside[0][0] <= start and len(inside) > 1:
            end, _ = inside.pop(0)
            spans[end] = inside[0][1]
        if negative:
            spans[start] = value
            inside.insert(0, (start - negative, value))
    spans.pop(1 << octets * 8, None)
    return sorted(spans.items())


cdef class PrefixTable:
    """Prefixes with values, as (address of 4 or 16 octets, bits, value). Raises ValueError where one is none.

    Of two that are the same, the later one counts. Memory ownership: the spans are its own.
    """

    def __cinit__(self, prefixes) -> None:
        cdef:
            Span* made
            uint32_t i
        prefixes = list(prefixes)
        for octets in (4, 16):
            spans = _spans(prefixes, octets)
            if len(spans) == 1 and not spans[0][1]:
                continue
            made = <Span*> zeros(len(spans), sizeof(Span))
            for i in range(len(spans)):
                made[i].high = spans[i][0] >> 64
                made[i].low = spans[i][0] & 0xffffffffffffffff
                made[i].value = spans[i][1]
            if octets == 4:
                self.prefixes.ipv4, self.prefixes.ipv4_count = made, <uint32_t> len(spans)
            else:
                self.prefixes.ipv6, self.prefixes.ipv6_count = made, <uint32_t> len(spans)

    def __dealloc__(self) -> None:
        free(self.prefixes.ipv4)
        free(self.prefixes.ipv6)


# ---------------------------------------------------------------- for Python

def longest(prefixes, addresses) -> list:
    """Return the value of the longest prefix that each address is in, both in octets; 0 where it is in none."""
    cdef:
        PrefixTable table = PrefixTable(prefixes)
        bytes address
    return [prefix_value(&table.prefixes, address, octets_of(address)) for address in addresses]
