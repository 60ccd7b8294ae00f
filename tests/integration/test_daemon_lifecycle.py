"""Know how the daemon starts, is told things while it runs, and ends; and what it says when it cannot start.

Each test that asks something looks at what the client got, what the upstream received, and how many times.
"""

import itertools
import json
import os
import pwd
import signal
import socket
import stat
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import dns.edns
import dns.rcode
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.client import Address, ask, bind_pair, free_port
from support.control import request, stats
from support.forked import command
from support.proc import credentials, resident
from support.process import COMMAND, run_shield
from support.stopwatch import Stopwatch
from support.until import until
from support.upstream import Delayed, ScriptedUpstream, answer, nxdomain

from funkenshield import __version__
from funkenshield.cli import main

NSID = dns.edns.GenericOption(3, b"")  # makes a query one that is passed on
transports = pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])


def address(query):
    return answer(query, "A 192.0.2.1")


def another_address(query):
    return answer(query, "A 192.0.2.2")


def slow(query):
    return Delayed(0.6, address(query))


def addresses(reply):
    return [rdata.address for rrset in reply.answer for rdata in rrset]


@pytest.fixture
def upstream():
    with ScriptedUpstream(address) as running:
        yield running


@pytest.fixture
def shield(upstream):
    with run_shield([upstream]) as running:
        yield running


@pytest.fixture(scope="module")
def lasting():
    with ScriptedUpstream(address) as upstream, run_shield([upstream]) as shield:
        yield upstream, shield


@pytest.fixture
def emptied(lasting):
    """Return an upstream that has received nothing yet, and a shield with nothing in its cache."""
    upstream, shield = lasting
    request(shield, b'{"command": "purge", "name": ".", "below": true}')
    upstream.handle = address
    upstream.received.clear()
    return lasting


def assert_one_line(done, exit_code, *parts):
    """Assert that a command failed with this exit code and one line that holds all the parts."""
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert all(str(part) in lines[0] for part in parts), lines[0]


def wait_for_log(shield, text, times=1):
    deadline = time.monotonic() + 10
    while shield.log.count(text) < times:
        assert time.monotonic() < deadline, f"no {text!r} in\n{shield.log}"
        time.sleep(0.01)


# ------------------------------------------------------------ start


def test_it_starts_fast(upstream):
    stopwatch = Stopwatch()
    with run_shield([upstream]) as shield:
        assert stopwatch.seconds() < 2
        assert f"ready: listening on {shield.address}, forwarding to {upstream.address}" in shield.log
        assert ask("www.test.", server=shield).answer
    assert len(upstream.received) == 1


@transports
def test_it_listens_on_several_addresses_of_both_families(upstream, tcp):
    listen = [(host, free_port(host)) for host in ("127.0.0.1", "127.0.0.2", "127.0.0.1", "::1")]
    with run_shield([upstream], listen=listen) as shield:
        for endpoint in listen:
            assert ask("www.test.", server=endpoint, tcp=tcp).answer
        assert shield.stats()["cache_hits"] == 3
    assert upstream.count("www.test.") == 1


@transports
@pytest.mark.parametrize(("host", "asked"), [("0.0.0.0", ["127.0.0.1", "127.0.0.2", "127.7.7.7"]), ("::", ["::1"])])
def test_a_wildcard_answers_from_the_address_that_was_asked(upstream, host, asked, tcp):
    port = free_port(host)
    with run_shield([upstream], listen=[(host, port)]):
        for each in asked:
            for _ in "cold", "warm":  # a connected socket takes an answer from nowhere else
                assert ask(f"{each.replace(':', '-')}.test.", server=(each, port), tcp=tcp, timeout=10).answer
    assert len(upstream.received) == len(asked)


@transports
@pytest.mark.parametrize(("wildcard", "one", "other"), [("0.0.0.0", "127.0.0.1", "127.0.0.2"), ("::", "::1", None)])
def test_a_wildcard_and_one_of_its_addresses_are_both_listened_on(upstream, wildcard, one, other, tcp):
    port = free_port(wildcard)
    rule = f'[[rules]]\nmatch = {{ listener = "{Address(one, port)}" }}\naction = "nxdomain"'
    for listen in ([wildcard, one], [one, wildcard]):
        with run_shield([upstream], listen=[(host, port) for host in listen], toml=rule):
            assert ask("www.test.", server=(one, port), tcp=tcp).rcode() == dns.rcode.NXDOMAIN
            if other:
                assert ask("www.test.", server=(other, port), tcp=tcp).answer


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('listen = ["127.0.0.1:53", "[::1]:53", "127.0.0.1:53"]', "listen: more than once: 127.0.0.1:53"),
        (
            'listen = ["127.0.0.1:53"]\nmetrics.listen = "0.0.0.0:53"',
            "metrics.listen: 0.0.0.0:53 conflicts with listen",
        ),
        ('listen = ["[::]:53"]\nmetrics.listen = "[::1]:53"', "metrics.listen: [::1]:53 conflicts with listen"),
    ],
)
def test_an_address_that_is_listened_on_twice_is_named(tmp_path, text, told):
    file = tmp_path / "file.toml"
    file.write_text(text)
    assert_one_line(command("check", "-c", file), 2, told)


@transports
def test_an_upstream_may_have_an_ipv6_address(tcp):
    with ScriptedUpstream(address, host="::1") as upstream, run_shield([upstream]) as shield:
        for _ in "cold", "warm":
            assert ask("www.test.", server=shield, tcp=tcp).answer
        assert upstream.count("www.test.") == len(upstream.received) == 1


def test_two_workers_share_cache_and_upstream(upstream):
    threads = []
    for workers in 1, 2:
        with run_shield([upstream], workers=workers) as shield, ThreadPoolExecutor(16) as pool:
            threads.append(len(credentials(shield.process)))
            upstream.received.clear()
            replies = pool.map(lambda n, server=shield: ask(f"{n % 4}.test.", server=server), range(200))
            assert all(reply.answer for reply in replies)
            assert [upstream.count(f"{n}.test.") for n in range(4)] == [1] * 4
            stats = shield.stats()
            assert stats["queries"] == stats["cache_hits"] + stats["cache_misses"] == 200
    assert threads[1] == threads[0] + 2  # one for UDP, one for TCP


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_it_becomes_another_user_with_all_its_threads(upstream):
    metrics = free_port()
    toml = f'user = "nobody"\nmetrics.listen = "127.0.0.1:{metrics}"'
    with run_shield([upstream], workers=2, toml=toml) as shield:
        nobody = pwd.getpwnam("nobody")
        everybody = credentials(shield.process)
        assert len(everybody) >= 3
        for uids, gids, groups, capabilities in everybody:
            assert uids == [str(nobody.pw_uid)] * 4
            assert gids == [str(nobody.pw_gid)] * 4
            assert "0" not in groups
            assert capabilities == 0
        assert shield.control.stat().st_uid == nobody.pw_uid
        for tcp in False, True:
            assert ask("www.test.", server=shield, tcp=tcp).answer
        assert shield.stats()["queries"] == 2
    assert upstream.count("www.test.") == 1


def test_it_tells_the_service_manager(upstream, tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with run_shield([upstream]) as shield:
            assert manager.recv(4096) == b"READY=1"
            assert ask("www.test.", server=shield).answer
            shield.process.send_signal(signal.SIGHUP)
            assert manager.recv(4096).splitlines()[0] == b"RELOADING=1"
            assert manager.recv(4096) == b"READY=1"
        assert manager.recv(4096) == b"STOPPING=1"
    assert len(upstream.received) == 1


def test_logs_may_be_json(upstream):
    with run_shield([upstream], toml='[log]\nformat = "json"\nlevel = "debug"') as shield:
        assert ask("www.test.", server=shield).answer
        shield.process.send_signal(signal.SIGHUP)
        wait_for_log(shield, "reloaded")
        shield.terminate()
        lines = [json.loads(line) for line in shield.log.splitlines()]
    assert all({"time", "level", "message"} <= line.keys() for line in lines)
    assert lines[-1]["message"] == "stopped"
    assert abs(lines[-1]["time"] - time.time()) < 60
    assert len(upstream.received) == 1


# ------------------------------------------------------------ end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_clients_that_wait_are_answered_before_it_ends(number):
    with ScriptedUpstream(slow) as upstream, run_shield([upstream]) as shield, ThreadPoolExecutor(4) as pool:
        waiting = [
            pool.submit(ask, f"{n}.test.", server=shield, tcp=tcp, options=options)
            for n, (tcp, options) in enumerate(itertools.product([False, True], [[], [NSID]]))
        ]
        upstream.wait_for(4)
        stopwatch = Stopwatch()
        shield.process.send_signal(number)
        assert [addresses(each.result()) for each in waiting] == [["192.0.2.1"]] * 4
        assert shield.process.wait(3) == 0
        assert stopwatch.seconds() < 2
        assert [upstream.count(f"{n}.test.") for n in range(4)] == [1] * 4
        assert not shield.control.exists()
        assert "Traceback" not in shield.log


@transports
def test_it_does_not_wait_for_ever(tcp):
    toml = "drain_timeout = 0.3\n[forward]\ntimeout = 9.0\ndeadline = 10.0"
    with (
        ScriptedUpstream(lambda query: None) as upstream,
        run_shield([upstream], toml=toml) as shield,
        ThreadPoolExecutor(1) as pool,
    ):
        waiting = pool.submit(ask, "www.test.", server=shield, tcp=tcp, timeout=2)
        upstream.wait_for(1)
        shield.process.terminate()
        assert shield.process.wait(1.5) == 0
        with pytest.raises((OSError, EOFError)):
            waiting.result()
        assert "Traceback" not in shield.log
        assert len(upstream.received) == 1


def test_connections_that_say_nothing_do_not_keep_it(upstream, shield):
    with (
        socket.create_connection(shield.address) as sock,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as controller,
    ):
        controller.connect(str(shield.control))
        assert ask("www.test.", server=shield, tcp=True).answer
        shield.process.terminate()
        assert shield.process.wait(1.5) == 0
        assert sock.recv(1) == b""
        assert "Traceback" not in shield.log
    assert len(upstream.received) == 1


def test_its_port_can_be_had_again_at_once(upstream):
    listen = [("127.0.0.1", free_port())]
    for times in 1, 2:
        with run_shield([upstream], listen=listen) as shield, socket.create_connection(shield.address):
            for tcp in False, True:
                assert ask("www.test.", server=shield, tcp=tcp).answer
            assert upstream.count("www.test.") == times


# ------------------------------------------------------------ reload


@pytest.fixture
def reloadable(upstream, shield):
    """Return a function that changes the file (text for text), has it read again, and waits for the log."""
    file = shield.folder / "funkenshield.toml"

    def reload(old, new, expected):
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
        times = shield.log.count(expected) + 1
        shield.process.send_signal(signal.SIGHUP)
        wait_for_log(shield, expected, times)

    return reload


@transports
def test_upstreams_change_at_once_and_the_cache_is_kept(upstream, shield, reloadable, tcp):
    assert addresses(ask("kept.test.", server=shield, tcp=tcp)) == ["192.0.2.1"]
    with ScriptedUpstream(another_address) as new:
        reloadable(str(upstream.address), str(new.address), "reloaded")
        for n in range(5):
            assert addresses(ask(f"name{n}.test.", server=shield, tcp=tcp)) == ["192.0.2.2"]
            assert (upstream.count(f"name{n}.test."), new.count(f"name{n}.test.")) == (0, 1)
        assert addresses(ask("kept.test.", server=shield, tcp=tcp)) == ["192.0.2.1"]
        assert (len(upstream.received), new.count("kept.test.")) == (1, 0)
        assert list(shield.stats()["upstreams"]) == [str(new.address)]
        reloadable(str(new.address), str(upstream.address), "reloaded")
        assert addresses(ask("back.test.", server=shield, tcp=tcp)) == ["192.0.2.1"]
        assert (upstream.count("back.test."), new.count("back.test.")) == (1, 0)
    assert shield.stats()["reloads"] == 2


@transports
def test_a_query_that_is_on_its_way_survives_a_change_of_upstreams(upstream, shield, reloadable, tcp):
    upstream.handle = slow
    with ScriptedUpstream(another_address) as new, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, "www.test.", server=shield, tcp=tcp)
        upstream.wait_for(1)
        reloadable(str(upstream.address), str(new.address), "reloaded")
        assert addresses(waiting.result()) in (["192.0.2.1"], ["192.0.2.2"])
        assert upstream.count("www.test.") == 1
        assert new.count("www.test.") <= 1


def test_limits_change_at_once(upstream, shield, reloadable):
    upstream.handle = lambda query: None
    reloadable("workers = 1", "workers = 1\n[forward]\ntimeout = 0.2\ndeadline = 0.4", "reloaded")
    stopwatch = Stopwatch()
    assert ask("www.test.", server=shield).rcode() == dns.rcode.SERVFAIL
    assert stopwatch.seconds() < 0.5
    assert upstream.count("www.test.") == 2


MISTAKES = {
    "unknown key": ('listens = ["127.0.0.1:53"]', ": listens"),
    "unknown key of a table": ("[cache]\nsize = 5", ": cache.size"),
    "unknown table": ("[cash]\nmemory = 5", ": cash"),
    "wrong type": ('workers = "two"', ": workers"),
    "wrong type in a table": ('[udp]\nmax_payload = "much"', ": udp.max_payload"),
    "no whole number": ("[ttl]\nmin = 1.5", ": ttl.min"),
    "too much": ("[forward]\ntimeout = 99.0", ": forward.timeout"),
    "too little": ("[cache]\nmemory = 1", ": cache.memory"),
    "no size": ('[cache]\nmemory = "64 apples"', ": cache.memory"),
    "no choice": ('[log]\nlevel = "loud"', ": log.level"),
    "a host name": ('upstreams = ["localhost"]', ": upstreams"),
    "no port": ('upstreams = ["127.0.0.1"]', ": upstreams"),
    "port 0": ('upstreams = ["127.0.0.1:0"]', ": upstreams"),
    "no interface": ('upstreams = ["[fe80::1%nowhere0]:53"]', ": upstreams"),
    "link-local alone": ('listen = ["[fe80::1]:53"]', ": listen"),
    "no ports": ('[forward]\nsource_port_avoid = [53, "5010-5000"]', ": forward.source_port_avoid"),
    "no brackets": ('upstreams = ["::1:53"]', ": upstreams"),
    "no upstream": ("upstreams = []", ": upstreams"),
    "nowhere to listen": ("listen = []", ": listen"),
    "a table that is none": ("cache = 5", ": cache"),
    "no such user": ('user = "nobody-of-that-name"', ": user: no user nobody-of-that-name"),
    "no folder": ('cache.snapshot = "/none/such/cache"', ": cache.snapshot: no folder /none/such"),
    "no secrets": ('cookies.secret_file = "/none/such"', ": cookies.secret_file: /none/such: No such file"),
    "not TOML": ("listen = [", ":1:11: not TOML"),
}
mistakes = pytest.mark.parametrize(("text", "key"), MISTAKES.values(), ids=MISTAKES)


@mistakes
def test_a_file_with_a_mistake_is_not_taken(emptied, text, key):
    upstream, shield = emptied
    file = shield.folder / "funkenshield.toml"
    before, right = shield.log, file.read_text()
    assert ask("kept.test.", server=shield).answer
    file.write_text(text)
    shield.process.send_signal(signal.SIGHUP)
    wait_for_log(shield, "reload failed", before.count("reload failed") + 1)
    file.write_text(right)
    said = shield.log.removeprefix(before)
    assert f"reload failed: {file}{key}" in said
    assert "Traceback" not in said
    for name in "kept.test.", "new.test.":
        assert ask(name, server=shield).answer
        assert upstream.count(name) == 1


def test_a_file_that_is_gone_is_not_taken(upstream, shield):
    (shield.folder / "funkenshield.toml").unlink()
    shield.process.send_signal(signal.SIGHUP)
    wait_for_log(shield, "reload failed")
    assert "No such file" in shield.log
    assert ask("www.test.", server=shield).answer
    assert upstream.count("www.test.") == 1


def test_what_takes_a_restart_is_named(upstream, shield, reloadable):
    reloadable("workers = 1", "workers = 2", "reloaded")
    assert "workers: the new value takes effect after a restart" in shield.log
    assert ask("www.test.", server=shield).answer
    assert upstream.count("www.test.") == 1


# ------------------------------------------------------------ what is wrong is said in one line


@mistakes
def test_a_mistake_in_the_file_is_named(tmp_path, text, key):
    file = tmp_path / "file.toml"
    file.write_text(text)
    assert_one_line(command("check", "-c", file), 2, f"{file}{key}")


@pytest.mark.parametrize("mistake", ["unknown key", "wrong type", "no upstream", "not TOML"])
def test_it_does_not_start_with_a_mistake(tmp_path, mistake):
    text, key = MISTAKES[mistake]
    file = tmp_path / "file.toml"
    file.write_text(text)
    assert_one_line(command("run", "-c", file), 2, f"{file}{key}")


def test_each_mistake_has_its_line(tmp_path):
    file = tmp_path / "file.toml"
    file.write_text('workers = "two"\nfast = true\nupstreams = ["a", "b"]')
    done = command("check", "-c", file)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 4
    assert all(str(file) in line for line in done.stderr.splitlines())


@pytest.mark.parametrize("how", ["run", "check"])
def test_a_file_that_is_not_there_is_named(tmp_path, how):
    assert_one_line(command(how, "-c", tmp_path / "none.toml"), 2, tmp_path / "none.toml", "No such file")


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        (["--upstream", "localhost"], "upstreams"),
        (["--listen", "[127.0.0.1]:53"], "IPv6 addresses"),
        (["--workers", "-1"], "workers"),
        (["--cache-memory", "1"], "cache.memory"),
    ],
)
def test_a_mistake_in_a_flag_is_named(flags, key):
    assert_one_line(command("run", *flags), 2, "command line", key)


def test_a_right_file_is_right(tmp_path):
    file = tmp_path / "file.toml"
    file.write_text('listen = ["[::1]:53"]\nupstreams = ["192.0.2.1:53"]\n[cache]\nmemory = "64MiB"')
    done = command("check", "-c", file)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{file}: ok\n", "")


def run_command(tmp_path, *flags, listen, toml=""):
    file = tmp_path / "file.toml"
    file.write_text(toml)
    flags = flags or ("--control", tmp_path / "control")
    return command("run", "-c", file, "--listen", listen, "--upstream", "127.0.0.1:1", *flags)


@pytest.mark.parametrize("kept", [0, 1], ids=["UDP", "TCP"])
def test_a_port_that_is_taken_is_named(tmp_path, kept):
    sockets = bind_pair()
    listen = Address(*sockets[0].getsockname())
    with sockets[kept]:
        sockets[not kept].close()
        done = run_command(tmp_path, listen=listen)
    assert_one_line(done, 1, listen, ("UDP", "TCP")[kept], "address in use by another program")
    assert not (tmp_path / "control").exists()


def test_another_shield_on_the_same_port_is_noticed(tmp_path, upstream, shield):
    assert_one_line(run_command(tmp_path, listen=shield.address), 1, shield.address)
    assert ask("www.test.", server=shield).answer
    assert upstream.count("www.test.") == 1


def test_an_address_of_another_machine_is_named(tmp_path):
    assert_one_line(run_command(tmp_path, listen="192.0.2.1:53"), 1, "192.0.2.1:53", "no such address")


def test_a_metrics_port_that_is_taken_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = Address(*taken.getsockname())
        done = run_command(tmp_path, listen=Address("127.0.0.1", free_port()), toml=f'metrics.listen = "{listen}"')
    assert_one_line(done, 1, listen, "address in use by another program")


def test_a_control_path_that_cannot_be_had_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "control"
    done = run_command(tmp_path, "--control", path, listen=Address("127.0.0.1", free_port()))
    assert_one_line(done, 1, path)


def test_a_control_path_of_another_daemon_is_named(tmp_path, upstream, shield):
    done = run_command(tmp_path, "--control", shield.control, listen=Address("127.0.0.1", free_port()))
    assert_one_line(done, 1, shield.control, "another daemon uses this control socket")
    assert shield.stats()["queries"] == 0
    assert upstream.received == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_user_that_is_not_there_is_named(tmp_path):
    done = run_command(tmp_path, listen=Address("127.0.0.1", free_port()), toml='user = "nobody-of-that-name"')
    assert_one_line(done, 2, "user", "nobody-of-that-name")


def commands(group=main, *path):
    """Yield the path of each command, that of the whole first."""
    yield path
    for name, below in getattr(group, "commands", {}).items():
        yield from commands(below, *path, name)


@pytest.mark.parametrize("path", [*commands()], ids=lambda path: " ".join(path) or "funkenshield")
def test_each_command_explains_itself(path):
    done = command(*path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: ")
    assert len(done.stdout.splitlines()) > 4


def test_the_version_is_told():
    done = command("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"funkenshield {__version__} (")


# ------------------------------------------------------------ control


def test_the_control_socket_is_its_owners_alone(shield):
    assert stat.S_IMODE(shield.control.stat().st_mode) == 0o600
    assert shield.control.is_socket()


def test_a_control_socket_that_was_left_behind_is_replaced(upstream, tmp_path):
    path = tmp_path / "control"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(path))
    listen = Address("127.0.0.1", free_port())
    flags = "--listen", listen, "--upstream", upstream.address, "--control", path
    with subprocess.Popen([*COMMAND, "run", *map(str, flags)], stderr=subprocess.PIPE, text=True) as process:
        assert "ready" in process.stderr.readline()
        assert ask("www.test.", server=listen).answer
        assert json.loads(command("stats", "--json", "--control", path).stdout)["cache_misses"] == 1
        process.terminate()
        assert process.wait(3) == 0
    assert len(upstream.received) == 1


def test_statistics_tell_what_happened(upstream, shield):
    for tcp in False, True, True:
        assert ask("www.test.", server=shield, tcp=tcp).answer
    upstream.handle = nxdomain
    assert ask("other.test.", server=shield).rcode() == dns.rcode.NXDOMAIN
    stats = shield.stats()
    expected = {
        "queries": 4, "cache_hits": 2, "cache_misses": 2, "cache_entries": 2, "cache_inserts": 2,
        "outstanding_queries": 0, "resolution_failures": 0,
    }  # fmt: skip
    assert {key: stats[key] for key in expected} == expected
    assert stats["tcp_accepted"] == 2
    counters = stats["upstreams"][str(upstream.address)]
    assert (counters["queries"], counters["responses"], counters["unexpected_replies"]) == (2, 2, 0)
    overall, _, others = shield.command("stats").partition("\n\n")
    text = dict(line.split() for line in overall.splitlines() if len(line.split()) == 2)
    assert {key: text[key] for key in expected} == {key: str(value) for key, value in expected.items()}
    assert others.startswith(f"upstream {upstream.address}\n")
    assert len(upstream.received) == 2


FILLED = (
    ("a.zone.test.", "A"),
    ("a.zone.test.", "TXT"),
    ("b.a.zone.test.", "A"),
    ("zone.test.", "A"),
    ("azone.test.", "A"),
)


PURGES = {
    "--all": [0, 1, 2, 3, 4],
    "--all --type A": [0, 2, 3, 4],
    "--zone .": [0, 1, 2, 3, 4],
    "--zone zone.test": [0, 1, 2, 3],
    "--zone ZONE.test. --type txt": [1],
    "--name a.zone.test": [0, 1],
    "--name A.Zone.TEST --type A": [0],
    "--name absent.test": [],
}


@pytest.mark.parametrize(("options", "purged"), PURGES.items(), ids=PURGES)
def test_a_purge_takes_out_what_is_meant_and_nothing_else(emptied, options, purged):
    upstream, shield = emptied
    upstream.handle = lambda query: answer(query, "A 192.0.2.1" if query.rdtype == 1 else 'TXT "text"')
    for question in FILLED:
        assert ask(*question, server=shield).answer
    assert shield.command("purge", *options.split()).startswith("purged: ")
    for n, question in enumerate(FILLED):
        assert ask(*question, server=shield).answer
        assert upstream.count(*question) == 1 + (n in purged)


@pytest.mark.parametrize(
    ("options", "exit_code"),
    [
        ([], 2),
        (["--all", "--zone", "test"], 2),
        (["--name", "a..b"], 1),
        (["--name", "x" * 64], 1),
        (["--all", "--type", "NONSENSE"], 1),
    ],
)
def test_a_purge_of_nonsense_purges_nothing(emptied, options, exit_code):
    upstream, shield = emptied
    assert ask("www.test.", server=shield).answer
    done = command("purge", *options, "--control", shield.control)
    assert done.returncode == exit_code
    assert done.stderr
    assert "Traceback" not in done.stderr + shield.log
    assert ask("www.test.", server=shield).answer
    assert upstream.count("www.test.") == 1


@pytest.mark.parametrize("how", [["stats"], ["purge", "--all"]], ids=" ".join)
def test_a_daemon_that_is_not_there_is_missed(tmp_path, how):
    assert_one_line(command(*how, "--control", tmp_path / "none"), 1, tmp_path / "none", "no daemon")


@pytest.mark.parametrize(
    "nonsense",
    [b"{}", b"[]", b"null", b"nonsense", b"\xff\xfe", b'{"command": "purge"}', b'{"command": "purge", "name": 5}',
     b'{"command": "purge", "name": "a", "type": 5}', b"[" * 5000],
)  # fmt: skip
def test_a_request_that_is_none_is_told_so_and_the_next_one_is_answered(lasting, nonsense):
    _, shield = lasting
    refused, answered = request(shield, nonsense, b'{"command": "stats"}')
    assert (refused["ok"], answered["ok"]) == (False, True)
    assert refused["error"]
    assert "Traceback" not in shield.log


@pytest.mark.parametrize("seconds", ["60", "-1", "NaN"])
def test_its_clock_is_moved_forward_and_only_where_it_was_started_for_tests(emptied, seconds):
    upstream, shield = emptied
    advance = b'{"command": "advance", "seconds": %s}' % seconds.encode()

    def ttl(server):
        return ask("www.test.", server=server).answer[0].ttl

    before = ttl(shield)
    (moved,) = request(shield, advance)
    assert moved["ok"] == (seconds == "60") == (ttl(shield) <= before - 60)
    assert upstream.count("www.test.") == 1
    with run_shield([upstream], under=("env", "--unset=FUNKENSHIELD_TEST_CLOCK")) as other:
        before = ttl(other)
        refused, unknown = request(other, advance, b'{"command": "nonsense"}')
        assert refused == unknown
        assert before - 60 < ttl(other)


def test_prometheus_reads_the_same_numbers(upstream):
    metrics = Address("127.0.0.1", free_port())
    with run_shield([upstream], toml=f'metrics.listen = "{metrics}"') as shield:
        for tcp in False, True, False:
            assert ask("www.test.", server=shield, tcp=tcp).answer
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as page:
            families = {family.name: family for family in text_string_to_metric_families(page.read().decode())}
        stats = shield.stats()
    samples = {
        (sample.name, sample.labels.get("upstream")): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert all(name.startswith(("funkenshield_", "process_")) for name in families)
    assert all(family.documentation and family.type != "unknown" for family in families.values())
    for key, value in {"cache_hits": 2, "cache_misses": 1, "cache_inserts": 1, "tcp_accepted": 1}.items():
        assert samples[f"funkenshield_{key}_total", None] == stats[key] == value
    assert stats["queries"] == sum(sample.value for sample in families["funkenshield_queries"].samples) == 3
    assert samples["funkenshield_cache_entries", None] == stats["cache_entries"] == 1
    assert samples["funkenshield_upstream_queries_total", str(upstream.address)] == 1
    assert samples["funkenshield_cache_miss_latency_seconds_count", None] == 1
    assert 0 < samples["funkenshield_cache_miss_latency_seconds_sum", None] < 1
    assert len(upstream.received) == 1


def test_many_reloads_and_purges_cost_no_memory(emptied):
    upstream, shield = emptied
    since = stats(shield)["reloads"]
    for n in range(1, 6):  # after which all is loaded that a reload takes
        shield.process.send_signal(signal.SIGHUP)
        until(lambda n=n: stats(shield)["reloads"] == since + n)
    before = resident(shield.process)
    for n in range(200):
        shield.process.send_signal(signal.SIGHUP)
        assert ask(f"name{n}.test.", server=shield).answer
        everything = request(shield, b'{"command": "purge", "name": ".", "below": true}')
        assert everything == [{"ok": True}]
    assert resident(shield.process) < before + (4 << 20)
    assert len(upstream.received) == 200
