"""Tokens by which clients show where they are: whose they are, and for how long."""

import pytest

from funkenshield.quic.retry import CID_MAX, LIFETIME, MAC, PERIOD, RetryTokens

CLIENT, OTHER = ("192.0.2.1", 4000), ("192.0.2.2", 4000)
ORIGINAL, OURS = b"original", b"12345678"
SECRET = bytes(32)


class Scene:
    def __init__(self):
        self.now = 5000.0
        self.tokens = RetryTokens(SECRET, "doq", lambda: self.now)


@pytest.fixture
def scene():
    return Scene()


@pytest.mark.parametrize("original", [b"", ORIGINAL, bytes(20)])
def test_a_token_tells_whom_the_first_packet_was_for(original, scene):
    token = scene.tokens.make(CLIENT, original, OURS)
    scene.now += LIFETIME
    assert scene.tokens.original(CLIENT, OURS, token) == original


def test_a_token_is_good_across_a_change_of_keys(scene):
    scene.now = PERIOD * 3 - 1.0
    token = scene.tokens.make(CLIENT, ORIGINAL, OURS)
    scene.now += 2.0
    assert scene.tokens.original(CLIENT, OURS, token) == ORIGINAL


@pytest.mark.parametrize(
    ("address", "ours", "seconds"),
    [(OTHER, OURS, 0), ((CLIENT[0], 4001), OURS, 0), (CLIENT, b"87654321", 0), (CLIENT, OURS, LIFETIME + 1)],
)
def test_a_token_is_its_owners_and_not_for_long(address, ours, seconds, scene):
    token = scene.tokens.make(CLIENT, ORIGINAL, OURS)
    scene.now += seconds
    assert scene.tokens.original(address, ours, token) is None


@pytest.mark.parametrize(
    ("host", "moved", "other"),
    [("11.2.3.4", b"1", "1.2.3.4"), ("2001:db8::53", b"2001:db8", "::53"), ("2001:db8::1", b"200", "1:db8::1")],
)
def test_no_part_of_an_address_is_taken_for_the_connection_id_before_it(host, moved, other, scene):
    token = scene.tokens.make((host, 53), ORIGINAL, OURS)
    told, mac = token[:-MAC], token[-MAC:]
    assert scene.tokens.original((other, 53), OURS, told + moved + mac) is None
    assert scene.tokens.original((other, 53), OURS, told[:-1] + mac) is None


def test_no_token_is_for_a_connection_id_that_is_longer_than_any(scene):
    assert scene.tokens.original(CLIENT, OURS, scene.tokens.make(CLIENT, bytes(CID_MAX + 1), OURS)) is None


def test_what_was_changed_or_made_elsewhere_is_no_token(scene):
    token = scene.tokens.make(CLIENT, ORIGINAL, OURS)
    for at in range(len(token)):
        changed = bytearray(token)
        changed[at] ^= 1
        assert scene.tokens.original(CLIENT, OURS, bytes(changed)) is None
    for length in range(len(token)):
        assert scene.tokens.original(CLIENT, OURS, token[:length]) is None
    for secret, listener in (bytes(31) + b"1", "doq"), (SECRET, "h3"):
        assert RetryTokens(secret, listener, lambda: scene.now).original(CLIENT, OURS, token) is None


def test_the_next_process_knows_tokens_of_the_one_before(scene):
    token = scene.tokens.make(CLIENT, ORIGINAL, OURS)
    assert RetryTokens(SECRET, "doq", lambda: scene.now).original(CLIENT, OURS, token) == ORIGINAL
