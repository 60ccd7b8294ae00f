"""Each action at the wire: what the client gets, what the upstream receives, and how many times."""

import socket
import time

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from support.client import frame
from support.rig import SILENCE, answering, ask, asked, behind, data, placed, rcode, received
from support.until import until
from support.upstream import ScriptedUpstream, answer

ZONE = """$ORIGIN zone.test.
@ 300 SOA ns hostmaster 1 3600 600 86400 300
@ 300 NS ns
ns 300 A 192.0.2.53
www 300 A 192.0.2.7
*.wild 300 A 192.0.2.8
"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A shield with a rule for each action, the upstream, one more in another group, and a server for copies."""
    zone_file = tmp_path_factory.mktemp("zones") / "zone"
    zone_file.write_text(ZONE.replace("zone.test", "file.test"))
    functions = tmp_path_factory.mktemp("rules") / "functions.py"
    functions.write_text("def hello(query):\n    return query.respond(f'TXT {query.source}')\n")
    with ScriptedUpstream(answering("192.0.2.66")) as copies:
        actions = {
            "pass": "allow",
            "forward": {"forward": "other"},
            "answer": {"answer": ["A 192.0.2.9", "30 A 192.0.2.10", 'TXT "two words"']},
            "zone": {"zone": ZONE},
            "file": {"zone_file": str(zone_file)},
            "nxdomain": "nxdomain",
            "nodata": "nodata",
            "refused": "refused",
            "servfail": "servfail",
            "drop": "drop",
            "truncate": "truncate",
            "call": {"call": f"{functions}:hello"},
            "uncached": "skip_cache",
            "shorter": {"ttl": {"max": 60}},
            "longer": {"ttl": {"min": 900}},
            "strip": {"remove_option": [65001, 65002]},
            "add": {"add_option": {"code": 65003, "data": "c0ffee"}},
            "rename": {"rename": {"old": "rename.test", "new": "deep.example.net"}},
            "delay": {"delay": 0.3},
            "tee": {"tee": "{}:{}".format(*copies.address)},
            "log": {"log": "{source} asks {qname} {qtype} {qclass} over {transport} [{tags}]"},
            "continue": "continue",
        }
        rules = [
            {"name": "tagger", "match": {"suffix": "log.test"}, "action": {"tag": "told"}},
            *({"name": name, "match": {"suffix": f"{name}.test"}, "action": does} for name, does in actions.items()),
            {"name": "last", "match": {"suffix": "continue.test"}, "action": "refused"},
        ]
        other = placed(answering("192.0.2.2"), groups=["other"])
        with behind(answering("192.0.2.1"), other, rules=rules) as (shield, upstream, beside):
            yield shield, upstream, beside, copies


def test_pass_decides_and_changes_nothing(stage):
    shield, upstream, _, _ = stage
    assert [data(ask(shield, "x.pass.test")) for _ in range(2)] == [["192.0.2.1"]] * 2
    assert received(upstream)["x.pass.test."] == 1


def test_forward_asks_a_group_and_keeps_its_answers(stage):
    shield, upstream, beside, _ = stage
    assert [data(ask(shield, "x.forward.test")) for _ in range(2)] == [["192.0.2.2"]] * 2
    assert (received(upstream)["x.forward.test."], received(beside)["x.forward.test."]) == (0, 1)


def test_answer(stage):
    shield, upstream, _, _ = stage
    first = ask(shield, "x.answer.test")
    assert data(first) == ["192.0.2.10", "192.0.2.9"]
    assert data(ask(shield, asked("X.answer.test", "TXT"), tcp=True)) == ['"two words"']
    nothing = ask(shield, asked("x.answer.test", "MX"))
    assert (rcode(nothing), data(nothing), nothing.authority[0].rdtype) == ("NOERROR", [], 6)
    assert not received(upstream)["x.answer.test."]
    assert ask(shield, "x.answer.test").answer[0].name.to_text() == "x.answer.test."


def test_answers_are_kept(stage):
    shield = stage[0]
    ask(shield, "kept.answer.test")
    before = shield.stats()["rules"]["answer"]["handler_calls"]
    assert all(data(ask(shield, "kept.answer.test")) for _ in range(3))
    assert shield.stats()["rules"]["answer"]["handler_calls"] == before


@pytest.mark.parametrize("zone", ["zone", "file"])
def test_a_zone(stage, zone):
    shield, upstream, _, _ = stage
    for _ in range(2):
        assert data(ask(shield, f"www.{zone}.test")) == ["192.0.2.7"]
        assert data(ask(shield, f"any.wild.{zone}.test")) == ["192.0.2.8"]
        assert rcode(ask(shield, f"no.{zone}.test")) == "NXDOMAIN"
        assert data(ask(shield, asked(f"www.{zone}.test", "MX"))) == []
    assert not [name for name in received(upstream) if name.endswith(f"{zone}.test.")]


@pytest.mark.parametrize("tcp", [False, True], ids=["UDP", "TCP"])
@pytest.mark.parametrize("rdtype", ["AXFR", "IXFR"])
@pytest.mark.parametrize("zone", ["zone", "file"])
def test_a_zone_gives_itself_to_nobody(stage, zone, rdtype, tcp):
    shield, upstream, *_ = stage
    reply = ask(shield, asked(f"{zone}.test", rdtype, edns=0), tcp=tcp)
    assert (rcode(reply), data(reply), reply.authority) == ("REFUSED", [], [])
    assert not received(upstream)[f"{zone}.test."]


@pytest.mark.parametrize("does", ["nxdomain", "refused", "servfail"])
@pytest.mark.parametrize("tcp", [False, True])
def test_an_error(stage, does, tcp):
    shield, upstream, _, _ = stage
    response = ask(shield, asked(f"X.{does}.test", edns=True), tcp=tcp)
    assert rcode(response) == does.upper()
    assert response.edns == 0
    assert response.question[0].name.to_text() == f"X.{does}.test."
    assert not received(upstream)[f"x.{does}.test."]


def test_nodata(stage):
    response = ask(stage[0], "x.nodata.test")
    assert (rcode(response), response.answer) == ("NOERROR", [])


def test_drop(stage):
    shield, upstream, _, _ = stage
    assert ask(shield, "x.drop.test", timeout=SILENCE) is None
    assert not received(upstream)["x.drop.test."]


def test_a_drop_leaves_the_connection_that_it_came_by(stage):
    shield = stage[0]
    wires = [asked(name).to_wire() for name in ("a.drop.test", "b.call.test", "c.drop.test", "d.pass.test")]
    with socket.create_connection(shield.address, 3) as opened, opened.makefile("rb") as stream:
        opened.sendall(b"".join(map(frame, wires)))
        ids = set()
        for _ in range(2):
            message = stream.read(int.from_bytes(stream.read(2)))
            ids.add(message[:2])
        assert ids == {wires[1][:2], wires[3][:2]}
        opened.shutdown(socket.SHUT_WR)  # nothing is owed any more, so the shield closes too
        assert stream.read() == b""


def test_truncate_sends_clients_to_tcp(stage):
    shield, upstream, _, _ = stage
    response = ask(shield, asked("x.truncate.test", edns=True))
    assert response.flags & dns.flags.TC
    assert (response.answer, response.edns) == ([], 0)
    assert data(ask(shield, "x.truncate.test", tcp=True)) == ["192.0.2.1"]
    assert received(upstream)["x.truncate.test."] == 1


def test_call(stage):
    shield, upstream, _, _ = stage
    assert data(ask(shield, asked("x.call.test", "TXT"), source="127.0.0.44")) == ['"127.0.0.44"']
    assert data(ask(shield, asked("x.call.test", "TXT"), source="127.0.0.45", tcp=True)) == ['"127.0.0.45"']
    assert not received(upstream)["x.call.test."]


def test_uncached_asks_each_time(stage):
    shield, upstream, _, _ = stage
    assert [data(ask(shield, "x.uncached.test", tcp=tcp)) for tcp in (False, False, True)] == [["192.0.2.1"]] * 3
    assert received(upstream)["x.uncached.test."] == 3


def test_ttls_within_bounds(stage):
    shield, upstream, _, _ = stage
    for _ in range(2):
        assert ask(shield, "x.shorter.test").answer[0].ttl in (59, 60)
        assert ask(shield, "x.longer.test").answer[0].ttl in (899, 900)
    assert received(upstream)["x.shorter.test."] == received(upstream)["x.longer.test."] == 1


def options_of(query):
    return {int(option.otype): option.to_wire() for option in query.message.options}


def test_remove_option(stage):
    shield, upstream, _, _ = stage
    for _ in range(2):
        response = ask(shield, asked("x.strip.test", options=[(65001, b"secret")]))
        assert (data(response), response.edns) == (["192.0.2.1"], 0)
    (query,) = [each for each in upstream.received if each.name.to_text() == "x.strip.test."]
    assert options_of(query) == {}


def test_add_option(stage):
    shield, upstream, _, _ = stage
    response = ask(shield, "x.add.test")
    assert (data(response), response.edns) == (["192.0.2.1"], -1)
    (query,) = [each for each in upstream.received if each.name.to_text() == "x.add.test."]
    assert options_of(query) == {65003: b"\xc0\xff\xee"}


def test_rename_there_and_back(stage):
    shield, upstream, _, _ = stage
    for tcp in (False, True):
        response = ask(shield, "Www.rename.test", tcp=tcp)
        assert response.question[0].name.to_text() == "Www.rename.test."
        assert response.answer[0].name.to_text().lower() == "www.rename.test."
        assert data(response) == ["192.0.2.1"]
    assert received(upstream)["www.deep.example.net."] == 1
    assert not received(upstream)["www.rename.test."]


def test_a_name_that_becomes_too_long_is_not_asked_for(stage):
    """Nor is the rule left out, and the name asked for that it should have replaced."""
    shield, upstream, _, _ = stage
    name = ".".join(["x" * 63] * 3 + ["x" * 45, "rename.test"])
    assert rcode(ask(shield, name)) == "SERVFAIL"
    assert not [asked for asked in received(upstream) if asked.startswith("xxx")]


def test_delay(stage):
    shield = stage[0]
    for _ in range(2):
        begun = time.monotonic()
        assert data(ask(shield, "x.delay.test")) == ["192.0.2.1"]
        assert time.monotonic() - begun >= 0.3


def test_tee(stage):
    shield, upstream, _, copies = stage
    assert [data(ask(shield, "x.tee.test")) for _ in range(2)] == [["192.0.2.1"]] * 2
    copies.wait_for(2)
    assert received(copies)["x.tee.test."] == 2
    assert received(upstream)["x.tee.test."] == 1


def test_log(stage):
    shield = stage[0]
    assert data(ask(shield, "X.log.test", source="127.0.0.77")) == ["192.0.2.1"]
    until(lambda: "127.0.0.77 asks X.log.test. A IN over udp [told]" in shield.log)


def test_continue_is_counted_and_goes_on(stage):
    shield = stage[0]
    assert rcode(ask(shield, "x.continue.test")) == "REFUSED"
    rules = shield.stats()["rules"]
    assert (rules["continue"]["matches"], rules["last"]["matches"]) == (1, 1)


# ------------------------------------------------------------ what is never mixed


def test_courses_are_kept_apart():
    rules = [
        {"match": {"source": "127.0.0.2"}, "action": {"forward": "other"}},
        {"match": {"source": "127.0.0.3"}, "action": {"ttl": {"max": 7}}},
        {"match": {"source": "127.0.0.4"}, "action": {"answer": ["A 192.0.2.4"]}},
    ]
    other = placed(answering("192.0.2.2"), groups=["other"])
    with behind(answering("192.0.2.1"), other, rules=rules) as (shield, upstream, beside):
        for _ in range(3):
            got = [ask(shield, "x.test", source=f"127.0.0.{n}") for n in (1, 2, 3, 4)]
            assert [data(each) for each in got] == [["192.0.2.1"], ["192.0.2.2"], ["192.0.2.1"], ["192.0.2.4"]]
            assert got[0].answer[0].ttl > 200
            assert got[2].answer[0].ttl <= 7
        assert (received(upstream)["x.test."], received(beside)["x.test."]) == (2, 1)


# ------------------------------------------------------------ responses and answers


def of_kind(query):
    """Answer REFUSED, NXDOMAIN, or an address, as the first label says."""
    label = query.name.labels[0].decode().lower()
    if label in ("refused", "nxdomain"):
        response = dns.message.make_response(query.message)
        response.set_rcode(dns.rcode.from_text(label))
        response.authority.append(dns.rrset.from_text("test.", 300, "IN", "SOA", ". . 1 2 3 4 300"))
        return response
    return answer(query, "A 192.0.2.1")


def test_rules_of_responses(tmp_path):
    functions = tmp_path / "functions.py"
    functions.write_text(
        "def change(query):\n"
        "    response = query.response\n"
        "    response.answer[0].ttl = 11\n"
        "    return response\n"
        "def fail(query):\n"
        "    raise RuntimeError('no')\n"
    )
    rules = [
        {"match": {"suffix": "moved.test", "rcode": ["REFUSED", "NXDOMAIN"]}, "action": {"forward": "other"}},
        {"match": {"suffix": "gone.test"}, "action": "nxdomain"},
        {"match": {"suffix": "short.test"}, "action": {"ttl": {"max": 5}}},
        {"match": {"suffix": "fleeting.test"}, "action": "skip_cache"},
        {"match": {"suffix": "dropped.test"}, "action": "drop"},
        {"match": {"suffix": "changed.test"}, "action": {"call": f"{functions}:change"}},
        {"match": {"suffix": "failed.test"}, "action": {"call": f"{functions}:fail"}, "on_error": "refused"},
        {"match": {"suffix": "told.test"}, "action": {"log": "{qname} is {rcode}"}},
    ]
    rules = [{"chain": "responses", "name": rule["match"]["suffix"], **rule} for rule in rules]
    other = placed(answering("192.0.2.2"), groups=["other"])
    with behind(of_kind, other, rules=rules) as (shield, upstream, beside):
        assert [data(ask(shield, "refused.moved.test")) for _ in range(2)] == [["192.0.2.2"]] * 2
        assert data(ask(shield, "nxdomain.moved.test")) == ["192.0.2.2"]
        assert data(ask(shield, "x.moved.test")) == ["192.0.2.1"]
        assert received(beside) == {"refused.moved.test.": 1, "nxdomain.moved.test.": 1}
        assert rcode(ask(shield, "x.gone.test")) == "NXDOMAIN"
        assert [ask(shield, "x.short.test").answer[0].ttl <= 5 for _ in range(2)] == [True, True]
        assert [data(ask(shield, "x.fleeting.test")) for _ in range(2)] == [["192.0.2.1"]] * 2
        assert received(upstream)["x.fleeting.test."] == 2
        assert rcode(ask(shield, "x.dropped.test")) == "SERVFAIL"
        for _ in range(2):
            assert ask(shield, "x.changed.test").answer[0].ttl in (10, 11)
        assert received(upstream)["x.changed.test."] == 1
        assert rcode(ask(shield, "x.failed.test")) == "REFUSED"
        assert rcode(ask(shield, "nxdomain.told.test")) == "NXDOMAIN"
        until(lambda: "nxdomain.told.test. is NXDOMAIN" in shield.log)


def test_a_dropped_response_is_asked_for_elsewhere():
    rules = [{"chain": "responses", "match": {"rcode": "NXDOMAIN"}, "action": "drop"}]
    with behind(of_kind, answering("192.0.2.2"), rules=rules, forward={"policy": "order"}) as (shield, first, second):
        assert data(ask(shield, "nxdomain.test")) == ["192.0.2.2"]
        assert (received(first)["nxdomain.test."], received(second)["nxdomain.test."]) == (1, 1)


def test_rules_of_answers_from_the_cache(tmp_path):
    functions = tmp_path / "functions.py"
    functions.write_text(
        "async def older(query):\n"
        "    response = await query.resolve()\n"
        "    response.answer[0].ttl = 3\n"
        "    return response\n"
    )
    rules = [
        {"match": {"suffix": "refused.test"}, "action": "refused"},
        {"match": {"suffix": "dropped.test"}, "action": "drop"},
        {"match": {"suffix": "cut.test"}, "action": "truncate"},
        {"match": {"suffix": "older.test"}, "action": {"call": f"{functions}:older"}},
        {"match": {"suffix": "told.test"}, "action": {"log": "{qname} again"}},
    ]
    rules = [{"chain": "cache-hits", "name": rule["match"]["suffix"], **rule} for rule in rules]
    with behind(answering("192.0.2.1"), rules=rules) as (shield, upstream):
        names = ["refused.test", "dropped.test", "cut.test", "older.test", "told.test"]
        assert [rcode(ask(shield, name)) for name in names] == ["NOERROR"] * 5
        assert rcode(ask(shield, "refused.test")) == "REFUSED"
        assert ask(shield, "dropped.test", timeout=SILENCE) is None
        assert ask(shield, "cut.test").flags & dns.flags.TC
        assert data(ask(shield, "cut.test", tcp=True)) == ["192.0.2.1"]
        assert ask(shield, "older.test").answer[0].ttl == 3
        assert data(ask(shield, "told.test")) == ["192.0.2.1"]
        until(lambda: "told.test. again" in shield.log)
        assert received(upstream) == {f"{name}.": 1 for name in names}


# ------------------------------------------------------------ what is never cached


def test_special_queries_meet_rules_too(tmp_path):
    functions = tmp_path / "functions.py"
    functions.write_text("def ok(query):\n    return query.respond()\n")
    rules = [
        {"match": {"opcode": "UPDATE"}, "action": "refused"},
        {"match": {"qtype": "AXFR"}, "action": "refused"},
        {"match": {"opcode": "NOTIFY", "suffix": "dropped.test"}, "action": "drop"},
        {"match": {"opcode": "NOTIFY", "suffix": "called.test"}, "action": {"call": f"{functions}:ok"}},
        {"match": {"opcode": "NOTIFY"}, "action": {"forward": "other"}},
        {"match": {"suffix": "kept.test"}, "action": {"call": f"{functions}:ok"}, "cache": True},
    ]
    other = placed(answering("192.0.2.2"), groups=["other"])
    allow = {"allow": {"notifies": ["127.0.0.0/8"]}}
    with behind(answering("192.0.2.1"), other, rules=rules, forward=allow) as (shield, upstream, beside):
        assert rcode(ask(shield, asked("test", "SOA", opcode="UPDATE"))) == "REFUSED"
        assert rcode(ask(shield, asked("test", "AXFR"), tcp=True)) == "REFUSED"
        assert ask(shield, asked("dropped.test", "SOA", opcode="NOTIFY"), timeout=SILENCE) is None
        assert rcode(ask(shield, asked("called.test", "SOA", opcode="NOTIFY"))) == "NOERROR"
        assert not upstream.received
        assert not beside.received
        assert rcode(ask(shield, asked("x.test", "SOA", opcode="NOTIFY"))) == "NOERROR"
        assert received(beside) == {"x.test.": 1}
        for _ in range(2):
            assert rcode(ask(shield, asked("kept.test", options=[(65001, b"")]))) == "NOERROR"
        assert shield.stats()["rules"]["rule 6"]["handler_calls"] == 2
        assert not upstream.received
