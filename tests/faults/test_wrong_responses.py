"""Know that nobody but the upstream that was asked answers a client, whatever comes, and that what comes is counted.

Each lie carries 192.0.2.66; the truth is 192.0.2.1, and it may still come after any lie.
"""

import contextlib
import socket

import pytest
from support.client import ask
from support.rig import (
    DEADLINE,
    HASTY,
    SERVFAIL,
    SOON,
    WithoutTcp,
    after,
    answerers,
    ask_each,
    at_once,
    behind,
    counters,
    good,
    names,
    numbered,
    placed,
    rcodes,
    received,
)
from support.stopwatch import Stopwatch
from support.until import until
from support.upstream import Delayed, truncated
from support.wires import ask_wire, record_wire, reply_wire

LIE, TRUTH = 66, 1
lie = numbered(LIE)
held_not = numbered(TRUTH, ttl=0)


def end_of_name(query):
    """Return where the question's type begins."""
    return 12 + len(query.name.to_wire())


def altered(at, octets):
    """Return a script of a lie that has other octets in one place; `at` may follow from the query."""

    def script(query):
        wire = lie(query)
        where = at(query) if callable(at) else at
        return wire[:where] + octets + wire[where + len(octets) :]

    return script


def wrong_id(query):
    wire = lie(query)
    return bytes([wire[0] ^ 0x55, wire[1] ^ 0xAA]) + wire[2:]


def no_question(query):
    wire = lie(query)
    return wire[:4] + b"\0\0" + wire[6:12] + wire[end_of_name(query) + 4 :]


def two_questions(query):
    wire = lie(query)
    end = end_of_name(query) + 4
    return wire[:4] + b"\0\2" + wire[6:end] + wire[12:end] + wire[end:]


LIES = {
    "wrong ID": wrong_id,
    "wrong name": altered(13, b"X"),
    "shorter name": lambda query: lie(query)[:12] + lie(query)[12 + 1 + query.wire[12] :],
    "wrong type": altered(end_of_name, b"\0\x1c"),
    "wrong class": altered(lambda query: end_of_name(query) + 2, b"\0\3"),
    "QR=0": altered(2, b"\1"),
    "wrong opcode": altered(2, b"\xa5"),
    "two questions": two_questions,
    "the query itself": lambda query: query.wire,
    "garbage": lambda query: bytes(range(1, 200)),
    "the ID and garbage": lambda query: query.wire[:2] + b"\xff" * 60,
    "half a header": lambda query: lie(query)[:6],
    "half a question": lambda query: lie(query)[:15],
}


def liar(*lies, truth=good):
    """Return a script that tells each lie, and the truth a little later."""
    return lambda query: [*(tell(query) for tell in lies), Delayed(0.05, truth(query))]


@pytest.fixture(scope="module")
def running():
    """Each lie is by itself here: what many bring about is `attacks/test_spoofing.py`'s."""
    with behind(good, forward={"spoof_threshold": 0}) as stage:
        yield stage


@pytest.fixture
def shield(running):
    return running[0]


@pytest.fixture
def upstream(running):
    running[1].handle = good
    running[1].received.clear()
    return running[1]


# ------------------------------------------------------------ one lie


@pytest.mark.parametrize("tell", LIES.values(), ids=LIES)
def test_the_truth_is_waited_for_and_the_lie_is_counted(upstream, shield, tell):
    upstream.handle = liar(tell)
    before = counters(shield, upstream)["unexpected_replies"]
    asked = names(3)
    for _ in "cold", "warm":
        assert answerers(ask_each(shield, asked)) == {TRUTH: 3}
    assert received(upstream) == dict.fromkeys(asked, 1)
    assert counters(shield, upstream)["unexpected_replies"] == before + 3


def test_all_lies_at_once_are_no_better(upstream, shield):
    upstream.handle = liar(*LIES.values())
    (name,) = names(1)
    before = counters(shield, upstream)["unexpected_replies"]
    assert answerers(ask_each(shield, [name])) == {TRUTH: 1}
    assert counters(shield, upstream)["unexpected_replies"] == before + len(LIES)


def test_the_answer_to_another_outstanding_query_is_no_answer():
    """Two queries wait at one upstream, and it sends each the answer of the other, and the right one later."""
    asked = []

    def crossed(query):
        asked.append(query)
        if len(asked) != 2:
            return Delayed(0.2, good(query))
        lies = [lie(one)[:2] + lie(other)[2:] for one, other in (asked, asked[::-1])]
        return [*lies, Delayed(0.1, good(query))]

    with behind(crossed, forward={"sockets": 1, "spoof_threshold": 0}) as (shield, upstream):
        assert answerers(ask_each(shield, names(2))) == {TRUTH: 2}
        assert (len(asked), counters(shield, upstream)["unexpected_replies"]) == (2, 2)


def test_nothing_but_lies_is_silence_and_another_is_asked():
    def lying(query):
        return [tell(query) for tell in LIES.values()]

    with behind(lying, good, forward={**SOON, "policy": "order", "spoof_threshold": 0}) as (shield, bad, well):
        asked = names(3)
        assert answerers(ask_each(shield, asked)) == {TRUTH: 3}
        assert received(well) == dict.fromkeys(asked, 1)
        assert counters(shield, bad)["responses"] == 0


def test_nothing_but_lies_from_all_ends_in_servfail_in_time():
    def lying(query):
        return [tell(query) for tell in LIES.values()] if query.transport == "udp" else None

    with behind(lying, forward=HASTY) as (shield, _):
        stopwatch = Stopwatch()
        assert rcodes(ask_each(shield, names(3))) == {SERVFAIL: 3}
        assert stopwatch.seconds() < DEADLINE + 0.7


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"], ids=["another port", "another address"])
def test_what_comes_from_elsewhere_is_nothing(upstream, shield, host):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
        elsewhere.bind((host, 0))

        def script(query):
            elsewhere.sendto(lie(query), query.source)
            return Delayed(0.05, good(query))

        upstream.handle = script
        asked = names(3)
        assert answerers(ask_each(shield, asked)) == {TRUTH: 3}
        assert received(upstream) == dict.fromkeys(asked, 1)


def test_two_answers_are_one_and_the_second_is_counted(upstream, shield):
    upstream.handle = lambda query: [good(query), lie(query), good(query)]
    before = counters(shield, upstream)
    (name,) = names(1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(shield.address)
        sock.settimeout(5)
        sock.send(ask_wire(name, id=9))
        assert sock.recv(512)[-1] == TRUTH
        sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            sock.recv(512)
    assert answerers(ask_each(shield, [name])) == {TRUTH: 1}
    now = counters(shield, upstream)
    assert (now["responses"] - before["responses"], now["unexpected_replies"] - before["unexpected_replies"]) == (1, 2)


def test_what_comes_unasked_is_nothing(upstream, shield):
    (name,) = names(1)
    upstream.handle = lambda query: [*(reply_to(name, ident) for ident in range(200)), good(query)]
    before = counters(shield, upstream)["unexpected_replies"]
    assert answerers(ask_each(shield, names(1))) == {TRUTH: 1}
    until(lambda: counters(shield, upstream)["unexpected_replies"] == before + 200)
    upstream.handle = good
    assert answerers(ask_each(shield, [name])) == {TRUTH: 1}
    assert upstream.count(name, transport="udp") == 1


def reply_to(name, ident):
    """Return a lie about a name that its upstream was not asked for."""
    query = ask_wire(name, id=ident)
    return query[:2] + b"\x84\0" + query[4:6] + b"\0\1\0\0\0\0" + query[12:] + record_wire(1, b"\xc0\0\2\x42")


# ------------------------------------------------------------ floods


def flood(count):
    """Return a script: over UDP so many forged answers, then the truth; over TCP the truth alone."""

    def script(query):
        if query.transport == "tcp":
            return held_not(query)
        forged = [(n ^ int.from_bytes(query.wire[:2]) ^ 0x8000).to_bytes(2) + lie(query)[2:] for n in range(count)]
        return [*forged, Delayed(0.1, held_not(query))]

    return script


def test_an_upstream_whose_answers_are_forged_is_asked_over_tcp_whatever_the_name():
    with behind(flood(30)) as (shield, upstream):
        forged, other = names(2)
        assert answerers(ask_each(shield, [forged])) == {TRUTH: 1}
        assert upstream.count(forged, transport="tcp") == 1
        assert counters(shield, upstream)["unsolicited_replies"] >= 30
        upstream.handle = held_not
        for name, over_tcp in ((other, 1), (forged, 2)):
            assert answerers(ask_each(shield, [name])) == {TRUTH: 1}
            assert upstream.count(name, transport="tcp") == over_tcp


def test_a_right_guess_in_a_flood_is_not_believed():
    def guessing(query):
        if query.transport == "tcp":
            return held_not(query)
        return [*flood(20)(query)[:-1], lie(query)]

    with behind(guessing) as (shield, upstream):
        asked = names(3)
        for _ in range(2):
            assert answerers(ask_each(shield, asked)) == {TRUTH: 3}
        assert [upstream.count(name, transport="tcp") for name in asked] == [2, 2, 2]


def test_where_there_is_no_tcp_a_lie_under_suspicion_is_for_who_waits_and_is_not_kept():
    def guessing(query):
        return [*flood(20)(query)[:-1], lie(query)]

    with WithoutTcp(guessing) as upstream, behind(upstream, forward=HASTY) as (shield, _):
        forged, *others = names(11)
        stopwatch = Stopwatch()
        assert answerers(ask_each(shield, [forged])) == {LIE: 1}
        assert stopwatch.seconds() < DEADLINE + 0.5
        upstream.handle = good
        for _ in range(2):
            assert answerers(ask_each(shield, [forged, *others])) == {TRUTH: 11}
        assert set(received(upstream).values()) <= {2, 3, 4, 5, 6}, "nothing is kept"


def test_few_forgeries_concern_what_waits_at_the_port_that_they_came_to():
    with behind(flood(2)) as (shield, upstream):
        forged, *others = names(21)
        assert answerers(ask_each(shield, [forged])) == {TRUTH: 1}
        upstream.handle = held_not
        assert answerers(ask_each(shield, others)) == {TRUTH: 20}
        assert (upstream.count(forged, transport="tcp"), upstream.count(transport="tcp")) == (1, 1)
        assert received(upstream) == {forged: 2} | dict.fromkeys(others, 1)


def test_where_the_operator_says_never_no_flood_changes_the_transport():
    with behind(flood(30), forward={"spoof_threshold": 0}) as (shield, upstream):
        assert answerers(ask_each(shield, names(5))) == {TRUTH: 5}
        assert upstream.count(transport="tcp") == 0


def test_late_answers_make_nobody_suspect():
    forward = {"timeout": 0.2, "retry_after": 0.05, "deadline": 3.0, "policy": "order"}
    late = after(0.4, held_not)
    with behind(late, held_not, forward=forward, health={"fall": 100, "min_samples": 1000}) as (shield, slow, well):
        asked = names(30)
        assert answerers(ask_each(shield, asked)) == {TRUTH: 30}
        until(lambda: counters(shield, slow)["unexpected_replies"] + counters(shield, slow)["responses"] >= 30)
        slow.handle = held_not
        assert answerers(ask_each(shield, asked)) == {TRUTH: 30}
        assert slow.count(transport="tcp") + well.count(transport="tcp") == 0


# ------------------------------------------------------------ random case


def spelled(query):
    """Return the question's name as it came, its case included."""
    return query.question.name.to_text()


def lowering(query):
    """Answer like a nameserver that knows no case: the question comes back in lower case."""
    wire = held_not(query)
    end = end_of_name(query)
    return wire[:12] + wire[12:end].lower() + wire[end:]


@contextlib.contextmanager
def spelling(script):
    """Run a shield before an upstream for which it spells names at random."""
    with behind(placed(script, random_case=True)) as stage:
        yield stage


def long_names(count):
    return [f"name-with-many-letters.{name}" for name in names(count)]


def test_names_are_spelled_at_random_and_clients_get_their_own_spelling():
    with spelling(held_not) as (shield, upstream):
        asked = long_names(20)
        for name in asked:
            reply = ask(name, server=shield)
            assert (reply.question[0].name.to_text(), reply.answer[0].name.to_text()) == (name, name)
        came = [spelled(query) for query in upstream.received]
        assert [name.lower() for name in came] == asked
        assert sum(name != name.lower() for name in came) == 20
        assert len({name[:22] for name in came}) == 20  # each in another way
        assert upstream.count(transport="tcp") == 0


def test_a_guess_in_the_wrong_case_is_not_believed():
    def guessed_but_for_the_case(query):
        if query.transport == "tcp":
            return held_not(query)
        forged = lie(query)
        return [forged[:12] + forged[12 : end_of_name(query)].swapcase() + forged[end_of_name(query) :]]

    with spelling(guessed_but_for_the_case) as (shield, upstream):
        asked = long_names(5)
        assert answerers(ask_each(shield, asked)) == {TRUTH: 5}
        assert [upstream.count(name, transport="tcp") for name in asked] == [1] * 5


def test_who_lowers_the_case_is_served_all_the_same_and_in_the_end_asked_plainly():
    with spelling(lowering) as (shield, upstream):
        assert answerers(ask_each(shield, long_names(40))) == {TRUTH: 40}
        assert upstream.count(transport="tcp") > 0

        def asked_plainly():
            (name,) = long_names(1)
            assert answerers(ask_each(shield, [name])) == {TRUTH: 1}
            return spelled(upstream.received[-1]) == name and upstream.received[-1].transport == "udp"

        until(asked_plainly)
        before = upstream.count(transport="tcp")
        asked = long_names(20)
        assert answerers(ask_each(shield, asked)) == {TRUTH: 20}
        assert upstream.count(transport="tcp") == before


def test_who_lowers_the_case_and_has_no_tcp_is_served_in_the_end():
    with WithoutTcp(lowering) as upstream, behind(placed(upstream, random_case=True), forward=HASTY) as (shield, _):

        def served():
            return answerers(ask_each(shield, long_names(5))) == {TRUTH: 5}

        until(served)
        assert answerers(ask_each(shield, long_names(20))) == {TRUTH: 20}


def test_what_one_said_in_the_wrong_case_is_not_preferred_to_what_another_has_over_tcp():
    def half(query):
        return held_not(query) if query.transport == "tcp" else truncated(query)

    def lowering_a_lie(query):
        forged = lie(query)
        return [forged[:12] + forged[12 : end_of_name(query)].lower() + forged[end_of_name(query) :]]

    with (
        WithoutTcp(lowering_a_lie) as upstream,
        behind(placed(upstream, random_case=True), half, forward={"policy": "order"}) as (shield, _, other),
    ):
        (name,) = long_names(1)
        assert answerers(ask_each(shield, [name])) == {TRUTH: 1}
        assert [other.count(name, transport=each) for each in ("udp", "tcp")] == [1, 1]


def test_who_lowers_the_case_once_is_still_asked_at_random():
    with spelling(held_not) as (shield, upstream):
        assert answerers(ask_each(shield, long_names(5))) == {TRUTH: 5}
        upstream.handle = lowering
        (once,) = long_names(1)
        assert answerers(ask_each(shield, [once])) == {TRUTH: 1}
        assert upstream.count(once, transport="tcp") == 1
        upstream.handle = held_not
        asked = long_names(20)
        assert answerers(ask_each(shield, asked)) == {TRUTH: 20}
        assert [upstream.count(name, transport="tcp") for name in asked] == [0] * 20
        assert sum(spelled(query) != spelled(query).lower() for query in upstream.received[-20:]) == 20


def test_all_who_wait_get_the_truth_each_in_his_own_spelling():
    with spelling(after(0.1, held_not)) as (shield, upstream):
        (name,) = long_names(1)
        spellings = [name, name.upper(), name.title(), name.swapcase()]
        replies = at_once(4, lambda n: ask(spellings[n], server=shield))
        assert [reply.question[0].name.to_text() for reply in replies] == spellings
        assert upstream.count(name) == 1


def test_a_lie_over_tcp_is_none_that_a_client_gets():
    """Over TCP too a response must have the ID and the question of its query."""

    def lying(query):
        if query.transport == "udp":
            return reply_wire(query, counts=(0, 0, 0), flags=0x8200)  # truncated
        return [wrong_id(query), altered(13, b"X")(query), altered(end_of_name, b"\0\x1c")(query), held_not(query)]

    with behind(lying) as (shield, upstream):
        asked = names(3)
        assert answerers(ask_each(shield, asked)) == {TRUTH: 3}
        assert answerers(ask_each(shield, names(3), tcp=True)) == {TRUTH: 3}
        assert [upstream.count(name, transport="tcp") for name in asked] == [1, 1, 1]
