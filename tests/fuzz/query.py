"""A query from anybody: it is read as dnspython reads it, or by nobody; and what is said of it can be read."""

from struct import pack

from funkenshield.wire._ecs_upstream import with_subnet
from funkenshield.wire._edns_cookies import answer_cookie
from funkenshield.wire._message import error_response, inspect_query

from .messages import ADDRESS, COOKIE, query_of, read

SUBNET = 8
SECRETS = (bytes(16), b"0123456789abcdef")
OPCODE_AND_RD_CD = 0x7910


def made(dice):
    """Return a query."""
    return query_of(dice).to_wire()


def one(data):
    """Hold what the parser finds in a query against what dnspython does."""
    found, message = inspect_query(data), read(data)
    if found["verdict"] == "unanswerable":
        assert len(data) < 12 or data[2] & 0x80
        return
    _check_error(data, found)
    if found["verdict"] != "plain":
        return
    assert message is not None, "plain, but dnspython cannot read it"
    (question,) = message.question
    name = question.name.to_wire()
    assert (name, question.rdtype, question.rdclass) == (found["qname"], found["qtype"], found["qclass"])
    assert found["key"][12:].startswith(question.name.canonicalize().to_wire())
    assert not message.answer
    assert not message.authority
    assert not message.additional
    assert (message.edns == 0) == ("payload" in found)
    if message.edns == 0:
        assert (max(message.payload, 512), message.ednsflags & 0xFFFF) == (found["payload"], found["edns_flags"])
    _check_subnet(data, message)
    for option in message.options:
        if option.otype == COOKIE:
            _, ours = answer_cookie(SECRETS, option.to_wire(), ADDRESS, 1_700_000_000)
            assert ours[4:12] == option.to_wire()[:8]


def _check_error(data, found):
    """An error echoes ID, opcode and what was understood of the question."""
    error = error_response(data, 2)
    question = data[12 : 16 + len(found["qname"])] if "qname" in found else b""
    assert error[:2] == data[:2]
    assert int.from_bytes(error[2:4]) == 0x8002 | int.from_bytes(data[2:4]) & OPCODE_AND_RD_CD
    assert error[4:12] == pack("!4H", bool(question), 0, 0, "payload" in found)
    assert error[12:].startswith(question)
    assert len(error) == 12 + len(question) + 11 * ("payload" in found)


def _check_subnet(data, message):
    """With the client's subnet, it is the same query, with one subnet: his own where he told one."""
    told = read(with_subnet(data, ADDRESS, ipv4=24, ipv6=56, private=True))
    assert told is not None
    assert (told.id, told.flags, told.question) == (message.id, message.flags, message.question)
    assert (told.ednsflags ^ message.ednsflags) & 0xFFFF == 0
    told_before = [each for each in message.options if each.otype == SUBNET]
    others = [each.to_wire() for each in message.options if each.otype != SUBNET]
    assert [each.to_wire() for each in told.options if each.otype != SUBNET] == others
    subnets = [each.to_wire() for each in told.options if each.otype == SUBNET]
    if told_before or message.question[0].rdclass == 3:
        assert subnets == [each.to_wire() for each in told_before]
    else:
        assert subnets == [b"\0\1\x18\0" + ADDRESS[:3]]
