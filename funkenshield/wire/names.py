"""Names and types as people type them, and as they go over the wire."""

import dns.exception
import dns.name
import dns.rdatatype

READ_MAX = 4096  # octets of the largest response that is read in Python: names in a larger one can cost seconds


def name_to_wire(text: str) -> bytes:
    """Return a name on the wire, absolute and in lower case; ValueError where it is none."""
    if text in {"", "@"}:  # to dnspython, @ is the root
        raise ValueError('the name is empty; the root is "."')
    try:
        return dns.name.from_text(text).canonicalize().to_wire() or b""  # None only if it writes to a file
    except (dns.exception.DNSException, UnicodeError) as error:
        raise ValueError(f"{text} is not a name: {error}") from None


def name_from_wire(wire: bytes) -> str:
    """Return a name on the wire as text; ValueError where it is none."""
    try:
        return dns.name.from_wire(wire, 0)[0].to_text()
    except dns.exception.DNSException as error:
        raise ValueError(f"not a name: {error}") from None


def type_number(text: str) -> int:
    """Return the number of a record type; ValueError where it is none."""
    try:
        return int(dns.rdatatype.from_text(text))
    except (dns.exception.DNSException, ValueError):
        raise ValueError(f"{text} is not a type") from None


def type_name(number: int) -> str:
    """Return the name of a record type, such as `AAAA`, or `TYPE65400`."""
    return dns.rdatatype.to_text(dns.rdatatype.RdataType.make(number))
