"""BGP speakers, and how they are told: ExaBGP by its text API, on standard output; BIRD over its control socket.

They know whether they were told, not why.
"""

import os
import re
import socket
from collections.abc import Callable
from typing import BinaryIO, Protocol

from ..config.announce import AnnounceSection
from ..errors import FunkenShieldError

TIMEOUT = 2.0  # seconds that BIRD may take
LINE_MAX = 65536


class Speaker(Protocol):
    """Who has the routes in BGP."""

    def tell(self, *, announced: bool) -> None:
        """Have the routes announced or withdrawn, also where they were before; FunkenShieldError where it cannot be.

        It is told in each round, so that one that has forgotten, or failed, is as it should be soon.
        """


class ExaBgp:
    """The ExaBGP that has started this process: it reads our commands, and, unless it was told not to, acknowledges.

    Nobody waits for an acknowledgement; a command that it reports an error for is given again.
    """

    def __init__(self, section: AnnounceSection, commands: int = 1, replies: int = 0) -> None:
        """Write commands to a descriptor, and read what ExaBGP says from another one."""
        hop = f"next-hop {section.next_hop}"
        self._lines = {
            True: "".join(
                f"announce route {each} {hop} {section.attributes}".strip() + "\n" for each in section.routes
            ),
            False: "".join(f"withdraw route {each} {hop}\n" for each in section.routes),
        }
        self._commands, self.replies = commands, replies
        self._told: bool | None = None
        self._failed = ""

    def tell(self, *, announced: bool) -> None:
        """See `Speaker`; ExaBGP remembers, so it is told what it does not know."""
        if announced != self._told:
            try:
                os.write(self._commands, self._lines[announced].encode())
            except OSError as error:
                raise FunkenShieldError(f"ExaBGP does not read: {error.strerror}") from None
            self._told = announced
        failed, self._failed = self._failed, ""
        if failed:
            raise FunkenShieldError(f"ExaBGP says {failed}: has it a neighbour for {self._lines[announced].strip()}?")

    def read(self, ended: Callable[[], None]) -> None:
        """Take what ExaBGP says; `ended` is called where it ends."""
        said = os.read(self.replies, LINE_MAX).decode(errors="replace")
        if not said or "shutdown" in said:
            ended()
        elif "error" in said:
            self._told, self._failed = None, "error"


class Bird:
    """BIRD, whose protocols with the routes are enabled and disabled."""

    def __init__(self, section: AnnounceSection) -> None:
        self._path, self._protocols = section.bird_socket, section.protocols

    def tell(self, *, announced: bool) -> None:
        """See `Speaker`; all is said each time: one that was started anew has its protocols as its file says.

        One that BIRD refuses keeps none of the others from being told.
        """
        word = "enable" if announced else "disable"
        try:
            with socket.socket(socket.AF_UNIX) as opened:
                opened.settimeout(TIMEOUT)
                opened.connect(self._path)
                with opened.makefile("rb") as replies:
                    _refused(replies)  # which BIRD this is
                    refused = []
                    for each in self._protocols:
                        opened.sendall(f"{word} {each}\n".encode())
                        refused += [f"{word} {each}: {why}" for why in _refused(replies)]
        except OSError as error:
            raise FunkenShieldError(f"BIRD at {self._path}: {error.strerror or error}") from None
        if refused:
            raise FunkenShieldError(f"BIRD at {self._path}: {'; '.join(refused)}")


def _refused(stream: BinaryIO) -> list[str]:
    """Read a reply of BIRD's to its last line, which has a space behind its code; return what error it is, if one.

    Codes from 8000 on are errors. Raises OSError where there is no such line.
    """
    while line := stream.readline(LINE_MAX):
        if found := re.match(rb"([0-9]{4}) (.*)", line):
            return [found[2].decode(errors="replace")] if found[1] >= b"8000" else []
    raise OSError("closed the connection")
