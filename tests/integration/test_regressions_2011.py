"""Know what the shield of 2011 died of, got wrong or never stopped doing: each is a test here.

Each test looks at what the client got, what the upstream received, and how many times.
"""

import contextlib
import itertools
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdatatype
import pytest
from support.client import Address, ask, exchange, free_port, tcp_wire, udp_wire
from support.control import advance
from support.proc import descriptors, resident
from support.process import run_shield
from support.stopwatch import Stopwatch
from support.upstream import Delayed, ScriptedUpstream, answer, respond, servfail, truncated
from support.wires import ask_wire, record_wire, reply_wire


def limits(timeout, deadline):
    """Return a configuration that waits so many seconds for an upstream, and lets a client wait so many."""
    return f"""
[forward]
spoof_threshold = 0
timeout = {timeout}
retry_after = {timeout}
deadline = {deadline}
allow = {{ transfers = ["127.0.0.0/8"], updates = ["127.0.0.0/8"], notifies = ["127.0.0.0/8"] }}
[ttl]
failure = 1
"""


PATIENT = limits(5.0, 10.0)  # a busy machine is no silent upstream
HASTY = limits(0.2, 1.0)  # where nobody answers
TRIES = 3
serial = itertools.count()


def address(query):
    return answer(query, "A 192.0.2.1")


@pytest.fixture(scope="module")
def running():
    with ScriptedUpstream(address) as upstream, run_shield([upstream], toml=PATIENT) as shield:
        yield upstream, shield


@pytest.fixture(scope="module")
def hasty():
    """Run a shield, and an upstream that a test has say nothing."""
    with ScriptedUpstream(address) as upstream, run_shield([upstream], toml=HASTY) as shield:
        yield upstream, shield
        assert shield.process.poll() is None


@pytest.fixture
def upstream(running):
    running[0].handle = address
    running[0].received.clear()
    return running[0]


@pytest.fixture
def shield(running):
    return running[1]


@pytest.fixture
def name():
    return f"name{next(serial)}.test."


@pytest.fixture(autouse=True)
def alive(running):
    """After each test the shield is still there, and answers."""
    yield
    upstream, shield = running
    upstream.handle = address
    assert ask(f"alive{next(serial)}.test.", server=shield).answer
    assert shield.process.poll() is None


def ede(message):
    return [option.code for option in message.options if option.otype == dns.edns.OptionType.EDE]


# ------------------------------------------------------------ what killed it


def test_the_root_name_is_a_name(upstream, shield):
    upstream.handle = lambda query: answer(query, "NS a.root.test.")
    for tcp in False, False, True:
        reply = ask(".", "NS", server=shield, tcp=tcp)
        assert [rrset.to_text() for rrset in reply.answer] == [". 300 IN NS a.root.test."]
    assert upstream.count(".", "NS") == len(upstream.received) == 1


@pytest.mark.parametrize("send", [udp_wire, tcp_wire])
def test_no_question_is_a_format_error(upstream, shield, send):
    reply = send(shield, bytes.fromhex("beef 0100 0000 0000 0000 0000"))
    assert reply == bytes.fromhex("beef 8101 0000 0000 0000 0000")
    assert upstream.received == []


@pytest.mark.parametrize("send", [udp_wire, tcp_wire])
def test_a_query_whose_rdata_is_shorter_than_it_says_is_a_format_error(upstream, shield, name, send):
    query = bytearray(ask_wire(name, use_edns=0))
    query[-1] = 9
    reply = dns.message.from_wire(send(shield, bytes(query)))
    assert reply.rcode() == dns.rcode.FORMERR
    assert reply.question[0].name.to_text() == name
    assert upstream.received == []


@pytest.mark.parametrize("send", [udp_wire, tcp_wire])
def test_a_reply_whose_rdata_is_shorter_than_it_says_is_passed_on_and_never_stored(upstream, shield, name, send):
    upstream.handle = lambda query: reply_wire(query, record_wire(1, b"\xc0\0\2\1")[:-1])
    for times in 1, 2:
        reply = send(shield, ask_wire(name, id=7))
        assert reply[:2] == b"\0\7"
        assert reply[2:] == upstream.handle(upstream.received[-1])[2:]
        assert upstream.count(name) == times


def test_an_upstream_that_is_not_there_is_a_server_failure(name):
    with run_shield([Address("127.0.0.1", free_port())], toml=HASTY) as shield:
        for tcp in False, True:
            reply = ask(f"{tcp}.{name}", server=shield, tcp=tcp, edns=1232)
            assert reply.rcode() == dns.rcode.SERVFAIL
            assert ede(reply)
        assert shield.stats()["resolution_failures"] == 2


def test_an_upstream_that_refuses_is_told_of(upstream, shield, name):
    upstream.handle = lambda query: respond(query, dns.rcode.REFUSED)
    for _ in "cold", "warm":
        assert ask(name, server=shield).rcode() == dns.rcode.REFUSED
    assert upstream.count(name) == 1


GARBAGE = {
    "one octet": lambda query: b"\xff",
    "less than a header": lambda query: query.wire[:2] + b"\x84\0\0\1",
    "noise": lambda query: query.wire[:2] + bytes(range(256)),
    "the query itself": lambda query: query.wire,
    "ones": lambda query: query.wire[:2] + b"\xff" * 500,
    "two questions": lambda query: query.wire[:2] + bytes.fromhex("8400 0002 0000 0000 0000") + 2 * query.wire[12:],
    "a question that points at itself": lambda query: (
        query.wire[:2] + bytes.fromhex("8400 0001 0000 0000 0000 c00c 0001 0001")
    ),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_an_upstream_that_sends_garbage_is_a_server_failure(hasty, name, garbage):
    upstream, shield = hasty
    upstream.handle = garbage
    reply = ask(name, server=shield)
    assert reply.rcode() == dns.rcode.SERVFAIL
    assert not reply.answer
    assert upstream.count(name) == TRIES


@pytest.mark.parametrize("size", [4096, 4097, 20000, 65000])
def test_a_reply_of_more_than_4096_octets_is_cut_for_udp_and_whole_over_tcp(upstream, shield, name, size):
    upstream.handle = lambda query: reply_wire(query, record_wire(65280, bytes(size - len(query.wire) - 12)))
    truncated_reply = dns.message.from_wire(udp_wire(shield, ask_wire(name)))
    assert truncated_reply.flags & dns.flags.TC
    assert not truncated_reply.answer
    whole = tcp_wire(shield, ask_wire(name))
    assert len(whole) == size
    assert upstream.count(name) == 1


@pytest.mark.parametrize("rcode", [dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.REFUSED])
def test_an_error_without_a_question_reaches_the_client_in_our_octets(upstream, shield, name, rcode):
    upstream.handle = lambda query: query.wire[:2] + bytes([0x84, rcode]) + bytes(8)
    for times in 1, 2:
        asked = ask_wire(name, id=7)
        assert udp_wire(shield, asked) == asked[:2] + bytes([0x81, rcode]) + asked[4:]
        assert upstream.count(name) == (1 if rcode == dns.rcode.REFUSED else times)


def test_misses_use_up_no_descriptors():
    with (
        ScriptedUpstream(lambda query: None) as silent,
        run_shield(
            [silent], toml="[forward]\ntimeout = 7.9\ndeadline = 8.0\nmax_outstanding_per_prefix = 2000"
        ) as shield,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.connect(shield.address)
        sock.settimeout(10)
        before = descriptors(shield.process)
        for n in range(2000):
            sock.send(ask_wire(f"name{n}.test.", id=n))
            if n % 50 == 49:
                silent.wait_for(n + 1)
        assert shield.stats()["outstanding_queries"] == 2000
        assert descriptors(shield.process) <= before + 4
        replies = [dns.message.from_wire(sock.recv(512)) for _ in range(2000)]
        assert {reply.id for reply in replies} == set(range(2000))
        assert {reply.rcode() for reply in replies} == {dns.rcode.SERVFAIL}
        assert len({query.name for query in silent.received} - {dns.name.root}) == 2000  # and checks of its health
        assert len(silent.received) <= TRIES * 2000


@pytest.mark.parametrize("sent", [b"", b"\0", b"\0\x40half"], ids=["nothing", "half a length", "half a query"])
def test_a_silent_tcp_client_blocks_nobody(upstream, shield, name, sent):
    with socket.create_connection(shield.address) as sock:
        sock.sendall(sent)
        assert ask(name, server=shield, tcp=True, timeout=1).answer
        assert ask(name, server=shield, timeout=1).answer
    assert upstream.count(name) == 1


@pytest.mark.parametrize("number", ["SIGHUP", "SIGPIPE", "SIGCHLD", "SIGWINCH", "SIGURG", "SIGCONT"])
def test_a_signal_does_not_kill_it(upstream, shield, name, number):
    for _ in range(3):
        shield.process.send_signal(signal.Signals[number])
    time.sleep(0.1)
    for tcp in False, True:
        assert ask(name, server=shield, tcp=tcp).answer
    assert upstream.count(name) == 1


# ------------------------------------------------------------ what was wrong


def test_the_id_of_the_reply_is_checked(upstream, shield, name):
    def foreign_then_own(query):
        foreign = answer(query, "A 192.0.2.66")
        foreign.id ^= 1
        return [foreign, Delayed(0.05, address(query))]

    upstream.handle = foreign_then_own
    assert ask(name, server=shield, id=7).answer[0][0].address == "192.0.2.1"
    assert upstream.count(name) == 1


def test_the_id_of_the_client_stays_here(upstream, shield):
    for n in range(8):
        assert ask(f"name{next(serial)}.test.", server=shield, id=n).id == n
    assert len(upstream.received) == 8
    assert [query.message.id for query in upstream.received] != list(range(8))


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_a_reply_about_another_name_is_neither_delivered_nor_stored(name, tcp):
    other = f"other.{name}"

    def about_another(query):
        reply = dns.message.make_query(other, "A", id=query.message.id)
        reply.flags |= dns.flags.QR
        reply.answer.append(dns.rrset.from_text(other, 300, "IN", "A", "192.0.2.66"))
        return reply

    with ScriptedUpstream(about_another) as upstream, run_shield([upstream], toml=limits(0.5, 1.5)) as shield:
        reply = ask(name, server=shield, tcp=tcp)
        assert (reply.rcode(), reply.answer) == (dns.rcode.SERVFAIL, [])
        upstream.handle = address
        assert ask(other, server=shield, tcp=tcp).answer[0][0].address == "192.0.2.1"
        assert (upstream.count(name), upstream.count(other)) == (TRIES, 1)


@pytest.mark.parametrize("first", [True, False], ids=["DO first", "plain first"])
def test_an_answer_with_signatures_is_for_those_who_asked_for_them(upstream, shield, name, first):
    def signed(query):
        reply = address(query)
        if query.message.ednsflags & dns.flags.DO:
            sig = f"A 13 2 300 20380101000000 20200101000000 1 {name} c2lnbmF0dXJl"
            reply.answer.append(dns.rrset.from_text(query.name, 300, "IN", "RRSIG", sig))
        return reply

    upstream.handle = signed
    for dnssec in (first, not first) * 2:
        reply = ask(name, server=shield, edns=1232, dnssec=dnssec)
        assert [rrset.rdtype for rrset in reply.answer] == [1, 46][: 1 + dnssec]
        assert bool(reply.ednsflags & dns.flags.DO) == dnssec
        assert ask(name, server=shield).edns == -1
    assert upstream.count(name) == 3


@pytest.mark.parametrize("opcode", [dns.opcode.NOTIFY, dns.opcode.UPDATE, dns.opcode.STATUS])
def test_another_opcode_is_not_answered_as_a_query(upstream, shield, name, opcode):
    soa = f"SOA ns.{name} hostmaster.{name} 1 3600 600 86400 60"
    upstream.handle = lambda query: respond(query) if query.message.opcode() else answer(query, soa)
    assert ask(name, "SOA", server=shield, flags=0).answer
    for times in 1, 2:
        query = dns.message.make_query(name, "SOA", flags=0)
        query.set_opcode(opcode)
        reply = exchange(query, server=shield)
        assert (reply.opcode(), reply.answer) == (opcode, [])
        assert [query.message.opcode() for query in upstream.received] == [0] + [opcode] * times


RD, AD, CD = dns.flags.RD, dns.flags.AD, dns.flags.CD


def test_each_client_has_its_own_flags(upstream, shield, name):
    everything = [0, RD, AD, CD, RD | AD, RD | CD, AD | CD, RD | AD | CD]
    upstream.handle = lambda query: answer(query, f"TXT {query.message.flags}")
    for _ in "cold", "warm":
        for flags in everything:
            reply = ask(name, "TXT", server=shield, flags=flags)
            assert reply.answer[0][0].strings == (str(flags).encode(),)
            assert reply.flags & RD == flags & RD
    assert [query.message.flags for query in upstream.received] == everything


def test_the_spelling_does_not_split_entries(upstream, shield, name):
    for spelling in name, name.upper(), name.title(), name.swapcase():
        reply = ask(spelling, server=shield)
        assert reply.question[0].name.to_text() == spelling
        assert reply.answer
    assert upstream.count(name) == 1


def test_a_server_failure_is_held_for_ttl_failure_only(upstream, shield, name):
    upstream.handle = servfail
    for _ in "cold", "warm":
        assert ask(name, server=shield).rcode() == dns.rcode.SERVFAIL
    assert upstream.count(name) == 1
    upstream.handle = address
    advance(shield, 1.1)
    assert ask(name, server=shield).answer
    assert upstream.count(name) == 2


def test_what_came_truncated_is_not_stored(upstream, shield, name):
    upstream.handle = lambda query: truncated(query) if query.transport == "udp" else address(query)
    for tcp in False, True, False:
        reply = ask(name, server=shield, tcp=tcp)
        assert reply.answer
        assert not reply.flags & dns.flags.TC
    assert (upstream.count(name, transport="udp"), upstream.count(name, transport="tcp")) == (1, 1)


def test_what_came_truncated_is_passed_on_each_time_where_it_is_not_to_be_fetched(name):
    with (
        ScriptedUpstream(lambda query: truncated(query) if query.transport == "udp" else address(query)) as upstream,
        run_shield([upstream], toml="[forward]\nretry_truncated = false") as shield,
    ):
        for times in 1, 2:
            assert ask(name, server=shield).flags & dns.flags.TC
            assert (upstream.count(transport="udp"), upstream.count(transport="tcp")) == (times, 0)
        assert ask(name, server=shield, tcp=True).answer
        assert (upstream.count(transport="udp"), upstream.count(transport="tcp")) == (3, 1)


def test_a_transfer_is_not_asked_for_over_udp(upstream, shield, name):
    soa = f"SOA ns.{name} hostmaster.{name} 1 3600 600 86400 60"
    upstream.handle = lambda query: [answer(query, soa), answer(query, "A 192.0.2.1"), answer(query, soa)]
    for times in 1, 2:
        assert ask(name, "AXFR", server=shield, tcp=True).answer[0].rdtype == dns.rdatatype.SOA
        assert upstream.count(name, "AXFR", "tcp") == len(upstream.received) == times


RDATA = {
    "NSEC": ("NSEC", "Host.Example.Test. A MX RRSIG NSEC TYPE1234"),
    "NSEC3": ("NSEC3", "1 1 12 aabbccdd 2t7b4g4vsa5smi47k61mv5bv1a22bojr A RRSIG CAA"),
    "NSEC3 without salt or types": ("NSEC3", "1 0 0 - 2t7b4g4vsa5smi47k61mv5bv1a22bojr"),
    "TXT of several strings": ("TXT", r'"first" "second; \"string\"" ""'),
    "octets over 127": ("TXT", r'"\128\200\255" "\000\127"'),
    "SVCB": ("SVCB", "1 . alpn=h2,h3 port=443 key65000=\\255\\000"),
    "LOC": ("LOC", "52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m"),
    "an unknown type": ("TYPE65280", r"\# 4 ff00807f"),
    "no RDATA": ("TYPE65281", r"\# 0"),
}


def assert_same_octets(upstream, shield, name, rdtype, handle):
    upstream.handle = handle
    query = ask_wire(name, rdtype, id=7)
    for send in udp_wire, udp_wire, tcp_wire:
        reply = send(shield, query)
        assert reply[:2] == b"\0\7"
        assert reply[2:] == handle(upstream.received[0])[2:]
    assert len(upstream.received) == 1


@pytest.mark.parametrize(("rdtype", "text"), RDATA.values(), ids=RDATA)
def test_rdata_reaches_the_client_octet_by_octet(upstream, shield, name, rdtype, text):
    number = dns.rdatatype.from_text(rdtype)
    rdata = dns.rdata.from_text("IN", number, text).to_wire()
    records = record_wire(number, rdata) + record_wire(number, rdata[:-1] + b"\1" if rdata else b"\1")
    assert_same_octets(upstream, shield, name, rdtype, lambda query: reply_wire(query, records, (1, 1, 0)))


@pytest.mark.parametrize("rdata", [b"\0\7\x40\0\0\0\0\3\0", b"\0\0\4\0\0\0\2\1\1\x80", b"\5HOsT\x80\0\0\1\x40"])
def test_a_careless_type_bitmap_reaches_the_client_as_it_is(upstream, shield, name, rdata):
    records = record_wire(dns.rdatatype.NSEC, rdata)
    assert_same_octets(upstream, shield, name, "NSEC", lambda query: reply_wire(query, records))


@pytest.mark.parametrize("label", [r"\128\255", r"\000", r"a\.b", "_under score"])
def test_a_name_may_hold_any_octet(upstream, shield, name, label):
    records = record_wire(1, b"\xc0\0\2\1")
    assert_same_octets(upstream, shield, f"{label}.{name}", "A", lambda query: reply_wire(query, records))


def test_names_stay_as_they_were_compressed(upstream, shield, name):
    mx = [record_wire(15, b"\0\x0a" + bytes([5]) + label + b"\xc0\x0c") for label in (b"MAIL1", b"mail2")]
    spelled_out = record_wire(1, b"\xc0\0\2\1", owner=b"\5mail1\5other\4TEST\0")
    assert_same_octets(
        upstream, shield, name, "MX", lambda query: reply_wire(query, b"".join(mx) + spelled_out, (2, 0, 1))
    )


def test_of_the_options_of_a_reply_those_that_are_for_everybody_are_kept(upstream, shield, name):
    kept = dns.edns.EDEOption(18, "Prohibited, say we")

    def with_options(query):
        reply = address(query)
        reply.use_edns(0, 0, 1232, options=(dns.edns.GenericOption(65001, b"\x80\xff\0"), kept))
        return reply

    upstream.handle = with_options
    for tcp in False, False, True:
        assert ask(name, server=shield, edns=1232, tcp=tcp).options == (kept,)
    assert upstream.count(name) == 1


@pytest.mark.parametrize("more", [0, 1], ids=["fits", "one octet too many"])
@pytest.mark.parametrize(("edns", "limit"), [(None, 512), (512, 512), (900, 900), (4096, 1232)])
def test_an_answer_is_as_large_as_its_client_takes(upstream, shield, name, edns, limit, more):
    query = ask_wire(name, 65280, payload=edns)
    room = limit + more - len(query) - 12
    upstream.handle = lambda query: reply_wire(query, record_wire(65280, bytes(room)))
    for _ in "cold", "warm":
        wire = udp_wire(shield, query)
        assert bool(dns.message.from_wire(wire).flags & dns.flags.TC) == bool(more)
        assert len(wire) == (len(query) if more else limit)
    assert upstream.count(name) == 1


# ------------------------------------------------------------ what never ended


def test_a_hundred_thousand_names_find_no_more_memory_than_was_given():
    names = 100_000
    with (
        ScriptedUpstream(lambda query: reply_wire(query, record_wire(1, b"\xc0\0\2\1", ttl=3600))) as upstream,
        run_shield([upstream], toml=f'{PATIENT}\n[cache]\nmemory = "8MiB"') as shield,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.connect(shield.address)
        sock.settimeout(10)
        assert ask("first.test.", server=shield).answer
        before = resident(shield.process)
        query = ask_wire("name000000.flood.test.")
        for start in range(0, names, 100):
            for n in range(start, start + 100):
                sock.send(query.replace(b"name000000", b"name%06d" % n))
            for _ in range(100):
                assert sock.recv(512)[3:4] == b"\0"
        assert resident(shield.process) < before + (16 << 20)
        stats = shield.stats()
        assert stats["cache_bytes"] <= stats["cache_limit_bytes"] == 8 << 20
        assert 0 < stats["cache_entries"] < names
        assert stats["cache_evictions"] > 0
        assert len(upstream.received) == names + 1
        assert ask(f"name{names - 1:06}.flood.test.", server=shield).answer
        assert len(upstream.received) == names + 1


def test_ttls_age_and_end(upstream, shield, name):
    upstream.handle = lambda query: answer(query, "A 192.0.2.1", ttl=2)
    ttls = [ask(name, server=shield).answer[0].ttl]
    advance(shield, 1.1)
    ttls.append(ask(name, server=shield).answer[0].ttl)
    assert ttls == [2, 1]
    assert upstream.count(name) == 1
    advance(shield, 1.0)
    assert ask(name, server=shield).answer[0].ttl == 2
    assert upstream.count(name) == 2


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_a_silent_upstream_is_a_server_failure_in_time(hasty, name, tcp):
    upstream, shield = hasty
    upstream.handle = lambda query: None
    start = time.monotonic()
    stopwatch = Stopwatch()
    reply = ask(name, server=shield, tcp=tcp, edns=1232)
    assert time.monotonic() - start > 0.3
    assert stopwatch.seconds() < 1.5
    assert (reply.rcode(), ede(reply)) == (dns.rcode.SERVFAIL, [dns.edns.EDECode.NO_REACHABLE_AUTHORITY])
    assert upstream.count(name) == TRIES


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_fifty_equal_questions_go_upstream_once(upstream, name, tcp):
    upstream.handle = lambda query: Delayed(0.1, address(query))
    spellings = [name.upper() if n % 2 else name for n in range(50)]
    with run_shield([upstream], toml=PATIENT) as shield, ThreadPoolExecutor(50) as pool:
        replies = list(pool.map(lambda spelling: ask(spelling, server=shield, tcp=tcp), spellings))
    assert [reply.question[0].name.to_text() for reply in replies] == spellings
    assert all(reply.answer for reply in replies)
    assert upstream.count(name) == 1


def test_of_several_upstreams_one_is_asked():
    with contextlib.ExitStack() as stack:
        upstreams = [stack.enter_context(ScriptedUpstream(address)) for _ in range(3)]
        shield = stack.enter_context(run_shield(upstreams, toml=PATIENT))
        for n in range(30):
            assert ask(f"name{n}.test.", server=shield).answer
            assert sum(upstream.count(f"name{n}.test.") for upstream in upstreams) == 1
        assert all(upstream.received for upstream in upstreams)


def test_another_upstream_is_asked_when_one_fails():
    with (
        ScriptedUpstream(lambda query: None) as silent,
        ScriptedUpstream(address) as good,
        run_shield([silent, good], toml=limits(0.5, 10.0)) as shield,
    ):
        for n in range(10):
            assert exchange(dns.message.make_query(f"name{n}.test.", "A"), server=shield).answer
        assert 1 <= len(silent.received) <= 10
        assert [good.count(f"name{n}.test.") for n in range(10)] == [1] * 10
