"""What is kept, and for how long: the cache, bounds of TTLs, answers past their time."""

from typing import Literal

from pydantic import Field, field_validator

from ..core._limits import IGNORED_MAX
from .match import Option
from .types import ListOf, Octets, PathField, Seconds, Section, WholeSeconds

MEANINGFUL = {5, 6, 7, 8, 10, 11, 12}  # EDNS options that the compiled part deals with


class CacheSection(Section):
    """The cache: what is stored, and where it is kept across restarts."""

    memory: Octets = Field(64 << 20, ge=4 << 20, le=1 << 40)
    """Memory for cached responses and denials, including the index. A value that does not fit into the machine or the
    control group is an error; where the default does not fit, less is taken. From 1 GiB on, the index (an eleventh of
    it) is resident from the start. Takes effect at restart."""
    snapshot: PathField = ""
    """File that the cache is saved to, so that a restart keeps it. Empty: none. Takes effect at restart."""
    snapshot_interval: Seconds = Field(300.0, ge=1, le=86400)
    """Time between two snapshots; one more is written at shutdown. Takes effect at restart."""
    prefetch: bool = Field(True, description="In the last tenth of its TTL, refresh an entry that is in use.")
    nxdomain_cut: bool = False
    """After NXDOMAIN for a name, answer NXDOMAIN for all names below it (RFC 8020)."""
    skip_options: ListOf[Option] = Field((), max_length=IGNORED_MAX)
    """EDNS options, by code or name, that are not part of the cache key and are removed before forwarding, such as
    those that mark a client (65001, 20292)."""

    @field_validator("skip_options")
    @classmethod
    def _mean_nothing_here(cls, options: tuple[int, ...]) -> tuple[int, ...]:
        for option in options:
            if option in MEANINGFUL:
                raise ValueError(f"{option} cannot be ignored: the shield uses it itself")
        return options


class TtlSection(Section):
    """How long responses are cached. The TTL that clients see is the upstream's, and counts down."""

    min: WholeSeconds = Field(0, ge=0, le=86400)
    """Cache responses at least this long; TTL 0 is never cached."""
    max: WholeSeconds = Field(86400, ge=1, le=604800, description="Cache responses at most this long.")
    negative_max: WholeSeconds = Field(3600, ge=1, le=604800)
    """Cache NXDOMAIN and NODATA at most this long."""
    failure: WholeSeconds = Field(5, ge=1, le=300)
    """Cache SERVFAIL, REFUSED and timeouts this long (RFC 9520)."""
    serve_original: bool = False
    """Send TTLs as the authoritative server set them, in place of counting down."""


class StaleSection(Section):
    """Serve-stale: expired responses (RFC 8767)."""

    mode: Literal["off", "on-failure", "immediate"] = "on-failure"
    """`"on-failure"`: serve expired responses when a refresh fails or takes longer than `client_timeout`;
    `"immediate"`: serve them at once and refresh in the background; `"off"`: never."""
    max: WholeSeconds = Field(86400, ge=1, le=604800)
    """How long after expiry a response may still be served."""
    ttl: WholeSeconds = Field(30, ge=1, le=3600, description="TTL of stale answers.")
    client_timeout: Seconds = Field(1.8, ge=0.01, le=30)
    """How long a client waits for a refresh before it gets the stale answer."""
    recheck: Seconds = Field(30.0, ge=1, le=3600)
    """After a failed refresh, how long until the next attempt."""
