"""Know that who holds connections to the metrics endpoint keeps nobody from reading it, and takes no threads."""

import contextlib
import os
import socket
import urllib.request

import pytest
from support.client import Address, free_port
from support.proc import descriptors
from support.process import run_shield
from support.stopwatch import Stopwatch
from support.until import until


@pytest.fixture(scope="module")
def scraped():
    """Return a shield, and where its metrics are."""
    metrics = Address("127.0.0.1", free_port())
    with run_shield([Address("127.0.0.1", free_port())], toml=f'metrics.listen = "{metrics}"') as shield:
        yield shield, metrics


def read(metrics):
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as page:
        return page.read()


@pytest.mark.parametrize("said", [b"", b"GET /metrics HTTP/1.1\r\nX: "], ids=["nothing", "half a request"])
def test_silent_clients_keep_nobody_from_reading(scraped, said):
    shield, metrics = scraped
    assert b"funkenshield_queries_total" in read(metrics)
    threads = len(os.listdir(f"/proc/{shield.process.pid}/task"))
    opened = descriptors(shield.process)
    with contextlib.ExitStack() as stack:
        for n in range(200):
            sock = stack.enter_context(socket.socket())
            sock.bind((f"127.0.{n % 3}.{1 + n // 3}", 0))
            sock.connect(metrics)
            with contextlib.suppress(OSError):
                sock.sendall(said)
        stopwatch = Stopwatch()
        for _ in range(5):
            assert b"funkenshield_queries_total" in read(metrics)
        assert stopwatch.seconds() < 2.0
        assert len(os.listdir(f"/proc/{shield.process.pid}/task")) <= threads
        assert descriptors(shield.process) <= opened + 32
    until(lambda: descriptors(shield.process) <= opened)


def test_who_asks_and_never_reads_keeps_nobody_from_reading(scraped):
    _, metrics = scraped
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(metrics)
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"funkenshield_queries_total" in read(metrics)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.0\r\n\r\n", b"200 OK"),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain; version=x\r\n\r\n", b"200 OK"),
        (
            b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text; version=\xb2\r\n\r\n",
            b"200 OK",
        ),
        (b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", b"200 OK"),
        (b"GET /elsewhere HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", b"405 Method Not Allowed"),
        (b"GET /metrics HTTP/1.1\r\nHost: rebound.test\r\n\r\n", b"421 Misdirected Request"),
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"400 Bad Request"),
        (b"\xff\0\r\n\r\n", b"400 Bad Request"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 9000, b"431 Request Header Fields Too Large"),
    ],
)
def test_each_request_gets_one_answer_and_then_the_end(scraped, request_, status):
    with socket.create_connection(scraped[1], 3) as sock, sock.makefile("rb") as stream:
        sock.sendall(request_)
        head, _, page = stream.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert (b"funkenshield_queries_total" in page) == (request_.startswith(b"GET /metrics") and status == b"200 OK")
