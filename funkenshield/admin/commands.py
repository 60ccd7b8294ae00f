"""What requests on the control socket do: a function for each command, whose arguments are the request's members.

It knows what an operator may ask of a daemon. How requests come and responses go is told in `control`.
"""

import asyncio
import difflib
import inspect
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from types import UnionType
from typing import Any, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from .. import __version__
from ..cache._store import Cache
from ..cluster.node import Node
from ..cluster.purges import Message
from ..config import Config
from ..config.guard import Refusal
from ..core import logs
from ..errors import FunkenShieldError
from ..forward._miss_path import MissPath
from ..policy.dynblocks import Blocks
from ..rules.engine import RuleEngine
from ..server.listeners import Listeners
from ..upstream.pool import Upstreams
from ..wire.names import name_from_wire, name_to_wire, type_number
from . import entries, in_force
from .explain import Asked, explain
from .stats import Stats

limited = logs.RateLimited(logging.getLogger(__name__))
log = logging.getLogger(__name__)

TOP_MAX = 1000  # of what is asked for most
WAIT_MAX = 60  # seconds that a purge is waited for at other nodes
BLOCKS_SHOWN = 200  # of what is shown at once
TEST_CLOCK = "FUNKENSHIELD_TEST_CLOCK"  # set to 1, it lets tests move the clock, but not the event loop's timers

Response = dict[str, Any]
Level = Literal["debug", "info", "warning", "error"]


class Reloaded(Protocol):
    """What became of a reload."""

    @property
    def errors(self) -> list[str]:
        """Return why the old configuration is in force; [] where it is not."""

    @property
    def warnings(self) -> list[str]:
        """Return what of the new one is not in force."""


class Operated(Protocol):
    """What commands are about: a daemon that runs."""

    config: Config
    stats: Stats
    cache: Cache
    miss_path: MissPath
    listeners: Listeners
    upstreams: Upstreams
    rules: RuleEngine
    blocks: Blocks
    node: Node | None  # of a cluster
    log_level: str | None  # that an operator set, in place of the configuration's

    def forget(self, name: bytes) -> "Future[None] | None":
        """Take a name out of all but the cache; return what ends once the disk has forgotten it, too."""

    def reload(self) -> Awaitable[Reloaded] | None:
        """Have the configuration read again; return what will tell what became of it, None where it cannot be."""

    def is_serving(self) -> bool:
        """Tell whether all workers answer: from the moment that it is ready until it is told to end."""

    async def upgrade(self) -> int:
        """Have our command line started anew, and replace us; return the process ID, UpgradeError where it cannot."""


Command = Callable[..., Response | Awaitable[Response]]
Registered = TypeVar("Registered", bound=Command)
COMMANDS: dict[str, Command] = {}


def command(name: str) -> Callable[[Registered], Registered]:
    """Let a function be what a command does; its keyword arguments are the members of a request."""

    def register(function: Registered) -> Registered:
        COMMANDS[name] = function
        return function

    return register


async def handle(shield: Operated, request: Response) -> Response:
    """Do what a request asks for, and return the response; FunkenShieldError says in a line what is wrong with it."""
    members = {member: value for member, value in request.items() if member not in {"command", "version"}}
    name = request.get("command")
    function = COMMANDS.get(name) if isinstance(name, str) else None
    if function is None or not _may_be_given(function):
        known = [each for each, one in COMMANDS.items() if _may_be_given(one)]
        close = difflib.get_close_matches(str(name), known)
        hint = f"did you mean {' or '.join(close)}?" if close else f"commands are {', '.join(known)}"
        raise FunkenShieldError(f"no such command; {hint}")
    done = function(shield, **_checked(str(name), function, members))
    return await done if inspect.isawaitable(done) else done


def _may_be_given(function: Command) -> bool:
    return function is not _advance or os.environ.get(TEST_CLOCK) == "1"


def _checked(name: str, function: Command, members: Response) -> Response:
    """Return a request's members, if they are those that the function takes."""
    kinds = get_type_hints(function)
    taken = {key: each for key, each in inspect.signature(function).parameters.items() if key != "shield"}
    for key in members.keys() - taken.keys():
        raise FunkenShieldError(f"{name}: no member {key}; there are {', '.join(taken) or 'none'}")
    for key, each in taken.items():
        if key not in members and each.default is each.empty:
            raise FunkenShieldError(f"{name}: {key} is missing")
        if key in members and not _fits(members[key], kinds[key]):
            raise FunkenShieldError(f"{name}: {key} must be {_kind_of(kinds[key])}")
    return members


def _fits(value: object, kind: Any) -> bool:  # noqa: ANN401 - what stands in an annotation
    """Tell whether a member is of a kind; no boolean is a number, and no number text."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in {UnionType, Union}:
        return any(_fits(value, each) for each in inner)
    if origin is Literal:
        return value in inner
    if origin is list:
        return isinstance(value, list) and all(_fits(each, inner[0]) for each in value)
    return isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))


def _kind_of(kind: Any) -> str:  # noqa: ANN401 - what stands in an annotation
    """Name a kind of values as JSON does."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in {UnionType, Union}:
        return " or ".join(map(_kind_of, inner))
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin is list:
        return f"a list, each {_kind_of(inner[0])}"
    return {str: "text", bool: "true or false", int: "an integer", float: "a number"}.get(kind, "null")


# ---------------------------------------------------------------- what is seen


@command("stats")
def _stats(shield: Operated) -> Response:
    return {"stats": shield.stats.snapshot()}


@command("failures")
def _failures(shield: Operated) -> Response:
    return {"failures": shield.stats.failures()}


@command("top")
def _top(shield: Operated, *, limit: int = 20) -> Response:
    if not 1 <= limit <= TOP_MAX:
        raise FunkenShieldError(f"top: limit must be 1 to {TOP_MAX}")
    return {"top": shield.stats.sinks.top(limit)}


@command("ready")
def _ready(shield: Operated) -> Response:
    return {"ready": shield.is_serving()}


@command("status")
def _status(shield: Operated, *, limit: int = 20) -> Response:
    """Return all that a screen shows, for one request a second is enough."""
    return {
        "about": {"version": __version__, "host": socket.gethostname(), "pid": os.getpid()},
        **_stats(shield),
        **_top(shield, limit=limit),
        **_failures(shield),
        **_upstream_list(shield),
        **_rules_list(shield),
        "blocks": shield.blocks.listed()[:BLOCKS_SHOWN],
        "steered": steered(shield),
        "log": logs.recent(),
    }


@command("explain")
def _explain(
    shield: Operated,
    *,
    name: str,
    type: str = "A",
    source: str = "127.0.0.1",
    transport: str = "udp",
    listener: str | None = None,
    flags: list[str] | None = None,
    edns: bool = True,
    do: bool = False,
    subnet: str | None = None,
    server_name: str = "",
) -> Response:
    flags = ["RD", "AD"] if flags is None else flags
    asked = Asked(name, type, source, transport, listener, flags, edns, do, subnet, server_name)
    return explain(shield.miss_path, shield.rules, shield.upstreams, shield.listeners.open, asked)


@command("config show")
def _config_show(shield: Operated) -> Response:
    return {"config": in_force.options(shield.config), "steered": steered(shield)}


def steered(shield: Operated) -> Response:
    """Return what commands have set in place of the configuration, until it is taken back or the daemon ends."""
    return {
        "log level": shield.log_level,
        "upstreams": shield.upstreams.steered,
        "rules disabled": sorted(shield.rules.disabled),
    }


# ---------------------------------------------------------------- the cache


@command("cache entries")
def _cache_entries(
    shield: Operated,
    *,
    name: str = ".",
    below: bool = True,
    type: str | None = None,
    limit: int = entries.PAGE,
    after: list[int] | None = None,
    messages: bool = False,
) -> Response:
    if not 1 <= limit <= entries.PAGE:
        raise FunkenShieldError(f"cache entries: limit must be 1 to {entries.PAGE}")
    if after is not None and (len(after) != 2 or not all(0 <= each < 1 << 32 for each in after)):
        raise FunkenShieldError("cache entries: after must be what the response before has as next")
    page = entries.Page(name, below, type, limit, (after[0], after[1]) if after else (0, 0), messages)
    return entries.read(shield.cache, shield.rules, page)


@command("purge")
async def _purge(
    shield: Operated,
    *,
    name: str,
    below: bool = False,
    type: str | None = None,
    everywhere: bool = False,
    wait: float = 10,
) -> Response:
    """Purge at all nodes; with `everywhere`, tell which have done so, and which have not in so many seconds."""
    node = _node_of("purge", shield, everywhere=everywhere, wait=wait)
    noted = purge(shield.cache, name, type, below=below)
    wire = name_to_wire(name)
    what = name_from_wire(wire) + (" and all below it" if below else "")
    limited.info("purged", "purged by command: %s, %s", what, type or "all types")
    if noted != wire:
        limited.warning("purge", "too many purges at once: purging %s instead of %s", name_from_wire(noted), name)
    message = _tell_nodes(shield, noted, type if noted == wire else None, below=below or noted != wire)
    if removal := shield.forget(noted):
        await asyncio.wrap_future(removal)
    return await node.wait_for_all(message, wait) if node is not None and message is not None else {}


def _node_of(name: str, shield: Operated, *, everywhere: bool, wait: float) -> Node | None:
    """Return the node whose neighbours are to be waited for, None where nobody is; FunkenShieldError."""
    if not 0 <= wait <= WAIT_MAX:
        raise FunkenShieldError(f"{name}: wait must be 0 to {WAIT_MAX} seconds")
    if everywhere and shield.node is None:
        raise FunkenShieldError(f"{name}: this node is alone: no [cluster] is configured")
    return shield.node if everywhere else None


def _tell_nodes(shield: Operated, name: bytes, qtype: str | None, *, below: bool) -> Message | None:
    """Have other nodes purge what was purged here: or else it would come back from the cache that all share."""
    if shield.node is None:
        return None
    return shield.node.tell(name=name.hex(), below=below, type=-1 if qtype is None else type_number(qtype))


class PurgeError(FunkenShieldError):
    """What is to be purged cannot be understood."""


def purge(cache: Cache, name: str = ".", qtype: str | None = None, *, below: bool = True) -> bytes:
    """Take out the answers for a name, with `below` for all names under it too.

    It is in force when this returns, and costs the same whatever is stored. Returns the name on the wire that it
    became a purge of: another where there were very many. Raises PurgeError for a name or type that is none.
    """
    try:
        wire = name_to_wire(name)
        number = -1 if qtype is None else type_number(qtype)
        return cache.purge(wire, below=below, qtype=number)
    except (ValueError, OverflowError) as error:
        raise PurgeError(f"cannot purge: {error}") from None


# ---------------------------------------------------------------- clients


@command("block list")
def _block_list(shield: Operated) -> Response:
    return {"blocks": shield.blocks.listed()}


@command("block add")
async def _block_add(
    shield: Operated,
    *,
    prefix: str,
    seconds: float,
    action: Refusal = "drop",
    confirmed: bool = False,
    everywhere: bool = False,
    wait: float = 10,
) -> Response:
    """Block here, or, with `everywhere`, at all nodes; then tell which have done so, and which have not."""
    node = _node_of("block add", shield, everywhere=everywhere, wait=wait)
    reason = "by hand" if node is None else node.block_reason
    prefix = shield.blocks.add(prefix, seconds, action, confirmed=confirmed, reason=reason)
    limited.info("blocked", "%s blocked for %g s by command: %s", prefix, seconds, action)
    return await node.wait_for_all(node.tell_block(prefix, seconds, action), wait) if node is not None else {}


@command("block remove")
async def _block_remove(shield: Operated, *, prefix: str, everywhere: bool = False, wait: float = 10) -> Response:
    """Let in again here, or, with `everywhere`, at all nodes; `removed` is how many blocks there were here."""
    node = _node_of("block remove", shield, everywhere=everywhere, wait=wait)
    if removed := shield.blocks.remove(prefix):
        limited.info("unblocked", "%s not blocked any more, by command", prefix)
    told = await node.wait_for_all(node.tell_block(prefix), wait) if node is not None else {}
    return {"removed": removed, **told}


# ---------------------------------------------------------------- upstreams, rules, the log


@command("upstream list")
def _upstream_list(shield: Operated) -> Response:
    return {"upstreams": shield.upstreams.listed()}


@command("upstream down")
def _upstream_down(shield: Operated, *, name: str) -> Response:
    return {"upstreams": shield.upstreams.steer(name, "down")}


@command("upstream drain")
def _upstream_drain(shield: Operated, *, name: str) -> Response:
    return {"upstreams": shield.upstreams.steer(name, "draining")}


@command("upstream up")
def _upstream_up(shield: Operated, *, name: str) -> Response:
    return {"upstreams": shield.upstreams.steer(name, "")}


@command("rules list")
def _rules_list(shield: Operated) -> Response:
    return {"rules": shield.rules.listed()}


@command("rules disable")
def _rules_disable(shield: Operated, *, name: str) -> Response:
    shield.rules.enable(name, enabled=False)
    return {}


@command("rules enable")
def _rules_enable(shield: Operated, *, name: str) -> Response:
    shield.rules.enable(name, enabled=True)
    return {}


@command("log level")
def _log_level(shield: Operated, *, level: Level | Literal["default"] | None = None) -> Response:
    """Set from which level on is logged; "default" is what the configuration says, null changes nothing."""
    if level is not None:
        shield.log_level = None if level == "default" else level
        logs.set_up(shield.log_level or shield.config.log.level, shield.config.log.format)
    return {"level": shield.log_level or shield.config.log.level, "configured": shield.config.log.level}


def set_by_command(shield: Operated) -> list[Response]:
    """Return the requests that make of another daemon with the same configuration what operators have made of this."""
    how = {"down": "upstream down", "draining": "upstream drain"}
    steered = [each for each in shield.upstreams.steered.items() if each[0] in shield.upstreams.titles]
    return [
        *({"command": how[state], "name": name} for name, state in steered),
        *({"command": "rules disable", "name": name} for name in sorted(shield.rules.disabled)),
        *([{"command": "log level", "level": shield.log_level}] if shield.log_level else []),
    ]


# ---------------------------------------------------------------- the daemon


@command("reload")
async def _reload(shield: Operated) -> Response:
    """Have the configuration read again, and wait until it is in force, or was refused."""
    asked = shield.reload()
    if asked is None:
        raise FunkenShieldError("reload: the daemon is stopping, or has nothing to read again")
    reloaded = await asyncio.shield(asked)
    return {"reloaded": not reloaded.errors, "errors": reloaded.errors, "warnings": reloaded.warnings}


@command("upgrade")
async def _upgrade(shield: Operated) -> Response:
    """Have another process take over, which runs what is installed by now, and wait until it serves."""
    return {"was": os.getpid(), "pid": await shield.upgrade()}


@command("advance")
def _advance(shield: Operated, *, seconds: float) -> Response:
    """Move the clock that the daemon goes by, for tests."""
    shield.cache.clock.advance(seconds)
    shield.cache.epochs.outdate()
    return {}
