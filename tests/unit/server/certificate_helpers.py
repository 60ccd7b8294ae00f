"""Know how to make the files of certificates, right ones and wrong ones, in a folder."""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

from funkenshield.config.listeners import CertificateSection

DAY = datetime.timedelta(days=1)
NOW = datetime.datetime(2026, 6, 1, 12, tzinfo=datetime.UTC)
PEM = Encoding.PEM


def named(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class Issued:
    """A certificate, with its key; itself an issuer of others. It is valid from a day before NOW to 30 days after."""

    def __init__(self, common="dns.test", names=None, issuer=None, since=NOW - DAY, until=NOW + 30 * DAY):
        self.key = ec.generate_private_key(ec.SECP256R1())
        signer = issuer or self
        builder = x509.CertificateBuilder(
            named(issuer.common if issuer else common), named(common), self.key.public_key(),
            x509.random_serial_number(), since, until,
        )  # fmt: skip
        if names is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        self.common, self.certificate = common, builder.sign(signer.key, SHA256())

    @property
    def pem(self):
        return self.certificate.public_bytes(PEM)

    @property
    def der(self):
        return self.certificate.public_bytes(Encoding.DER)

    def key_bytes(self, encoding=PEM, form=PrivateFormat.PKCS8, encryption=None):
        return self.key.private_bytes(encoding, form, encryption or NoEncryption())

    def stapled(self, issuer, since=NOW - DAY, until=NOW + DAY, revoked=None):
        """Return what the issuer says of it by OCSP, in DER: it is good, or revoked since a time."""
        status = ocsp.OCSPCertStatus.REVOKED if revoked else ocsp.OCSPCertStatus.GOOD
        return (
            ocsp.OCSPResponseBuilder()
            .add_response(self.certificate, issuer.certificate, SHA1(), status, since, until, revoked, None)
            .responder_id(ocsp.OCSPResponderEncoding.HASH, issuer.certificate)
            .sign(issuer.key, SHA256())
            .public_bytes(Encoding.DER)
        )


def write(folder, **files):
    """Write files of a certificate, by the keys of its section; return the section."""
    paths = {}
    for name, content in files.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)
        paths[name] = str(folder / name)
    return CertificateSection(**paths)
