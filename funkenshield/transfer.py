"""Zone transfers (RFC 5936, 1995): which queries ask for one, and where the stream of messages ends.

A transfer has no end mark of its own: it is over when the SOA record that opened it comes again.
"""

from collections.abc import AsyncIterator
from typing import Any

import dns.exception
import dns.message
import dns.rdatatype

IXFR, AXFR = 251, 252


def is_transfer(found: dict[str, Any]) -> bool:
    """Tell whether an inspected query asks for a transfer."""
    return found.get("qtype") in (IXFR, AXFR)


async def until_complete(query: bytes, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the messages of a transfer up to its last one, which need not be the connection's last."""
    ending = _Ending(query)
    try:
        async for message in messages:
            yield message
            if ending.is_reached_by(message):
                return
    finally:
        await messages.aclose()  # type: ignore[attr-defined]  # a generator's connection ends with it


class _Ending:
    """Counts the SOA records of a transfer.

    A whole zone stands between two of the same serial. An incremental transfer has a third, where the
    last list of additions begins. One alone says that the client's zone is up to date.
    """

    def __init__(self, query: bytes) -> None:
        self._client_serial = next((rdata.serial for _, rdata in _records(query, "authority") if _is_soa(rdata)), None)
        self._serial: int | None = None
        self._needed = 2
        self._seen = 0
        self._records = 0

    def is_reached_by(self, message: bytes) -> bool:
        """Take the next message; return whether it was the last. What cannot be read is never the last."""
        if message[3] & 15:
            return True
        for _, rdata in _records(message, "answer"):
            self._records += 1
            if not _is_soa(rdata):
                continue
            if self._serial is None:
                self._serial = rdata.serial
            elif self._records == 2 and rdata.serial != self._serial:
                self._needed = 3
            self._seen += rdata.serial == self._serial
        return self._seen >= self._needed or (self._records == 1 and self._client_serial == self._serial)


def _is_soa(rdata: Any) -> bool:  # noqa: ANN401 - dnspython's records have no common static type
    return bool(rdata.rdtype == dns.rdatatype.SOA)


def _records(message: bytes, section: str) -> list[tuple[Any, Any]]:
    """Return (owner, rdata) of a section in the order of the wire; nothing where it cannot be read."""
    try:
        parsed = dns.message.from_wire(message, keyring=False, one_rr_per_rrset=True, xfr=True)
    except dns.exception.DNSException:
        return []
    return [(rrset.name, rdata) for rrset in getattr(parsed, section) for rdata in rrset]
