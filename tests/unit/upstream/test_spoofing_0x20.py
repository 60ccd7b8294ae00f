"""Show how names are spelled at random (0x20), and that a response in another spelling is not believed."""

import itertools
import logging

import pytest
from support.path import AT_ONCE, LIE, TRUTH, headers_only, told, without_tcp
from support.quick import A, answer, name_wire, query

from funkenshield.upstream.pool import CASE_LOST_MAX

LONG = "a-rather-long-label-of-letters-only.and-yet-another-one.test"


def test_letters_are_spelled_at_random_and_nothing_else_is_changed(path):
    shield = path(random_case=True)
    octets = bytes(range(256)) + name_wire(LONG)[1:48].upper()
    labels = [octets[at : at + 48] for at in range(0, 192, 48)] + [octets[192:240]]
    wires = [b"".join(bytes([len(label)]) + label for label in labels) + b"\0", name_wire(LONG)]
    wires += [b"\x0f" + bytes(range(240, 255)) + b"\x01\xff" + bytes([26]) + bytes(range(65, 91)) + b"\0", b"\0"]
    for wire in wires:
        whole = query(".", A)[:12] + wire + query(".", A)[13:]
        (asked,) = shield.ask(whole)
        assert asked.name.lower() == wire.lower()
        assert asked.wire[2:12] == whole[2:12]
        assert asked.wire[-4:] == whole[-4:]
        shield.answer(asked)
        assert shield.heard(whole) == TRUTH, "and the client's own spelling comes back"
    assert shield.miss_path.take_stream_queries() == []


def test_each_letter_is_upper_case_half_of_the_time(path):
    shield = path(random_case=True)
    wire = name_wire(LONG)
    spellings = []
    for _ in range(200):
        (asked,) = shield.ask(LONG)
        shield.answer(asked)
        spellings.append(asked.name)
    letters = [at for at, octet in enumerate(wire) if 97 <= octet < 123]
    upper = [sum(spelled[at] < 97 for spelled in spellings) for at in letters]
    assert all(50 < count < 150 for count in upper), "100, and seven deviations"
    together = [
        sum((spelled[a] < 97) == (spelled[b] < 97) for spelled in spellings) for a, b in itertools.pairwise(letters)
    ]
    assert all(50 < count < 150 for count in together)
    assert len(set(spellings)) == 200


MISSPELLED = {
    "lower case": lambda asked: told(asked, LIE, question=asked.name.lower() + asked.wire[-4:]),
    "swapped case": lambda asked: told(asked, LIE, question=asked.name.swapcase() + asked.wire[-4:]),
    "one letter": lambda asked: told(
        asked, LIE, question=asked.wire[12:13] + asked.wire[13:14].swapcase() + asked.wire[14:]
    ),
    "the last letter": lambda asked: told(
        asked, LIE, question=asked.name[:-2] + asked.name[-2:].swapcase() + asked.wire[-4:]
    ),
    "no question, REFUSED": lambda asked: headers_only(asked, 5),
}


@pytest.mark.parametrize("misspelled", MISSPELLED.values(), ids=MISSPELLED)
def test_what_comes_in_another_spelling_is_asked_for_over_tcp(path, misspelled):
    shield = path(random_case=True)
    (asked,) = shield.ask(LONG)
    shield.say(asked.port, misspelled(asked))
    assert shield.heard(query(LONG, A)) is None
    assert shield.carried(asked) == 1
    assert shield.heard(query(LONG, A)) == TRUTH
    assert (shield.nothing_arrived(), shield.miss_path.pending_queries, shield.table.case_lost(0)) == (True, 0, 0)


def lowered(shield, count, over_tcp=bytes.lower):
    """Have so many queries answered in lower case, and over TCP in that or another; keep house after each."""
    for _ in range(count):
        (asked,) = shield.ask(LONG)
        shield.say(asked.port, MISSPELLED["lower case"](asked))
        assert shield.carried(asked, over_tcp) == 1
        assert shield.heard(query(LONG, A)) == TRUTH
        shield.upstream.housekeeping()


def test_who_never_spells_names_as_he_was_asked_is_asked_plainly_and_the_log_says_so(path, caplog):
    shield = path(random_case=True)
    with caplog.at_level(logging.WARNING):
        lowered(shield, CASE_LOST_MAX - 1)
        assert caplog.messages == []
        lowered(shield, 1)
    assert [message.partition(": ")[2] for message in caplog.messages] == ["random_case disabled"]
    for _ in range(3):
        (asked,) = shield.ask(LONG)
        assert asked.name == name_wire(LONG)
        shield.say(asked.port, told(asked, TRUTH, question=asked.name.upper() + asked.wire[-4:]))
        assert shield.carried(asked) == 0, "what was asked plainly may be spelled in any way"
        assert shield.heard(query(LONG, A)) == TRUTH


def test_over_tcp_names_are_spelled_at_random_too_where_they_are_over_udp(path):
    shield = path(random_case=True)
    spelled = set()
    for _ in range(20):
        (asked,) = shield.ask(LONG)
        shield.say(asked.port, MISSPELLED["lower case"](asked))
        shield.miss_path.send()
        ((handle, _, wire, *_),) = shield.miss_path.take_stream_queries()
        spelled.add(wire[12:])
        assert shield.miss_path.resolve(handle, answer(wire, TRUTH, rdtype=A, ttl=0))
    assert (len(spelled), len({name.lower() for name in spelled})) == (20, 1)


@pytest.mark.parametrize("proof", ["over UDP", "over TCP"])
def test_who_has_spelled_right_is_asked_at_random_for_ever_whatever_comes(path, caplog, proof):
    shield = path(random_case=True)
    lowered(shield, CASE_LOST_MAX - 1)
    if proof == "over UDP":
        shield.answer(*shield.ask(LONG))
        assert shield.heard(query(LONG, A)) == TRUTH
    else:
        lowered(shield, 1, bytes)
    with caplog.at_level(logging.WARNING):
        lowered(shield, 4 * CASE_LOST_MAX)
    (asked,) = shield.ask(LONG)
    assert (caplog.messages, asked.name != asked.name.lower()) == ([], True)


def test_forged_spellings_over_udp_switch_nothing_off(path, caplog):
    shield = path(random_case=True)
    with caplog.at_level(logging.WARNING):
        lowered(shield, 4 * CASE_LOST_MAX, bytes)
    (asked,) = shield.ask(LONG)
    assert (caplog.messages, asked.name != asked.name.lower()) == ([], True)


def test_another_spelling_of_who_can_spell_serves_nobody_even_without_tcp(path):
    shield = path(random_case=True, attempts=1)
    shield.answer(*shield.ask(LONG))
    assert shield.heard(query(LONG, A)) == TRUTH
    (asked,) = shield.ask(LONG)
    shield.say(asked.port, MISSPELLED["lower case"](asked))
    assert without_tcp(shield) == 1
    assert shield.client.recv(512)[3] & 15 == 2


def test_what_was_spelled_before_says_nothing_of_what_is_asked_plainly(path):
    """Attempts are kept in places that are used again, first those that ended last."""
    shield = path(random_case=True)
    shield.answer(*shield.ask(*shield.fresh(AT_ONCE)))
    shield.table.set_upstream(0)
    for asked in shield.ask(*shield.fresh(AT_ONCE)):
        shield.say(asked.port, told(asked, TRUTH, question=asked.name.upper() + asked.wire[-4:]))
    assert (shield.miss_path.take_stream_queries(), shield.miss_path.pending_queries) == ([], 0)
