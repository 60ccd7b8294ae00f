"""Certificates for a server in memory."""

import pytest
from support.certificates import Authority

from funkenshield.config.listeners import CertificateSection
from funkenshield.server.certificates import read


@pytest.fixture(scope="package")
def issue(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("authority"))

    def issued(*names):
        return [read(CertificateSection(certificate=str(authority.issue(name).file))).certificate for name in names]

    return issued


@pytest.fixture(scope="package")
def certificates(issue):
    return issue("dns.test")
