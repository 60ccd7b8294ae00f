"""The route of an anycast address: which BGP speaker announces it, and when it may."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from .types import EndpointField, ListOf, PathField, PrefixField, Seconds, Section, TypeName, ZoneName

ProtocolName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)]


class AnnounceSection(Section):
    """Anycast: what `funkenshield announce` says to a BGP speaker.

    It runs beside the daemon, which reads nothing of this. The routes are announced while the shield answers well, and
    withdrawn before it ends. It asks `/ready` at `metrics.listen`, too.
    """

    engine: Literal["off", "exabgp", "bird"] = "off"
    """Which BGP speaker: `"exabgp"` runs `funkenshield announce` as its `process`; `"bird"` is told over its control
    socket."""
    routes: ListOf[PrefixField] = Field((), max_length=64, description="With ExaBGP: the prefixes that are announced.")
    next_hop: str = Field(
        "self", pattern=r"^[0-9A-Za-z.:]+$", max_length=64, description="With ExaBGP: their next hop."
    )
    attributes: str = Field("", pattern=r"^[0-9A-Za-z .:,()\[\]-]*$", max_length=1024)
    """With ExaBGP: more of what a route has, in ExaBGP's words, such as `med 100 community [65535:65281]`."""
    protocols: ListOf[ProtocolName] = Field((), max_length=64)
    """With BIRD: names of the protocols of its configuration that have the routes; they are enabled and disabled."""
    bird_socket: PathField = Field("/run/bird/bird.ctl", max_length=107, description="Path of BIRD's control socket.")
    addresses: ListOf[EndpointField] = Field((), max_length=64)
    """Addresses that are asked, over UDP: each must answer well. By default, those that the shield listens on over UDP;
    a wildcard is asked on loopback."""
    name: ZoneName = Field(".", description="Name that is asked for: one that the shield has an answer to.")
    type: TypeName = Field("SOA", description="Type that is asked for.")
    interval: Seconds = Field(
        1.0, ge=0.1, le=60, description="Time between two rounds, in each of which all are asked."
    )
    timeout: Seconds = Field(1.0, ge=0.05, le=30, description="How long an answer may take.")
    rise: int = Field(3, ge=1, le=100, description="Good rounds in a row before the routes are announced.")
    fall: int = Field(3, ge=1, le=100)
    """Bad rounds in a row before the routes are withdrawn. Where the shield says that it ends, the first one counts."""
    hold: Seconds = Field(5.0, ge=0, le=3600)
    """Damping: how long routes stay withdrawn at least. With each withdrawal it doubles, up to `hold_max`; once they
    were announced for `hold_max`, it is this again."""
    hold_max: Seconds = Field(600.0, ge=0, le=86400, description="What `hold` may grow to.")
    peers: ListOf[EndpointField] = Field((), max_length=64)
    """Unicast addresses of other nodes. They are asked before a withdrawal: where none of them answers well, this node
    is the last one, and its routes stay."""
    withdraw_file: PathField = Field("", description="While this file is there, the routes are withdrawn.")
    keep_file: PathField = ""
    """While this file is there, this node is the last one: the routes are not withdrawn, whatever happens."""

    @model_validator(mode="after")
    def _engine_has_what_it_says(self) -> "AnnounceSection":
        needed = {"exabgp": "routes", "bird": "protocols"}.get(self.engine)
        if needed and not getattr(self, needed):
            raise ValueError(f'{needed}: none, and engine = "{self.engine}" needs some')
        if self.hold_max < self.hold:
            raise ValueError(f"hold_max ({self.hold_max:g} s) is less than hold ({self.hold:g} s)")
        return self
