"""Names whose letters are in upper or lower case at random (0x20): one more thing that a forger would have to guess.

It knows how a name is spelled as drawn, and whether a response has it so. A spelling is drawn in
`upstream/_sockets_and_ids`; what follows from another one is decided in `forward/_transport`.
"""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from ._message cimport HEADER, QDCOUNT, QUESTION_FIXED, fold, get16, name_size


cdef inline uint8_t _spelled(uint8_t letter, size_t at, uint64_t spelling) noexcept nogil:
    """Return a letter as a spelling has it at this octet of the question; what is no letter stays."""
    cdef uint8_t lower = fold(letter)
    return lower - 32 if <uint8_t> (lower - 97) < 26 and spelling >> (at & 63) & 1 else lower


cdef void respell(uint8_t* wire, uint64_t spelling) noexcept nogil:
    """Spell the question's name as drawn (0x20). Caller must ensure that the message has one."""
    cdef size_t at
    for at in range(name_size(wire + HEADER)):
        wire[HEADER + at] = _spelled(wire[HEADER + at], at, spelling)


cdef bint is_spelled(const uint8_t* wire, uint16_t question, uint64_t spelling) noexcept nogil:
    """Tell whether a response that answers a question of so many octets spells its name as drawn."""
    cdef size_t at
    if get16(wire + QDCOUNT) == 0:
        return False
    for at in range(question - QUESTION_FIXED):
        if wire[HEADER + at] != _spelled(wire[HEADER + at], at, spelling):
            return False
    return True


cdef bint is_mixed(const uint8_t* wire, uint16_t question) noexcept nogil:
    """Tell whether a question's name has letters of either case, as nobody spells it who has a way of his own."""
    cdef:
        bint upper = False
        bint lower = False
        size_t at
    for at in range(question - QUESTION_FIXED):
        upper |= <uint8_t> (wire[HEADER + at] - 65) < 26
        lower |= <uint8_t> (wire[HEADER + at] - 97) < 26
    return upper and lower
