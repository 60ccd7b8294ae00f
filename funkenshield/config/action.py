"""What a rule can do with a query: one action, in the configuration and in Python alike.

It says what there is, and checks what was written. What is done where is told in `rules.compiler` and `rules.executor`.
"""

from pydantic import ConfigDict, Field, field_validator, model_validator

from ..core.files import resolve
from ..wire.record_text import parse_record
from .match import Match, Option, Tag
from .types import EndpointField, GroupName, ListOf, PathField, Seconds, Section, WholeSeconds, ZoneName, parse_endpoint

__all__ = [
    "Action", "add_option", "allow", "answer", "delay", "drop", "forward", "log", "nodata", "nxdomain", "proceed",
    "refuse", "remove_option", "rename", "servfail", "skip_cache", "tag", "tee", "truncate", "ttl", "zone", "zone_file",
]  # fmt: skip
DECIDES = ("allow", "forward", "answer", "zone", "zone_file", "nxdomain", "nodata", "refused", "servfail", "drop",
           "truncate", "call")  # fmt: skip  # after these, no other rule is asked


class BoundsSection(Section):
    """Bounds of TTLs, in the response and in the cache."""

    min: WholeSeconds = Field(0, ge=0, le=604800, description="Lower bound.")
    max: WholeSeconds = Field(604800, ge=1, le=604800, description="Upper bound.")

    @model_validator(mode="after")
    def _leave_room(self) -> "BoundsSection":
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is larger than max ({self.max})")
        return self


class RenameSection(Section):
    """Forwards another name, and restores the original one in the answer."""

    old: ZoneName = Field(description="Suffix of the query name.")
    new: ZoneName = Field(description="Suffix that replaces it.")


class OptionSection(Section):
    """An EDNS option."""

    code: Option = Field(description="Option code, or its name.")
    data: str = Field("", max_length=1024, pattern=r"^([0-9a-fA-F]{2})*$", description="Option data, in hexadecimal.")


class Action(Section):
    """What is done with a query; exactly one of these."""

    model_config = ConfigDict(populate_by_name=True)

    allow: bool = Field(False, description="Process the query as usual; no more rules of the chain are evaluated.")
    forward: GroupName = Field("", description="Forward to the upstreams of this group.")
    answer: ListOf[str] = ()
    """Answer with these records for the query name, as `A 192.0.2.1`, or `300 A 192.0.2.1` with a TTL (default 60);
    other types get NODATA."""
    zone: str = Field("", description="Answer from this zone, as text; with `$ORIGIN` or absolute names.")
    zone_file: PathField = Field("", description="Answer from this zone file; it is read again when it changes.")
    nxdomain: bool = Field(False, description="Answer NXDOMAIN.")
    nodata: bool = Field(False, description="Answer NODATA.")
    refused: bool = Field(False, description="Answer REFUSED.")
    servfail: bool = Field(False, description="Answer SERVFAIL.")
    drop: bool = Field(False, description="Do not respond.")
    truncate: bool = False
    """Over UDP, answer with TC=1, so that the client retries over TCP; over TCP, as `allow`."""
    call: str = Field("", description="Call a Python function, as `FILE.py:FUNCTION`.")
    skip_cache: bool = Field(False, description="Neither look up nor store in the cache.")
    ttl: BoundsSection | None = Field(None, description="Limit TTLs (below).")
    remove_option: ListOf[Option] = Field((), description="Remove these EDNS options from the query.")
    add_option: OptionSection | None = Field(None, description="Add an EDNS option to the query (below).")
    rename: RenameSection | None = Field(None, description="Forward another name (below).")
    delay: Seconds = Field(0.0, ge=0, le=10, description="Delay the query.")
    tee: EndpointField | None = Field(None, description="Send a copy to this server, whose responses are ignored.")
    log: str = ""
    """Write a line to the log, such as `{source} asks {qname} {qtype}`; also `qclass`, `transport`, `id`, `tags`,
    `rcode`."""
    tag: Tag = Field("", validate_default=False, description="Set a tag, for later rules.")
    continue_: bool = Field(False, alias="continue", description="Count the query, and do nothing else.")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        """Take the name of an action that takes nothing for the action."""
        return {value: True} if isinstance(value, str) else value

    @field_validator("answer")
    @classmethod
    def _are_records(cls, records: tuple[str, ...]) -> tuple[str, ...]:
        for record in records:
            parse_record(record)
        return records

    @field_validator("log")
    @classmethod
    def _has_known_fields(cls, text: str) -> str:
        known = dict.fromkeys(("source", "qname", "qtype", "qclass", "transport", "tags", "rcode"), "") | {"id": 0}
        try:
            text.format(**known)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{error} is not a field of a query; fields are {', '.join(known)}") from None
        return text

    @field_validator("call")
    @classmethod
    def _is_in_a_file(cls, text: str) -> str:
        path, _, function = text.rpartition(":")
        if text and not (path and function):
            raise ValueError("not a function; write FILE.py:FUNCTION")
        return resolve(text)

    @model_validator(mode="after")
    def _is_one(self) -> "Action":
        if len(self.model_fields_set) != 1:
            raise ValueError("an action table has exactly one key")
        if getattr(self, self.kind + "_" if self.kind == "continue" else self.kind) in (False, "", ()):
            raise ValueError(f"{self.kind}: a false or empty value has no meaning; remove the rule")
        return self

    @property
    def kind(self) -> str:
        """Return its name."""
        return next(iter(self.model_fields_set)).rstrip("_")

    @property
    def decides(self) -> bool:
        """Tell whether no other rule is asked after it."""
        return self.kind in DECIDES


FITTING = {
    "responses": {
        "allow", "forward", "nxdomain", "nodata", "refused", "servfail", "drop", "skip_cache", "ttl", "tag", "log",
        "continue", "call",
    },
    "cache-hits": {
        "allow", "nxdomain", "nodata", "refused", "servfail", "drop", "truncate", "tag", "log", "delay", "continue",
        "call",
    },
}  # fmt: skip


def check(chain: str, match: Match, action: Action) -> None:
    """Raise ValueError where a chain has no use for an action, or cannot know what a condition asks."""
    if chain in FITTING and action.kind not in FITTING[chain]:
        raise ValueError(
            f"{action.kind} is not possible in the chain {chain}; possible are {', '.join(sorted(FITTING[chain]))}"
        )
    if chain == "queries" and any(each.rcode or {"AA", "TC", "RA"} & set(each.flags) for each in match.walk()):
        raise ValueError("a query has no rcode, and none of the flags AA, TC and RA")


# ---------------------------------------------------------------- for rules in Python


def allow() -> Action:
    """Process the query as usual; no more rules of the chain are evaluated."""
    return Action(allow=True)


def nxdomain() -> Action:
    """Answer NXDOMAIN."""
    return Action(nxdomain=True)


def nodata() -> Action:
    """Answer NODATA."""
    return Action(nodata=True)


def refuse() -> Action:
    """Answer REFUSED."""
    return Action(refused=True)


def servfail() -> Action:
    """Answer SERVFAIL."""
    return Action(servfail=True)


def drop() -> Action:
    """Do not respond."""
    return Action(drop=True)


def truncate() -> Action:
    """Over UDP, answer with TC=1, so that the client retries over TCP; over TCP, as `allow`."""
    return Action(truncate=True)


def skip_cache() -> Action:
    """Neither look up nor store in the cache."""
    return Action(skip_cache=True)


def proceed() -> Action:
    """Count the query, and do nothing else."""
    return Action(continue_=True)


def forward(group: str) -> Action:
    """Upstreams of this group are asked."""
    return Action(forward=group)


def answer(*records: str) -> Action:
    """Answer with records of the name asked for, as `A 192.0.2.1`."""
    return Action(answer=records)


def zone(text: str) -> Action:
    """Answer from this text, a zone file."""
    return Action(zone=text)


def zone_file(path: str) -> Action:
    """Answer from this zone file."""
    return Action(zone_file=path)


def ttl(**bounds: int) -> Action:
    """Keep TTLs within `min` and `max`, in seconds."""
    return Action(ttl=BoundsSection(**bounds))


def remove_option(*codes: str | int) -> Action:
    """Remove these EDNS options from the query."""
    return Action.model_validate({"remove_option": codes})


def add_option(code: str | int, data: bytes = b"") -> Action:
    """Add an EDNS option to the query."""
    return Action.model_validate({"add_option": {"code": code, "data": data.hex()}})


def rename(old: str, new: str) -> Action:
    """Ask for names that end in `new` in place of `old`, and turn them back in the answer."""
    return Action(rename=RenameSection(old=old, new=new))


def delay(seconds: float) -> Action:
    """Let the query wait."""
    return Action(delay=seconds)


def tee(endpoint: str) -> Action:
    """Send a copy of the query to a server, whose answer nobody reads."""
    return Action(tee=parse_endpoint(endpoint))


def log(line: str) -> Action:
    """Write a line to the log."""
    return Action(log=line)


def tag(name: str) -> Action:
    """Give the query a tag, for rules behind this one."""
    return Action(tag=name)
