"""Know how a server of streams may behave, well or badly: a script deals with each connection, in a thread."""

import contextlib
import socket
import struct
import threading
from typing import NamedTuple

from support import quick
from support.client import Address, frame

PATIENCE = 10  # seconds after which a script that waits for its client fails


class Handshake(NamedTuple):
    """What was agreed on."""

    version: str
    protocol: str
    resumed: bool


class Link:
    """One connection as its server sees it: where it is from, what came before TLS, and each query."""

    def __init__(self, number, sock, source):
        self.number = number
        self.source = source
        self.preface = b""
        self.queries = []
        self.tls = None
        self.refusal = ""
        self.ended = threading.Event()
        self._sock = sock

    def shake_hands(self, context):
        """Turn to TLS."""
        self._sock = sock = context.wrap_socket(self._sock, server_side=True)
        self.tls = Handshake(sock.version(), sock.selected_alpn_protocol(), sock.session_reused)

    def read(self, count):
        """Return so many octets, or fewer where the client ends before."""
        octets = b""
        while len(octets) < count:
            more = self._sock.recv(count - len(octets))
            if not more:
                break
            octets += more
        return octets

    def query(self):
        """Return the next query, or None where the client has ended."""
        wire = self.read(int.from_bytes(self.read(2)))
        if not wire:
            return None
        self.queries.append(wire)
        return wire

    def record(self):
        """Return what came at once, or in one TLS record, and may hold several queries."""
        return self._sock.recv(1 << 16)

    def answer(self, query):
        """Send an answer that tells the number of this connection."""
        self.send(frame(quick.answer(query, str(self.number).encode())))

    def send(self, octets):
        self._sock.sendall(octets)

    def finish(self):
        """Send no more, and go on reading."""
        self._sock.shutdown(socket.SHUT_WR)

    def give_up(self):
        """Let the script find the end of what came, if it has not ended by itself; may be called by other threads."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # an SSLSocket would forget that it is one

    def reset(self):
        """Close at once, with RST."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self):
        self._sock.close()


def answer_all(link):
    """Answer each query as it comes."""
    while query := link.query():
        link.answer(query)


class Peer:
    """Serve one loopback port while the context is entered: `script(link)` has each connection, then it is closed.

    `preface` octets are read first, then TLS begins where there is a context. Leaving ends them.
    """

    def __init__(self, script=answer_all, *, context=None, preface=0):
        self.links = []
        self.names = []
        self._script = script
        self._context = context
        self._preface = preface
        self._errors = []
        self._threads = []
        if context is not None:
            context.sni_callback = lambda _sock, name, _context: self.names.append(name)

    @property
    def queries(self):
        """Everything that was asked, over whichever connection."""
        return [query for link in self.links for query in link.queries]

    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address(*self._listener.getsockname())
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()
        return self

    def __exit__(self, kind, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for link in self.links:
            link.give_up()
        for thread in self._threads:
            thread.join()
        if self._errors and kind is None:
            raise self._errors[0]

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, source = self._listener.accept()
                sock.settimeout(PATIENCE)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or an RST takes answers with it
                link = Link(len(self.links), sock, Address(*source))
                self.links.append(link)
                self._threads.append(threading.Thread(target=self._serve, args=(link,)))
                self._threads[-1].start()

    def _serve(self, link):
        try:
            link.preface = link.read(self._preface)
            if self._context is not None:
                link.shake_hands(self._context)
            self._script(link)
        except TimeoutError as error:
            self._errors.append(error)
        except OSError as error:  # the client did not like it
            link.refusal = str(error)
        except Exception as error:
            self._errors.append(error)
        finally:
            link.close()
            link.ended.set()
