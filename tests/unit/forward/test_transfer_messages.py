"""Know that a message of a transfer comes to its client whole, however little room there is in it for our options."""

from struct import pack

import pytest
from support.edns import COOKIE, option, split_opt, with_opt
from support.quick import QR, query

from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock
from funkenshield.forward._miss_path import MissPath

AXFR, NULL = 252, 10
LARGEST = 65535
ADDRESS = bytes([127, 0, 0, 1])
PLAIN = query("zone.test", AXFR, ident=4711)
OURS = 4 + 24  # octets of the option that has our cookie


def message(octets, *, opt):
    """Return a message of a transfer, of so many octets."""
    room = octets - len(PLAIN) - 12 - 11 * opt
    record = b"\xc0\x0c" + pack("!2HIH", NULL, 1, 300, room) + bytes(room)
    made = PLAIN[:2] + pack("!5H", QR, 1, 1, 0, 0) + PLAIN[12:] + record
    return with_opt(made) if opt else made


def heard(response):
    """Return what a client with a cookie gets who asks for a transfer, over a stream, of a message."""
    miss_path = MissPath(Cache(1 << 22, Clock()), 16)
    miss_path.settings_writer.set_cookies((bytes(16),), serve=True, require=False)
    miss_path.settings_writer.set_allowed(transfers=((ADDRESS, 32),))
    assert miss_path.submit(1, ADDRESS, with_opt(PLAIN, option(COOKIE, b"8 octets")))
    ((client, wire, stream, _),) = miss_path.take_notifies_and_transfers()
    miss_path.rules.reply(client, wire, response)
    ((sent, framed),) = miss_path.outbox.take_streams()
    assert (stream, sent, int.from_bytes(framed[:2])) == (1, 1, len(framed) - 2)
    return framed[2:]


@pytest.mark.parametrize("opt", [False, True], ids=["plain", "EDNS"])
@pytest.mark.parametrize("short", [0, 10, OURS - 1])
def test_what_leaves_no_room_for_our_cookie_comes_as_it_is(short, opt):
    response = message(LARGEST - short, opt=opt)
    assert heard(response) == response


def test_what_leaves_just_room_for_our_cookie_comes_with_it():
    response = message(LARGEST - OURS, opt=True)
    got = heard(response)
    assert len(got) == LARGEST
    assert split_opt(got)[0] == split_opt(response)[0]
    assert split_opt(got)[1][:13] == option(COOKIE, bytes(24))[:4] + b"8 octets" + b"\1"
