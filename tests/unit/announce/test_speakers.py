"""What ExaBGP and BIRD are told, and what becomes of what they say."""

import os
import socket
import threading

import pytest

from funkenshield.announce.speakers import Bird, ExaBgp
from funkenshield.config.announce import AnnounceSection
from funkenshield.errors import FunkenShieldError

ROUTES = AnnounceSection(engine="exabgp", routes=["192.0.2.53", "2001:db8::/48"], attributes="med 100 community [1:2]")
ANNOUNCED = (
    "announce route 192.0.2.53/32 next-hop self med 100 community [1:2]\n"
    "announce route 2001:db8::/48 next-hop self med 100 community [1:2]\n"
)
WITHDRAWN = "withdraw route 192.0.2.53/32 next-hop self\nwithdraw route 2001:db8::/48 next-hop self\n"


@pytest.fixture
def exabgp():
    """Return a speaker, what reads its commands, and what replies to it."""
    commands, replies = socket.socketpair(), socket.socketpair()
    with commands[0], commands[1], replies[0], replies[1]:
        commands[1].setblocking(False)
        speaker = ExaBgp(ROUTES, commands[0].fileno(), replies[0].fileno())
        yield speaker, lambda: commands[1].recv(65536).decode(), replies[1]


def nobody():
    pytest.fail("it has not ended")


def test_exabgp_is_told_what_it_does_not_know(exabgp):
    speaker, commands, _ = exabgp
    speaker.tell(announced=True)
    speaker.tell(announced=True)
    assert commands() == ANNOUNCED
    speaker.tell(announced=False)
    assert commands() == WITHDRAWN
    with pytest.raises(BlockingIOError):
        commands()


@pytest.mark.parametrize("error", [b"error\n", b'{ "answer": "error", "message": "..." }\n'])
def test_what_exabgp_refuses_is_said_again_and_reported(exabgp, error):
    speaker, commands, replies = exabgp
    speaker.tell(announced=True)
    commands()
    replies.send(b"done\n")
    speaker.read(nobody)
    speaker.tell(announced=True)
    replies.send(error)
    speaker.read(nobody)
    with pytest.raises(FunkenShieldError, match="has it a neighbour for announce route 192"):
        speaker.tell(announced=True)
    assert commands() == ANNOUNCED
    speaker.tell(announced=True)


@pytest.mark.parametrize("said", [b"shutdown\n", b'{ "answer": "shutdown", "message": "exbgp exited" }\n', b""])
def test_it_ends_with_exabgp(exabgp, said):
    speaker, _, replies = exabgp
    ended = []
    replies.send(said) if said else replies.close()
    speaker.read(lambda: ended.append(True))
    assert ended


def test_an_exabgp_that_is_gone_is_one_line(exabgp):
    speaker, *_ = exabgp
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb", buffering=0) as closed:
        speaker._commands = closed.fileno()
        with pytest.raises(FunkenShieldError, match="does not read: Broken pipe"):
            speaker.tell(announced=True)


class FakeBird(threading.Thread):
    """Listens at a path, answers each command of one connection with the next of these replies, and ends."""

    def __init__(self, path, *replies):
        super().__init__()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._replies, self.commands = replies, []

    def run(self):
        with self._listening, self._listening.accept()[0] as connected, connected.makefile("rwb", 0) as stream:
            stream.write(b"0001 BIRD 2.0.12 ready.\n")
            for reply in self._replies:
                self.commands.append(stream.readline().decode())
                stream.write(reply)


@pytest.mark.parametrize(("announced", "word"), [(True, "enable"), (False, "disable")])
def test_protocols_of_bird_are_enabled_and_disabled(tmp_path, announced, word):
    bird = FakeBird(tmp_path / "ctl", b"0011-a4: enabled\n0000 \n", b"0010-a6: already enabled\n0000 \n")
    bird.start()
    section = AnnounceSection(engine="bird", protocols=["a4", "a6"], bird_socket=str(tmp_path / "ctl"))
    Bird(section).tell(announced=announced)
    bird.join()
    assert bird.commands == [f"{word} a4\n", f"{word} a6\n"]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (b"8003 No protocols match\n", "No protocols match"),
        (b"9001 syntax error, unexpected CF_SYM_UNDEFINED\n", "syntax error"),
        (b"0011-half a re", "closed the connection"),
        (b"", "closed the connection"),
    ],
)
def test_what_bird_refuses_is_one_line(tmp_path, reply, said):
    bird = FakeBird(tmp_path / "ctl", reply)
    bird.start()
    with pytest.raises(FunkenShieldError, match=f"^BIRD at .*ctl: .*{said}"):
        Bird(AnnounceSection(engine="bird", protocols="a4", bird_socket=str(tmp_path / "ctl"))).tell(announced=True)
    bird.join()


@pytest.mark.parametrize("announced", [True, False])
def test_what_bird_refuses_keeps_nothing_from_the_others(tmp_path, announced):
    replies = b"8003 No protocols match\n", b"0011-a4: enabled\n0000 \n", b"9001 syntax error\n"
    bird = FakeBird(tmp_path / "ctl", *replies)
    bird.start()
    section = AnnounceSection(engine="bird", protocols=["a6", "a4", "b4"], bird_socket=str(tmp_path / "ctl"))
    word = "enable" if announced else "disable"
    said = f"ctl: {word} a6: No protocols match; {word} b4: syntax error$"
    with pytest.raises(FunkenShieldError, match=said):
        Bird(section).tell(announced=announced)
    bird.join()
    assert bird.commands == [f"{word} {each}\n" for each in ("a6", "a4", "b4")]


def test_a_bird_that_is_not_there_is_one_line(tmp_path):
    section = AnnounceSection(engine="bird", protocols="a4", bird_socket=str(tmp_path / "ctl"))
    with pytest.raises(FunkenShieldError, match=r"^BIRD at .*ctl: No such file or directory$"):
        Bird(section).tell(announced=True)
