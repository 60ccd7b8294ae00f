"""Whoever has no connection shows first where it is (Retry), or is told that its version, or connection, is unknown.

Nothing is kept of that; an answer is shorter than what it answers. Answers take their part of the time at most: what
anybody can send who has no client's first packet, which is large, has one of its own.
"""

import os
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import NamedTuple

from qh3._hazmat import pull_quic_header
from qh3.quic.packet import QuicPacketType, QuicProtocolVersion, encode_quic_retry, encode_quic_version_negotiation

from ..core.fair_shares import prefix_of
from .bounds import Bounds
from .handshake import Address
from .resets import Resets
from .retry import CID, RetryTokens

INITIAL_MIN = 1200  # octets of a client's first datagram (RFC 9000 14.1)
LONG_HEADER, FIXED = 0x80, 0x40  # of a packet's first octet
LONG_CID = 6  # where the connection ID stands, behind its length
VERSIONS = [QuicProtocolVersion.VERSION_1]


class Header(NamedTuple):
    """What a packet says that anybody can read."""

    version: int  # 0: it negotiates
    kind: int
    destination: bytes
    source: bytes
    token: bytes

    @property
    def is_first(self) -> bool:
        """Whether a connection can begin with it."""
        return self.kind == QuicPacketType.INITIAL and self.version in VERSIONS


class Begun(NamedTuple):
    """Who may begin a connection: a client that has shown where it is."""

    original: bytes  # the connection ID that it asked for first,
    ours: bytes  # and that which it was given


class Secrets(NamedTuple):
    """What tokens follow from."""

    retry: bytes  # known to the daemon that takes over, which clients come back to with what this one gave them
    reset: bytes  # not known to it: what it does not know by its tokens, may be a connection that this one still serves


class Strangers:
    """Those of one listener."""

    def __init__(
        self, secrets: Secrets, listener: str, bounds: Bounds, send: Callable[[bytes, Address, bytes], None]
    ) -> None:
        self._bounds, self._counters, self._send = bounds, bounds.counters, send
        self._tokens = RetryTokens(secrets.retry, listener, time.monotonic)
        self.resets = Resets(secrets.reset, listener)
        self.are_welcome = True

    def take(self, datagram: bytes, address: Address, local: bytes, now: float) -> Begun | None:
        """Answer a datagram of no connection, from the `local` address; or return who begins one by it."""
        began, header = time.thread_time(), _header_of(datagram)
        if header is not None and header.token and header.is_first and self.are_welcome:
            prefix = prefix_of(ip_address(address[0]).packed)
            if not self._bounds.of_handshakes.may_begin(prefix, now):
                self._counters["dropped"] += 1
                return None
            original = self._tokens.original(address[:2], header.destination, header.token)
            if original is not None:
                return Begun(original, header.destination)
        share = self._bounds.of_resets if header is None else self._bounds.of_strangers
        if not share.has_time(now):
            self._counters["dropped"] += 1
            return None
        if answer := self._unknown(datagram) if header is None else self._answer(header, address):
            self._send(answer, address, local)
        share.spend(time.thread_time() - began)
        return None

    def _answer(self, header: Header, address: Address) -> bytes:
        """Return what is said to a client that begins, b"": nothing."""
        if not header.version or not self.are_welcome:
            return b""
        if header.version not in VERSIONS:
            return encode_quic_version_negotiation(header.destination, header.source, list(VERSIONS))
        if not header.is_first:
            return b""
        self._counters["retries"] += 1
        ours = os.urandom(CID)
        made = self._tokens.make(address[:2], header.destination, ours)
        return encode_quic_retry(VERSIONS[0], ours, header.source, header.destination, made)

    def _unknown(self, datagram: bytes) -> bytes:
        """Return what ends a connection that is not known here, b"": it is none."""
        if datagram[0] & (LONG_HEADER | FIXED) != FIXED:
            return b""
        answer = self.resets.packet(cid_of(datagram), len(datagram))
        self._counters["resets"] += bool(answer)
        return answer


def cid_of(datagram: bytes) -> bytes:
    """Return the connection ID that a datagram, longer than one, is for."""
    if datagram[0] & LONG_HEADER:
        return datagram[LONG_CID : LONG_CID + datagram[LONG_CID - 1]]
    return datagram[1 : 1 + CID]


def _header_of(datagram: bytes) -> Header | None:
    """Return what is said in what can be a client's first datagram, or None."""
    if not datagram[0] & LONG_HEADER or len(datagram) < INITIAL_MIN:
        return None
    try:
        version, kind, _, destination, source, token, *_ = pull_quic_header(datagram, 0, CID)
    except ValueError:
        return None
    return Header(version or 0, kind, destination, source, token)
