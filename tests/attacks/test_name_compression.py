"""Know that a message costs about what its octets cost, however its names lead through each other (RFC 1035 4.1.4).

Each name by itself is in order: at most 127 pointers, each further back. All of them together are the attack.
"""

from struct import pack

import pytest
from support import quick
from support.client import tcp_wire, udp_wire
from support.control import stats
from support.proc import busy
from support.process import run_shield
from support.rig import SERVFAIL, behind
from support.upstream import ScriptedUpstream, truncated
from support.wires import reply_wire

from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock

LARGEST = 65535
LADDER = 62  # labels, each behind it a pointer to the one before


def ladder(at, first=12):
    """Return octets to stand at an offset, and where the last name in them starts: its pointers lead through all."""
    octets, leads_to = b"", first
    for _ in range(LADDER):
        start = at + len(octets)
        octets += b"\1a" + pack("!H", 0xC000 | leads_to)
        leads_to = start
    return octets, leads_to


def hopping(asked, size=LARGEST, rdtype=16):
    """Return a response full of records, each of whose names leads through the ladder in the first one's data.

    The type may be one that has a name in its data.
    """
    records = b"\xc0\x0c" + pack("!HHIH", 16, 1, 300, 4 * LADDER)
    octets, last = ladder(len(asked) + len(records))
    records += octets
    owner = pack("!H", 0xC000 | last)
    data = b"" if rdtype == 16 else owner
    count = 1
    while len(asked) + len(records) + 12 + len(data) <= size:
        records += owner + pack("!HHIH", rdtype, 1, 300, len(data)) + data
        count += 1
    return asked[:2] + pack("!5H", 0x8400, 1, count, 0, 0) + asked[12:] + records, count


def real(asked, rdtype, rdata):
    """Return a response as full as can be of records of the name that was asked for."""
    record = b"\xc0\x0c" + pack("!HHIH", rdtype, 1, 300, len(rdata)) + rdata
    count = (LARGEST - len(asked)) // len(record)
    return asked[:2] + pack("!5H", 0x8400, 1, count, 0, 0) + asked[12:] + count * record


def is_kept(asked, response):
    return Cache(1 << 22, Clock()).store(asked, response)


def test_a_name_that_leads_through_many_is_in_order():
    asked = quick.query("www.test")
    response, count = hopping(asked, 600)
    assert count > 10
    assert is_kept(asked, response)


@pytest.mark.parametrize(("rdtype", "names"), [(16, 1), (5, 2)], ids=["owners", "owners and data"])
def test_thousands_of_them_are_too_many_and_where_it_ends_the_length_says(rdtype, names):
    asked = quick.query("www.test")
    kept = [size for size in range(400, 2000, 50) if is_kept(asked, hopping(asked, size, rdtype)[0])]
    steps = [2 * LADDER * names * (hopping(asked, size, rdtype)[1] - 1) for size in kept]
    assert kept, "short ones are let be"
    assert kept == list(range(400, kept[-1] + 1, 50))
    assert all(done <= 4 * size + 4096 for done, size in zip(steps, kept, strict=True)), "so much, and no more, is done"
    assert not is_kept(asked, hopping(asked, rdtype=rdtype)[0])


@pytest.mark.parametrize(
    ("name", "rdtype", "rdata"),
    [
        ("a.b.c.d.e.f.svc.cluster.example.com", 1, bytes(4)),
        (".".join("0123456789abcdef0123456789abcdef") + ".ip6.arpa", 12, b"\x0ehost-192-0-2-1\xc0\x0c"),
        (".".join(["x" * 14] * 16), 28, bytes(16)),
        ("example.com", 2, b"\3ns1\xc0\x0c"),
        ("a.b.c.d.e.f.svc.cluster.example.com", 33, bytes(6) + b"\2s1\xc0\x0c"),
    ],
    ids=["addresses of a long name", "PTR of IPv6", "a name as long as can be", "servers", "services"],
)
def test_the_largest_real_ones_are_kept(name, rdtype, rdata):
    asked = quick.query(name, rdtype)
    assert is_kept(asked, real(asked, rdtype, rdata))


def test_what_costs_too_much_is_passed_on_as_it_came():
    made = []

    def handle(query):
        if query.transport == "udp":
            return truncated(query)
        made.append(hopping(query.wire)[0])
        return made[-1]

    with ScriptedUpstream(handle) as upstream, run_shield([upstream]) as shield:
        for times in 1, 2:
            asked = quick.query("www.test", ident=times)
            assert shield.tcp_wire(asked)[12:] == made[-1][12:]
            assert upstream.count(transport="tcp") == times
        assert stats(shield)["cache_entries"] == 0


# ------------------------------------------------------------ where Python reads the message

DEEP = 100  # labels of a name
ZONE = "$ORIGIN zone.test.\n@ 60 SOA ns . 1 2 3 4 5\n@ 60 NS ns\nns 60 A 192.0.2.1\n"
ACTIONS = {
    "zone": {"zone": ZONE},
    "answer": {"answer": "A 192.0.2.1"},
    "rename": {"rename": {"old": "rename.test", "new": "other.test"}},
    "added": {"add_option": {"code": 65001}},
    "removed": {"remove_option": 65001},
}
FUNCTIONS = """
from funkenshield.rules import *

@shield.rule(suffix("reads.test"))
async def reads(query):
    return query.message and None

@shield.rule(suffix("asks.test"))
async def asks(query):
    return await query.resolve()

@shield.rule(suffix("looks.test"), chain="responses")
async def looks(query):
    return query.response
"""


def deep(asked, size):
    """Return a message full of NS records, each of a name that leads on to another one of many labels."""
    long = DEEP * b"\1x" + b"\xc0\x0c"
    records, count = b"\xc0\x0c" + pack("!HHIH", 2, 1, 300, len(long)) + long, 1
    name = pack("!H", 0xC000 | len(asked) + 12)
    while len(asked) + len(records) + 17 <= size:
        records += b"\xc0\x0c" + pack("!HHIHB2s", 2, 1, 300, 5, 2, pack("!H", count)) + name
        count += 1
    return asked[:6] + pack("!3H", count, 0, 0) + asked[12:] + records


def costly(query):
    """Answer with a response that is as long as can be."""
    return truncated(query) if query.transport == "udp" else deep(reply_wire(query, counts=(0, 0, 0)), LARGEST)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A shield with rules that read queries and responses in Python."""
    functions = tmp_path_factory.mktemp("rules") / "functions.py"
    functions.write_text(FUNCTIONS)
    rules = [{"match": {"suffix": f"{name}.test"}, "action": does} for name, does in ACTIONS.items()]
    with behind(costly, rules=rules, rules_file=str(functions)) as (shield, _):
        yield shield


@pytest.mark.parametrize("size", [512, 1232, 4096, LARGEST])
@pytest.mark.parametrize("rule", [*ACTIONS, "reads"])
def test_a_query_that_python_reads_costs_little_whatever_it_is_full_of(stage, rule, size):
    before = busy(stage.process)
    for n in range(4):
        send = tcp_wire if size == LARGEST else udp_wire
        assert send(stage, deep(quick.query(f"q{n}.{rule}.test", 1, ident=size), size))[:2] == pack("!H", size)
    assert (busy(stage.process) - before) / 4 < 0.05


@pytest.mark.parametrize("rule", ["rename", "added", "asks", "looks"])
def test_a_response_that_python_reads_costs_what_its_octets_cost(stage, rule):
    before = busy(stage.process)
    assert udp_wire(stage, quick.query(f"r.{rule}.test", 1))[3] & 15 == SERVFAIL
    assert busy(stage.process) - before < 0.5
