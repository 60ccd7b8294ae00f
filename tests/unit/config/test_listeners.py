"""Where clients come to: which addresses there are, how they are numbered, and what a reload keeps of them."""

import pytest

from funkenshield import config
from funkenshield.core._limits import LISTENERS_MAX

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
        (f"{ENCRYPTED}{PLAIN}", ["192.0.2.3:53", "192.0.2.1:853 (TLS)", "[::1]:853 (TLS)"]),
    ],
)
def test_the_default_address_gives_way_to_others_and_those_over_udp_come_first(text, listeners, tmp_path):
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


def test_a_reload_keeps_addresses_and_takes_what_they_are_encrypted_with(tmp_path):
    before = load(tmp_path, LISTEN + ENCRYPTED.replace("CERTIFICATE", "old.pem") + PLAIN)
    moved = ENCRYPTED.replace("CERTIFICATE", "new.pem").replace("[::1]:853", "[::2]:853") + 'min_version = "1.3"\n'
    kept = load(tmp_path, moved).keeping(before)
    assert kept.endpoints == before.endpoints
    told = [(str(each), each.section.min_version, [c.certificate for c in each.section.certificates])
            for each in kept.all_listeners]  # fmt: skip
    assert told == [
        ("192.0.2.1:53", "1.2", []), ("192.0.2.2:53", "1.2", []), ("192.0.2.3:53", "1.2", []),
        ("192.0.2.1:853 (TLS)", "1.3", [f"{tmp_path}/new.pem"]), ("[::1]:853 (TLS)", "1.2", [f"{tmp_path}/old.pem"]),
    ]  # fmt: skip
    again = load(tmp_path, moved).keeping(kept)
    assert (again.all_listeners, again.endpoints) == (kept.all_listeners, before.endpoints)


def test_a_reload_without_tcp_leaves_it_to_listeners_with_tls_until_the_restart(tmp_path):
    before = load(tmp_path, LISTEN + ENCRYPTED)
    without = f"tcp.max_connections = 0\ntcp.max_in_flight = 7\n{LISTEN}"
    kept = load(tmp_path, without).keeping(before)
    assert (kept.tcp.max_connections, kept.tcp.max_in_flight) == (None, 7)
    assert load(tmp_path, without).keeping(load(tmp_path, LISTEN)).tcp.max_connections == 0


def test_a_reload_makes_no_address_one_with_tls(tmp_path):
    before = load(tmp_path, PLAIN)
    after = load(tmp_path, f'{PLAIN}transport = "tls"\n{CERTIFICATE}').keeping(before)
    assert [str(each) for each in after.all_listeners] == ["192.0.2.3:53"]
