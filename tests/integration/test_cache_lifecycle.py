"""Know what of the cache lasts and what does not: over a restart, a purge under load, a reload, a change at the origin.

Each test is against the real process, and looks at what the client got and at what the upstream received.
"""

import contextlib
import signal
import socket
import threading
import time

import dns.edns
import dns.rcode
import dns.rdatatype
import pytest
from support.client import ask, free_port
from support.control import advance, request, stats
from support.process import run_shield
from support.until import until
from support.upstream import ScriptedUpstream, answer, servfail
from support.wires import ask_wire

from funkenshield import config
from funkenshield.errors import ConfigError

LIMITS = "drain_timeout = 0\n[forward]\ntimeout = 5.0\ndeadline = 10.0\n"
COOKIE = dns.edns.OptionType.COOKIE
CLIENT = b"a_client"


class Origin:
    """An authoritative server whose zone has a serial, which its addresses end in."""

    def __init__(self, serial=1):
        self.serial = serial

    def __call__(self, query):
        if query.rdtype == dns.rdatatype.SOA:
            return answer(query, f"SOA ns.test. hostmaster.test. {self.serial} 3600 600 86400 60")
        return answer(query, f"A 192.0.2.{self.serial}", ttl=86400)


def serial_of(reply):
    """Return the serial that an answer comes from."""
    return int(reply.answer[0][0].address.split(".")[-1])


@pytest.fixture
def origin():
    return Origin()


@pytest.fixture
def upstream(origin):
    with ScriptedUpstream(origin) as running:
        yield running


# ------------------------------------------------------------ on disk


def kept_in(path, interval=300):
    return f'cache.snapshot = "{path}"\ncache.snapshot_interval = {interval}\n'


def test_a_daemon_that_starts_again_starts_warm(upstream, tmp_path):
    port = free_port()
    for start in range(3):
        with run_shield([upstream], listen=[("127.0.0.1", port)], toml=kept_in(tmp_path / "cache")) as shield:
            for n in range(50):
                assert serial_of(ask(f"{n}.test.", server=shield)) == 1
            assert stats(shield)["cache_hits"] == (50 if start else 0)
    assert len(upstream.received) == 50
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_daemon_that_is_killed_leaves_a_snapshot_that_is_whole_or_none(upstream, tmp_path):
    for _ in range(3):
        with contextlib.suppress(AssertionError), run_shield([upstream], toml=kept_in(tmp_path / "cache", 1)) as shield:
            end = time.monotonic() + 1.2
            n = 0
            while time.monotonic() < end:
                assert serial_of(ask(f"{n}.test.", server=shield)) == 1
                n += 1
            shield.process.kill()
    with run_shield([upstream], toml=kept_in(tmp_path / "cache")) as shield:
        assert serial_of(ask("0.test.", server=shield)) == 1
        assert stats(shield)["cache_hits"] == 1
        assert "restored" in shield.log
    assert upstream.count("0.test.") == 1
    assert not (tmp_path / "cache.damaged").exists()


def test_a_damaged_snapshot_is_told_of_and_kept_aside(upstream, tmp_path):
    path = tmp_path / "cache"
    with run_shield([upstream], toml=kept_in(path)) as shield:
        ask("www.test.", server=shield)
    octets = bytearray(path.read_bytes())
    octets[len(octets) // 2] ^= 1
    path.write_bytes(octets)
    with run_shield([upstream], toml=kept_in(path)) as shield:
        assert serial_of(ask("www.test.", server=shield)) == 1
        assert f"{path}: snapshot rejected" in shield.log
        assert (tmp_path / "cache.damaged").read_bytes() == octets
    assert upstream.count("www.test.") == 2


def test_a_watched_zone_that_changed_while_the_daemon_was_down_starts_empty(origin, upstream, tmp_path):
    toml = kept_in(tmp_path / "cache") + '[[zones]]\nname = "test"\nwatch = true\n'
    for serial, asked in (1, 1), (1, 1), (2, 2), (2, 2):
        origin.serial = serial
        with run_shield([upstream], toml=toml) as shield:
            until(lambda: upstream.count("test.", "SOA"))
            until(lambda old=serial: serial_of(ask("www.test.", server=shield)) == old)
        assert upstream.count("www.test.") == asked
        upstream.received[:] = [query for query in upstream.received if query.rdtype != dns.rdatatype.SOA]


def test_what_was_purged_does_not_come_back_from_a_snapshot(origin, upstream, tmp_path):
    path = tmp_path / "cache"

    def purge_and_die():
        with run_shield([upstream], toml=kept_in(path, 1)) as shield:
            assert serial_of(ask("www.test.", server=shield)) == 1
            until(lambda: path.exists() and b"\3www\4test" in path.read_bytes())
            origin.serial = 2
            assert request(shield, b'{"command": "purge", "name": "test", "below": true}') == [{"ok": True}]
            shield.process.kill()
            shield.process.wait()

    with pytest.raises(AssertionError, match="exit code -9"):
        purge_and_die()
    with run_shield([upstream], toml=kept_in(path)) as shield:
        assert serial_of(ask("www.test.", server=shield)) == 2
    assert upstream.count("www.test.") == 2


def test_what_is_from_other_upstreams_does_not_come_back_in_a_new_zone(upstream, tmp_path):
    toml = kept_in(tmp_path / "cache")
    with run_shield([upstream], toml=toml) as shield:
        assert [serial_of(ask(name, server=shield)) for name in ("www.b.test.", "www.test.")] == [1, 1]
    with ScriptedUpstream(Origin(99)) as another:
        toml += f'[[zones]]\nname = "b.test"\nupstreams = ["{another.address}"]\n'
        with run_shield([upstream], toml=toml) as shield:
            assert [serial_of(ask(name, server=shield)) for name in ("www.b.test.", "www.test.")] == [99, 1]
        assert another.count("www.b.test.") == len(another.received) == 1
    assert len(upstream.received) == 2


# ------------------------------------------------------------ changes at the origin


def test_a_change_of_the_serial_shows_within_the_interval(origin, upstream):
    toml = '[[zones]]\nname = "test"\nwatch = true\nwatch_interval = 1\nwatch_jitter = 0\n'
    toml += "[zones.ttl]\nserve_original = true\n"
    with run_shield([upstream], toml=toml) as shield:
        for origin.serial in 1, 2, 3:
            until(lambda: serial_of(ask("www.test.", server=shield)) == origin.serial)
            assert ask("www.test.", server=shield).answer[0].ttl == 86400
        assert upstream.count("www.test.") == 3


def test_purges_take_effect_at_once_and_nobody_waits(upstream):
    """Ask for one name at full rate while others are purged; every answer must come, and be from the cache."""
    with run_shield([upstream]) as shield, ThreadedAsker(shield, "calm.example.") as asker:
        for n in range(300):
            assert ask(f"{n}.test.", server=shield).answer
        for n in range(300):
            what = b'"name": "test", "below": true' if n % 50 == 0 else b'"name": "%d.test"' % n
            assert request(shield, b'{"command": "purge", %s}' % what) == [{"ok": True}]
            assert ask(f"{n}.test.", server=shield).answer
            assert upstream.count(f"{n}.test.") == 2
        assert asker.answered > 300
        assert asker.slowest < 0.5
    assert upstream.count("calm.example.") == 1


class ThreadedAsker:
    """Asks for one name again and again, as long as the context is entered."""

    def __init__(self, server, name):
        self.answered, self.slowest = 0, 0.0
        self._server, self._name = server, name
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self):
        while not self._stop.is_set():
            start = time.monotonic()
            assert ask(self._name, server=self._server).answer
            self.slowest = max(self.slowest, time.monotonic() - start)
            self.answered += 1

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


# ------------------------------------------------------------ zones


def reload(shield, toml):
    """Give a running daemon another configuration, and wait until it has it."""
    config = shield.folder / "funkenshield.toml"
    head = config.read_text().splitlines()[:3]  # listen, upstreams, workers
    config.write_text("\n".join([*head, toml]) + "\n")
    before = stats(shield)["reloads"]
    shield.process.send_signal(signal.SIGHUP)
    until(lambda: stats(shield)["reloads"] > before)


def test_a_reload_brings_zones_and_takes_them_away_and_leaves_the_others_alone(upstream):
    def other(query):
        return answer(query, "A 192.0.2.99")

    with ScriptedUpstream(other) as another, run_shield([upstream]) as shield:
        zone = f'[[zones]]\nname = "b.test"\nupstreams = ["{another.address}"]\n'
        for toml, expected in ("", 1), (zone, 99), (zone + "[zones.ttl]\nmax = 60\n", 99), ("", 1):
            reload(shield, toml)
            for _ in "cold", "warm":
                assert serial_of(ask("www.b.test.", server=shield)) == expected
                assert serial_of(ask("www.test.", server=shield)) == 1
        assert upstream.count("www.test.") == 1
        assert upstream.count("www.b.test.") == 2
        assert another.count("www.b.test.") == len(another.received) == 1


def test_a_zone_that_is_watched_from_a_reload_on_loses_what_is_older(origin, upstream):
    zone = '[[zones]]\nname = "test"\nwatch_interval = 1\n'
    with run_shield([upstream], toml=zone) as shield:
        assert serial_of(ask("www.test.", server=shield)) == 1
        origin.serial = 2
        assert serial_of(ask("www.test.", server=shield)) == 1
        reload(shield, zone + "watch = true\n")
        until(lambda: serial_of(ask("www.test.", server=shield)) == 2)
    assert upstream.count("www.test.") == 2


def test_a_flood_of_random_names_on_a_dead_zone_leaves_the_others_alone(upstream):
    with ScriptedUpstream(lambda query: None) as silent:
        toml = f"{LIMITS}max_outstanding = 64\nmax_outstanding_per_zone = 32\n"
        toml += f'[[zones]]\nname = "dead.test"\nupstreams = ["{silent.address}"]\n'
        with run_shield([upstream], toml=toml) as shield, Flood(shield, "dead.test.") as flood:
            until(lambda: stats(shield)["zone_limit_exceeded"] + stats(shield)["fair_share_exceeded"] > 100)
            for n in range(200):
                assert serial_of(ask(f"{n}.alive.test.", server=shield, timeout=1)) == 1
            assert stats(shield)["outstanding_queries"] <= 33
            until(lambda: flood.sent > 200)
        assert {query.name.parent().to_text() for query in silent.received} == {"dead.test."}
        assert upstream.count() == 200


class Flood(ThreadedAsker):
    """Sends questions for random names of a zone, and waits for no answer."""

    def __init__(self, server, zone):
        super().__init__(server, zone)
        self.sent = 0

    def _ask(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(self._server.address)
            while not self._stop.is_set():
                sock.send(ask_wire(f"{self.sent}.{self._name}"))
                self.sent += 1
                time.sleep(0.001)


# ------------------------------------------------------------ cookies


def cookie_of(reply):
    return next(option.to_wire() for option in reply.options if option.otype == COOKIE)


def with_cookie(octets):
    return [dns.edns.GenericOption(COOKIE, octets)]


def test_machines_that_share_their_secrets_accept_each_others_cookies_while_these_roll_over(upstream, tmp_path):
    secrets = tmp_path / "secrets"
    old, new = "00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100"
    toml = f'[cookies]\nmode = "serve"\nrequire = true\nsecret_file = "{secrets}"\n'
    secrets.write_text(f"{old}\n")
    with run_shield([upstream], toml=toml) as one, run_shield([upstream], toml=toml) as other:

        def rcodes(cookie):
            return [ask("www.test.", server=each, options=with_cookie(cookie)).rcode() for each in (one, other)]

        made = cookie_of(ask("www.test.", server=one, options=with_cookie(CLIENT)))
        assert rcodes(made) == [dns.rcode.NOERROR] * 2
        assert rcodes(CLIENT) == [dns.rcode.BADCOOKIE] * 2
        secrets.write_text(f"{new}\n{old}\n")

        def renewed():
            return cookie_of(ask("www.test.", server=other, options=with_cookie(made)))

        until(lambda: renewed() != made)
        assert rcodes(made) == rcodes(renewed()) == [dns.rcode.NOERROR] * 2
        secrets.write_text(f"{new}\n")
        until(lambda: rcodes(made) == [dns.rcode.BADCOOKIE] * 2)
        secrets.write_text("not a secret\n")
        until(lambda: "keeping the previous cookie secrets" in one.log)
    assert all(COOKIE not in {option.otype for option in query.message.options} for query in upstream.received)
    assert upstream.count("www.test.") == 2


# ------------------------------------------------------------ stale


def test_an_outage_is_lived_through_with_what_there_was(upstream):
    def short(query):
        return answer(query, "A 192.0.2.1", ttl=1)

    upstream.handle = short
    with run_shield([upstream], toml=f"{LIMITS}[stale]\nclient_timeout = 0.2\n") as shield:
        assert ask("www.test.", server=shield, edns=1232).answer
        advance(shield, 1.2)
        for broken in servfail, lambda query: None:
            upstream.handle = broken
            reply = ask("www.test.", server=shield, edns=1232, timeout=2)
            assert (serial_of(reply), reply.answer[0].ttl) == (1, 30)
            assert [option.code for option in reply.options] == [dns.edns.EDECode.STALE_ANSWER]
        upstream.handle = short
        assert serial_of(ask("other.test.", server=shield)) == 1
    assert upstream.count("www.test.") == 2, "once it failed, it is left alone for 30 seconds"


def test_a_restart_keeps_the_secret_that_nobody_named(upstream):
    found = []
    for cookie in CLIENT, None:
        with run_shield([upstream], toml="cookies.require = true") as shield:
            reply = ask("www.test.", server=shield, options=with_cookie(cookie or found[0]))
            found.append(cookie_of(reply))
    assert reply.rcode() == dns.rcode.NOERROR, "its cookie is one of ours"


def test_options_that_are_ignored_change_with_a_reload(upstream):
    marked = [dns.edns.GenericOption(65001, b"whose")]
    with run_shield([upstream], toml="") as shield:
        for times in 1, 2:
            assert ask("marked.test.", server=shield, options=marked).answer
            assert upstream.count("marked.test.") == times
        config = shield.folder / "funkenshield.toml"
        config.write_text(config.read_text() + "cache.skip_options = [65001]\n")
        shield.process.send_signal(signal.SIGHUP)
        until(lambda: "reloaded" in shield.log)
        for _ in range(2):
            assert ask("marked.test.", server=shield, options=marked).answer
        assert upstream.count("marked.test.") == 3


@pytest.mark.parametrize("option", [8, "COOKIE", 11])
def test_an_option_that_means_something_here_is_not_ignored(tmp_path, option):
    file = tmp_path / "funkenshield.toml"
    file.write_text(f"cache.skip_options = [{option!r}]\n".replace("'", '"'))
    with pytest.raises(ConfigError, match=r"cache.skip_options: .* cannot be ignored: the shield uses it itself"):
        config.load(file)
