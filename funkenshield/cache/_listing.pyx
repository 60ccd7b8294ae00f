"""Entries as an operator sees them: what each is, and which there are, in pieces that hold nobody up.

It reads, and leaves no mark but the one that a look-up leaves that has checked purges. A piece is so many entries
looked at, whatever is found; what is moved, stored or evicted between two pieces may be seen twice, or not at all.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ..core._atomic cimport load_relaxed32, load_relaxed8
from ..core._clock cimport TICKS_PER_SECOND, ticks
from ..wire._message cimport (
    ADDITIONAL, ANSWER, AUTHORITY, CD, DO, HEADER, KEY_CLASS, KEY_EDNS_FLAGS, KEY_FLAGS, KEY_PREFIX, KEY_RULE_CHOICES,
    KEY_TYPE, QUESTION_FIXED, RCODE, RD, WITH_OPT, WITH_SUBNET, get16, get32, name_size, set16, set32, set_header
)
from ._entry cimport (
    NO_SCOPE, SECTIONS, Answer, answer_body, answer_key, answer_name, answer_size, answer_ttls
)
from ._freshness cimport freshness_of, servable_until
from ._index cimport Index, not_purged
from ._store cimport Cache
from ._zone_settings cimport ZoneSettings

_KINDS = ("positive", "negative", "referral", "failure", "other")                                # by Kind
_FRESHNESS = ("fresh", "prefetch", "stale", "stale, refreshed", "stale if error", "dead")        # by Freshness


cdef dict describe(const Index* index, const Answer* answer, uint32_t now):
    """Return what an entry is: its question, name and subnet on the wire, its age and times to live in seconds."""
    cdef:
        const ZoneSettings* settings = &index.zone_settings[answer.zone]
        const uint8_t* key = answer_key(answer)
        const uint8_t* name = answer_name(answer)
        size_t octets = name_size(name)
        uint16_t flags = get16(key + KEY_FLAGS)
        uint32_t expires = load_relaxed32(&answer.marks.expires)
        uint32_t refreshed = load_relaxed32(&answer.marks.refresh_after)
        bint narrowed = flags & WITH_SUBNET != 0
    return {
        "name": (<char*> name)[:octets], "type": get16(key + KEY_TYPE), "class": get16(key + KEY_CLASS),
        "rd": flags & RD != 0, "cd": flags & CD != 0, "edns": flags & WITH_OPT != 0,
        "do": get16(key + KEY_EDNS_FLAGS) & DO != 0,
        "subnet": (<char*> key)[KEY_PREFIX + octets + 2:answer.key_length] if narrowed else None,
        "subnet_family": name[octets] if narrowed else 0, "subnet_bits": name[octets + 1] if narrowed else 0,
        "scope": None if answer.scope == NO_SCOPE else answer.scope,
        "route": get16(key + KEY_RULE_CHOICES), "ttl_limits": get16(key + KEY_RULE_CHOICES + 2),
        "rcode": <uint16_t> answer.rcode_high << 4 | answer.flags & RCODE, "kind": _KINDS[answer.kind],
        "freshness": _FRESHNESS[freshness_of(answer, settings, now)],
        "age": <double> (now - answer.born) / TICKS_PER_SECOND,
        "lifetime": <double> (<int32_t> (expires - answer.born)) / TICKS_PER_SECOND,
        "ttl": <double> (<int32_t> (expires - now)) / TICKS_PER_SECOND,
        "served_for": <double> (<int32_t> (servable_until(answer, settings) - now)) / TICKS_PER_SECOND,
        "refresh_due": max(0.0, <double> (<int32_t> (refreshed - now)) / TICKS_PER_SECOND) if refreshed else 0.0,
        "used": load_relaxed8(&answer.marks.used), "refresh_failed": load_relaxed8(&answer.marks.failed) != 0,
        "zone": answer.zone, "bytes": answer_size(answer),
    }


def entries(Cache cache not None, uint32_t segment, uint32_t skipped, bytes name not None, *, bint below,
            int32_t qtype=-1, uint32_t most=1000, uint32_t looked_at=10000, bint messages=False) -> tuple:
    """Return entries for a name on the wire in lower case, with `below` for all names under it too, and what is next.

    It begins with a segment, of which so many entries are skipped, ends when so many are found or looked at, and
    returns where to go on, as (segment, skipped), or None: there are no more. With `messages`, each has its response,
    with the TTLs that are left (in a stale one, 0). Caller must be the one who writes to the cache.
    """
    cdef:
        uint32_t now = ticks(cache.clock.now())
        const uint8_t* wanted = name
        size_t wanted_octets = len(name)
        const Answer* answer
        uint64_t* slot = NULL
        size_t at = 0
        uint32_t left = looked_at
        uint32_t number = 0
        list found = []
        dict entry
    while segment < cache.segments_total:
        if not left or len(found) >= most:
            return found, (segment, number)
        answer = cache._next_live(segment, &at, &slot) if cache.segments[segment].in_use else NULL
        if answer == NULL:
            segment, skipped, number, at = segment + 1, 0, 0, 0
            continue
        number += 1
        if number <= skipped:
            continue
        left -= 1
        if (_is_named(answer_name(answer), wanted, wanted_octets, below)
                and (qtype < 0 or get16(answer_key(answer) + KEY_TYPE) == qtype) and not_purged(&cache.index, answer)):
            entry = describe(&cache.index, answer, now)
            if messages:
                entry["message"] = _message(answer, now)
            found.append(entry)
    return found, None


cdef bint _is_named(const uint8_t* name, const uint8_t* wanted, size_t octets, bint below) noexcept nogil:
    """Tell whether a name is another one, or below it."""
    cdef:
        size_t left = name_size(name)
        size_t i = 0
    if left < octets or left > octets and not below:
        return False
    while left > octets:
        left -= 1 + <size_t> name[0]
        name += 1 + <size_t> name[0]
    while left == octets and i < octets and name[i] == wanted[i]:
        i += 1
    return i == octets


cdef bytes _message(const Answer* answer, uint32_t now):
    """Return the response of an entry, without OPT; b"" for what has no form of its own."""
    cdef:
        const uint8_t* key = answer_key(answer)
        size_t octets = name_size(answer_name(answer))
        size_t at = HEADER + octets + QUESTION_FIXED
        uint32_t age = (now - answer.born) // TICKS_PER_SECOND
        uint32_t ttl
        uint16_t i
        bint stale = now >= load_relaxed32(&answer.marks.expires)
        bytearray out
        uint8_t* wire
    if answer.form != SECTIONS:
        return b""
    out = bytearray(at + answer.body)
    wire = out
    set_header(wire, answer.flags, 1, answer.counts[ANSWER], answer.counts[AUTHORITY], answer.counts[ADDITIONAL])
    memcpy(wire + HEADER, answer_name(answer), octets)
    set16(wire + HEADER + octets, get16(key + KEY_TYPE))
    set16(wire + HEADER + octets + 2, get16(key + KEY_CLASS))
    memcpy(wire + at, answer_body(answer), answer.body)
    for i in range(answer.ttls):
        ttl = get32(wire + at + answer_ttls(answer)[i])
        set32(wire + at + answer_ttls(answer)[i], 0 if stale or ttl < age else ttl - age)
    return bytes(out)
