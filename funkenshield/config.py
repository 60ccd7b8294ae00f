"""Every option: its type, default, unit and bounds, in this one place.

TOML in, a frozen `Config` out, or a ConfigError that names file, key, what is wrong and what is
allowed. Nobody else reads files or flags; `reference` writes the documentation page from what stands here.
"""

import inspect
import ipaddress
import os
import re
import tomllib
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from .errors import ConfigError

UPSTREAMS_MAX = 256  # that the compiled part tells apart
UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


class Endpoint(NamedTuple):
    """An address and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(text: object) -> Endpoint:
    """Return the endpoint that `ADDR:PORT`, or `[ADDR]:PORT` for IPv6, stands for; ValueError where it is none."""
    if isinstance(text, Endpoint):
        return text
    match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+)):(\d{1,5})", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("not an endpoint; write ADDR:PORT, with IPv6 addresses in brackets: [::1]:53")
    host, port = match[1] or match[2], int(match[3])
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"{host} is not an IP address") from None
    if (address.version == 6) != bool(match[1]):
        raise ValueError("IPv6 addresses stand in brackets, IPv4 addresses do not")
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} is not between 1 and 65535")
    return Endpoint(str(address), port)


def parse_size(value: object) -> int:
    """Return a number of octets written as an integer or as text like `64MiB`; ValueError where it is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"(\d+)\s*([kmg]i?)?b?", value.strip().lower()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("not a size; write octets, or a number with kB, MB, GB, KiB, MiB or GiB")
    return int(match[1]) * UNITS[match[2] or ""]


EndpointField = Annotated[Endpoint, BeforeValidator(parse_endpoint), PlainSerializer(str)]
Size = Annotated[int, BeforeValidator(parse_size)]


class Section(BaseModel):
    """A table of the file: nothing unknown, nothing converted, nothing changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def parse_zone(text: object) -> str:
    """Return a zone's name as an absolute one in lower case; ValueError where it is none."""
    from .names import name_from_wire, name_to_wire

    return name_from_wire(name_to_wire(text if isinstance(text, str) else ""))


def parse_prefix(value: object) -> IPv4Network | IPv6Network:
    """Return the network that `192.0.2.0/24` stands for, or one address; ValueError where it is none."""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    return ipaddress.ip_network(value if isinstance(value, str) else "")


PrefixField = Annotated[IPv4Network | IPv6Network, BeforeValidator(parse_prefix), PlainSerializer(str)]


class CacheSection(Section):
    """What is kept."""

    memory: Size = Field(
        64 << 20, ge=4 << 20, le=1 << 40, description="Memory for answers, index included. Restart to change.",
        json_schema_extra={"unit": "octets"},
    )  # fmt: skip
    snapshot: str = Field("", description="File that the cache is kept in while the daemon is down. Restart to change.")
    snapshot_interval: float = Field(300.0, ge=1, le=86400, json_schema_extra={"unit": "s"},
                                     description="The file is written so often, and at the end."
                                                 " Restart to change.")  # fmt: skip
    prefetch: bool = Field(True, description="Ask again for what is in use, in the last tenth of its life.")
    nxdomain_cut: bool = Field(False, description="A name that does not exist has none below it (RFC 8020).")


class TtlSection(Section):
    """How long answers are held. The TTL on the wire stays the origin's, and counts down."""

    min: int = Field(0, ge=0, le=86400, description="Hold answers at least so long; TTL 0 is never held.",
                     json_schema_extra={"unit": "s"})  # fmt: skip
    max: int = Field(86400, ge=1, le=604800, description="Hold answers at most so long.",
                     json_schema_extra={"unit": "s"})  # fmt: skip
    negative_max: int = Field(3600, ge=1, le=604800, description="Hold NXDOMAIN and NODATA at most so long.",
                              json_schema_extra={"unit": "s"})  # fmt: skip
    failure: int = Field(5, ge=1, le=300, description="Hold SERVFAIL, REFUSED and silence so long (RFC 9520).",
                         json_schema_extra={"unit": "s"})  # fmt: skip
    on_wire: Literal["age", "keep"] = Field(
        "age", description='`"age"` counts TTLs down; `"keep"` sends them as the authoritative server set them.'
    )


class StaleSection(Section):
    """Answers past their time (RFC 8767)."""

    mode: Literal["off", "on-failure", "immediate"] = Field(
        "on-failure",
        description='`"on-failure"` serves them where a refresh fails or takes too long, `"immediate"` at once, with'
                    " the refresh behind it.",
    )  # fmt: skip
    max: int = Field(86400, ge=1, le=604800, description="How long past its time an answer may serve.",
                     json_schema_extra={"unit": "s"})  # fmt: skip
    ttl: int = Field(30, ge=1, le=3600, description="The TTL that they are served with.",
                     json_schema_extra={"unit": "s"})  # fmt: skip
    client_timer: float = Field(1.8, ge=0.01, le=30, json_schema_extra={"unit": "s"},
                                description="So long a client waits for a refresh.")  # fmt: skip
    recheck: float = Field(30.0, ge=1, le=3600, json_schema_extra={"unit": "s"},
                           description="So long a failed refresh is not tried again.")  # fmt: skip


class CookiesSection(Section):
    """DNS cookies (RFC 7873, 9018)."""

    mode: Literal["pass", "serve"] = Field(
        "pass", description='`"pass"` leaves them to the upstream; `"serve"` makes the shield the server.'
    )
    secrets: str = Field(
        "", description="File with a secret of 32 hexadecimal digits a line; the first makes cookies, all are known."
                        " Read again when it changes. None: a random one for each start.",
    )  # fmt: skip
    require: bool = Field(False, description="Over UDP, answer BADCOOKIE to a cookie that is not ours.")


class IdentitySection(Section):
    """Answers of class CHAOS about the shield itself; an empty one leaves the question to the upstream."""

    server: str = Field("", max_length=100, description="TXT of `id.server` and `hostname.bind`.")
    version: str = Field("", max_length=100, description="TXT of `version.server` and `version.bind`.")


class UdpSection(Section):
    """How clients are served over UDP."""

    payload: int = Field(1232, ge=512, le=4096, description="Largest answer, and the EDNS payload size we tell.",
                         json_schema_extra={"unit": "octets"})  # fmt: skip
    receive_buffer: Size = Field(4 << 20, ge=4096, le=1 << 30, json_schema_extra={"unit": "octets"},
                                 description="Kernel's buffer of each socket. Restart to change.")  # fmt: skip


class TcpSection(Section):
    """How clients are served over TCP."""

    connections: int = Field(1000, ge=0, le=1_000_000, description="Connections at once; 0 turns TCP off.")
    per_client: int = Field(100, ge=1, le=1_000_000, description="Connections at once from one address.")
    queries: int = Field(100, ge=1, le=65535, description="Queries that wait for an answer, each connection.")
    idle: float = Field(10.0, ge=0.1, le=3600, description="A connection without traffic is closed after this.",
                        json_schema_extra={"unit": "s"})  # fmt: skip
    write_buffer: Size = Field(
        256 << 10, ge=1 << 10, le=1 << 30, json_schema_extra={"unit": "octets"},
        description="A client that leaves more unread is read no further, and closed when idle.",
    )  # fmt: skip


class ForwardSection(Section):
    """How misses reach an upstream."""

    timeout: float = Field(1.0, ge=0.05, le=30, json_schema_extra={"unit": "s"},
                           description="After so long a silence, a query is sent again, elsewhere.")  # fmt: skip
    deadline: float = Field(2.5, ge=0.05, le=30, description="A client gets SERVFAIL after this.",
                            json_schema_extra={"unit": "s"})  # fmt: skip
    tries: int = Field(2, ge=1, le=4, description="How often a query is sent over UDP, in all.")
    open: int = Field(32768, ge=16, le=1 << 22, description="Clients that wait for an upstream. Restart to change.")
    open_zone: int = Field(
        8192, ge=1, le=1 << 22, description="Of these, for one zone; a name without a `[[zones]]` of its own counts for"
                                            " its last two labels.",
    )  # fmt: skip
    passed_on: int = Field(512, ge=1, le=65535,
                           description="Queries that are never cached (updates, notifies, ...), at once.")  # fmt: skip
    transfers: int = Field(16, ge=1, le=65535, description="Zone transfers at once.")
    overload: Literal["refuse", "drop"] = Field("refuse", description="What queries over these bounds get.")
    retry_truncated: bool = Field(True, description="Fetch a truncated answer over TCP, and keep it whole.")
    sockets: int = Field(16, ge=1, le=63, description="UDP sockets, each with a random port, for each upstream.")
    port_life: float = Field(20.0, ge=1, le=86400, description="A port is given up after this.",
                             json_schema_extra={"unit": "s"})  # fmt: skip
    connections: int = Field(8, ge=1, le=1024, description="TCP connections to one upstream at once.")


class LogSection(Section):
    """What is told on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is told.")
    format: Literal["text", "json"] = Field("text", description="Readable lines, or one JSON object a line.")


class MetricsSection(Section):
    """Counters for Prometheus."""

    listen: EndpointField | None = Field(
        None, description="HTTP endpoint of `/metrics`; none unless given. Restart to change."
    )


def default_socket() -> str:
    """Return where the control socket is unless configured: a folder that is this user's own."""
    if os.geteuid() == 0:
        return "/run/funkenshield/control.sock"
    return f"{os.environ.get('XDG_RUNTIME_DIR', f'/tmp/funkenshield-{os.geteuid()}')}/funkenshield.sock"


class ControlSection(Section):
    """The socket of `funkenshield stats` and `purge`."""

    socket: str = Field(
        default_factory=default_socket, min_length=1, max_length=107,
        description="Path of a UNIX socket, made with mode 0600. By default `/run/funkenshield/control.sock`, or"
                    " `funkenshield.sock` in the runtime directory of a user who is not root. Restart to change.",
    )  # fmt: skip


class ZoneSection(Section):
    """A zone with settings of its own; the longest one that a name is in counts. A new or removed one starts empty.

    `[zones.ttl]` and `[zones.stale]` take the keys of `[ttl]` and `[stale]`; what they leave out is as it is there.
    """

    name: Annotated[str, BeforeValidator(parse_zone)] = Field(description="Its name, such as `example.com`.")
    upstreams: tuple[EndpointField, ...] | None = Field(
        None, min_length=1, max_length=64, strict=False, description="Its nameservers; none: those at the top."
    )
    open: int | None = Field(None, ge=1, le=1 << 22, description="Clients that wait, in place of `forward.open_zone`.")
    notify: tuple[PrefixField, ...] | None = Field(
        None, strict=False, description="Whose NOTIFY has it refreshed, in place of `notify` at the top."
    )
    watch: bool = Field(False, description="Ask for the serial of its SOA; a change purges it.")
    watch_interval: float = Field(60.0, ge=1, le=86400, description="So often.", json_schema_extra={"unit": "s"})
    watch_jitter: float = Field(0.1, ge=0, le=0.9, description="More or less, as a share of the interval.")
    nxdomain_cut: bool | None = Field(None, description="In place of `cache.nxdomain_cut`.")
    nsec: Literal["off", "trust"] = Field(
        "off", description='`"trust"`: deny what lies between NSEC records that were seen (RFC 8198).'
    )
    ttl: TtlSection = Field(TtlSection(), description="What differs from `[ttl]`.")
    stale: StaleSection = Field(StaleSection(), description="What differs from `[stale]`.")


class Config(Section):
    """Everything an operator can say."""

    listen: tuple[EndpointField, ...] = Field(
        (Endpoint("127.0.0.1", 8054),), min_length=1, max_length=64, strict=False,
        description="Where queries are taken, UDP and TCP. Restart to change.",
    )  # fmt: skip
    upstreams: tuple[EndpointField, ...] = Field(
        (Endpoint("127.0.0.1", 8053),), min_length=1, max_length=64, strict=False,
        description="The nameservers behind the shield.",
    )  # fmt: skip
    workers: int = Field(0, ge=0, le=255, description="Threads that answer; 0: one for each core. Restart to change.")
    user: str = Field("", description="Become this user once the sockets are bound. Restart to change.")
    drain: float = Field(3.0, ge=0, le=300, json_schema_extra={"unit": "s"},
                         description="At the end, clients that wait for an upstream are given so long.")  # fmt: skip
    any: Literal["pass", "minimal"] = Field(
        "pass", description='`"minimal"` answers questions for ANY here, with one HINFO record (RFC 8482).'
    )
    notify: tuple[PrefixField, ...] = Field(
        (), strict=False,
        description="Addresses or prefixes whose NOTIFY for a zone has its answers refreshed at next use.",
    )  # fmt: skip
    shuffle: bool = Field(False, description="Rotate the addresses of an answer, from answer to answer.")
    cache: CacheSection = CacheSection()
    ttl: TtlSection = TtlSection()
    stale: StaleSection = StaleSection()
    cookies: CookiesSection = CookiesSection()
    identity: IdentitySection = IdentitySection()
    udp: UdpSection = UdpSection()
    tcp: TcpSection = TcpSection()
    forward: ForwardSection = ForwardSection()
    log: LogSection = LogSection()
    metrics: MetricsSection = MetricsSection()
    control: ControlSection = Field(default_factory=ControlSection)
    zones: tuple[ZoneSection, ...] = Field((), max_length=4000, strict=False)

    @field_validator("zones")
    @classmethod
    def _names_once(cls, zones: tuple[ZoneSection, ...]) -> tuple[ZoneSection, ...]:
        names = [zone.name for zone in zones]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"more than once: {', '.join(twice)}")
        return zones

    @model_validator(mode="after")
    def _upstreams_can_be_told_apart(self) -> "Config":
        count = len({*self.upstreams, *(each for zone in self.zones for each in zone.upstreams or ())})
        if count > UPSTREAMS_MAX:
            raise ValueError(f"upstreams: at most {UPSTREAMS_MAX} in all, not {count}")
        return self

    def ttl_of(self, zone: ZoneSection) -> TtlSection:
        """Return how long the answers of a zone are held."""
        return self.ttl.model_copy(update=_given(zone.ttl))

    def stale_of(self, zone: ZoneSection) -> StaleSection:
        """Return when the answers of a zone serve past their time."""
        return self.stale.model_copy(update=_given(zone.stale))


def _given(section: Section) -> dict[str, Any]:
    """Return what was said in a section, without its defaults."""
    return {key: getattr(section, key) for key in section.model_fields_set}


RESTART = (
    "listen",
    "workers",
    "user",
    "cache.memory",
    "cache.snapshot",
    "cache.snapshot_interval",
    "control",
    "metrics",
    "forward.open",
    "udp.receive_buffer",
)


def load(path: Path | None, overrides: dict[str, Any] | None = None) -> Config:
    """Return the configuration of a file (None: the defaults), with flags laid over it.

    `overrides` maps keys, dotted for tables, to values. Raises ConfigError with a line for each mistake.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not TOML: {error}") from None
    for key, value in (overrides or {}).items():
        *tables, name = key.split(".")
        table = values
        for inner in tables:
            below = table.setdefault(inner, {})
            if not isinstance(below, dict):
                break  # the model names the mistake
            table = below
        else:
            table[name] = value
    try:
        return Config.model_validate(values)
    except ValidationError as mistakes:
        where = str(path) if path else "command line"
        raise ConfigError("\n".join(f"{where}: {line}" for line in _explain(mistakes))) from None


def _explain(mistakes: ValidationError) -> Iterator[str]:
    """Yield `key: what is wrong; what is allowed` for each mistake."""
    found = mistakes.errors(include_url=False)
    for mistake in found:
        if mistake["type"] == "too_short" and any(other["loc"][:-1] == mistake["loc"] for other in found):
            continue  # items with mistakes of their own are not counted
        keys = [part for part in mistake["loc"] if isinstance(part, str)]
        key = _path(mistake["loc"])
        if mistake["type"] == "extra_forbidden":
            section = _field_at(keys[:-1])
            known = sorted(section.model_fields) if section else []
            yield f"{key}: unknown key; known here: {', '.join(known)}"
        else:
            message = mistake["msg"].removeprefix("Value error, ")
            given = "" if isinstance(mistake["input"], dict | list) else f", not {mistake['input']!r}"
            told = re.sub("^Input", "input", message)
            yield f"{key}: {told}{given}" if key else told


def _path(loc: tuple[int | str, ...]) -> str:
    """Return where a mistake is: keys, with the number of the table where there are several."""
    path = ""
    for at, part in enumerate(loc):
        if isinstance(part, str):
            path += f".{part}" if path else part
        elif at + 1 < len(loc):
            path += f"[{part}]"
    return path


def _field_at(keys: list[str]) -> type[BaseModel] | None:
    """Return the section that a path of keys leads to."""
    section: type[BaseModel] = Config
    for key in keys:
        kind = section.model_fields[key].annotation if key in section.model_fields else None
        if get_origin(kind) is tuple:
            kind = get_args(kind)[0]
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return None
        section = kind
    return section


def reference() -> str:
    """Return the reference page of all options, in Markdown."""
    lines = [
        "# Configuration",
        "",
        "One TOML file, given with `funkenshield run -c FILE` and checked by `funkenshield check -c FILE`.",
        "Flags of the command line override it. Every key may be left out. Unless a key says otherwise,",
        "a change takes effect when the daemon is told to re-read its file (SIGHUP); the cache is kept.",
        'Sizes are octets, or text with a unit: `67108864`, `"64MiB"`, `"2GB"`.',
    ]
    top = {name: field for name, field in Config.model_fields.items() if not _field_at([name])}
    lines += ["", "## At the top of the file", "", *_table(top)]
    for name in Config.model_fields:
        section = _field_at([name])
        if section:
            heading = f"[[{name}]]" if name == "zones" else f"[{name}]"
            fields = {key: field for key, field in section.model_fields.items() if not _field_at([name, key])}
            lines += ["", f"## `{heading}`", "", inspect.getdoc(section) or "", "", *_table(fields)]
    return "\n".join([*lines, ""])


def _table(fields: dict[str, FieldInfo]) -> Iterator[str]:
    yield "| key | default | unit | bounds | meaning |"
    yield "|---|---|---|---|---|"
    for name, field in fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        default = "see right" if field.default_factory else "required" if field.is_required() else _show(field.default)
        yield f"| `{name}` | {default} | {extra.get('unit', '')} | {_bounds(field)} | {field.description} |"


def _show(value: object) -> str:
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{item}"' for item in value) + "]`"
    if isinstance(value, bool) or value is None:
        return "none" if value is None else f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _bounds(field: FieldInfo) -> str:
    choices = getattr(field.annotation, "__args__", ()) if "Literal" in str(field.annotation) else ()
    if choices:
        return ", ".join(f'`"{choice}"`' for choice in choices)
    limits = {kind: getattr(item, kind) for item in field.metadata for kind in ("ge", "le") if hasattr(item, kind)}
    return f"{limits['ge']} to {limits['le']}" if len(limits) == 2 else ""
