"""What listeners with QUIC show: certificates by name, what qh3 refuses, what is said where it is not there."""

import sys
from importlib.metadata import PackageNotFoundError

import pytest
from support.certificates import Authority

from funkenshield.config.listeners import CertificateSection
from funkenshield.errors import ConfigError
from funkenshield.server import quic
from funkenshield.server.certificates import read
from funkenshield.server.quic import QuicContexts, as_read, as_told, named


@pytest.mark.parametrize(
    ("asked", "number"),
    [
        ("a.test", 0),
        ("A.TEST.", 0),
        ("b.test", 1),
        ("x.b.test", 2),
        ("y.x.b.test", 0),
        ("other", 0),
        ("", 0),
        (None, 0),
    ],
)
def test_a_name_has_its_own_certificate_or_a_wildcard_or_the_first(asked, number):
    assert named([("a.test",), ("c.test", "b.test"), ("*.b.test",)], asked) == number


def test_a_certificate_is_told_and_read_again(tmp_path):
    found = read(CertificateSection(certificate=str(Authority(tmp_path).issue("dns.test").file))).certificate
    assert as_read(as_told([found])) == [found]
    assert "key" not in repr(found)


def test_a_key_that_the_library_does_not_know_is_refused_in_one_line(tmp_path):
    pytest.importorskip("qh3")
    found = read(CertificateSection(certificate=str(Authority(tmp_path).issue("dns.test").file))).certificate
    with pytest.raises(ValueError, match=r"^certificate for dns\.test: qh3 cannot use its key: "):
        QuicContexts([found._replace(key=b"none")], "doq", ticket_secret=bytes(32), ticket_lifetime=60.0)


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (None, "qh3 is not installed: pip install 'funkenshield[quic]'"),
        ("3.0.0", "qh3 3.0.0 is not known here: pip install 'funkenshield[quic]'"),
        ("2.1.7", "qh3 cannot be loaded: no library"),
    ],
)
def test_where_the_library_is_not_there_a_line_says_how_to_get_it(found, line, monkeypatch):
    def version(name):
        assert name == "qh3"
        if found is None:
            raise PackageNotFoundError(name)
        return found

    class Refusing:
        def find_spec(self, name, *_):
            if name.startswith("qh3"):
                raise ImportError("no library")

    monkeypatch.setattr("importlib.metadata.version", version)
    for name in [name for name in sys.modules if name.partition(".")[0] == "qh3"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    with pytest.raises(ConfigError) as told:
        quic.load()
    assert str(told.value) == f'transport "quic" or "h3": {line}'
