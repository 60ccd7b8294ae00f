"""Know what is left of an answer for a client who cannot take all of it (RFC 2181 9, RFC 9471), from its octets alone.

NSD, Knot DNS and BIND agree on the way: RRsets are whole or not there; each that fits is taken, in the order in which
they stand, a smaller one behind a larger one, too; what a client cannot do without has its place before all others.
"""

from dataclasses import dataclass
from struct import unpack_from

import dns.name
from dns.rdatatype import AAAA, ANY, CNAME, DNAME, DS, NS, NSEC, NSEC3, OPT, RRSIG, SOA, A

HEADER = 12
ANSWER, AUTHORITY, ADDITIONAL = range(3)
MISSED_MAX = 16  # after so many that are left out, no other one is taken


@dataclass(frozen=True)
class Record:
    """A record of a message: where it stands, and what it is."""

    section: int
    start: int
    end: int
    name: dns.name.Name
    rdtype: int
    covered: int  # the type that a signature is for, or its own
    leads: int  # where in the message the name's pointer leads
    data: bytes
    ttl: int

    def same(self, other):
        return self.name == other.name and self.covered == other.covered


def read(wire):
    """Return the records of a message, but for OPT."""
    found, at = [], HEADER
    counts = unpack_from("!4H", wire, 4)
    for _ in range(counts[0]):
        at += dns.name.from_wire(wire, at)[1] + 4
    for section, count in enumerate(counts[1:]):
        for _ in range(count):
            name, octets = dns.name.from_wire(wire, at)
            rdtype, _, ttl, size = unpack_from("!2HIH", wire, at + octets)
            data = wire[at + octets + 10 : at + octets + 10 + size]
            covered = int.from_bytes(data[:2]) if rdtype == RRSIG else rdtype
            pointer = int.from_bytes(wire[at + octets - 2 : at + octets])
            leads = pointer & 0x3FFF if octets != len(name.to_wire()) else 0
            end = at + octets + 10 + size
            if rdtype != OPT:
                found.append(Record(section, at, end, name, rdtype, covered, leads, data, ttl))
            at = end
    return found


def size_of(records):
    return sum(each.end - each.start for each in records)


def needed(wire):
    """Return the records that a client cannot do without."""
    records = read(wire)
    (qtype,) = unpack_from("!H", wire, HEADER + dns.name.from_wire(wire, HEADER)[1])
    answer = [each for each in records if each.section == ANSWER]
    told = [
        each.rdtype
        for each in answer
        if each.rdtype != RRSIG or (qtype == RRSIG and each.covered not in (CNAME, DNAME))
    ]
    leads_on = told[-1:] == [CNAME] and qtype not in (CNAME, ANY)
    authority = [each for each in records if each.section == AUTHORITY]
    complete = bool(answer) and not leads_on
    delegated = [each.name for each in authority if each.rdtype == NS][-1:]
    if complete or any(each.rdtype == SOA for each in authority):
        delegated = []
    return [
        each
        for each in records
        if each.section == ANSWER
        or (each.section == AUTHORITY and not (complete and each.covered == NS))
        or (each.section == ADDITIONAL and each.rdtype in (A, AAAA) and any(map(each.name.is_subdomain, delegated)))
    ]


def what_fits(wire, room):
    """Return the records that a client gets who has room for so many octets of them, or None: then TC is set."""
    must = set(needed(wire))
    room -= size_of(must)
    if room < 0:
        return None
    zones_own = [each for each in read(wire) if each.section == AUTHORITY and each not in must]
    with_authority = size_of(zones_own) <= room
    room -= size_of(zones_own) if with_authority else 0
    kept, missed = [], []
    for rrset in _rrsets(read(wire), must):
        first = rrset[0]
        movable = not missed or all(_can_move(wire, each, missed) for each in rrset)
        if first in must:
            if not movable:
                return None
            takes = True
        elif first.section == AUTHORITY:
            takes = with_authority and movable
        else:
            lone = first.rdtype == RRSIG and any(first.same(each[0]) for each in missed)
            takes = size_of(rrset) <= room and movable and not lone and len(missed) < MISSED_MAX
            room -= size_of(rrset) if takes else 0
        if takes:
            kept += rrset
        else:
            missed.append(rrset)
    return kept


def _rrsets(records, must):
    """Yield what is taken or left out at once: an RRset with the signatures right behind it, or a needed record."""
    rrset = []
    for each in records:
        if rrset and not _goes_with(each, rrset[0], must):
            yield rrset
            rrset = []
        rrset.append(each)
    if rrset:
        yield rrset


def _goes_with(record, first, must):
    if record in must or first in must or record.section != first.section:
        return False
    if record.section == AUTHORITY:
        return True
    return record.same(first) and (record.rdtype == RRSIG or first.rdtype != RRSIG)


def _can_move(wire, record, missed):
    """Tell whether a record stays right where RRsets before it are left out.

    If its owner leads into one, the same name must end the owner of the last answer, or the question's without any.
    """
    gaps = missed[:MISSED_MAX]
    gone = any(gap[0].start <= record.leads < gap[-1].end for gap in gaps)
    unknown = len(gaps) == MISSED_MAX and record.leads >= gaps[-1][0].start
    if gone or unknown:
        owners = [each.name for each in read(wire) if each.section == ANSWER] or [dns.name.from_wire(wire, HEADER)[0]]
        if not owners[-1].is_subdomain(dns.name.from_wire(wire, record.leads)[0]):
            return False
    return record.rdtype in (A, AAAA, RRSIG, NSEC, NSEC3, DS)


def is_what_fits(reply, whole, limit, *, aged=0, added=0):
    """Tell whether a reply is what a client gets of a whole answer who may take so many octets.

    TTLs may be at most `aged` seconds lower. `added` octets of options may be in the way that the reply does not show.
    """
    given = read(reply)
    if not whole[5]:  # an error, without its question
        return reply[3] & 15 == whole[3] & 15 and not given
    start = HEADER + dns.name.from_wire(whole, HEADER)[1] + 4
    if reply[2] & 2:
        opt = len(reply) - start
        return not given and what_fits(whole, limit - start - opt - added) is None
    opt = len(reply) - start - size_of(given)
    fits = read(whole) if size_of(read(whole)) + start + opt <= limit else what_fits(whole, limit - start - opt)
    return (
        fits is not None
        and same_header(reply, whole)
        and [_told(each) for each in given] == [_told(each) for each in fits]
        and all(before.ttl - aged <= after.ttl <= before.ttl for before, after in zip(fits, given, strict=True))
    )


def same_header(reply, whole):
    """Tell whether flags, opcode and rcode are the same, TC aside."""
    return reply[2] | 2 == whole[2] | 2 and reply[3] == whole[3]


def _told(record):
    return record.section, record.name, record.rdtype, record.data
