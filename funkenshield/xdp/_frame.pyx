"""A frame with a query, and the one that answers it: Ethernet, IP and UDP around a message.

The program in the kernel has looked at each frame before us (`frame.bpf.h`); nothing here depends on that. It knows
headers and their sums, and nothing of what a message means.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ..core._udp_batch cimport AF_INET6, PEER_MAX
from ..wire._message cimport HEADER

cdef extern from "<sys/socket.h>" nogil:
    int AF_INET

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t)
    uint16_t ntohs(uint16_t)

cdef enum:
    TAGGED = 0x8100                # kinds of what a frame has
    TAGGED_OUTER = 0x88a8
    IPV4_PACKET = 0x0800
    IPV6_PACKET = 0x86dd
    UDP_PROTOCOL = 17
    WHOLE = 0x4000                 # flags and offset of a packet that nobody may divide
    DIVIDED = 0x3fff
    HOPS = 64


cdef bint parse_frame(Frame* frame, const uint8_t* octets, size_t length) noexcept nogil:
    """Find a message in a frame of so many octets; False: there is none, or one that is none of ours to answer."""
    cdef:
        size_t at = ETHERNET
        size_t left
        uint16_t kind
        int _tag
    if length < ETHERNET:
        return False
    kind = _get16(octets + 12)
    for _tag in range(2):
        if kind != TAGGED and kind != TAGGED_OUTER:
            break
        at += TAG
        if length < at:
            return False
        kind = _get16(octets + at - 2)
    frame.octets, frame.ip, left = octets, octets + at, length - at
    if kind == IPV4_PACKET:
        if left < IPV4 or frame.ip[0] != 0x45 or frame.ip[9] != UDP_PROTOCOL or _get16(frame.ip + 6) & DIVIDED:
            return False
        frame.ip_octets, frame.udp, at = 4, frame.ip + IPV4, IPV4
        if not IPV4 <= _get16(frame.ip + 2) <= left:
            return False
        left = <size_t> (_get16(frame.ip + 2) - IPV4)
    elif kind == IPV6_PACKET:
        if left < IPV6 or frame.ip[0] >> 4 != 6 or frame.ip[6] != UDP_PROTOCOL:
            return False
        frame.ip_octets, frame.udp, at = 16, frame.ip + IPV6, IPV6
        if _get16(frame.ip + 4) > left - IPV6:
            return False
        left = _get16(frame.ip + 4)
    else:
        return False
    if left < UDP or not UDP + HEADER <= _get16(frame.udp + 4) <= left or not _get16(frame.udp):
        return False
    frame.length = _get16(frame.udp + 4) - UDP
    return True


cdef void put_client(const Frame* frame, uint32_t interface, uint8_t* address) noexcept nogil:
    """Write a socket address, of PEER_MAX octets, of whoever has sent a frame by an interface."""
    memset(address, 0, PEER_MAX)
    memcpy(address + 2, frame.udp, 2)
    if frame.ip_octets == 4:
        (<uint16_t*> address)[0] = <uint16_t> AF_INET
        memcpy(address + 4, frame.ip + 12, 4)
    else:
        (<uint16_t*> address)[0] = <uint16_t> AF_INET6
        memcpy(address + 8, frame.ip + 8, 16)
        if address[8] == 0xfe and address[9] & 0xc0 == 0x80:  # of the link alone
            memcpy(address + 24, &interface, 4)


cdef uint8_t* put_headers(const Frame* frame, uint8_t* message, size_t length) noexcept nogil:
    """Write before a message, of at most 65,000 octets, what leads it back to where a frame came from.

    Caller must ensure that there are HEADERS_MAX octets before it. Returns where the new frame begins.
    """
    cdef:
        uint8_t* udp = message - UDP
        uint8_t* ip = udp - (IPV4 if frame.ip_octets == 4 else IPV6)
        uint8_t* begin = ip - (frame.ip - frame.octets)
        uint16_t size = htons(<uint16_t> (UDP + length))
        uint64_t total
    memcpy(begin, frame.octets + 6, 6)
    memcpy(begin + 6, frame.octets, 6)
    begin[0] &= ~GROUP  # the kernel's marks
    begin[6] &= ~GROUP
    memcpy(begin + 12, frame.octets + 12, <size_t> (ip - begin) - 12)  # tags, and what kind it is
    if frame.ip_octets == 4:
        _put_ipv4(ip, frame.ip, IPV4 + UDP + length)
    else:
        _put_ipv6(ip, frame.ip, size)
    memcpy(udp, frame.udp + 2, 2)
    memcpy(udp + 2, frame.udp, 2)
    memcpy(udp + 4, &size, 2)
    memset(udp + 6, 0, 2)
    total = <uint64_t> htons(UDP_PROTOCOL) + size
    total = _add(total, udp - 2 * frame.ip_octets, 2 * frame.ip_octets)  # both addresses: the last of either header
    _put_sum(udp + 6, _add(total, udp, UDP + length))
    return begin


cdef void _put_ipv4(uint8_t* out, const uint8_t* theirs, size_t length) noexcept nogil:
    """Write a header back; packets that nobody divides need no number (RFC 6864)."""
    cdef uint16_t size = htons(<uint16_t> length)
    cdef uint16_t whole = htons(WHOLE)
    memset(out, 0, IPV4)
    out[0], out[8], out[9] = 0x45, HOPS, UDP_PROTOCOL
    memcpy(out + 2, &size, 2)
    memcpy(out + 6, &whole, 2)
    memcpy(out + 12, theirs + 16, 4)
    memcpy(out + 16, theirs + 12, 4)
    _put_sum(out + 10, _add(0, out, IPV4))


cdef void _put_ipv6(uint8_t* out, const uint8_t* theirs, uint16_t size) noexcept nogil:
    memset(out, 0, 8)
    out[0], out[6], out[7] = 0x60, UDP_PROTOCOL, HOPS
    memcpy(out + 4, &size, 2)
    memcpy(out + 8, theirs + 24, 16)
    memcpy(out + 24, theirs + 8, 16)


cdef inline uint16_t _get16(const uint8_t* at) noexcept nogil:
    return <uint16_t> (at[0] << 8 | at[1])


cdef inline uint64_t _add(uint64_t total, const uint8_t* octets, size_t length) noexcept nogil:
    """Add octets to a sum, in words as this machine has them: the sum is as good in either order (RFC 1071)."""
    cdef:
        uint32_t word
        size_t k
    for k in range(0, length & ~<size_t> 3, 4):
        memcpy(&word, octets + k, 4)
        total += word
    if length & 3:
        word = 0
        memcpy(&word, octets + (length & ~<size_t> 3), length & 3)
        total += word
    return total


cdef inline void _put_sum(uint8_t* out, uint64_t total) noexcept nogil:
    """Write the sum of UDP or IPv4: of the two zeros, the one that says that there is one."""
    cdef uint16_t folded
    total = (total & <uint64_t> 0xffffffff) + (total >> 32)
    total = (total & 0xffff) + (total >> 16 & 0xffff) + (total >> 32)
    total = (total & 0xffff) + (total >> 16)
    total = (total & 0xffff) + (total >> 16)
    folded = <uint16_t> ~total
    if folded == 0:
        folded = 0xffff
    memcpy(out, &folded, 2)


def answered(bytes frame not None, bytes message not None, uint32_t interface=0) -> tuple | None:
    """Return the message in a frame that came by an interface, both ends of it, and the frame that answers it; or None.

    The ends are its client's socket address, and the server's address and port. It is for tests, which show what
    workers do. A message is cut at 65,000 octets.
    """
    cdef:
        Frame parsed
        uint8_t[PEER_MAX] address
        bytearray made = bytearray(HEADERS_MAX) + message[:65000]
        uint8_t* begin
    if not parse_frame(&parsed, frame, len(frame)):
        return None
    put_client(&parsed, interface, address)
    begin = put_headers(&parsed, <uint8_t*> made + HEADERS_MAX, len(made) - HEADERS_MAX)
    return (
        parsed.udp[UDP:UDP + parsed.length], address[:PEER_MAX], server_of(&parsed)[:parsed.ip_octets],
        ntohs(port_of(&parsed)), bytes(made[begin - <uint8_t*> made:]),
    )
