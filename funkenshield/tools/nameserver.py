"""The small nameserver of the demo and the tests: one zone over UDP and TCP (RFC 7766), slow at will.

It knows sockets; what it answers is its zone's. Speed is not its business: it is what the shield is there for.
"""

import asyncio
import socket
from collections.abc import Callable
from functools import partial

from ..zones.local_zone import Zone

TCP_IDLE = 30.0  # seconds
PORT_TRIES = 16  # ports picked, until one is free on both UDP and TCP
BIG = "\n".join(f'big     TXT   "{number:02} {"octets upon octets " * 12}"' for number in range(13))
ZONE = f"""
$ORIGIN miek.nl.
$TTL 3600
@       SOA   ns hostmaster 2011080800 14400 3600 604800 300
@       NS    ns
@       NS    ns2
@       345600 MX 20 mail.atoom.net.
@       345600 MX 40 mx-ext.tjeb.nl.
@       A     192.0.2.1
@       AAAA  2001:db8::1
ns      A     192.0.2.53
ns      AAAA  2001:db8::53
ns2     A     192.0.2.54
www     A     192.0.2.80
www     AAAA  2001:db8::80
a       A     192.0.2.10
a       A     192.0.2.11
a       AAAA  2001:db8::10
alias   CNAME www
away    CNAME www.example.net.
txt     TXT   "several" "strings" "in one record"
*.wild  TXT   "whatever you ask"
*.load  A     192.0.2.100
deep.ent A    192.0.2.20
sub     NS    ns1.sub
ns1.sub A     192.0.2.30
{BIG}
"""


class Nameserver(asyncio.DatagramProtocol):
    """A zone that is served over UDP and TCP on one address, from `open` to `close`.

    `address` is the host and port that were bound; `queries` counts the messages that came in.
    """

    def __init__(self, zone: Zone, delay: float) -> None:
        self.address = ("", 0)
        self.queries = 0
        self._zone = zone
        self._delay = delay  # seconds
        self._datagrams: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._closing = False
        self._closed = asyncio.Event()

    async def open(self, host: str, port: int) -> None:
        """Listen; port 0 picks one that is free on both UDP and TCP. Raises OSError where that cannot be."""
        for tries_left in reversed(range(1 if port else PORT_TRIES)):
            opened = _bind_udp(host, port)
            self.address = opened.getsockname()[:2]
            try:
                self._server = await asyncio.start_server(self._serve_client, *self.address)
                break
            except OSError:
                opened.close()
                if not tries_left:
                    raise
        loop = asyncio.get_running_loop()
        self._datagrams, _ = await loop.create_datagram_endpoint(lambda: self, sock=opened)

    async def close(self) -> None:
        """Stop listening, cut the connections, and forget the answers that are still delayed."""
        self._closing = True
        if self._datagrams is not None and self._server is not None:
            self._server.close()
            self._datagrams.close()
            for client in self._clients:
                client.cancel()
            await asyncio.gather(self._closed.wait(), *self._clients, return_exceptions=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the UDP socket is closed."""
        self._closed.set()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer one query over UDP."""
        self._reply(data, partial(self._send, addr), over_tcp=False)

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer what a client asks over one TCP connection, until it ends or is idle for too long."""
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            try:
                while not self._closing:
                    async with asyncio.timeout(self._delay + TCP_IDLE):
                        wire = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
                        self._reply(wire, partial(_write, writer), over_tcp=True)
                        await writer.drain()
            except asyncio.IncompleteReadError:
                await asyncio.sleep(self._delay)  # it asks no more, but may still read what it has asked
        except OSError:
            pass
        except asyncio.CancelledError:
            writer.transport.abort()  # and no more is said of it: Python 3.12 would log it as an error
        finally:
            self._clients.discard(task)
            writer.close()

    def _reply(self, wire: bytes, send: Callable[[bytes], None], *, over_tcp: bool) -> None:
        """Answer a message, at once or as late as wished; a delay holds up nothing else."""
        self.queries += 1
        response = self._zone.respond(wire, over_tcp)
        if response is not None and self._delay:
            asyncio.get_running_loop().call_later(self._delay, send, response)
        elif response is not None:
            send(response)

    def _send(self, addr: tuple[str, int], response: bytes) -> None:
        if self._datagrams is not None and not self._closing:
            self._datagrams.sendto(response, addr)


def _bind_udp(host: str, port: int) -> socket.socket:
    """Return a socket that the loop can take over; uvloop loses its own if the port is taken."""
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)  # for bursts: slow, but not lossy
        opened.bind((host, port))
    except OSError:
        opened.close()
        raise
    return opened


def _write(writer: asyncio.StreamWriter, response: bytes) -> None:
    if not writer.is_closing():  # as it may be after a delay
        writer.write(len(response).to_bytes(2) + response)


async def serve(host: str, port: int, *, delay: float = 0.0, zone: Zone | None = None) -> Nameserver:
    """Return a nameserver that listens on an IP address and port, and answers after `delay` seconds.

    Port 0 picks one. Without a zone it serves the embedded miek.nl. Raises OSError where it cannot listen.
    """
    nameserver = Nameserver(zone or Zone.from_text(ZONE), delay)
    await nameserver.open(host, port)
    return nameserver
