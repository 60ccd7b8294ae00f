"""Know that nobody makes look-ups dear by asking about subnets of all prefix lengths (RFC 7871).

An upstream that echoes SOURCE as SCOPE lets each client choose under which length its answer is kept.
"""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import quick
from support.control import stats
from support.edns import split_opt, subnet, with_opt
from support.examples import examples
from support.process import run_shield
from support.upstream import ScriptedUpstream

from funkenshield.cache._store import Cache
from funkenshield.cache.expiry import Expiry
from funkenshield.core._clock import Clock

MEMORY = 1 << 22
MOST = 8  # lengths of a family in use at once
EVERY = [(address, length) for address, bits in (("198.51.100.77", 32), ("3fff::77", 128)) for length in range(1, bits)]


def ask(name, address, source):
    return with_opt(quick.query(name), subnet(address, source))


def store(cache, name, address, source, scope, ttl=300, text=b"x"):
    plain = quick.query(name)
    response = with_opt(quick.answer(plain, text, ttl=ttl), subnet(address, source, scope))
    return cache.store(ask(name, address, source), response)


def text_of(name, hit):
    return None if hit is None else quick.payload_of(quick.query(name), split_opt(hit)[0])


def lengths(cache):
    return cache.counters()["ecs_prefix_lengths"]


def test_however_many_lengths_are_asked_about_few_are_in_use():
    cache = Cache(MEMORY, Clock())
    for address, length in EVERY:
        assert store(cache, "evil.test", address, length, length)
        assert lengths(cache) <= 2 * MOST
    assert lengths(cache) == 2 * MOST
    for address, length in EVERY:
        assert cache.lookup(ask("evil.test", address, length)) is not None, "who asks about just as much is served"


def test_lengths_that_are_in_use_stay_so_while_others_come():
    cache = Cache(MEMORY, Clock())
    for scope in 16, 20, 24:
        assert store(cache, f"{scope}.test", "192.0.2.1", 24, scope)
    for address, length in EVERY:
        assert store(cache, "evil.test", address, length, length)
    for scope, address in [(16, "192.0.255.1"), (20, "192.0.15.1"), (24, "192.0.2.255")]:
        assert cache.lookup(ask(f"{scope}.test", address, 32)) is not None
        assert store(cache, f"new{scope}.test", "192.0.2.1", 24, scope)
        assert cache.lookup(ask(f"new{scope}.test", address, 32)) is not None


def test_an_answer_that_cannot_have_its_length_serves_fewer_and_never_others():
    cache = Cache(MEMORY, Clock())
    for length in 4, 6, 8, 10, 12, 14, 16, 20:
        assert store(cache, f"{length}.test", "192.0.2.1", 24, length)
    assert store(cache, "www.test", "192.0.2.1", 24, 17)
    served = [address for address in ("192.0.2.9", "192.0.15.1", "192.0.16.1", "192.0.127.1", "192.0.128.1")
              if cache.lookup(ask("www.test", address, 24)) is not None]  # fmt: skip
    assert served == ["192.0.2.9", "192.0.15.1"], "those within /20, the next longer length that is in use"
    assert store(cache, "long.test", "192.0.2.1", 24, 22)
    assert cache.lookup(ask("long.test", "192.0.2.9", 24)) is not None
    assert cache.lookup(ask("long.test", "192.0.3.1", 24)) is None, "there is no longer one, but what was asked about"


@pytest.mark.parametrize("how", ["expired", "purged", "evicted", "replaced"])
def test_a_length_is_given_back_with_the_last_answer_that_has_it(how):
    clock = Clock()
    cache = Cache(MEMORY, clock)
    expiry = Expiry(cache)
    for address, length in EVERY:
        assert store(cache, f"{length}.evil.test", address, length, length, ttl=60)
    assert lengths(cache) == 2 * MOST
    if how == "expired":
        clock.advance(61 + 86400)
    elif how == "purged":
        cache.purge(quick.name_wire("evil.test"), below=True)
    elif how == "evicted":
        for number in range(10_000):
            plain = quick.query(f"{number}.test")
            assert cache.store(plain, quick.answer(plain, bytes(1000)))
    else:
        for address, length in EVERY:
            assert store(cache, f"{length}.evil.test", address, length, 0)
            assert cache.lookup(ask(f"{length}.evil.test", address, length)) is not None
    for _ in range(100):
        expiry.step()
    assert lengths(cache) == 0
    assert store(cache, "www.test", "192.0.2.1", 24, 17)
    assert cache.lookup(ask("www.test", "192.0.127.1", 24)) is not None
    assert lengths(cache) == 1


clients = st.tuples(st.sampled_from(["192.0.2.1", "192.0.2.129", "192.0.3.1", "198.51.100.1"]), st.integers(1, 32))


@examples(200)
@given(st.lists(st.tuples(clients, st.integers(0, 33)), max_size=40), st.lists(clients, min_size=1, max_size=20))
def test_nobody_is_served_what_is_not_true_for_its_subnet(stored, asked):
    cache = Cache(MEMORY, Clock())
    for number, ((address, source), scope) in enumerate(stored):
        assert store(cache, "www.test", address, source, scope, text=b"%d" % number)
        assert text_of("www.test", cache.lookup(ask("www.test", address, source))) == b"%d" % number
    for address, source in asked:
        text = text_of("www.test", cache.lookup(ask("www.test", address, source)))
        if text is not None:
            (other, its_source), scope = stored[int(text)]
            true_for = ip_network((ip_address(other), min(scope, its_source)), strict=False)
            assert ip_address(address) in true_for or scope == 0
            assert source >= min(scope, its_source)
    assert lengths(cache) <= MOST


def test_an_upstream_that_echoes_does_not_let_clients_choose():
    def echo(query):
        asked = query.wire
        end = 12 + len(quick.name_wire(str(query.name))) + 4
        option = bytearray(asked[end + 11 :])
        option[7] = option[6]
        plain = asked[:10] + b"\0\0" + asked[12:end]
        response = quick.answer(plain, b"x")
        return response[:10] + b"\0\1" + response[12:] + asked[end : end + 11] + bytes(option)

    with ScriptedUpstream(echo) as upstream, run_shield([upstream]) as shield:
        for _ in "stored", "served":
            for address, length in reversed(EVERY):  # a shorter one would serve all longer ones
                plain, said = split_opt(shield.udp_wire(ask("evil.test", address, length)))
                assert quick.payload_of(quick.query("evil.test"), plain) == b"x"
                assert said == subnet(address, length, length)
            assert stats(shield)["ecs_prefix_lengths"] == 2 * MOST
            assert upstream.count() == len(EVERY)
