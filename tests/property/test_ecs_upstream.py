"""Show that a query goes on as its client would have sent it, had he told his subnet; private ones are not told.

What dnspython reads in it is all that there was, and one option more.
"""

from ipaddress import ip_address, ip_network

import dns.edns
import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.edns import subnet
from support.examples import examples
from support.wires import ask_wire

from funkenshield.wire._ecs_upstream import with_subnet

THOROUGH = examples(300)
LONGEST = 384  # octets of a query that is added to
PADDING, COOKIE, KEEPALIVE = 12, 10, 11
PUBLIC = ["192.0.2.1", "8.8.8.8", "172.15.255.255", "172.32.0.0", "100.63.0.0", "100.128.0.0", "198.17.0.0",
          "198.20.0.0", "192.0.1.0", "223.255.255.255", "169.253.0.0", "2001:db8::1", "3fff::1"]  # fmt: skip
PRIVATE = ["0.0.0.0", "10.1.2.3", "127.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.1.1",
           "100.64.0.1", "100.127.255.255", "198.18.0.0", "198.19.255.255", "192.0.0.8", "224.0.0.1", "255.255.255.255",
           "::", "::1", "::ffff:192.0.2.1", "fe80::1", "fec0::1", "fd00::1", "fc00::1", "ff02::1",
           "64:ff9b::1"]  # fmt: skip

labels = st.lists(st.text("abcXYZ", min_size=1, max_size=63), max_size=4).map(
    lambda found: ".".join([*found, ""]) or "."
)
options = st.lists(
    st.one_of(
        st.builds(dns.edns.GenericOption, st.just(PADDING), st.binary(max_size=300)),
        st.builds(dns.edns.GenericOption, st.just(KEEPALIVE), st.just(b"")),
    ),
    max_size=3,
)


def told(wire, address, *, ipv4=24, ipv6=56, private=False):
    return with_subnet(wire, ip_address(address).packed, ipv4=ipv4, ipv6=ipv6, private=private)


@THOROUGH
@given(
    labels, st.one_of(st.none(), options), st.booleans(), st.sampled_from([512, 1232, 4096]), st.ip_addresses(),
    st.integers(1, 32), st.integers(1, 128),
)  # fmt: skip
def test_all_that_there_was_and_one_option_more(name, found, dnssec, payload, address, ipv4, ipv6):
    edns = {} if found is None else {"options": found, "want_dnssec": dnssec, "payload": payload}
    wire = ask_wire(name, **edns)
    told_of = told(wire, str(address), ipv4=ipv4, ipv6=ipv6, private=True)
    option = subnet(str(address), ipv4 if address.version == 4 else ipv6)
    if len(wire) + (0 if edns else 11) + len(option) > LONGEST:
        assert told_of == wire
        return
    before, after = dns.message.from_wire(wire), dns.message.from_wire(told_of)
    assert told_of[:10] == wire[:10]
    assert after.question == before.question
    assert [each.to_wire() for each in after.options[:-1]] == [each.to_wire() for each in before.options]
    assert after.options[-1].to_wire() == option[4:]
    assert after.payload == (payload if edns else 512)
    assert after.ednsflags == before.ednsflags


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_told_only_where_that_is_wished(address):
    wire = ask_wire("www.test.")
    assert told(wire, address) == wire
    assert told(wire, address, private=True) != wire


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_told_unless_no_bits_are(address):
    wire = ask_wire("www.test.", use_edns=0)
    assert told(wire, address) == wire[:-2] + (len(told(wire, address)) - len(wire)).to_bytes(2) + subnet(
        address, 24 if ip_network(address).version == 4 else 56
    )
    assert told(wire, address, ipv4=0, ipv6=0, private=True) == wire


@pytest.mark.parametrize(("asked", "source"), [("192.0.2.0", 20), ("0.0.0.0", 0), ("2001:db8::", 32)])
def test_whoever_tells_himself_is_left_alone(asked, source):
    wire = ask_wire("www.test.", options=[dns.edns.ECSOption(asked, source)])
    assert told(wire, "198.51.100.1") == wire


def test_the_shield_itself_is_not_told():
    wire = ask_wire("version.bind.", "TXT", rdclass="CH")
    assert told(wire, "198.51.100.1") == wire


def test_what_is_no_plain_query_is_refused():
    with pytest.raises(ValueError, match="plain"):
        told(ask_wire("www.test.", "AXFR"), "192.0.2.1")
    with pytest.raises(ValueError, match="4 or 16"):
        with_subnet(ask_wire("www.test."), b"", ipv4=24, ipv6=56, private=False)
