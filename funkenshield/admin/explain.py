"""Why a question would be answered so: what `_explain` found out, step by step, in words.

It decides nothing: what becomes of a question is told by what would have been counted for it. It makes the query, has
Python's conditions looked at where rules stop for them, and gives what came of it names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, get_args

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.rcode

from ..config.listeners import UDP_TRANSPORTS
from ..config.match import Transport
from ..errors import FunkenShieldError
from ..forward._miss_path import MissPath
from ..rules.compiler import CHAINS, Compiled, Stop
from ..rules.engine import RuleEngine
from ..rules.wording import told_action, told_condition
from ..server.listeners import OpenListener
from ..upstream.pool import Upstream, Upstreams
from ..wire.names import name_from_wire, name_to_wire, type_number
from . import entries
from ._explain import Question

TRANSPORTS: tuple[Transport, ...] = get_args(Transport)  # in the order of their numbers
GUARDED = {"acl_denied", "blocked", "rate_limited"}  # what is counted of what the guard holds back,
UNRULED = GUARDED | {"malformed_queries", "badcookie_responses"}  # and of all that no rule is asked about
PAYLOAD = 1232  # octets, that a query of ours says
DRAWN = {"random", "latency"}  # policies whose choice nobody knows before
GOES_ON = {"log", "delay", "tee"}  # actions in Python after which a query is as it was
ENDS = {  # by what would be counted: what becomes of a query before the cache, and why
    "acl_denied": ("denied", "the access list denies it"),
    "blocked": ("blocked", "its source prefix is blocked"),
    "rate_limited": ("limited", "its source prefix is over a limit of queries"),
    "malformed_queries": ("malformed", "it is malformed"),
    "badcookie_responses": ("badcookie", "it has no cookie of ours"),
    "forward_denied": ("refused", "forward.allow does not have its client ask that"),
    "minimal_any_answers": ("local", "ANY is answered here"),
}  # fmt: skip
REJECTED = {
    "zone_limit_exceeded": "as many queries wait for the zone as may",
    "outstanding_limit_exceeded": "as many queries wait as may",
    "upstreams_saturated": "each upstream has as many outstanding queries as it may have",
    "fair_share_exceeded": "its source prefix has its share of what may wait",
    "answered_stale": "all who ask are served what is stale, for the upstream does not answer in time",
}
IN_KERNEL = (  # by the Reason why a worker answers
    "the kernel answers it: a worker sees it about once a second",
    "a worker answers it, not the kernel: it has more than a plain OPT, or a long name",
    "a worker answers it, not the kernel: the answer is truncated, or has more than 512 octets",
    "a worker answers it, not the kernel: access lists, blocks, limits, subnets or front proxies look at who asks",
    "a worker answers it, not the kernel: a rule could concern it",
    "a worker answers it, not the kernel: it is seldom asked for, stale or due for prefetch, or addresses take turns",
)
NOBODY = {"down": "no upstream of the group is in service", "busy": REJECTED["upstreams_saturated"]}


@dataclass(frozen=True)
class Asked:
    """A question, and whose it is."""

    name: str
    type: str = "A"
    source: str = "127.0.0.1"
    transport: str = "udp"
    listener: str | None = None  # None: the first one of this transport
    flags: Sequence[str] = ("RD", "AD")
    edns: bool = True
    do: bool = False
    subnet: str | None = None
    server_name: str = ""

    @property
    def has_opt(self) -> bool:
        """Whether the query has an OPT record."""
        return self.edns or self.do or self.subnet is not None

    def wire(self) -> bytes:
        """Return the query; FunkenShieldError where there is none like that."""
        try:
            name_to_wire(self.name)
            type_number(self.type)
            network = ip_network(self.subnet, strict=False) if self.subnet else None
            options: list[dns.edns.Option] = []
            if network:
                options.append(dns.edns.ECSOption(str(network.network_address), network.prefixlen))
            query = dns.message.make_query(self.name, self.type)
            query.flags = dns.flags.from_text(" ".join(self.flags))
            if self.has_opt:
                query.use_edns(0, dns.flags.DO if self.do else 0, PAYLOAD, options=options)
            return query.to_wire()
        except (ValueError, KeyError, dns.exception.DNSException) as error:
            raise FunkenShieldError(f"explain: {error}") from None


def explain(
    miss_path: MissPath, rules: RuleEngine, upstreams: Upstreams, listeners: Sequence[OpenListener], asked: Asked
) -> dict[str, Any]:
    """Return what would become of a question now, {"outcome", "why", ...}, and the "steps" that lead there.

    Raises FunkenShieldError for a question, or a way to ask it, that there is not.
    """
    return _Explanation(miss_path, rules, upstreams, listeners, asked).report()


class _Explanation:
    """An explanation that is being made."""

    def __init__(
        self,
        miss_path: MissPath,
        rules: RuleEngine,
        upstreams: Upstreams,
        listeners: Sequence[OpenListener],
        asked: Asked,
    ) -> None:
        self._miss_path, self._rules, self._upstreams, self._asked = miss_path, rules, upstreams, asked
        self._steps: list[dict[str, Any]] = []
        self._listener = _find_listener(asked, listeners)
        self._address = _packed(asked.source)
        self._question = Question(
            miss_path, asked.wire(), self._address, transport=TRANSPORTS.index(asked.transport),
            listener=self._listener.number, server_names=rules.lists_with(asked.server_name),
        )  # fmt: skip

    # ---------------------------------------------------------------- decided

    def _decide(self) -> Stop | None:
        """Have the question decided about; return where a function of Python's would decide."""
        question, name = self._question, self._asked.name.lower().rstrip(".")
        while True:
            question.decide()
            while question.stopped is not None:
                chain, node = question.stopped
                compiled = self._rules.compiled[chain]
                assert compiled is not None
                stop = compiled.stops[node]
                if stop.regex is None and stop.rule.action.kind not in GOES_ON:
                    break
                holds = stop.regex is None or stop.regex.search(name) is not None
                trace = question.queries if CHAINS[chain] == "queries" else question.answers
                if stop.regex is not None and trace is not None:
                    trace.decided(node, holds)
                question.resume(stop.yes if holds else stop.no)
            else:
                stop = None
            if not question.fetch():
                return stop

    def report(self) -> dict[str, Any]:
        """Return the whole."""
        stop = self._decide()
        facts = self._question.facts()
        counted = facts["counted"]
        self._say("listener", f"{self._listener.endpoint}, over {self._asked.transport}")
        self._tell_proxy()
        self._tell_guard(counted)
        end = self._end(facts, stop)
        if not counted.keys() & UNRULED:
            self._tell_rules("queries", self._question.queries)
            if facts["cacheable"] and (counted.keys() & {"cache_misses", "uncached_queries"} or self._question.entry()):
                self._tell_cache(facts)
            self._tell_rules("cache-hits", self._question.answers if self._question.entry() else None)
            section = self._listener.section
            if counted.get("cache_hits") and section and section.kernel_answers and self._asked.transport == "udp":
                self._say("kernel", IN_KERNEL[self._question.reason_against_kernel()])
        if end is None:
            end = self._end_of_miss()
        elif counted.get("prefetches"):
            self._end_of_miss()  # who is asked besides
        return {
            "question": {
                "name": name_from_wire(name_to_wire(self._asked.name)), "type": self._asked.type.upper(),
                "source": self._asked.source, "transport": self._asked.transport, "flags": list(self._asked.flags),
                "edns": self._asked.has_opt,
                "do": self._asked.do, "subnet": self._asked.subnet,
            },
            **end, "steps": self._steps,
        }  # fmt: skip

    def _say(self, step: str, text: str, **more: Any) -> None:  # noqa: ANN401 - what JSON can have
        self._steps.append({"step": step, "text": text, **more})

    # ---------------------------------------------------------------- the steps

    def _tell_proxy(self) -> None:
        if self._asked.transport in {"udp", "tcp"} and self._miss_path.settings_writer.is_proxy(self._address):
            self._say(
                "proxy", f"{self._asked.source} is a front proxy: without a PROXY header, its queries are dropped"
            )

    def _tell_guard(self, counted: dict[str, int]) -> None:
        why = next((ENDS[name][1] for name in counted if name in GUARDED), "")
        over = self._question.limits()
        self._say("guard", why or "allowed", limits=[{"number": k + 1, "over": each} for k, each in enumerate(over)])

    def _tell_rules(self, chain: str, trace: Any) -> None:  # noqa: ANN401 - a Trace, which JSON cannot have
        compiled = self._rules.compiled[CHAINS.index(chain)]
        if compiled is None or trace is None:
            return
        verdicts = [self._verdict(compiled, number, *each) for number, each in enumerate(trace.rules())]
        matched = [each["rule"] for each in verdicts if each["verdict"] == "matched"]
        self._say(
            "rules", f"chain {chain}: {', '.join(matched) or 'none of them'} matched", chain=chain, rules=verdicts
        )

    def _verdict(
        self, compiled: Compiled, number: int, asked: bool, steps: list[tuple[int, bool]], matched: bool,
        left_out: list[str],
    ) -> dict[str, Any]:  # fmt: skip
        rule = compiled.rules[number]
        verdict = (
            "matched" if matched
            else "disabled" if rule.name in self._rules.disabled
            else "did not match" if asked
            else f"does not concern this {' nor '.join(left_out)}" if left_out
            else "not reached"
        )  # fmt: skip
        conditions = [{"condition": told_condition(compiled.conditions[node]), "held": held} for node, held in steps]
        return {"rule": rule.name, "verdict": verdict, "conditions": conditions, "action": told_action(rule)}

    def _tell_cache(self, facts: dict[str, Any]) -> None:
        asked = self._asked
        bits = [*asked.flags, *["EDNS"][: asked.has_opt], *["DO"][: asked.do]]
        if facts["subnet_added"]:
            bits.append("the client's subnet")
        elif asked.subnet:
            bits.append(asked.subnet)
        key = f"{asked.name} {asked.type.upper()}" + (f" with {', '.join(bits)}" if bits else "")
        if facts["skip_cache"]:
            self._say("cache", "left alone, as a rule says")
            return
        if facts["route"] or facts["ttl_limits"]:
            key += ", as rules chose " + (self._rules.route_name(facts["route"]) if facts["route"] else "TTL limits")
        found = self._question.entry()
        if found is None:
            self._say("cache", f"no entry for {key}", key=facts["key"].hex())
            return
        entry = entries.told(found, self._miss_path.cache, self._rules)
        if entry["ttl"] >= 0:
            life = f"fresh for {entry['ttl']:.0f} s"
        else:
            life = f"expired {-entry['ttl']:.0f} s ago, kept for {max(entry['served_for'], 0):.0f} s"
        self._say(
            "cache",
            f"an entry for {key}: {entry['rcode']}, {entry['kind']}, {entry['age']:.0f} s old, {life}"
            f" ({entry['freshness']}), zone {entry['zone']}, {entry['bytes']} octets",
            key=facts["key"].hex(), entry=entry,
        )  # fmt: skip

    # ---------------------------------------------------------------- the end

    def _end(self, facts: dict[str, Any], stop: Stop | None) -> dict[str, Any] | None:
        """Return what becomes of it without a miss, or None."""
        counted = facts["counted"]
        if stop is not None:
            return {"outcome": "rule", "rule": stop.rule.name, "why": f"the rule {stop.rule.name} is decided in Python"}
        if counted.get("rule_replies"):
            name = self._deciding()
            return {"outcome": "rule", "rule": name, "why": f"the rule {name} decides"} | _replied(facts)
        for name, (outcome, why) in ENDS.items():
            if counted.get(name):
                return {"outcome": outcome, "why": why} | _replied(facts)
        if counted.get("cache_hits"):
            outcome = "stale" if counted.get("stale_answers") else "hit"
            why = "the entry is past its time, and served as stale" if outcome == "stale" else "the entry is fresh"
            if counted.get("prefetches"):
                outcome, why = ("stale" if outcome == "stale" else "prefetch"), f"{why}; it is asked for anew besides"
            return {"outcome": outcome, "why": why} | _replied(facts)
        return None if facts["handed_over"] else {"outcome": "local", "why": "it is answered here"} | _replied(facts)

    def _deciding(self) -> str:
        """Return the name of the rule that matched last."""
        for trace, chain in ((self._question.answers, "cache-hits"), (self._question.queries, "queries")):
            compiled = self._rules.compiled[CHAINS.index(chain)]
            if trace is not None and compiled is not None:
                matched = [number for number, each in enumerate(trace.rules()) if each[2]]
                if matched:
                    return compiled.rules[matched[-1]].name
        return ""

    def _end_of_miss(self) -> dict[str, Any]:
        """Tell who would be asked; return what becomes of a miss."""
        miss = self._question.miss()
        rule = self._deciding()
        ends = {
            "refused": {"outcome": "refused", "why": "a transfer does not fit into one response", "rcode": "REFUSED"},
            "local": {"outcome": "local", "why": "it is answered here, without an upstream"},
            "synthesised": {
                "outcome": "synthesised",
                "why": "its name is known not to exist, or not to have that type",
            },
            "function": {"outcome": "rule", "rule": rule, "why": f"the rule {rule} answers"},
            "alone": {"outcome": "forwarded", "why": "transfers and NOTIFY are forwarded one by one, in Python"},
            "coalesced": {"outcome": "coalesced", "why": "the same question is waiting for its answer already"},
        }
        if miss["way"] == "rejected":
            return self._rejected(miss)
        return ends.get(miss["way"]) or self._tell_upstreams(miss)

    def _rejected(self, miss: dict[str, Any]) -> dict[str, Any]:
        why = REJECTED[miss["why"]]
        if miss["stale"]:
            return {"outcome": "stale", "why": f"{why}: the stale entry serves"}
        refuses = miss["refuse_overload"] or self._asked.transport != "udp"
        return {"outcome": "rejected", "why": why} | ({"rcode": "REFUSED"} if refuses else {})

    def _tell_upstreams(self, miss: dict[str, Any]) -> dict[str, Any]:
        """Tell who would be asked, and why no other; return what becomes of the question."""
        zone = name_from_wire(self._miss_path.cache.zones.name(miss["zone"]))
        group, ranks = self._upstreams.group_name(miss["group"]), dict(miss["ranks"])
        policy = self._upstreams.policy_of(miss["group"])
        chosen = self._upstreams.by_number(miss["chosen"]) if miss["chosen"] in ranks else None
        alike = [number for number, rank in ranks.items() if chosen and rank == ranks[chosen.number]]
        if chosen and policy not in DRAWN:
            alike = [chosen.number]
        text = f"zone {zone}, group {group}, policy {policy}"
        more = {
            "group": group, "policy": policy, "attempts": miss["attempts"], "timeout": miss["timeout"],
            "deadline": miss["deadline"], "another_after": round(miss.get("another_after", 0.0), 3),
            "upstreams": [self._candidate(number, miss, chosen, policy, alike) for number in ranks],
        }  # fmt: skip
        if chosen is None:
            why = NOBODY[miss["chosen"]]
            self._say("upstream", f"{text}: {why}", **more)
            if miss["stale"]:
                return {"outcome": "stale", "why": f"{why}: the stale entry serves"}
            return {"outcome": "failed", "why": why, "rcode": "REFUSED" if miss["chosen"] == "busy" else "SERVFAIL"}
        self._say(
            "upstream",
            f"{text}: {'one of those that are as good, such as ' * (len(alike) > 1)}{chosen};"
            f" after {miss['another_after']:.3g} s without an answer, another attempt,"
            f" {miss['attempts']} in all, within {miss['deadline']:g} s;"
            + (f" the stale entry serves after {miss['client_timeout']:g} s" if miss["stale"] else " then SERVFAIL"),
            **more,
        )
        why = "there is no entry that may be served" if miss["cached"] else "it is never answered from the cache"
        candidates = [each.member.title for each in map(self._upstreams.by_number, alike) if each]
        return {"outcome": "forwarded", "why": why, "upstream": chosen.member.title, "candidates": candidates}

    def _candidate(
        self, number: int, miss: dict[str, Any], chosen: Upstream | None, policy: str, alike: list[int]
    ) -> dict[str, Any]:
        """Return what an upstream is to a question, and why it is chosen or not."""
        upstream, rank = self._upstreams.by_number(number), dict(miss["ranks"])[number]
        assert upstream is not None
        if upstream is chosen:
            why = "chosen"
        elif chosen and rank == dict(miss["ranks"])[chosen.number]:
            why = f"the policy {policy} {'may choose' if number in alike else 'chooses'} another"
        else:
            silent = "it has not answered several times in a row" if rank == "down" else rank
            why = silent if upstream.health.in_service else upstream.health.why or rank
        return {
            "upstream": upstream.member.title, "address": str(upstream.endpoint), "state": upstream.state,
            "rank": rank, "why": why, "order": upstream.section.order, "weight": upstream.section.weight,
        }  # fmt: skip


def _packed(source: str) -> bytes:
    """Return an address in network order, as workers see it; FunkenShieldError where it is none."""
    try:
        address = ip_address(source)
    except ValueError:
        raise FunkenShieldError(f"explain: {source} is no address") from None
    return (getattr(address, "ipv4_mapped", None) or address).packed


def _find_listener(asked: Asked, listeners: Sequence[OpenListener]) -> OpenListener:
    """Return the listener that is asked; FunkenShieldError where there is none."""
    if asked.transport not in TRANSPORTS:
        raise FunkenShieldError(f"explain: {asked.transport} is no transport; there are {', '.join(TRANSPORTS)}")
    for each in listeners:
        transports = ("udp", "tcp") if each.transport in UDP_TRANSPORTS else (each.transport,)
        if asked.listener in {None, str(each.endpoint)} and asked.transport in transports:
            return each
    wanted = f"{asked.transport} at {asked.listener}" if asked.listener else asked.transport
    known = ", ".join(f"{each.endpoint} ({each.transport})" for each in listeners)
    raise FunkenShieldError(f"explain: there is no listener for queries over {wanted}; there are {known}")


def _replied(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what a reply says at a glance; {} where nothing is sent."""
    reply, counted = facts["reply"], facts["counted"]
    if not reply:
        return {}
    said: dict[str, Any] = {"rcode": dns.rcode.to_text(dns.rcode.Rcode(reply[3] & 15))}
    if reply[2] & 2:
        said["truncated"] = True
    if counted.get("rrl_dropped") or counted.get("rrl_slipped"):
        said["rrl"] = "over the limit of responses: not sent, or truncated now and then"
    return said
