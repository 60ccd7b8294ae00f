"""A sink: what it wants of the events, how they are written for it, and where that goes."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ..core._limits cimport LISTENERS_MAX, SINKS_MAX, UPSTREAMS_MAX
from ..policy._rule_state cimport CHAINS

cdef enum:
    BUFFER = 1 << 20               # octets that wait for who reads
    HALF = BUFFER // 2             # of which long messages leave so many to others
    OVERHEAD = 4096                # octets that an event takes at most, but for its messages
    ALL_SINKS_MAX = 4 * SINKS_MAX  # with those that end
    TITLE_MAX = 64                 # octets of an upstream's name
    ZONES_MAX = 64 * 255           # octets of the zones that a sink is limited to
    IDENTITY_MAX = 300             # octets of the fields that say who we are
    ADDRESS_MAX = 4096             # octets of a path

cdef enum Form:                    # how events are written
    DNSTAP
    JSON_LINES
    TEXT_LINES

cdef enum Place:                   # where that goes
    DESCRIPTOR                     # one that was opened elsewhere, and is closed there
    FILE                           # by its path, opened anew where another stands in its place
    COLLECTOR                      # whoever listens there: frame streams in both directions

cdef enum State:
    CLOSED                         # to be opened at `retry_at`
    CONNECTING
    GREETED                        # we have said READY, and wait for ACCEPT
    OPEN
    LEFT                           # we have said STOP, and wait for FINISH

cdef struct Peer:                  # whom an exchange is with, or where clients come to
    uint64_t since                 # it has had its number, nanoseconds since 1970: what is older is of another
    uint8_t octets                 # of the address; 0: it is not known
    uint8_t[16] address
    uint16_t port
    uint8_t transport
    uint8_t length                 # of the name
    char[TITLE_MAX] name

cdef struct Known:                 # what events tell by number
    Peer[LISTENERS_MAX] listeners
    Peer[UPSTREAMS_MAX] upstreams
    uint16_t generation            # of rules
    uint32_t rule_counts[CHAINS]
    const char* rules[CHAINS]      # their names, by chain: each in TITLE_MAX octets, zeros behind it

cdef struct Sink:
    # what it wants
    uint64_t kinds                 # one bit for each Kind
    uint64_t chance                # of 2**32 queries, so many
    uint32_t types                 # of dnstap messages, one bit each
    uint8_t ipv4, ipv6             # bits of clients' addresses that are told
    uint16_t zones_length
    uint8_t[ZONES_MAX] zones       # names in lower case, one behind the other; none: all
    # how it is written
    Form form
    uint16_t identity_length       # octets of fields that each dnstap message begins with
    uint8_t[IDENTITY_MAX] identity
    # where it goes
    Place place
    uint32_t state                 # a State
    int fd                         # -1: none
    uint8_t is_socket
    uint32_t error                 # why it could not be opened, or was lost: errno
    uint32_t address_length
    uint8_t[ADDRESS_MAX] address   # a sockaddr, or a path that ends in a zero
    uint64_t retry_at, backoff, checked_at  # nanoseconds
    uint64_t reopened              # the last wish to open a file again that was followed
    uint64_t inode, device         # of the file
    uint32_t greeting              # octets of the answer to READY that have come
    uint8_t[64] greeted
    uint64_t ends_at               # by when it is over, nanoseconds; 0: it goes on
    uint64_t over                  # nothing is done with it any more
    # what waits: whole frames or lines, those that begin behind it in front of `edge`
    uint8_t* octets
    size_t begin, frame, end       # sent up to, whole ones up to, written up to
    size_t edge                    # up to where they are written, where the last ones are in front of them; or else 0
    bint is_blocked                # it takes nothing more in this round
    # counters with one writer, of frames or lines
    uint64_t written, lost, waiting
    uint64_t shortened             # frames without their message
    uint64_t opened, failed        # how often it was opened, and could not be, or was lost

cdef struct Plan:                  # what holds; replaced as a whole
    uint32_t count                 # of sinks that are told of events
    uint32_t total                 # with those behind them, which end
    Sink* sinks[ALL_SINKS_MAX]
    Known known


cdef inline const Peer* peer_of(const Peer* peers, uint32_t number, uint64_t asked) noexcept nogil:
    """Return who had a number when something was asked, by the wall clock; NULL: it is not known any more."""
    return &peers[number] if peers[number].since <= asked else NULL


cdef inline void copy_prefix(uint8_t* out, const Sink* sink, const uint8_t* address, uint8_t octets) noexcept nogil:
    """Write as much of a client's address as a sink is told, and zeros for the rest."""
    cdef:
        uint8_t bits = sink.ipv4 if octets == 4 else sink.ipv6
        uint8_t k
    for k in range(octets):
        out[k] = address[k] if bits >= 8 else address[k] & <uint8_t> (0xff00 >> bits)
        bits -= min(bits, <uint8_t> 8)
