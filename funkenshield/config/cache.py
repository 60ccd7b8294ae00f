"""What is kept, and for how long: the cache, bounds of TTLs, answers past their time."""

from typing import Literal

from pydantic import Field, field_validator

from .match import Option
from .types import PathField, Section

MEANINGFUL = {5, 6, 7, 8, 10, 11, 12}  # EDNS options that the compiled part deals with


class CacheSection(Section):
    """What is kept."""

    memory: int = Field(
        64 << 20, ge=4 << 20, le=1 << 40,
        description="Memory for answers and denials, index included. What cannot fit into the machine, or the control"
                    " group, is a mistake; where the default does not fit, there is less. From 1 GiB on, an eleventh of"
                    " it, the index, is resident from the start. Restart to change.",
        json_schema_extra={"unit": "octets"},
    )  # fmt: skip
    snapshot: PathField = Field(
        "", description="File that the cache is kept in while the daemon is down. Restart to change."
    )
    snapshot_interval: float = Field(300.0, ge=1, le=86400, json_schema_extra={"unit": "s"},
                                     description="The file is written so often, and at the end."
                                                 " Restart to change.")  # fmt: skip
    prefetch: bool = Field(True, description="Ask again for what is in use, in the last tenth of its life.")
    nxdomain_cut: bool = Field(False, description="A name that does not exist has none below it (RFC 8020).")
    skip_options: tuple[Option, ...] = Field(
        (), max_length=16, strict=False,
        description="EDNS options, by number, that tell no questions apart, such as marks of clients (65001, 20292):"
                    " answers are the same whatever they say, and upstreams do not get them.",
    )  # fmt: skip

    @field_validator("skip_options")
    @classmethod
    def _mean_nothing_here(cls, options: tuple[int, ...]) -> tuple[int, ...]:
        for option in options:
            if option in MEANINGFUL:
                raise ValueError(f"{option} means something to the shield itself")
        return options


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
    serve_original: bool = Field(
        False, description="Send TTLs as the authoritative server set them, in place of counting down."
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
    client_timeout: float = Field(1.8, ge=0.01, le=30, json_schema_extra={"unit": "s"},
                                description="So long a client waits for a refresh.")  # fmt: skip
    recheck: float = Field(30.0, ge=1, le=3600, json_schema_extra={"unit": "s"},
                           description="So long a failed refresh is not tried again.")  # fmt: skip
