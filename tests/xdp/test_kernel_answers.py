"""What a worker offers, the kernel answers: the same octets, as long as the worker would answer so, to all alike."""

import time
from contextlib import ExitStack
from ipaddress import ip_address

import pytest
from dns.edns import GenericOption
from support.in_kernel import InKernel
from support.quick import A, answer, failure, miss_path_before_a_test, name_wire, query
from support.wires import ask_wire, record_wire

from funkenshield.cache._store import Cache
from funkenshield.config.action import Action
from funkenshield.config.match import Match
from funkenshield.core._clock import Clock
from funkenshield.rules.compiler import IdAllocator, Rule, compile_chain
from funkenshield.server._kernel_answers import KernelAnswers

CLIENT = ip_address("192.0.2.9").packed
OFTEN = 3  # an answer is offered when it was asked for so many times
WWW = query("www.example.com", A)
ADDRESS = bytes((192, 0, 2, 1))


@pytest.fixture(scope="module")
def program():
    with ExitStack() as stack:
        yield InKernel(stack)


class Shield:
    """What decides, and the kernel before it."""

    def __init__(self, program):
        self.miss_path = miss_path_before_a_test(Cache(1 << 22, Clock()))
        self.cache, self.settings = self.miss_path.cache, self.miss_path.settings_writer
        self.program, memory = program, program.memory
        memory.answers[:] = bytes(len(memory.answers))
        memory.answered[:] = bytes(len(memory.answered))
        self.table = KernelAnswers(self.cache)
        self.table.use(memory.answers, memory.table, memory.answered)
        self.cache.zones.configure(0)

    def ask_worker(self, wire, times=1):
        for _ in range(times):
            reply = self.table.answer(self.settings, wire, CLIENT)
        return reply

    def ask_kernel(self, wire):
        return self.program.ask(wire)

    def heat(self, wire, response=None, **how):
        """Have something cached, and asked for often; return what the worker answers."""
        assert self.cache.store(wire, answer(wire, ADDRESS, rdtype=A, **how) if response is None else response)
        return self.ask_worker(wire, OFTEN)

    def advance(self, seconds):
        self.cache.clock.advance(seconds)
        self.settings.set_idle(10)  # as the command does


@pytest.fixture
def shield(program):
    shield = Shield(program)
    yield shield
    shield.table.close()


def test_what_is_asked_for_often_is_answered_in_the_kernel(shield):
    assert shield.cache.store(WWW, answer(WWW, ADDRESS, rdtype=A))
    replies = []
    for _ in range(OFTEN):
        assert shield.ask_kernel(WWW) == b""
        replies.append(shield.ask_worker(WWW))
    assert shield.ask_kernel(WWW) == replies[-1]
    assert [shield.table.counters()[name] for name in ("queries", "cache_hits", "cache_misses")] == [1, 1, 0]
    assert shield.table.rcodes()[0] == 1
    assert shield.table.messages_by_listener()[:2] == [1, 0]


def test_the_client_gets_its_own_id_and_spelling(shield):
    shield.heat(WWW)
    other = query("wWw.ExAmPlE.com", A, ident=0xBEEF)
    assert shield.ask_kernel(other) == shield.ask_worker(other)
    assert shield.ask_kernel(other)[: len(other)][12:] == other[12:]


KINDS = {
    "an address": {},
    "with OPT": {"use_edns": 0, "payload": 1400},
    "with OPT and DO": {"want_dnssec": True, "payload": 512},
    "without RD": {"flags": 0},
    "with CD": {"flags": 0x0110},
    "with AD": {"flags": 0x0120},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(
    ("counts", "records", "flags"),
    [
        ((1, 0, 0), record_wire(1, ADDRESS), 0x8400),
        ((20, 0, 0), record_wire(1, ADDRESS) * 20, 0x8180),
        ((0, 1, 0), record_wire(6, b"\0\0" + bytes(16) + b"\0\0\1\0"), 0x8403),
        ((0, 1, 0), record_wire(2, b"\xc0\x0c"), 0x8000),
    ],
    ids=["address", "many", "NXDOMAIN", "referral"],
)
def test_it_is_what_the_worker_answers(shield, options, counts, records, flags):
    for name in ("www.example.com", "odd.example.com", "a.b", "."):
        wire = ask_wire(name, "A", **options)
        head = wire[:2] + (int.from_bytes(wire[2:4]) & 0x0100 | flags).to_bytes(2) + b"\0\1"
        counted = b"".join(count.to_bytes(2) for count in counts)
        expected = shield.heat(wire, head + counted + wire[12 : 16 + len(name_wire(name))] + records)
        assert expected
        assert shield.ask_kernel(wire) == expected


def test_a_failure_is_one_as_long_as_it_is_held(shield):
    expected = shield.heat(WWW, failure(WWW))
    assert shield.ask_kernel(WWW) == expected


LONG = b"".join(b"\x3f" + bytes([97 + k]) * 63 for k in range(2)) + b"\0"  # 129 octets
KEPT_OUT = {
    "a long name": WWW[:12] + LONG + WWW[-4:],
    "an option": ask_wire("www.example.com", use_edns=0, options=[GenericOption(12, b"")]),
    "a cookie": ask_wire("www.example.com", use_edns=0, options=[GenericOption(10, b"8octets!")]),
    "an EDNS flag": ask_wire("www.example.com", use_edns=0, ednsflags=0x4000),
    "a header flag": WWW[:3] + b"\x40" + WWW[4:],
}


@pytest.mark.parametrize("wire", KEPT_OUT.values(), ids=KEPT_OUT)
def test_what_is_not_plain_is_the_workers(shield, wire):
    question = wire[:12][:10] + b"\0\0" + wire[12 : wire.index(b"\0", 12) + 5]
    assert shield.heat(wire, answer(question, ADDRESS, rdtype=A))
    assert shield.ask_kernel(wire) == b""


def test_what_is_longer_than_512_octets_is_the_workers(shield):
    wire = ask_wire("www.example.com", "TXT", use_edns=0, payload=1232)
    asked = wire[:10] + b"\0\0" + wire[12:-11]
    assert shield.heat(wire, answer(asked, b"x" * 600))
    assert shield.ask_kernel(wire) == b""
    plain = query("www.example.com")
    assert shield.heat(plain, answer(plain, b"x" * 600))[2] & 2, "truncated"
    assert shield.ask_kernel(plain) == b""


def test_ttls_are_those_of_the_worker_each_second(shield):
    shield.heat(WWW, ttl=300)
    for _ in range(5):
        shield.advance(1)
        expected = shield.ask_worker(WWW)
        assert shield.ask_kernel(WWW) == expected
    assert int.from_bytes(expected[-10:-6]) == 295


def test_it_ends_before_a_ttl_would_be_another(shield):
    """At most a second goes by; the kernel's own clock is asked."""
    shield.heat(WWW)
    assert shield.ask_kernel(WWW)
    time.sleep(1.01)
    assert shield.ask_kernel(WWW) == b""


def test_it_ends_with_the_entry_and_before_it_is_due_for_prefetch(shield):
    shield.cache.zones.configure(0, prefetch=True)
    shield.heat(WWW, ttl=10)
    assert shield.ask_kernel(WWW)
    shield.advance(9.1)
    shield.ask_worker(WWW, OFTEN)
    assert shield.ask_kernel(WWW) == b""
    shield.cache.zones.configure(0)
    shield.ask_worker(WWW)
    assert shield.ask_kernel(WWW)
    shield.advance(1)
    assert shield.ask_worker(WWW) == b""
    assert shield.ask_kernel(WWW) == b""


def test_what_is_stale_is_the_workers(shield):
    shield.cache.zones.configure(0, stale="immediate")
    shield.heat(WWW, ttl=10)
    shield.advance(11)
    shield.ask_worker(WWW, OFTEN)
    assert shield.ask_kernel(WWW) == b""


def test_addresses_that_take_turns_are_the_workers(shield):
    shield.cache.zones.configure(0, shuffle=True)
    assert shield.heat(WWW)
    assert shield.ask_kernel(WWW) == b""


PURGES = {
    "the name": lambda cache: cache.purge(name_wire("www.example.com"), below=False),
    "its type": lambda cache: cache.purge(name_wire("www.example.com"), below=False, qtype=A),
    "all below": lambda cache: cache.purge(name_wire("example.com"), below=True),
    "everything": lambda cache: cache.purge(b"\0", below=True),
    "let expire": lambda cache: cache.purge(name_wire("example.com"), below=True, let_expire=True),
}


@pytest.mark.parametrize("purge", PURGES.values(), ids=PURGES)
def test_what_is_purged_is_gone_when_the_purge_returns(shield, purge):
    shield.heat(WWW)
    assert shield.ask_kernel(WWW)
    purge(shield.cache)
    assert shield.ask_kernel(WWW) == b""
    assert shield.ask_worker(WWW) == b""
    assert shield.heat(WWW)
    assert shield.ask_kernel(WWW), "and the table goes on"


def rule(match, action, where="queries"):
    return Rule("r", where, match, action)


CONCERNS = {
    "access": lambda settings: settings.guard.set_access([], [(bytes(4), 8)]),
    "blocks": lambda settings: settings.guard.set_blocks([(CLIENT, 32, "refuse")]),
    "limits": lambda settings: settings.guard.set_limits([(1e6, 1, 32, 64, "refuse")]),
    "RRL": lambda settings: settings.guard.set_rrl(answers=1e6),
    "dynamic blocks": lambda settings: settings.guard.set_dynblocks([("queries", 1e6, 1, 32, 64, ())]),
    "front proxies": lambda settings: settings.set_proxies(((bytes(4), 8),)),
    "subnets": lambda settings: settings.set_subnets(ipv4=24, ipv6=56, private=True),
}


@pytest.mark.parametrize("concern", CONCERNS.values(), ids=CONCERNS)
def test_where_it_matters_who_asks_workers_answer(shield, concern):
    shield.heat(WWW)
    assert shield.ask_kernel(WWW)
    concern(shield.settings)
    assert shield.ask_kernel(WWW) == b"", "at once"
    shield.heat(WWW)
    assert shield.ask_kernel(WWW) == b""


@pytest.mark.parametrize(
    ("match", "concerns"),
    [
        (Match(name=("www.example.com",)), True),
        (Match(name=("other.example.com",)), False),
        (Match(qtype=("AAAA",)), False),
        (Match(qtype=("A",)), True),
        (Match(name=("www.example.com",), qtype=("AAAA",)), False),
        (Match(source=("198.51.100.0/24",)), True),
        (Match(), True),
    ],
)
@pytest.mark.parametrize("where", ["queries", "cache-hits"])
def test_what_a_rule_could_concern_is_the_workers(shield, match, concerns, where):
    guard = shield.settings.guard
    compiled = compile_chain([rule(match, Action(tag="seen"), where)], IdAllocator(), 1, guard, [])
    shield.heat(WWW)
    shield.settings.set_chains(**{"queries" if where == "queries" else "answers": compiled.chain})
    assert shield.ask_kernel(WWW) == b"", "at once"
    shield.ask_worker(WWW)
    assert (shield.ask_kernel(WWW) == b"") == concerns


def test_nothing_is_answered_once_it_is_closed(shield):
    shield.heat(WWW)
    shield.table.close()
    assert shield.ask_kernel(WWW) == b""
    shield.heat(WWW)
    assert shield.ask_kernel(WWW) == b""


def test_memory_that_is_too_short_is_refused(shield):
    with pytest.raises(ValueError, match="no maps"):
        KernelAnswers(shield.cache).use(bytearray(100), bytearray(32), bytearray(1 << 20))
