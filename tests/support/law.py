"""Know the one law: an answer through the shield is the answer of the nameserver behind it.

Only the message ID, the case of the question name, TTLs that aged, and the hop-by-hop parts of EDNS (payload
size, COOKIE, PADDING, TCP-KEEPALIVE) may differ. Of an error that echoes no question, only the RCODE is believed.
"""

import dns.edns
import dns.rcode

ERRORS = {dns.rcode.FORMERR, dns.rcode.SERVFAIL, dns.rcode.NOTIMP, dns.rcode.REFUSED}
KEEPALIVE, PADDING = 11, 12
HOP_BY_HOP = {dns.edns.OptionType.COOKIE, KEEPALIVE, PADDING}


def assert_lawful(reply, direct, *, aged=2):
    """Assert that `reply` equals the `direct` answer under the law, its TTLs at most `aged` seconds lower."""
    assert is_lawful(reply, direct, aged=aged), f"through the shield:\n{reply}\n\nfrom the nameserver:\n{direct}"


def is_lawful(reply, direct, *, aged=2):
    """Tell whether `assert_lawful` passes."""
    if not direct.question and direct.rcode() in ERRORS:
        return reply.rcode() == direct.rcode() and not any(reply.sections[1:])
    return _unaged(reply) == _unaged(direct) and all(
        before - aged <= after <= before for before, after in zip(_ttls(direct), _ttls(reply), strict=True)
    )


def envelope(message):
    """Return what a message says beside its sections: opcode, rcode, flags, and EDNS but for what is hop by hop."""
    edns = (message.edns, message.ednsflags) if message.edns >= 0 else None
    options = sorted((option.otype, option.to_wire()) for option in message.options if option.otype not in HOP_BY_HOP)
    return message.opcode(), message.rcode(), message.flags, edns, options


def _unaged(message):
    return envelope(message), [sorted(section, key=_order) for section in message.sections]


def _ttls(message):
    return [rrset.ttl for section in message.sections[1:] for rrset in sorted(section, key=_order)]


def _order(rrset):
    return rrset.name, rrset.rdclass, rrset.rdtype, rrset.covers, sorted(rrset)
