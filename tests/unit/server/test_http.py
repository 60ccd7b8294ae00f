"""What requests are judged by follows the configuration; where HTTP/2 is not built in, that is told."""

import sys

import pytest

from funkenshield import config
from funkenshield.errors import ConfigError
from funkenshield.server import http

TEXT = """
[[listeners]]
address = "127.0.0.1:{}"
transport = "http"
paths = {}
forwarded_for_from = ["192.0.2.0/24", "2001:db8::/32"]
"""


class Listener:
    """An Http2Listener that notes what it was given."""

    def __init__(self, cache):
        self.used = []

    def use(self, manner):
        self.used.append(manner)


def load(tmp_path, text):
    file = tmp_path / "shield.toml"
    file.write_text(text)
    return config.load(file)


def test_each_listener_with_http_gets_its_paths_and_proxies(tmp_path, monkeypatch):
    monkeypatch.setattr(http, "compiled", lambda: (lambda *how: how, Listener))
    listeners = http.HttpListeners()
    before = load(tmp_path, TEXT.format(8053, '["/a", "/b"]') + TEXT.format(8055, '["/c"]'))
    listeners.configure(before, None)
    made = listeners.listeners
    assert [str(endpoint) for endpoint in made] == ["127.0.0.1:8053", "127.0.0.1:8055"]
    listeners.configure(load(tmp_path, TEXT.format(8053, '["/d"]')), None)
    assert list(listeners.listeners.values()) == list(made.values())[:1]
    proxies = [(bytes([192, 0, 2, 0]), 24), (bytes.fromhex("20010db8") + bytes(12), 32)]
    first, second = (each.used for each in made.values())
    assert first == [(("/a", "/b"), proxies), (("/d",), proxies)]
    assert second == [(("/c",), proxies)]


def test_where_nobody_wants_it_nothing_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(http, "compiled", None)
    found = load(tmp_path, "")
    http.examine(found)
    listeners = http.HttpListeners()
    listeners.configure(found, None)
    assert listeners.listeners == {}


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            ModuleNotFoundError("No module named 'funkenshield.server._http2'"),
            "DNS over HTTPS is not built in: install nghttp2's headers (Debian: libnghttp2-dev), and build or install"
            " funkenshield again",
        ),
        (ImportError("libnghttp2.so.14: no file"), "DNS over HTTPS cannot be loaded: libnghttp2.so.14: no file"),
    ],
)
def test_where_it_is_not_built_in_that_is_told(error, line, tmp_path, monkeypatch):
    class Refusing:
        def find_spec(self, name, *_):
            if name == "funkenshield.server._http2":
                raise error

    monkeypatch.delitem(sys.modules, "funkenshield.server._http2", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    for work in (http.compiled, lambda: http.examine(load(tmp_path, TEXT.format(8053, '"/a"')))):
        with pytest.raises(ConfigError) as told:
            work()
        assert str(told.value) == f'listeners: transport "https" or "http": {line}'
