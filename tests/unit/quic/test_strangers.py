"""Whoever has no connection: what it is answered, how long that is, and how much of the time it takes."""

import time
from collections import Counter

import pytest

pytest.importorskip("qh3")
from support.quic import CLIENT, LIMITS, SECRET

from funkenshield.core.fair_shares import prefix_of
from funkenshield.quic import strangers
from funkenshield.quic.bounds import BURST, Bounds, Share
from funkenshield.quic.retry import RetryTokens
from funkenshield.quic.strangers import Begun, Secrets, Strangers

FIRST, SECOND = b"original", b"ours 678"


def initial(destination=FIRST, token=b"", version=1, length=1200):
    header = b"\xc0" + version.to_bytes(4) + bytes((len(destination),)) + destination + b"\x08clientid"
    rest = bytes((len(token),)) + token
    left = length - len(header) - len(rest) - 2
    return header + rest + (left | 0x4000).to_bytes(2) + bytes(left)


class Scene:
    def __init__(self):
        self.counters, self.sent = Counter(), []
        self.bounds = Bounds(LIMITS, self.counters)
        self.strangers = Strangers(Secrets(SECRET, bytes(32)), "doq", self.bounds, self._send)

    def _send(self, octets, address, local):
        assert (address, local) == (CLIENT, b"local")
        self.sent.append(octets)

    def take(self, datagram, now=0.0):
        """Return what is answered to a datagram, b"" for nothing, or who begins a connection."""
        self.sent.clear()
        begun = self.strangers.take(datagram, CLIENT, b"local", now)
        return begun or b"".join(self.sent)


@pytest.fixture
def scene():
    return Scene()


def token(scene, seconds=0.0):
    return RetryTokens(SECRET, "doq", lambda: strangers.time.monotonic() - seconds).make(CLIENT, FIRST, SECOND)


def test_who_begins_is_asked_to_come_again_and_who_comes_again_begins(scene):
    answer = scene.take(initial())
    assert answer[0] >> 4 == 0xF
    ours = answer[15:23]
    assert scene.take(initial(ours, answer[23:-16])) == Begun(FIRST, ours)
    assert scene.counters == {"retries": 1}


@pytest.mark.parametrize("seconds", [-5.0, 20.0])
def test_who_comes_with_a_token_that_is_not_good_is_asked_again(seconds, scene):
    assert scene.take(initial(SECOND, token(scene, seconds)))[0] >> 4 == 0xF
    assert scene.take(initial(SECOND, b"of another server"))[0] >> 4 == 0xF
    assert isinstance(scene.take(initial(SECOND, token(scene))), Begun)


@pytest.mark.parametrize(
    ("datagram", "answered"),
    [
        (initial(), 75),
        (initial(length=1199), 0),
        (initial(version=0x0A0A0A0A), 27),
        (initial(version=0), 0),
        (b"\xe0" + initial()[1:], 0),
        (bytes((0x40,)) + bytes(30), 30),
        (bytes((0x40,)) + bytes(1400), 43),
        (bytes((0x40,)) + bytes(20), 0),
        (bytes(1400), 0),
        (bytes((0xFF,)) * 1400, 0),
    ],
    ids=["first", "short", "version", "negotiation", "handshake", "unknown", "long", "too short", "none", "noise"],
)
def test_an_answer_is_far_shorter_than_what_it_answers(datagram, answered, scene):
    answer = scene.take(datagram)
    assert len(answer) == answered
    assert len(answer) < len(datagram)


def test_who_leaves_welcomes_nobody_but_still_ends_what_it_does_not_know(scene):
    scene.strangers.are_welcome = False
    assert scene.take(initial()) == scene.take(initial(version=0x0A0A0A0A)) == b""
    assert scene.take(initial(SECOND, token(scene))) == b""
    assert scene.take(bytes((0x40,)) + bytes(30))


def test_beyond_their_part_of_the_time_strangers_are_left_and_who_has_a_token_is_not(scene):
    scene.bounds.of_strangers.spend(1.05)
    assert scene.take(initial(), now=0.0) == b""
    assert scene.counters == {"dropped": 1}
    assert isinstance(scene.take(initial(SECOND, token(scene)), now=0.0), Begun)
    assert scene.take(initial(), now=3.9) == b""
    assert scene.take(initial(), now=4.1)[0] >> 4 == 0xF


def test_what_others_do_meanwhile_is_not_the_time_of_strangers(scene, monkeypatch):
    """The kernel gives the processor to somebody else in the midst of an answer."""
    monkeypatch.setattr(scene.strangers, "_send", lambda *sent: (time.sleep(2 * BURST), scene._send(*sent)))
    for _ in range(2):
        assert scene.take(initial(), now=0.0)[0] >> 4 == 0xF
    assert scene.counters == {"retries": 2}


def test_packets_of_no_connection_do_not_take_the_time_of_whoever_begins_one(scene):
    for now in (0.0, 0.5, 1.0):
        scene.bounds.of_resets.spend(1.0)
        assert scene.take(bytes((0x40,)) + bytes(30), now) == scene.take(bytes((0xFF,)) * 1400, now) == b""
        assert scene.take(initial(), now)[0] >> 4 == 0xF
    assert scene.counters == {"retries": 3, "dropped": 6}


def test_beyond_its_share_a_prefix_begins_no_handshakes_and_others_do(scene):
    for _ in range(9):
        scene.bounds.of_handshakes.spend(prefix_of(bytes((192, 0, 2, 9))), 0.005)
    assert scene.take(initial(SECOND, token(scene))) == b""
    assert scene.counters == {"dropped": 1}
    assert scene.bounds.of_handshakes.may_begin(b"other", 0.0)
    assert isinstance(scene.take(initial(SECOND, token(scene)), now=0.02), Begun)


def test_tokens_that_are_not_good_are_on_nobodys_account(scene):
    for _ in range(20):
        scene.take(initial(SECOND, b"of another server"))
    assert scene.bounds.of_handshakes._owed == 0


def test_a_share_is_a_part_of_the_time_and_little_is_kept_of_it():
    share = Share(0.5, 0.1)
    assert share.has_time(100.0)
    share.spend(0.1)
    assert not share.has_time(100.0)
    assert share.has_time(100.01)
    share.spend(0.2)
    assert [share.has_time(now) for now in (100.1, 100.39, 100.41)] == [False, False, True]
