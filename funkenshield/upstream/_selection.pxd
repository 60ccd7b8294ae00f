"""Upstreams as compiled code sees them: who is well, how busy, how fast, and which one is asked next."""

cimport cython
from libc.errno cimport ECONNABORTED, ECONNREFUSED, ECONNRESET, EHOSTDOWN, EHOSTUNREACH, ENETUNREACH, EPIPE, ETIMEDOUT
from libc.stdint cimport int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..core._latency_histogram cimport LatencyHistogram
from ..core._limits cimport MEMBERS_MAX
from ..core._random cimport Randomness
from ..wire._message cimport SERVFAIL

cdef enum:
    TRIES_MAX = 4
    WHOLE = 256                    # the share of an upstream that is well
    RCODES = 17                    # those of the header, and one for all others
    LATENCIES = 96                 # buckets: four for each power of two, from 1 us to 17 s

cdef enum:                         # instead of an upstream's number
    NOBODY_UP = -1                 # the group has no upstream that may be asked
    ALL_BUSY = -2                  # each has as many outstanding queries as it may have

cdef enum State:
    UP
    DOWN                           # asked where no other can be
    FORCED_DOWN                    # never asked

cdef enum FailureReason:           # why a query to an upstream failed
    TIMED_OUT                      # no answer in time
    CONNECTION_REFUSED             # it refused the connection, or the datagram
    CONNECTION_CLOSED              # the connection ended before the answer
    UNREACHABLE                    # the network knows no way
    LOCAL_ERROR                    # this machine could not send it
    OTHER_ERROR                    # no TLS, no DNS, or something else
    SERVFAIL_REPLY                 # these two are answers
    REFUSED_REPLY
    REASONS

cdef enum Policy:
    ROUND_ROBIN
    ORDER                          # the lowest order
    LEAST_OUTSTANDING              # the fewest outstanding queries, for its weight
    RANDOM                         # by weight
    LATENCY                        # the faster of two that are drawn (Mitzenmacher 2001)
    HASH                           # the same for a name, with bounded load (Mirrokni et al., SODA 2018)

cdef struct Upstream:
    # what the control thread says
    uint8_t state
    uint8_t over_stream            # asked over connections, not by datagrams
    uint8_t random_case            # names are spelled at random (0x20)
    uint8_t proxied                # told whose query it is
    uint16_t share                 # of WHOLE: what a recovering one gets
    uint16_t fall                  # unanswered queries in a row with which it is down
    uint16_t order, weight
    uint32_t max_outstanding       # queries
    uint64_t seed                  # of its places in a consistent hash
    uint64_t hedge_after           # another is asked too after this, nanoseconds; 0: never
    # how it does
    uint32_t outstanding           # queries
    uint32_t timeouts_in_a_row     # unanswered in a row
    uint32_t hedges_in_a_row       # hedged in a row, with no answer between
    uint32_t hedge_credit          # queries that hedges may be made on
    uint64_t timed_out_at          # when the last of those was counted, nanoseconds
    uint64_t mean, deviation       # of its latency, nanoseconds (RFC 6298); 0: not known
    uint32_t case_lost             # responses over TCP in a row that spell their name in their own way
    uint8_t keeps_case             # it has spelled a name as it was asked
    uint32_t recent_unsolicited    # datagrams that answer nothing, since `unsolicited_since`
    uint64_t unsolicited_since     # nanoseconds
    uint64_t suspected_until       # what comes over UDP is asked for again over TCP, nanoseconds
    uint64_t rate_limited_until    # it has truncated what is small: a bound on its rate, nanoseconds
    uint64_t unsolicited_replies, spoof_detections
    uint8_t reason                 # the latest FailureReason
    uint64_t[REASONS] failures     # how many queries failed, by reason
    uint64_t[REASONS] client_visible_failures  # of these, such that clients got SERVFAIL or REFUSED for
    uint64_t sent, answered, timeouts, unexpected_replies, network_errors, hedged
    uint64_t tcp_fallback_replies  # answered over TCP, though it is asked over UDP: no sign of its health,
    uint64_t tcp_fallback_failures  # and not answered
    uint64_t servfails             # of the others that were answered
    LatencyHistogram latency       # of the answered
    uint64_t[RCODES] rcodes
    uint64_t[LATENCIES] latencies  # of those that tell how long it takes as a rule

cdef struct Group:
    uint8_t policy
    uint8_t count
    int16_t[MEMBERS_MAX] members
    uint32_t turn

cdef struct Tried:                 # whom a query was sent to, in turn
    uint16_t count
    int16_t[TRIES_MAX] upstreams


cdef inline void note_try(Tried* tried, int32_t upstream) noexcept nogil:
    """Note one more try; more than TRIES_MAX are not told apart."""
    if tried.count < TRIES_MAX:
        tried.upstreams[tried.count] = <int16_t> upstream
        tried.count += 1


cdef inline void forget_try(Tried* tried, int32_t upstream) noexcept nogil:
    """Forget the last try of an upstream."""
    cdef uint16_t k = tried.count
    while k:
        k -= 1
        if tried.upstreams[k] == upstream:
            tried.count -= 1
            while k < tried.count:
                tried.upstreams[k] = tried.upstreams[k + 1]
                k += 1
            return


cdef inline bint was_tried(const Tried* tried, int32_t upstream) noexcept nogil:
    cdef uint16_t k
    for k in range(tried.count):
        if tried.upstreams[k] == upstream:
            return True
    return False


cdef inline uint64_t retransmission_timeout_of(const Upstream* upstream, uint64_t least, uint64_t most) noexcept nogil:
    """Return how long an upstream's silence is no news, nanoseconds: longer, the longer it has been silent."""
    cdef uint64_t usual = (upstream.mean + 4 * upstream.deviation) << min(upstream.timeouts_in_a_row, 8)
    return max(least, min(usual, most)) if upstream.mean else most


cdef inline uint8_t reason_of_errno(int error) noexcept nogil:
    """Return which reason an error of the network (errno; 0: none) is."""
    if error == ECONNREFUSED:
        return CONNECTION_REFUSED
    if error in (ECONNRESET, ECONNABORTED, EPIPE):
        return CONNECTION_CLOSED
    if error in (EHOSTUNREACH, ENETUNREACH, EHOSTDOWN):
        return UNREACHABLE
    if error == ETIMEDOUT:
        return TIMED_OUT
    return LOCAL_ERROR if error else OTHER_ERROR


cdef inline uint8_t reason_of_rcode(uint16_t rcode) noexcept nogil:
    """Return which reason SERVFAIL, or REFUSED, is."""
    return SERVFAIL_REPLY if rcode == SERVFAIL else REFUSED_REPLY


cdef str reason_name(uint8_t reason)


@cython.final
cdef class UpstreamTable:
    cdef:
        Upstream* all
        Group* groups
        Randomness randomness
        uint32_t suspect_after     # so many unsolicited replies; 0: never

    cdef int32_t choose(self, uint32_t group, const Tried* tried, const uint8_t* name) noexcept nogil
    cdef uint32_t room(self, uint32_t group) noexcept nogil
    cdef bint has_other(self, uint32_t group, const Tried* tried) noexcept nogil
    cdef void record_reply(self, int32_t upstream, uint16_t rcode, uint64_t latency, bint timed) noexcept nogil
    cdef void record_tcp_fallback(self, int32_t upstream, uint16_t rcode, uint64_t latency) noexcept nogil
    cdef void record_timeout(self, int32_t upstream, uint64_t asked, uint64_t now, bint timed) noexcept nogil
    cdef void forgive_timeout(self, int32_t upstream) noexcept nogil
    cdef void record_loss(self, int32_t upstream, uint64_t asked, uint64_t now) noexcept nogil
    cdef void record_failure(self, int32_t upstream, uint8_t reason) noexcept nogil
    cdef void record_unsolicited(self, int32_t upstream, uint64_t now) noexcept nogil
    cdef void _time(self, Upstream* known, uint64_t latency) noexcept nogil
    cdef uint8_t _rank(self, int32_t upstream, const Tried* tried) noexcept nogil
    cdef int32_t _elect(self, Group* group, const int16_t* candidates, uint32_t count,
                        const uint8_t* name) noexcept nogil
    cdef int32_t _by_weight(self, const int16_t* candidates, uint32_t count) noexcept nogil
    cdef int32_t _by_latency(self, const int16_t* candidates, uint32_t count) noexcept nogil
    cdef int32_t _by_name(self, const int16_t* candidates, uint32_t count, const uint8_t* name) noexcept nogil
    cdef Upstream* _known(self, int32_t upstream) except NULL
