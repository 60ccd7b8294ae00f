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
