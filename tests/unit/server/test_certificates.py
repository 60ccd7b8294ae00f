"""Certificates are read as they are in files, and whatever is wrong with them is told in one line, without the key."""

import ipaddress
import os

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from cryptography.x509 import ocsp

from funkenshield.core import files
from funkenshield.errors import ConfigError
from funkenshield.server import certificates
from funkenshield.server.certificates import UnreadableError, read, read_secret
from unit.server.certificate_helpers import DAY, NOW, Issued, write


def hosts(*names):
    return [x509.DNSName(each) for each in names]


ROOT = Issued("root")
ISSUER = Issued("issuer", issuer=ROOT)
OWN = Issued(names=hosts("dns.test"), issuer=ISSUER)
OTHER = Issued("other.test", issuer=ISSUER)
AGAIN = Issued(names=hosts("dns.test"), issuer=ROOT)
REQUEST = x509.CertificateSigningRequestBuilder(ROOT.certificate.subject).sign(OWN.key, SHA256())
TRY_LATER = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
PUBLIC = OWN.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
PASSWORD = BestAvailableEncryption(b"password")
SECRET = bytes(range(32))


def told(tmp_path, section):
    """Return what is told of a certificate that cannot be used, with paths as in its folder."""
    with pytest.raises(ConfigError) as mistake:
        read(section)
    (line,) = str(mistake.value).splitlines()
    key = OWN.key_bytes().decode().splitlines()[1]
    assert key[:16] not in line
    return line.replace(f"{tmp_path}/", "")


# ---------------------------------------------------------------- what is right


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_a_certificate_its_issuers_and_its_key_are_read_in_order(tmp_path, form):
    found = read(write(tmp_path, certificate=OWN.pem + ISSUER.pem, key=OWN.key_bytes(form=form)))
    assert found.certificate.names == ("dns.test",)
    assert found.certificate.chain == (OWN.der, ISSUER.der)
    assert found.certificate.ocsp_response == b""
    assert load_der_private_key(found.certificate.key, None).private_numbers() == OWN.key.private_numbers()
    assert (found.since, found.until) == ((NOW - DAY).timestamp(), (NOW + 30 * DAY).timestamp())


def test_both_may_be_in_one_file_in_any_order_and_with_text_between(tmp_path):
    whole = b"# of May\n" + OWN.key_bytes() + b"\nsubject=dns.test\n" + OWN.pem
    found = read(write(tmp_path, certificate=whole))
    assert found.certificate.chain == (OWN.der,)


@pytest.mark.parametrize(
    ("issued", "names"),
    [
        (Issued("DNS.Test"), ("dns.test",)),
        (Issued("My Nameserver"), ()),
        (Issued("cn.test", hosts("A.Test", "*.a.test.", "a.test")), ("a.test", "*.a.test")),
        (Issued("cn.test", [x509.IPAddress(ipaddress.ip_address("192.0.2.1"))]), ()),
        (Issued("cn.test", hosts("xn--bcher-kva.test", "*", "a.*.test")), ("xn--bcher-kva.test",)),
    ],
)  # fmt: skip
def test_the_names_are_alternative_ones_or_else_the_common_name(issued, names, tmp_path):
    found = read(write(tmp_path, certificate=issued.pem, key=issued.key_bytes()))
    assert found.certificate.names == names
    assert not list(found.warnings(NOW.timestamp()))


def test_neither_a_key_nor_a_secret_is_shown(tmp_path):
    found = read(write(tmp_path, certificate=OWN.pem, key=OWN.key_bytes()))
    assert str(found.certificate) == repr(found.certificate) == "<Certificate for dns.test>"
    assert repr(found.certificate.key)[2:20] not in repr(found)


def test_what_is_read_is_noted(tmp_path):
    section = write(tmp_path, certificate=OWN.pem, key=OWN.key_bytes(), ocsp_response=OWN.stapled(ISSUER))
    with files.noted() as notes:
        read(section)
    assert set(notes) == {tmp_path / "certificate", tmp_path / "key", tmp_path / "ocsp_response"}
    assert set(certificates.paths_of(section)) == set(notes)


# ---------------------------------------------------------------- what is wrong

EXCHANGED = "were the two files exchanged?"
WRONG = {
    "no certificate": (
        {"certificate": b"", "key": OWN.key_bytes()},
        "certificate: certificate: not in PEM format; it has no certificate",
    ),
    "no key": ({"certificate": OWN.pem, "key": b"\n"}, "key: key: not in PEM format; it has no private key"),
    "exchanged": (
        {"certificate": OWN.key_bytes(), "key": OWN.pem},
        f"certificate: certificate: has a private key, not a certificate; {EXCHANGED}",
    ),
    "twice the certificate": (
        {"certificate": OWN.pem, "key": OWN.pem}, f"key: key: has a certificate, not a private key; {EXCHANGED}",
    ),
    "one file without a key": (
        {"certificate": OWN.pem},
        'key: certificate: has no private key; if that is in another file, write key = "FILE"',
    ),
    "a request": (
        {"certificate": REQUEST.public_bytes(Encoding.PEM), "key": OWN.key_bytes()},
        "certificate: certificate: has a certificate request, not a certificate",
    ),
    "a public key": ({"certificate": OWN.pem, "key": PUBLIC}, "key: key: has a public key, not a private key"),
    "a certificate in DER": (
        {"certificate": OWN.der, "key": OWN.key_bytes()},
        "certificate: certificate: not in PEM format; it looks like DER, and openssl x509 -inform DER converts that",
    ),
    "a key in DER": (
        {"certificate": OWN.pem, "key": OWN.key_bytes(Encoding.DER)},
        "key: key: not in PEM format; it looks like DER, and openssl pkey -inform DER converts that",
    ),
    "encrypted": (
        {"certificate": OWN.pem, "key": OWN.key_bytes(encryption=PASSWORD)},
        "key: key: the key is encrypted, and nobody is there to ask for its password; decrypt it (openssl pkey)",
    ),
    "encrypted as it was once": (
        {
            "certificate": OWN.pem,
            "key": OWN.key_bytes(form=PrivateFormat.TraditionalOpenSSL, encryption=PASSWORD),
        },
        "key: key: the key is encrypted, and nobody is there to ask for its password; decrypt it (openssl pkey)",
    ),
    "another's key": (
        {"certificate": OWN.pem + ISSUER.pem, "key": OTHER.key_bytes()},
        "key: key: does not belong to the certificate in certificate",
    ),
    "a new certificate with the old key": (
        {"certificate": AGAIN.pem, "key": OWN.key_bytes()},
        "key: key: does not belong to the certificate in certificate",
    ),
    "the issuer first": (
        {"certificate": ISSUER.pem + OWN.pem, "key": OWN.key_bytes()},
        "certificate: certificate: wrong order: the certificate that the key belongs to comes first, and is number 2",
    ),
    "a spoilt certificate": (
        {"certificate": OWN.pem.replace(b"M", b"N"), "key": OWN.key_bytes()},
        "certificate: certificate: a certificate in it is malformed",
    ),
    "a spoilt issuer": (
        {"certificate": OWN.pem + ISSUER.pem.replace(b"M", b"N"), "key": OWN.key_bytes()},
        "certificate: certificate: a certificate in it is malformed",
    ),
    "a cut issuer": (
        {"certificate": OWN.pem + ISSUER.pem[:-40], "key": OWN.key_bytes()},
        "certificate: certificate: a certificate in it is malformed",
    ),
    "a cut certificate": (
        {"certificate": OWN.pem[:-30], "key": OWN.key_bytes()},
        "certificate: certificate: a certificate in it is malformed",
    ),
    "a spoilt key": (
        {"certificate": OWN.pem, "key": OWN.key_bytes().replace(b"M", b"N")},
        "key: key: the private key in it is malformed, or of an unknown kind",
    ),
    "no response of OCSP": (
        {"certificate": OWN.pem, "key": OWN.key_bytes(), "ocsp_response": b"good"},
        "ocsp_response: ocsp_response: not an OCSP response in DER format",
    ),
    "a certificate for a response": (
        {"certificate": OWN.pem, "key": OWN.key_bytes(), "ocsp_response": OWN.der},
        "ocsp_response: ocsp_response: not an OCSP response in DER format",
    ),
    "a response in PEM": (
        {"certificate": OWN.pem, "key": OWN.key_bytes(), "ocsp_response": b"-----BEGIN OCSP RESPONSE-----\n"},
        "ocsp_response: ocsp_response: not an OCSP response in DER format; it is in PEM format",
    ),
    "a response about another": (
        {"certificate": OWN.pem, "key": OWN.key_bytes(), "ocsp_response": OTHER.stapled(ISSUER)},
        "ocsp_response: ocsp_response: is about another certificate",
    ),
    "a response that says nothing": (
        {
            "certificate": OWN.pem, "key": OWN.key_bytes(),
            "ocsp_response": TRY_LATER.public_bytes(Encoding.DER),
        },
        "ocsp_response: ocsp_response: says TRY_LATER, and nothing of the certificate",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_each_mistake_has_one_line(wrong, tmp_path):
    contents, line = WRONG[wrong]
    assert told(tmp_path, write(tmp_path, **contents)) == f"listeners.certificates.{line}"


@pytest.mark.parametrize("name", ["certificate", "key", "ocsp_response"])
def test_a_file_that_is_not_there_or_is_none_is_told(name, tmp_path):
    section = write(tmp_path, certificate=OWN.pem, key=OWN.key_bytes(), ocsp_response=OWN.stapled(ISSUER))
    (tmp_path / name).unlink()
    assert told(tmp_path, section) == f"listeners.certificates.{name}: {name}: No such file or directory"
    os.mkfifo(tmp_path / name)
    assert told(tmp_path, section) == f"listeners.certificates.{name}: {name}: not a regular file"


@pytest.mark.parametrize("user", ["somebody", None])
def test_a_file_that_we_may_not_read_is_told_with_who_we_are(user, tmp_path, monkeypatch):
    def refuse(path):
        if path.name == "key":
            raise PermissionError(13, "Permission denied")
        return files.read_file(path)

    section = write(tmp_path, certificate=OWN.pem, key=OWN.key_bytes())
    monkeypatch.setattr(certificates, "read_file", refuse)
    if user is None:
        monkeypatch.setattr(os, "geteuid", lambda: 987654321)
    else:
        monkeypatch.setattr(certificates.pwd, "getpwuid", lambda _: certificates.pwd.struct_passwd((user, *range(6))))
    with pytest.raises(UnreadableError) as mistake:
        read(section)
    who = f"the user {user or 'number 987654321'}"
    assert str(mistake.value) == f"listeners.certificates.key: {tmp_path}/key: Permission denied; let {who} read it"


# ---------------------------------------------------------------- what has its time


def test_a_certificate_that_is_not_valid_or_not_for_long_is_used_and_told(tmp_path):
    found = read(write(tmp_path, certificate=OWN.pem, key=OWN.key_bytes()))
    begin, end, soon = found.since, found.until, found.until - 7 * 86400
    at = {
        begin - 1: ["is not valid before 2026-05-31 12:00 UTC"], begin: [], soon - 1: [],
        soon: ["expires at 2026-07-01 12:00 UTC"], end - 1: ["expires at 2026-07-01 12:00 UTC"],
        end: ["is not valid since 2026-07-01 12:00 UTC"],
    }  # fmt: skip
    for now, lines in at.items():
        assert list(found.warnings(now)) == [f"{tmp_path}/certificate: the certificate {line}" for line in lines]
        assert found.at(now) == found.certificate


def test_a_certificate_for_a_short_time_is_told_of_in_its_last_third(tmp_path):
    short = Issued(until=NOW + 5 * DAY)
    found = read(write(tmp_path, certificate=short.pem, key=short.key_bytes()))
    assert list(found.warnings(found.until - 2 * 86400 - 1)) == []
    assert list(found.warnings(found.until - 2 * 86400)) == [
        f"{tmp_path}/certificate: the certificate expires at 2026-06-06 12:00 UTC"
    ]


@pytest.mark.parametrize(
    ("how", "faults"),
    [
        ({"until": NOW + DAY / 2}, {0: "", 0.5: "is too old since 2026-06-02 00:00 UTC"}),
        ({"until": None}, {0: "", 20: ""}),
        ({"since": NOW + DAY / 2}, {0: "is not valid before 2026-06-02 00:00 UTC", 0.5: ""}),
        ({"revoked": NOW - DAY}, {0: "does not say that the certificate is good"}),
    ],
)
def test_a_response_of_ocsp_is_given_as_long_as_it_is_good(how, faults, tmp_path):
    response = OWN.stapled(ISSUER, **how)
    found = read(write(tmp_path, certificate=OWN.pem, key=OWN.key_bytes(), ocsp_response=response))
    for days, fault in faults.items():
        now = (NOW + days * DAY).timestamp()
        assert found.at(now).ocsp_response == (b"" if fault else response)
        told = [f"{tmp_path}/certificate: its OCSP response {fault}, and is not sent"] if fault else []
        assert list(found.warnings(now)) == told


# ---------------------------------------------------------------- the secret of tickets


@pytest.mark.parametrize("text", [SECRET.hex(), f"# of May\n\n  {SECRET.hex().upper()} # until June\r\n"])
def test_a_secret_is_read_with_comments_and_blank_lines(text, tmp_path):
    (tmp_path / "secret").write_text(text)
    assert read_secret(f"{tmp_path}/secret") == SECRET


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", ": no secret; write one of 64 hex digits (openssl rand -hex 32)"),
        (b"# none\n", ": no secret; write one of 64 hex digits (openssl rand -hex 32)"),
        (b"\n" + SECRET.hex().encode()[2:], ":2: not a secret; write 64 hex digits"),
        (SECRET, ":1: not a secret; write 64 hex digits"),
        (f"{SECRET.hex()}\n{SECRET.hex()}".encode(), ": 2 secrets; write one of 64 hex digits (openssl rand -hex 32)"),
    ],
)
def test_a_mistake_in_a_secret_is_told_without_it(content, line, tmp_path):
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(ConfigError) as mistake:
        read_secret(f"{tmp_path}/secret")
    assert str(mistake.value) == f"tls.ticket_secret_file: {tmp_path}/secret{line}"


def test_a_secret_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"^tls\.ticket_secret_file: /.*/secret: No such file or directory$"):
        read_secret(f"{tmp_path}/secret")
