"""Certificates that clients are shown, as they are in files: read, and checked for what can be wrong with them.

It knows files and what stands in them; no key ever stands in a message. What TLS makes of them is `_tls`'s.
"""

import os
import pwd
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.hashes import Hash
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

from ..config.listeners import CertificateSection
from ..core.files import read_file
from ..errors import ConfigError
from .certificate import Certificate

KEY, CERTIFICATE = "a private key", "a certificate"
MARKS = {  # in a PEM file, and what it has then
    rb"-----BEGIN (X509 |TRUSTED )?CERTIFICATE-----": CERTIFICATE,
    rb"-----BEGIN (\w+ )?PRIVATE KEY-----": KEY,
    rb"-----BEGIN (NEW )?CERTIFICATE REQUEST-----": "a certificate request",
    rb"-----BEGIN (\w+ )?PUBLIC KEY-----": "a public key",
}
BEGIN = rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----"
ENCRYPTED = rb"-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED"
NAME, NAME_MAX = r"(\*\.)?([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}", 253
SOON = 7 * 86400.0  # seconds before a certificate expires, unless it is for a short time anyway
SEQUENCE = b"\x30"  # that DER begins with
UNREADABLE = (
    ValueError, TypeError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)  # fmt: skip


class OcspResponse(NamedTuple):
    """What an issuer says of a certificate, and for how long that is good, in seconds since the epoch."""

    der: bytes
    since: float
    until: float
    is_good: bool  # the certificate is not revoked

    def fault(self, now: float) -> str:
        """Return why it is no use to clients by now; "": it is."""
        if not self.is_good:
            return "does not say that the certificate is good"
        if now < self.since:
            return f"is not valid before {_day(self.since)}"
        return f"is too old since {_day(self.until)}" if now >= self.until else ""


class Found(NamedTuple):
    """A certificate that was read, and for how long it is good, in seconds since the epoch."""

    certificate: Certificate
    file: str
    since: float
    until: float
    ocsp: OcspResponse | None = None

    def at(self, now: float) -> Certificate:
        """Return it as clients should get it: a response of OCSP that is of no use makes some of them leave."""
        staple = self.ocsp.der if self.ocsp and not self.ocsp.fault(now) else b""
        return self.certificate._replace(ocsp_response=staple)

    def warnings(self, now: float) -> Iterator[str]:
        """Yield what an operator should know by now."""
        soon = min(SOON, (self.until - self.since) / 3)
        if now < self.since:
            yield f"{self.file}: the certificate is not valid before {_day(self.since)}"
        elif now >= self.until:
            yield f"{self.file}: the certificate is not valid since {_day(self.until)}"
        elif now >= self.until - soon:
            yield f"{self.file}: the certificate expires at {_day(self.until)}"
        if self.ocsp and (fault := self.ocsp.fault(now)):
            yield f"{self.file}: its OCSP response {fault}, and is not sent"

    def summary(self) -> str:
        """Return what it is, in a line."""
        return f"{self.file}: new certificate for {self.certificate.title}, valid until {_day(self.until)}"


class UnreadableError(ConfigError):
    """A file may not be read by the user that the shield runs as now."""


def read(section: CertificateSection) -> Found:
    """Return a certificate with its key; ConfigError where they are not what they should be, in one line."""
    chain = _read_chain(section.certificate)
    key = _read_key(section.key_file, is_own=bool(section.key))
    _see_that_they_belong_together(section, chain, key)
    own = chain[0]
    try:
        found = Certificate(
            names=_names_of(own),
            chain=tuple(each.public_bytes(Encoding.DER) for each in chain),
            key=key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        )
        since, until = own.not_valid_before_utc.timestamp(), own.not_valid_after_utc.timestamp()
    except UNREADABLE as error:
        raise _wrong("certificate", section.certificate, f"cannot be used: {error}") from None
    response = _read_ocsp(section.ocsp_response, own) if section.ocsp_response else None
    return Found(found, section.certificate, since, until, response)


def paths_of(section: CertificateSection) -> tuple[Path, ...]:
    """Return the files that a certificate is made from."""
    return tuple(Path(each) for each in (section.certificate, section.key_file, section.ocsp_response) if each)


def read_secret(path: str) -> bytes:
    """Return the 32 octets of a ticket secret: one line of 64 hex digits, with `#` before comments.

    Raises ConfigError with the first mistake, its line, and what is allowed.
    """
    content = _content("", path)
    digits = [(number, line.partition(b"#")[0].strip()) for number, line in enumerate(content.splitlines(), 1)]
    secrets = [(number, each) for number, each in digits if each]
    for number, each in secrets:
        if not re.fullmatch(rb"[0-9A-Fa-f]{64}", each):
            raise ConfigError(f"tls.ticket_secret_file: {path}:{number}: not a secret; write 64 hex digits")
    if len(secrets) != 1:
        what = f"{len(secrets)} secrets" if secrets else "no secret"
        raise ConfigError(f"tls.ticket_secret_file: {path}: {what}; write one of 64 hex digits (openssl rand -hex 32)")
    return bytes.fromhex(secrets[0][1].decode())


# ---------------------------------------------------------------- files


def _wrong(key: str, path: str, why: str) -> ConfigError:
    return ConfigError(f"{_where(key)}: {path}: {why}")


def _where(key: str) -> str:
    return f"listeners.certificates.{key}" if key else "tls.ticket_secret_file"


def _content(key: str, path: str) -> bytes:
    """Return what is in a file that a key of the configuration names."""
    try:
        return read_file(Path(path))
    except PermissionError as error:
        who = _user()
        raise UnreadableError(f"{_where(key)}: {path}: {error.strerror}; let {who} read it") from None
    except OSError as error:
        raise _wrong(key, path, error.strerror or str(error)) from None


def _user() -> str:
    """Return who we are, as an operator knows us."""
    try:
        return f"the user {pwd.getpwuid(os.geteuid()).pw_name}"
    except KeyError:
        return f"the user number {os.geteuid()}"


def _read_chain(path: str) -> list[x509.Certificate]:
    """Return the certificates in a file."""
    content = _content("certificate", path)
    if CERTIFICATE not in (there := _parts(content)):
        raise _wrong("certificate", path, _other(CERTIFICATE, content, there))
    try:
        chain = x509.load_pem_x509_certificates(content)
    except UNREADABLE:
        chain = []
    if len(chain) != len(re.findall(BEGIN, content)):  # what is cut short is left out without a word
        raise _wrong("certificate", path, "a certificate in it is malformed")
    return chain


def _read_key(path: str, *, is_own: bool) -> PrivateKeyTypes:
    """Return the private key in a file, which is its own or the certificate's.

    That its numbers are prime is not proven anew: it takes a third of a second, and who could write here needs no
    trick.
    """
    content = _content("key", path)
    if KEY not in (there := _parts(content)):
        missing = 'has no private key; if that is in another file, write key = "FILE"'
        raise _wrong("key", path, _other(KEY, content, there) if is_own else missing)
    if re.search(ENCRYPTED, content, re.M):
        raise _wrong(
            "key", path, "the key is encrypted, and nobody is there to ask for its password; decrypt it (openssl pkey)"
        )
    try:
        return load_pem_private_key(content, None, unsafe_skip_rsa_key_validation=True)
    except UNREADABLE:
        raise _wrong("key", path, "the private key in it is malformed, or of an unknown kind") from None


def _parts(content: bytes) -> list[str]:
    """Return what is in a file in PEM format."""
    return [what for mark, what in MARKS.items() if re.search(mark, content)]


def _other(wanted: str, content: bytes, there: list[str]) -> str:
    """Say what is in a file instead of what was wanted, and what was probably meant."""
    if {wanted, *there} == {KEY, CERTIFICATE}:
        return f"has {there[0]}, not {wanted}; were the two files exchanged?"
    if there:
        return f"has {there[0]}, not {wanted}"
    if content.startswith(SEQUENCE):
        tool = "openssl x509 -inform DER" if wanted == CERTIFICATE else "openssl pkey -inform DER"
        return f"not in PEM format; it looks like DER, and {tool} converts that"
    return f"not in PEM format; it has no {wanted.removeprefix('a ')}"


# ---------------------------------------------------------------- what belongs together


def _see_that_they_belong_together(
    section: CertificateSection, chain: list[x509.Certificate], key: PrivateKeyTypes
) -> None:
    try:
        public, keys = _spki(key.public_key()), [_spki(each.public_key()) for each in chain]
    except UNREADABLE as error:
        raise _wrong("certificate", section.certificate, f"its key cannot be used: {error}") from None
    if public == keys[0]:
        return
    if public in keys:
        at = keys.index(public) + 1
        raise _wrong(
            "certificate", section.certificate,
            f"wrong order: the certificate that the key belongs to comes first, and is number {at}",
        )  # fmt: skip
    raise _wrong("key", section.key_file, f"does not belong to the certificate in {section.certificate}")


def _spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the host names that a certificate is for: alternative names, or without any the common name (RFC 6125)."""
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = alternatives.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        names = [str(each.value) for each in common]
    plain = (name.lower().removesuffix(".") for name in names)
    return tuple(dict.fromkeys(name for name in plain if len(name) <= NAME_MAX and re.fullmatch(NAME, name)))


def _read_ocsp(path: str, certificate: x509.Certificate) -> OcspResponse:
    """Return a response of OCSP about a certificate (RFC 6960)."""
    content = _content("ocsp_response", path)
    try:
        response = ocsp.load_der_ocsp_response(content)
        if response.response_status != ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise _wrong("ocsp_response", path, f"says {response.response_status.name}, and nothing of the certificate")
        about = next((each for each in response.responses if _is_about(each, certificate)), None)
        if about is None:
            raise _wrong("ocsp_response", path, "is about another certificate")
        until = about.next_update_utc.timestamp() if about.next_update_utc else inf
        is_good = about.certificate_status == ocsp.OCSPCertStatus.GOOD
        return OcspResponse(content, about.this_update_utc.timestamp(), until, is_good)
    except UNREADABLE:
        why = "not an OCSP response in DER format" + ("; it is in PEM format" if b"-----BEGIN" in content else "")
        raise _wrong("ocsp_response", path, why) from None


def _is_about(single: ocsp.OCSPSingleResponse, certificate: x509.Certificate) -> bool:
    digest = Hash(single.hash_algorithm)
    digest.update(certificate.issuer.public_bytes())
    return single.serial_number == certificate.serial_number and single.issuer_name_hash == digest.finalize()


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
