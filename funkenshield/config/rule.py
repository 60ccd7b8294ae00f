"""A rule: conditions, an action, and the chain that it is in."""

from typing import Literal

from pydantic import Field, model_validator

from .action import Action, check
from .match import Match
from .types import Section


class RuleSection(Section):
    """What is done with which queries: of those in a chain, the first that matches decides, but for actions that only
    change something and go on.

    [Rules](guide/rules.md) tells it all.
    """

    name: str = Field("", max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$", description="What it is called in counters.")
    chain: Literal["queries", "responses", "cache-hits"] = Field(
        "queries",
        description="Asked of queries, of upstreams' responses, or of answers from the cache.",
    )
    match: Match = Field(Match(), description="Which queries: a table of conditions.")
    action: Action = Field(description="What is done with them.")
    on_error: Literal["servfail", "refused", "drop", "allow"] = Field(
        "servfail", description="What a query gets where a Python function fails."
    )
    cache: bool = Field(False, description="Results of a Python function are kept, as if an upstream had given them.")

    @model_validator(mode="after")
    def _fits_together(self) -> "RuleSection":
        check(self.chain, self.match, self.action)
        return self
