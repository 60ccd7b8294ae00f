"""What is where: the metrics and the health of the shield for machines, the page and the API for people.

It knows paths, and what every response says to browsers. Probes may come by any name, for they tell nothing; all else
takes a name of ours.
"""

import logging
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from .. import __version__
from ..admin import commands
from ..config.admin import WebSection
from ..zones.soa_watch import Watchers
from .access import PREFIX, Access, read_token
from .api import Api, Handle
from .http import HttpServer, Request, Response
from .monitor import Monitor
from .overview import LISTED, zones
from .scrape import Scrapes

log = logging.getLogger(__name__)

FOLDER = Path(__file__).with_name("page")
FILES = {  # by path
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "/live.js": ("live.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
PROTECTION = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
SHOWN: dict[str, dict[str, int]] = {"top": {"limit": 10}, "failures": {}}  # commands whose answers are tables
NOT_ALLOWED = Response(405, headers={"Allow": "GET, HEAD"})


class Shown(commands.Operated, Protocol):
    """What is shown: a daemon that runs."""

    watchers: Watchers

    def snapshot(self) -> dict[str, Any]:
        """Return all counters, by the names that `metrics` gives a meaning."""


class Site:
    """All that is served, for as long as it is open."""

    def __init__(
        self, shield: Shown, handle: Handle, probes: Mapping[str, Callable[[], bool]],
        now: Callable[[], float] = time.time, elapsed: Callable[[], float] = time.monotonic, *,
        web: WebSection | None = None,
    ) -> None:  # fmt: skip
        """Read the token, while root may; `web` is what holds, if the daemon's configuration is another one still.

        `handle` does what a request on the control socket asks for, `probes` are the paths that say whether something
        is so. Raises ConfigError where the token's file is wrong.
        """
        self._probes = probes
        self._scrapes = Scrapes(shield.snapshot)
        self._server = HttpServer(self.respond)
        self.monitor: Monitor | None = None
        web = web or shield.config.web
        token = read_token(Path(web.token_file)) if web.page and web.token_file else ""
        self._access = Access(token, (socket.gethostname(), *web.host_names), open_reading=web.open_reading)
        if web.page:
            self._files = {
                path: Response(200, (FOLDER / name).read_bytes(), kind) for path, (name, kind) in FILES.items()
            }
            about = {"version": __version__, "host": socket.gethostname(), "steering": bool(token)}
            tables: dict[str, Callable[[], object]] = {  # which there are not yet
                "blocks": lambda: shield.blocks.listed()[:LISTED],
                "steered": lambda: commands.steered(shield),
                "zones": lambda: zones(shield.config, shield.watchers.serials),
            }
            for name, members in SHOWN.items():
                if command := commands.COMMANDS.get(name):
                    tables[name] = partial(_shown, command, shield, name, members)
            self.monitor = Monitor(shield.snapshot, about, tables, now, elapsed)
            self._api = Api(commands.COMMANDS, handle, self._access, self.monitor, elapsed)
        self.serve = self._server.serve

    def start(self) -> None:
        """Keep the last hour from now on."""
        if self.monitor is not None:
            self.monitor.start()

    def close(self) -> None:
        """Keep it no more; who looks is told the end."""
        if self.monitor is not None:
            self.monitor.close()

    async def respond(self, request: Request) -> Response:
        """Answer a request."""
        response = await self._answer(request)
        return replace(response, headers={**PROTECTION, **response.headers})

    async def _answer(self, request: Request) -> Response:
        if request.path in self._probes or request.path == "/metrics":
            return await self._tell_machine(request) if request.method in {"GET", "HEAD"} else NOT_ALLOWED
        if self.monitor is None:
            return Response(404)
        if request.path.startswith(PREFIX):
            return await self._api.respond(request)
        if request.path not in self._files:
            return Response(404)
        if refused := self._access.refuse_stranger(request):
            return refused
        return self._files[request.path] if request.method in {"GET", "HEAD"} else NOT_ALLOWED

    async def _tell_machine(self, request: Request) -> Response:
        if probe := self._probes.get(request.path):
            return Response(200, b"ok\n") if probe() else Response(503, b"not serving\n")
        if refused := self._access.refuse_stranger(request):
            return refused
        kind, page = await self._scrapes.page(request.headers.get("accept", ""))
        return Response(200, page, kind)


def _shown(command: Callable[..., Any], shield: Shown, name: str, members: dict[str, int]) -> object:
    """Return what a command has to show."""
    return command(shield, **members)[name]
