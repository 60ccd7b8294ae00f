"""Sinks as the configuration says: made, kept where they did not change, looked after.

It knows sections and outputs. Events are none of Python's business.
"""

import logging
import os
import socket
import stat
import struct
import threading
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from .. import __version__
from ..config import Config, Endpoint, Member
from ..config.events import DnstapSection, QueryLogSection, SinkSection
from ..core.logs import RateLimited
from ..wire.names import name_from_wire, name_to_wire
from ._dnstap import MESSAGE_TYPES
from ._names import ASKED, EXCHANGE, KINDS, TRANSPORTS
from ._recorder import Output, Recorder

log = logging.getLogger(__name__)
limited = RateLimited(log)

STOPPING = 5.0  # seconds in which the last events are written
WATCHED = 10.0  # seconds that are counted after somebody has looked
PLAIN = frozenset(
    b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/#[]%+@"
)  # of names of upstreams and rules
Peer = tuple[bytes, int, int, bytes]  # address, port, transport's number, name


class Sinks:
    """Who is told what becomes of queries, and the thread that tells them; there is none until somebody is to be told.

    Memory ownership: the descriptor of standard output, and the outputs, which close what they open.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._outputs: dict[SinkSection, Output] = {}
        self._failed: set[SinkSection] = set()  # that were reported
        self._thread: threading.Thread | None = None
        self._started = False
        self._standard: tuple[int, bool] | None = None

    def configure(
        self,
        config: Config,
        listeners: Mapping[int, Endpoint],
        upstreams: Mapping[int, tuple[Endpoint, Member]],
        rules: tuple[int, Sequence[Sequence[str]]],
    ) -> None:
        """Tell these from now on.

        `listeners`, `upstreams` and the names of `rules`, by generation and chain, are what events tell by number.
        """
        sections: Iterable[SinkSection] = dict.fromkeys((*config.dnstap, *config.query_log))
        self._outputs = {each: self._outputs.get(each) or self._made(each) for each in sections}
        self._failed &= self._outputs.keys()
        self._recorder.configure(
            tuple(self._outputs.values()),
            listeners={number: _peer(endpoint, "udp", "") for number, endpoint in listeners.items()},
            upstreams={
                number: _peer(endpoint, member.section.transport, member.title)
                for number, (endpoint, member) in upstreams.items()
            },
            generation=rules[0],
            rules=tuple([_written(name) for name in names] for names in rules[1]),
        )
        if self._outputs and self._started:
            self._start_thread()

    def start(self) -> None:
        """Tell those who are to be told; to be called once, before `close`."""
        self._started = True
        if self._outputs:
            self._start_thread()

    def _start_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._recorder.run, name="events", daemon=True)
            self._thread.start()

    def _made(self, section: SinkSection) -> Output:
        """Return what writes for a section."""
        kinds = [KINDS.index(kind) for kind in section.outcomes] or list(range(len(KINDS)))
        zones = b"".join(name_to_wire(zone) for zone in section.zones)
        sample, ipv4, ipv6 = section.sample, section.ipv4_prefix_length, section.ipv6_prefix_length
        if isinstance(section, DnstapSection):
            if not section.outcomes and {"client_query", "update_query"} & set(section.messages):
                kinds.append(ASKED)
            if {"forwarder_query", "forwarder_response"} & set(section.messages):
                kinds.append(EXCHANGE)
            return Output(
                form="dnstap", place="collector", address=_sockaddr(section), kinds=kinds, sample=sample,
                types=[MESSAGE_TYPES[each] for each in section.messages], ipv4=ipv4, ipv6=ipv6, zones=zones,
                identity=_field(1, section.identity or socket.gethostname())
                + _field(2, section.version or f"FunkenShield {__version__}"),
            )  # fmt: skip
        assert isinstance(section, QueryLogSection)
        fd, is_socket = (-1, False) if section.file else self._standard_output()
        return Output(
            form=section.format, place="file" if section.file else "descriptor", address=os.fsencode(section.file),
            fd=fd, is_socket=is_socket, kinds=kinds, sample=sample, ipv4=ipv4, ipv6=ipv6, zones=zones,
        )  # fmt: skip

    def _standard_output(self) -> tuple[int, bool]:
        """Return a descriptor of standard output that does not wait for who reads it, and whether it is a socket."""
        if self._standard is None:
            try:  # a description of our own: that of others stays as it is
                fd = os.open("/proc/self/fd/1", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:  # it is a socket, or another user's
                fd = _duplicate(1)
            self._standard = fd, stat.S_ISSOCK(os.fstat(fd).st_mode)
        return self._standard

    def top(self, most: int) -> dict[str, Any]:
        """Return what was asked for most in the last five to ten seconds; that is counted as long as somebody looks."""
        self._start_thread()
        self._recorder.watch(WATCHED)
        found = self._recorder.top(most)
        read = {"names": name_from_wire, "clients": lambda key: str(ip_address(key)), "zones": name_from_wire}
        return {
            "seconds": round(found.get("seconds", 0.0), 3),
            "outcomes": found.get("outcomes", {}),
            **{
                subject: [
                    {subject.removesuffix("s"): as_text(key), "queries": count, "error": error}
                    for key, count, error in found.get(subject, ())
                ]
                for subject, as_text in read.items()
            },
        }

    def reopen(self) -> None:
        """Open files again, which were moved away."""
        self._recorder.reopen()

    def housekeeping(self) -> None:
        """Say which sinks cannot be written to, and which can be again; called about once a second."""
        self._recorder.reclaim()
        for section, output in self._outputs.items():
            if output.is_open and section in self._failed:
                self._failed.discard(section)
                log.info("%s: in use again", section)
            elif not output.is_open and output.error and section not in self._failed:
                self._failed.add(section)
                limited.warning(str(section), "%s: %s; events are lost", section, os.strerror(output.error))

    def counters(self) -> dict[str, dict[str, int]]:
        """Return what became of events, by sink."""
        return {str(section): output.counters() for section, output in self._outputs.items()}

    @property
    def memory_limit(self) -> int:
        """The octets that events may take."""
        return self._recorder.memory_limit

    @property
    def lost(self) -> int:
        """How many events nobody was told of, because they came faster than they were read."""
        return self._recorder.lost

    def close(self) -> None:
        """Tell what is left to be told, and end."""
        self._recorder.stop()
        if self._thread is not None:
            self._thread.join(STOPPING)
            if self._thread.is_alive():  # a disk stands still: it is left behind
                log.warning("sinks of events: not all was written in time")
                return
        if self._standard is not None:
            os.close(self._standard[0])


def _duplicate(fd: int) -> int:
    """Return another descriptor of what one leads to; of nothing, where it is closed."""
    try:
        return os.dup(fd)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def _peer(endpoint: Endpoint, transport: str, name: str) -> Peer:
    """Return an address as events tell it; a wildcard is none."""
    address = ip_address(endpoint.host.partition("%")[0])
    packed = b"" if address.is_unspecified else address.packed
    return packed, endpoint.port, TRANSPORTS.index(transport), _written(name)


def _written(name: str) -> bytes:
    """Return a name of the operator's as it is written into lines."""
    return bytes(octet if octet in PLAIN else ord("_") for octet in name.encode())


def _sockaddr(section: DnstapSection) -> bytes:
    """Return the sockaddr of a collector, as the kernel takes it."""
    if section.address is None:
        return struct.pack("=H", socket.AF_UNIX) + os.fsencode(section.socket) + b"\0"
    host, port, *more = section.address.sockaddr
    start = struct.pack("=H", section.address.family) + struct.pack("!H", port)
    if section.address.family == socket.AF_INET:
        return start + ip_address(host).packed + bytes(8)
    scope = more[1] if more else 0
    return start + bytes(4) + ip_address(host.partition("%")[0]).packed + struct.pack("=I", scope)


def _field(number: int, text: str) -> bytes:
    """Return a field of protobuf: a text of less than 128 octets."""
    octets = text.encode()[:127]
    return bytes((number << 3 | 2, len(octets))) + octets
