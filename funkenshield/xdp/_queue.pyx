"""One queue of an interface: frames that a program in the kernel puts there for us, and those that answer them.

    take_frames -> present_frames: as datagrams of one listener -> put_replies -> ... -> exchange_frames

An AF_XDP socket: memory of our own is divided into frames, and four rings tell whose each of them is. Those for queries
and those for answers never mix: the former are the kernel's (fill), then ours (received), and the kernel's again; the
latter are unused, the kernel's (outgoing), and unused again (completed). So an answer is written where it leaves from,
while the query that it answers is still there to be read.
"""

cimport cython
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close

from ..core._atomic cimport bump, load_relaxed
from ..core._udp_batch cimport AF_INET6, BATCH, MSG_TRUNC, PEER_MAX, Datagrams, iovec, msghdr
from ._frame cimport FRAME_MIN, Frame, parse_frame, port_of, put_client, put_headers, server_of

cdef extern from *:
    """
    #ifndef AF_XDP                          /* older headers lack both */
    #define AF_XDP 44
    #endif
    #ifndef SOL_XDP
    #define SOL_XDP 283
    #endif
    #ifdef FUNKENSHIELD_CHECKED             /* the ledger: a frame changes hands, and is in its own pool */
    #define FS_FRAME_GOES(theirs, low, k, high, to) \\
        do { if ((k) < (low) || (k) >= (high) || (theirs)[k] == (to)) __builtin_trap(); (theirs)[k] = (to); } while (0)
    #else
    #define FS_FRAME_GOES(theirs, low, k, high, to) ((void) 0)
    #endif
    """
    int AF_XDP, SOL_XDP
    uint32_t load_acquire32 "FS_LOAD_ACQUIRE"(const uint32_t*) noexcept nogil
    void store_release32 "FS_STORE_RELEASE"(uint32_t*, uint32_t) noexcept nogil
    void frame_goes "FS_FRAME_GOES"(uint8_t* theirs, uint64_t low, uint64_t k, uint64_t high,
                                    bint to_kernel) noexcept nogil

cdef extern from "<sys/socket.h>" nogil:
    ctypedef struct sockaddr "struct sockaddr":
        pass
    int socket(int family, int kind, int protocol)
    int bind(int fd, sockaddr* address, uint32_t length)
    int setsockopt(int fd, int level, int name, const void* value, uint32_t length)
    int getsockopt(int fd, int level, int name, void* value, uint32_t* length)
    ssize_t sendto(int fd, const void* octets, size_t length, int flags, sockaddr* address, uint32_t size)
    ssize_t recvfrom(int fd, void* octets, size_t length, int flags, sockaddr* address, uint32_t* size)
    int SOCK_RAW, SOCK_CLOEXEC, MSG_DONTWAIT

cdef extern from "<sys/mman.h>" nogil:
    int MAP_POPULATE

cdef extern from "<arpa/inet.h>" nogil:
    uint32_t htonl(uint32_t)

cdef enum:                         # of <linux/if_xdp.h>
    OFFSETS = 1                    # options of a socket
    RECEIVED_RING = 2
    OUTGOING_RING = 3
    MEMORY = 4
    FILL_RING = 5
    COMPLETED_RING = 6
    STATISTICS = 7
    OPTIONS = 8
    COPY = 1 << 1                  # how one is bound
    NEED_WAKEUP = 1 << 3
    IS_ZERO_COPY = 1 << 0          # what it is then
    WANTS_WAKEUP = 1 << 0          # in the flags of a ring
    ADDRESS = 8                    # octets of an entry: where a frame is, or a descriptor of one
    DESCRIPTOR = 16
    SENDS = 2 * BATCH              # attempts to have the kernel send what is in the ring: it takes some at a time

cdef uint64_t MAPPED_AT[4]         # a socket's "file" has each ring at an offset
MAPPED_AT[:] = [0, 0x80000000, 0x100000000, 0x180000000]

cdef struct Registered:            # struct xdp_umem_reg
    uint64_t address, length
    uint32_t chunk, headroom, flags, nothing

cdef struct Bound:                 # struct sockaddr_xdp
    uint16_t family, flags
    uint32_t interface, queue, shared

cdef struct Descriptor:            # struct xdp_desc
    uint64_t at
    uint32_t length, options


# ---------------------------------------------------------------- in

cdef int32_t take_frames(Queue* queue) noexcept nogil:
    """Take what has come, a batch at most; return how many frames. None may be waiting.

    Those that no answer can leave for, because the interface sends nothing, are lost: else we would ask for ever.
    """
    cdef:
        Ring* ring = &queue.received
        const Descriptor* entry
        uint32_t count = min(load_acquire32(ring.producer) - ring.at, <uint32_t> BATCH)
        uint32_t k
    _collect_completed(queue)
    for k in range(count):
        entry = <const Descriptor*> ring.entries + (ring.at + k & ring.mask)
        frame_goes(queue.theirs, 0, entry.at // FRAME, TAKEN, False)
        if k < queue.unused_count:
            queue.waiting[k], queue.lengths[k] = entry.at, entry.length
        else:
            _give_back(queue, entry.at)
            bump(&queue.frames_lost, 1)
    ring.at += count
    store_release32(ring.consumer, ring.at)
    queue.waiting_count = <int32_t> min(count, queue.unused_count)
    bump(&queue.frames_received, count)
    return <int32_t> count


cdef int32_t present_frames(Queue* queue, Datagrams inbox, Datagrams outbox) noexcept nogil:
    """Make a batch of datagrams of those that wait and are for one listener, which is noted; return how many there are.

    Those for others wait for the next batch; what is no query goes back at once. Answers are to be written where the
    outbox has room for them now, which is in frames, until `put_replies`.
    """
    cdef:
        int32_t count = 0
        int32_t left = 0
        int32_t k, listener
        const uint8_t* octets
        Frame* frame
    for k in range(queue.waiting_count):
        octets, frame = queue.memory + queue.waiting[k], &queue.frames[count]
        listener = _listener_of(queue, frame) if parse_frame(frame, octets, queue.lengths[k]) else -1
        if listener < 0:
            bump(&queue.frames_ignored, 1)
            _give_back(queue, queue.waiting[k])
        elif count and queue.listener != listener:
            queue.waiting[left], queue.lengths[left] = queue.waiting[k], queue.lengths[k]
            left += 1
        else:
            queue.listener, queue.presented[count] = <uint8_t> listener, queue.waiting[k]
            _present(frame, queue.interface, inbox, count)
            outbox.rooms[count] = queue.memory + queue.unused[queue.unused_count - 1 - count] + HEADROOM
            count += 1
    queue.waiting_count, inbox.spoilt = left, max(inbox.spoilt, count)
    return count


cdef inline void _present(const Frame* frame, uint32_t interface, Datagrams inbox, int32_t i) noexcept nogil:
    cdef:
        msghdr* header = &inbox.headers[i].msg_hdr
        const uint8_t* message = frame.udp + 8
        uint8_t* address = inbox.addresses + i * PEER_MAX
    put_client(frame, interface, address)
    header.msg_name, header.msg_namelen, header.msg_controllen = address, 28 if frame.ip_octets == 16 else 16, 0
    header.msg_flags = MSG_TRUNC if frame.length > inbox.size else 0
    inbox.parts[i] = iovec(<void*> message, inbox.size)
    inbox.headers[i].msg_len = <unsigned int> min(<size_t> frame.length, inbox.size)


cdef inline int32_t _listener_of(const Queue* queue, const Frame* frame) noexcept nogil:
    """Return the number of the listener that a frame is for; -1: there is none."""
    cdef:
        uint64_t[2] ip
        uint16_t port = port_of(frame)
        int32_t k
    _map(ip, server_of(frame), frame.ip_octets)
    for k in range(queue.asked_count):
        if queue.asked[k].ip[1] == ip[1] and queue.asked[k].ip[0] == ip[0] and queue.asked[k].port == port:
            return queue.asked[k].listener
    return -1


cdef inline void _map(uint64_t* ip, const uint8_t* address, uint8_t octets) noexcept nogil:
    """Write an address as one of IPv6."""
    cdef uint32_t mark = htonl(0xffff)
    if octets == 16:
        memcpy(ip, address, 16)
    else:
        ip[0] = 0
        memcpy(<uint8_t*> ip + 8, &mark, 4)
        memcpy(<uint8_t*> ip + 12, address, 4)


cdef void forget_asked(Queue* queue) noexcept nogil:
    """Have queries for nobody."""
    queue.asked_count = 0


cdef void add_asked(Queue* queue, const uint8_t* address, uint8_t listener) noexcept nogil:
    """Have queries to a socket address for a listener, too, unless that is another link's."""
    cdef:
        bint six = (<const uint16_t*> address)[0] == AF_INET6
        Asked* asked = &queue.asked[queue.asked_count]
        uint32_t link = 0
    if six:
        memcpy(&link, address + 24, 4)
    if link and link != queue.interface:
        return
    _map(asked.ip, address + 8 if six else address + 4, 16 if six else 4)
    asked.port, asked.listener = (<const uint16_t*> address)[1], listener
    queue.asked_count += 1


# ---------------------------------------------------------------- out

cdef void put_replies(Queue* queue, Datagrams inbox, Datagrams outbox, int32_t count, int32_t replies) noexcept nogil:
    """Send the replies to a batch of so many, soon, and have the kernel fill its frames anew; see `exchange_frames`.

    Those that are to go by route have gone.
    """
    cdef:
        Ring* ring = &queue.outgoing
        Descriptor* entry
        uint8_t* message
        uint8_t* begin
        size_t length
        uint64_t asked
        uint32_t top = queue.unused_count
        uint32_t before = ring.at
        int32_t k
    for k in range(replies):
        if queue.by_route >> k & 1:
            continue
        message, length = <uint8_t*> outbox.parts[k].iov_base, outbox.parts[k].iov_len
        asked = <uint64_t> (<uint8_t*> outbox.headers[k].msg_hdr.msg_name - inbox.addresses) // PEER_MAX
        begin = put_headers(&queue.frames[asked], message, length)
        length += <size_t> (message - begin)
        if length < FRAME_MIN:
            memset(begin + length, 0, FRAME_MIN - length)
            length = FRAME_MIN
        entry = <Descriptor*> ring.entries + (ring.at & ring.mask)
        entry.at, entry.length, entry.options = <uint64_t> (begin - queue.memory), <uint32_t> length, 0
        frame_goes(queue.theirs, TAKEN, entry.at // FRAME, TAKEN + SENT, True)
        ring.at += 1
    queue.unused_count -= <uint32_t> replies
    bump(&queue.frames_sent, ring.at - before)
    if queue.by_route:
        _keep_unused(queue, top, replies)
    for k in range(count):
        _give_back(queue, queue.presented[k])
        outbox.rooms[k] = outbox.buffer(k)


cdef void _keep_unused(Queue* queue, uint32_t top, int32_t replies) noexcept nogil:
    """Have the frames back that no reply went by; the first reply's was at the top."""
    cdef int32_t k
    for k in range(replies - 1, -1, -1):
        if queue.by_route >> k & 1:
            queue.unused[queue.unused_count] = queue.unused[top - 1 - k]
            queue.unused_count += 1


cdef void exchange_frames(Queue* queue) noexcept nogil:
    """Have the kernel send what was put, and receive into what was given back."""
    cdef int _try
    store_release32(queue.fill.producer, queue.fill.at)
    if load_acquire32(queue.fill.flags) & WANTS_WAKEUP:
        recvfrom(queue.fd, NULL, 0, MSG_DONTWAIT, NULL, NULL)
    store_release32(queue.outgoing.producer, queue.outgoing.at)
    for _try in range(SENDS):
        if not load_acquire32(queue.outgoing.flags) & WANTS_WAKEUP:
            return
        if load_acquire32(queue.outgoing.consumer) == queue.outgoing.at:
            return
        if sendto(queue.fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 and errno != EAGAIN and errno != EINTR:
            return  # EBUSY, ENOBUFS, ENETDOWN: what is in the ring goes with the next


cdef inline void _give_back(Queue* queue, uint64_t at) noexcept nogil:
    """Have the kernel fill a frame for queries anew, once `exchange_frames` tells it."""
    frame_goes(queue.theirs, 0, at // FRAME, TAKEN, True)
    (<uint64_t*> queue.fill.entries)[queue.fill.at & queue.fill.mask] = at & ~<uint64_t> (FRAME - 1)
    queue.fill.at += 1


cdef inline void _collect_completed(Queue* queue) noexcept nogil:
    """Have the frames back whose answers the kernel has sent."""
    cdef:
        Ring* ring = &queue.completed
        uint32_t end = load_acquire32(ring.producer)
        uint64_t at
    while ring.at != end:
        at = (<const uint64_t*> ring.entries)[ring.at & ring.mask]
        frame_goes(queue.theirs, TAKEN, at // FRAME, TAKEN + SENT, False)
        queue.unused[queue.unused_count] = at & ~<uint64_t> (FRAME - 1)
        queue.unused_count += 1
        ring.at += 1
    store_release32(ring.consumer, ring.at)


# ---------------------------------------------------------------- the socket

@cython.final
cdef class QueueSocket:
    """The socket of a queue of an interface, by its index; `zero_copy` says how it is bound.

    With `copy`, the kernel copies frames, whatever the driver can do. Raises OSError where there can be none.
    Memory ownership: descriptor, rings and frames are its own, and must outlive whoever serves the queue.
    """

    def __cinit__(self, uint32_t interface, uint32_t number, int mtu, *, bint copy=False) -> None:
        cdef:
            Bound address = Bound(<uint16_t> AF_XDP, NEED_WAKEUP | (COPY if copy else 0), interface, number, 0)
            uint64_t k
        self.queue.fd, self.queue.interface = -1, interface
        self.queue.fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0)
        _check(self.queue.fd)
        self._register()
        self._map_rings()
        for k in range(TAKEN):
            _give_back(&self.queue, k * FRAME)
        store_release32(self.queue.fill.producer, self.queue.fill.at)  # before it is bound, or some drivers never look
        for k in range(SENT):
            self.queue.unused[k] = (TAKEN + k) * FRAME
        self.queue.unused_count = SENT
        self.queue.reply_room = <uint16_t> min(mtu - 48, <int> REPLY_ROOM)  # headers of IPv6 and UDP
        _check(bind(self.queue.fd, <sockaddr*> &address, sizeof(address)))
        self.zero_copy = self._option(OPTIONS) & IS_ZERO_COPY

    def __dealloc__(self) -> None:
        self._close()

    cdef void _close(self) noexcept:
        cdef int k
        if self.queue.fd >= 0:
            close(self.queue.fd)
        for k in range(4):
            if self.rings[k] != NULL:
                munmap(self.rings[k], self.mapped[k])
            self.rings[k] = NULL
        if self.queue.memory != NULL:
            munmap(self.queue.memory, (TAKEN + SENT) * FRAME)
        self.queue.fd, self.queue.memory = -1, NULL

    cdef int _register(self) except -1:
        """Tell the kernel which memory frames are in, and how long rings are."""
        cdef:
            size_t length = (TAKEN + SENT) * FRAME
            void* memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0)
            Registered registered
        if memory == MAP_FAILED:
            raise OSError(errno, "no memory for frames")
        self.queue.memory = <uint8_t*> memory
        registered = Registered(<uint64_t> memory, length, FRAME, 0, 0, 0)
        _check(setsockopt(self.queue.fd, SOL_XDP, MEMORY, &registered, sizeof(registered)))
        self._set(FILL_RING, TAKEN)
        self._set(COMPLETED_RING, SENT)
        self._set(RECEIVED_RING, TAKEN)
        self._set(OUTGOING_RING, SENT)
        return 0

    cdef int _set(self, int option, int entries) except -1:
        return _check(setsockopt(self.queue.fd, SOL_XDP, option, &entries, sizeof(entries)))

    cdef uint32_t _option(self, int name) except? 0:
        cdef:
            uint32_t value = 0
            uint32_t length = sizeof(value)
        _check(getsockopt(self.queue.fd, SOL_XDP, name, &value, &length))
        return value

    cdef int _map_rings(self) except -1:
        """Map the four rings, in the order in which the kernel tells their offsets."""
        cdef:
            RingOffsets[4] offsets
            uint32_t length = sizeof(offsets)
        _check(getsockopt(self.queue.fd, SOL_XDP, OFFSETS, offsets, &length))
        self._map_ring(&self.queue.received, 0, &offsets[0], TAKEN, DESCRIPTOR)
        self._map_ring(&self.queue.outgoing, 1, &offsets[1], SENT, DESCRIPTOR)
        self._map_ring(&self.queue.fill, 2, &offsets[2], TAKEN, ADDRESS)
        self._map_ring(&self.queue.completed, 3, &offsets[3], SENT, ADDRESS)
        return 0

    cdef int _map_ring(self, Ring* ring, int which, const RingOffsets* offsets, uint32_t entries,
                       size_t size) except -1:
        cdef:
            size_t length = offsets.entries + entries * size
            void* at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, self.queue.fd,
                            MAPPED_AT[which])
        if at == MAP_FAILED:
            raise OSError(errno, "a ring cannot be mapped")
        self.rings[which], self.mapped[which] = at, length
        ring.producer = <uint32_t*> (<uint8_t*> at + offsets.producer)
        ring.consumer = <uint32_t*> (<uint8_t*> at + offsets.consumer)
        ring.flags = <uint32_t*> (<uint8_t*> at + offsets.flags)
        ring.entries, ring.mask = <uint8_t*> at + offsets.entries, entries - 1
        return 0

    def fileno(self) -> int:
        """Return the descriptor, which is readable when frames have come."""
        return self.queue.fd

    def close(self) -> None:
        """Give the queue back to the kernel, which has it as long as rings are mapped; nobody may serve it any more."""
        self._close()

    def counters(self) -> dict:
        """Return how many frames were received, sent and ignored, and for how many there was no room, in or out."""
        cdef:
            uint64_t[6] told = [0, 0, 0, 0, 0, 0]
            uint32_t length = sizeof(told)
        getsockopt(self.queue.fd, SOL_XDP, STATISTICS, told, &length)
        return {
            "received": load_relaxed(&self.queue.frames_received),
            "sent": load_relaxed(&self.queue.frames_sent),
            "ignored": load_relaxed(&self.queue.frames_ignored),
            "dropped": told[0] + told[3] + load_relaxed(&self.queue.frames_lost),
        }


cdef int _check(int result) except -1:
    if result < 0:
        raise OSError(errno, "no socket for a queue")
    return result
