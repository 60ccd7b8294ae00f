"""A rule: conditions, an action, and the chain that it is in."""

from typing import Literal

from pydantic import Field, model_validator

from .action import Action, check
from .match import Match
from .types import Section

ChainName = Literal["queries", "responses", "cache-hits"]
OnError = Literal["servfail", "refused", "drop", "allow"]


class RuleSection(Section):
    """A rule: an action for the queries that match. The rules of a chain are evaluated in order until one decides.

    See [Rules](guide/rules.md).
    """

    name: str = Field("", max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$", description="Name in logs and metrics.")
    chain: ChainName = "queries"
    """What it is evaluated for: `"queries"`, `"responses"` of upstreams, or `"cache-hits"`."""
    match: Match = Field(Match(), description="Conditions; all must be true.")
    action: Action = Field(description="What is done.")
    on_error: OnError = Field("servfail", description="What a query gets when a Python function fails.")
    cache: bool = Field(False, description="Cache the results of a Python function like responses of an upstream.")
    inline: bool = False
    """Call a Python function that is not async on the event loop, without a thread: it never blocks."""

    @model_validator(mode="after")
    def _fits_together(self) -> "RuleSection":
        check(self.chain, self.match, self.action)
        return self
