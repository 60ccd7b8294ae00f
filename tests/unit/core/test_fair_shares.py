"""Show the law of fairness: what one prefix gets, what ten get, and that somebody new always finds room."""

from collections import OrderedDict
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funkenshield.core.fair_shares import SHARE, Holders, Shares, may_take_one_more, prefix_of


def packed(address):
    return ip_address(address).packed


@pytest.mark.parametrize(
    ("one", "other", "same_prefix"),
    [
        ("192.0.2.1", "192.0.2.255", True),
        ("192.0.2.1", "192.0.3.1", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", True),
        ("2001:db8::1", "2001:db8:0:100::1", False),
    ],
)
def test_who_counts_as_one(one, other, same_prefix):
    assert (prefix_of(packed(one)) == prefix_of(packed(other))) is same_prefix


@pytest.mark.parametrize("hogs", [1, 2, 10, 99])
def test_so_many_hogs_get_a_share_each_and_leave_one(hogs):
    shares, limit = Shares(), 1000
    for hog in [bytes([hog]) for hog in range(hogs)] * limit:
        if shares.may_take(hog, limit):
            shares.add(hog, 1)
    taken = [shares.of(bytes([hog])) for hog in range(hogs)]
    assert max(taken) - min(taken) <= 1
    fair = SHARE * limit // (SHARE * hogs + 1)
    assert fair <= max(taken) <= fair + 1
    assert limit - shares.taken >= limit // (SHARE * hogs + 1) - hogs
    assert shares.may_take(b"new", limit)


def test_what_is_given_back_leaves_nothing():
    shares = Shares()
    shares.add(b"a", 7)
    shares.add(b"b", 1)
    shares.add(b"a", -7)
    assert (shares.taken, len(shares), shares.of(b"a")) == (1, 1, 0)
    assert not may_take_one_more(0, 0)


@given(st.lists(st.tuples(st.sampled_from("amr"), st.integers(0, 5), st.integers(0, 10))))
def test_who_holds_most_and_what_is_oldest_there_is_known_at_any_time(steps):
    holders, model = Holders(), {}
    for step, prefix, number in steps:
        mine = model.setdefault(prefix, OrderedDict())
        if step == "a" and number not in mine:
            holders.add(prefix, number, (prefix, number))
            mine[number] = (prefix, number)
        elif step == "m" and number in mine:
            holders.move(prefix, number)
            mine.move_to_end(number)
        elif step == "r" and number in mine:
            holders.remove(prefix, number)
            del mine[number]
        assert list(holders.of(prefix).items()) == list(mine.items())
        assert holders.most == max(map(len, model.values()))
        if holders.most:
            held = holders.oldest_of_most()
            assert len(model[held[0]]) == holders.most
            assert held == next(iter(model[held[0]].values()))
