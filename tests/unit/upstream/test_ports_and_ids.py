"""Show what a forger would have to guess: from which port a query leaves, and with which ID."""

import itertools
import secrets
import socket
from collections import Counter

import pytest
from support.path import AT_ONCE, LIE, LOOPBACK, told, udp

from funkenshield.config.types import Endpoint
from funkenshield.errors import ConfigError
from funkenshield.upstream import pool
from funkenshield.upstream import ports as local_ports
from funkenshield.upstream.ports import open_udp

DRAWN, IDS = local_ports.usable(), 65536  # that are drawn from
PORTS = len(DRAWN)


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
    places = {port: place for place, port in enumerate(DRAWN)}
    drawn = [places[port] / PORTS for port in ports]
    assert (min(drawn) < 0.01, max(drawn) > 0.99) == (True, True)
    assert 20 < chi_square(drawn, 64) < 130, "63, and six deviations"
    assert 20 < chi_square(pairs(drawn, 8), 64) < 130
    assert len(set(ports)) > 0.9 * 4096 * (1 - 4096 / PORTS / 2)  # as birthdays have it


def test_ports_and_ids_are_more_than_a_forger_can_try(monkeypatch):
    bounds = []
    monkeypatch.setattr(secrets, "choice", lambda ports: bounds.append(len(set(ports))) or ports[-1 - len(bounds)])
    open_udp(Endpoint(LOOPBACK, 53)).close()
    assert set(bounds) == {PORTS}
    assert PORTS * IDS > 2**30


def test_a_port_that_is_taken_is_drawn_again_and_if_all_are_the_kernel_gives_one(monkeypatch):
    with udp() as taken, udp() as freed:
        (_, busy), (_, free) = taken.getsockname(), freed.getsockname()
        freed.close()
        draws = iter([busy] * 3 + [free])
        monkeypatch.setattr(secrets, "choice", lambda _: next(draws))
        with open_udp(Endpoint(LOOPBACK, 53), LOOPBACK) as opened:
            assert opened.getsockname()[1] == free
        monkeypatch.setattr(secrets, "choice", lambda _: busy)
        with open_udp(Endpoint(LOOPBACK, 53), LOOPBACK) as opened:
            assert opened.getsockname()[1] not in (0, busy)
            assert opened.getpeername() == (LOOPBACK, 53)


def test_ports_that_others_need_are_never_drawn(tmp_path, monkeypatch):
    (tmp_path / "ip_local_port_range").write_text("1000\t2000\n")
    (tmp_path / "ip_local_reserved_ports").write_text("1024,1100-1199\n")
    monkeypatch.setattr(local_ports, "SETTINGS", tmp_path)
    left = local_ports.usable([(1900, 65535), (1500, 1500)])
    assert set(left) == {*range(1025, 1100), *range(1200, 1500), *range(1501, 1900)}
    with pytest.raises(ConfigError, match=r"forward\.source_port_avoid: no source port is left"):
        local_ports.usable([(1, 65535)])


def test_where_the_kernel_says_nothing_its_usual_range_is_drawn_from(tmp_path, monkeypatch):
    monkeypatch.setattr(local_ports, "SETTINGS", tmp_path)
    assert local_ports.usable() == tuple(range(32768, 61000))


def test_sockets_to_upstreams_keep_to_the_ports_that_may_be_drawn(path):
    assert {asked.port for asked in path(sockets=16).ask_each(AT_ONCE)} <= set(DRAWN)


def test_what_cannot_be_opened_leaves_nothing_open(monkeypatch):
    closed = []
    monkeypatch.setattr(local_ports.socket, "socket", lambda *_: Unconnectable(closed))
    with pytest.raises(OSError, match="in use"):
        open_udp(Endpoint(LOOPBACK, 53))
    assert closed == [True]


class Unconnectable:
    def __init__(self, closed):
        self._closed = closed

    def setsockopt(self, *option):
        pass

    def bind(self, address):
        raise OSError("in use")

    def connect(self, address):
        raise OSError("no route")

    def close(self):
        self._closed.append(True)


def test_a_socket_whose_address_cannot_be_had_is_closed_and_nothing_goes_through_it(path, monkeypatch, caplog):
    class Nameless(socket.socket):
        def getsockname(self):
            raise OSError("no buffer space")

    def opened(*where):
        with open_udp(*where) as made:
            return Nameless(made.family, made.type, made.proto, made.detach())

    shield = path()
    (before,) = shield.ask(*shield.fresh())
    monkeypatch.setattr(pool, "open_udp", opened)
    shield.upstream.rotate_ports(2, 3600.0)
    assert [message.partition(": ")[2] for message in caplog.messages] == ["cannot open a UDP socket: no buffer space"]
    with udp() as other:  # that has the number of the one that was closed
        assert {asked.port for asked in shield.ask_each(AT_ONCE)} == {before.port}
        shield.upstream.close()
        assert other.getsockname()


def test_a_port_is_given_up_after_its_life_and_what_was_asked_through_it_is_still_answered(path):
    shield = path(sockets=4, port_life=60.0)

    def ports():
        asked = shield.ask_each(AT_ONCE)
        shield.answer(*asked)
        assert len({each.port for each in asked}) == 4
        return {each.port for each in asked}

    first = ports()
    shield.clock.advance(59)
    shield.upstream.rotate_ports(4, 60.0)
    assert ports() == first
    (late,) = shield.ask(*shield.fresh())
    shield.clock.advance(2)
    shield.upstream.rotate_ports(4, 60.0)
    second = ports()
    assert second & first == set()
    shield.answer(late)
    assert shield.miss_path.pending_queries == 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind((LOOPBACK, late.port))  # it is free: closed with the last query


def test_ports_change_one_by_one(path):
    shield, seen = path(sockets=4), []
    for _ in range(8):
        asked = shield.ask_each(AT_ONCE * 2)
        shield.answer(*asked)
        seen.append({each.port for each in asked})
        shield.upstream.rotate_one_port(4, 3600.0)
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


def test_ids_are_spread_evenly_none_tells_of_the_next_and_none_is_that_of_two_outstanding_queries(path):
    """Of 16,000 queries that wait on one socket, about 2,000 would share an ID if nobody took care."""
    shield, idents = path(), []
    for _ in range(16_000 // AT_ONCE):
        shield.hand_over(*shield.fresh(AT_ONCE))
        idents += [int.from_bytes(wire[:2]) for wire in shield.arrived_in_all()]
    assert len(set(idents)) == len(idents) > 15_990  # once in 40 runs, five of the questions share a place: one waits
    high, low = [ident / IDS for ident in idents], [ident % 256 / 256 for ident in idents]
    assert 90 < chi_square(high, 256) < 320, "193, since none comes twice"
    assert 90 < chi_square(low, 256) < 320
    assert 120 < chi_square(pairs(high, 16), 256) < 420, "255, and seven deviations"
    assert 120 < chi_square(pairs(low, 16), 256) < 420


def test_each_attempt_has_an_id_of_its_own(path):
    shield = path(timeout=1.0, attempts=2)
    first = {asked.name: asked for asked in shield.ask(*shield.fresh(AT_ONCE))}
    shield.clock.advance(1.1)
    shield.miss_path.tick()
    shield.miss_path.send()
    second = {asked.name: asked for asked in shield.arrived(AT_ONCE)}
    assert first.keys() == second.keys()
    assert sum(first[name].ident == second[name].ident for name in first) == 0, "both are outstanding: no ID is of two"
    for number, name in enumerate(first):
        shield.answer(first[name] if number % 2 else second[name])
    assert (shield.miss_path.pending_queries, shield.unexpected) == (0, 0)


def test_an_id_counts_on_the_socket_only_that_its_query_went_through(path):
    shield = path(sockets=2, spoof_threshold=0)
    asked = shield.ask_each(AT_ONCE)
    one = asked[0]
    other = next(each for each in asked if each.port != one.port)
    idents = {port: {each.ident for each in asked if each.port == port} for port in (one.port, other.port)}
    assert other.ident not in idents[one.port]  # but for one case in a thousand, which is another test's
    shield.say(one.port, told(other, LIE))
    assert (shield.unexpected, shield.miss_path.pending_queries) == (1, len(asked))
    shield.say(one.port, told(one, LIE, ident=other.ident))
    assert (shield.unexpected, shield.miss_path.pending_queries) == (2, len(asked))
    shield.answer(*asked)
    assert (shield.unexpected, shield.miss_path.pending_queries) == (2, 0)
