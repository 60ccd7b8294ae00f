"""What the load tester keeps for each query and counts, and the system calls that it makes.

It knows layouts, limits and the histogram's scale; what is done with them is in `_loadgen.pyx`.
"""

from libc.stdint cimport uint32_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from ..core._clock cimport NANOSECONDS
from ..core._udp_batch cimport MSG_TRUNC, iovec, mmsghdr

cdef extern from "<sys/socket.h>" nogil:          # Python.h has defined _GNU_SOURCE
    int MSG_DONTWAIT
    int sendmmsg(int, mmsghdr*, unsigned int, int)
    int recvmmsg(int, mmsghdr*, unsigned int, int, timespec*)

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events, revents
    short POLLIN
    int ppoll(pollfd*, unsigned long, const timespec*, const void*)

cdef extern from *:
    int leading_zeros "__builtin_clzll"(unsigned long long) noexcept nogil

cdef enum:
    HEAD = 320                     # octets kept of a response: header, longest question, whole cache lines
    MOST_BATCH = 64
    MOST_SOCKETS = 64
    MOST_OPEN = 32768              # half the IDs of a socket, so that a free one is always near
    IDS = 65536
    STEPS = 64                     # histogram buckets for each power of two: 1.6 % wide
    BUCKETS = STEPS * 59
    RECEIVE_BUFFER = 4 << 20

cdef enum Status:
    GOING                          # more to do
    DONE                           # nothing left to send, nothing outstanding
    BROKEN                         # sending failed for good: see `Load.error`

cdef enum State:
    FREE                           # never used, or answered
    OPEN
    LOST                           # gave up waiting; a response would be late

cdef struct Query:
    iovec wire                     # its ID is overwritten in place
    size_t question                # octets of the question, which follows the header

cdef struct Slot:                  # one for each ID of each socket; the outstanding ones form a ring by age
    uint64_t sent                  # when, in nanoseconds
    uint32_t query, older, newer
    State state

cdef struct Counters:
    uint64_t sent, answered, lost, outstanding     # sent = answered + lost + outstanding
    uint64_t late, mismatched                      # responses to lost queries; datagrams that fit no query
    uint64_t refused                               # how often ICMP said that nobody listens
    uint64_t truncated, octets                     # of the answered
    uint64_t[16] rcodes
    uint64_t began, ended                          # first send, last send or answer: nanoseconds
    uint64_t least, most, total                    # latency in nanoseconds


cdef inline uint64_t now_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t> t.tv_sec * NANOSECONDS + <uint64_t> t.tv_nsec


cdef inline int bucket_of(uint64_t latency) noexcept nogil:
    """Return the histogram bucket: exact below 128 ns, then 64 equal steps for each power of two."""
    cdef int shift = 57 - leading_zeros(latency | STEPS)
    return shift * STEPS + <int> (latency >> shift)


cdef inline uint64_t middle_of(int bucket) noexcept nogil:
    """Return the latency in the middle of a bucket."""
    cdef int shift = max(0, bucket // STEPS - 1)
    return (<uint64_t> (bucket - shift * STEPS) << shift) + ((<uint64_t> 1 << shift) >> 1)
