"""Know how replies look octet by octet, where no library may tidy them up."""

import dns.message

from support.client import LARGEST


def ask_wire(name, rdtype="A", **options):
    """Return the octets of a query; `options` are those of dns.message.make_query."""
    return dns.message.make_query(name, rdtype, **options).to_wire(max_size=LARGEST)


def reply_wire(query, records=b"", counts=(1, 0, 0), flags=0x8400):
    """Return a reply without OPT: ID, RD and question are the query's, the rest is as given."""
    plain = query.wire[6:12] == bytes(6)
    question = query.wire[12 : None if plain else 16 + len(query.name.to_wire())]
    head = int.from_bytes(query.wire[2:4]) & 0x0100 | flags
    return b"".join([query.wire[:2], *(field.to_bytes(2) for field in (head, 1, *counts)), question, records])


def record_wire(rdtype, rdata, ttl=300, owner=b"\xc0\x0c"):
    """Return one record of class IN whose owner is the name of the question, as a compression pointer."""
    fields = int(rdtype).to_bytes(2), (1).to_bytes(2), ttl.to_bytes(4), len(rdata).to_bytes(2)
    return b"".join([owner, *fields, rdata])
