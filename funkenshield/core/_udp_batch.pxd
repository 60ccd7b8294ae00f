"""A batch of datagrams: received in one system call, sent in one, its buffers made once and kept."""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from ._prefix_table cimport unmapped

cdef enum:
    BATCH = 64                     # datagrams that one system call carries, or the kernel takes as one
    PEER_MAX = 28                  # octets of a sockaddr_in6
    CONTROL_MAX = 40               # octets of one control message with an in6_pktinfo

cdef extern from "<sys/socket.h>" nogil:
    ctypedef struct iovec "struct iovec":
        void* iov_base
        size_t iov_len
    ctypedef struct msghdr "struct msghdr":
        void* msg_name
        uint32_t msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    ctypedef struct mmsghdr "struct mmsghdr":
        msghdr msg_hdr
        unsigned int msg_len
    int MSG_TRUNC, AF_INET6

cdef struct Peer:                  # who sent a datagram, and to which of our addresses
    uint8_t length
    uint8_t control_length
    uint8_t address[PEER_MAX]
    uint8_t control[CONTROL_MAX]


cdef bint can_join(int fd) noexcept nogil


cdef inline const uint8_t* ip_of(const uint8_t* address, uint8_t* octets) noexcept nogil:
    """Return where in a socket address the client's own stands, and its octets."""
    cdef bint six = (<const uint16_t*> address)[0] == AF_INET6
    octets[0] = 16 if six else 4
    return unmapped(address + 8, octets) if six else address + 4


@cython.final
cdef class Datagrams:
    cdef:
        size_t size                # octets that a buffer holds
        size_t stride              # octets from one buffer to the next
        mmsghdr* headers
        iovec* parts
        uint8_t* octets
        uint8_t* rooms[BATCH]      # where datagrams that are to be sent can be written
        uint8_t* addresses
        uint8_t* controls
        int error                  # of the last `send`, for a datagram that could not be sent; 0: none
        bint joined                # the way of the last `send_joined` allows it
        int32_t spoilt             # headers that the last call wrote to

    cdef int32_t receive(self, int fd) noexcept nogil
    cdef int32_t send(self, int fd, int32_t count) noexcept nogil
    cdef int32_t send_joined(self, int fd, int32_t count) noexcept nogil
    cdef void _sort(self, int32_t count) noexcept nogil
    cdef int32_t _make_runs(self, int32_t first, int32_t count, size_t longest) noexcept nogil
    cdef uint8_t* buffer(self, int32_t i) noexcept nogil
    cdef void get_peer(self, int32_t i, Peer* peer) noexcept nogil
    cdef const uint8_t* asked(self, int32_t i, uint8_t* octets) noexcept nogil
    cdef void put(self, int32_t i, const uint8_t* wire, size_t length) noexcept nogil
    cdef void put_peer(self, int32_t i, const Peer* peer) noexcept nogil
    cdef void answer_to(self, int32_t i, Datagrams received, int32_t j) noexcept nogil
