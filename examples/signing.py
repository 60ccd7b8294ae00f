"""Sign the answers of an unsigned zone.

Each answer is signed once, and cached with its signatures. The key is generated at every start: for validating
resolvers, read it from a file, and publish its DS record in the parent zone. There is no denial of existence,
and delegations are signed like all other records.
"""

import dns.dnssec
import dns.dnssectypes
import dns.name
import dns.rdatatype
import dns.rrset
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from funkenshield.rules import dnssec, name, qtype, shield, suffix

ZONE = dns.name.from_text("miek.nl")
KEY = Ed25519PrivateKey.generate()
WEEK = 7 * 86400  # seconds
DNSKEY = dns.dnssec.make_dnskey(KEY.public_key(), dns.dnssectypes.Algorithm.ED25519)


def sign(response):
    """Add a signature to each RRset of the zone in a response, and return it."""
    for section in (response.answer, response.authority):
        for rrset in list(section):
            if rrset.name.is_subdomain(ZONE) and rrset.rdtype != dns.rdatatype.RRSIG:
                made = dns.dnssec.sign(rrset, KEY, ZONE, DNSKEY, lifetime=WEEK)
                section.append(dns.rrset.from_rdata(rrset.name, rrset.ttl, made))
    return response


@shield.rule(name("miek.nl"), qtype("DNSKEY"), cache=True)
def keys(query):
    """Answer with the key, signed for those who ask for signatures."""
    response = query.respond(dns.rrset.from_rdata(ZONE, 3600, DNSKEY))
    return sign(response) if query.do else response


@shield.rule(suffix("miek.nl"), dnssec(), cache=True)
async def answers(query):
    """Sign what the upstream answers."""
    return sign(await query.resolve())
