"""Show where a daemon is looked for, whose sockets are believed, and what is said where there is none."""

import os
import socket

import pytest

from funkenshield import config
from funkenshield.errors import FunkenShieldError
from funkenshield.screen import places


@pytest.fixture
def listen(tmp_path, monkeypatch):
    """Return what has somebody listen at a path below an empty folder, where alone daemons are looked for."""
    monkeypatch.setattr(places, "TEMPORARY", tmp_path)
    monkeypatch.setattr(places, "ROOTS", tmp_path / "run" / "control.sock")
    monkeypatch.setattr(places, "USERS", tmp_path / "users")
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "f.toml")
    monkeypatch.setattr(places, "default_socket", lambda: str(tmp_path / "default" / "funkenshield.sock"))
    monkeypatch.setattr("funkenshield.config.default_socket", lambda: str(tmp_path / "default" / "funkenshield.sock"))
    opened = []

    def listen(name):
        path = tmp_path / name
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        opened.append(socket.socket(socket.AF_UNIX))
        opened[-1].bind(str(path))
        opened[-1].listen()
        return path

    yield listen
    for each in opened:
        each.close()


def test_the_daemon_of_the_configuration_comes_first(listen, tmp_path):
    playground, default, configured = map(
        listen, ("funkenshield-abc/control.sock", "default/funkenshield.sock", "mine/here.sock")
    )
    (tmp_path / "f.toml").write_text(f'[control]\nsocket = "{configured}"')
    assert places.running({}) == [configured, default, playground]
    elsewhere = listen("other/variable.sock")
    assert places.running({"FUNKENSHIELD_CONTROL__SOCKET": str(elsewhere)}) == [elsewhere, default, playground]


def test_a_daemon_is_told_once_by_whatever_names(listen, tmp_path):
    default = listen("default/funkenshield.sock")
    (tmp_path / "link.sock").symlink_to(default)
    (tmp_path / "f.toml").write_text(f'[control]\nsocket = "{tmp_path}/link.sock"')
    (tmp_path / "funkenshield-x").symlink_to(tmp_path / "default")
    assert places.running({}) == [tmp_path / "link.sock"]


def test_what_somebody_else_may_have_put_there_is_not_believed(listen, monkeypatch):
    path = listen("funkenshield-abc/control.sock")
    assert places.running({}) == [path]
    path.parent.chmod(0o777)
    with pytest.raises(FunkenShieldError):
        places.running({})
    path.parent.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(FunkenShieldError):
        places.running({})


def test_what_an_operator_has_named_is_believed_wherever_it_is(listen, tmp_path):
    path = listen("shared/here.sock")
    path.parent.chmod(0o1777)
    (tmp_path / "f.toml").write_text(f'[control]\nsocket = "{path}"')
    assert places.running({}) == [path]


def test_where_nobody_answers_a_line_says_where_was_looked(listen, tmp_path):
    left = listen("funkenshield-abc/control.sock")
    with socket.socket(socket.AF_UNIX) as gone:
        (tmp_path / "funkenshield-left").mkdir()
        gone.bind(str(tmp_path / "funkenshield-left" / "control.sock"))
    assert places.running({}) == [left], "whose daemon is gone"
    left.unlink()
    with pytest.raises(
        FunkenShieldError,
        match=r"no daemon runs here: nobody answers at .*/funkenshield-left/control.sock; --control PATH",
    ):
        places.running({})


def test_a_daemon_of_others_is_told_to_be_so(listen, tmp_path, monkeypatch):
    path = listen("default/funkenshield.sock")

    def refuse(asked):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(places, "_connect", refuse)
    with pytest.raises(FunkenShieldError, match=f"{path}: permission denied; try as root"):
        places.running({})


def test_a_configuration_without_a_socket_is_no_error(listen, tmp_path):
    (tmp_path / "f.toml").write_text('[control]\nsocket = ""')
    path = listen("default/funkenshield.sock")
    assert places.running({}) == [path]
