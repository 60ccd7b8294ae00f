"""Who may read and who may change: the names that we go by, and the token of who may change something.

A browser that was lured to us by another site's page is kept out thrice: it names another host (DNS rebinding), says
that it comes from another site, or has no token, which is no cookie and goes along with nothing by itself. Over HTTP,
and from an address that is not its own machine's, a browser does not say where it comes from. So what costs something
takes a field that our page sends, and that another site's cannot.
"""

import hmac
import logging
import re
from collections.abc import Iterable
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path

from ..core.files import UnfitError, open_file
from ..core.logs import RateLimited
from ..errors import ConfigError
from .http import Request, Response

limited = RateLimited(logging.getLogger(__name__))

TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")  # RFC 6750 2.1; shorter ones can be guessed
FILE_MAX = 4096  # octets
OTHERS = 0o007  # of a mode
PREFIX = "/api/"  # of the paths that cost something
OURS = "x-funkenshield"  # the field that our page sends
BROWSER = "mozilla/"  # in the User-Agent field of every browser, and no page can leave it out


class Access:
    """What is asked of whoever comes."""

    def __init__(self, token: str = "", names: Iterable[str] = (), *, open_reading: bool = True) -> None:
        """`names` are those that browsers may know us by, besides addresses; without a token, nobody changes things."""
        self._digest = sha256(token.encode()).digest() if token else None
        self._names = {name.lower().rstrip(".") for name in names}
        self._open_reading = open_reading

    def refuse_stranger(self, request: Request) -> Response | None:
        """Return what a browser is told that another site's page has lured here, or None."""
        host = request.headers.get("host")  # which every browser sends
        if host is not None and not self._is_ours(host):
            limited.warning(
                "host", "web: %s asked for the host %.255r, which gets 421; if it is one of ours, set web.host_names",
                request.source, host,
            )  # fmt: skip
            return Response(
                421, b"this name is not one of web.host_names; use an address, localhost or the host's name\n"
            )
        return Response(403, b"not for other sites\n") if self._comes_from_elsewhere(request) else None

    def refuse(self, request: Request, *, reading: bool) -> Response | None:
        """Return why somebody may not do this, or None."""
        if reading and self._open_reading:
            return None
        if self._digest is None:
            return Response(403, b"this takes a token, and web.token_file is not set\n")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        given = sha256(token.strip().encode("latin-1")).digest()
        if scheme.lower() == "bearer" and hmac.compare_digest(given, self._digest):
            return None
        if token:
            limited.warning("token", "web page: wrong token from %s", request.source)
        return Response(401, b"this takes the token of web.token_file\n", headers={"WWW-Authenticate": "Bearer"})

    def _is_ours(self, host: str) -> bool:
        """Tell whether a Host field has an address, which nobody can rebind, or a name of ours."""
        name = _name_of(host)
        try:
            return name in self._names | {"localhost"} or bool(ip_address(name))
        except ValueError:
            return False

    def _comes_from_elsewhere(self, request: Request) -> bool:
        """Tell whether a browser says that another site's page has sent it, or does not say that it comes from ours."""
        fields = request.headers
        if site := fields.get("sec-fetch-site"):
            return site not in {"none", "same-origin"} and not _is_visit(request)
        if origin := fields.get("origin"):
            where = origin.partition("://")[2].lower()
            return where != fields.get("host", "").lower() and _name_of(where) not in self._names
        is_browser = BROWSER in fields.get("user-agent", "").lower()
        return is_browser and request.path.startswith(PREFIX) and OURS not in fields


def _name_of(host: str) -> str:
    """Return the name or address of a Host field, in lower case; "" where it is none."""
    match = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([^:\[\]]+))(?::\d{1,5})?", host.lower())
    return (match[1] or match[2].rstrip(".")) if match else ""


def _is_visit(request: Request) -> bool:
    """Tell whether a person follows a link to a page, which is harmless."""
    return request.headers.get("sec-fetch-mode") == "navigate" and request.path == "/"


def read_token(path: Path) -> str:
    """Return the token of a file: its first line. Raises ConfigError where there is none, or others may read it."""
    key = "web.token_file"
    try:
        with open_file(path) as file:
            mode, text = path.stat().st_mode, file.read(FILE_MAX)
    except (UnfitError, OSError) as error:
        raise ConfigError(f"{key}: {path}: {error.strerror}") from None
    if mode & OTHERS:
        raise ConfigError(f"{key}: {path}: everybody may read it; chmod 600 {path}")
    token = text.decode("latin-1").partition("\n")[0].strip()
    if not TOKEN.fullmatch(token):
        raise ConfigError(f"{key}: {path}: not a token; write 16 or more letters and digits (openssl rand -hex 32)")
    return token
