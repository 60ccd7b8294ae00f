"""Show that cookies are those of RFC 9018, that only ours and recent ones count, and that secrets roll over."""

import ipaddress
import os

import pytest

from funkenshield.config import default_secrets
from funkenshield.errors import ConfigError
from funkenshield.policy.cookie_secrets import CookieSecrets, keep_secret, load_secrets
from funkenshield.wire._edns_cookies import answer_cookie, hash24

OLD, NEW = bytes(range(16)), bytes(range(16, 32))
CLIENT = b"a client"
NOW = 1_700_000_000
HEAD = bytes.fromhex("000a0018")  # code and length of the option
V4, V6 = (ipaddress.ip_address(address).packed for address in ("192.0.2.1", "2001:db8::1"))


def made(at=NOW, secret=OLD, address=V4):
    """Return the cookie, client's part first, that is made at that time."""
    return answer_cookie((secret,), CLIENT, address, at % 2**32)[1].removeprefix(HEAD)


def standing(cookie, *, now=NOW, secrets=(OLD,), address=V4):
    return answer_cookie(secrets, cookie, address, now % 2**32)[0]


# ---------------------------------------------------------------- the hash and the RFC's own examples


@pytest.mark.parametrize(
    ("length", "hashed"),
    [
        (0, "310e0edd47db6f72"),
        (1, "fd67dc93c539f874"),
        (2, "5a4fa9d909806c0d"),
        (15, "e545be4961ca29a1"),
        (16, "db9bc2577fcc2a3f"),
    ],
)
def test_siphash_is_that_of_its_authors(length, hashed):
    assert hash24(bytes(range(16)), bytes(range(length))).hex() == hashed


FIRST = "e5e973e5a6b2a43f48e7dc849e37bfcf"
EXAMPLES = {
    "A.1 a new cookie": (
        [FIRST], "198.51.100.100", 1559731985,
        "2464c4abcf10c957", "client alone",
        "2464c4abcf10c957010000005cf79f111f8130c3eee29480",
    ),
    "A.2 forty minutes later": (
        [FIRST], "198.51.100.100", 1559734385,
        "2464c4abcf10c957010000005cf79f111f8130c3eee29480", "ours to renew",
        "2464c4abcf10c957010000005cf7a871d4a564a1442aca77",
    ),
    "A.3 reserved octets, and two hours old": (
        [FIRST], "203.0.113.203", 1559734700,
        "fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5", "not ours",
        "fc93fc62807ddb86010000005cf7a9acf73a7810aca2381e",
    ),
    "A.3 reserved octets, when it was made": (
        [FIRST], "203.0.113.203", 1559727985,
        "fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5", "ours",
        "fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5",
    ),
    "A.4 another secret, IPv6": (
        ["445536bcd2513298075a5d379663c962", "dd3bdf9344b678b185a6f5cb60fca715"],
        "2001:db8:220:1:59de:d0f4:8769:82b8", 1559741961,
        "22681ab97d52c298010000005cf7c57926556bd0934c72f8", "ours to renew",
        "22681ab97d52c298010000005cf7c609a6bb79d16625507a",
    ),
}  # fmt: skip


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_the_examples_of_the_rfc(example):
    secrets, address, now, cookie, stands, reply = example
    keys = tuple(bytes.fromhex(secret) for secret in secrets)
    judged, option = answer_cookie(keys, bytes.fromhex(cookie), ipaddress.ip_address(address).packed, now)
    assert (judged, option.hex()) == (stands, HEAD.hex() + reply)


# ---------------------------------------------------------------- whose it is


@pytest.mark.parametrize(
    ("age", "stands"),
    [
        (-(2**31), "not ours"),
        (-301, "not ours"),
        (-300, "ours"),
        (0, "ours"),
        (1799, "ours"),
        (1800, "ours to renew"),
        (3600, "ours to renew"),
        (3601, "not ours"),
        (2**31 - 1, "not ours"),
    ],
)
@pytest.mark.parametrize("now", [NOW, 0, 100, 2**31, 2**32 - 100])
def test_a_cookie_lives_for_an_hour_also_where_time_wraps(age, stands, now):
    assert standing(made(now - age), now=now) == stands


@pytest.mark.parametrize("address", [V4, V6])
@pytest.mark.parametrize("at", range(24))
def test_no_octet_of_a_cookie_can_be_changed(at, address):
    cookie = bytearray(made(address=address))
    assert standing(bytes(cookie), address=address) == "ours"
    cookie[at] ^= 1
    assert standing(bytes(cookie), address=address) == "not ours"


@pytest.mark.parametrize(("mine", "yours"), [(V4, bytes(4)), (V6, V6[:15] + b"\2"), (V4, V4 + bytes(12)), (V6, V4)])
def test_a_cookie_is_worth_nothing_from_another_address(mine, yours):
    assert standing(made(address=mine), address=yours) == "not ours"


@pytest.mark.parametrize("size", [16, 17, 23, 25, 40])
def test_a_cookie_of_another_size_is_not_ours(size):
    cookie = (made() + bytes(16))[:size]
    judged, option = answer_cookie((OLD,), cookie, V4, NOW)
    assert (judged, option) == ("not ours", HEAD + made())


def test_every_secret_verifies_and_the_first_makes():
    others = tuple(bytes([k]) * 16 for k in range(3))
    for secret in (OLD, *others):
        judged, option = answer_cookie((OLD, *others), made(NOW - 1, secret), V4, NOW)
        assert judged == ("ours" if secret == OLD else "ours to renew")
        assert option == HEAD + (made(NOW - 1) if secret == OLD else made())
    assert standing(made(secret=NEW), secrets=(OLD, *others)) == "not ours"


def test_a_recent_cookie_is_sent_back_as_it_is_and_an_old_one_is_made_anew():
    for age, reply in ((1799, made(NOW - 1799)), (1800, made()), (3601, made())):
        assert answer_cookie((OLD,), made(NOW - age), V4, NOW)[1] == HEAD + reply


@pytest.mark.parametrize(
    ("secrets", "cookie", "address", "message"),
    [
        ((), CLIENT, V4, "1 to 4 secrets, not 0"),
        ((OLD,) * 5, CLIENT, V4, "1 to 4 secrets, not 5"),
        ((OLD[:15],), CLIENT, V4, "16 octets, not 15"),
        ((OLD,), CLIENT[:7], V4, "a cookie has .* not 7"),
        ((OLD,), bytes(9), V4, "a cookie has .* not 9"),
        ((OLD,), bytes(41), V4, "a cookie has .* not 41"),
        ((OLD,), CLIENT, bytes(5), "an address has .* not 5"),
    ],
)
def test_what_cannot_be_is_told(secrets, cookie, address, message):
    with pytest.raises(ValueError, match=message):
        answer_cookie(secrets, cookie, address, NOW)


# ---------------------------------------------------------------- the file of secrets


def test_secrets_are_read_in_order_with_comments_and_blank_lines(tmp_path):
    file = tmp_path / "secrets"
    file.write_text(f"# of May\n\n  {NEW.hex().upper()}  # makes\r\n{OLD.hex()}")
    assert load_secrets(file) == (NEW, OLD)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "secrets: no secret; write 1 to 4 of 32 hex digits, one a line"),
        ("# nothing\n\n", "secrets: no secret; write 1 to 4 of 32 hex digits, one a line"),
        (f"{OLD.hex()}\n{NEW.hex()}0\n", "secrets:2: not a secret; write 32 hex digits, one secret a line"),
        (f"\n{OLD.hex()} {NEW.hex()}\n", "secrets:2: not a secret; write 32 hex digits, one secret a line"),
        (f"{'0 ' * 16}\n", "secrets:1: not a secret; write 32 hex digits, one secret a line"),
        (f"{OLD.hex()}\n" * 5, "secrets:5: one secret too many; 4 are allowed"),
        (b"\xff" * 32, "secrets: not text; write secrets of 32 hex digits, one a line"),
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
    assert warning.endswith("; the cookie secrets stay as they were")
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
    assert warning.endswith("; cookies are made with a secret of this start alone")


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
