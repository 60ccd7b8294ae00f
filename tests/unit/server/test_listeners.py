"""Know how listeners come and go beneath workers that serve: what clients get meanwhile, and what is left behind."""

import contextlib
import errno
import os
import socket
import threading
import time

import pytest
from support.client import free_port
from support.proc import nothing_opened
from support.quick import answer, payload_of, query
from support.tcp_worker import LIMITS
from support.until import until

from funkenshield import config
from funkenshield.cache._store import Cache
from funkenshield.config.types import Endpoint
from funkenshield.core._clock import Clock
from funkenshield.core._limits import LISTENERS_MAX
from funkenshield.errors import ConfigError
from funkenshield.forward._miss_path import MissPath
from funkenshield.server import sockets
from funkenshield.server._listener_table import ListenerTable
from funkenshield.server.listeners import Listeners
from funkenshield.server.sockets import BindError
from funkenshield.server.tcp import TcpServer
from funkenshield.server.udp import UdpServer

LOOPBACK, NAME, TRUTH = "127.0.0.1", "listened.test", bytes([192, 0, 2, 1])
GRACE = 11.0  # seconds


class Scene:
    """Two workers of each kind, which know one name, and the listeners before them."""

    def __init__(self, stack):
        self.clock = Clock()
        self.cache = Cache(1 << 22, self.clock)
        self.miss_path = MissPath(self.cache, 1 << 10)
        self.cache.store(query(NAME), answer(query(NAME), TRUTH, ttl=86400))
        self.udp = UdpServer(self.cache, self.miss_path, 2)
        self.workers = self.udp.workers
        self.tcp = TcpServer(self.cache, self.miss_path, 2)
        self.tcp.limits.configure(**LIMITS)
        self.listeners = Listeners(2)
        self.listeners.serve(self.udp, self.tcp, self.miss_path)
        stack.callback(self.listeners.close)
        for worker in self.workers:
            thread = threading.Thread(target=worker.run)
            thread.start()
            stack.callback(thread.join)
            stack.callback(worker.stop)
        self.tcp.start()
        stack.callback(self.tcp.stop)

    def listen(self, *ports, settled=True, **options):
        """Listen on these ports, and no others, from now on."""
        wanted = config.Config(listen=tuple(Endpoint(LOOPBACK, port) for port in ports), **options)
        self.listeners.follow(self.listeners.bind(wanted), {}, {}, self.clock.seconds() + GRACE)
        if settled:
            until(lambda: all(each.listeners.is_followed for each in (*self.workers, *self.tcp.workers)))

    def pass_grace(self):
        self.clock.advance(GRACE)
        self.listeners.housekeeping(self.clock.seconds())

    @property
    def numbers(self):
        return {each.endpoint.port: each.number for each in self.listeners.open}


@pytest.fixture
def scene():
    with contextlib.ExitStack() as stack:
        yield Scene(stack)


def client(port, name=NAME):
    """Return a socket over UDP that has asked for a name."""
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asking.settimeout(5)
    asking.connect((LOOPBACK, port))
    asking.send(query(name))
    return asking


def answered(port):
    with client(port) as asking:
        return payload_of(query(NAME), asking.recv(512)) == TRUTH


def connected(port):
    return socket.create_connection((LOOPBACK, port), timeout=5)


def ask_over(connection, name=NAME):
    wire = query(name)
    connection.sendall(len(wire).to_bytes(2) + wire)
    return connection


def heard(connection):
    """Return the answer that comes over a connection; b"" where it has ended."""
    length = connection.recv(2)
    return payload_of(query(NAME), connection.recv(int.from_bytes(length))) if length else b""


def test_new_listeners_serve_and_those_that_are_gone_refuse(scene):
    one, other = free_port(), free_port()
    scene.listen(one)
    assert answered(one)
    scene.listen(other)
    assert answered(other)
    with connected(other) as connection:
        assert heard(ask_over(connection)) == TRUTH
    with pytest.raises(ConnectionRefusedError):
        answered(one)
    with pytest.raises(ConnectionRefusedError):
        connected(one)


def test_what_has_come_to_a_listener_that_goes_is_answered(scene):
    """Datagrams that wait, connections that nobody has taken yet, and what they ask."""
    one, other = free_port(), free_port()
    scene.listen(one)
    with contextlib.ExitStack() as stack:
        asking = [stack.enter_context(client(one)) for _ in range(50)]
        connections = [stack.enter_context(ask_over(connected(one))) for _ in range(50)]
        scene.listen(other)
        assert [payload_of(query(NAME), each.recv(512)) for each in asking] == [TRUTH] * 50
        assert [heard(each) for each in connections] == [TRUTH] * 50
        assert [heard(each) for each in connections] == [b""] * 50


def test_who_has_just_come_to_a_listener_that_goes_is_answered_before_it_ends(scene):
    one, other = free_port(), free_port()

    def go_with(*connections):
        """Have the listener go that these are at, and have asked nothing."""
        until(lambda: scene.tcp.counters()["tcp_connections"] == len(connections))
        scene.listen(other)
        assert any(each.dismissals.has_newcomers for each in scene.tcp.workers)

    def answered_in_time():
        """Ask over one of two connections, and tell what it heard; None if this took too long to show anything."""
        scene.listen(one, other)
        came = time.monotonic()
        with connected(one) as asking, connected(one) as silent:
            go_with(asking, silent)
            asked = ask_over(asking)
            if time.monotonic() - came > 0.2:
                return None
            found = [heard(asked), heard(asked), heard(silent)]
        until(lambda: not any(each.dismissals.has_newcomers for each in scene.tcp.workers))
        until(lambda: not scene.tcp.counters()["tcp_connections"])
        return found

    assert next(filter(None, (answered_in_time() for _ in range(50)))) == [TRUTH, b"", b""]


def test_connections_of_a_listener_that_stays_stay(scene):
    one, other = free_port(), free_port()
    scene.listen(one, other)
    with connected(one) as going, connected(other) as staying:
        assert [heard(ask_over(each)) for each in (going, staying)] == [TRUTH] * 2
        scene.listen(other)
        assert heard(going) == b""
        assert heard(ask_over(staying)) == TRUTH


def test_what_cannot_be_bound_changes_nothing(scene):
    one, other, taken = free_port(), free_port(), free_port()
    scene.listen(one)
    with nothing_opened(), socket.create_server((LOOPBACK, taken)), pytest.raises(BindError) as told:
        scene.listen(other, taken)
    assert str(told.value) == f"cannot listen on {LOOPBACK}:{taken}, TCP: address in use by another program"
    assert answered(one)
    scene.listen(other)
    assert answered(other)


def test_what_takes_root_is_told_with_what_to_do(scene, monkeypatch):
    def refuse(endpoint, protocol, name):
        with sockets.explained(endpoint, name):
            raise PermissionError(errno.EACCES, "Permission denied")

    one, other = free_port(), free_port()
    scene.listen(one, user="nobody")
    monkeypatch.setattr(sockets, "probe", refuse)
    with pytest.raises(BindError) as told:
        scene.listen(other, user="nobody")
    assert str(told.value) == (
        f"cannot listen on {LOOPBACK}:{other}, UDP: ports below 1024 need root, or CAP_NET_BIND_SERVICE"
        " (AmbientCapabilities= of a service); a restart binds before it switches to nobody"
    )
    assert answered(one)


def test_a_number_is_free_when_nothing_of_its_listener_is_left(scene):
    ports = [free_port() for _ in range(4)]
    scene.listen(*ports[:2])
    with connected(ports[0]) as connection:
        assert heard(ask_over(connection)) == TRUTH
        assert scene.numbers == {ports[0]: 0, ports[1]: 1}
        for port in (ports[1], ports[1]):
            assert answered(port)
        assert scene.listeners.messages() == {f"{LOOPBACK}:{ports[0]}": 1, f"{LOOPBACK}:{ports[1]}": 2}
    scene.listen(ports[1], ports[2])
    assert scene.numbers == {ports[1]: 1, ports[2]: 2}
    scene.pass_grace()
    many = [free_port() for _ in range(LISTENERS_MAX - 2)]
    scene.listen(ports[1], ports[2], *many)
    assert scene.numbers[many[-1]] == 0, "it has been free for the shortest time"
    assert answered(many[-1])
    counted = scene.listeners.messages()
    assert counted[f"{LOOPBACK}:{ports[1]}"] == 2
    assert counted[f"{LOOPBACK}:{many[-1]}"] == 1, "what came to another listener of its number is not its own"
    with pytest.raises(ConfigError) as told:
        scene.listen(ports[1], ports[2], *many[:-1], ports[3])
    assert "at most 64, those included that are being closed" in str(told.value)


def test_a_socket_that_the_kernel_cannot_watch_is_told_and_tried_again(scene, caplog, monkeypatch, tmp_path):
    port = free_port()
    bound = scene.listeners.bind(config.Config(listen=(Endpoint(LOOPBACK, port),)))
    numbers = [each.fileno() for each in scene.listeners.sockets]
    workers = [*scene.workers, *(each.listening for each in scene.tcp.workers)]

    def hidden(given, _queues=()):
        """Return a table whose sockets are files by the time that a worker follows it, which epoll(7) refuses."""
        table = ListenerTable(given := list(given))
        for _, fd, *_ in given:
            os.dup2(file.fileno(), fd)
        return table

    with contextlib.ExitStack() as stack, (tmp_path / "file").open("w") as file:
        kept = [stack.enter_context(each.dup()) for each in scene.listeners.sockets]
        monkeypatch.setattr("funkenshield.server.listeners.ListenerTable", hidden)
        scene.listeners.follow(bound, {}, {}, 0.0)
        until(lambda: [each.unheard_listeners for each in workers] == [1] * 4)
        scene.listeners.housekeeping(scene.clock.seconds())
        assert f"listener {LOOPBACK}:{port}: the kernel has no memory to watch a socket" in caplog.text
        for number, each in zip(numbers, kept, strict=True):
            os.dup2(each.fileno(), number)
    until(lambda: [each.unheard_listeners for each in workers] == [0] * 4)
    assert all(answered(port) for _ in range(20))
    with connected(port) as connection:
        assert heard(ask_over(connection)) == TRUTH


def test_a_hundred_changes_leave_nothing_behind(scene):
    ports = [free_port() for _ in range(4)]
    counted = []
    for n in range(100):
        scene.listen(ports[n % 4], ports[(n + 1) % 4])
        assert answered(ports[n % 4])
        with connected(ports[(n + 1) % 4]) as connection:
            assert heard(ask_over(connection)) == TRUTH
        scene.pass_grace()
        counted.append(len(os.listdir("/proc/self/fd")))
    assert max(counted[4:]) <= counted[4] + 4, "but for connections that have just ended"
    assert len(scene.listeners._leaving) <= 1


def test_tcp_is_turned_off_and_on(scene):
    port = free_port()
    scene.listen(port)
    with connected(port) as connection:
        assert heard(ask_over(connection)) == TRUTH
        scene.listen(port, tcp=config.TcpSection(max_connections=0))
        assert heard(connection) == b""
    with pytest.raises(ConnectionRefusedError):
        connected(port)
    assert answered(port)
    scene.listen(port)
    with connected(port) as connection:
        assert heard(ask_over(connection)) == TRUTH


def test_an_address_that_comes_back_serves_at_once(scene):
    one, other = free_port(), free_port()
    for port in (one, other, one, other, one):
        scene.listen(port)
        assert all(answered(port) for _ in range(20)), "the kernel spreads them over the workers"
        with connected(port) as connection:
            assert heard(ask_over(connection)) == TRUTH
