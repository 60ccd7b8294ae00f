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
    """A certificate, with its key; itself an issuer of others. It is valid for a day before and after NOW."""

    def __init__(self, common="dns.test", names=None, issuer=None, since=NOW - DAY, until=NOW + DAY):
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

    def stapled(self, issuer, until=NOW + DAY):
        """Return what the issuer says of it by OCSP, in DER."""
        return (
            ocsp.OCSPResponseBuilder()
            .add_response(
                self.certificate, issuer.certificate, SHA1(), ocsp.OCSPCertStatus.GOOD, NOW - DAY, until, None, None
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, issuer.certificate)
            .sign(issuer.key, SHA256())
            .public_bytes(Encoding.DER)
        )


def write(folder, **files):
    """Write files of a certificate, by the keys of its section; return the section."""
    paths = {}
    for name, content in files.items():
        (folder / name).write_bytes(content)
        paths[name] = str(folder / name)
    return CertificateSection(**paths)
