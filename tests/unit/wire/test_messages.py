"""Show what dnspython is given to read: all that is real, and nothing that costs more than its length accounts for."""

import time
from struct import pack

import dns.edns
import dns.exception
import dns.message
import dns.rdata
import dns.rrset
import dns.update
import pytest
from support import quick
from support.wires import ask_wire, record_wire

from funkenshield.upstream.health import is_healthy
from funkenshield.wire.messages import read_message

DEEP = b"\1x" * 100 + b"\xc0\x0c"  # a name of many labels
REVERSE = ".".join("0123456789abcdef0123456789abcdef") + ".ip6.arpa."
ASKED = quick.query("www.example")
START = len(ASKED) + 12  # where the data of the first record is


def response(*records, flags=0x8400, asked=ASKED):
    return pack("!6H", 7, flags, 1, len(records), 0, 0) + asked[12:] + b"".join(records)


def seconds(wire):
    """Return the CPU time that reading a message takes, and whether it was read."""
    begun = time.thread_time()
    try:
        read_message(wire)
    except dns.exception.DNSException:
        return time.thread_time() - begun, False
    return time.thread_time() - begun, True


def alike(number):
    """Return a label that has the hash of all others of these, for dnspython."""
    octets = []
    while len(octets) < 6:
        octets += [100 + number % 20, 255 - 9 * (number % 20)]
        number //= 20
    return bytes([6, *octets])


def pointer(at):
    return pack("!H", 0xC000 | at)


COSTLY = {
    "names of many labels": lambda n: record_wire(2, b"\2" + pack("!H", n) + pointer(START) if n else DEEP),
    "mail servers": lambda n: record_wire(15, b"\0\0\2" + pack("!H", n) + pointer(START) if n else b"\0\0" + DEEP),
    "owners of many labels": lambda n: record_wire(
        1, b"1234" if n else DEEP, owner=b"\2" + pack("!H", n) + pointer(START) if n else b"\xc0\x0c"
    ),
    "names that hash alike": lambda n: record_wire(1, b"1234", owner=alike(n) + b"\xc0\x0c"),
    "targets that hash alike": lambda n: record_wire(2, alike(n) + b"\xc0\x0c"),
    "gateways": lambda n: record_wire(45, bytes([n % 256, 3, n >> 8]) + DEEP[:-2] + b"\0"),
    "rendezvous servers": lambda n: record_wire(55, b"\0\1\0\0" + DEEP[:-2] + b"\0\2" + pack("!H", n) + b"\0"),
    "relays": lambda n: record_wire(260, bytes([n % 256, 3]) + b"\2" + pack("!H", n) + DEEP[:-2] + b"\0"),
    "names that deny": lambda n: record_wire(47, b"\2" + pack("!H", n) + DEEP[:-2] + b"\0\0\1\x40"),
}


@pytest.mark.parametrize("records", COSTLY.values(), ids=COSTLY)
def test_what_costs_more_than_its_length_accounts_for_is_not_read(records):
    taken = []
    for count in (10, 30, 100, 300, 1000, 2900):
        wire = response(*map(records, range(count)))
        if len(wire) <= 65535:
            spent, read = seconds(wire)
            taken.append(read)
            assert spent < 0.05 + 25e-6 * len(wire)
    assert not taken[-1]


def test_an_upstream_cannot_take_time_by_the_answer_to_a_check():
    begun = time.thread_time()
    is_healthy(response(*map(COSTLY["names of many labels"], range(200))), ["NOERROR"])
    assert time.thread_time() - begun < 0.05


REAL = {
    "addresses": [record_wire(1, pack("!I", n)) for n in range(3000)],
    "servers": [record_wire(2, bytes([4]) + b"ns%02d" % n + b"\xc0\x10") for n in range(13)],
    "services": [
        record_wire(33, bytes(6) + bytes([4]) + b"s%03d" % n + b"\3svc\7cluster\5local\0") for n in range(150)
    ],
    "keys": [record_wire(48, bytes([1, 1, 3, 8]) + bytes([n]) * 256) for n in range(8)],
    "texts": [record_wire(16, b"".join(bytes([250]) + bytes([n]) * 250 for _ in range(4))) for n in range(30)],
    "a key of IPsec": [record_wire(45, bytes([1, 3, 2]) + b"\2gw\7example\0" + bytes(260))],
}


@pytest.mark.parametrize("records", REAL.values(), ids=REAL)
def test_what_is_real_is_read(records):
    read = read_message(response(*records))
    assert sum(map(len, read.answer)) == len(records)


def test_a_signed_denial_below_ip6_arpa_is_read():
    denied = dns.message.make_response(dns.message.make_query(REVERSE, "PTR", use_edns=0))
    for n in range(3):
        owner = REVERSE.replace("0", str(n), 1)
        denied.authority += [
            dns.rrset.from_text(owner, 60, "IN", "NSEC", f"{REVERSE} PTR RRSIG NSEC"),
            dns.rrset.from_text(
                owner, 60, "IN", "RRSIG", f"NSEC 13 34 60 20370101000000 20200101000000 1 {REVERSE[60:]} {'A' * 88}"
            ),
        ]
    assert len(read_message(denied.to_wire()).authority) == 6


def test_an_update_is_read():
    update = dns.update.UpdateMessage("example.")
    for n in range(40):
        update.replace(f"host{n}", 300, "A", f"192.0.2.{n}")
        update.delete(f"old{n}", "AAAA")
    assert len(read_message(update.to_wire()).update) == 120


# ------------------------------------------------------------ queries


def with_opt(count):
    """Return a query with so many EDNS options."""
    return ask_wire("www.example.", use_edns=0, options=[dns.edns.GenericOption(65001 + n, b"") for n in range(count)])


def counted(answers, authorities, additionals, *records):
    return ASKED[:6] + pack("!3H", answers, authorities, additionals) + ASKED[12:] + b"".join(records)


ADDRESS, SERIAL = record_wire(1, bytes(4)), record_wire(6, b"\0\0" + bytes(20))
SIGNATURE = record_wire(24, bytes(18) + b"\0" + bytes(8))


def test_what_a_query_has_is_read():
    for wire in (ASKED, with_opt(32), counted(0, 1, 0, SERIAL), counted(0, 1, 1, SERIAL, SIGNATURE)):
        assert read_message(wire).to_wire()[12:] == wire[12:]


@pytest.mark.parametrize(
    "wire",
    [
        counted(1, 0, 0, ADDRESS),
        counted(0, 1, 0, ADDRESS),
        counted(0, 2, 0, SERIAL, SERIAL),
        counted(0, 0, 1, ADDRESS),
        counted(0, 0, 3, SIGNATURE, SIGNATURE, SIGNATURE),
        with_opt(33),
    ],
    ids=["answer", "authority", "two serials", "additional", "signatures", "options"],
)
def test_a_query_with_what_no_query_has_is_not_read(wire):
    dns.message.from_wire(wire)
    with pytest.raises(dns.exception.FormError):
        read_message(wire)


# ------------------------------------------------------------ what it leaves to dnspython


@pytest.mark.parametrize("wire", [b"", ASKED[:11], ASKED + b"x", ASKED[:-1], ASKED[:12] + pointer(12) + ASKED[-4:]])
def test_what_is_malformed_is_told_as_ever(wire):
    with pytest.raises(dns.exception.DNSException) as theirs:
        dns.message.from_wire(wire)
    with pytest.raises(dns.exception.DNSException) as ours:
        read_message(wire)
    assert isinstance(theirs.value, type(ours.value)) or type(ours.value) is dns.exception.FormError


def test_a_class_that_nobody_uses_is_not_remembered_for_ever():
    """To dnspython, each type of each class that it has seen is a kind of its own."""
    for rclass in (5, 253, 256, 65535):
        with pytest.raises(dns.exception.FormError):
            read_message(response(b"\xc0\x0c" + pack("!HHIH", 65280, rclass, 300, 0)))


def test_an_update_of_a_class_that_there_is_not_is_not_read():
    """What dnspython reads of such a class it remembers for ever, one entry for each type."""
    removed = b"".join(pack("!BHHIH", 0, number, 254, 0, 0) for number in range(1000, 3000))
    update = pack("!6H", 7, 0x2800, 1, 0, 2000, 0) + b"\0" + pack("!2H", 6, 4242) + removed
    before = len(dns.rdata._rdata_classes)
    with pytest.raises(dns.exception.FormError):
        read_message(update)
    assert len(dns.rdata._rdata_classes) == before
