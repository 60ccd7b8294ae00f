"""Zone transfers (RFC 5936, 1995): which queries ask for one, and where the stream of messages ends.

A transfer has no end mark of its own: it is over when the SOA record that opened it comes again.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from ..cache._entry import soa_serials

IXFR, AXFR = 251, 252
ANSWER, AUTHORITY = 0, 1


def is_transfer(found: dict[str, Any]) -> bool:
    """Tell whether an inspected query asks for a transfer."""
    return found.get("opcode") == 0 and found.get("qtype") in (IXFR, AXFR)


async def until_complete(query: bytes, messages: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    """Yield the messages of a transfer up to its last one, which need not be the connection's last.

    A whole zone stands between two SOA records of the same serial. An incremental transfer has a third, where the
    last list of additions begins. One alone says that the client's zone is up to date.
    """
    asked = next((serial for _, serial in soa_serials(query, AUTHORITY)[1]), None)
    current: int | None = None
    needed, seen, records = 2, 0, 0
    async with aclosing(messages):  # its connection ends with it
        async for message in messages:
            yield message
            if message[3] & 15:
                return
            more, serials = soa_serials(message, ANSWER)
            for number, serial in serials:
                if current is None:
                    current = serial
                elif records + number == 1 and serial != current:
                    needed = 3
                seen += serial == current
            records += more
            if seen >= needed or (records == 1 and _is_up_to_date(asked, current)):
                return


def _is_up_to_date(asked: int | None, current: int | None) -> bool:
    """Tell whether the client's serial is the server's or a later one (RFC 1982)."""
    return asked is not None and current is not None and (asked - current) % 2**32 < 2**31
