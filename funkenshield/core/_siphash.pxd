"""SipHash (Aumasson and Bernstein, INDOCRYPT 2012): the keyed hash that no client can steer.

SipHash-1-3 is for tables of our own; SipHash-2-4 is the one that others compute too (RFC 9018).
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

cdef extern from "<endian.h>" nogil:
    uint64_t le64toh(uint64_t word)

cdef struct Secret:
    uint64_t k0
    uint64_t k1

cdef struct SipState:
    uint64_t a
    uint64_t b
    uint64_t c
    uint64_t d


cdef inline uint64_t rotl(uint64_t x, int by) noexcept nogil:
    return (x << by) | (x >> (64 - by))


cdef inline void sip_round(SipState* s) noexcept nogil:
    s.a += s.b
    s.b = rotl(s.b, 13) ^ s.a
    s.a = rotl(s.a, 32)
    s.c += s.d
    s.d = rotl(s.d, 16) ^ s.c
    s.a += s.d
    s.d = rotl(s.d, 21) ^ s.a
    s.c += s.b
    s.b = rotl(s.b, 17) ^ s.c
    s.c = rotl(s.c, 32)


cdef inline uint64_t sip_rounds(const Secret* secret, const uint8_t* data, size_t length, int each,
                                int last) noexcept nogil:
    """Return the hash with `each` rounds a word and `last` rounds at the end; callers give them as constants."""
    cdef:
        SipState s
        uint64_t word
        size_t at = 0
        int _i
    s.a = secret.k0 ^ <uint64_t> 0x736f6d6570736575
    s.b = secret.k1 ^ <uint64_t> 0x646f72616e646f6d
    s.c = secret.k0 ^ <uint64_t> 0x6c7967656e657261
    s.d = secret.k1 ^ <uint64_t> 0x7465646279746573
    while at + 8 <= length:
        memcpy(&word, data + at, 8)
        word = le64toh(word)
        s.d ^= word
        for _i in range(each):
            sip_round(&s)
        s.a ^= word
        at += 8
    word = 0
    memcpy(&word, data + at, length - at)
    word = le64toh(word) | <uint64_t> length << 56
    s.d ^= word
    for _i in range(each):
        sip_round(&s)
    s.a ^= word
    s.c ^= 0xff
    for _i in range(last):
        sip_round(&s)
    return s.a ^ s.b ^ s.c ^ s.d


cdef inline uint64_t siphash(const Secret* secret, const uint8_t* data, size_t length) noexcept nogil:
    """Return SipHash-1-3 of `length` octets under the secret."""
    return sip_rounds(secret, data, length, 1, 3)


cdef inline uint64_t siphash24(const Secret* secret, const uint8_t* data, size_t length) noexcept nogil:
    """Return SipHash-2-4 of `length` octets under the secret."""
    return sip_rounds(secret, data, length, 2, 4)
