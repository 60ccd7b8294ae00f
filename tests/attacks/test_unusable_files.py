"""Know that whatever lies where a file should be, the daemon starts or tells why not in a line, and waits for none."""

import os
import pwd
import signal
import socket

import pytest
from support.client import ask, free_port
from support.control import stats
from support.forked import command
from support.process import run_shield
from support.until import until
from support.upstream import ScriptedUpstream, answer

from funkenshield.admin import control, process
from funkenshield.config.clients import CookiesSection
from funkenshield.errors import ConfigError
from funkenshield.policy import cookie_secrets

NOBODY = pwd.getpwnam("nobody").pw_uid
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away, or make devices")


def address(query):
    return answer(query, "A 192.0.2.1", ttl=3600)


def exchange_for(path, how):
    """Put something else in the place of a file."""
    kept = path.with_name("kept")
    path.rename(kept)
    match how:
        case "a pipe":
            os.mkfifo(path)
        case "a folder":
            path.mkdir()
        case "a link":
            path.symlink_to(kept)
        case "a link to nothing":
            path.symlink_to(path.with_name("nothing"))
        case "a device":
            os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))
        case "a socket":
            with socket.socket(socket.AF_UNIX) as left:
                left.bind(str(path))
        case "another user's":
            kept.rename(path)
            os.chown(path, NOBODY, NOBODY)
        case "writable by others":
            kept.rename(path)
            path.chmod(0o622)
        case "deep":
            first = kept.read_bytes().partition(b"\n")[0]
            path.write_bytes(first + b"\n" + b"[" * 100_000)


IN_PLACE = {
    "a pipe": "not a regular file",
    "a folder": "Is a directory",
    "a link": "a symbolic link",
    "a link to nothing": "a symbolic link",
    "a socket": "not a regular file",
    "writable by others": "writable by others",
    "deep": "its header is malformed",
}
OF_ROOTS = {"a device": "not a regular file", "another user's": "owned by another user"}


@pytest.mark.parametrize(
    ("how", "why"), [*IN_PLACE.items(), *(pytest.param(*each, marks=as_root) for each in OF_ROOTS.items())]
)
def test_whatever_lies_in_place_of_a_snapshot_it_is_put_aside_and_told(how, why, tmp_path):
    path = tmp_path / "cache"
    toml = f'cache.snapshot = "{path}"\n'
    with ScriptedUpstream(address) as upstream:
        with run_shield([upstream], toml=toml) as shield:
            ask("www.test.", server=shield)
        exchange_for(path, how)
        with run_shield([upstream], toml=toml) as shield:
            assert [line for line in shield.log.splitlines() if "WARNING" in line or "ERROR" in line] == [
                line for line in shield.log.splitlines() if f"{path}: snapshot rejected: " in line and why in line
            ]
            assert shield.log.count("snapshot rejected") == 1
            assert stats(shield)["cache_entries"] == 0
            assert ask("www.test.", server=shield).answer
            assert os.path.lexists(path.with_name("cache.damaged"))
            assert not os.path.lexists(path)
        with run_shield([upstream], toml=toml) as shield:
            assert stats(shield)["cache_entries"] == 1, "the next one is written as ever"
        assert upstream.count() == 2


FILES = {
    "the configuration": "{path}",
    "a file of rules": 'rules_file = "{path}"',
    "a list of names": '[[rules]]\nmatch = {{ suffix_file = "{path}" }}\naction = "refused"',
    "a zone": '[[rules]]\nmatch = {{ suffix = "test" }}\naction = {{ zone_file = "{path}" }}',
    "secrets": '[cookies]\nmode = "serve"\nsecret_file = "{path}"',
    "authorities": '[[upstreams]]\naddress = "127.0.0.1:853"\ntransport = "tls"\n'
    'tls = {{ server_name = "a.test", ca_file = "{path}" }}',
    "a certificate": '[[listeners]]\naddress = "127.0.0.1:853"\ntransport = "tls"\n'
    'certificates = {{ certificate = "{path}" }}',
}


@pytest.mark.parametrize("how", ["a pipe", "a folder"])
@pytest.mark.parametrize("toml", FILES.values(), ids=FILES)
def test_what_is_no_file_ends_the_start_with_a_line(toml, how, tmp_path):
    if "listeners" in toml:
        pytest.importorskip("funkenshield.server._tls")
    path, config = tmp_path / "what", tmp_path / "funkenshield.toml"
    if how == "a pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    if toml == "{path}":
        config = path
    else:
        upstreams = "" if "upstreams" in toml else f'upstreams = ["127.0.0.1:{free_port()}"]\n'
        listen = f'listen = ["127.0.0.1:{free_port()}"]\ncontrol.socket = "{tmp_path / "control"}"\n'
        config.write_text(listen + upstreams + toml.format(path=path))
    done = command("run", "--config", config)
    assert done.returncode not in (0, -signal.SIGKILL)
    told = done.stderr.strip().splitlines()
    assert len(told) == 1, done.stderr
    assert f"{path}: " in told[0]
    assert ("not a regular file" if how == "a pipe" else "Is a directory") in told[0]


def test_a_configuration_without_end_is_told_in_a_line(tmp_path):
    config = tmp_path / "funkenshield.toml"
    config.write_text("a = " + "[" * 100_000)
    done = command("check", "--config", config)
    assert done.returncode != 0
    assert "nested too deeply" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reload_waits_for_no_pipe(tmp_path):
    names = tmp_path / "names"
    names.write_text("refused.test\n")
    rule = f'[[rules]]\nmatch = {{ suffix_file = "{names}" }}\naction = "refused"\n'
    with ScriptedUpstream(address) as upstream, run_shield([upstream], toml=rule) as shield:
        names.unlink()
        os.mkfifo(names)
        shield.process.send_signal(signal.SIGHUP)
        until(lambda: f"reload failed: {names}: not a regular file" in shield.log)
        assert ask("www.test.", server=shield).answer
        assert not ask("refused.test.", server=shield).answer


@as_root
def test_root_gives_away_what_it_bound_and_nothing_that_a_link_leads_to(tmp_path, monkeypatch):
    for name in ("initgroups", "setgid", "setuid"):
        monkeypatch.setattr(os, name, lambda *_: None)
    target, link = tmp_path / "target", tmp_path / "control"
    target.write_text("root's")
    link.symlink_to(target)
    process.drop_privileges("nobody", link)
    assert target.stat().st_uid == 0
    assert link.lstat().st_uid == NOBODY


@as_root
def test_root_gives_away_the_secret_that_it_made_and_nothing_that_took_its_place(tmp_path, monkeypatch):
    """Who may write in its folder could exchange it for a hard link, to a file of root's."""
    precious, path, link = tmp_path / "precious", tmp_path / "state" / "cookies", os.link
    precious.write_text("root's")

    def exchange(source, target):
        link(source, path.with_name("made"))
        link(precious, target)

    monkeypatch.setattr(os, "link", exchange)
    monkeypatch.setenv("STATE_DIRECTORY", str(path.parent))
    cookie_secrets.keep(CookiesSection(), NOBODY, NOBODY)
    assert path.stat().st_uid == precious.stat().st_uid == 0
    made = path.with_name("made").stat()
    assert (made.st_uid, made.st_gid, made.st_mode & 0o777) == (NOBODY, NOBODY, 0o600)


def test_a_folder_that_others_write_in_is_none_for_the_control_socket(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(control.ControlError, match="its directory is writable by others"):
        control.bind(tmp_path / "control")
    tmp_path.chmod(0o1777)  # as /tmp is
    control.bind(tmp_path / "control").close()
    with pytest.raises(ConfigError, match="no user nobody-of-that-name"):
        process.drop_privileges("nobody-of-that-name", tmp_path / "control")
