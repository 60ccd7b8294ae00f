"""What a rule can ask of a query: one table of conditions, in the configuration and in Python alike.

It says what can be asked, and checks what was written. How a condition is decided without Python is told in
`rules.compiler`; nothing here looks at a query.
"""

import ipaddress
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

import dns.exception
import dns.rcode
import dns.rdataclass
import dns.rdatatype
from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from .types import EndpointField, ListOf, PathField, PrefixField, Seconds, Section, ZoneName, parse_prefix

__all__ = [
    "Match", "all_of", "any_of", "dnssec", "edns", "flags", "listener", "name", "not_", "opcode", "option",
    "probability", "qclass", "qtype", "rate", "rcode", "regex", "source", "source_ratio", "suffix", "suffix_file",
    "tagged", "time", "tls_server_name", "transport",
]  # fmt: skip
OPCODES = {"QUERY": 0, "IQUERY": 1, "STATUS": 2, "NOTIFY": 4, "UPDATE": 5, "DSO": 6}
FLAGS = {"AA": 0x0400, "TC": 0x0200, "RD": 0x0100, "RA": 0x0080, "AD": 0x0020, "CD": 0x0010}
OPTIONS = {"LLQ": 1, "NSID": 3, "DAU": 5, "DHU": 6, "N3U": 7, "ECS": 8, "EXPIRE": 9, "COOKIE": 10, "KEEPALIVE": 11,
           "PADDING": 12, "CHAIN": 13, "KEYTAG": 14, "EDE": 15, "REPORTING": 18, "ZONEVERSION": 19}  # fmt: skip


SERVER_NAME = re.compile(r"(\*\.)?([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}")


def _named(kind: str, number_of: Callable[[str], int], most: int) -> BeforeValidator:
    """Return a validator that turns the name of one of a kind of things, or its number, into the number."""

    def parse(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most:
            return value
        try:
            return int(number_of(value.upper() if isinstance(value, str) else ""))
        except (dns.exception.DNSException, KeyError, ValueError):
            raise ValueError(f"not a known {kind}") from None

    return BeforeValidator(parse)


def _server_name(value: object) -> object:
    """Return a name as clients ask for it in a handshake (RFC 6066 3): lower case, without a dot at its end."""
    if not isinstance(value, str):
        return value
    name = value.lower().removesuffix(".")
    if len(name) > 253 or not SERVER_NAME.fullmatch(name) or name.rpartition(".")[2].isdecimal():
        raise ValueError("not a server name; write ns.example.com, or *.example.com for all below it")
    return name


QType = Annotated[int, _named("record type", dns.rdatatype.from_text, 65535)]
QClass = Annotated[int, _named("class", dns.rdataclass.from_text, 65535)]
RCode = Annotated[int, _named("response code", dns.rcode.from_text, 4095)]
OpCode = Annotated[int, _named("opcode", OPCODES.__getitem__, 15)]
Option = Annotated[int, _named("EDNS option", OPTIONS.__getitem__, 65535)]
ServerName = Annotated[str, BeforeValidator(_server_name)]
Transport = Literal["udp", "tcp", "tls", "https", "http", "quic", "h3"]
FlagName = Literal["AA", "TC", "RD", "RA", "AD", "CD"]
Tag = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^\S+$")]


class RateSection(Section):
    """A rate limit; each query for which the condition is evaluated counts."""

    limit: float = Field(gt=0, le=1_000_000, description="Queries per second.")
    window: Seconds = Field(1.0, gt=0, le=3600)
    """Time over which the rate is averaged: so many seconds' worth may come at once."""
    per: Literal["source", "zone", "name", "all"] = "source"
    """What is counted together: each source prefix, each zone (the last two labels), each name, or all queries."""
    ipv4_prefix_length: int = Field(32, ge=1, le=32, description="Length of an IPv4 source prefix.")
    ipv6_prefix_length: int = Field(64, ge=1, le=128, description="Length of an IPv6 source prefix.")


class Match(Section):
    """What must be so for a rule to match; all that is given must, and nothing given matches always.

    Where a list is given, one of it must be so.
    """

    model_config = ConfigDict(populate_by_name=True)

    suffix: ListOf[ZoneName] = Field((), description="The name is one of these, or below one.")
    suffix_file: PathField = ""
    """The name is in this file (one on each line), or below one there; the file is read again when it changes."""
    name: ListOf[ZoneName] = Field((), description="The name is one of these.")
    regex: str = ""
    """A Python regular expression is found in the name (lower case, without the final dot). It is evaluated in Python,
    after all other conditions."""
    qtype: ListOf[QType] = Field((), description="The query type.")
    qclass: ListOf[QClass] = Field((), description="The query class.")
    opcode: ListOf[OpCode] = Field((), description="The opcode.")
    flags: ListOf[FlagName] = ()
    """All of these flags are set; `AA`, `TC` and `RA` only in the chains that have a response."""
    edns: bool | None = Field(None, description="Whether there is an OPT record.")
    do: bool | None = Field(None, description="Whether the DO flag is set.")
    option: ListOf[Option] = Field((), description="The query has one of these EDNS options.")
    source: ListOf[PrefixField] = Field((), description="The client's address is in one of these prefixes.")
    listener: ListOf[EndpointField] = Field((), description="The query was received on this address that we listen on.")
    transport: Transport | None = None
    """The transport of the query; `tcp` is without TLS or HTTP, `http` is HTTP without TLS, from a proxy, and `h3` is
    HTTP/3."""
    tls_server_name: ListOf[ServerName] = ()
    """The query came with TLS (`tls` or `https`), and the client asked for a server of this name in its handshake
    (SNI); `*.example.com` are all names below that."""
    rate: RateSection | None = Field(None, description="The rate limit (below) is exceeded.")
    time: str = Field("", description="The time of day, as `08:00-18:00`, local time; it may extend past midnight.")
    days: ListOf[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]] = ()
    """The day of the week, local time; after midnight, it is the next one."""
    probability: float | None = Field(None, ge=0, le=1, description="Random, with this probability.")
    source_ratio: float | None = Field(None, ge=0, le=1)
    """The client's address is in this ratio of all addresses, always the same ones; a larger ratio includes a smaller
    one."""
    rcode: ListOf[RCode] = Field((), description="The response code; not in the chain `queries`.")
    tag: ListOf[Tag] = Field((), description="An earlier rule set this tag.")
    all: ListOf["Match"] = Field((), description="All of these tables match.")
    any: ListOf["Match"] = Field((), description="One of these tables matches.")
    not_: "Match | None" = Field(None, alias="not", description="This table does not match.")

    @field_validator("regex")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except RecursionError:
            raise ValueError("not a regular expression: nested too deeply") from None
        except (re.error, OverflowError) as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern

    @field_validator("time")
    @classmethod
    def _is_span(cls, text: str) -> str:
        if text:
            minutes_of(text)
        return text

    @model_validator(mode="after")
    def _is_something(self) -> "Match":
        for name in self.model_fields_set & {"suffix", "name", "qtype", "source", "tls_server_name", "any"}:
            if not getattr(self, name):
                raise ValueError(f"{name}: an empty list never matches; remove the key")
        return self

    def __and__(self, other: "Match") -> "Match":
        """Both match."""
        return Match(all=(self, other))

    def __or__(self, other: "Match") -> "Match":
        """One of both matches."""
        return Match(any=(self, other))

    def __invert__(self) -> "Match":
        """It does not match."""
        return Match(not_=self)

    def walk(self) -> "list[Match]":
        """Return this table and all tables in it."""
        below = (*self.all, *self.any, *((self.not_,) if self.not_ else ()))
        return [self, *(inner for each in below for inner in each.walk())]


def minutes_of(text: str) -> tuple[int, int]:
    """Return the minutes of the day that `HH:MM-HH:MM` begins and ends at; ValueError where it is none."""
    match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)-([01]?\d|2[0-4]):([0-5]\d)", text)
    if match is None or (int(match[3]) == 24 and int(match[4])):
        raise ValueError("not a time of day; write HH:MM-HH:MM")
    return int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])


# ---------------------------------------------------------------- for rules in Python


def _given(key: str, *values: object) -> Match:
    """Return the condition that a key is with these values."""
    return Match.model_validate({key: values})


def suffix(*names: str) -> Match:
    """The name is one of these, or below one."""
    return _given("suffix", *names)


def name(*names: str) -> Match:
    """The name is one of these."""
    return _given("name", *names)


def qtype(*types: str | int) -> Match:
    """The query type is one of these, as `"AAAA"` or 28."""
    return _given("qtype", *types)


def qclass(*classes: str | int) -> Match:
    """The query class is one of these, as `"CH"` or 3."""
    return _given("qclass", *classes)


def opcode(*opcodes: str | int) -> Match:
    """The opcode is one of these, as `"NOTIFY"` or 4."""
    return _given("opcode", *opcodes)


def flags(*names: FlagName) -> Match:
    """All of these flags are set; `AA`, `TC` and `RA` only in the chains that have a response."""
    return _given("flags", *names)


def option(*codes: str | int) -> Match:
    """The query has one of these EDNS options, as `"ECS"` or 8."""
    return _given("option", *codes)


def listener(*endpoints: str) -> Match:
    """The query was received on one of these addresses, as `192.0.2.1:53`."""
    return _given("listener", *endpoints)


def rcode(*codes: str | int) -> Match:
    """The response code is one of these, as `"NXDOMAIN"` or 3; not in the chain `queries`."""
    return _given("rcode", *codes)


def tagged(*tags: str) -> Match:
    """An earlier rule set one of these tags."""
    return _given("tag", *tags)


def tls_server_name(*names: str) -> Match:
    """The client asked for one of these servers in its TLS handshake; `*.example.com` are all names below that."""
    return _given("tls_server_name", *names)


def any_of(*matches: Match) -> Match:
    """One of these matches."""
    return _given("any", *matches)


def all_of(*matches: Match) -> Match:
    """All of these match."""
    return _given("all", *matches)


def suffix_file(path: str) -> Match:
    """The name is in this file, one on each line, or below one there."""
    return Match(suffix_file=path)


def regex(pattern: str) -> Match:
    """A regular expression is found in the name (lower case, without the final dot); it is evaluated in Python."""
    return Match(regex=pattern)


def edns(present: bool = True) -> Match:
    """There is an OPT record."""
    return Match(edns=present)


def dnssec(wanted: bool = True) -> Match:
    """DNSSEC records are asked for (the DO flag)."""
    return Match(do=wanted)


def source(*prefixes: str | ipaddress.IPv4Network | ipaddress.IPv6Network) -> Match:
    """The client's address is in one of these prefixes."""
    return Match(source=tuple(parse_prefix(prefix) for prefix in prefixes))


def transport(how: Transport) -> Match:
    """The query came this way."""
    return Match(transport=how)


def rate(limit: float, **how: Any) -> Match:  # noqa: ANN401 - the fields of RateSection
    """The rate, in queries per second, is exceeded; `window`, `per` and the prefix lengths as in the configuration."""
    return Match(rate=RateSection(limit=limit, **how))


def time(span: str, *days: str) -> Match:
    """The local time of day is within `HH:MM-HH:MM`, on one of these days if any are named."""
    return Match.model_validate({"time": span, "days": days})


def probability(ratio: float) -> Match:
    """By chance, in this ratio of the queries."""
    return Match(probability=ratio)


def source_ratio(ratio: float) -> Match:
    """The client's address is in this ratio of all addresses, always the same ones."""
    return Match(source_ratio=ratio)


def not_(match: Match) -> Match:
    """This does not match."""
    return Match(not_=match)
