"""What the fields of a request say, octet by octet: its path, the query in it, its type, whom it was forwarded for.

It knows text (RFC 8484 4.1, RFC 4648 5). What is a request, and what becomes of it, is decided elsewhere.
"""

from libc.stdint cimport int8_t, int32_t, uint8_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy, memset
from posix.strings cimport strncasecmp

from ..core._prefix_table cimport unmapped

cdef extern from "<arpa/inet.h>" nogil:
    int AF_INET, AF_INET6
    int inet_pton(int family, const char* text, void* address)

cdef enum:
    ADDRESS_MAX = 64               # octets of an address as text, and more
    NUMBER_MAX = 9                 # digits
    NO_DIGIT = -1                  # of base64url,
cdef uint32_t NO_DIGITS = 0xff000000  # and where that shows in four, or fewer

cdef const uint8_t* PARAMETER = b"dns="
cdef const char* DNS_MESSAGE = b"application/dns-message"
cdef const uint8_t* ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
cdef int8_t[256] digits            # by letter


cdef size_t path_end(const uint8_t* target, size_t length) noexcept nogil:
    """Return where the path of a request's target ends, and its parameters may begin."""
    cdef const void* mark = memchr(target, c"?", length)
    return length if mark == NULL else <const uint8_t*> mark - target


cdef const uint8_t* dns_parameter(const uint8_t* target, size_t length, size_t* found) noexcept nogil:
    """Return the value of the parameter `dns` of a target, and its length; NULL: it has none."""
    cdef:
        size_t at = path_end(target, length) + 1
        size_t size
        const void* mark
    while at < length:
        mark = memchr(target + at, c"&", length - at)
        size = length - at if mark == NULL else <const uint8_t*> mark - (target + at)
        if size >= 4 and memcmp(target + at, PARAMETER, 4) == 0:
            found[0] = size - 4
            return target + at + 4
        at += size + 1
    return NULL


cdef size_t decoded_length(size_t length) noexcept nogil:
    """Return how many octets so many of base64url stand for, at most."""
    return length // 4 * 3 + length % 4 * 3 // 4


cdef inline uint32_t _digit(uint8_t letter) noexcept nogil:
    return <uint32_t> <int32_t> digits[letter]


cdef bint decode(uint8_t* out, const uint8_t* text, size_t length) noexcept nogil:
    """Write the `decoded_length` octets that base64url stands for; False: it is none, or padded (RFC 8484 6)."""
    cdef:
        uint32_t seen = 0
        uint32_t bits
        size_t _k
    if length % 4 == 1:
        return False
    for _k in range(length // 4):
        bits = _digit(text[0]) << 18 | _digit(text[1]) << 12 | _digit(text[2]) << 6 | _digit(text[3])
        out[0], out[1], out[2] = <uint8_t> (bits >> 16), <uint8_t> (bits >> 8), <uint8_t> bits
        seen |= bits
        text += 4
        out += 3
    if length % 4:
        bits = _digit(text[0]) << 10 | _digit(text[1]) << 4 | (_digit(text[2]) >> 2 if length % 4 == 3 else 0)
        out[0] = <uint8_t> (bits >> 8)
        if length % 4 == 3:
            out[1] = <uint8_t> bits
        seen |= bits
    return not seen & NO_DIGITS


cdef bint is_dns_message(const uint8_t* value, size_t length) noexcept nogil:
    """Tell whether a content type is that of DNS messages; parameters mean nothing."""
    cdef size_t size = 23
    if length < size or strncasecmp(<const char*> value, DNS_MESSAGE, size):
        return False
    return length == size or value[size] in (c";", c" ", c"\t")


cdef uint32_t read_number(const uint8_t* value, size_t length) noexcept nogil:
    """Return a number that is written in decimal, or one that is larger than any message for what is none."""
    cdef:
        uint32_t number = 0
        size_t k
    if not 0 < length <= NUMBER_MAX:
        return 0xffffffff
    for k in range(length):
        if not c"0" <= value[k] <= c"9":
            return 0xffffffff
        number = number * 10 + (value[k] - c"0")
    return number


cdef size_t put_number(uint8_t* out, uint32_t number) noexcept nogil:
    """Write a number in decimal; return its digits, at most ten."""
    cdef:
        uint8_t[10] digits
        size_t at = 10
    while True:
        at -= 1
        digits[at] = <uint8_t> (c"0" + number % 10)
        number //= 10
        if not number:
            break
    memcpy(out, digits + at, 10 - at)
    return 10 - at


cdef uint8_t last_forwarded_for(const uint8_t* value, size_t length, uint8_t* address) noexcept nogil:
    """Write the last address of X-Forwarded-For, which the last proxy has put there, and return its octets; 0: none.

    Some write the port behind it: `192.0.2.1:53`, `[2001:db8::1]:53`.
    """
    cdef:
        char[ADDRESS_MAX] text
        uint8_t[16] read
        const uint8_t* found = read
        uint8_t octets = 16
        size_t end = length
        size_t at, k
        size_t colons = 0
    while end and value[end - 1] in (c" ", c"\t"):
        end -= 1
    at = end
    while at and value[at - 1] != c",":
        at -= 1
    while at < end and value[at] in (c" ", c"\t", c"["):
        at += 1
    for k in range(at, end):
        if value[k] == c"]":
            end = k
            break
        colons += value[k] == c":"
    if end - at >= ADDRESS_MAX:
        return 0
    memcpy(text, value + at, end - at)
    text[end - at] = 0
    if colons == 1:  # a port; no IPv6 address has but one
        for k in range(end - at):
            if text[k] == c":":
                text[k] = 0
                break
    if inet_pton(AF_INET, text, read) == 1:
        octets = 4
    elif inet_pton(AF_INET6, text, read) == 1:
        found = unmapped(read, &octets)
    else:
        return 0
    memcpy(address, found, octets)
    return octets


cdef void _read_alphabet() noexcept:
    cdef uint32_t k
    memset(digits, NO_DIGIT, sizeof(digits))
    for k in range(64):
        digits[ALPHABET[k]] = <int8_t> k


_read_alphabet()


# ---------------------------------------------------------------- for Python

def query_of(bytes target not None) -> bytes | None:
    """Return the query that a request's target carries; None: it carries none, or what is no base64url."""
    cdef:
        size_t length = 0
        const uint8_t* text = dns_parameter(target, len(target), &length)
    if text == NULL:
        return None
    made = bytearray(decoded_length(length) + 1)
    return bytes(made[:decoded_length(length)]) if decode(made, text, length) else None


def forwarded_for(bytes value not None) -> bytes | None:
    """Return the last address of X-Forwarded-For, 4 or 16 octets; None: it is none."""
    cdef:
        uint8_t[16] address
        uint8_t octets = last_forwarded_for(value, len(value), address)
    return address[:octets] if octets else None


def is_query(bytes content_type not None) -> bool:
    """Tell whether a content type is that of DNS messages."""
    return is_dns_message(content_type, len(content_type))
