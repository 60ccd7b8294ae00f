"""Where clients come to: which addresses there are, how they are numbered, and what a reload keeps of them."""

import pytest

from funkenshield import config
from funkenshield.core._limits import LISTENERS_MAX
from funkenshield.errors import ConfigError

LISTEN = 'listen = ["192.0.2.1:53", "192.0.2.2:53"]\n'
PLAIN = '[[listeners]]\naddress = "192.0.2.3:53"\n'
CERTIFICATE = 'certificates = { certificate = "CERTIFICATE", key = "k.pem" }\n'
ENCRYPTED = f'[[listeners]]\naddress = ["192.0.2.1:853", "[::1]:853"]\ntransport = "tls"\n{CERTIFICATE}'


def load(tmp_path, text):
    file = tmp_path / "f.toml"
    file.write_text(text)
    return config.load(file)


@pytest.mark.parametrize(
    ("text", "listeners"),
    [
        ("", ["127.0.0.1:8054"]),
        (LISTEN, ["192.0.2.1:53", "192.0.2.2:53"]),
        (PLAIN, ["192.0.2.3:53"]),
        (f"{LISTEN}{PLAIN}", ["192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"]),
        (ENCRYPTED, ["127.0.0.1:8054", "192.0.2.1:853 (TLS)", "[::1]:853 (TLS)"]),
        (f"listen = []\n{ENCRYPTED}", ["192.0.2.1:853 (TLS)", "[::1]:853 (TLS)"]),
        (f"{ENCRYPTED}{PLAIN}", ["192.0.2.1:853 (TLS)", "[::1]:853 (TLS)", "192.0.2.3:53"]),
    ],
)
def test_the_default_address_gives_way_to_others_over_udp_and_tcp(text, listeners, tmp_path):
    found = load(tmp_path, text)
    assert [str(each) for each in found.all_listeners] == listeners
    assert [f"{each} (TLS)" in listeners for each in found.endpoints] == [each.encrypts for each in found.all_listeners]


def test_the_default_address_gives_way_to_that_of_a_flag(tmp_path):
    file = tmp_path / "f.toml"
    file.write_text(PLAIN)
    found = config.load(file, {"listen": ("127.0.0.1:5300",)})
    assert [str(each) for each in found.all_listeners] == ["127.0.0.1:5300", "192.0.2.3:53"]


def test_there_may_be_so_many(tmp_path):
    several = ", ".join(f'"127.0.0.{n}:53"' for n in range(1, LISTENERS_MAX))
    assert len(load(tmp_path, f"listen = [{several}]\n{PLAIN}").all_listeners) == LISTENERS_MAX


def test_without_tcp_what_is_without_tls_is_over_udp_alone(tmp_path):
    found = load(tmp_path, f'metrics.listen = "192.0.2.3:53"\ntcp.max_connections = 0\n{PLAIN}')
    assert [str(each) for each in found.all_listeners] == ["192.0.2.3:53"]


def test_those_with_http_come_over_tcp_with_tls_or_without(tmp_path):
    https = f'[[listeners]]\naddress = "192.0.2.1:443"\ntransport = "https"\n{CERTIFICATE}'
    http = '[[listeners]]\naddress = "[::1]:80"\ntransport = "http"\npaths = ["/a", "/b:c"]\n'
    found = load(tmp_path, https + http).all_listeners
    assert [str(each) for each in found] == ["127.0.0.1:8054", "192.0.2.1:443 (HTTPS)", "[::1]:80 (HTTP)"]
    assert [(each.has_udp, each.encrypts, each.section.speaks_http) for each in found] == [
        (True, False, False), (False, True, True), (False, False, True),
    ]  # fmt: skip
    assert [each.section.paths for each in found[1:]] == [("/dns-query",), ("/a", "/b:c")]


def test_files_of_certificates_are_relative_to_the_file_and_a_key_may_be_in_the_same(tmp_path):
    text = ENCRYPTED.replace(', key = "k.pem"', "").replace("CERTIFICATE", "etc/c.pem")
    (certificate,) = load(tmp_path, text).listeners[0].certificates
    assert certificate.certificate == certificate.key_file == f"{tmp_path}/etc/c.pem"
    assert certificate.ocsp_response == ""


def test_a_reload_takes_up_all_that_is_said_of_listeners(tmp_path):
    before = load(tmp_path, LISTEN + ENCRYPTED.replace("CERTIFICATE", "old.pem") + PLAIN)
    for text in (f"tcp.max_connections = 0\n{LISTEN}", ENCRYPTED, f'{PLAIN}transport = "tls"\n{CERTIFICATE}'):
        after = load(tmp_path, text)
        assert after.keeping(before).all_listeners == after.all_listeners
        assert after.keeping(before).tcp == after.tcp


def at_one_address(*transports):
    """Return listeners of these transports, all at one address."""
    tables = (f'[[listeners]]\naddress = "192.0.2.1:853"\ntransport = "{each}"\n' for each in transports)
    return "".join(table + (CERTIFICATE if "udp" not in table else "") for table in tables)


def test_one_over_tcp_and_one_over_quic_may_have_one_address(tmp_path):
    found = load(tmp_path, at_one_address("tls", "quic")).all_listeners
    assert [str(each) for each in found[1:]] == ["192.0.2.1:853 (TLS)", "192.0.2.1:853 (QUIC)"]
    assert [(each.is_quic, each.needs_tcp) for each in found[1:]] == [(False, True), (True, False)]
    for both in ("tls", "https"), ("quic", "h3"), ("udp+tcp", "quic"), ("tls", "udp+tcp"):
        with pytest.raises(ConfigError, match=r"more than once, those of listen included: 192\.0\.2\.1:853"):
            load(tmp_path, at_one_address(*both))


def test_those_over_quic_need_no_tcp(tmp_path):
    found = load(tmp_path, f"tcp.max_connections = 0\n{at_one_address('quic')}").all_listeners
    assert [str(each) for each in found] == ["127.0.0.1:8054", "192.0.2.1:853 (QUIC)"]
