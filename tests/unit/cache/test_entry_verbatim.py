"""Know what a client gets of a response that is passed on as it came: all of it, or what is left of one too large."""

import contextlib
from struct import pack

import pytest
from support.path import Path
from support.quick import QR, RD, query

STATUS = 2 << 11  # an opcode that nothing is known of, and that is passed on
UPDATE, SOA = 5 << 11, 6
REFUSED = 5
TEXT = b"\xc0\x0c" + pack("!2HIH", 16, 1, 0, 201) + bytes([200]) + bytes(200)


def opt(payload):
    return b"\0" + pack("!2HIH", 41, payload, 0, 0)


@pytest.fixture
def answered():
    """Return what a client gets who asks so, after the upstream has answered with these records."""
    with contextlib.ExitStack() as stack:
        shield = Path(stack)

        def ask(wire, answers, additional):
            (asked,) = shield.ask(wire)
            head = asked.wire[:2] + pack("!5H", QR | STATUS, 1, len(answers), 0, len(additional))
            shield.say(asked.port, head + wire[12:].removesuffix(opt(512)) + b"".join((*answers, *additional)))
            return shield.client.recv(4096)

        yield ask


def test_who_sent_no_edns_gets_none_with_what_is_too_large(answered):
    wire = query("large.test", flags=STATUS | RD)
    got = answered(wire, [TEXT] * 3, [opt(1400)])
    assert (got[2] & 2, got[4:]) == (2, pack("!4H", 1, 0, 0, 0) + wire[12:])


def test_what_is_too_large_keeps_the_opt_of_its_additional_section_and_no_other(answered):
    wire = query("large.test", flags=STATUS | RD)
    asked = wire[:10] + b"\0\1" + wire[12:] + opt(512)
    got = answered(asked, [opt(999), *[TEXT] * 3], [opt(1400)])
    assert (got[2] & 2, got[4:]) == (2, pack("!4H", 1, 0, 0, 1) + wire[12:] + opt(1400))


@pytest.fixture
def updated():
    """Return what a client gets who sends an UPDATE, after the upstream has said this behind the ID."""
    with contextlib.ExitStack() as stack:
        shield = Path(stack)
        shield.miss_path.settings_writer.set_allowed(updates=((b"\x7f\0\0\0", 8),))

        def update(wire, said):
            (asked,) = shield.ask(wire)
            assert asked.wire[2:] == wire[2:]
            shield.say(asked.port, asked.wire[:2] + said)
            return shield.client.recv(4096)

        yield update


@pytest.mark.parametrize("rcode", [0, REFUSED])
@pytest.mark.parametrize("additional", [b"", opt(1232)], ids=["plain", "EDNS"])
def test_the_response_to_an_update_has_no_zone_section_where_it_came_without(updated, rcode, additional):
    """RFC 2136 3.8: all that has to be there is the header."""
    bare = pack("!5H", QR | UPDATE | rcode, 0, 0, 0, len(additional) // 11) + additional
    zone = query("zone.test", SOA, ident=4711, flags=UPDATE)
    wire = zone[:10] + bare[8:10] + zone[12:] + additional
    assert updated(wire, bare) == wire[:2] + bare


def test_the_response_to_an_update_keeps_its_zone_section_and_its_records(updated):
    wire = query("zone.test", SOA, ident=4711, flags=UPDATE)
    said = pack("!5H", QR | UPDATE, 1, 1, 0, 0) + wire[12:] + TEXT
    assert updated(wire, said) == wire[:2] + said
