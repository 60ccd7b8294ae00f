"""A batch of datagrams: received in one system call, sent in one, its buffers made once and kept.

It knows sockets' addresses and control messages, and nothing of what the octets mean.
"""

cimport cython
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, errno
from libc.stdint cimport int32_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

cdef extern from "<sys/socket.h>" nogil:
    ctypedef struct cmsghdr "struct cmsghdr":
        int cmsg_level
        int cmsg_type
    int recvmmsg(int fd, mmsghdr* headers, unsigned int count, int flags, void* timeout)
    int sendmmsg(int fd, mmsghdr* headers, unsigned int count, int flags)
    cmsghdr* CMSG_FIRSTHDR(msghdr*)
    uint8_t* CMSG_DATA(cmsghdr*)
    int MSG_DONTWAIT

cdef extern from "<netinet/in.h>":
    int IPPROTO_IP, IP_PKTINFO


@cython.final
cdef class Datagrams:
    """Sixty-four datagrams of at most `size` octets each.

    Memory ownership: all buffers are its own and freed with it; a `put` datagram is not copied, so
    what it points to must stay until it was sent. Buffers start a few cache lines apart, or else the
    heads of all datagrams would fight for the same few sets of the CPU's cache.
    """

    def __cinit__(self, size_t size) -> None:
        if not 1 <= size <= 65536:
            raise ValueError(f"a datagram has 1 to 65536 octets, not {size}")
        self.size = size
        self.stride = ((size + 63) & ~63) + 5 * 64
        self.headers = <mmsghdr*> calloc(BATCH, sizeof(mmsghdr))
        self.parts = <iovec*> calloc(BATCH, sizeof(iovec))
        self.octets = <uint8_t*> calloc(BATCH, self.stride)
        self.addresses = <uint8_t*> calloc(BATCH, PEER_MAX)
        self.controls = <uint8_t*> calloc(BATCH, CONTROL_MAX)
        if not (self.headers and self.parts and self.octets and self.addresses and self.controls):
            raise MemoryError("no memory for a batch of datagrams")
        self.spoilt = BATCH

    def __dealloc__(self) -> None:
        free(self.headers)
        free(self.parts)
        free(self.octets)
        free(self.addresses)
        free(self.controls)

    cdef uint8_t* buffer(self, int32_t i) noexcept nogil:
        return self.octets + i * self.stride

    cdef int32_t receive(self, int fd) noexcept nogil:
        """Receive what waits, into the own buffers; return how many, 0 for none, -1 for an error (errno)."""
        cdef:
            msghdr* header
            int32_t i, count
        for i in range(self.spoilt):
            self.parts[i] = iovec(self.buffer(i), self.size)
            header = &self.headers[i].msg_hdr
            header.msg_name = self.addresses + i * PEER_MAX
            header.msg_namelen = PEER_MAX
            header.msg_iov = &self.parts[i]
            header.msg_iovlen = 1
            header.msg_control = self.controls + i * CONTROL_MAX
            header.msg_controllen = CONTROL_MAX
        count = recvmmsg(fd, self.headers, BATCH, MSG_DONTWAIT, NULL)
        self.spoilt = max(count, 0)
        return count

    cdef int32_t send(self, int fd, int32_t count) noexcept nogil:
        """Send the first `count` datagrams; return how many went.

        Where the kernel has no room, the rest is lost. One that cannot be sent at all (`error` says why)
        costs no other: anybody can make such a one, with a source port of 0.
        """
        cdef int32_t done = 0
        cdef int32_t went = 0
        cdef int32_t sent
        self.error = 0
        while done < count:
            sent = sendmmsg(fd, self.headers + done, count - done, MSG_DONTWAIT)
            if sent > 0:
                done += sent
                went += sent
            elif errno == EAGAIN or errno == ENOBUFS:
                break
            elif errno != EINTR:
                self.error = errno
                done += 1
        return went

    cdef void get_peer(self, int32_t i, Peer* peer) noexcept nogil:
        """Copy who sent a received datagram, and the address it was sent to."""
        cdef msghdr* header = &self.headers[i].msg_hdr
        peer.length = <uint8_t> header.msg_namelen
        peer.control_length = <uint8_t> header.msg_controllen
        memcpy(peer.address, header.msg_name, PEER_MAX)
        if peer.control_length:
            _any_interface(header)
            memcpy(peer.control, header.msg_control, CONTROL_MAX)

    cdef void put(self, int32_t i, const uint8_t* wire, size_t length) noexcept nogil:
        """Make a datagram of `length` octets at `wire`, for the socket's own peer."""
        self.parts[i] = iovec(<void*> wire, length)
        memset(&self.headers[i].msg_hdr, 0, sizeof(msghdr))
        self.headers[i].msg_hdr.msg_iov = &self.parts[i]
        self.headers[i].msg_hdr.msg_iovlen = 1

    cdef void put_peer(self, int32_t i, const Peer* peer) noexcept nogil:
        """Address a datagram to a peer; it must stay until the datagram was sent."""
        cdef msghdr* header = &self.headers[i].msg_hdr
        header.msg_name = <void*> peer.address
        header.msg_namelen = peer.length
        if peer.control_length:
            header.msg_control = <void*> peer.control
            header.msg_controllen = peer.control_length

    cdef void answer_to(self, int32_t i, Datagrams received, int32_t j) noexcept nogil:
        """Address a datagram to the sender of a received one, from the address that he asked."""
        cdef msghdr* header = &self.headers[i].msg_hdr
        cdef msghdr* theirs = &received.headers[j].msg_hdr
        header.msg_name = theirs.msg_name
        header.msg_namelen = theirs.msg_namelen
        if theirs.msg_controllen:
            _any_interface(theirs)
            header.msg_control = theirs.msg_control
            header.msg_controllen = theirs.msg_controllen


cdef void _any_interface(msghdr* header) noexcept nogil:
    """Let the kernel route a reply: an in_pktinfo starts with the interface that the query came by."""
    cdef cmsghdr* control = CMSG_FIRSTHDR(header)
    if control != NULL and control.cmsg_level == IPPROTO_IP and control.cmsg_type == IP_PKTINFO:
        memset(CMSG_DATA(control), 0, 4)
