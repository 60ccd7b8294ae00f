"""A query, a miss or a response that a rule's function is called for, and how it ends.

    a query that stopped at a rule        -> goes on, or is answered
    a miss that a function answers        -> is settled, as if an upstream had answered
    a response that stopped at a rule     -> goes on, changed or not, or is given up

It knows what a function may return. `executor` calls it; `handlers` has what an action does.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import dns.message
from dns.rcode import REFUSED

from ..cache._entry import is_response_to
from ..config.action import Action
from ..core._limits import EDNS_UDP_SIZE
from ..forward._python_rules import PythonRules
from ..wire._message import error_response
from .compiler import END, RCODES, START, IdAllocator, Rule, group_key
from .handlers import HANDLERS
from .query import Query

MESSAGE_MAX = 65535  # octets of a response, which is truncated to its client's size when it is sent
TC = 0x02  # in the third octet of a header

Function = Callable[[Query], Any]


class TurnedAwayError(OSError):
    """Nobody has time for a query that a function makes."""


@dataclass(eq=False)
class RuleCall(ABC):
    """One query on its way through one rule's function; each kind ends differently."""

    python_rules: PythonRules
    ids: IdAllocator
    client: bytes
    wire: bytes
    left: float  # seconds
    generation: int
    at: int = END  # where it goes on
    route: int = -1  # who is asked when it goes on; -1: unchanged
    handle: int = 0  # of a miss, or of a response
    response: bytes | None = None
    following: Function | None = None  # that is to be called next
    rule: Rule = field(init=False)

    def conclude(self, result: object) -> None:
        """Do what a function, or a rule whose function failed, returned."""
        if isinstance(result, dns.message.Message):
            self.answer(result.to_wire(max_size=MESSAGE_MAX))
        elif isinstance(result, bytes):
            self.answer(result)
        elif result is None or (isinstance(result, Action) and result.kind == "continue"):
            self.go_on()
        elif not isinstance(result, Action):
            raise TypeError(f"a rule returns an Action, a response or None, not {type(result).__name__}")
        elif result.kind in RCODES:
            self.answer(error_response(self.wire, RCODES[result.kind], EDNS_UDP_SIZE))
        elif result.kind == "drop":
            self.drop()
        elif result.kind == "allow":
            self.allow()
        elif result.kind in HANDLERS:
            self.left += result.delay
            self.following = partial(HANDLERS[result.kind], result)
        else:
            self.change(result)

    def turn_away(self) -> None:
        """End a query for which there is no time: nothing is kept of that."""
        self.python_rules.turn_away(self.handle)

    def look_up(self, wire: bytes, number: int) -> None:
        """Have a query of the function's own go on from here; its answer comes back under this number."""
        self.python_rules.ask(self.client, wire, self.at, self.generation, number, route=self.route)

    @abstractmethod
    def answer(self, response: bytes) -> None:
        """Answer with this response; ValueError where it is none to this query."""

    @abstractmethod
    def go_on(self) -> None:
        """Go on at the next rule."""

    @abstractmethod
    def drop(self) -> None:
        """Answer nothing."""

    @abstractmethod
    def allow(self) -> None:
        """Go on behind all rules."""

    def change(self, action: Action) -> None:
        """Do what is possible for some kinds only."""
        raise TypeError(f"the action {action.kind} is not possible here")


class QueryCall(RuleCall):
    """A query that stopped at a rule, or that is never cached."""

    def answer(self, response: bytes) -> None:
        if not is_response_to(self.wire, response):
            raise ValueError("not a response to this query")
        self.python_rules.reply(self.client, self.wire, response)

    def go_on(self) -> None:
        self.python_rules.resume(self.client, self.wire, self.at, self.generation, route=self.route)

    def drop(self) -> None:
        self.python_rules.drop(self.client, self.wire)

    def allow(self) -> None:
        self.python_rules.resume(self.client, self.wire, END, self.generation, route=self.route)

    def turn_away(self) -> None:
        self.answer(error_response(self.wire, REFUSED, EDNS_UDP_SIZE))

    def restart(self, generation: int) -> None:
        """Begin again with other rules."""
        self.python_rules.resume(self.client, self.wire, START, generation)

    def change(self, action: Action) -> None:
        """Go on with another state, or truncated."""
        resume = partial(self.python_rules.resume, self.client, self.wire, route=self.route)
        if action.kind == "forward":
            key = group_key(action.forward)
            if key not in self.ids.routes:
                raise ValueError(f"there is no group {action.forward} of upstreams")
            resume(END, self.generation, route=self.ids.routes[key])
        elif action.kind == "tag":
            resume(self.at, self.generation, tags=self.ids.tag(action.tag, by_function=True))
        elif action.kind == "skip_cache":
            resume(self.at, self.generation, uncached=True)
        elif action.ttl is not None:
            number = self.ids.ttl_limit((action.ttl.min, action.ttl.max), once=True)
            self.ids.purge_reused(self.python_rules.settings_writer.cache)
            self.python_rules.set_ttl_limits(number, action.ttl.min, action.ttl.max)
            resume(self.at, self.generation, ttl_limits=number)
        elif action.kind != "truncate":
            super().change(action)
        elif self.python_rules.client_info(self.client)[1] == "udp":
            wire = bytearray(error_response(self.wire, 0, EDNS_UDP_SIZE))
            wire[2] |= TC
            self.answer(bytes(wire))
        else:
            self.allow()


class MissCall(RuleCall):
    """A miss, whose answer is kept for all who ask the same: to them, the function is an upstream."""

    def answer(self, response: bytes) -> None:
        """Answer all who wait."""
        if not self.python_rules.settle(self.handle, response):
            raise ValueError("not a response to this query, or too late")

    def drop(self) -> None:
        """Give it up: those who wait get what is stale, or SERVFAIL."""
        self.python_rules.give_up(self.handle)

    def allow(self) -> None:
        """Ask an upstream, and keep what it says as the function's answer."""
        self.following = Query.resolve_wire

    go_on = allow  # no rule comes next


class ResponseCall(RuleCall):
    """A response that stopped at a rule."""

    def look_up(self, wire: bytes, number: int) -> None:
        """Have another query go on behind all rules of queries."""
        self.python_rules.ask(self.client, wire, END, self.generation, number, route=self.route)

    def answer(self, response: bytes | None) -> None:
        """Have this response in the place of the other."""
        self.python_rules.conclude(self.handle, response, END, self.generation)

    def go_on(self) -> None:
        """Let the next rule see the response."""
        self.python_rules.conclude(self.handle, self.response, self.at, self.generation)

    def drop(self) -> None:
        """Be as if there had been no response."""
        self.answer(None)

    def allow(self) -> None:
        """Leave the response as it is."""
        self.answer(self.response)

    def restart(self, _: int) -> None:
        """Leave the response as it is: rules that it has not seen are for those that come."""
        self.allow()
