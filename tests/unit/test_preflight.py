"""What a configuration names on this machine is looked for before anything begins; a line tells what is not there."""

import pytest
from click.testing import CliRunner

from funkenshield import cli, config
from funkenshield.config import places

MISSING = {
    'user = "nobody-of-that-name"': "user: no user nobody-of-that-name on this machine",
    'cache.snapshot = "{0}/none/cache"': "cache.snapshot: no folder {0}/none on this machine",
    'cookies.secrets = "{0}/none"': "cookies.secrets: {0}/none: No such file or directory",
    'upstreams = "127.0.0.1:8054"': "upstreams: 127.0.0.1:8054 is this shield itself, which listens on 127.0.0.1:8054",
}
TLS = '[[upstreams]]\naddress = "127.0.0.1:853"\ntransport = "tls"\ntls.name = "a.test"\ntls.authorities = "{0}/none"\n'


@pytest.mark.parametrize("command", ["check", "run"])
def test_all_that_is_missing_is_told_at_once(command, tmp_path):
    file = tmp_path / "f.toml"
    file.write_text("\n".join(MISSING).format(tmp_path))
    done = CliRunner().invoke(cli.main, [command, "-c", str(file)])
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [f"funkenshield: {file}: {line.format(tmp_path)}" for line in MISSING.values()]


def test_the_secret_that_nobody_named_is_made_when_it_is_wanted(tmp_path, monkeypatch):
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "none"))
    file = tmp_path / "f.toml"
    file.write_text('upstreams = "192.0.2.53:53"')
    done = CliRunner().invoke(cli.main, ["check", "-c", str(file)])
    assert (done.exit_code, done.stderr) == (0, "")


def test_certificates_are_looked_for(tmp_path):
    file = tmp_path / "f.toml"
    file.write_text(TLS.format(tmp_path))
    done = CliRunner().invoke(cli.main, ["check", "-c", str(file)])
    assert done.exit_code == 2
    assert f"{file}: upstream tls://127.0.0.1:853#a.test: " in done.stderr


def test_the_file_is_the_default_one_where_none_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "DEFAULT_FILE", tmp_path / "f.toml")
    (tmp_path / "f.toml").write_text("workers = 300")
    for command in ("check", "run"):
        done = CliRunner().invoke(cli.main, [command])
        assert done.exit_code == 2
        assert done.stderr == f"funkenshield: {tmp_path / 'f.toml'}: workers: 300 is too large; at most 255\n"


def test_a_daemon_is_found_by_its_file_even_if_that_has_mistakes_now(tmp_path, monkeypatch):
    file = tmp_path / "f.toml"
    monkeypatch.setattr(places, "DEFAULT_FILE", file)
    assert str(places.control_socket(None)) == config.default_socket()
    file.write_text('workers = "many"\n[control]\nsocket = "/some/where"')
    assert str(places.control_socket(None)) == str(places.control_socket(file)) == "/some/where"
    done = CliRunner().invoke(cli.main, ["stats", "-c", str(file)])
    assert done.stderr.startswith("funkenshield: /some/where: no daemon answers there")


@pytest.mark.parametrize(("written", "seconds"), [("90", 90), ("1h30m", 5400), ("250ms", 0.25)])
def test_times_on_the_command_line_are_as_in_the_file(written, seconds):
    assert cli.seconds(written) == seconds
