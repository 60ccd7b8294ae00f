"""Nodes that share what they know: by which store, and how far it is believed."""

import os
import re
import socket
from typing import Annotated, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from .events import SOCKET_MAX
from .types import PathField, Seconds, Section, parse_place

Sharing = Literal["off", "beside", "before"]
NodeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{0,128}$")]
STORE = "write redis://HOST:PORT, rediss://HOST:PORT for TLS, or unix:///PATH; /NUMBER chooses a database"
DEFAULT_PORT = 6379


class StoreAddress(NamedTuple):
    """Where a store is, and as whom one logs in."""

    host: str = ""
    port: int = DEFAULT_PORT
    path: str = ""
    tls: bool = False
    user: str = ""
    database: int = 0
    ca_file: str = ""


def parse_store(text: str) -> StoreAddress:
    """Return what `redis://USER@HOST:PORT/DATABASE`, `rediss://` or `unix:///PATH` stands for; ValueError if none."""
    try:
        parts = urlsplit(text)
        port = DEFAULT_PORT if parts.port is None else parts.port
    except ValueError:
        raise ValueError(f"not a store; {STORE}") from None
    if parts.password is not None:
        raise ValueError("no password here, where it is shown; name its file by password_file")
    if parts.query or parts.fragment:
        raise ValueError(f"? and # mean nothing here; {STORE}")
    user = unquote(parts.username or "")
    if parts.scheme == "unix" and parts.path and not parts.hostname:
        return StoreAddress(path=_socket_path(unquote(parts.path)), user=user)
    database = parts.path.removeprefix("/") or "0"
    if parts.scheme not in {"redis", "rediss"} or not parts.hostname or not re.fullmatch(r"\d{1,5}", database):
        raise ValueError(f"not a store; {STORE}")
    place = parse_place(f"[{parts.hostname}]:{port}" if ":" in parts.hostname else f"{parts.hostname}:{port}")
    return StoreAddress(place.host, place.port, "", parts.scheme == "rediss", user, int(database))


def _socket_path(path: str) -> str:
    """Return a path that a socket can have; ValueError."""
    if "\0" in path or len(os.fsencode(path)) > SOCKET_MAX:
        raise ValueError(f"the path of a socket has at most {SOCKET_MAX} octets, and no %00")
    return path


def _checked(text: str) -> str:
    if text:
        parse_store(text)
    return text


class ClusterSection(Section):
    """Nodes that share a cache and their purges, by a Valkey or Redis server. Takes effect at restart."""

    store: Annotated[str, AfterValidator(_checked)] = ""
    """The store, Valkey or Redis 7 and later: `redis://HOST:PORT`, with TLS `rediss://HOST:PORT`, or `unix:///PATH`;
    with `USER@` before the host, and `/NUMBER` for another database. `""`: this node is alone."""
    password_file: PathField = Field("", description="File with the store's password.")
    ca_file: PathField = ""
    """File with the certificates (PEM) by which the store's is verified, in place of the system's."""
    secret_file: PathField = ""
    """File with one secret of 64 hexadecimal digits on each line, 1 to 4, the same at all nodes; the first one signs
    what this node writes, all are accepted. Required with `store`. Where no other file is named, secrets of cookies and
    session tickets follow from it."""
    node: NodeName = Field("", description="This node's name, which no other may have; `\"\"`: the host's name.")
    shared_cache: Sharing = "before"
    """How misses use the cache that nodes share: it is asked `"before"` an upstream is, or `"beside"` it, at the same
    time, and the first answer counts. `"off"`: not at all."""
    timeout: Seconds = Field(0.005, ge=0.001, le=0.1)
    """How long a miss waits for the store at most, with `"before"`."""

    @model_validator(mode="after")
    def _has_a_secret(self) -> "ClusterSection":
        if self.store and not self.secret_file:
            raise ValueError(
                "secret_file: required with store: anybody could forge answers; to make one: openssl rand -hex 32"
            )
        return self

    @model_validator(mode="after")
    def _heeds_all_that_it_says(self) -> "ClusterSection":
        if self.store and self.address.user and not self.password_file:
            raise ValueError(f"password_file: none, and nobody logs in as {self.address.user} without one")
        if self.store and self.ca_file and not self.address.tls:
            raise ValueError('ca_file: verifies nothing without TLS, which is store = "rediss://HOST:PORT"')
        return self

    @property
    def node_name(self) -> str:
        """Return what this node is called."""
        return self.node or socket.gethostname()

    @property
    def address(self) -> StoreAddress:
        """Return where the store is."""
        return parse_store(self.store)._replace(ca_file=self.ca_file)
