"""Know how to make certificates that live for a test: an authority, what it signs, and their pins."""

import base64
import datetime
import hashlib
import ipaddress
import ssl
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

HOST = "dns.test"
SIGNS = x509.KeyUsage(
    digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
    data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
)  # fmt: skip


class Credentials(NamedTuple):
    """A certificate and its key in one PEM file, and in one each, and the pin of the key."""

    file: Path
    pin: str

    @property
    def certificate(self):
        return self.file.with_suffix(".crt")

    @property
    def key(self):
        return self.file.with_suffix(".key")

    def server(self, newest=ssl.TLSVersion.TLSv1_3):
        """Return the context of a server that shows them, and speaks TLS up to a version."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file)
        context.set_alpn_protocols(["dot"])
        context.maximum_version = newest
        return context


class Authority:
    """An authority that signs certificates; all files are in one folder."""

    def __init__(self, folder, name="authority"):
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(_certificate(self._name, self._key, self._name, self._key).public_bytes(Encoding.PEM))

    def issue(self, name, key=None):
        """Return the credentials of a host, by name or address; those that it had under this name are gone."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        return _saved(self._folder / f"{name}.pem", _certificate(_named(name), key, self._name, self._key, name), key)

    def vouch(self, credentials):
        """Return the file of an OCSP response (RFC 6960) that says that a certificate of ours is good."""
        now = datetime.datetime.now(datetime.UTC)
        issuer = x509.load_pem_x509_certificate(self.file.read_bytes())
        builder = ocsp.OCSPResponseBuilder().add_response(
            x509.load_pem_x509_certificate(credentials.certificate.read_bytes()), issuer, hashes.SHA256(),
            ocsp.OCSPCertStatus.GOOD, now, now + datetime.timedelta(days=1), None, None,
        )  # fmt: skip
        response = builder.responder_id(ocsp.OCSPResponderEncoding.NAME, issuer).sign(self._key, hashes.SHA256())
        file = credentials.file.with_suffix(".ocsp")
        file.write_bytes(response.public_bytes(Encoding.DER))
        return file


def self_signed(folder, name):
    """Return the credentials of a host that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    return _saved(folder / f"self-{name}.pem", _certificate(_named(name), key, _named(name), key, name), key)


def believing(authority):
    """Return the context of a client of DNS over TLS that believes an authority, or self-signed credentials."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.file)
    context.set_alpn_protocols(["dot"])
    return context


def odd(credentials):
    """Return the same credentials with a certificate of version 2, which OpenSSL takes, and `cryptography` does not."""
    certificate, secret = credentials.file.read_text().split("-----BEGIN PRIVATE KEY")
    der = ssl.PEM_cert_to_DER_cert(certificate).replace(b"\xa0\3\2\1\2", b"\xa0\3\2\1\1", 1)
    file = credentials.file.with_suffix(".odd")
    file.write_text(ssl.DER_cert_to_PEM_cert(der) + "-----BEGIN PRIVATE KEY" + secret)
    return Credentials(file, credentials.pin)


def _named(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate(subject, key, issuer, issuers_key, host=None):
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(
        issuer, subject, key.public_key(), x509.random_serial_number(), now - day, now + day
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
    known, signers = (x509.SubjectKeyIdentifier.from_public_key(each.public_key()) for each in (key, issuers_key))
    builder = builder.add_extension(known, critical=False)  # without which Python 3.13 and later trust none
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signers), critical=False
    )
    if host is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(host)]), critical=False)
    else:
        builder = builder.add_extension(SIGNS, critical=True)
    return builder.sign(issuers_key, hashes.SHA256())


def _general(host):
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _saved(file, certificate, key):
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(certificate.public_bytes(Encoding.PEM) + secret)
    credentials = Credentials(file, _pin(key))
    credentials.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    credentials.key.touch(0o600)
    credentials.key.write_bytes(secret)
    return credentials


def _pin(key):
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(spki).digest()).decode()
