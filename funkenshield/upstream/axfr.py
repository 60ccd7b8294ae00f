"""Zone transfers (RFC 5936, 1995): which queries ask for one, and where the stream of messages ends.

A transfer has no end mark of its own: it is over when the SOA record that opened it comes again.
"""

from collections.abc import AsyncIterator
from typing import Any

from ..cache._entry import soa_serials

IXFR, AXFR = 251, 252
ANSWER, AUTHORITY = 0, 1


def is_transfer(found: dict[str, Any]) -> bool:
    """Tell whether an inspected query asks for a transfer."""
    return found.get("opcode") == 0 and found.get("qtype") in (IXFR, AXFR)


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
        self._client_serial = next((serial for _, serial in soa_serials(query, AUTHORITY)[1]), None)
        self._serial: int | None = None
        self._needed = 2
        self._seen = 0
        self._records = 0

    def is_reached_by(self, message: bytes) -> bool:
        """Take the next message, of at least a header; return whether it was the last."""
        if message[3] & 15:
            return True
        records, serials = soa_serials(message, ANSWER)
        for number, serial in serials:
            if self._serial is None:
                self._serial = serial
            elif self._records + number == 1 and serial != self._serial:
                self._needed = 3
            self._seen += serial == self._serial
        self._records += records
        return self._seen >= self._needed or (self._records == 1 and self._is_up_to_date())

    def _is_up_to_date(self) -> bool:
        """Tell whether the client's serial is the server's or a later one (RFC 1982)."""
        if self._client_serial is None or self._serial is None:
            return False
        return (self._client_serial - self._serial) % 2**32 < 2**31
