"""Know what an authoritative nameserver answers from small signed zones (RFC 1034 4.3.2, 4035 3.1, 4592, 6672).

The signatures are made up: nobody here verifies them. It is written for clarity, to hold other code against.
"""

import time
from functools import lru_cache

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.rrset
from dns.rdatatype import DS, NSEC, RRSIG

RDATA = {
    "A": "192.0.2.1",
    "MX": "10 mail.elsewhere.test.",
    "TXT": '"text"',
    "CNAME": "target.elsewhere.test.",
    "NS": "ns.elsewhere.test.",
    "DS": f"1 13 2 {'ab' * 32}",
    "DNAME": "new.elsewhere.test.",
    "DNSKEY": f"257 3 13 {'AAAA' * 22}",
}
SIGNATURE = "c2ln" * 22
EXPIRES = int(time.time()) + 86400  # once for all, so that a record is always the same


def rrset(name, rdtype, rdata, ttl=300):
    """Return an RRset of one record of class IN."""
    return dns.rrset.from_rdata(name, ttl, _parsed(rdtype, rdata))


@lru_cache(4096)
def _parsed(rdtype, rdata):
    return dns.rdata.from_text("IN", rdtype, rdata)


def rrsig(name, covered, signer, ttl=300, expires=EXPIRES, labels=None):
    """Return a made-up signature of a name's records; `expires` is in seconds since the epoch."""
    name = dns.name.from_text(name) if isinstance(name, str) else name
    if labels is None:
        labels = len(name) - 1 - (name[0] == b"*")
    return rrset(name, "RRSIG", f"{covered} 13 {labels} {ttl} {expires} 0 1 {signer} {SIGNATURE}", ttl)


class Zone:
    """A zone of `nodes`: the types of records at each name. What a delegation or a DNAME hides is left out."""

    def __init__(self, apex, nodes, *, signed=True, ttl=300, minimum=300):
        self.apex = dns.name.from_text(apex)
        self.signed = signed
        self.ttl = ttl
        self.minimum = minimum
        nodes = {dns.name.from_text(name): tuple(types) for name, types in nodes.items()}
        nodes[self.apex] = ("SOA", "NS", "DNSKEY") if signed else ("SOA", "NS")
        self.nodes = {name: types for name, types in nodes.items() if not self._is_hidden(name, nodes)}
        self.chain = sorted(self.nodes)  # dnspython's order of names is the canonical one

    def _is_hidden(self, name, nodes):
        above = [name.split(depth)[1] for depth in range(len(self.apex) + 1, len(name))]
        return any({"NS", "DNAME"} & set(nodes.get(each, ())) for each in above)

    def exists(self, name):
        """Tell whether there are records at a name or below it."""
        return any(each.is_subdomain(name) for each in self.chain)

    def rdata(self, name, rdtype):
        if rdtype == "SOA":
            return f"ns.{self.apex} host.{self.apex} 1 3600 600 86400 {self.minimum}"
        return RDATA[rdtype]

    def records(self, name, rdtype):
        """Return the RRset of a type at a name, with its signature if there is one."""
        found = [rrset(name, rdtype, self.rdata(name, rdtype), self.ttl)]
        delegated = "NS" in self.nodes[name] and name != self.apex
        if self.signed and not (delegated and rdtype == "NS"):
            found.append(rrsig(name, rdtype, self.apex, self.ttl))
        return found

    def nsec(self, name):
        """Return the NSEC RRset that matches or covers a name, with its signature."""
        place = max(i for i, owner in enumerate(self.chain) if owner <= name)
        owner, following = self.chain[place], self.chain[(place + 1) % len(self.chain)]
        ttl = min(self.ttl, self.minimum)
        types = f"{following} {' '.join(self.nodes[owner])} NSEC RRSIG"
        return [rrset(owner, "NSEC", types, ttl), rrsig(owner, "NSEC", self.apex, ttl)]

    def to_text(self):
        """Return the zone as a file for a nameserver."""
        found = []
        for name in self.chain:
            for rdtype in self.nodes[name]:
                found += self.records(name, rdtype)
            if self.signed:
                found += self.nsec(name)
        return "\n".join(each.to_text() for each in found) + "\n"


class Authority:
    """A nameserver with some zones."""

    def __init__(self, *zones, flags=dns.flags.AA):
        self.zones = sorted(zones, key=lambda zone: len(zone.apex), reverse=True)
        self.flags = flags

    def zone_of(self, name, rdtype):
        """Return the zone that a question is about: of a DS record, the parent's."""
        for zone in self.zones:
            if name.is_subdomain(zone.apex) and not (rdtype == DS and name == zone.apex):
                return zone
        return None

    def response_to(self, query):
        """Return the response to a Message; REFUSED where it is about no zone."""
        question = query.question[0]
        response = dns.message.make_response(query)
        if query.edns >= 0:
            response.use_edns(0, query.ednsflags & dns.flags.DO, 1232)
        response.flags |= self.flags
        if not (query.flags & dns.flags.AD or query.ednsflags & dns.flags.DO):
            response.flags &= ~dns.flags.AD
        zone = self.zone_of(question.name, question.rdtype)
        if zone is None:
            response.set_rcode(dns.rcode.REFUSED)
            return response
        rcode, response.answer, denied = _look_up(zone, question.name, question.rdtype)
        response.set_rcode(rcode)
        if denied is not None:
            response.authority = zone.records(zone.apex, "SOA")
            for each in response.authority:
                each.ttl = min(zone.ttl, zone.minimum)
            response.authority += denied
        if not query.ednsflags & dns.flags.DO:
            for section in (response.answer, response.authority):
                section[:] = [each for each in section if each.rdtype not in {RRSIG, NSEC} - {question.rdtype}]
        return response


def _look_up(zone, name, rdtype):
    """Return rcode, answer, and the NSEC records of a denial, or None. A referral counts as an answer."""
    wanted = dns.rdatatype.to_text(rdtype)
    for depth in range(len(zone.apex) + 1, len(name) + 1):
        above = name.split(depth)[1]
        types = zone.nodes.get(above, ())
        if "NS" in types and not (above == name and rdtype == DS):
            return dns.rcode.NOERROR, zone.records(above, "NS"), None
        if "DNAME" in types and above != name:
            return dns.rcode.NOERROR, zone.records(above, "DNAME"), None
    if name in zone.nodes:
        answer = _answer(zone, name, wanted)
        return dns.rcode.NOERROR, answer, None if answer else _unique(zone, name)
    if zone.exists(name):
        return dns.rcode.NOERROR, [], _unique(zone, name)
    encloser = name
    while not zone.exists(encloser):
        encloser = encloser.parent()
    wildcard = dns.name.Name((b"*", *encloser))
    answer = _answer(zone, wildcard, wanted) if wildcard in zone.nodes else []
    if answer:
        return dns.rcode.NOERROR, answer, None
    rcode = dns.rcode.NOERROR if zone.exists(wildcard) else dns.rcode.NXDOMAIN
    return rcode, [], _unique(zone, name, wildcard)


def _answer(zone, name, wanted):
    types = zone.nodes[name]
    found = wanted if wanted in types else "CNAME" if "CNAME" in types else None
    return zone.records(name, found) if found else []


def _unique(zone, *names):
    """Return the NSEC records for some names, each once."""
    found = []
    for name in names if zone.signed else ():
        found += [each for each in zone.nsec(name) if each not in found]
    return found
