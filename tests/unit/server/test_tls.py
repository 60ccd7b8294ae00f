"""What listeners encrypt with follows the configuration and its files; what is wrong is told, and changes nothing.

The compiled part is a stand-in here, which notes what it is given.
"""

import os
import sys

import pytest
from cryptography import x509

from funkenshield import config
from funkenshield.cache._store import Cache
from funkenshield.config.types import parse_endpoint
from funkenshield.core._clock import Clock
from funkenshield.errors import ConfigError
from funkenshield.forward.discovery import Encrypted
from funkenshield.server import certificates, tls
from funkenshield.server.tls import TlsListeners
from unit.server.certificate_helpers import DAY, NOW, Issued

ISSUER = Issued("issuer")
A, B = (Issued(names=[x509.DNSName(f"{name}.test")], issuer=ISSUER) for name in "ab")
NEW_A = Issued(names=[x509.DNSName("new.a.test")], issuer=ISSUER)
SECRETS = bytes(range(32)), bytes(range(32, 64))
ONE, TWO = "192.0.2.1:853", "192.0.2.2:853"


class Contexts:
    """What was to be made; ciphers that are `nonsense` are refused, and certificates for bad.test."""

    def __init__(self, certificates, **how):
        if how["ciphers"] == "nonsense":
            raise ValueError("ciphers: no cipher match")
        if any("bad.test" in each.names for each in certificates):
            raise ValueError("certificate: ee key too small")
        self.certificates, self.how = tuple(certificates), how


class Listener:
    """A TlsListener that notes what it was given."""

    def __init__(self, cache):
        self.used = []

    def use(self, contexts):
        self.used.append(contexts)

    @property
    def given(self):
        return [(each.certificates, each.how) for each in self.used]

    @property
    def names(self):
        """The names of the certificates that it was given, each time."""
        return [[name for each in found for name in each.names] for found, _ in self.given]


class Scene:
    """A configuration of two listeners, its files, and the time."""

    def __init__(self, folder):
        self.folder, self.now, self.ticks = folder, NOW.timestamp(), 0
        self.write(a=A.pem, a_key=A.key_bytes(), b=B.pem, b_key=B.key_bytes())
        self.tables = {ONE: ["a"], TWO: ["b", "a"]}
        self.more = {ONE: "", TWO: ""}
        self.tls = ""

    def write(self, **files):
        """Write files, as whoever renews them does: by a name of their own first."""
        for name, content in files.items():
            (self.folder / "written").write_bytes(content)
            (self.folder / "written").chmod(0o600)
            (self.folder / "written").rename(self.folder / name)

    def load(self):
        file = self.folder / "shield.toml"
        lines = [f"tls = {{ {self.tls} }}"]
        for address, names in self.tables.items():
            lines += ["[[listeners]]", f'address = "{address}"', 'transport = "tls"', self.more[address]]
            for name in names:
                lines += ["[[listeners.certificates]]", f'certificate = "{name}"', f'key = "{name}_key"']
                lines += [f'ocsp_response = "{name}_ocsp"'] if (self.folder / f"{name}_ocsp").exists() else []
        file.write_text("\n".join(lines))
        return config.load(file)

    def start(self):
        """Return the listeners of a daemon that has just been started, and what each was given."""
        found = self.load()
        self.listeners = TlsListeners(found, wall=lambda: self.now)
        self.reload()
        return {str(endpoint): each for endpoint, each in self.listeners.listeners.items()}

    def reload(self):
        self.listeners.activate(self.listeners.prepare(self.load()), Cache(4 << 20, Clock()))

    def look(self, times=2):
        for _ in range(times):
            self.listeners.follow()


@pytest.fixture
def scene(tmp_path, monkeypatch):
    monkeypatch.setattr(tls, "compiled", lambda: (Contexts, Listener))
    return Scene(tmp_path)


# ---------------------------------------------------------------- as the configuration says


def test_where_nothing_is_encrypted_nothing_is_read_or_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(tls, "compiled", pytest.fail)
    monkeypatch.setattr(certificates, "read", pytest.fail)
    plain = config.load(None, {"tls.ticket_secret_file": f"{tmp_path}/none"})
    listeners = TlsListeners(plain)
    listeners.activate(listeners.prepare(plain), Cache(4 << 20, Clock()))
    assert listeners.listeners == {}
    listeners.follow()
    tls.examine(plain)


def test_each_listener_gets_its_certificates_and_settings_once(scene):
    scene.more[TWO] = 'min_version = "1.3"\nciphers = "ALL"\nciphersuites = "TLS_AES_128_GCM_SHA256"'
    scene.tls = 'ticket_lifetime = "1h"'
    made = scene.start()
    scene.look()
    (found, how), (others, other) = made[ONE].given[0], made[TWO].given[0]
    assert (len(made[ONE].given), len(made[TWO].given)) == (1, 1)
    assert found == (certificates.Certificate(("a.test",), (A.der,), found[0].key),)
    assert [each.names for each in others] == [("b.test",), ("a.test",)]
    secret = how.pop("ticket_secret")
    assert len(secret) == 32
    assert other.pop("ticket_secret") == secret
    assert how == {"min_version": "1.2", "ciphers": "", "ciphersuites": "", "ticket_lifetime": 3600, "http": False}
    assert other == {
        "min_version": "1.3", "ciphers": "ALL", "ciphersuites": "TLS_AES_128_GCM_SHA256", "ticket_lifetime": 3600,
        "http": False,
    }  # fmt: skip


def test_listeners_of_the_same_settings_share_what_is_made_of_them(scene):
    scene.tables[TWO] = ["a"]
    made = scene.start()
    assert made[ONE].used == made[TWO].used
    scene.write(a=NEW_A.pem, a_key=NEW_A.key_bytes())
    scene.look()
    assert made[ONE].used == made[TWO].used
    assert made[ONE].names == [["a.test"], ["new.a.test"]]


def test_it_is_known_when_certificates_expire(scene):
    """That is, those in use: not what was read, and refused."""
    scene.start()
    ends = {f"{scene.folder}/a": (NOW + 30 * DAY).timestamp(), f"{scene.folder}/b": (NOW + 30 * DAY).timestamp()}
    assert scene.listeners.expiries() == ends
    later, bad = Issued("later.test", until=NOW + 60 * DAY), Issued("bad.test", until=NOW + 90 * DAY)
    scene.write(a=bad.pem, a_key=bad.key_bytes())
    scene.look()
    assert scene.listeners.expiries() == ends
    scene.write(a=later.pem, a_key=later.key_bytes())
    scene.look()
    assert scene.listeners.expiries() == ends | {f"{scene.folder}/a": (NOW + 60 * DAY).timestamp()}


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a.test", "b.test"], ["a.test"]), (["*.a.test", "a.test"], ["a.test"]), (["*.a.test"], []), ([], []),
    ],
)  # fmt: skip
def test_clients_are_told_of_listeners_by_the_first_name_of_their_certificate(scene, names, told):
    issued = Issued(names=[x509.DNSName(name) for name in names])
    scene.write(a=issued.pem, a_key=issued.key_bytes())
    scene.start()
    assert scene.listeners.told() == [
        *(Encrypted(name, parse_endpoint(ONE), "dot") for name in told),
        Encrypted("b.test", parse_endpoint(TWO), "dot"),
    ]


def test_clients_are_told_of_no_listener_that_wants_none_to_be(scene):
    scene.start()
    scene.more[TWO] = "discovery = false"
    scene.reload()
    assert [each.name for each in scene.listeners.told()] == ["a.test"]


def test_clients_are_told_another_name_when_the_certificate_has_one(scene):
    scene.start()
    scene.write(a=NEW_A.pem, a_key=NEW_A.key_bytes())
    assert [scene.listeners.follow() for _ in range(4)] == [False, True, False, False]
    assert [each.name for each in scene.listeners.told()] == ["new.a.test", "b.test"]


def test_a_random_secret_is_another_at_each_start_and_stays_at_a_reload(scene):
    first = scene.start()[ONE]
    scene.more[ONE] = 'min_version = "1.3"'
    scene.reload()
    old, new = (how for _, how in first.given)
    assert (old["min_version"], new["min_version"]) == ("1.2", "1.3")
    assert old["ticket_secret"] == new["ticket_secret"] != scene.start()[ONE].given[0][1]["ticket_secret"]


def test_a_reload_gives_a_listener_other_certificates_and_leaves_the_others_alone(scene):
    made = scene.start()
    scene.write(c=NEW_A.pem, c_key=NEW_A.key_bytes())
    scene.tables[ONE] = ["c"]
    scene.reload()
    assert (made[ONE].names, made[TWO].names) == ([["a.test"], ["new.a.test"]], [["b.test", "a.test"]])


def test_a_reload_reads_at_once_what_has_changed(scene):
    made = scene.start()
    scene.write(a=NEW_A.pem, a_key=NEW_A.key_bytes())
    scene.reload()
    assert made[ONE].names == [["a.test"], ["new.a.test"]]
    scene.look()
    assert len(made[ONE].given) == 2


def test_what_is_wrong_of_a_new_certificate_ends_the_reload_each_time_and_changes_nothing(scene):
    made = scene.start()
    scene.write(c=NEW_A.pem, c_key=B.key_bytes())
    scene.tables[ONE], scene.more[TWO] = ["c"], 'min_version = "1.3"'
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"^listeners\.certificates\.key: .*/c_key: does not belong to"):
            scene.reload()
    scene.look()
    assert (made[ONE].names, made[TWO].names) == ([["a.test"]], [["b.test", "a.test"]])
    scene.write(c_key=NEW_A.key_bytes())
    scene.reload()
    assert (made[ONE].names[-1], made[TWO].given[-1][1]["min_version"]) == (["new.a.test"], "1.3")


@pytest.mark.parametrize("wrong", ["another key", "no file", "too small"])
def test_what_is_wrong_now_of_a_certificate_in_use_is_told_and_nothing_else_waits_for_it(scene, caplog, wrong):
    """Its listener may be gone from the configuration, with its files, and serves until the restart."""
    made = scene.start()
    if wrong == "another key":
        scene.write(a_key=B.key_bytes())
    elif wrong == "no file":
        (scene.folder / "a").unlink()
    else:
        bad = Issued("bad.test")
        scene.write(a=bad.pem, a_key=bad.key_bytes())
    scene.write(b=NEW_A.pem, b_key=NEW_A.key_bytes())
    for _ in range(3):
        scene.reload()
        scene.look()
    told = [line for line in caplog.messages if "what was in use before is used" in line]
    assert len(told) == (2 if wrong == "too small" else 1), "once for each listener that OpenSSL was tried for"
    assert made[ONE].names == [["a.test"]]
    assert made[TWO].names[1:] == ([] if wrong == "too small" else [["new.a.test", "a.test"]])


def test_what_openssl_refuses_is_told_for_each_listener_before_anything_changes(scene):
    made = scene.start()
    bad = Issued("bad.test")
    scene.write(c=bad.pem, c_key=bad.key_bytes())
    scene.tables[ONE], scene.more[TWO] = ["c"], 'ciphers = "nonsense"'
    with pytest.raises(ConfigError) as refused:
        scene.reload()
    assert str(refused.value).splitlines() == [
        f"listeners: {ONE}: certificate: ee key too small",
        f"listeners: {TWO}: ciphers: no cipher match",
    ]
    assert (len(made[ONE].given), len(made[TWO].given)) == (1, 1)
    with pytest.raises(ConfigError) as told:
        tls.examine(scene.load())
    assert str(told.value) == str(refused.value)


def test_a_start_with_a_wrong_file_fails(scene):
    scene.write(b_key=b"")
    with pytest.raises(ConfigError, match=r"^listeners\.certificates\.key: .*/b_key: not in PEM format"):
        scene.start()


def test_all_that_is_wrong_is_told_at_once(scene):
    scene.write(a=b"", b_key=b"", secret=b"0")
    scene.tls = 'ticket_secret_file = "secret"'
    with pytest.raises(ConfigError) as told:
        tls.examine(scene.load())
    keys = [line.partition(": ")[0] for line in str(told.value).splitlines()]
    assert keys == ["listeners.certificates.certificate", "listeners.certificates.key", "tls.ticket_secret_file"]


# ---------------------------------------------------------------- as the files say


def test_a_certificate_that_is_renewed_is_used_within_two_looks_by_those_that_have_it(scene):
    made = scene.start()
    scene.write(b=NEW_A.pem, b_key=NEW_A.key_bytes())
    scene.look(1)
    assert len(made[TWO].given) == 1
    scene.look(1)
    assert (made[ONE].names, made[TWO].names) == ([["a.test"]], [["b.test", "a.test"], ["new.a.test", "a.test"]])
    scene.look(3)
    assert len(made[TWO].given) == 2


def test_a_certificate_and_its_key_that_are_written_one_after_the_other_are_taken_together(scene, caplog):
    made = scene.start()
    scene.write(a=NEW_A.pem)
    scene.look(1)
    scene.write(a_key=NEW_A.key_bytes())
    scene.look(2)
    assert made[ONE].names == [["a.test"], ["new.a.test"]]
    assert caplog.messages == []


def test_a_file_that_was_only_touched_changes_nothing(scene):
    made = scene.start()
    os.utime(scene.folder / "a", ns=(1, 1))
    scene.look(3)
    assert len(made[ONE].given) == 1


@pytest.mark.parametrize("gone", [False, True])
def test_a_wrong_file_is_warned_of_once_and_keeps_no_other_back(scene, caplog, gone):
    made = scene.start()
    if gone:
        (scene.folder / "a_key").unlink()
    else:
        scene.write(a_key=B.key_bytes())
    scene.write(b=NEW_A.pem, b_key=NEW_A.key_bytes())
    scene.look(5)
    why = "No such file or directory" if gone else f"does not belong to the certificate in {scene.folder}/a"
    assert caplog.messages == [
        f"listeners.certificates.key: {scene.folder}/a_key: {why}; what was in use before is used"
    ]
    assert (made[ONE].names, made[TWO].names[-1]) == ([["a.test"]], ["new.a.test", "a.test"])
    scene.write(a=NEW_A.pem, a_key=NEW_A.key_bytes())
    scene.look()
    assert (made[ONE].names[-1], len(caplog.messages)) == (["new.a.test"], 1)


def test_what_openssl_refuses_of_a_new_file_is_warned_of_once(scene, caplog):
    made, bad = scene.start(), Issued("bad.test")
    scene.write(a=bad.pem, a_key=bad.key_bytes())
    scene.look(5)
    assert caplog.messages == [
        f"listeners: {address}: certificate: ee key too small; what was in use before is used" for address in (ONE, TWO)
    ]
    assert (made[ONE].names, len(made[TWO].given)) == ([["a.test"]], 1)
    assert [each.name for each in scene.listeners.told()] == ["a.test", "b.test"]


def test_another_ticket_secret_is_used_by_all_within_two_looks(scene, caplog):
    scene.write(secret=SECRETS[0].hex().encode())
    scene.tls = 'ticket_secret_file = "secret"'
    made = scene.start()
    scene.write(secret=b"nonsense")
    scene.look(3)
    scene.write(secret=SECRETS[1].hex().encode())
    scene.look()
    for each in made.values():
        assert [how["ticket_secret"] for _, how in each.given] == list(SECRETS)
    assert caplog.messages == [
        f"tls.ticket_secret_file: {scene.folder}/secret:1: not a secret; write 64 hex digits;"
        " what was in use before is used"
    ]


@pytest.mark.parametrize("may_enter", [False, True])
def test_a_key_that_only_root_may_read_stays_in_use_and_that_is_told_once(scene, caplog, monkeypatch, may_enter):
    """It is read as root, and then as the user that the shield changes to, who may enter its folder, or may not."""

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    found = scene.load()
    scene.listeners = TlsListeners(found, wall=lambda: scene.now)
    monkeypatch.setattr(certificates, "read_file", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: 12345678)
    if not may_enter:
        monkeypatch.setattr(tls, "version_of", lambda _: None)
    for _ in range(2):
        scene.reload()
        scene.look(3)
    made = {str(endpoint): each for endpoint, each in scene.listeners.listeners.items()}
    assert (made[ONE].names, made[TWO].names) == ([["a.test"]], [["b.test", "a.test"]])
    assert caplog.messages == [
        f"listeners.certificates.certificate: {scene.folder}/{name}: Permission denied; let the user number 12345678"
        " read it; what was in use before is used"
        for name in "ab"
    ]


@pytest.mark.parametrize(("user", "euid", "is_wrong"), [("", 1000, True), ("nobody", 1000, False), ("nobody", 0, True)])
def test_what_we_may_not_read_is_a_mistake_unless_root_will_read_it(scene, caplog, monkeypatch, user, euid, is_wrong):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    found = scene.load().model_copy(update={"user": user})
    monkeypatch.setattr(certificates, "read_file", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    if is_wrong:
        with pytest.raises(ConfigError, match=r"/a: Permission denied; let the user"):
            tls.examine(found)
        assert caplog.messages == []
        return
    tls.examine(found)
    assert [line.partition(": Permission denied; ")[0] for line in caplog.messages] == [
        f"listeners.certificates.certificate: {scene.folder}/{name}" for name in "ab"
    ]
    assert all(line.endswith("or root check it; it was not looked at") for line in caplog.messages)


def test_a_new_certificate_is_told_of_once(scene, caplog):
    caplog.set_level("INFO", "funkenshield.server.tls")
    scene.start()
    assert caplog.messages == []
    scene.write(a=NEW_A.pem, a_key=NEW_A.key_bytes())
    scene.look(4)
    assert caplog.messages == [f"{scene.folder}/a: new certificate for new.a.test, valid until 2026-07-01 12:00 UTC"]


def test_what_everybody_may_read_is_warned_of_once(scene, caplog):
    scene.write(secret=SECRETS[0].hex().encode())
    scene.tls = 'ticket_secret_file = "secret"'
    for name in ("a", "a_key", "secret"):
        (scene.folder / name).chmod(0o644)
    scene.start()
    scene.look(3)
    assert caplog.messages == [
        f"{key}: {scene.folder}/{name}: everybody on this machine may read it (chmod o-r)"
        for key, name in (("listeners.certificates.key", "a_key"), ("tls.ticket_secret_file", "secret"))
    ]


@pytest.mark.parametrize("error", [MemoryError("no memory"), RuntimeError("of our own")])
def test_an_error_of_our_own_is_told_once_and_keeps_no_other_back(scene, caplog, monkeypatch, error):
    def fail(path):
        if path.name == "a":
            raise error
        return path.read_bytes()

    made = scene.start()
    monkeypatch.setattr(certificates, "read_file", fail)
    scene.write(a=NEW_A.pem, a_key=NEW_A.key_bytes(), b=NEW_A.pem, b_key=NEW_A.key_bytes())
    scene.look(5)
    assert caplog.messages == ["listeners.certificates: internal error; what was in use before is used"]
    assert (made[ONE].names, made[TWO].names[-1]) == ([["a.test"]], ["new.a.test", "a.test"])
    monkeypatch.setattr(Contexts, "__init__", lambda *_, **__: (_ for _ in ()).throw(error))
    scene.write(b=B.pem, b_key=B.key_bytes())
    scene.look(5)
    assert caplog.messages[1:] == [f"listeners: {TWO}: internal error; what was in use before is used"]


def test_a_certificate_that_expires_is_warned_of_once_and_used(scene, caplog):
    made = scene.start()
    scene.look()
    assert caplog.messages == []
    for days in (24, 30):
        scene.now = (NOW + days * DAY).timestamp()
        scene.look(3)
    assert caplog.messages == [
        f"listeners.certificates.certificate: {scene.folder}/{name}: the certificate {what} 2026-07-01 12:00 UTC"
        for what in ("expires at", "is not valid since")
        for name in "ab"
    ]
    assert (len(made[ONE].given), len(made[TWO].given)) == (1, 1)


def test_a_response_of_ocsp_that_is_too_old_is_not_given_any_more(scene, caplog):
    response = A.stapled(ISSUER, until=NOW + DAY / 2)
    scene.write(a_ocsp=response)
    made = scene.start()
    scene.look()
    scene.now = (NOW + DAY / 2).timestamp()
    scene.look(3)
    assert [found[0].ocsp_response for found, _ in made[ONE].given] == [response, b""]
    assert caplog.messages == [
        f"listeners.certificates.certificate: {scene.folder}/a: its OCSP response is too old since"
        " 2026-06-02 00:00 UTC, and is not sent"
    ]
    scene.write(a_ocsp=A.stapled(ISSUER))
    scene.look()
    assert made[ONE].given[-1][0][0].ocsp_response


# ---------------------------------------------------------------- what is built in


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            ModuleNotFoundError("No module named 'funkenshield.server._tls'"),
            "TLS is not built in: install OpenSSL's headers (Debian: libssl-dev), and build or"
            " install funkenshield again",
        ),
        (
            ImportError("libssl.so.3: cannot open shared object file"),
            "TLS cannot be loaded: libssl.so.3: cannot open shared object file",
        ),
    ],
)
def test_where_it_is_not_built_in_that_is_told(error, line, tmp_path, monkeypatch):
    class Refusing:
        def find_spec(self, name, *_):
            if name == "funkenshield.server._tls":
                raise error

    monkeypatch.delitem(sys.modules, "funkenshield.server._tls", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    for work in (tls.compiled, lambda: tls.examine(Scene(tmp_path).load())):
        with pytest.raises(ConfigError) as told:
            work()
        assert str(told.value) == f'listeners: transport "tls" or "https": {line}'
