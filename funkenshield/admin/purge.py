"""What an operator wants out of the cache now: everything, a zone, a name, or a name and type."""

from ..cache._store import Cache
from ..errors import FunkenShieldError
from ..wire.names import name_to_wire, type_number


class PurgeError(FunkenShieldError):
    """What is to be purged cannot be understood."""


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
