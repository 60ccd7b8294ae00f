"""Know the one law: an answer through the shield is the answer of the nameserver behind it.

Only the message ID, the case of the question name, TTLs that aged, and the hop-by-hop parts of EDNS (payload
size, COOKIE) may differ.
"""

import dns.edns


def assert_lawful(reply, direct, *, aged=2):
    """Assert that `reply` equals the `direct` answer under the law, its TTLs at most `aged` seconds lower."""
    assert _unaged(reply) == _unaged(direct), f"through the shield:\n{reply}\n\nfrom the nameserver:\n{direct}"
    for before, after in zip(_ttls(direct), _ttls(reply), strict=True):
        assert before - aged <= after <= before, f"TTL {before} became {after}"


def _unaged(message):
    edns = (message.edns, message.ednsflags) if message.edns >= 0 else None
    options = sorted(
        (option.otype, option.to_wire()) for option in message.options if option.otype != dns.edns.OptionType.COOKIE
    )
    sections = [sorted(section, key=_owner) for section in message.sections]
    return message.opcode(), message.rcode(), message.flags, edns, options, sections


def _ttls(message):
    return [rrset.ttl for section in message.sections[1:] for rrset in sorted(section, key=_owner)]


def _owner(rrset):
    return rrset.name, rrset.rdtype, rrset.covers
