"""The local control socket: one JSON request a line, one JSON response a line.

{"command": "stats"}                                          -> {"ok": true, "version": 1, "stats": {...}}
{"command": "purge", "name": "example.com", "below": true}    -> {"ok": true, "version": 1}
{"command": "take over", "version": 1}                        -> what `upgrade` says; the connection is its own then
anything else                                                 -> {"ok": false, "version": 1, "error": "..."}

A request may say of which version of the protocol it is; one of another version is refused. What commands there are is
told in `commands`.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
import stat
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ..errors import FunkenShieldError

log = logging.getLogger(__name__)

VERSION = 1  # of the protocol: another one where a client of this one would be misled
LINE_MAX = 65536
RESPONSE_MAX = 1 << 28  # octets of a line that the daemon may respond with
TIMEOUT = 10.0  # seconds that a client waits for the daemon

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
HandOver = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]


class ControlError(FunkenShieldError):
    """The control socket cannot be used, or the daemon reports an error."""


class UnavailableError(ControlError):
    """The control socket cannot be created at its path."""


def bind(path: Path) -> socket.socket:
    """Return a listening socket at a path, with mode 0600; ControlError where another daemon has it.

    A socket that nobody answers on was left by a daemon that died, and is replaced.
    """
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        folder = path.parent.stat()
        if folder.st_uid not in (0, os.geteuid()):
            raise UnavailableError(f"{path}: its directory belongs to another user; set control.socket to another path")
        if folder.st_mode & 0o022 and not folder.st_mode & stat.S_ISVTX:  # what is bound there could be exchanged
            raise UnavailableError(f"{path}: its directory is writable by others; set control.socket to another path")
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()
                else:
                    raise ControlError(
                        f"{path}: another daemon uses this control socket; stop it, or choose another path:"
                        " --control PATH, or control.socket in the file"
                    )
        before = os.umask(0o177)
        try:
            opened.bind(str(path))
        finally:
            os.umask(before)
        opened.listen(16)
    except OSError as error:
        opened.close()
        raise UnavailableError(f"{path}: cannot create the control socket: {error.strerror or error}") from None
    except ControlError:
        opened.close()
        raise
    return opened


def unbind(path: Path) -> None:
    """Remove a socket; where its folder is not ours any more, the next daemon replaces it."""
    with contextlib.suppress(OSError):
        path.unlink()


async def serve(listening: socket.socket, handle: Handler, hand_over: HandOver | None = None) -> asyncio.Server:
    """Answer requests on a listening socket; `hand_over` has the connection of a process that asks to take over."""

    async def serve_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _converse(reader, writer, handle, hand_over)

    # `unbind` removes it: from 3.13 on, Python would, and fail at once where its folder is not ours any more
    ours: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
    return await asyncio.start_unix_server(serve_client, sock=listening, limit=LINE_MAX, **ours)


async def converse(connected: socket.socket, handle: Handler, hand_over: HandOver) -> None:
    """Answer requests on a connection, as `serve` does."""
    await _converse(*await asyncio.open_connection(sock=connected, limit=LINE_MAX), handle, hand_over)


async def _converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Handler, hand_over: HandOver | None
) -> None:
    with contextlib.suppress(OSError, ValueError, asyncio.CancelledError):  # ValueError: over LINE_MAX
        while line := await reader.readline():
            if hand_over is not None and (version := _takes_over(line)) is not None:
                await hand_over(reader, writer, version)
                break
            writer.write(json.dumps(await _respond(line, handle)).encode() + b"\n")
            await writer.drain()
    writer.close()
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await writer.wait_closed()


def _takes_over(line: bytes) -> int | None:
    """Return which version of handing over a process asks for; None: it asks for something else."""
    if b'"take over"' not in line:
        return None
    with contextlib.suppress(ValueError, RecursionError):
        match json.loads(line):
            case {"command": "take over", "version": int() as version}:
                return int(version)
    return None


def _parse(line: bytes) -> dict[str, Any]:
    """Return a request; ControlError where it is none."""
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(request := json.loads(line.decode()), dict):
            return request
    raise ControlError("a request must be a JSON object, on a line of its own")


async def _respond(line: bytes, handle: Handler) -> dict[str, Any]:
    try:
        request = _parse(line)
        if request.get("version", VERSION) != VERSION:
            raise ControlError(f"this daemon speaks version {VERSION} of the protocol, not {request['version']}")
        return {"ok": True, "version": VERSION, **await handle(request)}
    except (FunkenShieldError, ValueError, RecursionError) as error:
        return {"ok": False, "version": VERSION, "error": str(error)}
    except Exception as error:  # whatever it is, who asked is told
        log.exception("internal error, control request failed")
        return {"ok": False, "version": VERSION, "error": f"internal error: {error!r}"}


def ask(path: Path, request: dict[str, Any], timeout: float = TIMEOUT) -> dict[str, Any]:
    """Return the daemon's response to a request; ControlError where there is none in time, or it is an error."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
            opened.settimeout(timeout)
            opened.connect(str(path))
            opened.sendall(_line_of(request))
            with opened.makefile("rb") as lines:
                response = json.loads(lines.readline())
    except (OSError, ValueError) as error:
        raise _unanswered(path, error) from None
    return _checked(response)


async def ask_meanwhile(path: Path, request: dict[str, Any], timeout: float = TIMEOUT) -> dict[str, Any]:
    """Do as `ask` does, while the event loop goes on."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_unix_connection(path, limit=RESPONSE_MAX)
            try:
                writer.write(_line_of(request))
                response = json.loads(await reader.readline())
            finally:
                writer.close()
    except (OSError, ValueError) as error:
        raise _unanswered(path, error) from None
    return _checked(response)


def _line_of(request: dict[str, Any]) -> bytes:
    return json.dumps(request | {"version": VERSION}).encode() + b"\n"


def _unanswered(path: Path, error: OSError | ValueError) -> ControlError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or "timed out"
    return ControlError(f"{path}: no daemon answers on this control socket: {reason}")


def _checked(response: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    """Return a response without its mark that it is none of an error; ControlError where it is."""
    if not isinstance(response, dict) or not response.pop("ok", False):
        told = response.get("error") if isinstance(response, dict) else None
        raise ControlError(str(told or "malformed response from the daemon"))
    return response
