"""An answer in the form in which it is kept: built once from a response, rendered for every query.

What depends on the client is not in it: ID, spelling of the question, payload size, OPT record.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..wire._message cimport ADDITIONAL, KEY_PREFIX, RR_TTL, EdnsOptions, Query
from ._zone_settings cimport RenderOptions, TtlLimits

cdef enum:
    ANSWER_MAX = 80 * 1024                     # octets of the largest answer, rounded up
    NO_SCOPE = 0xff                            # the response said nothing of the client's subnet

cdef enum Kind:
    POSITIVE
    NEGATIVE       # NXDOMAIN or NODATA (RFC 2308)
    REFERRAL
    FAILURE        # SERVFAIL, REFUSED or silence (RFC 9520)
    OTHER          # everything that is passed on only

cdef enum Form:
    SECTIONS       # well formed: the sections without OPT
    VERBATIM       # passed on as it came, behind the question

cdef enum BuildResult:
    KEEP           # may be stored until `expires`
    PASS           # for those who wait now, and nobody else
    BROKEN         # cannot be read: for those who wait now, unless something better serves
    TRUNCATED      # TC=1: the full answer is to be had over TCP
    FOREIGN        # about another subnet than was asked about: to be ignored, like another question

cdef struct EntryState:            # hints that readers and writer may leave at any time, each by itself
    uint32_t expires     # fresh until, ticks; a purge that lets it expire sets it back
    uint32_t refresh_after  # nobody has it refreshed before, ticks
    uint32_t purges      # the number of the last purge that is known not to concern it
    uint8_t failed       # the last refresh failed
    uint8_t used         # how often it was asked for since it was last considered for eviction, up to a few times

# Followed by: TTL offsets in the body (uint16_t each), key, body, EDNS options. All of it is written
# before a reader sees it and never after, but for the marks.
cdef struct Answer:
    uint32_t born        # when the response came, ticks
    uint16_t zone        # whose settings hold
    uint16_t ttls        # how many TTL offsets
    uint16_t key_length
    uint16_t body        # octets of the answer, authority and additional sections
    uint16_t options     # octets of EDNS options
    uint16_t flags       # of the response's header
    uint16_t[ADDITIONAL + 1] counts  # records in each section, OPT not counted
    uint16_t edns_flags
    uint8_t rcode_high   # the extended rcode's upper octet
    uint8_t opt          # an OPT goes with it where the query has one; VERBATIM: it has its own, or needs none
    uint8_t kind
    uint8_t form
    uint8_t scope        # bits of the client's address that the answer depends on, or NO_SCOPE (RFC 7871)
    uint8_t everybody    # came for a client's subnet, and yet is true for all
    uint8_t reduced      # what is left of one that its client cannot take; never kept
    uint8_t bare         # VERBATIM: it came without the question (RFC 2136 3.8)
    EntryState marks               # last


cdef inline const uint16_t* answer_ttls(const Answer* answer) noexcept nogil:
    return <const uint16_t*> (answer + 1)


cdef inline const uint8_t* answer_key(const Answer* answer) noexcept nogil:
    return <const uint8_t*> (answer_ttls(answer) + answer.ttls)


cdef inline const uint8_t* answer_body(const Answer* answer) noexcept nogil:
    return answer_key(answer) + answer.key_length


cdef inline const uint8_t* answer_name(const Answer* answer) noexcept nogil:
    return answer_key(answer) + KEY_PREFIX


cdef inline int32_t fixed_at(const Answer* answer, uint16_t number) noexcept nogil:
    """Return where in the body the owner of a record ends, of those whose TTL is known."""
    return answer_ttls(answer)[number] - RR_TTL


cdef inline size_t answer_size(const Answer* answer) noexcept nogil:
    """Return the octets of the whole answer, rounded up to where the next one may start."""
    return (sizeof(Answer) + 2 * answer.ttls + answer.key_length + answer.body + answer.options + 7) & ~7


cdef BuildResult build(Answer* out, Query* query, const uint8_t* wire, size_t length,
                       const TtlLimits* ttl_limits, uint64_t now, uint64_t wall, bint over_stream) noexcept nogil
cdef BuildResult build_verbatim(Answer* out, const Query* query, const uint8_t* wire, size_t length,
                                uint64_t now) noexcept nogil
cdef void build_failure(Answer* out, const Query* query, uint16_t ede, const TtlLimits* ttl_limits,
                        uint64_t now) noexcept nogil
cdef void bound_ttls(Answer* answer, uint32_t shortest, uint32_t longest) noexcept nogil
cdef size_t render(uint8_t* out, size_t limit, const Answer* answer, const Query* query,
                   const RenderOptions* manner, uint32_t now, const EdnsOptions* extra) noexcept nogil
cdef bint answers_question(const Query* query, const uint8_t* wire, size_t length) noexcept nogil
