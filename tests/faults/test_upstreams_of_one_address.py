"""Know that one address which is asked in several ways is as many upstreams, each with counters of its own."""

import pytest
from support.certificates import Authority
from support.control import stats
from support.links import Peer
from support.rig import SOON, answerers, ask_each, behind, good, names, numbered, placed
from support.upstream import ScriptedUpstream

from faults.test_policies import policy, reconfigure
from faults.test_tls import HOST, answering

FORWARD = policy("order")


@pytest.fixture
def upstream():
    """A nameserver that answers over UDP and TCP, as 192.0.2.1 and 192.0.2.2."""
    with ScriptedUpstream(lambda query: numbered(1 if query.transport == "udp" else 2)(query)) as running:
        yield running


def answered(shield):
    """Return how many queries each upstream answered, by what it is called."""
    return {name: each["responses"] for name, each in stats(shield)["upstreams"].items()}


def test_where_udp_is_silent_the_same_address_serves_over_tcp(upstream):
    over_udp, over_tcp = str(upstream.address), f"tcp://{upstream.address}"
    with behind(placed(upstream), placed(upstream, transport="tcp"), forward=FORWARD | SOON) as (shield, *_):
        assert answerers(ask_each(shield, names(5))) == {1: 5}
        assert answered(shield) == {over_udp: 5, over_tcp: 0}
        upstream.handle = lambda query: good(query) if query.transport == "tcp" else None
        (asked,) = names(1)
        assert answerers(ask_each(shield, [asked])) == {1: 1}
        assert (upstream.count(asked, transport="udp"), upstream.count(asked, transport="tcp")) == (1, 1)
        found = stats(shield)["upstreams"]
        assert [found[each]["timeouts"] for each in (over_udp, over_tcp)] == [1, 0]
        assert [found[each]["name"] for each in (over_udp, over_tcp)] == [over_udp, over_tcp]
        assert {each["address"] for each in found.values()} == {str(upstream.address)}
        assert answered(shield) == {over_udp: 5, over_tcp: 1}


def test_one_address_has_a_certificate_for_each_name(tmp_path):
    authority = Authority(tmp_path)
    tls = {"ca_file": str(authority.file)}
    with Peer(answering(1), context=authority.issue(HOST).server()) as peer:
        ways = [placed(peer, transport="tls", tls=tls | {"server_name": name}) for name in ("other.test", HOST)]
        with behind(*ways, forward=FORWARD) as (shield, *_):
            assert answerers(ask_each(shield, names(3))) == {1: 3}
            assert set(peer.names) == {"other.test", HOST}
            assert answered(shield) == {f"tls://{peer.address}#other.test": 0, f"tls://{peer.address}#{HOST}": 3}


def test_one_address_is_asked_from_several_of_ours(upstream):
    ways = [placed(upstream, source=f"127.0.0.{last}", order=1) for last in (8, 9)]
    with behind(*ways, forward=FORWARD) as (shield, *_):
        assert answerers(ask_each(shield, names(10))) == {1: 10}
        assert sorted(query.source.host for query in upstream.received) == ["127.0.0.8"] * 5 + ["127.0.0.9"] * 5
        assert answered(shield) == {f"{upstream.address} from 127.0.0.{last}": 5 for last in (8, 9)}


def test_a_reload_knows_each_again_by_what_it_is_called_or_how_it_is_asked(upstream):
    plain, tcp = {}, {"transport": "tcp"}
    with behind(placed(upstream), placed(upstream, transport="tcp", state="down"), forward=FORWARD) as (shield, *_):
        ask_each(shield, names(3))
        reconfigure(shield, [(upstream, tcp), (upstream, plain)], forward=FORWARD)
        ask_each(shield, names(4))
        assert answered(shield) == {f"tcp://{upstream.address}": 4, str(upstream.address): 3}
        reconfigure(shield, [(upstream, plain | {"name": "fast"}), (upstream, tcp | {"name": "sure"})], forward=FORWARD)
        assert answered(shield) == {f"fast ({upstream.address})": 3, f"sure ({upstream.address})": 4}
        reconfigure(shield, [(upstream, plain | {"name": "sure"})], forward=FORWARD)
        assert answered(shield) == {f"sure ({upstream.address})": 4}
        reconfigure(shield, [(upstream, tcp)], forward=FORWARD)
        assert answered(shield) == {f"tcp://{upstream.address}": 4}
        reconfigure(shield, [(upstream, tcp), (upstream, plain)], forward=FORWARD)
        assert answered(shield) == {f"tcp://{upstream.address}": 4, str(upstream.address): 0}
