"""How a node's cluster is configured."""

import pytest
from pydantic import ValidationError

from funkenshield.config.cluster import ClusterSection, StoreAddress, parse_store


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("redis://10.0.0.5", StoreAddress("10.0.0.5")),
        ("redis://store.example:6380/3", StoreAddress("store.example", 6380, database=3)),
        ("rediss://shield@[2001:db8::1]:6379", StoreAddress("2001:db8::1", 6379, tls=True, user="shield")),
        ("unix:///run/valkey/valkey.sock", StoreAddress(path="/run/valkey/valkey.sock")),
    ],
)
def test_a_store_has_an_address(text, address):
    assert parse_store(text) == address


@pytest.mark.parametrize(
    "text", ["10.0.0.5:6379", "http://10.0.0.5", "redis://", "redis://a:99999", "redis://a/x", "unix://a/b"]
)
def test_what_is_none_is_told_what_to_write(text):
    with pytest.raises(ValueError, match="write redis://HOST:PORT"):
        parse_store(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("redis://foo..bar", "foo..bar is not an IP address"),
        (f"redis://{'a' * 64}.example", "is not an IP address"),
        ("redis://10.0.0.256", "10.0.0.256 is not an IP address"),
        ("redis://a%00b", "is not an IP address"),
        ("redis://store.example:0", "port 0 is not between 1 and 65535"),
        ("redis://[2001:db8::1]:0", "port 0 is not between 1 and 65535"),
        ("redis://store.example/0?ssl=true", r"^\? and # mean nothing here; write redis"),
        ("rediss://store.example#a", r"^\? and # mean nothing here; write redis"),
        ("unix:///run/valkey.sock?db=1", r"^\? and # mean nothing here; write redis"),
        ("unix:///a%00b", "no %00"),
        (f"unix:///{'a' * 107}", "at most 107 octets"),
    ],
)
def test_no_connection_is_tried_to_what_cannot_be_one(text, said):
    with pytest.raises(ValueError, match=said):
        parse_store(text)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"store": "redis://shield@10.0.0.5"}, "password_file: none, and nobody logs in as shield without one"),
        ({"store": "redis://10.0.0.5", "ca_file": "ca.pem"}, "ca_file: verifies nothing without TLS"),
        ({"store": "unix:///a", "ca_file": "ca.pem"}, "ca_file: verifies nothing without TLS"),
    ],
)
def test_what_would_not_be_heeded_is_told(section, said):
    with pytest.raises(ValidationError, match=said):
        ClusterSection(secret_file="secret", **section)


def test_who_has_a_password_or_tls_may_name_what_goes_with_it():
    ClusterSection(store="redis://shield@10.0.0.5", secret_file="secret", password_file="password")
    ClusterSection(store="rediss://10.0.0.5", secret_file="secret", ca_file="ca.pem")


def test_a_password_does_not_stand_where_it_is_shown():
    with pytest.raises(ValueError, match="password_file"):
        parse_store("redis://shield:secret@10.0.0.5")


def test_a_store_takes_a_secret():
    with pytest.raises(ValidationError, match="openssl rand -hex 32"):
        ClusterSection(store="redis://10.0.0.5")


def test_a_node_is_called_as_its_host_unless_it_has_a_name(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "host-1")
    assert ClusterSection().node_name == "host-1"
    assert ClusterSection(node="edge-1").node_name == "edge-1"
