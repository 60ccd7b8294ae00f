"""Show where paths lead that files name, and that what is in a file counts when it is read again."""

from pathlib import Path

import pytest
from support.client import free_port

from funkenshield import cli
from funkenshield.config import load
from funkenshield.daemon import Daemon
from funkenshield.errors import ConfigError
from funkenshield.rules.engine import check

TABLE = """
rules_file = "rules.py"
control.socket = "control"
cache.snapshot = "kept/cache"
cookies.secret_file = "secrets"

[[upstreams]]
address = "192.0.2.1:853"
transport = "tls"
tls = { server_name = "ns.test", ca_file = "/etc/authorities.pem" }

[[rules]]
match = { any = [{ suffix_file = "names" }, { not = { suffix_file = "others" } }] }
action = { zone_file = "x.zone" }

[[rules]]
action = { call = "lib/rules.py:f" }
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Return the folder of a configuration; the working directory is another."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "funkenshield.toml").write_text(TABLE)
    return tmp_path / "etc"


def test_paths_in_a_file_are_relative_to_the_file(elsewhere):
    found = load(elsewhere / "funkenshield.toml")
    assert found.control.socket == f"{elsewhere}/control"
    assert found.rules_file == f"{elsewhere}/rules.py"
    assert found.cache.snapshot == f"{elsewhere}/kept/cache"
    assert found.cookies.secret_file == f"{elsewhere}/secrets"
    assert found.upstreams[0].tls.ca_file == "/etc/authorities.pem"
    assert [each.suffix_file for each in found.rules[0].match.walk() if each.suffix_file] == [
        f"{elsewhere}/names",
        f"{elsewhere}/others",
    ]
    assert found.rules[0].action.zone_file == f"{elsewhere}/x.zone"
    assert found.rules[1].action.call == f"{elsewhere}/lib/rules.py:f"


def test_a_path_of_the_command_line_is_relative_to_the_working_directory(elsewhere, monkeypatch):
    served = []
    monkeypatch.setattr("funkenshield.daemon.serve", lambda config, reread, *_, **__: served.extend((config, reread())))
    monkeypatch.setattr("funkenshield.preflight.examine", lambda *_, **__: None)  # what it names is not there
    file = elsewhere / "funkenshield.toml"
    cli.main(["run", "-c", str(file), "--control", "here"], standalone_mode=False)
    assert [each.control.socket for each in served] == [f"{Path.cwd()}/here"] * 2


def test_paths_in_a_file_of_rules_are_relative_to_that(elsewhere):
    (elsewhere / "lib").mkdir()
    (elsewhere / "names").write_text("one.test\n")
    (elsewhere / "others").write_text("two.test\n")
    (elsewhere / "x.zone").write_text("$ORIGIN one.test.\n@ 300 SOA ns h 1 2 3 4 5\n@ 300 NS ns\nns 300 A 192.0.2.1\n")
    (elsewhere / "lib" / "names").write_text("three.test\n")
    (elsewhere / "lib" / "rules.py").write_text(
        "from funkenshield.rules import *\nshield.rule(suffix_file('names'), action=drop())\ndef f(query): ...\n"
    )
    table = elsewhere / "funkenshield.toml"
    table.write_text(table.read_text().replace('"rules.py"', '"lib/rules.py"').replace("tls = {", "#").replace(
        '"tls"', '"tcp"'))  # fmt: skip
    check(load(table))
    (elsewhere / "lib" / "names").unlink()
    with pytest.raises(ConfigError, match=rf"^{elsewhere}/lib/names: No such file"):
        check(load(table))


def test_nonsense_in_a_file_of_secrets_is_told_at_a_reload_and_nothing_changes(tmp_path):
    secrets, table = tmp_path / "secrets", tmp_path / "funkenshield.toml"
    secrets.write_text("0" * 32)
    table.write_text(
        f'listen = ["127.0.0.1:{free_port()}"]\ncontrol.socket = "control"\n'
        'cookies.secret_file = "secrets"\nworkers = 1\n'
    )
    daemon = Daemon(load(table))
    try:
        secrets.write_text("1" * 32)
        daemon.configure(load(table))
        assert daemon._secrets.current() == (b"\x11" * 16,)
        secrets.write_text("nonsense")
        table.write_text(f"{table.read_text()}minimal_any = true\n")
        with pytest.raises(ConfigError, match=rf"^{secrets}:1: not a secret"):
            daemon.configure(load(table))
        assert daemon.config.minimal_any is False
        assert daemon._secrets.current() == (b"\x11" * 16,)
    finally:
        daemon._bound.close()
