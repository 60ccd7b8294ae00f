"""What single values of the configuration look like: addresses, sizes, times, prefixes, names.

Text in, a value out, or a ValueError that says what is allowed. An IPv6 address that is a mapped IPv4 one (RFC 4291
2.5.5.2) is that, here as wherever an address comes in.
"""

import contextlib
import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Any, NamedTuple, Self, TypeVar, get_args, get_origin

import dns.exception
import dns.rcode
import dns.rdatatype
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Strict, StringConstraints
from pydantic.fields import FieldInfo

from ..core.files import resolve
from ..wire.names import name_from_wire, name_to_wire

RESOLV_CONF = "resolv.conf"  # in place of a host and a port: the nameservers of this machine
# Its last label begins with a letter, or else an address with a slip of the pen would be a name.
HOST = r"(?:[a-z0-9_-]{1,63}\.)*[a-z][a-z0-9_-]{0,62}\.?"
MAPPED = IPv6Network("::ffff:0:0/96")
SIZES = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
TIMES = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}


class Section(BaseModel):
    """A table of the file: nothing unknown, nothing changed later.

    What a key means is its description, or stands below it where that is more than a line has room for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def refined_by(self, own: Self) -> Self:
        """Return this table, with the keys that another one has in place of its own."""
        return self.model_copy(update=own.model_dump(exclude_unset=True))


class Unit(str):
    """What a number counts."""


def unit_of(field: FieldInfo) -> str:
    """Return the unit of a field: `s`, `octets`, or none."""
    return next((each for each in field.metadata if isinstance(each, Unit)), "")


def kind_of(field: FieldInfo) -> Any:  # noqa: ANN401 - a type, or what stands for one
    """Return the type of a field, or of its items: without None, and without what checks them."""
    kind = _bare(field.annotation)
    return _bare(get_args(kind)[0]) if get_origin(kind) is tuple else kind


def section_of(field: FieldInfo | None) -> type[BaseModel] | None:
    """Return the section of a field that takes a table, or several."""
    kind = kind_of(field) if field else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def is_several(field: FieldInfo) -> bool:
    """Tell whether a field takes a list."""
    return get_origin(_bare(field.annotation)) is tuple


def _bare(kind: Any) -> Any:  # noqa: ANN401 - as above
    while get_origin(kind) is Annotated or type(None) in get_args(kind):
        kind = next(each for each in get_args(kind) if each is not type(None))
    return kind


class Endpoint(NamedTuple):
    """An address and a port; of an upstream, a name may stand for addresses."""

    host: str
    port: int

    @property
    def is_name(self) -> bool:
        """Whether it has no address yet."""
        return re.fullmatch(HOST, self.host) is not None

    @property
    def family(self) -> socket.AddressFamily:
        """Return the family of sockets that lead there."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    @property
    def sockaddr(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """Return it as sockets take it: an interface is a number there; OSError where it is gone."""
        return sockaddr(self.host, self.port)

    def __str__(self) -> str:
        if self.host == RESOLV_CONF:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def sockaddr(host: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """Return an address and a port as sockets take them (RFC 4007); OSError where its interface is gone."""
    address, _, interface = host.partition("%")
    if not interface:
        return host, port
    return address, port, 0, int(interface) if interface.isdecimal() else socket.if_nametoindex(interface)


def has_scope(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return an address that can be reached as it is written: a link-local one needs an interface of this machine."""
    if isinstance(address, IPv6Address):
        if address.is_link_local and not address.scope_id:
            raise ValueError(f"{address} is link-local; add its interface: {address}%eth0")
        if address.scope_id and not _is_interface(address.scope_id):
            raise ValueError(f"this machine has no interface {address.scope_id}")
    return address


def _is_interface(scope: str) -> bool:
    """Tell whether there is an interface of a name or number; to list them takes AF_NETLINK, which our unit refuses."""
    with contextlib.suppress(OSError):
        # No number is as large as 2**31, and Python would cut off the bits of one that is larger.
        number = min(int(scope), 1 << 31) if scope.isdecimal() else socket.if_nametoindex(scope)
        return bool(socket.if_indextoname(number))
    return False


def parse_endpoint(text: object) -> Endpoint:
    """Return the endpoint that `ADDR:PORT`, or `[ADDR]:PORT` for IPv6, stands for; ValueError where it is none."""
    if isinstance(text, Endpoint):
        return text
    match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+)):(\d{1,5})", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"not an endpoint; {_endpoint_meant(text) or 'write ADDR:PORT'}")
    host, port = match[1] or match[2], int(match[3])
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"{host} is not an IP address") from None
    if (address.version == 6) != bool(match[1]):
        raise ValueError("IPv6 addresses are written in brackets, IPv4 addresses are not")
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} is not between 1 and 65535")
    return Endpoint(str(has_scope(parse_address(address))), port)


def parse_place(text: object) -> Endpoint:
    """Return where an upstream is: an endpoint, `HOST:PORT`, or `resolv.conf`; ValueError where it is none of these."""
    if text == RESOLV_CONF:
        return Endpoint(RESOLV_CONF, 53)
    match = re.fullmatch(rf"({HOST})(?::(\d{{1,5}}))?", text.lower()) if isinstance(text, str) else None
    if match is None or len(match[1]) > 253:
        return parse_endpoint(text)
    if match[2] is None:
        raise ValueError(f"not an endpoint; a host needs a port: {text}:53")
    if not 1 <= int(match[2]) <= 65535:
        raise ValueError(f"port {int(match[2])} is not between 1 and 65535")
    return Endpoint(match[1], int(match[2]))


def overlaps(endpoint: Endpoint, endpoints: Iterable[Endpoint]) -> bool:
    """Tell whether an endpoint is one of a wildcard's among these, or the wildcard of one."""
    others = [each for each in endpoints if each != endpoint]
    return _wildcard_of(endpoint) in others or endpoint in map(_wildcard_of, others)


def _wildcard_of(endpoint: Endpoint) -> Endpoint:
    """Return the endpoint that is a port of all addresses of a family, one of which is this."""
    return Endpoint("::" if ":" in endpoint.host else "0.0.0.0", endpoint.port)


def _endpoint_meant(text: object) -> str:
    """Return what was probably meant by a text that is no endpoint."""
    if not isinstance(text, str):
        return ""
    host, _, port = text.rpartition(":")
    if port.isdecimal() and host in {"", "*"}:
        return f"for all addresses, write 0.0.0.0:{port} and [::]:{port}"
    with contextlib.suppress(ValueError):
        return f"IPv6 addresses are written in brackets: [{ipaddress.IPv6Address(host)}]:{port}"
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(text.strip("[]"))
        return f"an address needs a port: {f'[{address}]' if address.version == 6 else address}:53"
    return ""


def parse_size(text: str) -> int:
    """Return the number of octets that a text like `64MiB` stands for; ValueError where it is none."""
    match = re.fullmatch(r"(\d{1,18})\s*([kmg]i?)?b?", text.strip().lower())
    if match is None:
        raise ValueError("not a size; write octets, or a number with kB, MB, GB, KiB, MiB or GiB")
    return int(match[1]) * SIZES[match[2] or ""]


def parse_time(text: str) -> float:
    """Return the seconds that a text like `1h30m` or `500ms` stands for; ValueError where it is none."""
    if not re.fullmatch(r"\d{1,12}(\.\d{1,9})?|(\d{1,12}(\.\d{1,9})?\s*(ms|min|[smhdw])\s*)+", text.strip()):
        raise ValueError("not a time; write seconds, or numbers with ms, s, m, h, d or w")
    parts = re.findall(r"([\d.]+)\s*([a-z]*)", text)
    seconds = round(sum(float(number) * TIMES[unit or "s"] for number, unit in parts), 6)
    return int(seconds) if seconds.is_integer() else seconds


def _read(parse: Callable[[str], float]) -> Callable[[object], object]:
    """Return what reads text, and leaves alone what it cannot read, for pydantic to name."""

    def reader(value: object) -> object:
        with contextlib.suppress(ValueError):
            return parse(value) if isinstance(value, str) else value
        return value

    return reader


Seconds = Annotated[float, BeforeValidator(_read(parse_time)), Unit("s")]
WholeSeconds = Annotated[int, BeforeValidator(_read(parse_time)), Unit("s")]
Octets = Annotated[int, BeforeValidator(_read(parse_size)), Unit("octets")]


def parse_zone(text: object) -> str:
    """Return a zone's name as an absolute one in lower case; ValueError where it is none."""
    return name_from_wire(name_to_wire(text if isinstance(text, str) else ""))


def parse_prefix(value: object) -> IPv4Network | IPv6Network:
    """Return the network that `192.0.2.0/24` stands for, or one address; ValueError where it is none."""
    if not isinstance(value, IPv4Network | IPv6Network):
        text = value if isinstance(value, str) else ""
        try:
            value = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ValueError("not a prefix; write ADDR/LENGTH, or ADDR") from None
        if value.network_address != ipaddress.ip_address(text.partition("/")[0]):
            raise ValueError(f"not a prefix: host bits are set; did you mean {value}?")
    if isinstance(value, IPv6Network) and value.subnet_of(MAPPED):
        return IPv4Network((value.network_address.packed[12:], value.prefixlen - 96))
    return value


def parse_address(value: object) -> IPv4Address | IPv6Address:
    """Return an IP address; ValueError where it is none."""
    if not isinstance(value, IPv4Address | IPv6Address):
        try:
            value = ipaddress.ip_address(value if isinstance(value, str) else "")
        except ValueError:
            raise ValueError("not an IP address") from None
    return (isinstance(value, IPv6Address) and value.ipv4_mapped) or value


def parse_type(text: str) -> str:
    """Return the name of a record type; ValueError where it is none."""
    try:
        number = dns.rdatatype.from_text(text)
    except (dns.exception.DNSException, ValueError):
        raise ValueError("not a known record type") from None
    if dns.rdatatype.is_metatype(number):
        raise ValueError("not a type of records")
    return dns.rdatatype.to_text(number)


def as_several(value: object) -> object:
    """Return one value as a list of one; whoever names one thing need not write a list."""
    return value if value is None or isinstance(value, list | tuple | set | frozenset) else (value,)


def parse_ports(value: object) -> tuple[int, int]:
    """Return the first and last of ports that `5353`, or text such as `5000-5010`, stands for; ValueError."""
    if isinstance(value, tuple):
        return value
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", str(value)) if not isinstance(value, bool) else None
    if match is None:
        raise ValueError('not ports; write 5353, or "5000-5010"')
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= 65535:
        raise ValueError("ports are between 1 and 65535, the lower one first")
    return first, last


def parse_rcode(text: str) -> str:
    """Return the name of a response code; ValueError where it is none."""
    try:
        return dns.rcode.to_text(dns.rcode.from_text(text))
    except (dns.exception.DNSException, ValueError):
        raise ValueError(f"{text} is not a response code") from None


Item = TypeVar("Item")
ListOf = Annotated[tuple[Item, ...], Strict(False), BeforeValidator(as_several)]
EndpointField = Annotated[Endpoint, BeforeValidator(parse_endpoint)]
PlaceField = Annotated[Endpoint, BeforeValidator(parse_place)]
PathField = Annotated[str, AfterValidator(resolve)]
GroupName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^\S+$")]
AddressField = Annotated[IPv4Address | IPv6Address, BeforeValidator(parse_address), AfterValidator(has_scope)]
ZoneName = Annotated[str, BeforeValidator(parse_zone)]
TypeName = Annotated[str, AfterValidator(parse_type)]
RcodeName = Annotated[str, AfterValidator(parse_rcode)]
PortsField = Annotated[tuple[int, int], BeforeValidator(parse_ports)]
PrefixField = Annotated[IPv4Network | IPv6Network, BeforeValidator(parse_prefix)]
