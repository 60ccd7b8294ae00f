"""Rules in Python, and all rules together: what users write, and how it is read.

    from funkenshield.rules import *

    @shield.rule(suffix("internal.example"), ~source("10.0.0.0/8"))
    def outsiders(query):
        return refuse()

It knows how rules are written. `compiler` has what becomes of them, and `executor` who calls functions.
"""

import hashlib
import sys
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import dns.exception

from ..config import Config, match
from ..config import action as actions
from ..config.action import *  # noqa: F403 - each names in its own `__all__` what rules are written with
from ..config.action import Action, check
from ..config.match import *  # noqa: F403
from ..config.match import Match
from ..config.rule import ChainName, OnError
from ..config.schema import repeated
from ..core.files import named_in, read_text
from ..errors import ConfigError
from ..zones.local_zone import Zone
from .compiler import Rule
from .query import Query

Hook = Callable[[], Any]

__all__ = ["Query", "shield"]
__all__ += actions.__all__
__all__ += match.__all__


@dataclass
class _RulesFile:
    """What a file of rules has added so far."""

    path: Path
    key: str
    rules: list[Rule] = field(default_factory=list)
    setups: list[Hook] = field(default_factory=list)
    teardowns: list[Hook] = field(default_factory=list)


_loading: ContextVar[_RulesFile | None] = ContextVar("loading", default=None)


class Shield:
    """What a file of rules talks to while it is loaded."""

    @staticmethod
    def _file() -> _RulesFile:
        file = _loading.get()
        if file is None:
            raise RuntimeError("rules can only be added while the rules file is loaded")
        return file

    def rule(
        self,
        *matches: Match,
        action: Action | None = None,
        name: str = "",
        chain: ChainName = "queries",
        on_error: OnError = "servfail",
        cache: bool = False,
        inline: bool = False,
    ) -> Callable[[Callable[[Query], Any]], Callable[[Query], Any]]:
        """Make a rule of all these conditions and an action, or of the function that this decorates.

        The function gets a Query, and returns an Action, a response (a dnspython message, or wire), or None: then the
        next rule is asked. It runs on the event loop where it is async, or `inline` (it never blocks), and in a thread
        otherwise. With `cache`, what it returns is kept like an upstream's response. Where it raises, or takes too
        long, the query gets what `on_error` says.
        """
        file = self._file()
        for each in matches:
            if not isinstance(each, Match):
                raise TypeError(
                    f"{each!r} is not a condition; write @shield.rule(suffix(...)), or @shield.rule() for all"
                )
        for given, known in ((chain, get_args(ChainName)), (on_error, get_args(OnError))):
            if given not in known:
                raise ValueError(f"{given} is not one of {', '.join(known)}")
        match = matches[0] if len(matches) == 1 else Match(all=matches)
        if action is not None:
            check(chain, match, action)
            default = f"rule {len(file.rules) + 1} of {file.path.name}"
            file.rules.append(_completed(Rule(name or default, chain, match, action)))

        def decorate(function: Callable[[Query], Any]) -> Callable[[Query], Any]:
            call = Action(call=f"{file.path.name}:{function.__name__}")
            check(chain, match, call)
            own = name or function.__name__
            file.rules.append(Rule(own, chain, match, call, function, on_error, cache, f"{file.key} {own}", inline))
            return function

        return decorate

    def setup(self, hook: Hook) -> Hook:
        """Have a function called before the rules are in force; it may be async."""
        self._file().setups.append(hook)
        return hook

    def teardown(self, hook: Hook) -> Hook:
        """Have a function called when the rules are in force no more; it may be async."""
        self._file().teardowns.append(hook)
        return hook


shield = Shield()


@dataclass(frozen=True)
class RuleSet:
    """All rules of a configuration, in order, and what is done before and after."""

    rules: tuple[Rule, ...] = ()
    setups: tuple[Hook, ...] = ()
    teardowns: tuple[Hook, ...] = ()


def load(config: Config) -> RuleSet:
    """Return the rules of a configuration: those of its tables, then those of its file.

    Raises ConfigError, with file and line, for what is wrong in a file.
    """
    loaded: dict[str, tuple[_RulesFile, ModuleType]] = {}

    def loaded_file(path: str) -> tuple[_RulesFile, ModuleType]:
        if path not in loaded:
            loaded[path] = _load_file(Path(path))
        return loaded[path]

    rules = []
    for number, section in enumerate(config.rules, 1):
        name, function, key = section.name or f"rule {number}", None, ""
        if section.action.call:
            path, _, wanted = section.action.call.rpartition(":")
            file, module = loaded_file(path)
            function = getattr(module, wanted, None)
            if not callable(function):
                raise ConfigError(f"{path}: no function {wanted}")
            key = f"{file.key} {name} {wanted}"
        rule = Rule(
            name, section.chain, section.match, section.action, function, section.on_error, section.cache, key,
            section.inline,
        )  # fmt: skip
        rules.append(_completed(rule))
    if config.rules_file:
        rules += loaded_file(config.rules_file)[0].rules
    _check_all(rules, config)
    files = [file for file, _ in loaded.values()]
    return RuleSet(
        tuple(rules),
        tuple(hook for file in files for hook in file.setups),
        tuple(hook for file in files for hook in file.teardowns),
    )


def _completed(rule: Rule) -> Rule:
    """Return a rule with the key of its answers; that of a zone answers from what is read here."""
    action = rule.action
    if action.kind == "answer":
        return replace(rule, key=f"answer {' | '.join(action.answer)}")
    if action.kind not in {"zone", "zone_file"}:
        return rule
    try:
        text = action.zone or read_text(Path(action.zone_file))
        zone = Zone.from_text(text)
    except OSError as error:
        raise ConfigError(f"{action.zone_file}: {error.strerror}") from None
    except (dns.exception.DNSException, ValueError) as error:
        message = f"{action.zone_file or rule.name}: not a valid zone: {error or type(error).__doc__}"
        raise ConfigError(message) from None

    def respond(query: Query) -> Action | bytes | None:
        """Answer from the zone; nobody gets all of it, for `forward.allow` is about upstreams."""
        return actions.refuse() if query.qtype in {"AXFR", "IXFR"} else zone.respond(query.wire, True)

    return replace(rule, function=respond, key=f"zone {_digest(text)}", inline=True)


def _check_all(rules: list[Rule], config: Config) -> None:
    if twice := repeated(rule.name for rule in rules):
        raise ConfigError(f"rules: duplicate names: {', '.join(twice)}")
    for rule in rules:
        if rule.action.forward and not config.members(rule.action.forward):
            raise ConfigError(f"rules: {rule.name}: there is no group {rule.action.forward} of upstreams")


def _load_file(path: Path) -> tuple[_RulesFile, ModuleType]:
    """Return what a file of rules says, and its names. Raises ConfigError with the line that is wrong."""
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    file = _RulesFile(path, _digest(text))
    module = ModuleType(f"funkenshield_rules_{file.key}")
    module.__file__ = str(path)
    token = _loading.set(file)
    sys.modules[module.__name__] = module  # while it is loaded: dataclasses look there
    try:
        with named_in(path):
            exec(compile(text, str(path), "exec"), module.__dict__)
    except SyntaxError as error:
        raise ConfigError(f"{error.filename or path}:{error.lineno or 1}: {error.msg}") from None
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line, reason = frames[-1].lineno if frames else 0, " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{path}:{line}: {type(error).__name__}: {reason}") from None
    finally:
        _loading.reset(token)
        del sys.modules[module.__name__]
    return file, module


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
