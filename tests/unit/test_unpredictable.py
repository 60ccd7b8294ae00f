"""Show what a forger would have to guess: ports, IDs and spelling; and what he meets who guesses often.

A worker, open queries and sockets are the real ones; the upstream is a socket of the test's, and the test carries what
goes over TCP. Time is moved by hand.
"""

import contextlib
import itertools
import logging
import secrets
import socket
from collections import Counter
from struct import pack

import pytest
from support.path import LIE, LOOPBACK, TRUTH, Path, told, udp
from support.quick import QR, RD, A, answer, name_wire, query

from funkenshield import upstreams
from funkenshield.fields import Endpoint
from funkenshield.upstreams import RESPELLED_MAX, open_udp

AT_ONCE = 64  # queries that no buffer is too small for
PORTS, IDS = 64512, 65536  # that are drawn from
SUSPICION = 10.0  # seconds
TXT = 16
LONG = "a-rather-long-label-of-letters-only.and-yet-another-one.test"


def headers_only(asked, rcode=0):
    """Return a response without a question, with the right ID."""
    return asked.wire[:2] + pack("!5H", QR | RD | rcode, 0, 0, 0, 0)


@pytest.fixture
def path():
    """Return what makes a Path; all of them end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: Path(stack, **options)


def chi_square(values, cells):
    """Return how far numbers in [0, 1) are from an even spread over so many cells."""
    counts = Counter(int(value * cells) for value in values)
    expected = len(values) / cells
    return sum((counts[cell] - expected) ** 2 / expected for cell in range(cells))


def pairs(values, cells):
    """Return each two neighbours as one number in [0, 1): even, where none tells of the next."""
    coarse = [int(value * cells) for value in values]
    return [(one * cells + two) / cells**2 for one, two in zip(coarse[::2], coarse[1::2], strict=False)]


# ---------------------------------------------------------------- ports


def test_ports_are_spread_evenly_and_none_tells_of_the_next():
    ports = []
    for _ in range(4096):
        with open_udp(Endpoint(LOOPBACK, 53)) as opened:
            ports.append(opened.getsockname()[1])
    drawn = [(port - 1024) / PORTS for port in ports]
    assert (min(ports) >= 1024, min(drawn) < 0.01, max(drawn) > 0.99) == (True, True, True)
    assert 20 < chi_square(drawn, 64) < 130, "63, and six deviations"
    assert 20 < chi_square(pairs(drawn, 8), 64) < 130
    assert len(set(ports)) > 3800


def test_ports_and_ids_are_more_than_a_forger_can_try(monkeypatch):
    bounds = []
    monkeypatch.setattr(secrets, "randbelow", lambda bound: bounds.append(bound) or bound - 1 - len(bounds))
    open_udp(Endpoint(LOOPBACK, 53)).close()
    assert set(bounds) == {PORTS}
    assert PORTS * IDS > 2**30


def test_a_port_that_is_taken_is_drawn_again_and_if_all_are_the_kernel_gives_one(monkeypatch):
    with udp() as taken, udp() as freed:
        (_, busy), (_, free) = taken.getsockname(), freed.getsockname()
        freed.close()
        draws = iter([busy - 1024] * 3 + [free - 1024])
        monkeypatch.setattr(secrets, "randbelow", lambda _: next(draws))
        with open_udp(Endpoint(LOOPBACK, 53), LOOPBACK) as opened:
            assert opened.getsockname()[1] == free
        monkeypatch.setattr(secrets, "randbelow", lambda _: busy - 1024)
        with open_udp(Endpoint(LOOPBACK, 53), LOOPBACK) as opened:
            assert opened.getsockname()[1] not in (0, busy)
            assert opened.getpeername() == (LOOPBACK, 53)


def test_what_cannot_be_opened_leaves_nothing_open(monkeypatch):
    closed = []
    monkeypatch.setattr(upstreams.socket, "socket", lambda *_: Unconnectable(closed))
    with pytest.raises(OSError, match="in use"):
        open_udp(Endpoint(LOOPBACK, 53))
    assert closed == [True]


class Unconnectable:
    def __init__(self, closed):
        self._closed = closed

    def bind(self, address):
        raise OSError("in use")

    def connect(self, address):
        raise OSError("no route")

    def close(self):
        self._closed.append(True)


def test_a_port_is_given_up_after_its_life_and_what_was_asked_through_it_is_still_answered(path):
    shield = path(sockets=4, port_life=60.0)

    def ports():
        asked = shield.ask_each(AT_ONCE)
        shield.answer(*asked)
        assert len({each.port for each in asked}) == 4
        return {each.port for each in asked}

    first = ports()
    shield.clock.advance(59)
    shield.upstream.turn_over(4, 60.0)
    assert ports() == first
    (late,) = shield.ask(*shield.fresh())
    shield.clock.advance(2)
    shield.upstream.turn_over(4, 60.0)
    second = ports()
    assert second & first == set()
    shield.answer(late)
    assert shield.inflight.open_queries == 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind((LOOPBACK, late.port))  # it is free: closed with the last query


def test_ports_change_one_by_one(path):
    shield, seen = path(sockets=4), []
    for _ in range(8):
        asked = shield.ask_each(AT_ONCE * 2)
        shield.answer(*asked)
        seen.append({each.port for each in asked})
        shield.upstream.renew_one(4, 3600.0)
    assert all(len(before - after) == 1 for before, after in itertools.pairwise(seen))
    assert all(seen[n] & seen[n + 4] == set() for n in range(4))


def test_queries_take_a_random_one_of_the_ports(path):
    shield = path(sockets=8)
    used = [asked.port for asked in shield.ask_each(800)]
    places = {port: place / 8 for place, port in enumerate(sorted(set(used)))}
    assert len(places) == 8
    assert chi_square([places[port] for port in used], 8) < 40, "7, and nine deviations"
    assert chi_square(pairs([places[port] for port in used], 8), 64) < 150


# ---------------------------------------------------------------- IDs


def test_ids_are_spread_evenly_none_tells_of_the_next_and_none_is_that_of_two_open_queries(path):
    """Of 16,000 queries that wait on one socket, about 2,000 would share an ID if nobody took care."""
    shield, idents = path(), []
    for _ in range(16_000 // AT_ONCE):
        idents += [asked.ident for asked in shield.ask(*shield.fresh(AT_ONCE))]
    assert len(set(idents)) == len(idents)
    high, low = [ident / IDS for ident in idents], [ident % 256 / 256 for ident in idents]
    assert 90 < chi_square(high, 256) < 320, "193, since none comes twice"
    assert 90 < chi_square(low, 256) < 320
    assert 120 < chi_square(pairs(high, 16), 256) < 420, "255, and seven deviations"
    assert 120 < chi_square(pairs(low, 16), 256) < 420


def test_each_attempt_has_an_id_of_its_own(path):
    shield = path(timeout=1.0, tries=2)
    first = {asked.name: asked for asked in shield.ask(*shield.fresh(AT_ONCE))}
    shield.clock.advance(1.1)
    shield.inflight.tick()
    shield.inflight.send()
    second = {asked.name: asked for asked in shield.arrived(AT_ONCE)}
    assert first.keys() == second.keys()
    assert sum(first[name].ident == second[name].ident for name in first) == 0, "both are open: no ID is of two"
    for number, name in enumerate(first):
        shield.answer(first[name] if number % 2 else second[name])
    assert (shield.inflight.open_queries, shield.mismatched) == (0, 0)


def test_an_id_counts_on_the_socket_only_that_its_query_went_through(path):
    shield = path(sockets=2)
    asked = shield.ask_each(AT_ONCE)
    one = asked[0]
    other = next(each for each in asked if each.port != one.port)
    idents = {port: {each.ident for each in asked if each.port == port} for port in (one.port, other.port)}
    assert other.ident not in idents[one.port]  # but for one case in a thousand, which is another test's
    shield.say(one.port, told(other, LIE))
    assert (shield.mismatched, shield.inflight.open_queries) == (1, len(asked))
    shield.say(one.port, told(one, LIE, ident=other.ident))
    assert (shield.mismatched, shield.inflight.open_queries) == (2, len(asked))
    shield.answer(*asked)
    assert (shield.mismatched, shield.inflight.open_queries) == (2, 0)


# ---------------------------------------------------------------- many guesses at one name


def test_so_many_guesses_make_a_name_suspect_and_one_fewer_do_not(path):
    shield = path(mismatches=8)
    for guesses, over_tcp in ((7, 0), (8, 1), (40, 1)):
        (name,) = shield.fresh()
        (asked,) = shield.ask(name)
        shield.flood(asked, guesses)
        shield.answer(asked, truth=LIE if over_tcp else TRUTH)
        assert shield.heard(query(name, A)) == (None if over_tcp else TRUTH)
        assert shield.carried(asked) == over_tcp
        assert shield.heard(query(name, A)) == (TRUTH if over_tcp else None)
    assert (shield.mismatched, shield.inflight.counters()["suspected"]) == (55, 2)


def test_suspicion_ends_after_ten_seconds(path):
    shield = path(mismatches=4)
    (name,) = shield.fresh()
    (asked,) = shield.ask(name)
    shield.flood(asked, 4)
    for passed, over_tcp in ((0.0, 1), (1.0, 1), (SUSPICION - 1.5, 1), (0.6, 0)):
        shield.clock.advance(passed)
        shield.answer(asked)
        assert shield.carried(asked) == over_tcp
        assert shield.heard(query(name, A)) == TRUTH
        (asked,) = shield.ask(name)


@pytest.mark.parametrize(("apart", "over_tcp"), [(SUSPICION - 1.0, 1), (SUSPICION + 0.1, 0)])
def test_guesses_within_ten_seconds_are_counted_together(path, apart, over_tcp):
    shield = path(mismatches=4)
    (asked,) = shield.ask(*shield.fresh())
    shield.flood(asked, 3)
    shield.clock.advance(apart)
    shield.flood(asked, 3)
    shield.answer(asked)
    assert (shield.carried(asked), shield.inflight.open_queries) == (over_tcp, 0)


def test_a_flood_over_many_names_makes_none_suspect(path):
    shield = path(mismatches=8)
    asked = shield.ask(*shield.fresh(AT_ONCE))
    for each in asked:
        shield.flood(each, 1)
    for number in range(40_000):  # ten for each place that names are counted in
        shield.flood(asked[0], 1, question=query(f"other{number}.test", A)[12:])
    for each in asked:
        shield.flood(each, 7)
    shield.answer(*asked)
    assert shield.inflight.take_carried() == []
    assert (shield.inflight.open_queries, shield.inflight.counters()["suspected"]) == (0, 0)


def test_guesses_count_for_the_question_they_are_at_whatever_their_case(path):
    shield = path(mismatches=8)
    ((name,), (other,)) = shield.fresh(), shield.fresh()
    (asked,), (text,), (innocent,) = shield.ask(name), shield.ask(name, rdtype=TXT), shield.ask(other)
    for number in range(8):
        shield.flood(asked, 1, question=cased(asked, number))
    shield.answer(innocent)
    shield.say(text.port, answer(text.wire, b"text"))
    assert shield.inflight.take_carried() == []
    shield.answer(asked)
    assert shield.carried(asked) == 1


def cased(asked, number):
    """Return the question of a query in one of two spellings."""
    return (asked.name.upper() if number % 2 else asked.name) + asked.wire[-4:]


def test_while_it_is_asked_for_over_tcp_nothing_over_udp_is_believed(path):
    shield = path(mismatches=8, timeout=1.0)
    (name,) = shield.fresh()
    (first,) = shield.ask(name)
    shield.clock.advance(1.1)
    shield.inflight.tick()
    shield.inflight.send()
    (second,) = shield.arrived(1)
    shield.flood(first, 8)
    shield.answer(second, first, truth=LIE)
    assert (shield.heard(query(name, A)), shield.carried(first)) == (None, 1)
    assert (shield.heard(query(name, A)), shield.inflight.open_queries) == (TRUTH, 0)


def test_a_right_guess_without_a_question_is_not_believed_either(path):
    shield = path(mismatches=8)
    (asked,) = shield.ask(*shield.fresh())
    shield.flood(asked, 20)
    shield.say(asked.port, headers_only(asked, 5))
    assert shield.carried(asked) == 1


# ---------------------------------------------------------------- spelling (0x20)


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
    assert shield.inflight.take_carried() == []


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
    "no question": headers_only,
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
    assert (shield.nothing_arrived(), shield.inflight.open_queries, shield.table.respelled(0)) == (True, 0, 1)


def lowered(shield, count):
    """Have so many queries answered in lower case, and over TCP; keep house after each."""
    for _ in range(count):
        (asked,) = shield.ask(LONG)
        shield.say(asked.port, MISSPELLED["lower case"](asked))
        assert shield.carried(asked) == 1
        assert shield.heard(query(LONG, A)) == TRUTH
        shield.upstream.keep_house()


def test_who_never_spells_names_as_he_was_asked_is_asked_plainly_and_the_log_says_so(path, caplog):
    shield = path(random_case=True)
    lowered(shield, RESPELLED_MAX - 1)
    (asked,) = shield.ask(LONG)
    shield.answer(asked)
    assert (shield.heard(query(LONG, A)), shield.table.respelled(0)) == (TRUTH, 0), "in a row, that is"
    with caplog.at_level(logging.WARNING):
        lowered(shield, RESPELLED_MAX - 1)
        assert caplog.messages == []
        lowered(shield, 1)
    assert [message.partition(": ")[2] for message in caplog.messages] == ["random_case is off"]
    for _ in range(3):
        (asked,) = shield.ask(LONG)
        assert asked.name == name_wire(LONG)
        shield.say(asked.port, told(asked, TRUTH, question=asked.name.upper() + asked.wire[-4:]))
        assert shield.carried(asked) == 0, "what was asked plainly may be spelled in any way"
        assert shield.heard(query(LONG, A)) == TRUTH


def test_what_was_spelled_before_says_nothing_of_what_is_asked_plainly(path):
    """Attempts are kept in places that are used again, first those that ended last."""
    shield = path(random_case=True)
    shield.answer(*shield.ask(*shield.fresh(AT_ONCE)))
    shield.table.set_upstream(0)
    for asked in shield.ask(*shield.fresh(AT_ONCE)):
        shield.say(asked.port, told(asked, TRUTH, question=asked.name.upper() + asked.wire[-4:]))
    assert (shield.inflight.take_carried(), shield.inflight.open_queries) == ([], 0)
