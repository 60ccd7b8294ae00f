"""What in a configuration has workers answer all queries, although `kernel_answers = true`: the kernel knows nobody.

What concerns some questions alone (rules for names, addresses that take turns) is told by `explain`, for each of them.
"""

from collections.abc import Iterable

from .events import SinkSection
from .rule import RuleSection
from .schema import Config

RECORDED = {"client_query", "client_response"}


def against_all(config: Config, *, blocked: bool = False) -> list[str]:
    """Return the keys because of which the kernel answers nothing; none, too, where it is not asked to.

    Where somebody is `blocked` now, it answers nothing, either.
    """
    if not any(each.section.kernel_answers for each in config.all_listeners):
        return []
    access, rrl = config.guard.access, config.guard.rrl
    reasons: dict[str, object] = {
        "guard.access": access.allow or access.deny or access.default == "deny",
        "guard.rate_limits": config.guard.rate_limits,
        "guard.rrl": rrl.responses_per_second
        or rrl.nxdomains_per_second
        or rrl.errors_per_second
        or rrl.all_per_second,
        "guard.dynamic_blocks": config.guard.dynamic_blocks,
        "blocks": blocked,
        "proxy_protocol_from": config.proxy_protocol_from,
        "client_subnet.add": config.client_subnet.add,
        "rules": any(map(_is_for_all, config.rules)),
        "query_log": _records_all(config.query_log),
        "dnstap": _records_all(each for each in config.dnstap if RECORDED.intersection(each.messages)),
    }
    return [key for key, holds in reasons.items() if holds]


def off(reasons: Iterable[str]) -> str:
    """Return one line that says so."""
    return f"kernel answers are off, because of {', '.join(reasons)}: workers answer all queries"


def _is_for_all(rule: RuleSection) -> bool:
    """Tell whether a rule asks neither name nor type, so that it could concern any question."""
    match = rule.match
    asks = match.name or match.suffix or match.suffix_file or match.qtype or match.all or match.any
    return rule.chain != "responses" and not asks


def _records_all(sinks: Iterable[SinkSection]) -> bool:
    return any(each.sample == 1 and (not each.outcomes or "hit" in each.outcomes) for each in sinks)
