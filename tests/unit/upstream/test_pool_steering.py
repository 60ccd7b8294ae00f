"""Upstreams that were taken out of service by command stay so, whatever a configuration says, until they are back."""

import pytest

from funkenshield.cache._store import Cache
from funkenshield.config import DEFAULT_GROUP, Config
from funkenshield.config.types import Endpoint
from funkenshield.core._clock import Clock
from funkenshield.errors import FunkenShieldError
from funkenshield.forward._miss_path import MissPath
from funkenshield.upstream.pool import Group, Upstreams
from funkenshield.zones import settings


@pytest.fixture
def upstreams():
    miss_path = MissPath(Cache(4 << 20, Clock()), 64)
    made = Upstreams(miss_path.sockets, miss_path.upstreams, Clock(), miss_path.abandon)
    yield made
    made.close()


def configure(upstreams, *tables):
    config = Config.model_validate({"upstreams": tables, "health": {"check": "off"}})
    upstreams.configure({DEFAULT_GROUP: Group("order", config.members(DEFAULT_GROUP))}, config)


def table(name, **more):
    return {"name": name, "address": f"127.0.0.1:{5300 + ord(name)}", **more}


def follow_host(upstreams, *addresses):
    """Ask an upstream that only a zone names, by its host, where that is now."""
    config = Config.model_validate(
        {"upstreams": ["192.0.2.8:53"], "zones": [{"name": "a.test", "upstreams": ["ns.test:53"]}]}
    )
    [host] = config.host_names
    resolved = config.resolved({host: tuple(Endpoint(each, 53) for each in addresses)})
    upstreams.configure(settings.groups(resolved), resolved)


def states(upstreams):
    return {each["name"]: each["state"] for each in upstreams.listed()}


def chosen(upstreams):
    upstream = upstreams.choose(0)
    return upstream and upstream.member.title


def test_one_that_is_steered_is_out_of_service_over_reloads_until_it_is_given_back(upstreams):
    configure(upstreams, table("a"), table("b", order=2))
    assert chosen(upstreams) == "a"
    assert upstreams.steer("a", "draining") == ["a"]
    assert (states(upstreams), chosen(upstreams)) == ({"a": "draining (by command)", "b": "up"}, "b")
    for tables in ([table("a", state="up"), table("b")], [table("b")], [table("a"), table("b")]):
        configure(upstreams, *tables)
        assert chosen(upstreams) == "b"
    assert states(upstreams)["a"] == "draining (by command)"
    assert upstreams.steered == {"a": "draining"}
    upstreams.steer("a", "")
    assert (states(upstreams)["a"], upstreams.steered) == ("up", {})


def test_connections_that_are_replaced_stay_for_those_who_wait_there_as_long_as_they_may(upstreams):
    for deadline, transport in (20, "tcp"), (1, "tcp"), (1, "tls"):
        config = Config.model_validate(
            {
                "upstreams": [
                    table("a", transport=transport, tls={"server_name": "ns.test"} if transport == "tls" else {})
                ],
                "forward": {"timeout": 1, "deadline": deadline, "update_timeout": deadline},
            }
        )
        upstreams.configure({DEFAULT_GROUP: Group("order", config.members(DEFAULT_GROUP))}, config)
    until, _ = upstreams.all[0]._retired[-1]
    assert until - upstreams._clock.seconds() > 19


def test_one_is_known_by_its_name_or_where_it_is_asked(upstreams):
    configure(upstreams, table("a"), table("b"))
    assert upstreams.steer(f"127.0.0.1:{5300 + ord('b')}", "down") == ["b"]
    assert states(upstreams) == {"a": "up", "b": "down (by command)"}
    with pytest.raises(FunkenShieldError, match=r"^no upstream c; there are a, b$"):
        upstreams.steer("c", "down")


def test_a_group_without_any_is_told(upstreams, caplog):
    configure(upstreams, table("a"), table("b"))
    upstreams.steer("a", "down")
    assert "no upstream is in service" not in caplog.text
    upstreams.steer("b", "draining")
    assert "group default: no upstream is in service" in caplog.text
    assert chosen(upstreams) is None


def test_one_that_is_given_back_follows_the_state_that_is_configured(upstreams):
    configure(upstreams, table("a", state="down"), table("b"))
    upstreams.steer("a", "draining")
    upstreams.steer("a", "")
    assert states(upstreams)["a"] == "down (forced)"


def test_whom_is_asked_next_is_told_and_nobodys_turn_is_taken(upstreams):
    config = Config.model_validate({"upstreams": [table("a"), table("b"), table("c", state="down")]})
    upstreams.configure({DEFAULT_GROUP: Group("round-robin", config.members(DEFAULT_GROUP))}, config)
    first = upstreams._table.outlook(0)
    assert upstreams._table.outlook(0) == first
    assert sorted(rank for _, rank in first[1]) == ["out of service", "up", "up"]
    for _ in range(4):
        told, _ = upstreams._table.outlook(0)
        assert upstreams.choose(0).number == told


def test_one_that_has_a_host_is_down_wherever_that_is(upstreams):
    follow_host(upstreams)
    assert upstreams.steer("ns.test:53", "down") == ["ns.test:53"]  # though it has no address yet
    for addresses in ["192.0.2.1"], ["192.0.2.2", "192.0.2.3"], [], ["192.0.2.4"]:
        follow_host(upstreams, *addresses)
        down = [each["address"] for each in upstreams.listed() if each["state"] == "down (by command)"]
        assert down == [f"{each}:53" for each in addresses]
        assert (upstreams.steered, set(upstreams.titles)) == ({"ns.test:53": "down"}, {"ns.test:53", "192.0.2.8:53"})
    assert upstreams.steer("192.0.2.4:53", "") == ["ns.test:53"]
    assert set(states(upstreams).values()) == {"up"}
    follow_host(upstreams, "192.0.2.8")  # it is another one's, too, which is asked
    assert states(upstreams) == {"192.0.2.8:53": "up"}
