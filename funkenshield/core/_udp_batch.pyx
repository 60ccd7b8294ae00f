"""A batch of datagrams: received in one system call, sent in one, its buffers made once and kept.

It knows sockets' addresses and control messages, and nothing of what the octets mean.
"""

from libc.errno cimport EAGAIN, EINTR, EINVAL, EIO, EMSGSIZE, ENOBUFS, errno
from libc.stdint cimport int32_t, uint8_t, uint16_t
from libc.string cimport memcpy, memset

from ._memory cimport free, zeros

cdef extern from "<sys/socket.h>" nogil:
    ctypedef struct cmsghdr "struct cmsghdr":
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    int recvmmsg(int fd, mmsghdr* headers, unsigned int count, int flags, void* timeout)
    int sendmmsg(int fd, mmsghdr* headers, unsigned int count, int flags)
    cmsghdr* CMSG_FIRSTHDR(msghdr*)
    uint8_t* CMSG_DATA(cmsghdr*)
    size_t CMSG_LEN(size_t), CMSG_SPACE(size_t)
    int setsockopt(int fd, int level, int name, const void* value, uint32_t length)
    int MSG_DONTWAIT

cdef extern from "<netinet/in.h>":
    int IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP, IP_PKTINFO, IPV6_PKTINFO

cdef extern from "<netinet/udp.h>":
    int UDP_SEGMENT

cdef enum:
    JOINED_MAX = 512               # octets of the longest datagrams that pass the kernel as one: any link takes them


cdef bint can_join(int fd) noexcept nogil:
    """Tell whether the kernel knows how to `send_joined` through a socket: since Linux 4.18."""
    cdef int none = 0
    return setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &none, sizeof(none)) == 0


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
        self.headers = <mmsghdr*> zeros(BATCH, sizeof(mmsghdr))
        self.parts = <iovec*> zeros(BATCH, sizeof(iovec))
        self.octets = <uint8_t*> zeros(BATCH, self.stride)
        self.addresses = <uint8_t*> zeros(BATCH, PEER_MAX)
        self.controls = <uint8_t*> zeros(BATCH, CONTROL_MAX)
        self.spoilt = BATCH
        for i in range(BATCH):
            self.rooms[i] = self.buffer(i)

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

    cdef int32_t send_joined(self, int fd, int32_t count) noexcept nogil:
        """Send like `send`, but to the socket's own peer, in any order: those of one length pass the kernel as one.

        The peer gets them one by one, as ever (UDP_SEGMENT). Where the way there allows no such thing, each passes
        for itself, and `joined` says so.
        """
        cdef:
            int32_t done = 0
            int32_t went = 0
            int32_t runs, sent, k
        self.error = 0
        self.joined = True
        self._sort(count)
        runs = self._make_runs(0, count, BATCH)
        while done < runs:
            sent = sendmmsg(fd, self.headers + done, runs - done, MSG_DONTWAIT)
            for k in range(done, done + sent):
                went += <int32_t> self.headers[k].msg_hdr.msg_iovlen
            if sent > 0:
                done += sent
            elif self.headers[done].msg_hdr.msg_iovlen > 1 and (errno == EINVAL or errno == EIO or errno == EMSGSIZE):
                self.joined = False
                return went + self.send(fd, self._make_runs(<int32_t> (self.headers[done].msg_hdr.msg_iov - self.parts),
                                                            count, 1))
            elif errno == EAGAIN or errno == ENOBUFS:
                break
            elif errno != EINTR:
                self.error = errno
                done += 1
        return went

    cdef void _sort(self, int32_t count) noexcept nogil:
        """Put what is to be sent in order of length; there is little, so by insertion."""
        cdef:
            iovec moved
            int32_t k, place
        for k in range(1, count):
            moved = self.parts[k]
            place = k
            while place and self.parts[place - 1].iov_len > moved.iov_len:
                self.parts[place] = self.parts[place - 1]
                place -= 1
            self.parts[place] = moved

    cdef int32_t _make_runs(self, int32_t first, int32_t count, size_t longest) noexcept nogil:
        """Make the headers of what is to be sent, one for a run of one length; return how many there are."""
        cdef:
            int32_t runs = 0
            msghdr* header = NULL
            cmsghdr* control
            int32_t k
        for k in range(first, count):
            if (header != NULL and header.msg_iovlen < longest and self.parts[k].iov_len <= JOINED_MAX
                    and header.msg_iov.iov_len == self.parts[k].iov_len):
                header.msg_iovlen += 1
                if header.msg_iovlen > 2:
                    continue
                header.msg_control = self.controls + (runs - 1) * CONTROL_MAX
                header.msg_controllen = CMSG_SPACE(sizeof(uint16_t))
                control = CMSG_FIRSTHDR(header)
                control.cmsg_level, control.cmsg_type = IPPROTO_UDP, UDP_SEGMENT
                control.cmsg_len = CMSG_LEN(sizeof(uint16_t))
                (<uint16_t*> CMSG_DATA(control))[0] = <uint16_t> header.msg_iov.iov_len
            else:
                header = &self.headers[runs].msg_hdr
                memset(header, 0, sizeof(msghdr))
                header.msg_iov = &self.parts[k]
                header.msg_iovlen = 1
                runs += 1
        return runs

    cdef void get_peer(self, int32_t i, Peer* peer) noexcept nogil:
        """Copy who sent a received datagram, and the address it was sent to."""
        cdef msghdr* header = &self.headers[i].msg_hdr
        peer.length = <uint8_t> header.msg_namelen
        peer.control_length = <uint8_t> header.msg_controllen
        memcpy(peer.address, header.msg_name, PEER_MAX)
        if peer.control_length:
            _any_interface(header)
            memcpy(peer.control, header.msg_control, CONTROL_MAX)

    cdef const uint8_t* asked(self, int32_t i, uint8_t* octets) noexcept nogil:
        """Return the address that a received datagram was sent to, where the socket is told so; or else NULL."""
        cdef cmsghdr* control = CMSG_FIRSTHDR(&self.headers[i].msg_hdr)
        if control == NULL:
            return NULL
        if control.cmsg_level == IPPROTO_IP and control.cmsg_type == IP_PKTINFO:
            octets[0] = 4
            return CMSG_DATA(control) + 8  # behind the interface, and the address that an answer is from
        if control.cmsg_level == IPPROTO_IPV6 and control.cmsg_type == IPV6_PKTINFO:
            octets[0] = 16
            return CMSG_DATA(control)
        return NULL

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
