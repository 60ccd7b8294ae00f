"""qh3's connection, and what its handshakes lack: a certificate by name, sessions that are resumed, a token for resets.

qh3's own functions for a client's messages are preceded, or followed, by ours; its interface has nothing like that.
"""

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from struct import Struct
from typing import NamedTuple

from qh3._hazmat import Buffer
from qh3.quic.connection import QuicConnection
from qh3.quic.tls_bridge import QuicTlsBridge
from qh3.tls import (
    CipherSuite,
    Context,
    ExtensionType,
    NewSessionTicket,
    PskKeyExchangeMode,
    SessionTicket,
    pull_client_hello,
    push_new_session_ticket,
    utcnow,
)

from ..server.quic import QuicContexts
from .tickets import Tickets

Address = tuple[str, int]  # and for IPv6 two numbers more
SESSION = Struct("!H")  # the cipher suite; its secret follows
# What qh3 2.1 raises where an address that is not validated may get no more, or not as much as a packet takes.
BLOCKS = ("anti-amplification limit", "packet builder capacity exhausted")


class Shown(NamedTuple):
    """What new connections to a listener show, and keep."""

    contexts: QuicContexts
    tickets: Tickets
    reset_token: Callable[[bytes], bytes]  # of a connection ID


class ServerConnection(QuicConnection):
    """A connection of a client, which first asked for the connection ID `original`, and then for one of ours."""

    def __init__(self, shown: Shown, original: bytes, retried: bytes) -> None:
        super().__init__(
            configuration=shown.contexts.configuration, original_destination_connection_id=original,
            retry_source_connection_id=retried,
        )  # fmt: skip
        self._shown = shown
        self.is_blocked = False  # what waits has to wait until the client has shown where it is

    def _create_tls(self, remote_source_cid: bytes | None) -> QuicTlsBridge:
        bridge = super()._create_tls(remote_source_cid)
        bridge.stateless_reset_token = self._shown.reset_token(self.host_cid)
        told = bridge.serialize_transport_parameters()
        bridge.tls.handshake_extensions = [(ExtensionType.QUIC_TRANSPORT_PARAMETERS, told)]
        Handshake(bridge.tls, self._shown)
        return bridge

    def transmits(self, now: float) -> Iterator[tuple[bytes, Address]]:
        """Yield the datagrams that can be sent by now, each with where to."""
        self.is_blocked = False
        try:
            while self._core is not None and (transmit := self._core.poll_transmit(now)) is not None:
                yield transmit[0], transmit[1]
        except RuntimeError as error:
            if not any(each in str(error) for each in BLOCKS):
                raise
            self.is_blocked = True

    @property
    def is_open(self) -> bool:
        """Whether neither side has closed it."""
        return self._close_event is None

    @property
    def peer(self) -> Address:
        """Where the client is: where it has proven to be, after it has moved."""
        assert self._core is not None
        host, port = self._core.active_path[2][:2]
        return host, port


class Handshake:
    """A handshake: what is done before qh3 takes the client's first message, and after it has taken the last."""

    def __init__(self, context: Context, shown: Shown) -> None:
        self._context, self._shown = context, shown
        self._take_hello, self._take_finished = context._server_handle_hello, context._server_handle_finished
        self._keeps_tickets = False  # the client
        context._server_handle_hello = self._begin  # type: ignore[method-assign,assignment]
        context._server_handle_finished = self._end  # type: ignore[method-assign,assignment]

    def _begin(self, message: Buffer, *out: Buffer) -> None:
        """Choose a certificate, and whether a ticket is looked at: with early data none is, which could be replayed."""
        hello = pull_client_hello(message)
        message.seek(0)
        self._shown.contexts.choose(self._context, hello.server_name)
        self._keeps_tickets = PskKeyExchangeMode.PSK_DHE_KE in (hello.psk_key_exchange_modes or ())
        self._context.get_session_ticket_cb = None if hello.early_data else self._opened
        self._take_hello(message, *out)

    def _opened(self, ticket: bytes) -> SessionTicket | None:
        """Return the session of a ticket; how old that may be, its key has decided."""
        session = self._shown.tickets.open(ticket)
        if session is None:
            return None
        now = utcnow()
        return SessionTicket(
            age_add=0, cipher_suite=CipherSuite(*SESSION.unpack_from(session)), not_valid_before=now,
            not_valid_after=now + timedelta(days=1), resumption_secret=session[SESSION.size :],
            server_name="", ticket=ticket,
        )  # fmt: skip

    def _end(self, message: Buffer, out: Buffer) -> None:
        """Give the client a ticket, which allows no early data."""
        self._take_finished(message, out)
        if not self._keeps_tickets:
            return
        given = NewSessionTicket(
            ticket_lifetime=self._shown.tickets.lifetime, ticket_age_add=int.from_bytes(os.urandom(4))
        )
        session = self._context._build_session_ticket(given, [])
        given.ticket = self._shown.tickets.seal(SESSION.pack(session.cipher_suite) + session.resumption_secret)
        push_new_session_ticket(out, given)
