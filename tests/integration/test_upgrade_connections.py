"""Show that connections which no other process can go on with end in order at an upgrade: nobody loses a query.

All that a daemon can have open is open here: what clients get meanwhile, and what was told of it, is looked at.
"""

import contextlib
import json
import urllib.request

import dns.message
import dns.quic
import pytest
from support import http2
from support.certificates import HOST
from support.client import Address, ask, connected, frame, free_port
from support.control import stats
from support.dnstap import Collector
from support.encrypted import Door, read_wire, shown
from support.proxied import STREAM, told
from support.quick import query
from support.rig import Holding, asked, data, numbered, toml
from support.until import until
from support.upgrades import command, upgradable

pytest.importorskip("funkenshield.server._http2")
pytest.importorskip("funkenshield.server._tls")
pytest.importorskip("aioquic")
pytest.importorskip("qh3")
pytestmark = [  # dnspython leaves two sockets of each connection to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("collected"),
]
PROXY = "127.0.0.3"
RULES = """
from funkenshield.rules import *
import os

@shield.rule(suffix("ruled.test"))
def tell(query):
    return query.respond(f'0 TXT "{os.getpid()}"')
"""


class Everything:
    """A daemon with all that it can have open."""

    def __init__(self, authority, folder):
        credentials = authority.issue(HOST)
        self.tls, self.https, self.quic = (Address("127.0.0.1", free_port()) for _ in range(3))
        self.web, self.log = Address("127.0.0.1", free_port()), folder / "queries"
        self.upstream, self.tap = Holding(numbered(1)), folder / "tap"
        self.door, self.context = Door(self.tls, authority), http2.trusting(authority.file)
        self._verify = str(authority.file)
        self.named = f"localhost:{free_port()}"
        (folder / "rules.py").write_text(RULES)
        listeners = [
            {"address": str(address), "transport": transport, "certificates": [shown(credentials)]}
            for address, transport in ((self.tls, "tls"), (self.https, "https"), (self.quic, "quic"))
        ]
        self.options = {
            "listeners": listeners, "metrics": {"listen": str(self.web)}, "web": {"page": True},
            "dnstap": [{"socket": str(self.tap)}], "query_log": [{"file": str(self.log), "format": "json"}],
            "proxy_protocol_from": [PROXY], "rules_file": str(folder / "rules.py"),
            "zones": [{"name": "named.test", "upstreams": [self.named]}],
            "forward": dict.fromkeys(("timeout", "retry_after", "deadline"), 20.0),
            "tcp": {"idle_timeout": 60}, "drain_timeout": 30,
        }  # fmt: skip

    @contextlib.contextmanager
    def over_https(self):
        with http2.connected(self.https, context=self.context) as client:
            yield client

    @contextlib.contextmanager
    def over_quic(self):
        with dns.quic.SyncQuicManager(verify_mode=self._verify, server_name=HOST) as manager:
            yield manager.connect("127.0.0.1", self.quic.port)


def over_stream(connection, name):
    """Ask over QUIC; return the stream."""
    made = asked(name)
    made.id = 0
    stream = connection.make_stream(timeout=10.0)
    stream.send(made.to_wire(), True)
    return stream


def addresses(wire):
    return data(dns.message.from_wire(wire))


def test_with_everything_open_what_was_asked_is_answered_and_the_rest_goes_on_in_the_new_one(authority, tmp_path):
    everything = Everything(authority, tmp_path)
    with (
        everything.upstream as upstream,
        Collector(everything.tap) as collector,
        upgradable([upstream], workers=2, toml=toml(**everything.options)) as running,
        everything.door.connect() as (tls, tls_answers),
        everything.over_https() as https,
        everything.over_quic() as quic,
        everything.door.connect() as (idle_tls, idle_tls_answers),
        everything.over_https() as idle_https,
        everything.over_quic() as idle_quic,
        connected(running.shield, source=PROXY) as proxied,
        proxied.makefile("rb") as proxied_answers,
    ):
        shield, door = running.shield, everything.door
        session = door.session(query("kept.test", 1))
        assert addresses(https.ask(query("kept.test", 1)).body) == ["192.0.2.1"]
        assert idle_https.ask(query("kept.test", 1)).status == 200
        with over_stream(idle_quic, "kept.test.") as stream:
            assert addresses(stream.receive(timeout=10.0)) == ["192.0.2.1"]
        idle_tls.sendall(frame(query("kept.test", 1)))
        assert addresses(read_wire(idle_tls_answers)) == ["192.0.2.1"]
        proxied.sendall(told("192.0.2.7", transport=STREAM) + frame(query("kept.test", 1)))
        assert addresses(read_wire(proxied_answers)) == ["192.0.2.1"]
        first = ask("ruled.test.", "TXT", server=shield).answer
        assert command(shield, command="upstream down", name=everything.named)["ok"]
        upstream.hold()
        tls.sendall(frame(query("held.test", 1)))
        waiting = https.post(query("held.test", 1))
        over_quic = over_stream(quic, "held.test.")
        until(lambda: upstream.count("held.test.") == 1)
        until(lambda: stats(shield)["coalesced_queries"] == 2)

        assert running.upgrade()["ok"], shield.log
        assert idle_tls_answers.read(1) == b""  # without close_notify, SSLEOFError
        assert (idle_https.until_end(), idle_https.last_stream) == (http2.NO_ERROR, 1)
        until(lambda: idle_quic._done)
        tls.sendall(frame(query("late.test", 1)))  # who waits is heard
        until(lambda: upstream.count("late.test.") == 1)
        late = https.get(query("late.test", 1))  # and knows better here
        upstream.let_go()
        assert [addresses(read_wire(tls_answers)) for _ in range(2)] == [["192.0.2.1"]] * 2
        assert tls_answers.read(1) == b""
        assert addresses(https.response(waiting).body) == ["192.0.2.1"]
        assert (https.until_end(), https.last_stream) == (http2.NO_ERROR, waiting)
        assert https.responses[late].status is None  # to be asked again
        with over_quic:
            assert addresses(over_quic.receive(timeout=10.0)) == ["192.0.2.1"]
        until(lambda: quic._done)
        assert shield.process.wait(5) == 0

        assert door.resumes(query("kept.test", 1), **session)
        with everything.over_https() as client:
            assert addresses(client.ask(query("kept.test", 1)).body) == ["192.0.2.1"]
        with everything.over_quic() as connection, over_stream(connection, "kept.test.") as stream:
            assert addresses(stream.receive(timeout=10.0)) == ["192.0.2.1"]
        proxied.sendall(frame(query("kept.test", 1)))  # whose it is, was told once
        assert addresses(read_wire(proxied_answers)) == ["192.0.2.1"]
        assert ask("ruled.test.", "TXT", server=shield).answer != first  # another process
        listed = command(shield, command="upstream list")["upstreams"]
        assert {each["state"] for each in listed if each["name"] == everything.named} == {"down (by command)"}
        with urllib.request.urlopen(f"http://{everything.web}/ready") as response:
            assert response.status == 200
        assert stats(shield)["cache_misses"] == 0
        until(lambda: collector.connections == 2)
        logged = [json.loads(line) for line in everything.log.read_text().splitlines()]
        assert [each["name"] for each in logged].count("held.test.") == 3
        assert [each["client"].partition(":")[0] for each in logged].count("192.0.2.7") == 2
        assert "ERROR" not in shield.log
    assert [upstream.count(f"{name}.test.") for name in ("kept", "held", "late")] == [1, 1, 1]
