"""Know what clients get that come by DNS over HTTPS (RFC 8484), as others wrote them, and as a proxy sends them on.

Each test looks at what the client got, what the upstream received, and how many times.
"""

import contextlib
import signal
import ssl
import subprocess

import dns.message
import dns.query
import dns.rcode
import pytest
from support import http2
from support.client import Address, free_port
from support.control import stats
from support.http2 import NO_ERROR, connected, trusting
from support.nameservers import program
from support.quick import query
from support.rig import Holding, answering, asked, behind, data, numbered, received
from support.site import site
from support.until import until

pytest.importorskip("funkenshield.server._http2")
pytest.importorskip("funkenshield.server._tls")
HOST, PATH = "dns.test", "/dns-query"
REFUSED = 5
PROXY = "127.0.0.3"
RULES = """
from funkenshield.rules import *

@shield.rule(suffix("a.test"))
def tell(query):
    return query.respond(f'0 TXT "{query.transport}" "{query.tls_server_name}"')
"""


@pytest.fixture(scope="module")
def credentials(authority):
    return authority.issue(HOST)


class Doors:
    """Where a shield listens for HTTPS, and for HTTP."""

    def __init__(self, authority):
        self.https, self.http = (Address("127.0.0.1", free_port()) for _ in range(2))
        self._authority = authority

    def tables(self, credentials, **more):
        files = {"certificate": str(credentials.file), "key": str(credentials.file)}
        return [
            {"address": str(self.https), "transport": "https", "certificates": [files], **more},
            {"address": str(self.http), "transport": "http", "forwarded_for_from": [PROXY], **more},
        ]

    def connect(self, transport="https", **how):
        context = trusting(self._authority.file) if transport == "https" else None
        return connected(getattr(self, transport), context=context, **how)


@contextlib.contextmanager
def listening(*servers, authority, credentials, listener=(), **options):
    """Run a shield as `behind` does, that listens for HTTPS and HTTP as well; yield it, its Doors, and upstreams."""
    doors = Doors(authority)
    with behind(*servers, listeners=doors.tables(credentials, **dict(listener)), **options) as (shield, *upstreams):
        yield shield, doors, *upstreams


@pytest.fixture(scope="module")
def running(authority, credentials):
    with listening(numbered(1), authority=authority, credentials=credentials) as (shield, doors, upstream):
        yield shield, doors, upstream


@pytest.fixture(params=["https", "http"])
def asking(request, running):
    """Yield a shield, a client of it, and its upstream."""
    shield, doors, upstream = running
    with doors.connect(request.param) as client:
        yield shield, client, upstream


def name_of(request):
    """Return a name that no other test asks for."""
    return f"t{abs(hash(request.node.name))}.test."


# ------------------------------------------------------------ queries


def test_a_miss_comes_back_to_its_stream_and_the_next_is_a_hit(asking, request):
    _, client, upstream = asking
    name = name_of(request)
    for ident in 0, 4711:
        response = client.ask(query(name, 1, ident=ident))
        assert response.status == 200
        assert data(dns.message.from_wire(response.body)) == ["192.0.2.1"]
        assert int.from_bytes(response.body[:2]) == ident
        assert 290 <= int(response.headers["cache-control"].removeprefix("max-age=")) <= 300
    assert received(upstream)[name] == 1


def test_many_misses_of_a_connection_each_find_their_stream(asking, request):
    _, client, upstream = asking
    names = [f"n{n}.{name_of(request)}" for n in range(90)]
    client.pump()
    streams = {client.get(query(name, 1), flush=False): name for name in names}
    client.flush()
    for stream, name in streams.items():
        response = dns.message.from_wire(client.response(stream).body)
        assert (response.question[0].name.to_text(), data(response)) == (name, ["192.0.2.1"])
    assert sum(received(upstream)[name] for name in names) == 90


def test_queries_are_counted_by_transport_and_responses_by_status(authority, credentials):
    with listening(numbered(1), authority=authority, credentials=credentials) as (shield, doors, _):
        for transport, count in ("https", 3), ("http", 2):
            with doors.connect(transport) as client:
                for n in range(count):
                    assert client.ask(query(f"n{n}.test", 1)).status == 200
                assert client.response(client.begin(target="/")).status == 404
        counted = stats(shield)
        came = {"udp": 0, "tcp": 0, "tls": 0, "https": 3, "http": 2, "quic": 0, "h3": 0}
        assert counted["queries_by_transport"] == came
        assert {transport: codes["NOERROR"] for transport, codes in counted["responses"].items()} == came
        assert {status: count for status, count in counted["http_responses"].items() if count} == {"200": 5, "404": 2}
        assert counted["listener_messages"] | {str(doors.https): 3, str(doors.http): 2} == counted["listener_messages"]
        assert counted["tls_handshakes"]["full"] == 1


def test_padding_is_answered_with_padding(running, request):
    _, doors, _ = running
    with doors.connect() as client:
        padded = asked(name_of(request), options=[(12, b"\0" * 20)])
        padded.id = 0
        for _ in range(2):  # a miss, and a hit
            assert len(client.ask(padded.to_wire()).body) == 468


@pytest.mark.parametrize("rdtype", ["AXFR", "IXFR"])
def test_a_transfer_is_refused_for_one_response_is_all_that_a_request_gets(authority, credentials, rdtype):
    allowed = {"allow": {"transfers": ["127.0.0.1"]}}
    with listening(numbered(1), authority=authority, credentials=credentials, forward=allowed) as (_, doors, upstream):
        with doors.connect() as client:
            response = client.ask(asked("zone.test.", rdtype).to_wire())
            assert (response.status, response.body[3] & 15) == (200, REFUSED)
            assert client.ask(query("a.test", 1)).body[3] & 15 == 0
        assert received(upstream) == {"a.test.": 1}


def test_what_a_rule_drops_is_forbidden_and_what_it_answers_is_answered(authority, credentials):
    rules = [
        {"match": {"suffix": "drop.test", "transport": "https"}, "action": "drop"},
        {"match": {"suffix": "refused.test", "transport": "http"}, "action": "refused"},
    ]
    with listening(numbered(1), authority=authority, credentials=credentials, rules=rules) as (_, doors, upstream):
        with doors.connect("https") as https, doors.connect("http") as http:
            assert https.ask(query("a.drop.test", 1)).status == 403
            assert http.ask(query("a.drop.test", 1)).status == 200
            assert http.ask(query("a.refused.test", 1)).body[3] & 15 == REFUSED
            assert https.ask(query("a.refused.test", 1)).body[3] & 15 == 0
        assert received(upstream) == {"a.drop.test.": 1, "a.refused.test.": 1}


def test_rules_in_python_know_how_a_query_came(authority, credentials, tmp_path):
    file = tmp_path / "shield_rules.py"
    file.write_text(RULES)
    refused = {"match": {"tls_server_name": HOST, "suffix": "b.test"}, "action": "refused"}
    options = {"authority": authority, "credentials": credentials, "rules_file": str(file), "rules": [refused]}
    with listening(numbered(1), **options) as (_, doors, upstream):
        for transport in "https", "http":
            with doors.connect(transport) as client:
                response = dns.message.from_wire(client.ask(query("a.test", 16)).body)
                assert data(response) == [f'"{transport}" "{HOST if transport == "https" else ""}"']
                code = dns.message.from_wire(client.ask(query("b.test", 1)).body).rcode()
                assert code == (dns.rcode.REFUSED if transport == "https" else dns.rcode.NOERROR)
        assert received(upstream) == {"b.test.": 1}


# ------------------------------------------------------------ streams that are gone


def test_a_stream_that_was_reset_is_answered_by_nobody_and_its_answer_is_kept(authority, credentials):
    holding = Holding(numbered(1))
    with holding, listening(holding, authority=authority, credentials=credentials) as (_, doors, upstream):
        with doors.connect() as client:
            upstream.hold()
            gone, stays = client.post(query("gone.test", 1)), client.post(query("stays.test", 1))
            until(lambda: len(upstream.received) == 2)
            client.h2.reset_stream(gone, http2.CANCEL)
            assert client.is_served()
            upstream.let_go()
            assert data(dns.message.from_wire(client.response(stays).body)) == ["192.0.2.1"]
            assert client.responses[gone].headers == {}
            assert data(dns.message.from_wire(client.ask(query("gone.test", 1)).body)) == ["192.0.2.1"]
        assert received(upstream) == {"gone.test.": 1, "stays.test.": 1}


def test_answers_for_a_connection_that_is_gone_go_to_nobody(authority, credentials):
    holding = Holding(numbered(1))
    with holding, listening(holding, authority=authority, credentials=credentials) as (shield, doors, upstream):
        upstream.hold()
        with doors.connect() as client:
            for n in range(20):
                client.post(query(f"n{n}.test", 1))
            until(lambda: len(upstream.received) == 20)
        with doors.connect() as client:  # maybe in the same place
            stream = client.post(query("other.test", 1))
            until(lambda: len(upstream.received) == 21)
            upstream.let_go()
            assert b"\5other" in client.response(stream).body
            assert client.is_served()
            assert len(client.responses) <= 2
        until(lambda: stats(shield)["tcp_connections"] == 0)


# ------------------------------------------------------------ who comes in


@pytest.mark.parametrize("protocols", [(), ("http/1.1",), ("dot", "h3")])
def test_who_does_not_ask_for_http_2_is_refused_in_the_handshake(running, authority, protocols):
    shield, doors, _ = running
    before = stats(shield)["tls_failures"]["protocol"]
    with (
        pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"),
        connected(doors.https, context=trusting(authority.file, protocols=protocols)),
    ):
        pass
    assert stats(shield)["tls_failures"]["protocol"] == before + 1


def test_http_2_is_chosen_of_what_is_offered(running, authority):
    _, doors, _ = running
    with connected(doors.https, context=trusting(authority.file, protocols=("http/1.1", "h2"))) as client:
        assert client.sock.selected_alpn_protocol() == "h2"
        assert client.ask(query("a.test", 1)).status == 200


@pytest.mark.parametrize(
    ("source", "value", "seen"),
    [
        (PROXY, "203.0.113.1, 192.0.2.7", "192.0.2.7"), (PROXY, None, PROXY),
        ("127.0.0.1", "203.0.113.1, 192.0.2.7", "127.0.0.1"),
    ],
)  # fmt: skip
def test_an_access_list_is_applied_to_whom_a_proxy_asks_for(authority, credentials, source, value, seen):
    for allowed, code in ([seen], 0), (["198.51.100.1"], REFUSED):
        guard = {"access": {"allow": allowed, "default": "deny"}}
        with listening(numbered(1), authority=authority, credentials=credentials, guard=guard) as (_, doors, upstream):
            with doors.connect("http", source=source) as client:
                headers = [("x-forwarded-for", value)] if value else []
                response = client.ask(query("a.test", 1), headers=headers)
                assert (response.status, response.body[3] & 15) == (200, code)
            assert len(upstream.received) == (code == 0)


def test_paths_follow_a_reload_and_no_connection_ends(authority, credentials):
    with (
        listening(numbered(1), authority=authority, credentials=credentials) as (shield, doors, _),
        doors.connect() as client,
    ):
        assert client.ask(query("a.test", 1)).status == 200
        file = shield.folder / "funkenshield.toml"
        told = file.read_text()
        file.write_text(told.replace('transport = "https"', 'transport = "https", paths = ["/other"]'))
        shield.process.send_signal(signal.SIGHUP)
        until(lambda: stats(shield)["reloads"] == 1)
        assert client.ask(query("a.test", 1)).status == 404
        assert client.ask(query("a.test", 1), path="/other").status == 200


def test_at_the_end_what_was_asked_is_answered_and_clients_are_told_to_leave(authority, credentials):
    holding = Holding(numbered(1))
    with (
        holding,
        listening(holding, authority=authority, credentials=credentials) as (shield, doors, upstream),
        doors.connect() as client,
    ):
        upstream.hold()
        stream = client.post(query("a.test", 1))
        until(lambda: upstream.received)
        shield.process.terminate()
        until(lambda: "draining" in shield.log)
        upstream.let_go()
        assert data(dns.message.from_wire(client.response(stream).body)) == ["192.0.2.1"]
        assert client.until_end() == NO_ERROR


# ------------------------------------------------------------ clients that others wrote


def curl(doors, authority, *options):
    """Return what curl prints."""
    where = ["--cacert", authority.file, "--resolve", f"{HOST}:{doors.https.port}:127.0.0.1"]
    command = [program("curl"), "--silent", "--show-error", *where, *options]
    done = subprocess.run(command, capture_output=True, timeout=20)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl_gets_and_posts(running, authority, tmp_path):
    _, doors, _ = running
    wire, url = query("curl.test", 1), f"https://{HOST}:{doors.https.port}"
    (tmp_path / "query").write_bytes(wire)
    target = url + http2.in_target(wire)
    content = ["-H", f"content-type: {http2.MESSAGE}", "--data-binary", f"@{tmp_path / 'query'}"]
    for body in (curl(doors, authority, "--http2", target), curl(doors, authority, "--http2", *content, url + PATH)):
        assert data(dns.message.from_wire(body)) == ["192.0.2.1"]
    head = curl(doors, authority, "--http2", "--head", target)
    assert head.startswith(b"HTTP/2 200")
    assert b"content-type: application/dns-message" in head
    plain = ["--http2-prior-knowledge", f"http://{doors.http}{http2.in_target(wire)}"]
    assert data(dns.message.from_wire(curl(doors, authority, *plain))) == ["192.0.2.1"]


def test_curl_finds_a_page_by_it(authority, credentials):
    with (
        listening(answering("127.0.0.1"), authority=authority, credentials=credentials) as (_, doors, upstream),
        site() as server,
    ):
        resolver = ["--ipv4", "--doh-url", f"https://{HOST}:{doors.https.port}{PATH}"]
        assert curl(doors, authority, *resolver, f"http://page.test:{server.server_port}/") == b"hello"
        assert received(upstream)["page.test."] == 1


@pytest.mark.parametrize("post", [True, False])
def test_dnspython_asks(running, authority, post):
    _, doors, _ = running
    response = dns.query.https(
        asked(f"python-{post}.test."), f"https://{HOST}:{doors.https.port}{PATH}", timeout=10.0, post=post,
        http_version=dns.query.HTTPVersion.HTTP_2, bootstrap_address="127.0.0.1", verify=trusting(authority.file),
    )  # fmt: skip
    assert (response.rcode(), data(response)) == (dns.rcode.NOERROR, ["192.0.2.1"])


def test_h2load_is_answered_on_many_streams(running, authority):
    shield, doors, _ = running
    url = f"https://{HOST}:{doors.https.port}{http2.in_target(query('load.test', 1))}"
    done = subprocess.run(
        [program("h2load"), "-n", "5000", "-c", "10", "-m", "100", "--connect-to", str(doors.https), url],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "5000 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout, done.stdout
    assert "status codes: 5000 2xx" in done.stdout
    assert sum(stats(shield)["http_errors"].values()) == 0


def test_clients_are_told_of_it(running, request):
    shield, doors, _ = running
    response = shield.udp(asked("_dns.resolver.arpa.", "SVCB"))
    (record,) = [rdata for rrset in response.answer for rdata in rrset]
    assert record.target.to_text() == f"{HOST}."
    assert f'alpn="h2" port="{doors.https.port}"' in record.to_text()
    assert 'dohpath="/dns-query{?dns}"' in record.to_text()
