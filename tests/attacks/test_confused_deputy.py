"""Strangers who use the shield as a deputy: an upstream trusts its address, and would do for it what it denies them.

Zone transfers, updates and notifies of everybody are refused, however they are dressed, unless the configuration says
whose may pass; the upstream hears nothing of them.
"""

import itertools
import socket

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rrset
import dns.tsigkeyring
import dns.update
import pytest
from rules.changing import configure, reloaded
from support.client import frame, tcp_wire, udp_wire
from support.control import stats
from support.proxied import STREAM, told
from support.rig import ask, asked, behind, rcode, received, silent
from support.upstream import ScriptedUpstream, respond

NAME = "example.test."
KEYRING = dns.tsigkeyring.from_text({"key.test.": "c2VjcmV0IG9mIHRoZSB0ZXN0cw=="})
FRIEND, STRANGER = "127.0.0.2", "127.0.0.3"
NOERROR, REFUSED = 0, 5
_soa = dns.rrset.from_text(NAME, 0, "IN", "SOA", ". . 3 0 0 0 0")
transports = pytest.mark.parametrize("send", [udp_wire, tcp_wire], ids=["UDP", "TCP"])


def transfer(rdtype="AXFR", rdclass="IN", **how):
    made = asked(NAME, rdtype, flags="", rdclass=rdclass, **how)
    if rdtype == "IXFR":
        made.authority.append(_soa)
    return made


def signed():
    made = transfer()
    made.use_tsig(KEYRING)
    return made


def spelled():
    made = dns.message.make_query("eXaMpLe.TeSt.", "AXFR")
    made.flags = dns.flags.RD | dns.flags.CD | dns.flags.AD | dns.flags.AA
    return made


def update():
    made = dns.update.UpdateMessage(NAME)
    made.add("host", 300, "A", "192.0.2.7")
    return made


def notify(name=NAME):
    return asked(name, "SOA", flags="AA", opcode="NOTIFY")


def counts(wire, *fields):
    """Return a message with other counts in its header: of questions, answers, authority, additional."""
    header = b"".join(field.to_bytes(2) for field in fields)
    return wire[:4] + header + wire[4 + len(header) :]


DRESSED = {
    "AXFR": transfer().to_wire(),
    "IXFR": transfer("IXFR").to_wire(),
    "IXFR without SOA": transfer("IXFR", rdclass="CH").to_wire(),
    "AXFR of class CHAOS": transfer(rdclass="CH").to_wire(),
    "AXFR of class ANY": transfer(rdclass="ANY").to_wire(),
    "AXFR, unknown option": transfer(options=[(65001, b"x")]).to_wire(),
    "AXFR, NSID and a subnet": transfer(options=[(3, b""), (8, bytes([0, 1, 0, 0]))]).to_wire(),
    "AXFR, EDNS version 1": transfer(edns=1).to_wire(),
    "AXFR, DO": transfer(do=True).to_wire(),
    "AXFR with TSIG": signed().to_wire(),
    "AXFR, spelled oddly, with all flags": spelled().to_wire(),
    "AXFR with a record in the answer": counts(transfer("IXFR").to_wire()[:-1], 1, 1, 0, 0)
    .replace(b"\x00\xfb", b"\x00\xfc", 1),
    "UPDATE": update().to_wire(),
    "UPDATE without a zone": counts(bytes([0, 7, 0x28, 0]) + bytes(8)),
    "NOTIFY": notify().to_wire(),
    "NOTIFY without a question": bytes([0, 7, 0x20, 0]) + bytes(8),
    "NOTIFY of the root": notify(".").to_wire(),
}  # fmt: skip


def obedient(query):
    """Do whatever is asked for, and say so: its own octets, as a response."""
    return query.wire[:2] + bytes([0x80 | query.wire[2], 0]) + query.wire[4:]


@pytest.fixture(scope="module")
def stage():
    with behind(obedient, allow_notify_from=[FRIEND]) as (shield, upstream):
        yield shield, upstream


@transports
@pytest.mark.parametrize("wire", DRESSED.values(), ids=DRESSED)
def test_what_an_upstream_would_do_for_the_shield_alone_is_refused(stage, wire, send):
    shield, upstream = stage
    before, heard = stats(shield), len(upstream.received)
    reply = send(shield, wire)
    assert reply[:2] == wire[:2]
    assert reply[2] & 0xF8 == 0x80 | wire[2] & 0x78
    assert reply[3] & 15 == REFUSED
    assert not any(reply[6:10])
    after = stats(shield)
    assert after["forward_denied"] == before["forward_denied"] + 1
    assert after["uncached_queries"] == before["uncached_queries"]
    assert len(upstream.received) == heard


@transports
@pytest.mark.parametrize("opcode", [1, 2, 3, 6, 7, 15])
def test_other_opcodes_pass_as_ever(stage, opcode, send):
    shield, upstream = stage
    heard = len(upstream.received)
    wire = bytes([0, 7, opcode << 3, 0]) + transfer().to_wire()[4:]
    assert send(shield, wire)[:2] == b"\0\7"
    assert [each.wire[2:] for each in upstream.received[heard:]] == [wire[2:]]


KINDS = {"transfers": transfer("IXFR"), "updates": update(), "notifies": notify()}


@pytest.mark.parametrize("tcp", [False, True], ids=["UDP", "TCP"])
@pytest.mark.parametrize("allowed", KINDS)
def test_each_kind_is_allowed_apart_and_to_those_who_are_named(allowed, tcp):
    def answer(query):
        return respond(query, dns.rcode.YXDOMAIN)

    with behind(answer, forward={"allow": {allowed: [f"{FRIEND}/32", "192.0.2.0/24"]}}) as (shield, upstream):
        for source, (kind, query) in itertools.product((FRIEND, STRANGER), KINDS.items()):
            passes = source == FRIEND and kind == allowed
            assert rcode(ask(shield, query, source=source, tcp=tcp)) == ("YXDOMAIN" if passes else "REFUSED")
        assert len(upstream.received) == 1
        assert stats(shield)["forward_denied"] == 5


def test_a_notify_comes_from_the_notifiers_of_any_zone_or_from_who_is_allowed():
    options = {
        "allow_notify_from": ["127.0.0.4"],
        "zones": [{"name": "other.test.", "allow_notify_from": ["127.0.0.5"]}],
        "forward": {"allow": {"notifies": ["127.0.0.6"]}},
    }
    with behind(obedient, **options) as (shield, upstream):
        took = [rcode(ask(shield, notify(), source=f"127.0.0.{n}")) for n in range(3, 8)]
        assert took == ["REFUSED", "NOERROR", "NOERROR", "NOERROR", "REFUSED"]
        assert upstream.count(NAME) == 3


def test_rules_come_first_and_lend_nothing(tmp_path):
    functions = tmp_path / "functions.py"
    functions.write_text(
        "def ok(query):\n    return query.respond()\n"
        "def nothing(query):\n    return None\n"
        "async def asks(query):\n    return await query.resolve_wire()\n"
    )

    def of(name, **action):
        return {"match": {"suffix": f"{name}.test"}, **action}

    def call(function):
        return {"call": f"{functions}:{function}"}

    rules = [
        of("called", action=call("ok")),
        of("kept", action=call("ok"), cache=True),
        of("left", action=call("nothing"), cache=True),
        of("asks", action=call("asks")),
        of("forwarded", action={"forward": "default"}),
        of("passed", action="allow"),
        of("uncached", action="skip_cache"),
        {"match": {"opcode": "UPDATE", "suffix": "denied.test"}, "action": "nxdomain"},
    ]
    wanted = {"called": "NOERROR", "kept": "NOERROR", "denied": "NXDOMAIN"}
    with behind(obedient, rules=rules) as (shield, upstream):
        for name in ("called", "kept", "left", "asks", "forwarded", "passed", "uncached", "denied"):
            query = asked(f"{name}.test", "SOA", flags="", opcode="UPDATE")
            assert rcode(ask(shield, query)) == wanted.get(name, "REFUSED"), name
        assert not upstream.received
        assert rcode(ask(shield, "forwarded.test")) == "NOERROR"
        assert received(upstream) == {"forwarded.test.": 1}


def test_behind_a_proxy_the_clients_address_counts():
    options = {"proxy_protocol_from": ["127.0.0.1"], "forward": {"allow": {"updates": ["127.0.0.1", "192.0.2.7"]}}}
    with behind(obedient, **options) as (shield, upstream):
        for source, wanted in (("192.0.2.7", NOERROR), ("192.0.2.8", REFUSED)):
            wire = update().to_wire()
            assert udp_wire(shield, told(source) + wire)[3] & 15 == wanted
            with socket.create_connection(shield.address, 5) as sock, sock.makefile("rb") as stream:
                sock.sendall(told(source, transport=STREAM) + frame(wire))
                assert stream.read(int.from_bytes(stream.read(2)))[3] & 15 == wanted
        assert len(upstream.received) == 2


def test_a_flood_of_them_keeps_nobody_out():
    """A silent upstream would hold each for seconds, if it heard of them; the bound of what is passed on is one."""
    with behind(silent, obedient, forward={"max_uncached": 1}) as (shield, quiet, _):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(10)
            sock.connect(shield.address)
            for _ in range(50):
                for wire in (DRESSED["AXFR"], DRESSED["UPDATE"], DRESSED["NOTIFY"]):
                    sock.send(wire)
                assert {sock.recv(512)[3] & 15 for _ in range(3)} == {REFUSED}
        counted = stats(shield)
        assert (counted["forward_denied"], counted["uncached_queries"], counted["outstanding_limit_exceeded"]) == (
            150,
            0,
            0,
        )
        assert not quiet.received


def test_who_may_is_changed_by_a_reload():
    with ScriptedUpstream(obedient) as upstream, behind(upstream) as (shield, _):
        assert rcode(ask(shield, update())) == "REFUSED"
        configure(shield, upstream, forward={"allow": {"updates": ["127.0.0.0/8"]}})
        reloaded(shield, 1)
        assert rcode(ask(shield, update())) == "NOERROR"
        configure(shield, upstream, forward={})
        reloaded(shield, 2)
        assert rcode(ask(shield, update())) == "REFUSED"
    assert received(upstream) == {NAME: 1}
