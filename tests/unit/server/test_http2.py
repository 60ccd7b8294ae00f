"""Show what requests get by HTTP/2, and what a session takes from its client, without a daemon (RFC 8484, 9113)."""

import contextlib
import socket

import h2.settings
import pytest
from support import http2
from support.http2 import CANCEL, ENHANCE_YOUR_CALM, NO_ERROR, PROTOCOL_ERROR, Client, frame, in_target
from support.proxied import STREAM, told
from support.quick import answer, query
from support.tcp_worker import Running, connect
from support.until import until

_http2 = pytest.importorskip("funkenshield.server._http2")
MANNER = _http2.HttpManner(["/dns-query", "/x"])
WIRE = query("a.test")
REFUSED = 5
LONG_FIELD = b"\0\1x\x7f\x81\1" + b"y" * 256


@pytest.fixture
def stack():
    with contextlib.ExitStack() as opened:
        yield opened


@pytest.fixture
def running(stack):
    """Return a worker that refuses whatever it is asked."""
    return Running(stack, refuses=True, manner=MANNER, write_buffer=1 << 16)


def client(stack, running, **how):
    return Client(connect(stack, running), **how)


def http(running):
    return {name: count for name, count in running.counters().items() if name.startswith("http_") and count}


def rcode(response):
    assert response.status == 200
    assert response.headers["content-type"] == http2.MESSAGE
    assert int(response.headers["content-length"]) == len(response.body)
    return response.body[3] & 15


# ------------------------------------------------------------ what requests get


@pytest.mark.parametrize("method", ["get", "post"])
def test_a_query_is_answered_with_its_id(stack, running, method):
    asking = client(stack, running)
    for ident in 0, 0x1234:
        wire = query("a.test", ident=ident)
        response = asking.response(getattr(asking, method)(wire))
        assert rcode(response) == REFUSED
        assert response.body[:2] == wire[:2]
        assert response.headers["cache-control"] == "max-age=0"
    assert http(running) == {"http_responses_200": 2}
    assert running.counters()["queries_over_http"] == running.counters()["queries"] == 2


def test_an_answer_may_be_kept_for_its_smallest_ttl(stack):
    running = Running(stack, manner=MANNER)
    assert running.miss_path.cache.store(WIRE, answer(WIRE, b"text", ttl=300))
    response = client(stack, running).ask(WIRE)
    assert response.body == answer(WIRE, b"text", ttl=300)
    assert response.headers["cache-control"] == "max-age=300"
    running.clock.advance(100)  # a batch that goes on keeps the time that it began at
    until(lambda: client(stack, running).ask(WIRE).headers["cache-control"] == "max-age=200")


def test_what_is_asked_for_its_head_has_no_body(stack, running):
    asking = client(stack, running)
    got, head = (asking.response(asking.get(WIRE, method=method)) for method in ("GET", "HEAD"))
    assert head.body == b""
    assert head.headers == got.headers


@pytest.mark.parametrize(
    ("status", "how"),
    [
        (404, {"target": in_target(WIRE, "/dns")}), (404, {"target": in_target(WIRE, "/dns-query/")}),
        (404, {"target": "/"}), (404, {"target": "*", "method": "OPTIONS"}), (200, {"target": in_target(WIRE, "/x")}),
        (405, {"target": in_target(WIRE), "method": "PUT"}), (405, {"target": in_target(WIRE), "method": "get"}),
        (400, {"target": "/dns-query"}), (400, {"target": "/dns-query?dns="}), (400, {"target": "/dns-query?dns=A"}),
        (400, {"target": in_target(WIRE) + "="}), (400, {"target": in_target(WIRE[:11])}),
        (400, {"target": in_target(answer(WIRE, b"x"))}), (200, {"target": in_target(WIRE) + "&more=1"}),
        (414, {"target": "/dns-query?dns=" + "A" * 10000}), (431, {"headers": [("x", "y" * 17000)]}),
        (431, {"target": in_target(WIRE), "headers": [(f"x-{n}", "y") for n in range(500)]}),
        (415, {"method": "POST", "body": WIRE}), (415, {"method": "POST", "headers": [("content-type", "text/plain")]}),
        (400, {"method": "POST", "headers": [("content-type", http2.MESSAGE)]}),
        (200, {"method": "POST", "headers": [("content-type", "Application/DNS-message; x=y")], "body": WIRE}),
        (200, {"target": in_target(b"nonsense!"), "method": "POST", "headers": [("content-type", http2.MESSAGE)],
               "body": WIRE}),
        (413, {"method": "POST", "headers": [("content-type", http2.MESSAGE), ("content-length", "65536")],
               "end": False}),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_request_is_told_by_its_status(stack, running, status, how):
    asking = client(stack, running)
    response = asking.response(asking.begin(**how))
    assert response.status == status
    if status != 200:
        assert (response.body, response.headers["content-length"]) == (b"", "0")
        assert "cache-control" not in response.headers
    assert response.headers.get("allow") == ("GET, HEAD, POST" if status == 405 else None)
    assert rcode(asking.ask(WIRE)) == REFUSED  # the connection goes on
    assert http(running)[f"http_responses_{status}"] == (2 if status == 200 else 1)


def test_content_that_is_longer_than_a_message_is_refused_before_all_of_it_is_there(stack, running):
    asking = client(stack, running)
    stream = asking.post(bytes(16384), end=False)
    while asking.responses[stream].status is None and asking.responses[stream].reset is None:
        window = asking.h2.local_flow_control_window(stream)
        if window:
            asking.h2.send_data(stream, bytes(min(window, 16384)))
            asking.flush()
        else:
            asking.pump()
    assert asking.response(stream).status == 413
    until(lambda: asking.pump() and asking.responses[stream].reset is not None)
    assert asking.responses[stream].reset == NO_ERROR  # the client is to send no more of it
    assert rcode(asking.ask(WIRE)) == REFUSED


def test_the_longest_query_is_read_as_a_whole(stack, running):
    asking = client(stack, running)
    stream = asking.post(None, end=False)
    left = WIRE + bytes(65535 - len(WIRE))
    while left:
        window = min(asking.h2.local_flow_control_window(stream), 16384, len(left))
        if not window:
            asking.pump()
            continue
        asking.h2.send_data(stream, left[:window], end_stream=window == len(left))
        asking.flush()
        left = left[window:]
    assert rcode(asking.response(stream)) in (1, REFUSED)  # octets behind it: FORMERR, or the guard came first


def test_requests_in_pieces_are_put_together(stack, running):
    asking = client(stack, running)
    asking.begin([("content-type", http2.MESSAGE)], method="POST", body=None, end=False, flush=False)
    for octet in WIRE:
        asking.h2.send_data(1, bytes([octet]))
    asking.h2.send_data(1, b"", end_stream=True)
    octets = asking.h2.data_to_send()
    for at in range(len(octets)):
        asking.sock.sendall(octets[at : at + 1])
    assert rcode(asking.response(1)) == REFUSED


def test_trailers_mean_nothing(stack, running):
    asking = client(stack, running)
    stream = asking.post(WIRE, end=False)
    asking.h2.send_headers(stream, [("content-type", "text/plain"), ("x-forwarded-for", "nobody")], end_stream=True)
    asking.flush()
    assert rcode(asking.response(stream)) == REFUSED


def test_many_streams_of_one_write_are_all_answered(stack, running):
    asking = client(stack, running)
    asking.pump()
    streams = [asking.get(query(f"n{n}.test"), flush=False) for n in range(100)]
    asking.flush()
    for n, stream in enumerate(streams):
        assert asking.response(stream).body[12:].startswith(query(f"n{n}.test")[12:])
    assert running.counters()["queries"] == 100


# ------------------------------------------------------------ whose it is


@pytest.mark.parametrize(
    ("trusted", "value", "status", "code"),
    [
        (True, "203.0.113.1, 192.0.2.1", 200, REFUSED), (True, "192.0.2.1, 203.0.113.1", 200, None),
        (False, "203.0.113.1, 192.0.2.1", 200, None), (True, "unknown", 400, None), (False, "unknown", 200, None),
        (True, None, 200, None),
    ],
)  # fmt: skip
def test_whom_a_proxy_asks_for_is_believed_of_those_that_are_named(stack, trusted, value, status, code):
    proxies = [(bytes([127, 0, 0, 0]), 8)] if trusted else []
    running = Running(stack, manner=_http2.HttpManner(["/dns-query"], proxies))
    running.miss_path.settings_writer.guard.set_access(
        [], [(bytes([192, 0, 2, 0]), 24)], default_allow=True, refuse=True
    )
    assert running.miss_path.cache.store(WIRE, answer(WIRE, b"text"))
    response = client(stack, running).ask(WIRE, headers=[("x-forwarded-for", value)] if value else [])
    assert response.status == status
    if status == 200:
        assert rcode(response) == (code or 0)


def test_a_front_proxys_header_comes_before_http(stack):
    running = Running(stack, refuses=True, manner=MANNER, proxied=True)
    asking = Client(connect(stack, running, told("192.0.2.7", transport=STREAM)))
    assert rcode(asking.ask(WIRE)) == REFUSED


# ------------------------------------------------------------ what a session may cost


def test_what_is_no_http_2_ends(stack, running):
    for octets in b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", bytes(24), b"\0\x1d" + WIRE, http2.PREFACE[:-1] + b"x":
        sock = connect(stack, running, octets)
        with sock.makefile("rb") as stream:
            assert frame(http2.GOAWAY, 0, 0, bytes(4) + PROTOCOL_ERROR.to_bytes(4)) in stream.read()
    until(lambda: running.connections == 0)
    assert http(running) == {"http_errors_protocol": 4}


def test_who_says_half_a_frame_and_nothing_else_is_idle(stack):
    running = Running(stack, manner=MANNER, idle_timeout=0.3)
    for octets in b"PRI", http2.PREFACE, http2.PREFACE + frame(4, 0, 0), http2.PREFACE + frame(4, 0, 0)[:5]:
        connect(stack, running, octets)
    asking = client(stack, running)
    asking.post(WIRE[:5], end=False)
    until(lambda: running.counters()["tcp_idle_timeouts"] == 5)
    assert running.limits.held == (0, 0)


def test_a_request_without_an_end_is_reset_after_a_while(stack, running):
    asking = client(stack, running)
    stream = asking.post(WIRE[:5], end=False)
    assert rcode(asking.ask(WIRE)) == REFUSED
    running.clock.advance(11)
    assert asking.is_served()
    assert asking.responses[stream].reset == CANCEL
    assert rcode(asking.ask(WIRE)) == REFUSED


def test_rapid_resets_end_the_connection(stack, running):
    asking = client(stack, running)
    asking.pump()
    for n in range(1000):  # CVE-2023-44487
        stream = asking.get(query(f"n{n}.test"), flush=False)
        asking.h2.reset_stream(stream, CANCEL)
    asking.octets()
    assert asking.until_end() in (ENHANCE_YOUR_CALM, None)  # what was not read resets the connection
    until(lambda: running.limits.held == (0, 0))
    assert http(running)["http_errors_flood"] == 1
    assert running.counters()["queries"] <= 300


def test_resets_that_the_client_brings_about_end_the_connection(stack, running):
    block = b"\x83\x87\x84\x00\x01X\x01y"  # POST, https, /, and a name in upper case
    # CVE-2025-8671: each stream is answered with a reset of ours
    wrong = b"".join(frame(http2.HEADERS, http2.END_HEADERS, n, block) for n in range(1, 2001, 2))
    connect(stack, running, http2.PREFACE + frame(http2.SETTINGS, 0, 0) + wrong)
    until(lambda: running.counters()["tcp_accepted"] and not running.connections)
    assert http(running)["http_errors_flood"] == 1


def test_some_resets_do_no_harm(stack, running):
    asking = client(stack, running)
    asking.pump()
    for _ in range(100):
        stream = asking.post(WIRE[:5], end=False, flush=False)
        asking.h2.reset_stream(stream, CANCEL)
    asking.flush()
    assert rcode(asking.ask(WIRE)) == REFUSED
    assert running.counters()["queries"] == 1


@pytest.mark.parametrize(
    "flood",
    [
        [frame(http2.PING, 0, 0, bytes(8))] * 5000,
        [frame(http2.SETTINGS, 0, 0, b"\0\3\0\0\0\1")] * 5000,
        [frame(http2.SETTINGS, 0, 0, b"\0\3\0\0\0\1" * 100)],
        [frame(http2.PRIORITY, 0, 1, bytes(5))] * 5000,
        [frame(http2.WINDOW_UPDATE, 0, 0, b"\0\0\0\1")] * 5000,
        [frame(http2.HEADERS, 0, 1, b"\x82"), *[frame(http2.CONTINUATION, 0, 1, b"")] * 10000],
        [frame(http2.HEADERS, 0, 1, b"\x82"), *[frame(http2.CONTINUATION, 0, 1, LONG_FIELD)] * 200],
        [frame(http2.HEADERS, 1, 1, b"\x82")] * 3000,
        [frame(0xFE, 0, 0, bytes(1000))] * 1000,
    ],
    ids=["pings", "settings", "long settings", "priorities", "windows", "empty continuations", "continuations",
         "requests without fields", "unknown frames"],
)  # fmt: skip
def test_floods_of_what_asks_for_nothing_end_the_connection(stack, running, flood):
    sock = connect(stack, running, http2.PREFACE + frame(http2.SETTINGS, 0, 0))
    with contextlib.suppress(OSError):
        sock.sendall(b"".join(flood))
    until(lambda: running.counters()["tcp_accepted"] and not running.connections, within=10.0)
    counted = http(running)
    assert counted.get("http_errors_flood", 0) + counted.get("http_errors_protocol", 0) == 1
    assert running.memory == 0


def test_fields_that_refer_to_a_long_one_again_and_again_end_the_connection(stack, running):
    long = b"\x40\x01x\x7f\x81\x1e" + b"y" * 3968  # an entry of the table, which one octet refers to
    block = b"\x82\x87\x84" + long + b"\xbe" * 10000
    connect(stack, running, http2.PREFACE + frame(http2.SETTINGS, 0, 0) + frame(http2.HEADERS, 5, 1, block))
    until(lambda: running.connections == 0 and http(running))
    assert http(running) == {"http_errors_flood": 1}


def test_more_streams_than_are_allowed_are_refused(stack):
    running = Running(stack, manner=MANNER, max_in_flight=1000)
    asking = client(stack, running)
    asking.pump()
    assert asking.is_served()
    assert asking.h2.remote_settings.max_concurrent_streams == 100
    asking.h2.remote_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = 1000
    asking.h2.remote_settings.acknowledge()
    for n in range(101):
        asking.post(query(f"n{n}.test"), flush=False)
    asking.octets()
    assert asking.until_end() == PROTOCOL_ERROR
    until(lambda: running.limits.held == (0, 0))


def test_answers_behind_a_closed_window_are_bounded_and_cost_memory_that_is_counted(stack):
    running = Running(stack, manner=MANNER, memory=8 << 20, write_buffer=1 << 17)
    assert running.miss_path.cache.store(
        query("long.test", 65280), answer(query("long.test", 65280), bytes(60_000), rdtype=65280)
    )
    asking = client(stack, running, greedy=False)
    asking.pump()
    streams = [asking.post(query("long.test", 65280)) for _ in range(50)]
    assert asking.is_served()  # who gets no answers is heard
    assert running.counters()["queries"] <= 4
    until(lambda: 60_000 <= running.memory <= 1 << 20)  # counted at the end of a turn, when answers are on their way
    asking.h2.increment_flow_control_window(1 << 24)
    for stream in streams:
        if not asking.responses[stream].ended:
            asking.h2.increment_flow_control_window(1 << 17, stream)
    asking.flush()
    assert all(len(asking.response(stream).body) > 60_000 for stream in streams)
    assert running.counters()["queries"] == 50
    until(lambda: running.memory == 0)


def test_who_reads_nothing_is_left_alone(stack):
    running = Running(stack, manner=MANNER, memory=8 << 20, write_buffer=1 << 16)
    asked = query("long.test", 65280)
    assert running.miss_path.cache.store(asked, answer(asked, bytes(60_000), rdtype=65280))
    settings = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1}
    asking = client(stack, running, settings=settings)
    asking.h2.increment_flow_control_window(2**31 - 1 - 65535)
    streams = [asking.post(asked) for _ in range(90)]
    until(lambda: running.counters()["queries"] > 2)
    assert running.memory <= 1 << 20
    assert all(len(asking.response(stream).body) > 60_000 for stream in streams)
    until(lambda: running.memory == 0)


def test_what_is_closed_gives_all_back(stack, running):
    sockets = []
    for _ in range(20):
        asking = client(stack, running)
        for _ in range(20):
            asking.post(bytes(3000), end=False)
        assert asking.is_served()
        sockets.append(asking.sock)
    assert running.memory > 20 * (20 * 3000 - (1 << 15))  # so much may each hold anyway
    for sock in sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
    until(lambda: running.limits.held == (0, 0))


def test_who_is_idle_is_told_that_the_connection_ends(stack):
    running = Running(stack, refuses=True, manner=MANNER, idle_timeout=0.3)
    asking = client(stack, running)
    assert rcode(asking.ask(WIRE)) == REFUSED
    assert asking.until_end() == NO_ERROR
    assert running.counters()["tcp_idle_timeouts"] == 1


@pytest.mark.parametrize("how", ["stop_accepting", "stop"])
def test_at_the_end_clients_are_told_to_ask_no_more(stack, running, how):
    asking, idle = client(stack, running), client(stack, running)
    assert rcode(asking.ask(WIRE)) == rcode(idle.ask(WIRE)) == REFUSED
    getattr(running.worker, how)()
    assert asking.until_end() == idle.until_end() == NO_ERROR
    assert http(running) == {"http_responses_200": 2}
