"""What a protocol on a connection is given: where it asks, and what it can do with streams."""

from typing import Protocol

BAD_REQUEST, FORBIDDEN, UNAVAILABLE = 400, 403, 503  # why there is no response, as HTTP has it


class Asking(Protocol):
    """Where queries are asked."""

    def ask(self, stream: int, query: bytes) -> None:
        """Ask a query; its response, or why there is none, is for the stream."""


class Channel(Protocol):
    """The streams of a connection, each by its number; what cannot be done any more is not done."""

    def send(self, stream: int, octets: bytes, *, ended: bool) -> None:
        """Send octets as the client lets them come; `ended`: the last ones."""

    def reset(self, stream: int, code: int) -> None:
        """Send nothing more."""

    def stop(self, stream: int, code: int) -> None:
        """Take nothing more."""

    def close(self, code: int, reason: str) -> None:
        """End the connection."""


class Application(Protocol):
    """What is spoken on a connection."""

    excessive_load: int  # its error for who wants too much
    held: int  # octets that wait to be whole

    def receive(self, stream: int, octets: bytes, ended: bool, now: float) -> None:
        """Take what came on a stream."""

    def respond(self, stream: int, message: bytes, lifetime: int) -> None:
        """Send a response, which may be kept for a lifetime in seconds."""

    def refuse(self, stream: int, status: int) -> None:
        """Say that there is no response."""

    def abandon(self, stream: int, *, ended: bool) -> None:
        """Forget a stream, whose client takes nothing more; `ended`: and sends nothing more."""

    def expire(self, since: float) -> bool:
        """Give up on what began before, and is not whole; tell whether anything else is not."""
