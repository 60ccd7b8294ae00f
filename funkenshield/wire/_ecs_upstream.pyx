"""Which network a client is in, as upstreams are told of it where he did not say so himself (RFC 7871).

    a client's query -> what he would have sent, had he told -> key, look-up, forwarding, coalescing: as always

It knows which addresses are told, and how much of them; and how a response that nobody can read is rid of what came
back. What else the client gets, who told nothing, is for those who write answers: `Query.added` says so. A subnet that
a client tells himself is read in `_message`.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from ..core._prefix_table cimport octets_of
from ._message cimport (
    ADDED_OPT, ADDED_SUBNET, ANCOUNT, CACHEABLE, CHAOS, HEADER, MESSAGE_MAX, OPT, OPTION_DATA, OPTION_LENGTH, OPT_FIXED,
    RR_RDATA, RR_RDLENGTH, SUBNET, SUBNET_ADDRESS, SUBNET_FAMILY, SUBNET_SCOPE, SUBNET_SOURCE, Ignored, Query, Record,
    RecordCursor, begin_records, can_move, copy_options, get16, get32, next_record, parse_ignoring, parse_query,
    put_opt, put_question, question_end, set16
)


cdef uint64_t subnet_rules(uint8_t ipv4, uint8_t ipv6, bint private) noexcept nogil:
    """Return as one number how many bits of an address are told, and whether of private ones; 0: nothing ever."""
    return ipv4 | <uint64_t> ipv6 << 8 | (<uint64_t> private << 16 if ipv4 or ipv6 else 0)


cdef bint _is_private(const uint8_t* address, uint8_t octets) noexcept nogil:
    """Tell whether an address is one that says nothing on the Internet (RFC 6890): of IPv6, all but 2000::/3."""
    cdef uint32_t ip
    if octets == 16:
        return address[0] >> 5 != 1
    ip = get32(address)
    return (
        ip >> 24 == 0 or ip >> 24 == 10 or ip >> 24 == 127  # this network, private, loopback
        or ip >> 22 == 0x6440 >> 6                          # 100.64.0.0/10, shared by carriers
        or ip >> 16 == 0xa9fe                               # 169.254.0.0/16, link-local
        or ip >> 20 == 0xac1                                # 172.16.0.0/12
        or ip >> 16 == 0xc0a8                               # 192.168.0.0/16
        or ip >> 8 == 0xc00000                              # 192.0.0.0/24, protocols
        or ip >> 17 == 0xc612 >> 1                          # 198.18.0.0/15, benchmarks
        or ip >> 29 == 7                                    # multicast, reserved, broadcast
    )


cdef size_t _put_with_subnet(uint8_t* out, size_t room, const Query* query, const uint8_t* address, uint8_t octets,
                             uint8_t bits) noexcept nogil:
    """Write a CACHEABLE query without CLIENT-SUBNET with one, of the first `bits` of an address (RFC 7871 6).

    Return its octets, or 0 where it needs more than `room`. Without an OPT it gets one that takes no larger answer.
    """
    cdef:
        size_t told = (bits + 7) // 8
        size_t options = query.options + SUBNET_ADDRESS + told
        size_t at = HEADER + query.question
        uint8_t* option = out + at + OPT_FIXED + query.options
    if at + OPT_FIXED + options > room:
        return 0
    put_question(out, query, query.flags, 0, 0, 1)
    put_opt(out + at, query.payload, 0, query.edns_flags, <uint16_t> options)
    memcpy(out + at + OPT_FIXED, query.wire + query.opt + OPT_FIXED, query.options)
    set16(option, SUBNET)
    set16(option + OPTION_LENGTH, <uint16_t> (SUBNET_ADDRESS - OPTION_DATA + told))
    set16(option + SUBNET_FAMILY, 1 if octets == 4 else 2)
    option[SUBNET_SOURCE] = bits
    option[SUBNET_SCOPE] = 0
    memcpy(option + SUBNET_ADDRESS, address, told)
    if bits % 8:
        option[SUBNET_ADDRESS + told - 1] &= <uint8_t> (0xff00 >> bits % 8)
    return at + OPT_FIXED + options


cdef void add_ecs(Query* query, uint64_t rules, const uint8_t* address, uint8_t octets,
                  const Ignored* ignored, uint8_t* out) noexcept nogil:
    """Let a CACHEABLE query be one that tells its client's subnet, written to `out`, of ECS_QUERY_MAX octets.

    It stays as it is where the client told something himself, even if it is nothing (RFC 7871 7.1.2), where
    his address is not told, and where it would be too long. The hash is the caller's to renew.
    """
    cdef:
        uint8_t bits = <uint8_t> (rules if octets == 4 else rules >> 8)
        uint8_t added = ADDED_SUBNET if query.opt else ADDED_SUBNET | ADDED_OPT
        size_t size
    if not bits or query.subnet or query.qclass == CHAOS or not rules >> 16 and _is_private(address, octets):
        return
    size = _put_with_subnet(out, ECS_QUERY_MAX, query, address, octets, bits)
    if size:
        parse_ignoring(query, out, size, ignored)
        query.added = added


cdef size_t strip_added(uint8_t* wire, size_t length, uint8_t added) noexcept nogil:
    """Take what was added to a query out of the response to it, whatever that is; return the octets that are left.

    It is looked for as far as there are records: whoever reads the response comes no further. 0: some that stand
    behind it cannot move. Caller must ensure that there is a header, and a question where it says so.
    """
    cdef:
        RecordCursor records
        Record record
        size_t to = question_end(wire, length)  # what is left is moved here
        size_t opt = 0             # where the first one stood
        uint8_t* count
    begin_records(&records, wire, length, to)
    while next_record(&records, &record):
        if record.rtype == OPT:
            opt = opt if opt else record.owner
            if added & ADDED_OPT:
                count = wire + ANCOUNT + 2 * record.section
                set16(count, get16(count) - 1)
            else:
                to += _copy_opt_without_ecs(wire + to, wire, &record)
        elif to == record.owner or can_move(wire, &record, opt):
            memmove(wire + to, wire + record.owner, record.end - record.owner)
            to += record.end - record.owner
        else:
            return 0
    memmove(wire + to, wire + records.at, length - records.at)
    return to + length - records.at


cdef size_t _copy_opt_without_ecs(uint8_t* out, const uint8_t* wire, const Record* opt) noexcept nogil:
    """Move an OPT record without CLIENT-SUBNET; return its octets."""
    cdef size_t fixed = opt.rdata - opt.owner, length
    memmove(out, wire + opt.owner, fixed)
    length = copy_options(out + fixed, wire + opt.rdata, opt.end - opt.rdata, SUBNET)
    set16(out + fixed - RR_RDATA + RR_RDLENGTH, <uint16_t> length)
    return fixed + length


# ---------------------------------------------------------------- for Python

def with_subnet(bytes query not None, bytes address not None, *, uint8_t ipv4, uint8_t ipv6, bint private) -> bytes:
    """Return a query as it goes on for a client with this address of 4 or 16 octets.

    Raises ValueError where it is no plain query, or the address is none.
    """
    cdef:
        Query parsed
        uint8_t[ECS_QUERY_MAX] out
    if len(query) > MESSAGE_MAX or parse_query(&parsed, query, len(query)) != CACHEABLE:
        raise ValueError("that is no plain query")
    add_ecs(&parsed, subnet_rules(ipv4, ipv6, private), address, octets_of(address), NULL, out)
    return parsed.wire[:parsed.length]
