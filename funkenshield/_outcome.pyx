"""One query, one outcome: what becomes of a query, the same for every transport.

    meet: parse, hash, fetch -> answer: drop | FORMERR | cookie | pass on | ANY | hit | miss

It knows the order of the stations on a query's way. Where octets come from and go to is the
transport's business; what a station does is the station's.
"""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from ._answer cimport Answer, render
from ._atomic cimport bump, look, peek, poke, publish
from ._cache cimport Cache, Index, find, find_soon
from ._cookies cimport (
    CLIENT_ALONE, NOT_OURS, Cookies, Standing, judge_cookie, put_cookie, set_secrets
)
from ._freshness cimport RESERVE, STALE, STALE_ASK, WANING, Freshness, judge, mark_asked, mark_used
from ._policy cimport Policy
from ._proxied cimport Proxies, is_trusted, set_prefixes
from ._subnets cimport subnet_rules, tell_subnet
from ._wire cimport (
    ANY, BADCOOKIE, FORMERR, HEADER, MALFORMED, NOERROR, PLAIN, SPECIAL, TC, UNANSWERABLE, Extra, Query, Verdict,
    hash_key, message_flags, parse_query, put_error, put_minimal_any
)


cdef Verdict meet(const House* house, Query* query, const uint8_t* wire, size_t length) noexcept nogil:
    """Read a query, and have its place in the cache fetched while others are read."""
    cdef Verdict verdict = parse_query(query, wire, length)
    if verdict == PLAIN:
        hash_key(query, &house.index.secret)
        find_soon(house.index, query.hash)
    return verdict


cdef Verdict meet_from(const House* house, Query* query, const uint8_t* wire, size_t length, const uint8_t* address,
                       uint8_t octets, uint8_t* told) noexcept nogil:
    """Meet a query of the client with this address; `told`, of TOLD_MAX octets, is where it is told of him."""
    cdef Verdict verdict = parse_query(query, wire, length)
    if verdict == PLAIN:
        tell_subnet(query, peek(&house.subnets), address, octets, told)
        hash_key(query, &house.index.secret)
        find_soon(house.index, query.hash)
    return verdict


cdef Outcome answer(const House* house, const Query* query, Verdict verdict, const Sender* sender, uint8_t* out,
                    size_t limit, uint32_t now, Tally* tally, size_t* length) noexcept nogil:
    """Decide about a query that was met; a REPLY is written to `out`, `length` octets of it.

    Caller must ensure that it has entered the cache, and that `out` has room for `limit` octets and
    for an error. `now` is in ticks.
    """
    cdef:
        const Index* index = house.index
        const Answer* stored
        const Policy* policy
        Freshness freshness
        int32_t error
        Extra extra
    extra.length = 0
    bump(&tally.queries, 1)
    if verdict == UNANSWERABLE:
        bump(&tally.short_datagrams if query.length < HEADER else &tally.responses, 1)
        return DROP
    if verdict == MALFORMED:
        bump(&tally.malformed, 1)
        length[0] = put_error(out, query, FORMERR, index.policies.manner.payload, &extra)
        return REPLY
    if query.cookie and (<const Cookies*> look(&house.cookies)).serve:
        error = _check_cookie(house, query, sender, &extra, tally)
        if error != NOERROR or not query.question:
            length[0] = put_error(out, query, <uint16_t> error, index.policies.manner.payload, &extra)
            return REPLY
    if verdict == SPECIAL:
        bump(&tally.passed_on, 1)
        return PASS_ON
    if query.qtype == ANY and house.minimal_any:
        bump(&tally.minimal, 1)
        length[0] = put_minimal_any(out, query, index.policies.manner.payload, &extra)
        return REPLY

    stored = find(index, query)
    if stored == NULL:
        bump(&tally.misses, 1)
        return MISS
    policy = &index.policies[stored.zone]
    freshness = judge(stored, policy, now)
    if freshness >= RESERVE:
        bump(&tally.misses, 1)
        return MISS
    mark_used(stored)
    length[0] = render(out, limit, stored, query, &policy.manner, now, &extra)
    bump(&tally.hits, 1)
    if message_flags(out) & TC:
        bump(&tally.truncated, 1)
    if freshness >= STALE:
        bump(&tally.stale, 1)
    if freshness == WANING or freshness == STALE_ASK:
        mark_asked(stored, now)
        bump(&tally.refreshes, 1)
        return REPLY_AND_ASK
    return REPLY


cdef int32_t _check_cookie(const House* house, const Query* query, const Sender* sender, Extra* extra,
                           Tally* tally) noexcept nogil:
    """Return what a query's cookie earns (RFC 7873 5.2): NOERROR, FORMERR or BADCOOKIE; `extra` gets ours."""
    cdef:
        const Cookies* cookies = <const Cookies*> look(&house.cookies)
        const uint8_t* cookie = query.wire + query.cookie_at + 4
        size_t size = query.cookie - 4
        Standing standing
    if not (size == 8 or 16 <= size <= 40):
        bump(&tally.malformed, 1)
        return FORMERR
    standing = judge_cookie(cookies, cookie, size, sender.address, sender.octets, sender.wall)
    extra.length = <uint16_t> put_cookie(extra.octets, cookies, cookie, standing, sender.address, sender.octets,
                                         sender.wall)
    if standing == NOT_OURS or standing == CLIENT_ALONE:
        if cookies.require and sender.datagram and query.question or standing == NOT_OURS and not query.question:
            bump(&tally.bad_cookies, 1)
            return BADCOOKIE
    return NOERROR


cdef void own_cookie(const House* house, Extra* extra, const uint8_t* client_cookie,
                     const Sender* sender) noexcept nogil:
    """Make the COOKIE option for a client who waited: his own cookie, and a new one of ours."""
    extra.length = <uint16_t> put_cookie(extra.octets, <const Cookies*> look(&house.cookies), client_cookie,
                                         CLIENT_ALONE, sender.address, sender.octets, sender.wall)


cdef dict tally_as_dict(const Tally* tally):
    return {
        "queries": peek(&tally.queries), "hits": peek(&tally.hits), "misses": peek(&tally.misses),
        "stale": peek(&tally.stale), "refreshes": peek(&tally.refreshes), "bad_cookies": peek(&tally.bad_cookies),
        "minimal": peek(&tally.minimal), "passed_on": peek(&tally.passed_on), "malformed": peek(&tally.malformed),
        "short": peek(&tally.short_datagrams), "responses": peek(&tally.responses),
        "cut": peek(&tally.truncated), "ring_full": peek(&tally.ring_full),
        "reply_lost": peek(&tally.send_failed), "oversized": peek(&tally.oversized),
        "bad_proxied": peek(&tally.bad_proxied),
    }


@cython.final
cdef class Reception:
    """What holds for every query, whoever answers it.

    Memory ownership: all is its own; whoever answers with it must be gone before it.
    """

    def __cinit__(self, Cache cache not None) -> None:
        self.cache = cache
        self.house.index = &cache.index
        self.house.cookies = <uint64_t> &self.cookies[0]
        self.house.proxies = <uint64_t> &self.proxies[0]

    def set_any(self, bint minimal) -> None:
        """Say whether ANY is answered here (RFC 8482)."""
        self.house.minimal_any = minimal

    def set_cookies(self, tuple secrets not None, *, bint serve, bint require) -> None:
        """Say whether the shield is the cookie server, and with which secrets of 16 octets; the first makes cookies.

        With `require`, a query over UDP whose cookie is not ours gets BADCOOKIE. Raises ValueError where
        the secrets are none.
        """
        cdef Cookies* other = <Cookies*> self.house.cookies + 1
        if other == &self.cookies[RULES]:
            other = &self.cookies[0]
        set_secrets(other, secrets)
        other.serve = serve
        other.require = require
        publish(&self.house.cookies, <uint64_t> other)

    def set_proxies(self, tuple prefixes not None) -> None:
        """Say from where queries come through front proxies, as (network address, bits).

        Raises ValueError where there are more than 64, or one is no prefix.
        """
        cdef Proxies* other = <Proxies*> self.house.proxies + 1
        if other == &self.proxies[RULES]:
            other = &self.proxies[0]
        set_prefixes(other, prefixes)
        publish(&self.house.proxies, <uint64_t> other)

    def set_subnets(self, *, uint8_t ipv4, uint8_t ipv6, bint private) -> None:
        """Say how many bits of clients' addresses upstreams are told, and whether of private ones; 0: none."""
        poke(&self.house.subnets, subnet_rules(ipv4, ipv6, private))

    def is_proxy(self, bytes address not None) -> bool:
        """Tell whether an address of 4 or 16 octets is that of a front proxy."""
        return is_trusted(<const Proxies*> self.house.proxies, address, <uint8_t> len(address))
