"""Frames: what is in one, and the one that answers it, down to its sums; whatever they say of themselves."""

import random
import socket
import sys

import pytest
from support import frames
from support.frames import IPV6, SERVICE_TAG, TAG, TCP
from support.wires import ask_wire

from funkenshield.xdp._frame import answered

QUERY = ask_wire("www.example.com")
ENDS = [(("192.0.2.9", 5353), ("192.0.2.1", 53)), (("2001:db8::9", 5353), ("2001:db8::1", 5300))]
TAGS = [(), ((TAG, 5),), ((SERVICE_TAG, 7), (TAG, 0xA005))]
DATAGRAM = frames.udp(QUERY)


def sockaddr(address, port):
    """Return an address as sockets tell it."""
    ip = frames.packed(address)
    family, info = (socket.AF_INET, b"") if len(ip) == 4 else (socket.AF_INET6, bytes(4))
    return (family.to_bytes(2, "little") + port.to_bytes(2) + info + ip).ljust(28, b"\0")


@pytest.mark.parametrize("tags", TAGS, ids=len)
@pytest.mark.parametrize(("client", "server"), ENDS, ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("size", [12, 13, 14, 15, 100, 511, 1232])
def test_an_answer_goes_back_the_way_that_its_query_came(client, server, tags, size):
    message = random.Random(size).randbytes(size)
    query, asking, asked, port, made = answered(frames.query(QUERY, client, server, tags=tags), message)
    assert query == QUERY
    assert asking == sockaddr(*client)
    assert (asked, port) == (frames.packed(server[0]), server[1])
    assert frames.read(made) == frames.Sent(
        to=frames.CLIENT, source=frames.SHIELD, tags=tags, client=server, server=client, payload=message, hops=64,
        checked=True,
    )  # fmt: skip


@pytest.mark.parametrize("marked", [(0,), (0, 6)], ids=len)
def test_marks_of_the_kernel_s_stay_here(marked):
    frame = bytearray(frames.query(QUERY))
    for at in marked:
        frame[at] |= 1
    made = answered(bytes(frame), b"x" * 12)[4]
    assert (made[:6], made[6:12]) == (frames.CLIENT, frames.SHIELD)


@pytest.mark.parametrize(
    ("client", "link"), [("fe80::9", 7), ("febf::9", 7), ("fec0::9", 0), ("fe00::9", 0), ("2001:db8::9", 0)]
)
def test_a_client_of_the_link_is_one_of_the_interface_that_its_query_came_by(client, link):
    asking = answered(frames.query(QUERY, (client, 5353), ENDS[1][1]), b"", 7)[1]
    assert asking[:24] == sockaddr(client, 5353)[:24]
    assert int.from_bytes(asking[24:], sys.byteorder) == link


def test_a_sum_that_is_zero_is_told_from_none():
    """RFC 768: where there is no sum, there are zeros."""
    made = []
    for word in range(1 << 16):
        frame = answered(frames.query(QUERY), bytes(12) + word.to_bytes(2))[4]
        made.append(frame[40:42])
        if frame[40:42] == b"\xff\xff":
            assert frames.read(frame).checked
            break
    assert b"\xff\xff" in made
    assert b"\0\0" not in made


NONE = {
    "nothing": b"",
    "half a header": frames.query(QUERY)[:13],
    "half a tag": frames.query(QUERY, tags=TAGS[1])[:17],
    "half of IPv4": frames.query(QUERY)[:33],
    "half of IPv6": frames.query(QUERY, *ENDS[1])[:53],
    "half of UDP": frames.query(QUERY)[:41],
    "half a message": frames.query(QUERY)[:60],
    "three tags": frames.query(QUERY, tags=((TAG, 1),) * 3),
    "TCP": frames.ethernet(frames.ipv4(DATAGRAM, protocol=TCP)),
    "options": frames.ethernet(frames.ipv4(DATAGRAM, options=b"\1\1\1\0")),
    "a fragment": frames.ethernet(frames.ipv4(DATAGRAM, fragment=0x2000)),
    "another kind": frames.ethernet(DATAGRAM, 0x0806),
    "another version": frames.ethernet(frames.ipv4(DATAGRAM), IPV6),
    "a short packet": frames.ethernet(frames.ipv4(DATAGRAM, length=10)),
    "a short packet of IPv6": frames.ethernet(frames.ipv6(DATAGRAM, length=4), IPV6),
    "a long packet": frames.ethernet(frames.ipv4(DATAGRAM, length=600)),
    "a long packet of IPv6": frames.ethernet(frames.ipv6(DATAGRAM, length=600), IPV6),
    "a short datagram": frames.ethernet(frames.ipv4(frames.udp(QUERY, length=19))),
    "a long datagram": frames.ethernet(frames.ipv4(frames.udp(QUERY, length=len(QUERY) + 9))),
    "from port 0": frames.query(QUERY, ("192.0.2.9", 0)),
}


@pytest.mark.parametrize("frame", NONE.values(), ids=NONE)
def test_what_has_no_query_has_no_answer(frame):
    assert answered(frame, QUERY) is None


def test_no_frame_leads_beyond_its_end():
    """A message is always of the frame, whatever that says; the fuzzer looks for more, with sanitizers."""
    rng = random.Random(21)
    whole = [frames.query(QUERY, *ends, tags=tags) for ends in ENDS for tags in TAGS]
    for _ in range(5000):
        frame = bytearray(rng.choice(whole))
        for _ in range(rng.randrange(4)):
            frame[rng.randrange(len(frame))] = rng.randrange(256)
        frame = bytes(frame[: rng.randrange(len(frame) + 1)])
        if (found := answered(frame, QUERY)) is not None:
            assert len(found[0]) >= 12
            assert found[0] in frame
