"""Know frames as they are on the wire, whole or not: UDP in IP, in Ethernet; made from what is in them, and read."""

import ipaddress
import struct
from typing import NamedTuple

SHIELD, CLIENT = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")  # interfaces
IPV4, IPV6, UDP, TCP = 0x0800, 0x86DD, 17, 6
TAG, SERVICE_TAG = 0x8100, 0x88A8


class Sent(NamedTuple):
    """What a frame carries, as it was read: `checked` says whether its sums are right."""

    to: bytes
    source: bytes
    tags: tuple
    client: tuple
    server: tuple
    payload: bytes
    hops: int
    checked: bool


def checksum(octets):
    """Return the sum of the Internet protocols (RFC 1071)."""
    octets += b"\0" * (len(octets) % 2)
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def packed(address):
    return ipaddress.ip_address(address).packed


def pseudo(source, to, length, protocol=UDP):
    """Return what the sum of UDP is over besides the datagram itself."""
    if len(source) == 4:
        return source + to + struct.pack("!BBH", 0, protocol, length)
    return source + to + struct.pack("!IxxxB", length, protocol)


def udp(payload, client=("192.0.2.9", 5353), server=("192.0.2.1", 53), length=None):
    """Return a datagram with its sum."""
    length = 8 + len(payload) if length is None else length
    ports = struct.pack("!HHH", client[1], server[1], length)
    over = pseudo(packed(client[0]), packed(server[0]), len(payload) + 8)
    return ports + struct.pack("!H", checksum(over + ports + b"\0\0" + payload) or 0xFFFF) + payload


def ipv4(payload, source="192.0.2.9", to="192.0.2.1", protocol=UDP, options=b"", fragment=0, length=None):
    """Return a packet of IPv4; `fragment` has flags and offset."""
    size = 20 + len(options)
    length = size + len(payload) if length is None else length
    head = struct.pack("!BBHHHBB", 0x40 | size // 4, 0, length, 7, fragment, 61, protocol)
    ends = packed(source) + packed(to) + options
    return head + struct.pack("!H", checksum(head + b"\0\0" + ends)) + ends + payload


def ipv6(payload, source="2001:db8::9", to="2001:db8::1", following=UDP, length=None):
    """Return a packet of IPv6; headers behind its own are of the payload."""
    length = len(payload) if length is None else length
    return struct.pack("!IHBB", 6 << 28, length, following, 61) + packed(source) + packed(to) + payload


def ethernet(payload, kind=IPV4, to=SHIELD, source=CLIENT, tags=()):
    """Return a frame, with tags of VLANs: (TAG or SERVICE_TAG, number), the outer one first; padded as on a wire."""
    kinds = b"".join(struct.pack("!HH", *tag) for tag in tags) + struct.pack("!H", kind)
    return (to + source + kinds + payload).ljust(60, b"\0")


def query(payload, client=("192.0.2.9", 5353), server=("192.0.2.1", 53), **ways):
    """Return a frame with a whole datagram, over the IP of the addresses; `ways` are of `ethernet`."""
    make, kind = (ipv6, IPV6) if ":" in server[0] else (ipv4, IPV4)
    return ethernet(make(udp(payload, client, server), client[0], server[0]), kind, **ways)


def read(frame):
    """Return what a frame carries that `query` could have made; None where it is of another kind."""
    to, source, at, tags = frame[:6], frame[6:12], 12, []
    while (kind := int.from_bytes(frame[at : at + 2])) in (TAG, SERVICE_TAG):
        tags.append((kind, int.from_bytes(frame[at + 2 : at + 4])))
        at += 4
    ip = frame[at + 2 :]
    if kind == IPV4 and ip[0] == 0x45 and ip[9] == UDP:
        ends, hops, whole, datagram = (ip[12:16], ip[16:20]), ip[8], not checksum(ip[:20]), ip[20 : 256 * ip[2] + ip[3]]
    elif kind == IPV6 and ip[6] == UDP:
        ends, hops, whole, datagram = (ip[8:24], ip[24:40]), ip[7], True, ip[40 : 40 + 256 * ip[4] + ip[5]]
    else:
        return None
    port, asked, length = struct.unpack_from("!HHH", datagram)
    whole &= length == len(datagram) and not checksum(pseudo(*ends, length) + datagram)
    addresses = [str(ipaddress.ip_address(each)) for each in ends]
    return Sent(to, source, tuple(tags), (addresses[0], port), (addresses[1], asked), datagram[8:], hops, checked=whole)
