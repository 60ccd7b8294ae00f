"""Whose query it is, where a front proxy tells: PROXY protocol version 2, as HAProxy's specification has it.

    signature (12) | version and command | family and transport | length of the rest (2) | addresses, ports | TLVs

It knows one header in front of a query. Who is trusted to write one, and what is done with a query whose header is
missing, is decided elsewhere. Every length is checked before the octet is read.
"""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcmp, memcpy, memset

from ..core._prefix_table cimport octets_of, unmapped
from ._message cimport get16, set16

cdef enum:
    SIGNATURE = 12                 # octets that no query begins with
    LOCAL = 0x20                   # version 2; the proxy's own query
    PROXY = 0x21
    UNSPECIFIED = 0x00             # family and transport
    STREAM_4 = 0x11
    DATAGRAM_4 = 0x12
    STREAM_6 = 0x21
    DATAGRAM_6 = 0x22
    STREAM_UNIX = 0x31
    DATAGRAM_UNIX = 0x32
    ADDRESSES_4 = 12               # octets of two addresses and two ports
    ADDRESSES_6 = 36
    ADDRESSES_UNIX = 216

cdef const uint8_t* _SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


cdef ProxyHeaderStatus read_header(ProxyHeader* found, const uint8_t* wire, size_t length) noexcept nogil:
    """Read the header at the start of a datagram, or of what has come of a stream.

    `found.header` is set where the header is whole; `found.address` only where it tells one: with LOCAL,
    or without an address of the Internet, it stays the peer's, who must be in it before. TLVs are skipped.
    """
    cdef:
        uint8_t command, family
        size_t rest, needed
    if memcmp(wire, _SIGNATURE, min(length, <size_t> SIGNATURE)):
        return NO_HEADER
    if length < HEADER_FIXED:
        return PART_OF_HEADER
    command = wire[12]
    family = wire[13]
    rest = get16(wire + HEADER_REST)
    if command == LOCAL or command == PROXY and family == UNSPECIFIED:
        needed = 0
    elif command != PROXY:
        return BAD_HEADER
    elif family == STREAM_4 or family == DATAGRAM_4:
        needed = ADDRESSES_4
    elif family == STREAM_6 or family == DATAGRAM_6:
        needed = ADDRESSES_6
    elif family == STREAM_UNIX or family == DATAGRAM_UNIX:
        needed = ADDRESSES_UNIX
    else:
        return BAD_HEADER
    if rest < needed:
        return BAD_HEADER
    if length < HEADER_FIXED + rest:
        return PART_OF_HEADER
    found.header = HEADER_FIXED + rest
    found.to_octets = 0
    if needed == ADDRESSES_4 or needed == ADDRESSES_6:
        found.octets = 4 if needed == ADDRESSES_4 else 16
        found.address = unmapped(wire + HEADER_FIXED, &found.octets)
        found.to_octets = 4 if needed == ADDRESSES_4 else 16
        found.to = unmapped(wire + HEADER_FIXED + found.to_octets, &found.to_octets)
        found.port, found.to_port = get16(wire + HEADER_FIXED + needed - 4), get16(wire + HEADER_FIXED + needed - 2)
    return WHOLE_HEADER


cdef size_t _put_address(uint8_t* out, const ProxyHeader* end, bint wide) noexcept nogil:
    """Write an address, as an IPv6 one where both must be `wide` (RFC 4291 2.5.5.2); return its octets."""
    if wide and end.octets == 4:
        memset(out, 0, 10)
        memset(out + 10, 0xff, 2)
        memcpy(out + 12, end.address, 4)
        return 16
    memcpy(out, end.address, end.octets)
    return end.octets


cdef size_t put_header(uint8_t* out, const ProxyHeader* source, uint16_t port, const ProxyHeader* destination,
                       uint16_t to_port, bint datagram) noexcept nogil:
    """Write the header that tells an upstream whose query it is; return its octets, at most PROXIED_MAX."""
    cdef:
        bint wide = source.octets == 16 or destination.octets == 16
        size_t at = HEADER_FIXED
    memcpy(out, _SIGNATURE, SIGNATURE)
    out[12] = PROXY
    if wide:
        out[13] = DATAGRAM_6 if datagram else STREAM_6
    else:
        out[13] = DATAGRAM_4 if datagram else STREAM_4
    at += _put_address(out + at, source, wide)
    at += _put_address(out + at, destination, wide)
    set16(out + at, port)
    set16(out + at + 2, to_port)
    at += 4
    set16(out + HEADER_REST, <uint16_t> (at - HEADER_FIXED))
    return at


# ---------------------------------------------------------------- for Python

def parse_header(bytes octets not None) -> tuple[int, bytes | None]:
    """Return the length of the header that octets begin with, and the client's address, if it tells one.

    A length of 0: the header is not whole yet. Raises ValueError where they begin with no header.
    """
    cdef:
        ProxyHeader found
        ProxyHeaderStatus heading
    found.header = 0
    found.address = NULL
    found.octets = 0
    heading = read_header(&found, octets, len(octets))
    if heading == NO_HEADER or heading == BAD_HEADER:
        raise ValueError("that begins with no header of PROXY protocol version 2")
    return found.header, found.address[:found.octets] if found.octets else None


def parse_endpoints(bytes octets not None) -> bytes:
    """Return the client's port, the port that it asked, and the address of that, from a whole header, or b""."""
    cdef ProxyHeader found
    found.to_octets = 0
    if read_header(&found, octets, len(octets)) != WHOLE_HEADER or not found.to_octets:
        return b""
    ports = bytes((found.port >> 8, found.port & 255, found.to_port >> 8, found.to_port & 255))
    return ports + found.to[:found.to_octets]


def header(bytes source not None, uint16_t port, bytes destination not None, uint16_t to_port, *,
           bint datagram) -> bytes:
    """Return the header that tells of a query from one address and port to another.

    Raises ValueError where an address has neither 4 nor 16 octets.
    """
    cdef:
        ProxyHeader one, other
        uint8_t[PROXIED_MAX] out
    one.address, one.octets = source, octets_of(source)
    other.address, other.octets = destination, octets_of(destination)
    return (<char*> out)[:put_header(out, &one, port, &other, to_port, datagram)]
