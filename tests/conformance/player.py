"""Know how a scenario is played: upstreams that follow the script, a shield in this process, clients, and time.

The shield's clock is moved, never waited for. What comes late is waited for, what must not come is looked
for at the end: a second answer, a query that nothing was told about, one more than were counted, an error
in the log.
"""

import asyncio
import contextlib
import itertools
import logging
import secrets
import select
import socket
import struct
import threading
import time

import dns.exception
import uvloop
from support import http2
from support.certificates import believing
from support.client import LARGEST, Address, frame, free_port
from support.over_quic import OverQuic, unpadded
from support.rig import toml
from support.server import LoopbackServer

from conformance.message import options_of
from conformance.notation import (
    ANYBODY,
    After,
    Answers,
    Asks,
    Behave,
    Client,
    Counted,
    Gets,
    Leaves,
    Purge,
    Received,
    WasAsked,
)
from funkenshield import config
from funkenshield.admin import control
from funkenshield.core._clock import Clock
from funkenshield.daemon import Daemon

PATIENCE = 10.0  # seconds that something may take which must come
SILENCE = 0.06  # seconds after which what has not come does not come
SETTLED = 0.015  # seconds after which a query or a reply was taken in, unless the machine is busy
TAKEN = 0.1  # seconds that a reply takes to be taken, if anybody still waits for it
STOPPED = 10.0  # seconds that a shield may take to end, on a busy machine
COOKIE = 10
OVER_QUIC = {"quic", "h3"}

BASE = """
workers = 1
drain_timeout = 0
cache.memory = "4MiB"
forward.max_outstanding = 256
log.level = "error"
"""


class Upstream(LoopbackServer):
    """A nameserver that says what the scenario has it say."""

    def __init__(self):
        super().__init__()
        self.sent = b""
        self.unforeseen = []
        self._script = []
        self._held = []
        self._silent = self._gone = False

    def behave(self, query, replies):
        """Reply so to such queries from now on."""
        self._script.insert(0, (query, replies))

    def serve(self, query, send):
        for known, replies in self._script:
            if known.matches(query.wire, query.transport):
                for reply in replies:
                    self._say(reply, query, send)
                return
        self.unforeseen.append(str(query))

    def _say(self, reply, query, send):
        if reply.silence:
            self._silent = True
            return
        wire = reply.to_wire(query.wire)
        if reply.held:
            self._held.append((send, wire))
        elif reply.wrong_source:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
                elsewhere.sendto(wire, query.source)
        else:
            self.sent = wire
            send(wire)

    @property
    def owes(self):
        """Tell whether somebody waits for what was held back, or for what never comes."""
        return self._silent or bool(self._held)

    def answer(self):
        """Send all that was held back."""
        held, self._held = self._held, []
        self._loop.call_soon_threadsafe(self._release, held)

    def _release(self, held):
        for send, self.sent in held:
            send(self.sent)

    def leave(self):
        """Close all sockets, before the context does."""
        self.__exit__(None)
        self._gone = True

    def __exit__(self, kind, *rest):
        if not self._gone:
            super().__exit__(kind, *rest)

    def received_for(self, query):
        """Return what came and matches a query; None: all."""
        return [each for each in list(self.received) if query is None or query.matches(each.wire, each.transport)]


class Asking:
    """A query on its way, over a socket of its own; with a `context`, over TLS."""

    def __init__(self, wire, transport, source, server, context=None):
        self.wire = wire
        self._stream = transport in ("tcp", "tls")
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM if self._stream else socket.SOCK_DGRAM)
        self.socket.bind((source, 0))
        self.socket.connect(server)
        if transport == "tls":
            self.socket.settimeout(PATIENCE)
            self.socket = context.wrap_socket(self.socket, server_hostname=server.host)
        self.socket.sendall(frame(wire) if self._stream else wire)

    def reply(self, seconds):
        """Return what comes within so many seconds, None where nothing does."""
        self.socket.settimeout(seconds)
        try:
            if not self._stream:
                return self.socket.recv(LARGEST)
            with self.socket.makefile("rb", buffering=0) as stream:
                length = int.from_bytes(_exactly(stream, 2))
                return _exactly(stream, length) or None
        except TimeoutError:
            return None

    def more(self):
        """Tell whether something came that nobody waited for."""
        return bool(select.select([self.socket], [], [], 0)[0]) and bool(self.reply(0.01))


class Requesting(Asking):
    """A query on its way by DNS over HTTPS, over a connection of its own."""

    def __init__(self, wire, source, server, context):
        self.wire = wire
        plain = socket.create_connection(server, timeout=PATIENCE, source_address=(source, 0))
        self.socket = context.wrap_socket(plain, server_hostname=server.host)
        self._client = http2.Client(self.socket)
        self._stream = self._client.post(wire)

    def reply(self, seconds):
        self.socket.settimeout(seconds)
        try:
            response = self._client.response(self._stream)
        except TimeoutError:
            return None
        return response.body if response.status == 200 else None

    def more(self):
        if select.select([self.socket], [], [], 0)[0]:
            self._client.pump()
        return not {0, self._stream}.issuperset(self._client.responses)


class Streaming(Asking):
    """A query on its way on a stream of a connection over QUIC or HTTP/3; what pads its answer is taken off."""

    def __init__(self, wire, client):
        self.wire = b"\0\0" + wire[2:] if client.transport == "quic" else wire
        self.socket, self._client = client.socket, client
        self._stream = client.ask(self.wire)

    def reply(self, seconds):
        reply = self._client.reply(self._stream, seconds)
        return reply and unpadded(reply)

    def more(self):
        return False  # it would have been seen: a stream has one answer


def _exactly(stream, count):
    octets = b""
    while len(octets) < count:
        more = stream.read(count - len(octets))
        if not more:
            break
        octets += more
    return octets


class Errors(logging.Handler):
    """Keep what is logged as an error."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


class Player:
    """A shield with its upstreams and clients, while the context is entered.

    Who asks over TCP may be made to ask over TLS, HTTPS, QUIC or HTTP/3, by the `credentials` that the shield shows.
    With an `interface`, what comes by that is taken before the network stack has it (XDP).
    """

    def __init__(self, scenario, folder, *, credentials=None, in_place_of_tcp=None, interface=None):
        self._scenario = scenario
        self._folder = folder
        self._credentials = credentials
        self._in_place_of_tcp = in_place_of_tcp
        self._interface = interface
        self._clock = Clock()
        self._errors = Errors()
        self._waiting = {}  # the query that each client waits for an answer to
        self._all = []
        self._connected = {}  # over QUIC, by source
        self._given = {}  # the cookie that each client got last
        self._counted = {}

    def play(self):
        """Play all lines; AssertionError names the line that turned out otherwise."""
        for line in self._scenario.lines:
            self._at(line, self._play, line.step)
        for line in self._counted.values():
            self._at(line, self._was_asked, line.step, 0)
        for upstream in self._upstreams.values():
            assert not upstream.unforeseen, f"nothing is told about {upstream.unforeseen}"
        for asking in self._all:
            assert not asking.more(), f"one answer more to {asking.wire.hex()}"
        assert not self._errors.lines

    def _at(self, line, play, *args):
        try:
            play(*args)
        except (AssertionError, dns.exception.DNSException, struct.error, ValueError) as error:
            raise AssertionError(f"{line.where}: {line.text}\n{error}") from None
        if isinstance(line.step, WasAsked):
            self._counted[line.step.upstream] = line
        elif isinstance(line.step, Asks | Client | After):
            self._counted.clear()

    def _play(self, step):
        match step:
            case Behave():
                self._upstreams[step.upstream].behave(step.query, step.replies)
            case Client():
                for _ in range(step.query.times):
                    self._ask(ANYBODY, step.query)
                    self._gets(ANYBODY, step.answer)
                    self._waiting.pop(ANYBODY, None)
            case Asks():
                taken = self._taken()
                self._ask(step.client, step.query)
                _wait(lambda: self._taken() > taken, "the query never came to the shield")
                time.sleep(SETTLED)
            case Gets():
                self._gets(step.client, step.answer)
            case Answers():
                waiting = self._daemon.snapshot()["outstanding_queries"]
                self._upstreams[step.upstream].answer()
                _wait(lambda: self._daemon.snapshot()["outstanding_queries"] < waiting, "", TAKEN)
            case Leaves():
                self._upstreams[step.upstream].leave()
            case WasAsked():
                self._was_asked(step)
            case Received():
                self._received(step)
            case After():
                time.sleep(SETTLED)  # what is under way was before
                self._clock.advance(step.seconds)
                self._daemon.cache.epochs.outdate()  # what the kernel has is timed by its own clock
            case Purge():
                control.ask(self._folder / "control", {"command": "purge", **step.request})
            case Counted():
                _wait(lambda: self._count(step.name) == step.count, lambda: f"counted {self._count(step.name)}")

    @property
    def attached(self):
        """Whether queries are taken from each interface that the shield is to take them from."""
        return self._daemon.snapshot()["xdp_attached"]

    # ------------------------------------------------------------ clients

    def _ask(self, client, query):
        assert client not in self._waiting, f"{client} waits already"
        ident = secrets.randbits(16) if query.id is None else query.id
        wire = query.to_wire(ident, self._given.get(client, b""))
        transport = self._in_place_of_tcp if self._in_place_of_tcp and query.transport == "tcp" else query.transport
        server = self._doors.get(transport, self._address)
        if transport == "https":
            asking = Requesting(wire, query.source, server, http2.trusting(self._credentials.file))
        elif transport in OVER_QUIC:
            asking = Streaming(wire, self._over_quic(query.source))
        else:
            asking = Asking(wire, transport, query.source, server, self._context)
        self._waiting[client] = asking
        self._all.append(asking)
        self._asked = wire

    def _over_quic(self, source):
        """Return the connection from an address, which is there before anything is asked; another one, if it ended."""
        client = self._connected.get(source)
        if client is None or client.error is not None:
            transport = self._in_place_of_tcp
            how = {"trusted": self._credentials.file, "source": source, "name": "127.0.0.1"}
            client = self._connected[source] = OverQuic(self._doors[transport], transport, **how)
        return client

    def _gets(self, client, answer):
        assert client in self._waiting, f"{client} asked nothing"
        asking = self._waiting[client]
        reply = asking.reply(SILENCE if answer is None else PATIENCE)
        if answer is None:
            assert reply is None, f"came: {reply.hex()}"
            return
        assert reply is not None, "nothing came"
        del self._waiting[client]
        sent = self._upstreams["upstream"].sent
        difference = answer.differs_from(asking.wire, reply, sent)
        assert not difference, difference
        if not (answer.untouched or answer.hex):
            self._given[client] = (options_of(reply, COOKIE) or [b""])[0]

    # ------------------------------------------------------------ upstreams

    def _was_asked(self, step, patience=None):
        upstream = self._upstreams[step.upstream]
        if len(upstream.received_for(step.query)) < step.count:
            _wait(lambda: len(upstream.received_for(step.query)) >= step.count, "", patience)
            time.sleep(SETTLED)
        if not any(each.owes for each in self._upstreams.values()):  # then what it said is there soon
            _wait(lambda: not self._daemon.snapshot()["outstanding_queries"], "", patience)
        came = upstream.received_for(step.query)
        assert len(came) == step.count, f"asked {len(came)}: {[str(each) for each in upstream.received]}"

    def _received(self, step):
        upstream = self._upstreams[step.upstream]
        _wait(lambda: upstream.received, "nothing came")
        wire = upstream.received[-1].wire
        if step.query is None:
            assert wire[2:] == self._asked[2:], f"sent  {self._asked[2:].hex()}\ncame  {wire[2:].hex()}"
        else:
            assert step.query.transport in (None, upstream.received[-1].transport)
            difference = step.query.differs_from(wire)
            assert not difference, difference

    # ------------------------------------------------------------ the shield

    def _taken(self):
        return self._daemon.snapshot()["queries"]

    def _count(self, name):
        counters = self._daemon.snapshot()
        if name in counters:
            return counters[name]
        assert all(name in each for each in counters["upstreams"].values()), f"nothing is counted as {name}"
        return sum(each[name] for each in counters["upstreams"].values())

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            stack.callback(self._close_clients)
            self._upstreams = {name: stack.enter_context(Upstream()) for name in self._scenario.upstreams}
            for line in itertools.takewhile(lambda line: isinstance(line.step, Behave), self._scenario.lines):
                self._play(line.step)  # a shield may ask as soon as it is there
            self._address = Address("127.0.0.1", free_port())
            doors = ["tls", "https", *OVER_QUIC.intersection([self._in_place_of_tcp])] if self._credentials else []
            self._doors = {transport: Address("127.0.0.1", free_port()) for transport in doors}
            self._context = believing(self._credentials) if self._credentials else None
            stack.enter_context(self._logs_watched())
            self._daemon = Daemon(self._config(), clock=self._clock)
            stack.enter_context(self._running())
            if self._in_place_of_tcp in OVER_QUIC:
                for line in self._scenario.lines:
                    if isinstance(line.step, Asks | Client) and line.step.query.transport == "tcp":
                        self._over_quic(line.step.query.source)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised):
        self._clock.advance(60)  # whoever still waits for an upstream need not any more
        return self._stack.__exit__(*raised)

    def _close_clients(self):
        for each in (*self._all, *self._connected.values()):
            each.socket.close()

    def _config(self):
        told = self._scenario.config
        for name, upstream in self._upstreams.items():
            told = told.replace(f'"{name}"', f'"{upstream.address}"')
        listen = [] if self._interface else [str(self._address)]
        lines = [toml(listen=listen), f'control.socket = "{self._folder / "control"}"', BASE, told]
        if "\nupstreams" not in f"\n{told}":
            lines.insert(0, f'upstreams = ["{self._upstreams["upstream"].address}"]')
        if self._interface:
            frames = {"transport": "xdp", "generic_xdp": True, "kernel_answers": True}
            lines += ["[[listeners]]", toml(address=str(self._address), **frames)]
            lines.append(f'interface = "{self._interface}"')
        for transport, address in self._doors.items():
            files = {name: str(getattr(self._credentials, name)) for name in ("certificate", "key")}
            listener = {"address": str(address), "transport": transport, "certificates": files}
            lines += ["[[listeners]]", toml(**listener)]
        path = self._folder / "funkenshield.toml"
        path.write_text("\n".join(lines))
        return config.load(path)

    @contextlib.contextmanager
    def _running(self):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            thread = threading.Thread(target=runner.run, args=[self._daemon.run()], name="shield")
            loop = runner.get_loop()
            thread.start()
            try:
                yield
            finally:
                loop.call_soon_threadsafe(self._daemon.stop)
                thread.join(STOPPED)
                assert not thread.is_alive(), "the shield does not stop"

    @contextlib.contextmanager
    def _logs_watched(self):
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        watched = [logging.getLogger(name) for name in ("funkenshield", "asyncio")]
        for logger in watched:
            logger.addHandler(self._errors)
        try:
            yield
        finally:
            for logger in watched:
                logger.removeHandler(self._errors)
            root.handlers[:] = handlers
            root.setLevel(level)


def _wait(condition, otherwise, patience=None):
    """Wait until something is so, or until patience ends; `otherwise` is what is wrong then, "" for nothing."""
    end = time.monotonic() + (PATIENCE if patience is None else patience)
    while not condition():
        if time.monotonic() >= end:
            message = otherwise() if callable(otherwise) else otherwise
            assert not message, message
            return
        time.sleep(0.001)
