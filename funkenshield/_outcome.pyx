"""One query, one outcome: what becomes of a query, the same for every transport.

    meet: parse, hash, fetch -> answer: drop | FORMERR | pass on | hit | miss

It knows the order of the stations on a query's way. Where octets come from and go to is the
transport's business; what a station does is the station's.
"""

from libc.stdint cimport uint8_t, uint32_t

from ._answer cimport Answer, Manner, render
from ._atomic cimport bump, peek
from ._cache cimport Index, find, find_soon, mark_used
from ._wire cimport (
    FORMERR, HEADER, MALFORMED, PLAIN, SPECIAL, TC, UNANSWERABLE, Query, Verdict, hash_key, message_flags,
    parse_query, put_error
)


cdef Verdict meet(const Index* index, Query* query, const uint8_t* wire, size_t length) noexcept nogil:
    """Read a query, and have its place in the cache fetched while others are read."""
    cdef Verdict verdict = parse_query(query, wire, length)
    if verdict == PLAIN:
        hash_key(query, &index.secret)
        find_soon(index, query.hash)
    return verdict


cdef Outcome answer(const Index* index, const Query* query, Verdict verdict, uint8_t* out, size_t limit,
                    const Manner* manner, uint32_t now, Tally* tally, size_t* length) noexcept nogil:
    """Decide about a query that was met; a REPLY is written to `out`, `length` octets of it.

    Caller must ensure that it has entered the cache, and that `out` has room for `limit` octets and
    for an error. `now` is in ticks.
    """
    cdef const Answer* stored
    bump(&tally.queries, 1)
    if verdict == UNANSWERABLE:
        bump(&tally.short_datagrams if query.length < HEADER else &tally.responses, 1)
        return DROP
    if verdict == MALFORMED:
        bump(&tally.malformed, 1)
        length[0] = put_error(out, query, FORMERR, manner.payload, -1)
        return REPLY
    if verdict == SPECIAL:
        bump(&tally.passed_on, 1)
        return PASS_ON
    stored = find(index, query)
    if stored == NULL or stored.expires <= now:
        bump(&tally.misses, 1)
        return MISS
    mark_used(stored)
    length[0] = render(out, limit, stored, query, manner, now, NULL)
    bump(&tally.hits, 1)
    if message_flags(out) & TC:
        bump(&tally.truncated, 1)
    return REPLY


cdef dict tally_as_dict(const Tally* tally):
    return {
        "queries": peek(&tally.queries), "hits": peek(&tally.hits), "misses": peek(&tally.misses),
        "passed_on": peek(&tally.passed_on), "malformed": peek(&tally.malformed),
        "short": peek(&tally.short_datagrams), "responses": peek(&tally.responses),
        "cut": peek(&tally.truncated), "ring_full": peek(&tally.ring_full),
        "reply_lost": peek(&tally.send_failed), "oversized": peek(&tally.oversized),
    }
