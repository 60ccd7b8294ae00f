"""Know how misses reach an upstream, how they come back, and what happens when they do not.

Each test looks at what the client got, what the upstream received, and how many times.
"""

import contextlib
import itertools
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.tsigkeyring
import dns.update
import pytest
from support.client import Address, ask, exchange, frame, free_port, tcp_wire, udp_wire
from support.control import stats, stats_of
from support.proc import resident
from support.process import run_shield
from support.server import Received, frames
from support.stopwatch import Stopwatch
from support.until import until
from support.upstream import Delayed, ScriptedUpstream, answer, respond, servfail, truncated
from support.wires import ask_wire, record_wire, reply_wire

TIMEOUT, DEADLINE = 0.2, 0.5  # seconds
ALLOW = 'allow = { transfers = ["127.0.0.0/8"], updates = ["127.0.0.0/8"], notifies = ["127.0.0.0/8"] }'


def limits(timeout, deadline):
    """Return a configuration that waits so many seconds for an upstream, and lets a client wait so many."""
    return f"""
health.check = "off"
[forward]
spoof_threshold = 0
timeout = {timeout}
retry_after = {timeout}
deadline = {deadline}
update_timeout = {deadline}
source_port_lifetime = 1000
{ALLOW}
[ttl]
failure = 1
"""


PATIENT = limits(5.0, 10.0)  # a busy machine is no silent upstream
HASTY = limits(TIMEOUT, DEADLINE)  # where nobody answers
TRIES = 3
OUR_PAYLOAD = 1232
serial = itertools.count()
transports = pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])


def address(query):
    return answer(query, "A 192.0.2.1")


def silent(query):
    return None


@pytest.fixture(scope="module")
def running():
    with ScriptedUpstream(address) as upstream, run_shield([upstream], toml=PATIENT) as shield:
        yield upstream, shield


@pytest.fixture(scope="module")
def hasty():
    """Run a shield, and an upstream that a test may have say nothing."""
    with behind(address, toml=HASTY) as stage:
        yield stage


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


@contextlib.contextmanager
def behind(*handles, toml=PATIENT):
    """Run a shield in front of upstreams with these scripts; yield the shield and the upstreams."""
    with contextlib.ExitStack() as stack:
        upstreams = [stack.enter_context(ScriptedUpstream(handle)) for handle in handles]
        yield stack.enter_context(run_shield(upstreams, toml=toml)), *upstreams


def over_tcp(upstream):
    """Return the configuration of an upstream that is asked over TCP."""
    return f'[[upstreams]]\naddress = "{upstream.address}"\ntransport = "tcp"\n'


def at_once(count, work):
    """Return what `work` returned for 0 ... count - 1, all of them at the same time."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


def ede(message):
    return [option.code for option in message.options if option.otype == dns.edns.OptionType.EDE]


def counters(shield, upstream):
    return stats_of(shield, upstream.address)


# ------------------------------------------------------------ silence and failure


@transports
def test_what_one_upstream_leaves_unanswered_another_is_asked_once(tcp):
    with behind(silent, address, toml=limits(0.5, 10.0)) as (shield, mute, good):
        replies = at_once(10, lambda n: ask(f"name{n}.test.", server=shield, tcp=tcp))
        assert all(reply.answer for reply in replies)
        assert [good.count(f"name{n}.test.") for n in range(10)] == [1] * 10
        assert mute.received
        assert max(mute.count(f"name{n}.test.") for n in range(10)) == 1


@transports
def test_an_upstream_that_is_not_there_is_passed_over_at_once(tcp):
    with ScriptedUpstream(address) as good:
        gone = Address("127.0.0.1", free_port())
        with run_shield([gone, good], toml="[forward]\ntimeout = 5\ndeadline = 10") as shield:
            for n in range(6):
                assert ask(f"name{n}.test.", server=shield, tcp=tcp, timeout=1).answer
            assert [good.count(f"name{n}.test.") for n in range(6)] == [1] * 6


@transports
@pytest.mark.parametrize("count", [1, 3], ids=["one upstream", "three"])
def test_when_all_fail_the_client_is_told_within_the_deadline(name, tcp, count):
    with behind(*[silent] * count, toml=HASTY) as (shield, *upstreams):
        start = time.monotonic()
        stopwatch = Stopwatch()
        reply = ask(name, server=shield, tcp=tcp, edns=1232)
        assert time.monotonic() - start > TIMEOUT
        assert stopwatch.seconds() < DEADLINE + 0.5
        assert (reply.rcode(), ede(reply)) == (dns.rcode.SERVFAIL, [dns.edns.EDECode.NO_REACHABLE_AUTHORITY])
        assert sum(upstream.count(name) for upstream in upstreams) == TRIES
        assert max(upstream.count(name) for upstream in upstreams) == (TRIES if count == 1 else 1)
        assert ask(name, server=shield, tcp=tcp, edns=1232).rcode() == dns.rcode.SERVFAIL
        assert sum(upstream.count(name) for upstream in upstreams) == TRIES


def test_a_network_error_is_told_apart_from_silence(name):
    with run_shield([Address("127.0.0.1", free_port())], toml=HASTY) as shield:
        reply = ask(name, server=shield, edns=1232)
        assert (reply.rcode(), ede(reply)) == (dns.rcode.SERVFAIL, [dns.edns.EDECode.NETWORK_ERROR])


def test_a_failure_without_edns_has_no_opt(hasty, name):
    shield, upstream = hasty
    upstream.handle = silent
    reply = ask(name, server=shield)
    assert (reply.rcode(), reply.edns, reply.additional) == (dns.rcode.SERVFAIL, -1, [])
    assert upstream.count(name) == TRIES


def test_the_number_of_tries_is_configured(name):
    with behind(silent, toml="[forward]\ntimeout = 0.1\ndeadline = 1.0\nattempts = 4") as (shield, upstream):
        assert ask(name, server=shield).rcode() == dns.rcode.SERVFAIL
        assert upstream.count(name) == 4


# ------------------------------------------------------------ what does not match


def with_foreign_id(query):
    reply = answer(query, "A 192.0.2.66")
    reply.id ^= 1
    return reply


def with_foreign_question(query):
    wire = answer(query, "A 192.0.2.66").to_wire()
    return wire[:13] + bytes([wire[13] ^ 1]) + wire[14:]


def with_foreign_type(query):
    wire = answer(query, "A 192.0.2.66").to_wire()
    at = 12 + len(query.name.to_wire())
    return wire[:at] + b"\0\x1c" + wire[at + 2 :]


def with_foreign_opcode(query):
    reply = answer(query, "A 192.0.2.66")
    reply.set_opcode(dns.opcode.NOTIFY)
    return reply.to_wire()


def the_query_itself(query):
    return query.wire


MISMATCHES = with_foreign_id, with_foreign_question, with_foreign_type, with_foreign_opcode, the_query_itself


@transports
@pytest.mark.parametrize("mismatch", MISMATCHES)
def test_what_does_not_match_is_dropped_and_what_follows_is_taken(upstream, shield, name, mismatch, tcp):
    upstream.handle = lambda query: [mismatch(query), Delayed(0.05, address(query))]
    before = counters(shield, upstream)["unexpected_replies"]
    for _ in "cold", "warm":
        assert ask(name, server=shield, tcp=tcp).answer[0][0].address == "192.0.2.1"
    assert upstream.count(name) == 1
    if not tcp:
        assert counters(shield, upstream)["unexpected_replies"] == before + 1


def test_what_comes_from_elsewhere_is_dropped(upstream, shield, name):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:

        def forged_then_own(query):
            elsewhere.sendto(answer(query, "A 192.0.2.66").to_wire(), query.source)
            return Delayed(0.05, address(query))

        upstream.handle = forged_then_own
        assert ask(name, server=shield).answer[0][0].address == "192.0.2.1"
        assert upstream.count(name) == 1


@transports
def test_an_answer_after_the_deadline_is_nobodys(hasty, name, tcp):
    shield, upstream = hasty
    upstream.handle = lambda query: Delayed(DEADLINE + 0.3, answer(query, "A 192.0.2.66"))
    before = counters(shield, upstream)["unexpected_replies"]
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as sock:
        sock.connect(shield.address)
        sock.settimeout(DEADLINE + 0.5)
        query = ask_wire(name, id=7)
        sock.sendall(frame(query) if tcp else query)
        reply = dns.message.from_wire(sock.recv(512)[2 * tcp :])
        assert (reply.id, reply.rcode()) == (7, dns.rcode.SERVFAIL)
        with pytest.raises(TimeoutError):
            sock.recv(512)
    assert upstream.count(name) == TRIES
    upstream.handle = address
    assert ask(name, server=shield, tcp=tcp).answer[0][0].address == "192.0.2.1"
    assert upstream.count(name) == TRIES + 1
    if not tcp:
        assert counters(shield, upstream)["unexpected_replies"] == before + TRIES


def test_ports_and_ids_cannot_be_guessed(upstream, shield):
    for n in range(40):
        assert ask(f"name{next(serial)}.test.", server=shield, id=n).answer
    assert len({query.source.port for query in upstream.received}) > 8
    assert len({query.message.id for query in upstream.received}) > 35
    assert len(upstream.received) == 40


# ------------------------------------------------------------ TCP


@pytest.mark.parametrize("edns", [None, 1232])
def test_what_came_truncated_is_fetched_over_tcp_kept_whole_and_cut_to_fit(upstream, shield, name, edns):
    large = [f'TXT "{n:02} {"x" * 200}"' for n in range(30)]
    upstream.handle = lambda query: truncated(query) if query.transport == "udp" else answer(query, *large)
    for _ in "cold", "warm":
        truncated_reply = ask(name, "TXT", server=shield, edns=edns)
        assert truncated_reply.flags & dns.flags.TC
        assert (truncated_reply.answer, truncated_reply.edns) == ([], -1 if edns is None else 0)
        whole = ask(name, "TXT", server=shield, edns=edns, tcp=True)
        assert not whole.flags & dns.flags.TC
        assert len(whole.answer[0]) == 30
    assert (upstream.count(name, "TXT", "udp"), upstream.count(name, "TXT", "tcp")) == (1, 1)


def test_what_cannot_be_fetched_over_tcp_stays_truncated(hasty, name):
    shield, upstream = hasty
    upstream.handle = lambda query: truncated(query) if query.transport == "udp" else None
    for times in 1, 2:
        reply = ask(name, server=shield)
        assert (reply.rcode(), bool(reply.flags & dns.flags.TC)) == (dns.rcode.NOERROR, True)
        assert upstream.count(name, transport="udp") == times


def test_what_goes_over_tcp_goes_over_one_tcp_connection():
    with (
        ScriptedUpstream(address) as upstream,
        run_shield([], toml=PATIENT + over_tcp(upstream)) as shield,
        socket.create_connection(shield.address) as sock,
        sock.makefile("rb") as stream,
    ):
        for n in range(20):
            sock.sendall(frame(ask_wire(f"name{next(serial)}.test.", id=n)))
            assert stream.read(int.from_bytes(stream.read(2)))[:2] == n.to_bytes(2)
        assert ask(f"name{next(serial)}.test.", server=shield, tcp=True).answer
        assert upstream.count(transport="tcp") == len(upstream.received) == 21
        assert len({query.source for query in upstream.received}) == 1


def test_connections_to_an_upstream_are_bounded():
    def slow(query):
        return Delayed(0.1, address(query))

    with (
        ScriptedUpstream(slow) as upstream,
        run_shield([], toml="[forward]\nmax_connections = 3\n" + over_tcp(upstream)) as shield,
        socket.create_connection(shield.address, 3) as sock,
        sock.makefile("rb") as stream,
    ):
        sock.sendall(b"".join(frame(ask_wire(f"name{n}.test.")) for n in range(20)))
        assert all(dns.message.from_wire(wire).answer for wire in take(stream, 20))
        assert len(upstream.received) == upstream.count(transport="tcp") == 20
        assert len({query.source for query in upstream.received}) <= 3


class Leaving(ScriptedUpstream):
    """A nameserver that closes each connection after so many replies."""

    replies = 1

    async def stream(self, reader, writer):
        source = Address(*writer.get_extra_info("peername")[:2])
        served = 0
        async for wire in frames(reader):
            query = Received(wire, "tcp", source)
            self._record(query)
            for reply in self.handle(query)[: self.replies]:
                writer.write(frame(reply.to_wire()))
                served += 1
            if served >= self.replies:
                return


def test_an_upstream_may_close_its_connection_between_queries():
    with (
        Leaving(lambda query: [address(query)]) as upstream,
        run_shield([], toml=PATIENT + over_tcp(upstream)) as shield,
    ):
        for n in range(10):
            assert ask(f"name{n}.test.", server=shield, tcp=True).answer
            assert upstream.count(f"name{n}.test.", transport="tcp") == 1
        assert len({query.source for query in upstream.received}) == 10


@pytest.mark.parametrize("rdtype", ["A", "AXFR"])
def test_an_upstream_that_hangs_up_without_a_word_is_a_server_failure(name, rdtype):
    with (
        Leaving(lambda query: [address(query)]) as upstream,
        run_shield([], toml=HASTY + over_tcp(upstream)) as shield,
    ):
        upstream.replies = 0
        assert ask(name, rdtype, server=shield, tcp=True, timeout=3).rcode() == dns.rcode.SERVFAIL
        assert 1 <= upstream.count(name, rdtype, "tcp") == len(upstream.received) <= 2 * TRIES


# ------------------------------------------------------------ what only the upstream can answer

KEYRING = dns.tsigkeyring.from_text({"key.test.": "c2VjcmV0IG9mIHRoZSB0ZXN0cw=="})


def notify(name):
    query = dns.message.make_query(name, "SOA", flags=dns.flags.AA)
    query.set_opcode(dns.opcode.NOTIFY)
    return query


def update(name):
    query = dns.update.UpdateMessage(name)
    query.add("host", 300, "A", "192.0.2.7")
    return query


def status(name):
    query = dns.message.make_query(name, "A")
    query.set_opcode(dns.opcode.STATUS)
    return query


def signed(name):
    query = dns.message.make_query(name, "A")
    query.use_tsig(KEYRING)
    return query


def option(code, octets=b""):
    return lambda name: dns.message.make_query(
        name, "A", payload=OUR_PAYLOAD, options=[dns.edns.GenericOption(code, octets)]
    )


SPECIALS = {
    "NOTIFY": notify,
    "UPDATE": update,
    "STATUS": status,
    "TSIG": signed,
    "EDNS version 1": lambda name: dns.message.make_query(name, "A", use_edns=1, payload=OUR_PAYLOAD),
    "NSID": option(3),
    "EXPIRE": option(9),
    "ZONEVERSION": option(19),
    "unknown option": option(65001, b"\x80\xff\0"),
    "TKEY": lambda name: dns.message.make_query(name, "TKEY", "ANY"),
    "a record in the answer": lambda name: answer(Received(ask_wire(name), "udp", None), "A 192.0.2.7"),
}


@transports
@pytest.mark.parametrize("kind", SPECIALS)
def test_what_only_the_upstream_can_answer_is_passed_on_each_time(upstream, shield, name, kind, tcp):
    def odd(query):  # a reply that no library would have written
        flags = 0x8400 | int.from_bytes(query.wire[2:4]) & 0x7900
        return reply_wire(query, record_wire(65280, b"\x80") + b"\0 and more", (1, 0, 0), flags)

    query = SPECIALS[kind](name).to_wire()
    query = bytes([query[2] & 0x7F]) + query[3:]
    send = tcp_wire if tcp else udp_wire
    transport = "tcp" if tcp and kind in ("NOTIFY", "UPDATE", "STATUS", "TKEY") else "udp"
    upstream.handle = lambda query: Delayed(0.05, odd(query))
    replies = at_once(2, lambda n: send(shield, bytes([0, n]) + query))
    replies.append(send(shield, b"\0\2" + query))
    received = upstream.wait_for(3)
    assert [(each.wire[2:], each.transport) for each in received] == [(query, transport)] * 3
    assert {each.wire[:2] for each in received} != {b"\0\0", b"\0\1", b"\0\2"}
    assert replies == [bytes([0, n]) + odd(received[0])[2:] for n in range(3)]


@transports
def test_an_unknown_version_of_edns_is_the_upstreams_to_refuse(upstream, shield, name, tcp):
    def badvers(query):
        reply = dns.message.make_response(query.message, our_payload=512)
        reply.set_rcode(dns.rcode.BADVERS)
        return reply

    upstream.handle = badvers
    for times in 1, 2:
        query = dns.message.make_query(name, "A", use_edns=1)
        assert exchange(query, server=shield, tcp=tcp).rcode() == dns.rcode.BADVERS
        assert upstream.count(name) == times


@pytest.mark.parametrize("options", [(), [dns.edns.GenericOption(65001, b"")]], ids=["cached", "never cached"])
def test_an_error_without_a_question_is_no_stale_answer(upstream, shield, name, options):
    upstream.handle = lambda query: query.wire[:2] + b"\x81\x05" + bytes(8)
    reply = ask(name, server=shield, edns=OUR_PAYLOAD, options=options)
    assert (reply.rcode(), len(reply.question), ede(reply)) == (dns.rcode.REFUSED, 1, [])


@transports
def test_a_special_query_that_nobody_answers_is_a_server_failure(hasty, name, tcp):
    shield, upstream = hasty
    upstream.handle = silent
    reply = exchange(notify(name), server=shield, tcp=tcp)
    assert (reply.opcode(), reply.rcode()) == (dns.opcode.NOTIFY, dns.rcode.SERVFAIL)
    assert upstream.count(name) == 1, "what may have done its work is not sent again"
    upstream.handle = respond
    assert exchange(notify(name), server=shield, tcp=tcp).rcode() == dns.rcode.NOERROR
    assert upstream.count(name) == 2


def test_a_refusal_of_one_client_is_not_another_ones(upstream, shield, name):
    rcodes = iter([dns.rcode.REFUSED, dns.rcode.NOERROR])
    upstream.handle = lambda query: respond(query, next(rcodes))
    for rcode in dns.rcode.REFUSED, dns.rcode.NOERROR:
        assert exchange(notify(name), server=shield).rcode() == rcode
    assert upstream.count(name) == 2


# ------------------------------------------------------------ cookies

CLIENT_COOKIES = b"client_1", b"client_2"


def with_cookie(query):
    """Answer with a cookie that nobody asked for."""
    reply = address(query)
    reply.use_edns(0, 0, OUR_PAYLOAD, options=[dns.edns.GenericOption(10, b"client_1server__")])
    return Delayed(0.1, reply)


def is_made_for(cookie, client):
    """Tell whether a cookie is one of the shield's (RFC 9018), behind the client's own half."""
    return len(cookie) == 24 and cookie[:12] == client[:8] + b"\1\0\0\0"


def ask_with_cookie(name, cookie, shield, tcp):
    options = [dns.edns.GenericOption(10, cookie)] if cookie else []
    reply = ask(name, server=shield, edns=1232, options=options, tcp=tcp)
    assert reply.answer
    return [option.to_wire() for option in reply.options]


@transports
def test_a_cookie_is_its_clients_alone(upstream, shield, name, tcp):
    upstream.handle = with_cookie
    first, second = CLIENT_COOKIES
    for cookie in first, first, second, first + b"server__":
        (got,) = ask_with_cookie(name, cookie, shield, tcp)
        assert is_made_for(got, cookie)
    assert ask_with_cookie(name, b"", shield, tcp) == []
    assert [query.message.options for query in upstream.received] == [()]


@transports
def test_each_of_those_who_wait_gets_a_cookie_of_his_own(upstream, shield, name, tcp):
    upstream.handle = with_cookie
    found = at_once(10, lambda n: ask_with_cookie(name, b"client_%d" % n, shield, tcp))
    assert upstream.count(name) == 1
    assert all(is_made_for(*got, b"client_%d" % n) for n, got in enumerate(found))


# ------------------------------------------------------------ overload


def refused_at_once(ask):
    """Tell whether the answer to a query is REFUSED, and comes before anybody's time is over."""
    stopwatch = Stopwatch()
    return ask().rcode() == dns.rcode.REFUSED and stopwatch.seconds() < 0.3


@pytest.mark.parametrize("overload", ["refuse", "drop"])
def test_over_the_bound_of_pending_queries_clients_are_refused_or_dropped(overload):
    toml = f'[forward]\nmax_outstanding = 16\ntimeout = 1.2\ndeadline = 1.2\noverload = "{overload}"'
    with behind(silent, toml=toml) as (shield, upstream), ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(ask, f"name{n}.zone{n}.test.", server=shield, source=f"127.0.{n}.1") for n in range(16)]
        upstream.wait_for(16)
        if overload == "refuse":
            assert refused_at_once(lambda: ask("one.more.test.", server=shield))
        else:
            with pytest.raises(TimeoutError):
                ask("one.more.test.", server=shield, timeout=0.3)
        assert refused_at_once(lambda: ask("one.more.test.", server=shield, tcp=True))
        assert {each.result().rcode() for each in waiting} == {dns.rcode.SERVFAIL}
        upstream.handle = address
        assert ask("one.more.test.", server=shield).answer
        assert upstream.count("one.more.test.") == 1
        assert len(upstream.received) == 17
        assert stats(shield)["outstanding_limit_exceeded"] == 2


@pytest.mark.parametrize("overload", ["refuse", "drop"])
def test_over_the_bound_of_notifies_clients_are_refused_or_dropped(overload):
    toml = 'allow_notify_from = ["127.0.0.0/8"]\n' + "".join(f'[[zones]]\nname = "{one}.test"\n' for one in "abc")
    toml += f'[forward]\nmax_uncached = 1\ntimeout = 1.5\ndeadline = 1.5\noverload = "{overload}"'
    notified = []

    def slow(query):
        if query.message.opcode() != dns.opcode.NOTIFY:
            return answer(query, "SOA ns.test. host.test. 1 3600 600 86400 60")
        notified.append(query.name.to_text())
        return Delayed(0.7, respond(query))

    with behind(slow, toml=toml) as (shield, _upstream), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(exchange, notify("a.test."), server=shield)
        until(lambda: notified)
        if overload == "refuse":
            assert refused_at_once(lambda: exchange(notify("b.test."), server=shield))
        else:
            with pytest.raises(TimeoutError):
                exchange(notify("b.test."), server=shield, timeout=0.3)
        assert waiting.result().rcode() == dns.rcode.NOERROR
        assert exchange(notify("c.test."), server=shield).rcode() == dns.rcode.NOERROR
        assert notified == ["a.test.", "c.test."]
        assert stats(shield)["outstanding_limit_exceeded"] == 1


def test_whoever_has_the_answer_to_a_notify_may_send_the_next_at_once():
    toml = 'allow_notify_from = ["127.0.0.0/8"]\n[[zones]]\nname = "a.test"\n[forward]\nmax_uncached = 1\n'

    def serial(query):
        if query.message.opcode() == dns.opcode.NOTIFY:
            return respond(query)
        return answer(query, "SOA ns.test. host.test. 1 3600 600 86400 60")

    with behind(serial, toml=toml) as (shield, _upstream):
        found = Counter(exchange(notify("a.test."), server=shield).rcode() for _ in range(300))
        assert found == {dns.rcode.NOERROR: 300}


def test_however_a_zone_is_spelled_its_notifies_have_one_share():
    toml = 'allow_notify_from = ["127.0.0.0/8"]\n' + "".join(f'[[zones]]\nname = "{one}.test"\n' for one in "ab")
    toml += "[forward]\nmax_uncached = 16\nmax_outstanding = 4096\n"
    spellings = ["".join(letters) for letters in itertools.product("aA", ".", "tT", "eE", "sS", "t", ".")]
    notified = []

    def slow(query):
        if query.message.opcode() != dns.opcode.NOTIFY:
            return answer(query, "SOA ns.test. host.test. 1 3600 600 86400 60")
        notified.append(query.name.to_text())
        return Delayed(1.5, respond(query)) if notified[-1] != "b.test." else respond(query)

    with behind(slow, toml=toml) as (shield, _upstream), ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(exchange, notify(each), server=shield) for each in spellings]
        until(lambda: len(notified) + stats(shield)["outstanding_limit_exceeded"] == 16)
        assert exchange(notify("b.test."), server=shield).rcode() == dns.rcode.NOERROR
        found = Counter(each.result().rcode() for each in waiting)
        assert found == {dns.rcode.NOERROR: 13, dns.rcode.REFUSED: 3}


# ------------------------------------------------------------ transfers


def soa_wire(serial):
    fields = (serial, 3600, 600, 86400, 60)
    return record_wire(dns.rdatatype.SOA, b"\xc0\x0c\xc0\x0c" + b"".join(field.to_bytes(4) for field in fields))


def texts(n, octets=16000):
    """Return TXT records, about so many octets of them, with a number in each."""
    strings = b"".join(bytes([251]) + b"%03d" % n + b"x" * 248 for _ in range(octets // 252))
    return record_wire(dns.rdatatype.TXT, strings)


def zone(query, messages, octets=16000):
    """Return an AXFR of so many messages, the SOA alone in the first and the last."""
    bodies = [soa_wire(5), *(texts(n, octets) for n in range(messages - 2)), soa_wire(5)]
    return [reply_wire(query, body) for body in bodies]


def increments(query, messages):
    """Return an IXFR from serial 3 over 4 to 5, a record in a message."""
    parts = [soa_wire(5), soa_wire(3), texts(1), soa_wire(4), texts(2), soa_wire(4), texts(3), soa_wire(5)]
    bodies = [*parts, *(texts(n) for n in range(messages - len(parts) - 1)), soa_wire(5)]
    return [reply_wire(query, body) for body in bodies]


def up_to_date(query, messages):
    return [reply_wire(query, soa_wire(3))]


def transfer_wire(name, rdtype):
    query = dns.message.make_query(name, rdtype, id=7, flags=0)
    if rdtype == "IXFR":
        query.authority.append(dns.rrset.from_text(name, 0, "IN", "SOA", ". . 3 0 0 0 0"))
    return query.to_wire()


def take(stream, count=None):
    """Return so many messages of a connection; None: all, until it ends."""
    wires = []
    while len(wires) != count:
        length = stream.read(2)
        if not length:
            return wires
        wires.append(stream.read(int.from_bytes(length)))
    return wires


@pytest.mark.parametrize(
    ("rdtype", "reply", "messages"),
    [("AXFR", zone, 2), ("AXFR", zone, 300), ("IXFR", zone, 30), ("IXFR", increments, 30), ("IXFR", up_to_date, 1)],
    ids=["AXFR", "large AXFR", "IXFR with the whole zone", "IXFR", "IXFR that is up to date"],
)  # fmt: skip
def test_a_transfer_passes_through_whole_and_the_connection_goes_on(upstream, shield, name, rdtype, reply, messages):
    upstream.handle = lambda query: address(query) if query.rdtype == 1 else reply(query, messages)
    with socket.create_connection(shield.address, 5) as sock, sock.makefile("rb") as stream:
        for times in 1, 2:
            sock.sendall(frame(transfer_wire(name, rdtype)))
            wires = take(stream, messages)
            assert {wire[:2] for wire in wires} == {b"\0\7"}
            assert [wire[2:] for wire in wires] == [wire[2:] for wire in reply(upstream.received[0], messages)]
            assert upstream.count(name, rdtype, "tcp") == times
            assert upstream.received[-1].wire[2:] == transfer_wire(name, rdtype)[2:]
        sock.sendall(frame(ask_wire(f"next.{name}")))
        assert dns.message.from_wire(take(stream, 1)[0]).answer
    assert upstream.count(name, transport="udp") == 0
    assert (len(upstream.received), upstream.count(f"next.{name}")) == (3, 1)


def test_a_refused_transfer_is_refused(upstream, shield, name):
    upstream.handle = lambda query: respond(query, dns.rcode.REFUSED)
    for times in 1, 2:
        assert ask(name, "AXFR", server=shield, tcp=True).rcode() == dns.rcode.REFUSED
        assert upstream.count(name, "AXFR") == times


def test_a_transfer_comes_from_one_upstream(name):
    def numbered(n):
        bodies = soa_wire(5), texts(n), texts(n), soa_wire(5)
        return lambda query: [reply_wire(query, body) for body in bodies]

    with behind(numbered(1), numbered(2)) as (shield, *upstreams):
        for _ in range(4):
            with socket.create_connection(shield.address, 5) as sock, sock.makefile("rb") as stream:
                sock.sendall(frame(transfer_wire(name, "AXFR")))
                wires = take(stream, 4)
                assert wires[1] == wires[2]
        assert sum(upstream.count(name, "AXFR", "tcp") for upstream in upstreams) == 4


def test_a_client_that_reads_slowly_gets_the_whole_transfer_and_costs_no_memory(upstream, shield, name):
    upstream.handle = lambda query: zone(query, 500, 60000)  # 30 MB
    before = resident(shield.process)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(10)
        sock.connect(shield.address)
        with sock.makefile("rb") as stream:
            sock.sendall(frame(transfer_wire(name, "AXFR")))
            wires = take(stream, 1)
            time.sleep(0.5)
            assert resident(shield.process) < before + (8 << 20)
            upstream.handle = address
            assert ask(f"next.{name}", server=shield, tcp=True, timeout=1).answer
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            wires += take(stream, 499)
    assert [wire[2:] for wire in wires] == [wire[2:] for wire in zone(upstream.received[0], 500, 60000)]
    assert upstream.count(name, "AXFR") == 1


def test_a_client_that_has_said_all_gets_the_whole_transfer(upstream, shield, name):
    upstream.handle = lambda query: zone(query, 50)
    with socket.create_connection(shield.address, 5) as sock, sock.makefile("rb") as stream:
        sock.sendall(frame(transfer_wire(name, "AXFR")))
        sock.shutdown(socket.SHUT_WR)
        wires = take(stream)
    assert [wire[2:] for wire in wires] == [wire[2:] for wire in zone(upstream.received[0], 50)]
    assert upstream.count(name, "AXFR") == 1


def test_a_transfer_that_pauses_is_not_idle(name):
    def pausing(query):
        first, *rest = zone(query, 5)
        return [first, Delayed(1.5, rest)]

    with (
        behind(pausing, toml=f"{PATIENT}[tcp]\nidle_timeout = 0.5") as (shield, upstream),
        socket.create_connection(shield.address, 5) as sock,
        sock.makefile("rb") as stream,
    ):
        sock.sendall(frame(transfer_wire(name, "AXFR")))
        assert len(take(stream, 5)) == 5
        assert upstream.count(name, "AXFR") == 1


def test_a_transfer_that_breaks_off_leaves_nobody_waiting(name):
    with Leaving(lambda query: [answer(query, f"SOA ns.{name} a.{name} 5 1 1 1 1"), address(query)]) as upstream:
        upstream.replies = 2
        with run_shield([upstream], toml=PATIENT) as shield:
            with socket.create_connection(shield.address, 3) as sock, sock.makefile("rb") as stream:
                sock.sendall(frame(transfer_wire(name, "AXFR")))
                assert len(take(stream, 2)) == 2
                assert all(dns.message.from_wire(wire).rcode() for wire in take(stream, 1))
            assert upstream.count(name, "AXFR") == 1


def test_a_client_that_leaves_ends_its_transfer(upstream, shield, name):
    upstream.handle = lambda query: [zone(query, 100), Delayed(0.2, zone(query, 100))]
    with socket.create_connection(shield.address, 5) as sock, sock.makefile("rb") as stream:
        sock.sendall(frame(transfer_wire(name, "AXFR")))
        take(stream, 1)
    upstream.handle = address
    assert ask(f"next.{name}", server=shield, tcp=True).answer
    assert upstream.count(name, "AXFR") == 1


def test_a_server_failure_of_the_upstream_reaches_all_who_wait(upstream, shield, name):
    upstream.handle = lambda query: Delayed(0.1, servfail(query))
    replies = at_once(10, lambda n: ask(name, server=shield, edns=1232))
    assert {reply.rcode() for reply in replies} == {dns.rcode.SERVFAIL}
    assert upstream.count(name) == 1
