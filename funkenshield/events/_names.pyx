"""Names of what events tell by number: kinds of outcomes, reasons, transports, types and RCODEs."""

from libc.stdint cimport uint8_t, uint16_t

from ..policy._rule_state cimport KIND_ASKED, KIND_EXCHANGE, KINDS as KIND_COUNT, TRANSPORTS as TRANSPORT_COUNT
from ._event cimport NO_REASON, REASONS

cdef tuple KIND_NAMES = (  # in the order of their numbers
    b"hit", b"prefetch", b"stale", b"forwarded", b"coalesced", b"synthesised", b"local", b"rule", b"blocked",
    b"limited", b"denied", b"refused", b"malformed", b"badcookie", b"rejected", b"failed", b"dropped", b"asked",
    b"exchange",
)
cdef tuple REASON_NAMES = (b"", b"proxy_protocol")
cdef tuple TRANSPORT_NAMES = (b"udp", b"tcp", b"tls", b"https", b"http", b"quic", b"h3")
cdef tuple RCODE_NAMES = (
    b"NOERROR", b"FORMERR", b"SERVFAIL", b"NXDOMAIN", b"NOTIMP", b"REFUSED", b"YXDOMAIN", b"YXRRSET", b"NXRRSET",
    b"NOTAUTH", b"NOTZONE", b"DSOTYPENI", b"RCODE12", b"RCODE13", b"RCODE14", b"RCODE15",
)
cdef tuple TYPE_NAMES = (  # of those that are met
    (1, b"A"), (2, b"NS"), (5, b"CNAME"), (6, b"SOA"), (12, b"PTR"), (13, b"HINFO"), (15, b"MX"), (16, b"TXT"),
    (17, b"RP"), (24, b"SIG"), (25, b"KEY"), (28, b"AAAA"), (29, b"LOC"), (33, b"SRV"), (35, b"NAPTR"), (39, b"DNAME"),
    (43, b"DS"), (44, b"SSHFP"), (45, b"IPSECKEY"), (46, b"RRSIG"), (47, b"NSEC"), (48, b"DNSKEY"), (50, b"NSEC3"),
    (51, b"NSEC3PARAM"), (52, b"TLSA"), (53, b"SMIMEA"), (59, b"CDS"), (60, b"CDNSKEY"), (61, b"OPENPGPKEY"),
    (62, b"CSYNC"), (63, b"ZONEMD"), (64, b"SVCB"), (65, b"HTTPS"), (99, b"SPF"), (249, b"TKEY"), (250, b"TSIG"),
    (251, b"IXFR"), (252, b"AXFR"), (255, b"ANY"), (256, b"URI"), (257, b"CAA"),
)
KINDS = tuple(name.decode() for name in KIND_NAMES[:KIND_ASKED])  # that become of a client's query
ASKED, EXCHANGE = KIND_ASKED, KIND_EXCHANGE
TRANSPORTS = tuple(name.decode() for name in TRANSPORT_NAMES)

if (len(KIND_NAMES), len(TRANSPORT_NAMES), len(REASON_NAMES)) != (KIND_COUNT, TRANSPORT_COUNT, REASONS):
    raise ImportError("each Kind, each transport and each Reason has a name here")

cdef enum:
    TYPES = 258

cdef const char* _kinds[KIND_COUNT]
cdef const char* _reasons[REASONS]
cdef const char* _transports[TRANSPORT_COUNT]
cdef const char* _rcodes[16]
cdef const char* _types[TYPES]
for _number, _name in enumerate(KIND_NAMES):
    _kinds[<int> _number] = <const char*> <bytes> _name
for _number, _name in enumerate(REASON_NAMES):
    _reasons[<int> _number] = <const char*> <bytes> _name
for _number, _name in enumerate(TRANSPORT_NAMES):
    _transports[<int> _number] = <const char*> <bytes> _name
for _number, _name in enumerate(RCODE_NAMES):
    _rcodes[<int> _number] = <const char*> <bytes> _name
for _number, _name in TYPE_NAMES:
    _types[<int> _number] = <const char*> <bytes> _name


cdef const char* kind_name(uint8_t kind) noexcept nogil:
    """Return the name of a Kind."""
    return _kinds[min(kind, <uint8_t> (KIND_COUNT - 1))]


cdef const char* reason_name(uint8_t reason) noexcept nogil:
    """Return the name of a Reason; NULL: there is none."""
    return _reasons[reason] if NO_REASON < reason < REASONS else NULL


cdef const char* transport_name(uint8_t transport) noexcept nogil:
    return _transports[min(transport, <uint8_t> (TRANSPORT_COUNT - 1))]


cdef const char* type_name(uint16_t number) noexcept nogil:
    """Return the name of a record type; NULL: it is not known here."""
    return _types[number] if number < TYPES else NULL


cdef const char* rcode_name(uint8_t rcode) noexcept nogil:
    """Return the name of an RCODE, as a header has it."""
    return _rcodes[rcode & 15]
