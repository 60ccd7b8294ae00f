"""Sinks as the configuration says: made, kept where they did not change, looked after, ended.

    prepare: all that can fail -> configure: they are told from now on; those that are no more end -> housekeeping

It knows sections and outputs. Events are none of Python's business.
"""

import logging
import os
import socket
import struct
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from .. import __version__
from ..config import Config, Endpoint, Member
from ..config.events import DnstapSection, QueryLogSection, SinkSection
from ..core.logs import RateLimited
from ..errors import ConfigError
from ..wire.names import name_from_wire, name_to_wire
from ._dnstap import MESSAGE_TYPES
from ._names import ASKED, EXCHANGE, KINDS, TRANSPORTS
from ._recorder import ENDING_MAX, Output, Recorder
from .standard_output import StandardOutput

log = logging.getLogger(__name__)
limited = RateLimited(log)

STOPPING = 5.0  # seconds in which the last events are written
WATCHED = 10.0  # seconds that are counted after somebody has looked
PLAIN = frozenset(
    b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/#[]%+@"
)  # of names of upstreams and rules
Peer = tuple[bytes, int, int, bytes]  # address, port, transport's number, name
Outputs = Mapping[SinkSection, Output]


class Sinks:
    """Who is told what becomes of queries, and the thread that tells them; there is none until somebody is to be told.

    Memory ownership: standard output, and the outputs, which close what they open.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._outputs: Outputs = {}
        self._ending: list[tuple[SinkSection, Output]] = []  # that are told of nothing more
        self._ended: defaultdict[str, Counter[str]] = defaultdict(Counter)  # what became of events, of those before
        self._failed: set[SinkSection] = set()  # that were reported
        self._lost: dict[str, int] = {}  # events that were reported
        self._thread: threading.Thread | None = None
        self._started = False
        self._standard: StandardOutput | None = None

    def examine(self, config: Config) -> None:
        """See that files can be written that are not written by now; ConfigError has a line for each that cannot.

        That a disk is full, or nobody reads a pipe, may change: those are tried again as long as they are in use.
        """
        new = [each.file for each in config.query_log if each.file and each not in self._outputs]
        if lines := [f"query_log.file: {file}: may not be written" for file in new if not _may_be_written(file)]:
            raise ConfigError("\n".join(lines))

    def prepare(self, config: Config) -> Outputs:
        """Return what is to be told, for `configure`; those that stay as they are. Raises ConfigError."""
        wanted: Iterable[SinkSection] = dict.fromkeys((*config.dnstap, *config.query_log))
        leaving = len(self._outputs.keys() - wanted) + len(self._recorder.ending)
        if leaving > ENDING_MAX:
            raise ConfigError(
                f"dnstap, query_log: {leaving} that are no more have not ended; try again in a few seconds"
            )
        made = {}
        for each in wanted:
            try:
                made[each] = self._outputs.get(each) or self._made(each)
            except (OSError, ValueError, MemoryError) as error:
                raise ConfigError(f"{each}: {getattr(error, 'strerror', None) or error}") from None
        return made

    def configure(
        self,
        listeners: Mapping[int, Endpoint],
        upstreams: Mapping[int, tuple[Endpoint, Member]],
        rules: tuple[int, Sequence[Sequence[str]]],
        prepared: Outputs | None = None,
    ) -> None:
        """Tell those that were prepared from now on; or the same as before.

        `listeners`, `upstreams` and the names of `rules`, by generation and chain, are what events tell by number.
        """
        before = self._outputs
        self._outputs = before if prepared is None else prepared
        self._ending += [each for each in before.items() if each[0] not in self._outputs]
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
        self._standard = self._standard or StandardOutput()
        return self._standard.fd, self._standard.is_socket

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
        """Say which sinks cannot be written to, or can be again, and what is lost; called about once a second."""
        for section, output in self._outputs.items():
            if output.is_open and section in self._failed:
                self._failed.discard(section)
                log.info("%s: in use again", section)
            elif not output.is_open and output.error and section not in self._failed:
                self._failed.add(section)
                limited.warning(str(section), "%s: %s; events are lost", section, os.strerror(output.error))
        for section, output in self._ending:
            if output.is_over:
                self._ended[str(section)].update(output.counters())
        self._ending = [each for each in self._ending if not each[1].is_over]
        self._recorder.reclaim()
        for name, counted in self.counters().items():
            self._report(name, "%s: an event was lost, for it was not taken in time", name, lost=counted["lost"])
        self._report("", "events were lost, for they were not read in time", lost=self.lost)

    def _report(self, kind: str, text: str, *values: object, lost: int) -> None:
        """Log that more events are lost than were."""
        if times := lost - self._lost.get(kind, 0):
            limited.warning(f"{kind} lost", text, *values, times=times)
        self._lost[kind] = lost

    def counters(self) -> dict[str, Counter[str]]:
        """Return what became of events, by sink: those included that are no more."""
        found = {name: counted.copy() for name, counted in self._ended.items()}
        for section, output in (*self._ending, *self._outputs.items()):
            found.setdefault(str(section), Counter()).update(output.counters())
        return found

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
            self._standard.close()


def _may_be_written(file: str) -> bool:
    """Tell whether a file can be written, or made; nothing is opened, for whoever reads a pipe would notice."""
    there = os.path.exists(file)
    return not os.path.isdir(file) and os.access(file if there else os.path.dirname(file), os.W_OK, effective_ids=True)


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
