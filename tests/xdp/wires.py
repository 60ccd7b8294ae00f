"""Know how clients come by a wire to an interface of the shield's: by sockets at its other end, or frame by frame."""

import contextlib
import socket
import struct
import time

from support import frames
from support.client import Address, udp_wire
from support.control import stats
from support.network import Network
from support.pipeline import ask_all

HERE, THERE = "192.0.2.1", "192.0.2.9"
HERE_6, THERE_6 = "2001:db8::1", "2001:db8::9"
SERVER, SERVER_6 = Address(HERE, 53), Address(HERE_6, 53)
ALL_KINDS = 3  # ETH_P_ALL
SOL_PACKET, AUXDATA, HAS_TAG = 263, 8, 1 << 4  # <linux/if_packet.h>


class Wire:
    """Two networks, the shield's and its clients', and the wire between them."""

    def __init__(self, queues=1, beside=None):
        """Lay none yet; with another one `beside` it, at the same shield's."""
        self.near, self.far, self._queues = beside.near if beside else Network(), Network(), queues
        self._beside = beside

    def __enter__(self):
        self.join()
        return self

    def __exit__(self, *_):
        if not self._beside:
            self.near.__exit__()
        self.far.__exit__()

    def join(self, name=""):
        """Lay the wire, with addresses of IPv4 and IPv6 at both ends."""
        self.name = self.near.join(self.far, f"{HERE}/24", f"{THERE}/24", queues=self._queues, name=name)
        for network, address in (self.near, HERE_6), (self.far, THERE_6):
            network.run("ip", "address", "add", f"{address}/64", "dev", self.name, "nodad")
        self.macs = [_mac(each, self.name) for each in (self.near, self.far)]

    def ask(self, query, server=SERVER, **options):
        """Return what a client gets for a query."""
        with self.far.entered():
            return udp_wire(server, query, **options)

    def ask_all(self, queries, server=SERVER, **options):
        """Return what a client gets who has many questions at a time."""
        with self.far.entered():
            return ask_all(server, queries, **options)

    @contextlib.contextmanager
    def raw(self):
        """Yield what sends a frame from the clients' end, and returns the next one that comes back to a port."""
        with self.far.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_KINDS)) as sock:
            sock.bind((self.name, ALL_KINDS))
            sock.setsockopt(SOL_PACKET, AUXDATA, 1)
            sock.settimeout(1)

            def exchange(frame, port=5353, within=2.0):
                sock.send(frame)
                end = time.monotonic() + within
                while time.monotonic() < end:
                    with contextlib.suppress(TimeoutError):
                        came, told, _, (_, _, kind, *_) = sock.recvmsg(65535, 64)
                        came = _with_tag(came, told)
                        if kind != socket.PACKET_OUTGOING and (sent := frames.read(came)) and sent.server[1] == port:
                            return sent
                return None

            yield exchange

    def frame(self, query, client=(THERE, 5353), server=SERVER, **ways):
        """Return a query as a frame from the one end to the other."""
        return frames.query(query, client, server, **self.ways(**ways))

    def ways(self, **ways):
        return {"to": self.macs[0], "source": self.macs[1], **ways}


def _with_tag(frame, told):
    """Return a frame with the outer tag, which the kernel has taken off and tells."""
    for _, _, data in told:
        status, *_, number, kind = struct.unpack("=IIIHHHH", data)
        if status & HAS_TAG:
            return frame[:12] + struct.pack("!HH", kind, number) + frame[12:]
    return frame


def _mac(network, name):
    told = network.run("ip", "-o", "link", "show", "dev", name)
    return bytes.fromhex(told.split("link/ether ")[1][:17].replace(":", ""))


def listener(interface, *addresses, **options):
    """Return a listener as the configuration has it."""
    lines = [f"address = {[str(each) for each in addresses]}", 'transport = "xdp"', f'interface = "{interface}"']
    return "\n".join(["[[listeners]]", *lines, *(f"{key} = {value}" for key, value in options.items()), ""])


@contextlib.contextmanager
def counted(shield, wire, **differences):
    """Show by how much counters of frames differ afterwards."""
    before = stats(shield)["xdp_frames"][wire.name]
    yield
    after = stats(shield)["xdp_frames"][wire.name]
    found = {name: after[name] - before[name] for name in after}
    assert found == {"ignored": 0, "dropped": 0, **differences}, found
