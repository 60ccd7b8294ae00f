"""Commands: which file and which daemon they mean, and what they are given."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from funkenshield import __version__, cli, config
from funkenshield.xdp import interface


def test_the_file_is_the_default_one_where_none_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "f.toml")
    (tmp_path / "f.toml").write_text("workers = 300")
    for command in ("check", "run"):
        done = CliRunner().invoke(cli.main, [command])
        assert done.exit_code == 2
        assert done.stderr == f"funkenshield: {tmp_path / 'f.toml'}: workers: 300 is too large; at most 255\n"


def test_a_daemon_is_found_by_its_file_even_if_that_has_mistakes_now(tmp_path, monkeypatch):
    file = tmp_path / "f.toml"
    monkeypatch.setattr(config, "DEFAULT_FILE", file)
    assert str(config.control_socket(None)) == config.default_socket()
    file.write_text('workers = "many"\n[control]\nsocket = "/some/where"')
    assert str(config.control_socket(None)) == str(config.control_socket(file)) == "/some/where"
    done = CliRunner().invoke(cli.main, ["stats", "-c", str(file)])
    assert done.stderr.startswith("funkenshield: /some/where: no daemon answers on this control socket")


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        ({}, []),
        (
            {
                "queries": 1234, "start_time_seconds": 1.5, "of_tomorrow": {"a": 1}, "upstreams": {"u": {"queries": 7}},
                "rules": {"r": {"matches": 5, "of_tomorrow": [1]}},
            },
            ["queries 1,234", "upstream u", "state", "queries 7", "rule r", "matches 5"],
        ),
        (
            {
                "responses": {"udp": {"NOERROR": 2}}, "queries_by_transport": {"tcp": 3}, "rules": {},
                "tls_failures": {"not_tls": 1}, "tls_certificate_expiry_timestamp_seconds": {"/a/b.pem": 1782907200.0},
                "upstreams": {
                    "u": {
                        "name": "u", "address": "a", "state": "up", "sent": 4, "latency_histogram": {},
                        "rcodes": {"NOERROR": 4}, "latency": {"median": 0.0015},
                        "failures": {"timeout": 2, "refused": 0}, "client_visible_failures": {"timeout": 1},
                    }
                },
            },
            ["responses udp NOERROR 2", "queries tcp 3", "tls_failures not_tls 1",
             "certificate /a/b.pem: expires 2026-07-01 12:00 UTC", "upstream u", "state up", "sent 4",
             "NOERROR 4", "failures: timeout 2, visible to clients: 1", "latency median 1.500 ms"],
        ),
    ],
)  # fmt: skip
def test_the_statistics_of_a_daemon_of_another_version_are_shown_as_far_as_they_are_known(found, shown, monkeypatch):
    monkeypatch.setattr("funkenshield.admin.control.ask", lambda *_: {"stats": found})
    done = CliRunner().invoke(cli.main, ["stats", "--control", "here"], catch_exceptions=False)
    assert (done.exit_code, done.stderr) == (0, "")
    assert [" ".join(line.split()) for line in done.stdout.splitlines() if line] == shown


@pytest.mark.parametrize(("written", "seconds"), [("90", 90), ("1h30m", 5400), ("250ms", 0.25)])
def test_times_on_the_command_line_are_as_in_the_file(written, seconds):
    assert cli.seconds(written) == seconds


LOADED = """
import sys
from funkenshield.__main__ import main
try:
    main()
finally:
    print(*sys.modules)
"""


def loaded_by(*args):
    """Run a command; return what it prints, and which modules it has loaded."""
    done = subprocess.run([sys.executable, "-c", LOADED, *args], capture_output=True, text=True, timeout=15)
    assert (done.returncode, done.stderr) == (0, "")
    printed, loaded = done.stdout[:-1].rsplit("\n", 1)
    return printed, loaded.split()


def packages(modules):
    return {name.partition(".")[0] for name in modules}


def test_the_version_is_printed_without_loading_what_the_daemon_needs():
    printed, loaded = loaded_by("--version")
    assert re.fullmatch(rf"funkenshield {re.escape(__version__)} \(.*DNS over TLS.*\)", printed)
    assert not packages(loaded) & {"asyncio", "cryptography", "dns", "pydantic", "qh3", "ssl", "uvloop"}
    assert len(loaded) < 260  # a tenth of a second; 206 by now, most of them Python's and click's


def test_what_reads_certificates_is_loaded_only_where_there_are_some(tmp_path):
    config = tmp_path / "shield.toml"
    config.write_text('listen = "127.0.0.1:5353"\nupstreams = ["127.0.0.1:5300"]\n')
    assert "cryptography" not in packages(loaded_by("check", "-c", str(config))[1])


@pytest.mark.parametrize(
    ("module", "error", "told"),
    [
        ("_tls", ModuleNotFoundError("No module"), "TLS for clients: built without OpenSSL's headers"),
        ("_tls", ImportError("libssl.so.3: no such file"), "TLS for clients: libssl.so.3: no such file"),
        ("_http2", ModuleNotFoundError("No module"), "HTTPS for clients: built without nghttp2's headers"),
        ("_http2", ImportError("libnghttp2.so.14: no file"), "HTTPS for clients: libnghttp2.so.14: no file"),
    ],
)  # fmt: skip
def test_the_version_tells_why_something_is_not_there(module, error, told, monkeypatch):
    class Refusing:
        def find_spec(self, name, *_):
            if name == f"funkenshield.server.{module}":
                raise error

    monkeypatch.delitem(sys.modules, f"funkenshield.server.{module}", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    done = CliRunner().invoke(cli.main, ["--version"], catch_exceptions=False)
    assert re.fullmatch(rf"funkenshield {re.escape(__version__)} \(.*\)\n", done.stdout)
    assert f"without DNS over {told}" in done.stdout


def test_the_version_tells_where_programs_for_the_kernel_were_left_out(monkeypatch):
    monkeypatch.setitem(interface.PROGRAMS, "queries", Path(__file__))
    monkeypatch.setitem(interface.PROGRAMS, "answers", Path("nowhere.bpf.o"))
    done = CliRunner().invoke(cli.main, ["--version"], catch_exceptions=False)
    assert done.stdout.endswith("; without AF_XDP for clients: built without clang)\n")


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("ns", "did you mean 'nameserver'?"),
        ("about config", "did you mean 'docs'?"),
        ("blocks", "did you mean 'block list'?"),
        ("unblock 192.0.2.1", "did you mean 'block remove'?"),
        ("chekc", "did you mean 'check' or 'cache'?"),
        ("block ad 192.0.2.1", "did you mean 'add'?"),
        ("block 192.0.2.1", "there are add, list, remove"),
        ("docs xyz", "there are commands, completion, config, json-schema, man, metrics, rules"),
    ],
)
def test_a_command_that_does_not_exist(typed, hint):
    done = CliRunner().invoke(cli.main, typed.split())
    wrong = typed.split()[1 if typed.startswith(("block ", "docs")) else 0]
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == f"Error: no such command: {wrong!r}; {hint}"
