"""Commands: which file and which daemon they mean, and what they are given."""

import pytest
from click.testing import CliRunner

from funkenshield import cli, config
from funkenshield.config import places


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
