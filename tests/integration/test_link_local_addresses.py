"""Know that link-local addresses, with their interfaces (RFC 4007), work wherever an address can be given."""

import contextlib
import socket
import threading

import pytest
from support import quick
from support.client import frame
from support.namespace import add_address, in_namespace, ip
from support.process import run_shield

UPSTREAM, SOURCE, SHIELD = "fe80::1", "fe80::2", "fe80::3"
LINK = "v0"


@contextlib.contextmanager
def nameserver():
    """Answer one query after the other at the upstream's address; yield its port, and whom they came from."""
    scope = socket.if_nametoindex(LINK)
    came = []
    with (
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as stream,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as datagrams,
    ):
        stream.bind((UPSTREAM, 0, 0, scope))
        stream.listen()
        port = stream.getsockname()[1]
        datagrams.bind((UPSTREAM, port, 0, scope))

        def serve_datagrams():
            with contextlib.suppress(OSError):
                while True:
                    query, peer = datagrams.recvfrom(512)
                    if not query:
                        return
                    came.append(peer)
                    datagrams.sendto(quick.answer(query, b"udp"), peer)

        def serve_streams():
            with contextlib.suppress(OSError):
                while True:
                    sock, peer = stream.accept()
                    came.append(peer)
                    with sock:
                        while len(octets := sock.recv(512)) > 2:
                            sock.sendall(frame(quick.answer(octets[2:], b"tcp")))

        threads = [threading.Thread(target=serve) for serve in (serve_datagrams, serve_streams)]
        for thread in threads:
            thread.start()
        try:
            yield port, came
        finally:
            datagrams.sendto(b"", datagrams.getsockname())
            stream.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("asked", ["udp", "tcp"])
def test_link_local_addresses_work_as_listeners_upstreams_and_sources(transport, asked):
    def story():
        ip(f"link add {LINK} type veth peer name v1")
        ip("link set v1 up")
        ip(f"link set {LINK} up")
        for each in (UPSTREAM, SOURCE, SHIELD):
            add_address(each, 64, LINK)
        scope = socket.if_nametoindex(LINK)
        with nameserver() as (port, came):
            toml = (
                f'[[upstreams]]\naddress = "[{UPSTREAM}%{LINK}]:{port}"\nsource = "{SOURCE}%{LINK}"\n'
                f'transport = "{transport}"\n'
            )
            with run_shield([], listen=[(f"{SHIELD}%{LINK}", 5300)], toml=toml):
                query = quick.query("a.test.")
                kind = socket.SOCK_STREAM if asked == "tcp" else socket.SOCK_DGRAM
                for _ in "cold", "warm":
                    with socket.socket(socket.AF_INET6, kind) as sock:
                        sock.settimeout(10)
                        sock.connect((SHIELD, 5300, 0, scope))
                        sock.sendall(frame(query) if asked == "tcp" else query)
                        assert sock.recv(512)[-3:] in ((b"tcp",) if transport == "tcp" else (b"udp", b"tcp"))
            assert {(peer[0].partition("%")[0], peer[3]) for peer in came} == {(SOURCE, scope)}

    in_namespace(story)
