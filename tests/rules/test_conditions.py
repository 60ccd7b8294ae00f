"""Each condition at the wire: the real process refuses what it is true of, and nothing else."""

import time

import dns.message
import dns.rrset
import pytest
from support.client import free_port
from support.edns import SUBNET, subnet
from support.process import run_shield
from support.rig import answering, ask, asked, behind, rcode, toml
from support.upstream import ScriptedUpstream

NOW = time.localtime()
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def clock(hours):
    """Return the local time of day in so many hours, as a rule says it."""
    return f"{(NOW.tm_hour + hours) % 24:02}:00"


# What a rule asks, besides that the name is below its own; a question that it is true of, and one that it is not.
# A question is (label before the rule's name, how it is asked).
CONDITIONS = {
    "suffix": ({"suffix": ["s.suffix.test"]}, ("a.b.S", {}), ("as", {})),
    "name": ({"name": "n.name.test"}, ("n", {}), ("a.n", {})),
    "regex": ({"regex": "^ad[0-9]+\\."}, ("AD12", {}), ("add", {})),
    "qtype": ({"qtype": ["AAAA", "TXT"]}, ("x", {"rdtype": "TXT"}), ("x", {"rdtype": "A"})),
    "qclass": ({"qclass": "CH"}, ("x", {"rdclass": "CH"}), ("x", {})),
    "opcode": (
        {"opcode": ["NOTIFY", "UPDATE"]},
        ("x", {"opcode": "NOTIFY", "rdtype": "SOA"}),
        ("x", {"rdtype": "SOA"}),
    ),
    "flags": ({"flags": ["RD", "CD"]}, ("x", {"flags": "RD CD"}), ("x", {"flags": "CD"})),
    "edns": ({"edns": True}, ("x", {"edns": True}), ("x", {})),
    "no_edns": ({"edns": False}, ("x", {}), ("x", {"edns": True})),
    "do": ({"do": True}, ("x", {"do": True}), ("x", {"edns": True})),
    "option": ({"option": ["NSID", 65001]}, ("x", {"options": [(65001, b"a")]}), ("x", {"options": [(65002, b"a")]})),
    "source": ({"source": ["127.0.1.0/24"]}, ("x", {"source": "127.0.1.9"}), ("x", {"source": "127.0.2.9"})),
    "nested": (
        {"source": ["127.1.0.0/16"], "not": {"source": "127.1.2.0/24"}},
        ("x", {"source": "127.1.3.1"}),
        ("x", {"source": "127.1.2.1"}),
    ),
    "udp": ({"transport": "udp"}, ("x", {}), ("x", {"tcp": True})),
    "tcp": ({"transport": "tcp"}, ("x", {"tcp": True}), ("x", {})),
    "time": ({"time": f"{clock(-1)}-{clock(2)}"}, ("x", {}), None),
    "another_time": ({"time": f"{clock(3)}-{clock(5)}"}, None, ("x", {})),
    "days": ({"days": list(DAYS)}, ("x", {}), None),
    "another_day": ({"days": [DAYS[(NOW.tm_wday + 3) % 7]]}, None, ("x", {})),
    "always": ({"probability": 1.0}, ("x", {}), None),
    "never": ({"probability": 0.0}, None, ("x", {})),
    "all_addresses": ({"source_ratio": 1.0}, ("x", {}), None),
    "no_address": ({"source_ratio": 0.0}, None, ("x", {})),
    "all": ({"all": [{"qtype": "A"}, {"edns": True}]}, ("x", {"edns": True}), ("x", {})),
    "any": ({"any": [{"qtype": "TXT"}, {"edns": True}]}, ("x", {"edns": True}), ("x", {})),
    "not": ({"not": {"qtype": "A"}}, ("x", {"rdtype": "MX"}), ("x", {})),
}


@pytest.fixture(scope="module")
def shield(tmp_path_factory):
    names = tmp_path_factory.mktemp("names") / "blocked.txt"
    names.write_text("# a list\nbad.file.test\n0.0.0.0 worse.file.test  # as in a file of hosts\n*.worst.file.test\n")
    rules = [
        {"name": name, "match": {"all": [{"suffix": f"{name}.test"}, match]}, "action": "refused"}
        for name, (match, _, _) in CONDITIONS.items()
    ]
    rules += [
        {"match": {"suffix_file": str(names)}, "action": "nxdomain"},
        {"match": {"suffix": "tagged.test", "qtype": "A"}, "action": {"tag": "seen"}},
        {"match": {"tag": "seen"}, "action": "refused"},
        {"match": {"suffix": "rate.test", "rate": {"limit": 0.01, "window": 300.0}}, "action": "refused"},
        {
            "match": {"suffix": "prefix.test", "rate": {"limit": 0.01, "window": 200.0, "ipv4_prefix_length": 24}},
            "action": "refused",
        },
        {"match": {"suffix": "per.test", "rate": {"limit": 0.01, "window": 100.0, "per": "name"}}, "action": "refused"},
    ]
    with behind(answering("192.0.2.1"), rules=rules) as (running, _):
        yield running


def met(shield, name, question):
    """Return the RCODE of a question about a name below a rule's own."""
    label, how = question
    how = dict(how)
    on_the_way = {key: how.pop(key) for key in ("source", "tcp") if key in how}
    return rcode(ask(shield, asked(f"{label}.{name}.test", **how), **on_the_way))


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition(shield, name):
    _, true, false = CONDITIONS[name]
    assert true is None or met(shield, name, true) == "REFUSED"
    assert false is None or met(shield, name, false) == "NOERROR"


@pytest.mark.parametrize("name", ["bad.file.test", "www.BAD.file.test", "worse.file.test", "x.worst.file.test"])
def test_names_in_a_file(shield, name):
    assert rcode(ask(shield, name)) == "NXDOMAIN"


def test_a_name_that_only_looks_like_one_in_the_file(shield):
    assert rcode(ask(shield, "notbad.file.test")) == "NOERROR"


def test_a_tag_is_seen_by_rules_behind(shield):
    assert rcode(ask(shield, "x.tagged.test")) == "REFUSED"
    assert rcode(ask(shield, asked("x.tagged.test", "TXT"))) == "NOERROR"


def test_a_rate_counts_each_source(shield):
    assert [rcode(ask(shield, "x.rate.test", source="127.0.0.5")) for _ in range(4)] == ["NOERROR"] * 3 + ["REFUSED"]
    assert rcode(ask(shield, "x.rate.test", source="127.0.0.6")) == "NOERROR"


def test_a_rate_counts_each_prefix(shield):
    assert [rcode(ask(shield, "x.prefix.test", source=f"127.0.7.{last}")) for last in (1, 2, 3)] == [
        "NOERROR",
        "NOERROR",
        "REFUSED",
    ]
    assert rcode(ask(shield, "x.prefix.test", source="127.0.8.1")) == "NOERROR"


def test_a_rate_counts_each_name(shield):
    assert [rcode(ask(shield, f"{label}.per.test")) for label in "aabB"] == ["NOERROR", "REFUSED", "NOERROR", "REFUSED"]


def test_a_share_is_always_the_same_addresses():
    rules = [{"match": {"source_ratio": 0.25}, "action": "refused"}]
    with behind(answering("192.0.2.1"), rules=rules) as (shield, _):
        sources = [f"127.9.{n // 20}.{n % 20 + 1}" for n in range(200)]
        first = [rcode(ask(shield, "x.test", source=source)) for source in sources]
        assert 25 <= first.count("REFUSED") <= 80
        assert [rcode(ask(shield, "x.test", source=source)) for source in sources] == first


def test_a_listener():
    places = [("127.0.0.1", free_port()), ("127.0.0.1", free_port())]
    rules = [{"match": {"listener": f"127.0.0.1:{places[1][1]}"}, "action": "refused"}]
    with (
        ScriptedUpstream(answering("192.0.2.1")) as upstream,
        run_shield([upstream], listen=places, toml=toml(rules=rules)) as shield,
    ):
        for tcp in (False, True):
            assert [rcode(ask(address, "x.test", tcp=tcp)) for address in shield.addresses] == ["NOERROR", "REFUSED"]


def test_the_rcode_of_responses_and_of_answers_from_the_cache():
    rules = [
        {"chain": "responses", "match": {"suffix": "r.test", "rcode": "NXDOMAIN"}, "action": "refused"},
        {"chain": "cache-hits", "match": {"suffix": "a.test", "rcode": "NXDOMAIN"}, "action": "refused"},
        {"chain": "cache-hits", "match": {"suffix": "a.test", "flags": "AA", "rcode": "NOERROR"}, "action": "servfail"},
    ]

    def upstream(query):
        response = dns.message.make_response(query.message)
        response.set_rcode(3 if query.name.labels[0] == b"no" else 0)
        response.flags |= 0x0400
        response.authority.append(dns.rrset.from_text("test.", 300, "IN", "SOA", ". . 1 2 3 4 300"))
        return response

    with behind(upstream, rules=rules) as (shield, _):
        assert [rcode(ask(shield, "no.r.test")), rcode(ask(shield, "yes.r.test"))] == ["REFUSED", "NOERROR"]
        assert [rcode(ask(shield, "no.a.test")) for _ in range(2)] == ["NXDOMAIN", "REFUSED"]
        assert [rcode(ask(shield, "yes.a.test")) for _ in range(2)] == ["NOERROR", "SERVFAIL"]


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("chain", ["queries", "responses", "cache-hits"])
def test_a_subnet_that_the_shield_added_is_no_option_of_the_clients(chain, tcp):
    rules = [{"chain": chain, "match": {"option": SUBNET}, "action": "refused"}]
    client_subnet = {"add": True, "private": True, "ipv4_prefix_length": 24}
    own = [(SUBNET, subnet("127.0.0.0", 24)[4:])]
    with behind(answering("192.0.2.1"), rules=rules, client_subnet=client_subnet) as (shield, upstream):
        for edns in (True, False, True):  # the first from the upstream, the others from the cache
            assert rcode(ask(shield, asked("a.test", edns=edns), tcp=tcp)) == "NOERROR"
        (came,) = upstream.received
        assert [(each.otype, each.to_wire()) for each in came.message.options] == own
        ask(shield, asked("b.test", options=own), tcp=tcp)
        assert rcode(ask(shield, asked("b.test", options=own), tcp=tcp)) == "REFUSED"
