"""How old an answer is, and what follows from it (RFC 8767): here it is decided whom an answer may serve.

    born ──── FRESH ──── PREFETCH ──┤expires├──── STALE, STALE_ASK or STALE_IF_ERROR ────┤stale_longest├──── DEAD

How long an answer is held is computed in `_entry`; that an upstream has failed, or takes too long, so that
STALE_IF_ERROR may be served, is decided in `forward/_resolution`.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from ..core._atomic cimport load_relaxed32, load_relaxed8, store_relaxed32, store_relaxed8
from ..core._clock cimport TICKS_PER_SECOND
from ..wire._message cimport NOERROR, NXDOMAIN
from ._entry cimport BROKEN, FAILURE, OTHER, TRUNCATED, Answer, BuildResult
from ._zone_settings cimport STALE_IMMEDIATE, STALE_OFF, ZoneSettings

cdef enum:
    OFTEN = 3                      # an answer that was asked for so many times is in use
    REFRESH_INTERVAL = 5 * TICKS_PER_SECOND  # until a refresh that was asked for is asked for again

cdef enum Freshness:
    FRESH                          # served
    PREFETCH                       # served, and asked for anew: it is in use, and its last tenth has begun
    STALE                          # past its time and served: a refresh failed, or is on its way
    STALE_ASK                      # past its time and served, and asked for anew
    STALE_IF_ERROR                 # past its time, and served only if the upstream fails
    DEAD                           # never served again


cdef inline uint32_t servable_until(const Answer* answer, const ZoneSettings* settings) noexcept nogil:
    """Return from when on an answer serves nobody, in ticks."""
    cdef uint32_t expires = load_relaxed32(&answer.marks.expires)
    if settings.stale_mode == STALE_OFF or answer.kind == FAILURE or answer.kind == OTHER:
        return expires
    return expires + settings.stale_longest


cdef inline Freshness freshness_of(const Answer* answer, const ZoneSettings* settings, uint32_t now) noexcept nogil:
    """Tell how fresh an answer is; `now` is in ticks."""
    cdef:
        uint32_t expires = load_relaxed32(&answer.marks.expires)
        bint asked
    if now < expires:
        if (settings.prefetch and (expires - now) * 10 < expires - answer.born and answer.kind != FAILURE
                and load_relaxed8(&answer.marks.used) >= OFTEN and now >= load_relaxed32(&answer.marks.refresh_after)):
            return PREFETCH
        return FRESH
    if now >= servable_until(answer, settings):
        return DEAD
    asked = now < load_relaxed32(&answer.marks.refresh_after)
    if settings.stale_mode == STALE_IMMEDIATE:
        return STALE if asked else STALE_ASK
    return STALE if asked and load_relaxed8(&answer.marks.failed) else STALE_IF_ERROR


cdef inline bint fails_to_refresh(BuildResult built, uint16_t rcode) noexcept nogil:
    """Tell whether a response leaves what is past its time as true as it was (RFC 8767 4).

    NOERROR and NXDOMAIN say what is true now. Anything else, and what cannot be read, says nothing of the name; but
    what is truncated can be had.
    """
    return built == BROKEN or built != TRUNCATED and rcode not in (NOERROR, NXDOMAIN)


cdef inline void mark_used(const Answer* answer) noexcept nogil:
    """Note that an answer was asked for; from the third time on there is nothing to note."""
    cdef uint8_t used = load_relaxed8(&answer.marks.used)
    if used < OFTEN:
        store_relaxed8(&(<Answer*> answer).marks.used, used + 1)


cdef inline void mark_asked(const Answer* answer, uint32_t now) noexcept nogil:
    """Note that a refresh is on its way, so that nobody else asks for one."""
    store_relaxed32(&(<Answer*> answer).marks.refresh_after, now + REFRESH_INTERVAL)


cdef inline void mark_failed(const Answer* answer, uint32_t until) noexcept nogil:
    """Note that a refresh failed: the answer serves without another one until then."""
    store_relaxed8(&(<Answer*> answer).marks.failed, 1)
    store_relaxed32(&(<Answer*> answer).marks.refresh_after, until)
