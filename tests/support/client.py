"""Know how to ask one question of one address, over UDP or TCP, and how to find a free port.

Nothing here knows who answers: shield, relay, scripted upstream and real nameserver are asked alike.
"""

import contextlib
import itertools
import os
import random
import socket
from pathlib import Path
from typing import NamedTuple

import dns.message

LARGEST = 65535  # octets in a message
PORTS_FROM, PROCESSES = 10240, 8  # the least port of a server; processes of a run that have ports of their own


class Address(NamedTuple):
    """A numeric host and a port; its text is what the daemon reads and prints."""

    host: str
    port: int

    @property
    def family(self):
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def __str__(self):
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address_of(server):
    """Return the Address of anything that has one, or of a bare (host, port)."""
    return Address(*getattr(server, "address", server))


def bind_pair(host="127.0.0.1", port=0):
    """Return a UDP and a listening TCP socket that share one port of `host`: this one, or one that is free."""
    family = Address(host, 0).family
    for _ in range(64):
        with contextlib.ExitStack() as undo:
            stream = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stream.bind((host, port))
            datagrams = undo.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            with contextlib.suppress(OSError):
                datagrams.bind(stream.getsockname()[:2])
                stream.listen()
                undo.pop_all()
                return datagrams, stream
    raise OSError(f"no port of {host} is free on both UDP and TCP")


def _own_ports():
    """Yield ports that no socket is given by the kernel, and that no other process of a test run takes."""
    given_from = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    own = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % PROCESSES
    ports = list(range(PORTS_FROM + own, max(given_from, 2 * PORTS_FROM), PROCESSES))
    random.shuffle(ports)
    return itertools.cycle(ports)


_ports = _own_ports()


def free_port(host="127.0.0.1"):
    """Return a port of `host` that nobody holds, neither on UDP nor on TCP, and that was not among the last ones."""
    for port in itertools.islice(_ports, 64):
        with contextlib.suppress(OSError):
            for each in bind_pair(host, port):
                each.close()
            return port
    raise OSError(f"no port of {host} is free on both UDP and TCP")


@contextlib.contextmanager
def connected(server, source="127.0.0.1", receive_buffer=None, timeout=10.0):
    """Connect from an address, and say nothing; yield the socket. Each write to it leaves at once."""
    with socket.socket(address_of(server).family) as sock:
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(timeout)
        sock.bind((source, 0))
        sock.connect(address_of(server))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sock


def frame(wire):
    """Return `wire` with the two octets of length before it (RFC 1035 4.2.2)."""
    return len(wire).to_bytes(2) + wire


def udp_wire(server, wire, timeout=10.0, source=""):
    """Send one datagram and return the first that comes back; raise TimeoutError after `timeout` seconds.

    `source` is the address that it comes from.
    """
    address = address_of(server)
    with socket.socket(address.family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        sock.bind((source, 0))
        sock.connect(address)
        sock.send(wire)
        return sock.recv(LARGEST)


def tcp_wire(server, wire, timeout=10.0, source=""):
    """Send one message on a connection of its own and return the first that comes back.

    Raise TimeoutError after `timeout` seconds of silence, EOFError when the server closes too early.
    """
    bound = (source, 0) if source else None
    with socket.create_connection(address_of(server), timeout, bound) as sock, sock.makefile("rb") as stream:
        sock.sendall(frame(wire))
        length = int.from_bytes(stream.read(2))
        reply = stream.read(length)
    if not length or len(reply) < length:
        raise EOFError(f"{address_of(server)} closed after {len(reply)} of {length} octets")
    return reply


def exchange(query, *, server, tcp=False, timeout=5.0, source=""):
    """Send a Message and return the Message that answers it; the ID is asserted to be our own."""
    wire = (tcp_wire if tcp else udp_wire)(server, query.to_wire(), timeout, source)
    reply = dns.message.from_wire(wire)
    assert reply.id == query.id, f"asked with ID {query.id}, answered with {reply.id}"
    return reply


def ask(
    name, rdtype="A", *, server, tcp=False, edns=None, dnssec=False, options=(), timeout=5.0, source="", **header
):  # fmt: skip
    """Ask `server` for one name and type and return the answering Message.

    `edns` is the payload size to offer, in octets (None: no OPT); `dnssec` sets DO. `header` takes the `id`,
    `flags` and `rdclass` of dns.message.make_query.
    """
    if edns is None and (dnssec or options):
        edns = 1232
    query = dns.message.make_query(
        name, rdtype, payload=edns, want_dnssec=dnssec, options=list(options) or None, **header
    )
    return exchange(query, server=server, tcp=tcp, timeout=timeout, source=source)
