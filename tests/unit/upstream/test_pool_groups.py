"""Numbers of groups of upstreams: one stays as long as its group does, and one that was given back is used last."""

import pytest

from funkenshield.cache._store import Cache
from funkenshield.config import DEFAULT_GROUP, Config
from funkenshield.core._clock import Clock
from funkenshield.errors import ConfigError
from funkenshield.forward._miss_path import MissPath
from funkenshield.upstream.pool import GROUPS_MAX, Group, Upstreams


@pytest.fixture
def upstreams():
    miss_path = MissPath(Cache(4 << 20, Clock()), 64)
    return Upstreams(miss_path.sockets, miss_path.upstreams, Clock(), miss_path.abandon)


def configure(upstreams, *names):
    return upstreams.configure({name: Group("order", ()) for name in (DEFAULT_GROUP, *names)}, Config())


def test_a_group_keeps_its_number_and_one_that_was_given_back_is_used_last(upstreams):
    assert configure(upstreams, "a") == {DEFAULT_GROUP: 0, "a": 1}
    assert configure(upstreams, "a", "b") == {DEFAULT_GROUP: 0, "a": 1, "b": 2}
    assert configure(upstreams, "b") == {DEFAULT_GROUP: 0, "b": 2}
    assert configure(upstreams, "b", "a") == {DEFAULT_GROUP: 0, "b": 2, "a": 3}


def test_there_are_so_many_groups_and_one_more_is_a_mistake_that_changes_nothing(upstreams):
    names = [f"group{number}" for number in range(GROUPS_MAX - 1)]
    numbers = configure(upstreams, *names)
    assert sorted(numbers.values()) == list(range(GROUPS_MAX))
    with pytest.raises(ConfigError, match="at most 4096 groups of upstreams, not 4097"):
        configure(upstreams, *names, "another")
    assert configure(upstreams, *names) == numbers
    assert configure(upstreams, *reversed(names[1:]), "another") == {
        **{name: number for name, number in numbers.items() if name != names[0]}, "another": numbers[names[0]]
    }  # fmt: skip
