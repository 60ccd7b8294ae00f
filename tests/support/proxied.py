"""Know how a header of PROXY protocol version 2 looks, octet by octet."""

from ipaddress import ip_address
from struct import pack

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
UNSPEC, INET, INET6, UNIX = 0x00, 0x10, 0x20, 0x30
STREAM, DGRAM = 1, 2
LOCAL, PROXY = 0x20, 0x21


def block(command, family, rest):
    """Return a header with whatever is in it."""
    return SIGNATURE + pack("!BBH", command, family, len(rest)) + rest


def told(source, *, transport=DGRAM, tlvs=b""):
    """Return the header that tells of a query from port 4000 of an address to port 53 of another."""
    address = ip_address(source)
    other = ip_address("192.0.2.53" if address.version == 4 else "2001:db8::53")
    family = INET if address.version == 4 else INET6
    return block(PROXY, family | transport, address.packed + other.packed + pack("!2H", 4000, 53) + tlvs)


def local(tlvs=b""):
    """Return the header of a proxy's own query."""
    return block(LOCAL, UNSPEC, tlvs)
