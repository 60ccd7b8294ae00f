"""Who may read and who may change: the names that we go by, and the token of who may change something.

A browser that was lured to us by another site's page is kept out thrice: it names another host (DNS rebinding), says
that it comes from another site, or has no token, which is no cookie and goes along with nothing by itself.
"""

import hmac
import re
from collections.abc import Iterable
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path

from ..core.files import UnfitError, open_file
from ..errors import ConfigError
from .http import Request, Response

TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")  # RFC 6750 2.1; shorter ones can be guessed
FILE_MAX = 4096  # octets
OTHERS = 0o007  # of a mode


class Access:
    """What is asked of whoever comes."""

    def __init__(self, token: str = "", names: Iterable[str] = (), *, open_reading: bool = True) -> None:
        """`names` are those that browsers may know us by, besides addresses; without a token, nobody changes things."""
        self._digest = sha256(token.encode()).digest() if token else None
        self._names = {"localhost", *(name.lower().rstrip(".") for name in names)}
        self._open_reading = open_reading

    def refuse_stranger(self, request: Request) -> Response | None:
        """Return what a browser is told that another site's page has lured here, or None."""
        if not self._is_ours(request.headers.get("host", "")):
            text = b"this name is not one of web.host_names; use an address, or localhost\n"
            return Response(421, text)
        if request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"} and not _is_visit(request):
            return Response(403, b"not for other sites\n")
        return None

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
        return Response(401, b"this takes the token of web.token_file\n", headers={"WWW-Authenticate": "Bearer"})

    def _is_ours(self, host: str) -> bool:
        """Tell whether a Host field has an address, which nobody can rebind, or a name of ours."""
        match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::\d{1,5})?", host)
        if match is None:
            return False
        try:
            return bool(ip_address(match[1] or match[2]))
        except ValueError:
            return match[2] is not None and match[2].lower().rstrip(".") in self._names


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
