"""Know how to send many queries at once from any address of this host, and what came back for each of them."""

import contextlib
import itertools
import socket
import time
from collections import Counter

import dns.rcode
from support import quick
from support.client import LARGEST, address_of, frame

QUIET = 0.6  # seconds after which what has not come does not come
AT_ONCE = 64
IP_PKTINFO = 8
_serial = itertools.count()


def fresh(count, zone="test."):
    """Return queries for so many names that nobody has asked for."""
    return [quick.query(f"fresh{next(_serial)}.{zone}", quick.A) for _ in range(count)]


def same(count, name="same.test.", rdtype=quick.A):
    """Return one query so many times."""
    return [quick.query(name, rdtype)] * count


def send(server, wires, source=None):
    """Send queries from one address; return what came for each, in their order, b"" where nothing did."""
    address = address_of(server)
    replies = {}
    with socket.socket(address.family, socket.SOCK_DGRAM) as sock:
        if source:
            sock.bind((source, 0))
        sock.connect(address)
        sock.settimeout(QUIET)
        for start in range(0, len(wires), AT_ONCE):
            end = min(start + AT_ONCE, len(wires))
            for number in range(start, end):
                sock.send(number.to_bytes(2) + wires[number][2:])
            with contextlib.suppress(TimeoutError):
                for _ in range(start, end):
                    reply = sock.recv(LARGEST)
                    assert reply[:2] not in replies, "answered twice"
                    replies[reply[:2]] = reply
    return [replies.get(number.to_bytes(2), b"") for number in range(len(wires))]


def flood(server, wire, sources):
    """Send a query from each address of this host, and read nothing: a hundred at once, 50,000 a second at most."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 0))
        for number, source in enumerate(sources):
            info = bytes(4) + socket.inet_aton(source) + bytes(4)  # struct in_pktinfo of ip(7)
            sock.sendmsg([wire], [(socket.IPPROTO_IP, IP_PKTINFO, info)], 0, address_of(server))
            if number % 100 == 99:
                time.sleep(0.002)


def over_tcp(server, wire, source=None, timeout=1.0):
    """Return the response to one query over TCP; b"" where there is none."""
    with contextlib.suppress(TimeoutError, ConnectionError):
        bound = (source, 0) if source else None
        with socket.create_connection(address_of(server), timeout, bound) as sock, sock.makefile("rb") as stream:
            sock.sendall(frame(wire))
            return stream.read(int.from_bytes(stream.read(2)))
    return b""


def outcome(reply):
    """Return in a word what a client got: "nothing", "TC", or the RCODE."""
    if not reply:
        return "nothing"
    return "TC" if reply[2] & 2 else dns.rcode.to_text(reply[3] & 15)


def outcomes(replies):
    """Return how often what came."""
    return dict(Counter(map(outcome, replies)))
