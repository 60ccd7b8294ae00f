"""Show that cookies are those of RFC 9018, and that only ours and recent ones count."""

import ipaddress

import pytest

from funkenshield.wire._edns_cookies import answer_cookie, hash24

OLD, NEW = bytes(range(16)), bytes(range(16, 32))
CLIENT = b"a client"
NOW = 1_700_000_000
HEAD = bytes.fromhex("000a0018")  # code and length of the option
V4, V6 = (ipaddress.ip_address(address).packed for address in ("192.0.2.1", "2001:db8::1"))


def made(at=NOW, secret=OLD, address=V4):
    """Return the cookie, client's part first, that is made at that time."""
    return answer_cookie((secret,), CLIENT, address, at % 2**32)[1].removeprefix(HEAD)


def standing(cookie, *, now=NOW, secrets=(OLD,), address=V4):
    return answer_cookie(secrets, cookie, address, now % 2**32)[0]


# ---------------------------------------------------------------- the hash and the RFC's own examples


@pytest.mark.parametrize(
    ("length", "hashed"),
    [
        (0, "310e0edd47db6f72"),
        (1, "fd67dc93c539f874"),
        (2, "5a4fa9d909806c0d"),
        (15, "e545be4961ca29a1"),
        (16, "db9bc2577fcc2a3f"),
    ],
)
def test_siphash_is_that_of_its_authors(length, hashed):
    assert hash24(bytes(range(16)), bytes(range(length))).hex() == hashed


FIRST = "e5e973e5a6b2a43f48e7dc849e37bfcf"
EXAMPLES = {
    "A.1 a new cookie": (
        [FIRST], "198.51.100.100", 1559731985,
        "2464c4abcf10c957", "client alone",
        "2464c4abcf10c957010000005cf79f111f8130c3eee29480",
    ),
    "A.2 forty minutes later": (
        [FIRST], "198.51.100.100", 1559734385,
        "2464c4abcf10c957010000005cf79f111f8130c3eee29480", "ours to renew",
        "2464c4abcf10c957010000005cf7a871d4a564a1442aca77",
    ),
    "A.3 reserved octets, and two hours old": (
        [FIRST], "203.0.113.203", 1559734700,
        "fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5", "not ours",
        "fc93fc62807ddb86010000005cf7a9acf73a7810aca2381e",
    ),
    "A.3 reserved octets, when it was made": (
        [FIRST], "203.0.113.203", 1559727985,
        "fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5", "ours",
        "fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5",
    ),
    "A.4 another secret, IPv6": (
        ["445536bcd2513298075a5d379663c962", "dd3bdf9344b678b185a6f5cb60fca715"],
        "2001:db8:220:1:59de:d0f4:8769:82b8", 1559741961,
        "22681ab97d52c298010000005cf7c57926556bd0934c72f8", "ours to renew",
        "22681ab97d52c298010000005cf7c609a6bb79d16625507a",
    ),
}  # fmt: skip


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_the_examples_of_the_rfc(example):
    secrets, address, now, cookie, stands, reply = example
    keys = tuple(bytes.fromhex(secret) for secret in secrets)
    judged, option = answer_cookie(keys, bytes.fromhex(cookie), ipaddress.ip_address(address).packed, now)
    assert (judged, option.hex()) == (stands, HEAD.hex() + reply)


# ---------------------------------------------------------------- whose it is


@pytest.mark.parametrize(
    ("age", "stands"),
    [
        (-(2**31), "not ours"),
        (-301, "not ours"),
        (-300, "ours"),
        (0, "ours"),
        (1799, "ours"),
        (1800, "ours to renew"),
        (3600, "ours to renew"),
        (3601, "not ours"),
        (2**31 - 1, "not ours"),
    ],
)
@pytest.mark.parametrize("now", [NOW, 0, 100, 2**31, 2**32 - 100])
def test_a_cookie_lives_for_an_hour_also_where_time_wraps(age, stands, now):
    assert standing(made(now - age), now=now) == stands


@pytest.mark.parametrize("address", [V4, V6])
@pytest.mark.parametrize("at", range(24))
def test_no_octet_of_a_cookie_can_be_changed(at, address):
    cookie = bytearray(made(address=address))
    assert standing(bytes(cookie), address=address) == "ours"
    cookie[at] ^= 1
    assert standing(bytes(cookie), address=address) == "not ours"


@pytest.mark.parametrize(("mine", "yours"), [(V4, bytes(4)), (V6, V6[:15] + b"\2"), (V4, V4 + bytes(12)), (V6, V4)])
def test_a_cookie_is_worth_nothing_from_another_address(mine, yours):
    assert standing(made(address=mine), address=yours) == "not ours"


@pytest.mark.parametrize("size", [16, 17, 23, 25, 40])
def test_a_cookie_of_another_size_is_not_ours(size):
    cookie = (made() + bytes(16))[:size]
    judged, option = answer_cookie((OLD,), cookie, V4, NOW)
    assert (judged, option) == ("not ours", HEAD + made())


def test_every_secret_verifies_and_the_first_makes():
    others = tuple(bytes([k]) * 16 for k in range(3))
    for secret in (OLD, *others):
        judged, option = answer_cookie((OLD, *others), made(NOW - 1, secret), V4, NOW)
        assert judged == ("ours" if secret == OLD else "ours to renew")
        assert option == HEAD + (made(NOW - 1) if secret == OLD else made())
    assert standing(made(secret=NEW), secrets=(OLD, *others)) == "not ours"


def test_a_recent_cookie_is_sent_back_as_it_is_and_an_old_one_is_made_anew():
    for age, reply in ((1799, made(NOW - 1799)), (1800, made()), (3601, made())):
        assert answer_cookie((OLD,), made(NOW - age), V4, NOW)[1] == HEAD + reply


@pytest.mark.parametrize(
    ("secrets", "cookie", "address", "message"),
    [
        ((), CLIENT, V4, "1 to 4 secrets, not 0"),
        ((OLD,) * 5, CLIENT, V4, "1 to 4 secrets, not 5"),
        ((OLD[:15],), CLIENT, V4, "16 octets, not 15"),
        ((OLD,), CLIENT[:7], V4, "a cookie has .* not 7"),
        ((OLD,), bytes(9), V4, "a cookie has .* not 9"),
        ((OLD,), bytes(41), V4, "a cookie has .* not 41"),
        ((OLD,), CLIENT, bytes(5), "an address has .* not 5"),
    ],
)
def test_what_cannot_be_is_told(secrets, cookie, address, message):
    with pytest.raises(ValueError, match=message):
        answer_cookie(secrets, cookie, address, NOW)
