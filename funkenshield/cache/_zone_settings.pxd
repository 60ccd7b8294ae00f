"""What an operator wants for the answers of a zone: how long they are held, and how they are served.

Written by the control thread when it is configured, read by everybody; each field is true by itself.
Workers copy it by `copy_words`, or peek at one field.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef struct TtlLimits:             # how long an answer may be held, seconds
    uint32_t shortest
    uint32_t longest
    uint32_t negative
    uint32_t failure

cdef struct RenderOptions:         # how answers look
    uint16_t payload               # octets: our UDP payload size, told and kept
    uint8_t keep_ttl               # send TTLs as they came instead of counting down
    uint8_t shuffle                # rotate addresses from answer to answer
    uint32_t stale_ttl             # on the wire of an answer past its time, seconds

cdef enum StaleMode:               # when an answer past its time is served (RFC 8767)
    STALE_OFF
    STALE_ON_FAILURE
    STALE_IMMEDIATE

cdef struct ZoneSettings:
    TtlLimits ttl_limits
    RenderOptions manner
    uint8_t stale_mode
    uint8_t prefetch               # refresh what is in use before its time is up
    uint8_t nxdomain_cut           # NXDOMAIN denies all names below (RFC 8020)
    uint8_t trust_nsec             # NSEC records deny what lies between (RFC 8198)
    uint16_t group                 # of upstreams that are asked
    uint32_t stale_longest         # how long past its time an answer is kept, ticks
    uint64_t client_timer          # how long a client waits before he is served what is stale, nanoseconds
    uint32_t recheck               # after a failed refresh, the next one waits so long, ticks
    uint32_t max_outstanding       # clients that may wait at once
