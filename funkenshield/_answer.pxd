"""An answer in the form in which it is kept: built once from a response, rendered for every query.

What depends on the client is not in it: ID, spelling of the question, payload size, OPT record.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ._wire cimport KEY_MAX, MESSAGE_MAX, Query

cdef enum:
    TTLS_MAX = (MESSAGE_MAX // 11)             # as many records as fit in a message
    ANSWER_MAX = 80 * 1024                     # octets of the largest answer, rounded up
    EXTRA_MAX = 64                             # octets of EDNS options for one client alone

cdef enum Kind:
    POSITIVE
    NEGATIVE       # NXDOMAIN or NODATA (RFC 2308)
    REFERRAL
    FAILURE        # SERVFAIL, REFUSED or silence (RFC 9520)
    OTHER          # everything that is passed on only

cdef enum Form:
    SECTIONS       # well formed: the sections without OPT
    VERBATIM       # passed on as it came, behind the question
    BARE           # passed on as it came, and it came without a question

cdef enum Built:
    KEEP           # may be stored until `expires`
    PASS           # for those who wait now, and nobody else
    TRUNCATED      # TC=1: the full answer is to be had over TCP

cdef struct Bounds:      # how long the operator lets an answer be held, seconds
    uint32_t shortest
    uint32_t longest
    uint32_t negative
    uint32_t failure

cdef struct Manner:      # how the operator wants answers to look
    uint16_t payload     # octets: our UDP payload size, told and kept
    uint8_t keep_ttl     # send TTLs as they came instead of counting down

cdef struct Extra:       # EDNS options for one client alone
    uint16_t length
    uint8_t octets[EXTRA_MAX]

# Followed by: TTL offsets in the body (uint16_t each), key, body, EDNS options. All of it is written
# before a reader sees it and never after, but for `used`.
cdef struct Answer:
    uint64_t hash        # of the key
    uint32_t born        # when the response came, ticks
    uint32_t expires     # fresh until, ticks
    uint16_t ttls        # how many TTL offsets
    uint16_t key_length
    uint16_t body        # octets of the answer, authority and additional sections
    uint16_t options     # octets of EDNS options
    uint16_t flags       # of the response's header
    uint16_t answers     # records in each section, OPT not counted
    uint16_t authorities
    uint16_t additionals
    uint16_t edns_flags
    uint8_t rcode_high   # the extended rcode's upper octet
    uint8_t opt          # an OPT goes with it where the query has one
    uint8_t kind
    uint8_t form
    uint8_t unused
    uint8_t used         # a reader's mark: asked for since it was last considered for eviction


cdef inline const uint16_t* answer_ttls(const Answer* answer) noexcept nogil:
    return <const uint16_t*> (answer + 1)


cdef inline const uint8_t* answer_key(const Answer* answer) noexcept nogil:
    return <const uint8_t*> (answer_ttls(answer) + answer.ttls)


cdef inline const uint8_t* answer_body(const Answer* answer) noexcept nogil:
    return answer_key(answer) + answer.key_length


cdef inline size_t answer_size(const Answer* answer) noexcept nogil:
    """Return the octets of the whole answer, rounded up to where the next one may start."""
    return (sizeof(Answer) + 2 * answer.ttls + answer.key_length + answer.body + answer.options + 7) & ~7


cdef Built build(Answer* out, const Query* query, const uint8_t* wire, size_t length,
                 const Bounds* bounds, uint64_t now, uint64_t wall, Extra* own) noexcept nogil
cdef void build_failure(Answer* out, const Query* query, int32_t ede, const Bounds* bounds,
                        uint64_t now) noexcept nogil
cdef size_t render(uint8_t* out, size_t limit, const Answer* answer, const Query* query,
                   const Manner* manner, uint32_t now, const Extra* extra) noexcept nogil
cdef bint answers_question(const Query* query, const uint8_t* wire, size_t length) noexcept nogil
