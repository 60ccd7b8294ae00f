"""Messages as dnspython reads them: the one place where what others wrote is given to it."""

import dns.exception
import dns.message

from ._affordable import is_affordable


def read_message(wire: bytes) -> dns.message.Message:
    """Return a message as an object.

    Raises what dnspython raises where it cannot be read, and dns.exception.FormError where that would cost CPU time out
    of proportion to its length, or where it is a query with records that no query has.
    """
    if not is_affordable(wire):
        raise dns.exception.FormError
    return dns.message.from_wire(wire)
