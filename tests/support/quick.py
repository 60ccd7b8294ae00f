"""Know how to make small messages by the hundred thousand, and how to read them, octet by octet."""

import zlib
from struct import pack, unpack_from

from funkenshield.forward._miss_path import MissPath

A, TXT = 1, 16
RD, QR = 0x0100, 0x8000


def name_wire(name):
    """Return a name of plain ASCII labels as it goes over the wire; "." is the root."""
    labels = [label.encode() for label in name.strip(".").split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def query(name, rdtype=TXT, *, ident=0, flags=RD):
    """Return a query of class IN without OPT."""
    return pack("!6H", ident, flags, 1, 0, 0, 0) + name_wire(name) + pack("!2H", rdtype, 1)


def answer(asked, payload, *, ttl=300, rdtype=TXT):
    """Return a response to `asked` with one record whose RDATA is `payload`; a TXT is cut into its strings."""
    if rdtype == TXT:
        parts = [payload[at : at + 255] for at in range(0, len(payload), 255)]
        payload = b"".join(bytes([len(part)]) + part for part in parts)
    record = pack("!3HIH", 0xC00C, rdtype, 1, ttl, len(payload)) + payload
    return asked[:2] + pack("!5H", QR | RD, 1, 1, 0, 0) + asked[12:] + record


def failure(asked, rcode=2):
    """Return a response to `asked` that says nothing but SERVFAIL, or another `rcode`."""
    return asked[:2] + pack("!5H", QR | RD | rcode, 1, 0, 0, 0) + asked[12:]


def payload_of(asked, response):
    """Return the payload of an `answer` to `asked`, strings joined; b"" where it has no record."""
    at = len(asked)
    assert response[12:at] == asked[12:], "another question"
    if at == len(response):
        return b""
    rdtype, size = unpack_from("!H", response, at + 2)[0], unpack_from("!H", response, at + 10)[0]
    rdata = response[at + 12 :]
    assert len(rdata) == size, f"{len(rdata)} octets of RDATA, {size} announced"
    if rdtype != TXT:
        return rdata
    parts = []
    while rdata:
        parts.append(rdata[1 : 1 + rdata[0]])
        rdata = rdata[1 + rdata[0] :]
    return b"".join(parts)


def sealed(name, version, size):
    """Return `size` octets or a few more that nothing but this name and this version has, with a checksum."""
    head = pack("!I", version)
    seed = pack("!I", zlib.crc32(name.encode() + head))
    body = head + seed * (size // 4)
    return body + pack("!I", zlib.crc32(body))


def unseal(name, payload):
    """Return the version in a `sealed` payload, after asserting that it is whole and belongs to `name`."""
    version = unpack_from("!I", payload)[0]
    assert payload == sealed(name, version, len(payload) - 8), f"torn, or not of {name}"
    return version


def miss_path_before_a_test(cache, capacity=16):
    """Return pending queries whose one upstream, number 0, is the test: it takes what is carried, with one try."""
    miss_path = MissPath(cache, capacity)
    miss_path.upstreams.set_upstream(0, over_stream=True)
    miss_path.upstreams.set_health(0)
    miss_path.upstreams.set_group(0, "order", [0])
    miss_path.set_limits(attempts=1)
    return miss_path


def carried(miss_path):
    """Return the handles of the queries that upstream 0 is asked now."""
    miss_path.send()
    taken = miss_path.take_stream_queries()
    assert all(upstream == 0 for _, upstream, *_ in taken)
    return [handle for handle, *_ in taken]
