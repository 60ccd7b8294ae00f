"""Where names stand in the data of records, by type: those that may be compressed, and those that may not be.

Who follows the pointers of a name reads the message around it: RFC 1035 3.3 and 3597 4 say in which types. Those since
then are never compressed, and yet some read them like that: so theirs are looked at, too, where they stand at a fixed
place. It knows nothing else of what data means; what is unknown here is any octets (RFC 3597 3).
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from ._message cimport (
    CNAME, DNAME, NS, NSEC, RRSIG, RRSIG_SIGNER, SIG, SOA, SOA_NUMBERS, follow_name
)

cdef enum:  # types whose data has names, where nobody else has a word for them
    MD = 3
    MF = 4
    MB = 7
    MG = 8
    MR = 9
    PTR = 12
    MINFO = 14
    MX = 15
    RP = 17
    AFSDB = 18
    RT = 21
    NSAP_PTR = 23
    PX = 26
    NXT = 30
    SRV = 33
    NAPTR = 35
    KX = 36
    A6 = 38
    TALINK = 58
    SVCB = 64
    HTTPS = 65
    LP = 107

cdef enum:
    ANYTHING = 0xffff              # as many octets as there are
    NAPTR_FIXED = 4                # octets of order and preference
    NAPTR_TEXTS = 3
    A6_BITS = 128

cdef struct Layout:
    uint16_t before                # octets before the names
    uint16_t names
    uint16_t behind                # octets behind them


cdef Layout _layout(uint16_t rtype) noexcept nogil:
    if rtype in (NS, CNAME, PTR, DNAME, MD, MF, MB, MG, MR, NSAP_PTR):
        return Layout(0, 1, 0)
    if rtype == SOA:
        return Layout(0, 2, SOA_NUMBERS)
    if rtype in (RRSIG, SIG):
        return Layout(RRSIG_SIGNER, 1, ANYTHING)
    if rtype in (NSEC, NXT):
        return Layout(0, 1, ANYTHING)
    if rtype in (SVCB, HTTPS):
        return Layout(2, 1, ANYTHING)
    if rtype in (MX, AFSDB, RT, KX, LP):
        return Layout(2, 1, 0)
    if rtype == SRV:
        return Layout(6, 1, 0)
    if rtype in (MINFO, RP, TALINK):
        return Layout(0, 2, 0)
    if rtype == PX:
        return Layout(2, 2, 0)
    return Layout(0, 0, ANYTHING)


cdef bint has_sound_names(const uint8_t* wire, size_t at, size_t end, uint16_t rtype, uint32_t* steps) noexcept nogil:
    """Tell whether the data from `at` to `end`, in a message, has its names where they belong, and room for no other.

    `steps` is what following them may cost, and is counted down. Caller must ensure that the message has `end` octets.
    """
    cdef:
        Layout layout = _layout(rtype)
        int32_t name_end
        uint16_t _i
    if rtype == NAPTR:
        layout = Layout(_naptr_texts(wire, at, end), 1, 0)
    elif rtype == A6:
        layout = _a6(wire, at, end)
    if not layout.names:
        return layout.behind == ANYTHING or end - at == layout.before
    at += layout.before
    for _i in range(layout.names):
        name_end = follow_name(wire, end, at, steps)
        if name_end < 0:
            return False
        at = <size_t> name_end
    return layout.behind == ANYTHING or end - at == layout.behind


cdef uint16_t _naptr_texts(const uint8_t* wire, size_t at, size_t end) noexcept nogil:
    """Return the octets before the replacement of a NAPTR (RFC 3403 4.1): more than there are, where it has no room."""
    cdef:
        size_t start = at
        uint16_t _i
    at += NAPTR_FIXED
    for _i in range(NAPTR_TEXTS):
        at += 1 + (wire[at] if at < end else 0)
    return <uint16_t> (at - start)


cdef Layout _a6(const uint8_t* wire, size_t at, size_t end) noexcept nogil:
    """Return how an A6 is laid out: length of a prefix, rest of an address, name of the prefix (RFC 2874 3.1)."""
    if at == end or wire[at] > A6_BITS:
        return Layout(ANYTHING, 0, 0)  # as no data is
    return Layout(<uint16_t> (1 + (A6_BITS - wire[at] + 7) // 8), 1 if wire[at] else 0, 0)
