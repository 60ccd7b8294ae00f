"""What requests on the control socket do: all counters, purges, dynamic blocks."""

import asyncio
import logging
import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ..cache._store import Cache
from ..config.guard import Refusal
from ..core.logs import RateLimited
from ..errors import FunkenShieldError
from ..policy.dynblocks import Blocks
from ..wire.names import name_from_wire, name_to_wire, type_number
from .stats import Stats

limited = RateLimited(logging.getLogger(__name__))

TEST_CLOCK = "FUNKENSHIELD_TEST_CLOCK"  # set to 1, it lets tests move the clock, but not the event loop's timers


class PurgeError(FunkenShieldError):
    """What is to be purged cannot be understood."""


async def handle(
    stats: Stats, cache: Cache, blocks: Blocks, forget: Callable[[bytes], Future[None] | None], request: dict[str, Any]
) -> dict[str, Any]:
    """Do what a request asks for, and return the response.

    `forget` takes a name out of all but the cache, and returns what ends once the disk has forgotten it, too.
    """
    match request:
        case {"command": "stats"}:
            return {"stats": stats.snapshot()}
        case {"command": "purge", "name": str(name), **options}:
            qtype = options.get("type")
            if not isinstance(qtype, str | None):
                raise FunkenShieldError("purge: type must be a string")
            noted = purge(cache, name, qtype, below=options.get("below") is True)
            if noted != name_to_wire(name):
                limited.warning(
                    "purge", "too many purges at once: purging %s instead of %s", name_from_wire(noted), name
                )
            if removal := forget(noted):
                await asyncio.wrap_future(removal)
            return {}
        case {"command": "block list"}:
            return {"blocks": blocks.listed()}
        case {"command": "block add", "prefix": str(prefix), "seconds": int() | float() as seconds}:
            action: Refusal = "refuse" if request.get("action") == "refuse" else "drop"
            blocks.add(prefix, seconds, action, confirmed=request.get("confirmed") is True)
            return {}
        case {"command": "block remove", "prefix": str(prefix)}:
            return {"removed": blocks.remove(prefix)}
        case {"command": "advance", "seconds": int() | float() as seconds} if os.environ.get(TEST_CLOCK) == "1":
            cache.clock.advance(seconds)
            return {}
    raise FunkenShieldError(
        "no such command, or a member is missing; commands are stats, purge (name; type, below), block list,"
        " block add (prefix, seconds; action, confirmed), block remove (prefix)"
    )


def purge(cache: Cache, name: str = ".", qtype: str | None = None, *, below: bool = True) -> bytes:
    """Take out the answers for a name, with `below` for all names under it too.

    It is in force when this returns, and costs the same whatever is stored. Returns the name on the wire that it
    became a purge of: another where there were very many. Raises PurgeError for a name or type that is none.
    """
    try:
        wire = name_to_wire(name)
        number = -1 if qtype is None else type_number(qtype)
        return cache.purge(wire, below=below, qtype=number)
    except (ValueError, OverflowError) as error:
        raise PurgeError(f"cannot purge: {error}") from None
