"""Know how to ask a thousand questions of one address over one socket, many at a time.

`client` asks one, and takes its time; here the octets of queries come in, and the octets of replies come back.
"""

import contextlib
import socket

from support.certificates import HOST
from support.client import LARGEST, address_of, frame

AT_ONCE = 32  # queries that wait for their replies: fewer than any server's bound, and than its buffers hold


def ask_all(server, queries, *, tcp=False, tls=None, timeout=10.0, at_once=AT_ONCE):
    """Return the reply to each query, in the order of the queries, with the ID of the query (its first two octets).

    The IDs on the wire are our own. `tls` is the context of a client over TLS. Raise TimeoutError after `timeout`
    seconds without any reply; another ID than one that waits is an AssertionError.
    """
    replies = [b""] * len(queries)
    waiting = {}
    with _open(server, tcp, tls, timeout) as (send, receive):

        def take():
            reply = receive()
            number = waiting.pop(reply[:2], None)
            assert number is not None, f"a reply that nobody waits for: {reply.hex()}"
            replies[number] = queries[number][:2] + reply[2:]

        for number, query in enumerate(queries):
            ident = (number % 0x10000).to_bytes(2)
            waiting[ident] = number
            send(ident + query[2:])
            if len(waiting) == at_once:
                take()
        while waiting:
            take()
    return replies


@contextlib.contextmanager
def _open(server, tcp, tls, timeout):
    """Give a function that sends a message and one that receives one."""
    address = address_of(server)
    if tcp or tls:
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(socket.create_connection(address, timeout))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls:
                sock = stack.enter_context(tls.wrap_socket(sock, server_hostname=HOST))
            stream = stack.enter_context(sock.makefile("rb"))
            yield (lambda wire: sock.sendall(frame(wire))), (lambda: stream.read(int.from_bytes(stream.read(2))))
    else:
        with socket.socket(address.family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(timeout)
            sock.connect(address)
            yield sock.send, (lambda: sock.recv(LARGEST))
