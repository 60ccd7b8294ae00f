"""Show where secrets of cookies come from, that they stay, and that they roll over when their file is written."""

import os

import pytest

from funkenshield.config import default_secrets
from funkenshield.errors import ConfigError
from funkenshield.policy.cookie_secrets import CookieSecrets, keep_secret, load_secrets

OLD, NEW = bytes(range(16)), bytes(range(16, 32))


# ---------------------------------------------------------------- the file of secrets


def test_those_of_another_process_are_used_unless_there_is_a_file(tmp_path):
    drawn = CookieSecrets(None)
    drawn.resume((b"of another proce",))
    assert drawn.current() == (b"of another proce",)
    path = tmp_path / "secrets"
    path.write_text("00" * 16)
    read = CookieSecrets(path)
    read.resume((b"of another proce",))
    assert read.current() == (bytes(16),)


def test_secrets_are_read_in_order_with_comments_and_blank_lines(tmp_path):
    file = tmp_path / "secrets"
    file.write_text(f"# of May\n\n  {NEW.hex().upper()}  # makes\r\n{OLD.hex()}")
    assert load_secrets(file) == (NEW, OLD)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "secrets: no secret; write 1 to 4 of 32 hex digits, one per line"),
        ("# nothing\n\n", "secrets: no secret; write 1 to 4 of 32 hex digits, one per line"),
        (f"{OLD.hex()}\n{NEW.hex()}0\n", "secrets:2: not a secret; write 32 hex digits, one secret per line"),
        (f"\n{OLD.hex()} {NEW.hex()}\n", "secrets:2: not a secret; write 32 hex digits, one secret per line"),
        (f"{'0 ' * 16}\n", "secrets:1: not a secret; write 32 hex digits, one secret per line"),
        (f"{OLD.hex()}\n" * 5, "secrets:5: more than 4 secrets"),
        (b"\xff" * 32, "secrets: not UTF-8 text; write secrets of 32 hex digits, one per line"),
    ],
)
def test_a_mistake_in_the_file_is_told_without_its_secrets(tmp_path, text, message):
    file = tmp_path / "secrets"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as told:
        load_secrets(file)
    assert str(told.value) == f"{tmp_path}/{message}"


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigError, match="secrets: No such file or directory"):
        CookieSecrets(tmp_path / "secrets")


def test_without_a_file_a_secret_is_drawn_that_stays():
    secrets, others = CookieSecrets(None), CookieSecrets(None)
    (drawn,) = secrets.current()
    assert len(drawn) == 16
    assert not secrets.refresh()
    assert secrets.current() == (drawn,) != others.current()


def test_secrets_roll_over_when_the_file_is_written(tmp_path):
    file = tmp_path / "secrets"
    file.write_text(OLD.hex())
    secrets = CookieSecrets(file)
    assert not secrets.refresh()
    for keys in ((OLD, NEW), (NEW, OLD), (NEW,)):
        written = tmp_path / "written"
        written.write_text("\n".join(key.hex() for key in keys))
        written.rename(file)
        assert secrets.refresh()
        assert secrets.current() == keys
        assert not secrets.refresh()


def test_a_file_written_in_place_is_seen_and_one_only_touched_changes_nothing(tmp_path):
    file = tmp_path / "secrets"
    file.write_text(OLD.hex())
    secrets = CookieSecrets(file)
    file.write_text(NEW.hex())
    os.utime(file, ns=(0, 0))
    assert secrets.refresh()
    os.utime(file, ns=(1, 1))
    assert not secrets.refresh()
    assert secrets.current() == (NEW,)


@pytest.mark.parametrize("gone", [False, True])
def test_a_broken_file_is_warned_of_once_and_the_secrets_stay(tmp_path, caplog, gone):
    file = tmp_path / "secrets"
    file.write_text(OLD.hex())
    secrets = CookieSecrets(file)
    if gone:
        file.unlink()
    else:
        file.write_text(f"{NEW.hex()}, {OLD.hex()}")
    assert [secrets.refresh() for _ in range(3)] == [False] * 3
    assert secrets.current() == (OLD,)
    (warning,) = caplog.messages
    assert warning.startswith(f"{file}:")
    assert warning.endswith("; keeping the previous cookie secrets")
    assert NEW.hex() not in warning
    file.write_text(NEW.hex())
    assert secrets.refresh()
    assert secrets.current() == (NEW,)


# ---------------------------------------------------------------- the secret that nobody named


def test_a_secret_that_nobody_named_is_made_once_and_stays(tmp_path):
    file = tmp_path / "state" / "cookies"
    first = CookieSecrets(file, kept=True)
    assert file.stat().st_mode & 0o7777 == 0o600
    assert CookieSecrets(file, kept=True).current() == first.current() == load_secrets(file)
    assert [each.name for each in file.parent.iterdir()] == ["cookies"]
    assert not first.refresh()


def test_of_two_who_make_it_at_once_one_is_first(tmp_path, monkeypatch):
    file = tmp_path / "cookies"
    link = os.link

    def later(source, target):
        link(source, target)  # what the other did meanwhile
        link(source, target)

    monkeypatch.setattr(os, "link", later)
    assert not keep_secret(file)
    assert [each.name for each in tmp_path.iterdir()] == ["cookies"]


@pytest.mark.parametrize("there", ["a folder that is none", "no secret", "a folder"])
def test_where_it_cannot_be_kept_cookies_are_served_all_the_same(tmp_path, caplog, there):
    file = tmp_path / "state" / "cookies"
    if there == "a folder that is none":
        file.parent.write_text("")
    else:
        file.parent.mkdir()
        file.mkdir() if there == "a folder" else file.write_text("")
    (secret,) = CookieSecrets(file, kept=True).current()
    assert len(secret) == 16
    (warning,) = caplog.messages
    assert warning.startswith(f"{file}: ")
    assert warning.endswith("; using a random cookie secret until the next start")


@pytest.mark.parametrize(
    ("environment", "user", "path"),
    [
        ({"STATE_DIRECTORY": "/var/lib/one:/var/lib/two"}, 0, "/var/lib/one/cookies"),
        ({"XDG_STATE_HOME": "/home/me/state"}, 0, "/var/lib/funkenshield/cookies"),
        ({"XDG_STATE_HOME": "/home/me/state"}, 1000, "/home/me/state/funkenshield/cookies"),
        ({"HOME": "/home/me"}, 1000, "/home/me/.local/state/funkenshield/cookies"),
        ({"HOME": "no/path"}, 1000, ""),
    ],
)
def test_where_it_is_kept(monkeypatch, environment, user, path):
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert default_secrets() == path
