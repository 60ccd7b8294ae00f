"""What a rule can do with a query: one action, in the configuration and in Python alike.

It says what there is, and checks what was written. What is done where is told in `rules.compiler` and `rules.executor`.
"""

from pydantic import ConfigDict, Field, field_validator, model_validator

from ..core.files import resolve
from ..wire.record_text import parse_record
from .match import Match, Option, Tag
from .types import EndpointField, GroupName, PathField, Section, ZoneName, parse_endpoint

DECIDES = ("allow", "forward", "answer", "zone", "zone_file", "nxdomain", "nodata", "refused", "servfail", "drop",
           "truncate", "call")  # fmt: skip  # after these, no other rule is asked


class BoundsSection(Section):
    """Bounds of TTLs, on the wire and for holding."""

    min: int = Field(0, ge=0, le=604800, description="At least.", json_schema_extra={"unit": "s"})
    max: int = Field(604800, ge=1, le=604800, description="At most.", json_schema_extra={"unit": "s"})

    @model_validator(mode="after")
    def _leave_room(self) -> "BoundsSection":
        if self.min > self.max:
            raise ValueError(f"min is {self.min}, and max only {self.max}")
        return self


class RenameSection(Section):
    """Another name in place of the one asked for, and the one asked for again in the answer."""

    old: ZoneName = Field(description="What names end in.")
    new: ZoneName = Field(description="What they end in when they go on.")


class OptionSection(Section):
    """An EDNS option."""

    code: Option = Field(description="Its code.")
    data: str = Field("", max_length=1024, pattern=r"^([0-9a-fA-F]{2})*$", description="Its octets, in hexadecimal.")


class Action(Section):
    """What is done with a query; exactly one of these."""

    model_config = ConfigDict(populate_by_name=True)

    allow: bool = Field(False, description="Nothing: it goes its usual way, and no other rule is asked.")
    forward: GroupName = Field("", description="Upstreams of this group are asked.")
    answer: tuple[str, ...] = Field(
        (), strict=False, description="Records of the name asked for, as `A 192.0.2.1`, or `300 A 192.0.2.1` with a TTL"
                                      " (else 60); other types are NODATA.",
    )  # fmt: skip
    zone: str = Field("", description="Answer from this text, a zone file; `$ORIGIN` or full names.")
    zone_file: PathField = Field("", description="Answer from this zone file; read again when it changes.")
    nxdomain: bool = Field(False, description="The name does not exist.")
    nodata: bool = Field(False, description="The name has no such records.")
    refused: bool = Field(False, description="REFUSED.")
    servfail: bool = Field(False, description="SERVFAIL.")
    drop: bool = Field(False, description="No answer at all.")
    truncate: bool = Field(False, description="TC=1, so that the client comes by TCP; there it goes its usual way.")
    call: str = Field("", description="A Python function, as `FILE.py:FUNCTION`.")
    skip_cache: bool = Field(False, description="The cache is left alone: the upstream is asked, and nothing kept.")
    ttl: BoundsSection | None = Field(None, description="TTLs are kept within bounds (below).")
    remove_option: tuple[Option, ...] = Field(
        (), strict=False, description="These EDNS options are taken out of the query."
    )
    add_option: OptionSection | None = Field(None, description="An EDNS option is put into the query (below).")
    rename: RenameSection | None = Field(None, description="Another name is asked for (below).")
    delay: float = Field(0.0, ge=0, le=10, json_schema_extra={"unit": "s"}, description="It waits.")
    tee: EndpointField | None = Field(None, description="A copy goes to this server, whose answer nobody reads.")
    log: str = Field(
        "", description="A line in the log, as `{source} asks {qname} {qtype}`; also `qclass`, `transport`, `id`,"
                        " `tags`, `rcode`.",
    )  # fmt: skip
    tag: Tag = Field("", validate_default=False, description="It gets a tag, for rules behind this one.")
    continue_: bool = Field(False, alias="continue", description="Nothing, but it is counted.")

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
            raise ValueError(f"{error} is no field of a query; known: {', '.join(known)}") from None
        return text

    @field_validator("call")
    @classmethod
    def _is_in_a_file(cls, text: str) -> str:
        path, _, function = text.rpartition(":")
        if text and not (path and function):
            raise ValueError("no function; write FILE.py:FUNCTION")
        return resolve(text)

    @model_validator(mode="after")
    def _is_one(self) -> "Action":
        if len(self.model_fields_set) != 1:
            raise ValueError("an action is one thing; give exactly one")
        if getattr(self, self.kind + "_" if self.kind == "continue" else self.kind) in (False, "", ()):
            raise ValueError(f"{self.kind}: that is not done by saying no; leave the rule out")
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
        raise ValueError(f"{action.kind} is nothing for {chain}; these can: {', '.join(sorted(FITTING[chain]))}")
    if chain == "queries" and any(each.rcode or {"AA", "TC", "RA"} & set(each.flags) for each in match.walk()):
        raise ValueError("a query has no rcode, and none of the flags AA, TC and RA")


# ---------------------------------------------------------------- for rules in Python


def allow() -> Action:
    """It goes its usual way, and no other rule is asked."""
    return Action(allow=True)


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


def nxdomain() -> Action:
    """Say that the name does not exist."""
    return Action(nxdomain=True)


def nodata() -> Action:
    """Say that the name has no such records."""
    return Action(nodata=True)


def refuse() -> Action:
    """Answer REFUSED."""
    return Action(refused=True)


def servfail() -> Action:
    """Answer SERVFAIL."""
    return Action(servfail=True)


def drop() -> Action:
    """Answer nothing at all."""
    return Action(drop=True)


def truncate() -> Action:
    """Answer TC=1 over UDP, so that the client comes by TCP."""
    return Action(truncate=True)


def skip_cache() -> Action:
    """Leave the cache alone: the upstream is asked, and nothing kept."""
    return Action(skip_cache=True)


def ttl(**bounds: int) -> Action:
    """Keep TTLs within `min` and `max`, in seconds."""
    return Action(ttl=BoundsSection(**bounds))


def remove_option(*codes: str | int) -> Action:
    """Take these EDNS options out of the query."""
    return Action.model_validate({"remove_option": codes})


def add_option(code: str | int, data: bytes = b"") -> Action:
    """Put an EDNS option into the query."""
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


def proceed() -> Action:
    """Do nothing; the next rule is asked."""
    return Action(continue_=True)
