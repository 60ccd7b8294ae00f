"""Show that an answer serves the clients that it is true for, and nobody else (RFC 7871).

The cache is held against a dictionary of networks. Times are whole minutes, and move by hand: what a test
takes itself does not matter, however slow the machine is.
"""

from ipaddress import ip_address, ip_network
from struct import pack
from typing import NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support.edns import COOKIE, SUBNET, option, split_opt, subnet, with_opt
from support.examples import examples
from support.quick import answer, carried, failure, miss_path_before_a_test, payload_of, query

from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock

MEMORY = 1 << 22
PLAIN = query("www.example.com")
MINUTE = 60
FAILURE_TTL = 5 * MINUTE


class Asker(NamedTuple):
    """A client, by what his resolver tells of his address."""

    address: str
    source: int


def ask(client, *options):
    """Return a query with the client's subnet, or with an OPT record alone."""
    return with_opt(PLAIN, *options, *([subnet(*client)] if client else []))


def reply(client, text, scope=None, ttl=300):
    """Return the response with a scope, or without a subnet."""
    said = [] if scope is None else [subnet(*client, scope)]
    return with_opt(failure(PLAIN) if text is None else answer(PLAIN, text, ttl=ttl), *said)


def heard(cache, client, *options):
    """Return the text of a hit and its options, or None."""
    hit = cache.lookup(ask(client, *options))
    if hit is None:
        return None
    plain, said = split_opt(hit)
    return payload_of(PLAIN, plain), said


# ---------------------------------------------------------------- as a dictionary would


class Held(NamedTuple):
    """What is known of an answer."""

    expires: int
    text: bytes  # empty: it is a failure
    scope: int | None
    everybody: bool


ADDRESSES = {
    4: ["192.0.2.1", "192.0.2.129", "192.0.3.1", "198.51.100.1"],
    6: ["2001:db8::1", "2001:db8:0:0:8000::1", "2001:db8:0:1::1", "3fff::1"],
}
LENGTHS = {4: [0, 1, 8, 22, 23, 24, 25, 32], 6: [0, 1, 22, 32, 63, 64, 65, 128]}
clients = st.one_of(
    st.none(),
    *(st.builds(Asker, st.sampled_from(ADDRESSES[v]), st.sampled_from(LENGTHS[v])) for v in ADDRESSES),
)
minutes = st.integers(1, 12).map(MINUTE.__mul__)
scopes = st.one_of(st.none(), st.sampled_from(sorted({0, *LENGTHS[4], *LENGTHS[6], 254})))


class CacheAndNetworks(RuleBasedStateMachine):
    """Do the same to a cache and to a dictionary by network; None is the one for those who tell of none."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.cache = Cache(MEMORY, self.clock)
        self.cache.zones.configure(0, failure=FAILURE_TTL)
        self.now = self.version = 0
        self.held = {}

    def find(self, client):
        """Return where the answer to a client is, or None (of nobody) where there is none."""
        address, source = client or ("", 0)
        for length in range(source, 0 if source else -1, -1) if client else ():
            network = ip_network((ip_address(address), length), strict=False)
            held = self.held.get(network)
            if held and (length == source or (held.scope is not None and held.scope <= length)):
                return network, held
        held = self.held.get(None)
        return (None, held) if held and (not client or (source and held.everybody)) else None

    @rule(client=clients, scope=scopes, ttl=minutes)
    def store(self, client, scope, ttl):
        self.version += 1
        text = str(self.version).encode()
        scope = scope if client else None
        assert self.cache.store(ask(client), reply(client, text, scope, ttl))
        length = min(client.source, client.source if scope is None else scope) if client else 0
        everybody = bool(client and client.source and not scope)
        home = None if not client or everybody else ip_network((ip_address(client.address), length), strict=False)
        self.held[home] = Held(self.now + ttl, text, scope, everybody)
        while self.find(client)[0] != home:
            del self.held[self.find(client)[0]]

    @rule(client=clients, scope=scopes)
    def store_failure(self, client, scope):
        scope = scope if client else None
        home = ip_network((ip_address(client.address), client.source), strict=False) if client else None
        old = self.held.get(home)
        serves = old and old.text and old.expires > self.now
        assert self.cache.store(ask(client), reply(client, None, scope)) != bool(serves)
        if not serves:
            self.held[home] = Held(self.now + FAILURE_TTL, b"", scope, False)

    @rule(seconds=minutes)
    def wait(self, seconds):
        self.clock.advance(seconds)
        self.now += seconds

    @rule()
    def sweep(self):
        for segment in range(self.cache.segments_total):
            self.cache.sweep(segment)
        self.held = {home: held for home, held in self.held.items() if held.expires > self.now}

    @rule(client=clients)
    def look_up(self, client):
        _, held = self.find(client) or (None, None)
        if held is None or held.expires <= self.now:
            assert heard(self.cache, client) is None
            return
        said = subnet(*client, held.scope) if client and held.scope is not None else b""
        assert heard(self.cache, client) == (held.text, said)

    @invariant()
    def all_is_counted(self):
        assert self.cache.counters()["entries"] == len(self.held)

    def teardown(self):
        for version, addresses in ADDRESSES.items():
            for address in addresses:
                for length in LENGTHS[version]:
                    self.look_up(Asker(address, length))


TestCacheAndNetworks = pytest.mark.slow(CacheAndNetworks.TestCase)
TestCacheAndNetworks.settings = examples(100, stateful_step_count=40)


# ---------------------------------------------------------------- one by one

HERE, NEAR, FAR = Asker("192.0.2.1", 24), Asker("192.0.3.1", 24), Asker("198.51.100.1", 24)
WIDER, NARROWER, NOBODY = Asker("192.0.2.1", 20), Asker("192.0.2.1", 32), Asker("192.0.2.1", 0)
V6, V6_NOBODY = Asker("2001:db8::1", 24), Asker("::", 0)
EVERYBODY = {HERE, NEAR, FAR, WIDER, NARROWER, V6, None}
SERVED = {
    "no subnet in the answer": (HERE, None, EVERYBODY),
    "scope 0": (HERE, 0, EVERYBODY),
    "a shorter scope": (HERE, 22, {HERE, NEAR, NARROWER}),
    "the same scope": (HERE, 24, {HERE, NARROWER}),
    "a longer scope": (HERE, 28, {HERE}),
    "the longest scope that an octet can tell": (HERE, 255, {HERE}),
    "IPv6": (V6, 24, {V6}),
    "no subnet in the query": (None, None, {None}),
    "source 0, no subnet in the answer": (NOBODY, None, {NOBODY}),
    "source 0": (NOBODY, 0, {NOBODY}),
    "source 0, with a scope": (NOBODY, 24, {NOBODY}),
    "source 0 of IPv6": (V6_NOBODY, 0, {V6_NOBODY}),
}


@pytest.mark.parametrize(("first", "scope", "served"), SERVED.values(), ids=SERVED)
def test_an_answer_serves_those_it_is_true_for(first, scope, served):
    cache = Cache(MEMORY, Clock())
    assert cache.store(ask(first), reply(first, b"true", scope))
    assert {client for client in {*EVERYBODY, NOBODY, V6_NOBODY} if heard(cache, client)} == served


@pytest.mark.parametrize(("then", "ttl"), [(24, 5), (22, 5), (0, 5), (None, 5), (0, 300)])
def test_the_answer_that_came_last_is_the_one_that_is_found(then, ttl):
    clock = Clock()
    cache = Cache(MEMORY, clock)
    cache.zones.configure(0, stale="on-failure")
    for scope in (24, 23, 22):
        assert cache.store(ask(HERE), reply(HERE, b"old", scope, ttl))
    clock.advance(5)
    assert cache.store(ask(HERE), reply(HERE, b"new", then))
    assert heard(cache, HERE)[0] == b"new"
    assert cache.counters()["entries"] == (2 if then == 24 else 1), "narrower ones are gone"


def test_each_client_gets_the_option_with_his_own_address():
    cache = Cache(MEMORY, Clock())
    cache.store(ask(HERE), reply(HERE, b"text", 20))
    for client in (HERE, NEAR, NARROWER, WIDER):
        assert heard(cache, client) == (b"text", subnet(*client, 20))
    cache.store(ask(FAR), reply(FAR, b"text", 0))
    assert heard(cache, FAR) == (b"text", subnet(*FAR, 0))
    assert heard(cache, None) == (b"text", b"")
    cache.store(ask(FAR), reply(FAR, b"text", None))
    assert heard(cache, FAR) == (b"text", b"")


STRANGERS = {
    "another source": subnet("192.0.2.1", 23, 24),
    "another address": subnet("192.0.3.1", 24, 24),
    "another family": option(SUBNET, b"\0\2\x18\x18\xc0\0\2"),
    "more of the address": subnet("192.0.2.1", 32, 24),
    "less of the address": option(SUBNET, b"\0\1\x18\x18\xc0\0"),
    "behind another option": option(COOKIE, bytes(24)) + subnet("192.0.3.1", 24, 24),
}


@pytest.mark.parametrize("said", STRANGERS.values(), ids=STRANGERS)
def test_an_answer_about_another_subnet_is_refused(said):
    cache = Cache(MEMORY, Clock())
    assert not cache.store(ask(HERE), with_opt(answer(PLAIN, b"text"), said))
    assert cache.counters()["entries"] == 0


NO_KEY = {
    "too short": option(SUBNET, b"\0\1\0"),
    "with a scope": subnet("192.0.2.1", 24, 1),
    "with odd bits": option(SUBNET, b"\0\1\x17\0\xc0\0\3"),
    "too few octets": option(SUBNET, b"\0\1\x18\0\xc0\0"),
    "too many octets": option(SUBNET, b"\0\1\x18\0\xc0\0\2\0"),
    "more bits than IPv4 has": option(SUBNET, b"\0\1\x21\0\xc0\0\2\0\0"),
    "more bits than IPv6 has": option(SUBNET, b"\0\2\x81\0" + bytes(17)),
    "bits of no family": option(SUBNET, b"\0\0\x08\0\x0a"),
    "a family that there is not": option(SUBNET, b"\0\3\0\0"),
    "a family with an octet of another's": option(SUBNET, b"\1\1\0\0"),
    "twice": subnet("192.0.2.1", 24) * 2,
}


@pytest.mark.parametrize("asked", NO_KEY.values(), ids=NO_KEY)
def test_a_malformed_subnet_has_no_place_in_the_cache(asked):
    cache = Cache(MEMORY, Clock())
    for use in (cache.lookup, lambda asked: cache.store(asked, reply(None, b"text"))):
        with pytest.raises(ValueError, match="no query that a cache may answer"):
            use(with_opt(PLAIN, asked))


def test_no_family_is_one_too_if_nothing_is_told():
    cache = Cache(MEMORY, Clock())
    asked = with_opt(PLAIN, option(SUBNET, bytes(4)))
    assert cache.store(asked, with_opt(answer(PLAIN, b"text"), option(SUBNET, bytes(4))))
    assert split_opt(cache.lookup(asked))[1] == option(SUBNET, bytes(4))
    assert heard(cache, NOBODY) is None


def test_a_subnet_concerns_one_name_type_and_set_of_flags():
    cache = Cache(MEMORY, Clock())
    cache.store(ask(HERE), reply(HERE, b"text", 24))
    others = [query("ww.example.com"), query("www.example.com", 1), query("www.example.com", flags=0)]
    for other in others:
        assert cache.lookup(with_opt(other, subnet(*HERE))) is None


@pytest.mark.parametrize(
    ("age", "fails", "text"), [(5, False, b"text"), (10, True, b"text"), (10, False, b"new")]
)  # fmt: skip
def test_a_failure_that_is_over_hides_no_answer_for_more_clients(age, fails, text):
    clock = Clock()
    cache = Cache(MEMORY, clock)
    cache.zones.configure(0, stale="on-failure")
    miss_path = miss_path_before_a_test(cache)
    assert cache.store(ask(HERE), reply(HERE, None))
    assert cache.store(ask(NEAR), reply(NEAR, b"text", 0, ttl=10))
    clock.advance(age)
    miss_path.submit(1, bytes(4), ask(HERE))
    for handle in carried(miss_path):
        assert age == 10
        if fails:
            miss_path.fail(handle)
        else:
            miss_path.resolve(handle, reply(HERE, b"new", 0))
    ((_, framed),) = miss_path.outbox.take_streams()
    assert payload_of(PLAIN, split_opt(framed[2:])[0]) == text


# ---------------------------------------------------------------- beside other options


@pytest.mark.parametrize("octets", [16, 40, 41, 92, 93, 1000])
def test_the_cookie_of_an_upstream_takes_no_room_from_the_subnet_and_our_own(octets):
    miss_path = miss_path_before_a_test(Cache(MEMORY, Clock()))
    miss_path.settings_writer.set_cookies((bytes(16),), serve=True, require=False)
    miss_path.settings_writer.set_idle(2.5)
    client = Asker("2001:db8::1", 128)
    miss_path.submit(1, bytes(4), ask(client, option(COOKIE, bytes(8)) + option(11, b"")))
    (handle,) = carried(miss_path)
    cookie = option(COOKIE, pack("!B", 255) * octets)
    assert miss_path.resolve(handle, with_opt(answer(PLAIN, b"text"), cookie, subnet(*client, 128)))
    ((_, framed),) = miss_path.outbox.take_streams()
    plain, said = split_opt(framed[2:])
    assert payload_of(PLAIN, plain) == b"text"
    ours = said[: 4 + 24]
    assert ours.startswith(option(COOKIE, bytes(24))[:4] + bytes(8) + b"\1\0\0\0")
    assert said == ours + option(11, b"\0\x19") + subnet(*client, 128)
