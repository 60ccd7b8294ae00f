"""The commands of the control socket over HTTP: one path each, and a description of all of them (OpenAPI).

It knows requests, and reads from a command's own signature what it takes. What a command does is for `admin.commands`.
A command that only reads is a GET with its members in the query; any other one is a POST of a JSON object, and takes a
token.
"""

import inspect
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from dataclasses import replace
from functools import partial
from types import NoneType, UnionType, coroutine
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints
from urllib.parse import parse_qs

from .. import __version__
from ..errors import FunkenShieldError
from .access import PREFIX, Access
from .budget import Budget
from .http import Request, Response
from .monitor import Monitor, encoded

Json = dict[str, Any]
Commands = Mapping[str, Callable[..., Any]]
Handle = Callable[[Json], Awaitable[Json]]
T = TypeVar("T")

FIELDS_MAX = 32  # of a query
JSON = "application/json"
HIDDEN = {"advance", "upgrade", "status", "ready"}  # not for HTTP: for tests, of the socket, all at once, /ready
READING = {
    "stats": "All counters, by the names of the metrics' page.",
    "explain": "What would become of a question now, step by step, and why; without side effects.",
    "block list": "The dynamic blocks in force.",
    "upstream list": "The upstreams, with their state and latency.",
    "top": "What is asked for most, by whom, and in which zones, in the last five to ten seconds.",
    "failures": "The last failures that clients felt, with name, upstream and reason.",
    "rules list": "The rules in force, with how often each matched.",
}
CHANGING = {  # those that read what not everybody may know, or take long, among them
    "purge": "Take the answers for a name out of the cache.",
    "cache entries": "Entries of the cache, page by page.",
    "config show": "The configuration in force, and what was steered by hand.",
    "block add": "Block a prefix for some time.",
    "block remove": "Remove the blocks of a prefix, and of all within it.",
    "upstream down": "Take an upstream out of service.",
    "upstream drain": "Have an upstream asked nothing new.",
    "upstream up": "Leave it to health checks again whether an upstream is in service.",
    "rules disable": "Pass over a rule.",
    "rules enable": "Ask a rule again.",
    "log level": "Set from which level on is logged.",
    "reload": "Read the configuration again, and say what became of it.",
}
OWN = {
    "overview": ("What the page shows now: rates, outcomes, latencies, upstreams, rules, blocks.", JSON),
    "history": ("The last hour, a sample for each five seconds.", JSON),
    "live": ("Server-sent events: `history` once, then `now` each second, and `sample`.", "text/event-stream"),
    "openapi.json": ("This description.", JSON),
}


def json_response(value: Json | bytes, status: int = 200) -> Response:
    """Return JSON that nobody keeps."""
    body = value if isinstance(value, bytes) else encoded(value)
    return Response(status, body, JSON, {"Cache-Control": "no-store"})


class Api:
    """All paths below `/api/`."""

    def __init__(
        self, commands: Commands, handle: Handle, access: Access, monitor: Monitor, seconds: Callable[[], float],
        worked: Callable[[], float] = time.thread_time,
    ) -> None:  # fmt: skip
        """`seconds` is the time, `worked` that of it which this thread was at work."""
        self._commands = {_path_of(name): name for name in commands if name not in HIDDEN}
        self._functions, self._handle, self._access, self._monitor = commands, handle, access, monitor
        self._described = encoded(describe(commands))
        self._budget, self._worked = Budget(seconds), worked

    async def respond(self, request: Request) -> Response:
        """Answer a request; what is wrong with it is told as {"error": ...}."""
        response = self._access.refuse_stranger(request) or await self._answer(request)
        if response.status < 400 or response.kind == JSON:
            return response
        told = json_response({"error": response.body.decode().strip()}, response.status)
        return replace(told, headers=told.headers | response.headers)

    async def _answer(self, request: Request) -> Response:
        path = request.path.removeprefix(PREFIX)
        command = self._commands.get(path)
        if command is None and path not in OWN:
            return Response(404, b"there is no such path; /api/openapi.json tells all")
        reading = command is None or command in READING
        if request.method not in ({"GET", "HEAD"} if reading else {"POST"}):
            allowed = "GET, HEAD" if reading else "POST"
            return Response(405, f"this takes {allowed}".encode(), headers={"Allow": allowed})
        if refused := self._access.refuse(request, reading=reading):
            return refused
        if not reading:
            return await self._run(str(command), request, reading=False)
        if not self._budget.has_turn(request.prefix):
            return Response(429, b"too much is asked at once", headers={"Retry-After": "1"})
        spend = partial(self._budget.spend, request.prefix)
        return await timed(self._read(command, path, request), self._worked, spend)

    async def _read(self, command: str | None, path: str, request: Request) -> Response:
        return await self._run(command, request, reading=True) if command else self._own(path, request)

    def _own(self, path: str, request: Request) -> Response:
        """Answer what the monitor knows."""
        if path == "live":
            if not self._monitor.has_room(request.prefix):
                return Response(503, b"as many look already as may", headers={"Retry-After": "30"})
            first = self._monitor.greeting()
            return Response(200, first, OWN[path][1], {"Cache-Control": "no-store"}, self._monitor)
        made = {"overview": self._monitor.current, "history": self._monitor.history}
        return json_response(made[path]() if path in made else self._described)

    async def _run(self, command: str, request: Request, *, reading: bool) -> Response:
        """Run a command; what it says is wrong is the client's mistake."""
        try:
            members = from_query(self._functions[command], request.query) if reading else from_body(request)
            done = await self._handle({**members, "command": command})
        except (FunkenShieldError, ValueError, RecursionError) as error:
            return json_response({"error": str(error)}, 400)
        if not reading:
            self._monitor.refresh()
        return json_response(done)


@coroutine
def timed(
    work: Coroutine[Any, Any, T], worked: Callable[[], float], spend: Callable[[float], None]
) -> Generator[Any, Any, T]:
    """Do some work, and tell what its own steps took of this thread; what others do while it waits is not its own."""
    step: Callable[[Any], Any] = work.send
    value: Any = None
    while True:
        begun = worked()
        try:
            awaited = step(value)
        except StopIteration as end:
            done: T = end.value
            return done
        finally:
            spend(worked() - begun)
        try:
            step, value = work.send, (yield awaited)
        except BaseException as error:
            step, value = work.throw, error


def _path_of(command: str) -> str:
    return command.replace(" ", "/")


# ---------------------------------------------------------------- members


def from_query(function: Callable[..., Any], query: str) -> Json:
    """Return the members of a query: text, or JSON where the command takes no text; lists are repeated fields."""
    kinds = get_type_hints(function)
    found = parse_qs(query, keep_blank_values=True, max_num_fields=FIELDS_MAX, encoding="utf-8", errors="strict")
    return {key: _from_text(kinds.get(key, str), values) for key, values in found.items()}


def _from_text(kind: Any, values: list[str]) -> Any:  # noqa: ANN401 - what stands in an annotation, and JSON
    kinds = get_args(kind) if get_origin(kind) in {UnionType, Union} else (kind,)
    for each in kinds:
        if get_origin(each) is list:
            return [_from_text(get_args(each)[0], [value]) for value in values]
    is_text = any(each is str or get_origin(each) is Literal for each in kinds)
    return values[-1] if is_text else json.loads(values[-1])


def from_body(request: Request) -> Json:
    """Return the members of a request that has a JSON object as its body, or nothing."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not request.body:
        return {}
    if kind != JSON:
        raise ValueError(f"a body must be {JSON}")
    found = json.loads(request.body)
    if isinstance(found, dict):
        return found
    raise ValueError("a body must be a JSON object")


# ---------------------------------------------------------------- the description


def describe(commands: Commands) -> Json:
    """Return the description of all paths, as OpenAPI 3.1 has it."""
    paths: dict[str, Json] = {}
    for path, (text, kind) in OWN.items():
        content = {kind: {"schema": {"type": "object" if kind == JSON else "string"}}}
        paths[PREFIX + path] = {"get": _operation(path, text, content)}
    for name, function in commands.items():
        if name not in HIDDEN:
            paths[PREFIX + _path_of(name)] = _described(name, function)
    error = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "FunkenShield",
            "version": __version__,
            "description": "What the control socket's commands do, over HTTP. What changes something takes a token.",
        },
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": error},
            "responses": {
                "Error": {
                    "description": "What is wrong, in a line.",
                    "content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}},
                }
            },
        },
    }


def _operation(name: str, text: str, content: Json) -> Json:
    identifier = "".join(word.capitalize() for word in name.replace(".", " ").split())
    return {
        "operationId": identifier[:1].lower() + identifier[1:],
        "summary": text,
        "responses": {
            "200": {"description": "Done.", "content": content},
            "default": {"$ref": "#/components/responses/Error"},
        },
    }


def _described(name: str, function: Callable[..., Any]) -> Json:
    """Return the description of a command's path, from its signature."""
    kinds = get_type_hints(function)
    taken = {
        key: each for key, each in inspect.signature(function).parameters.items() if each.kind is each.KEYWORD_ONLY
    }
    required = [key for key, each in taken.items() if each.default is each.empty]
    schemas = {key: _schema(kinds[key]) for key in taken}
    text = READING.get(name) or CHANGING.get(name) or inspect.getdoc(function) or name
    operation = _operation(name, text, {JSON: {"schema": {"type": "object"}}})
    if name in READING:
        fields = [
            {"name": key, "in": "query", "required": key in required, "schema": schema}
            for key, schema in schemas.items()
        ]
        return {"get": operation | {"parameters": fields, "security": [{}, {"token": []}]}}
    operation["security"] = [{"token": []}]
    if taken:
        body: Json = {"type": "object", "properties": schemas, "additionalProperties": False}
        if required:
            body["required"] = required
        operation["requestBody"] = {"required": bool(required), "content": {JSON: {"schema": body}}}
    return {"post": operation}


def _schema(kind: Any) -> Json:  # noqa: ANN401 - what stands in an annotation
    """Return the schema of what a member may be."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in {UnionType, Union}:
        return {"anyOf": [_schema(each) for each in inner]}
    if origin is Literal:
        return {"type": "string", "enum": list(inner)}
    if origin is list:
        return {"type": "array", "items": _schema(inner[0])}
    names = {str: "string", bool: "boolean", int: "integer", float: "number", NoneType: "null"}
    return {"type": names[kind]}
