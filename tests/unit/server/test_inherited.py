"""Show that sockets which others have bound are found by type and address, and that nobody gets them twice."""

import os
import socket

import pytest

from funkenshield.config.types import Endpoint
from funkenshield.errors import FunkenShieldError
from funkenshield.server.inherited import LISTEN_FDS_START, Inherited

OURS = str(os.getpid())
UDP, TCP = socket.SOCK_DGRAM, socket.SOCK_STREAM


def bound(kind, host="127.0.0.1", port=0):
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    opened.bind((host, port))
    return opened


def close(*sockets):
    for each in sockets:
        each.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_they_are_found_by_type_and_address(host, caplog):
    first = bound(UDP, host)
    port = first.getsockname()[1]
    second, stream = bound(UDP, host, port), bound(TCP, host)
    told = stream.getsockname()[1]
    inherited = Inherited([first, second, stream])
    assert inherited.take(Endpoint(host, port + 1), UDP) == []
    assert inherited.take(Endpoint("127.0.0.2", port), UDP) == []
    taken = inherited.take(Endpoint(host, port), UDP, 2)
    assert taken == [first, second]
    assert not any(each.getblocking() or each.get_inheritable() for each in taken)
    assert inherited.take(Endpoint(host, port), UDP, 2) == []
    inherited.close()
    assert caplog.messages == [f"socket closed: nothing listens on ('{host}', {told}, 0), SOCK_STREAM"]
    assert stream.fileno() < 0
    close(*taken)


def test_a_path_is_the_same_from_wherever_it_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opened = socket.socket(socket.AF_UNIX, TCP)
    opened.bind("control")
    inherited = Inherited([opened])
    assert inherited.take("other", TCP) == []
    assert inherited.take(str(tmp_path / "control"), TCP) == [opened]
    close(opened)


def test_one_is_given_to_several_and_what_is_too_much_is_closed(tmp_path):
    one, first, second = bound(UDP), bound(TCP), socket.socket(socket.AF_UNIX)
    second.bind(str(tmp_path / "control"))
    inherited = Inherited([one, first, second])
    three = inherited.take(Endpoint(*one.getsockname()), UDP, 3)
    assert three[0] is one
    assert len({each.fileno() for each in three}) == 3
    assert len({each.getsockname() for each in three}) == 1
    assert inherited.take(Endpoint(*first.getsockname()), TCP) == [first]
    assert inherited.take(str(tmp_path / "control"), TCP) == [second]
    several = [bound(UDP)]
    several.append(bound(UDP, port=several[0].getsockname()[1]))
    assert Inherited(several).take(Endpoint(*several[0].getsockname()), UDP, 1) == several[:1]
    assert several[1].fileno() < 0
    close(*three, first, second, several[0])


@pytest.mark.parametrize(
    "told",
    [{}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_PID": OURS, "LISTEN_FDS": "x"}],
    ids=["nothing", "nobody", "another process", "no number"],
)  # fmt: skip
def test_what_is_for_others_is_left_alone(told):
    environment = {**told, "LISTEN_FDNAMES": "dns", "HOME": "/"}
    Inherited.from_environment(environment).close()
    assert environment == {"HOME": "/"}


def test_what_is_no_socket_is_told(monkeypatch):
    fd = os.open(os.devnull, os.O_RDONLY)
    monkeypatch.setattr("funkenshield.server.inherited.LISTEN_FDS_START", fd)
    with pytest.raises(FunkenShieldError, match="LISTEN_FDS: what the service manager opened is no socket"):
        Inherited.from_environment({"LISTEN_PID": OURS, "LISTEN_FDS": "1"})
    os.close(fd)
    assert LISTEN_FDS_START == 3
