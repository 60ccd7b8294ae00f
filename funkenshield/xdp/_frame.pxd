"""A frame with a query, and the one that answers it: Ethernet, IP and UDP around a message."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    TAG = 4                        # octets of a VLAN's tag
    ETHERNET = 14
    IPV4 = 20
    IPV6 = 40
    UDP = 8
    HEADERS_MAX = ETHERNET + 2 * TAG + IPV6 + UDP  # octets before a message
    FRAME_MIN = 60
    GROUP = 1                      # in an Ethernet address: it is nobody's own

cdef struct Frame:
    const uint8_t* octets
    const uint8_t* ip              # its packet
    const uint8_t* udp             # the datagram in it
    uint16_t length                # octets of the message behind that, which are all there
    uint8_t ip_octets              # of an address: 4 or 16


cdef bint parse_frame(Frame* frame, const uint8_t* octets, size_t length) noexcept nogil
cdef void put_client(const Frame* frame, uint32_t interface, uint8_t* address) noexcept nogil
cdef uint8_t* put_headers(const Frame* frame, uint8_t* message, size_t length) noexcept nogil


cdef inline const uint8_t* server_of(const Frame* frame) noexcept nogil:
    """Return the address that a frame was sent to."""
    return frame.ip + 16 if frame.ip_octets == 4 else frame.ip + 24


cdef inline uint16_t port_of(const Frame* frame) noexcept nogil:
    """Return the port that a frame was sent to, as it stands there."""
    return (<const uint16_t*> frame.udp)[1]


cdef inline bint was_drawn(const Frame* frame) noexcept nogil:
    """Tell whether the program in the kernel could have answered a query, and drew whether that is to be recorded.

    It marks the frame then (`answers.bpf.h`).
    """
    return frame.octets[0] & GROUP


cdef inline bint is_wanted(const Frame* frame) noexcept nogil:
    """Tell what it drew."""
    return frame.octets[6] & GROUP
