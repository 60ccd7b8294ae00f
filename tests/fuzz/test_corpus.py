"""Replay what fuzzing has found, with inputs that make sense; and replies with any bit of them wrong."""

from importlib import import_module
from random import Random

import pytest

from . import TARGETS, answer, upstream
from .messages import framed, query_of, reply_to
from .seed import CORPUS


@pytest.fixture(params=TARGETS)
def target(request):
    """Return the module of a target."""
    return import_module(f"fuzz.{request.param}")


def test_the_corpus_is_replayed(target):
    files = sorted((CORPUS / target.__name__.removeprefix("fuzz.")).iterdir())
    assert 10 <= len(files) <= 48
    for file in files:
        assert file.stat().st_size <= 2048
        target.one(file.read_bytes())


def test_what_makes_sense_is_taken_whole_cut_and_spoilt(target):
    for number in range(100):
        dice = Random(number)
        data = bytearray(target.made(dice))
        target.one(bytes(data))
        target.one(bytes(data[: dice.randrange(len(data))]))
        data[dice.randrange(len(data))] = dice.choice([0, 1, 0x3F, 0xC0, 0xFF])
        target.one(bytes(data))


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("target", [answer, upstream], ids=["in the cache", "on its way"])
def test_no_bit_of_a_reply_that_changed_does_harm(target, number):
    dice = Random(number)
    asked = query_of(dice, "www.example.com.", "A", edns=1.0)
    query, reply = asked.to_wire(), reply_to(dice, asked).to_wire()
    for at in range(len(reply)):
        for bit in range(8):
            spoilt = reply[:at] + bytes([reply[at] ^ 1 << bit]) + reply[at + 1 :]
            target.one(framed(query, spoilt))
