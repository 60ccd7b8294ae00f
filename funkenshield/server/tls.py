"""TLS for clients: what each listener shows them, kept as the configuration and its files say.

It knows which files there are, and when one is another. What is in them `certificates` reads, and what connections do
with it is in `_tls`, which is there only if OpenSSL was when the package was built.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from ..cache._store import Cache
from ..config import Config
from ..config.listeners import CertificateSection, ClientTlsSection, ListenerSection
from ..config.types import Endpoint
from ..core.files import Version, version_of
from ..errors import ConfigError
from ..forward.discovery import Encrypted

if TYPE_CHECKING:
    from ._tls import TlsContexts, TlsListener
    from .certificates import Certificate, Found

log = logging.getLogger(__name__)

SECRET = 32  # octets

Value = TypeVar("Value")


class TlsSettings(NamedTuple):
    """What a listener encrypts with."""

    certificates: "tuple[Certificate, ...]"
    min_version: str
    ciphers: str
    ciphersuites: str
    ticket_secret: bytes
    ticket_lifetime: float

    def __repr__(self) -> str:
        return f"<TlsSettings with {self.certificates}>"  # without the secret

    def made(self) -> "TlsContexts":
        """Return what OpenSSL makes of them; ConfigError, with its reason, where it refuses."""
        contexts, _ = compiled()
        how = self._asdict()
        try:
            return contexts(how.pop("certificates"), **how)
        except ValueError as error:
            raise ConfigError(str(error)) from None


class Followed(Generic[Value]):
    """What is in some files, as it was when it was right for the last time.

    Raises what `read` raises where they are wrong at the beginning.
    """

    def __init__(self, paths: Iterable[Path], read: Callable[[], Value]) -> None:
        self._paths, self._read = tuple(paths), read
        self._seen = self._changing = self._look()
        self._is_wrong = False
        self.value = read()

    def follow(self) -> None:
        """Read the files if they have changed; ConfigError, once, where they are wrong now, and the value stays.

        A change is seen twice before it counts: several files may be written one after the other.
        """
        seen, before = self._look(), self._changing
        self._changing = seen
        if seen == before and seen != self._seen:
            self._read_again(seen)

    def check(self) -> None:
        """Read the files if they have changed, or were wrong; ConfigError where they are wrong."""
        seen = self._look()
        if seen != self._seen or self._is_wrong:
            self._read_again(seen)

    def _read_again(self, seen: tuple[Version | None, ...]) -> None:
        self._seen = self._changing = seen
        self._is_wrong = True
        self.value = self._read()
        self._is_wrong = False

    def _look(self) -> tuple[Version | None, ...]:
        """Return which versions of the files are there; None for what cannot be looked at."""
        return tuple(map(version_of, self._paths))


class Sources(NamedTuple):
    """All that is read for a configuration."""

    certificates: "dict[CertificateSection, Followed[Found]]"
    secrets: dict[str, Followed[bytes]]  # by path; one, or none


class Prepared(NamedTuple):
    """A configuration, what is read for it, and what OpenSSL has made of that."""

    config: Config
    sources: Sources
    contexts: "dict[TlsSettings, TlsContexts]"


class TlsListeners:
    """The TLS listeners of a daemon, and what they encrypt with; where there are none, it does nothing.

    `wall` is the clock that certificates go by, in seconds since the epoch.
    """

    def __init__(self, config: Config, wall: Callable[[], float] = time.time) -> None:
        """Read all that the configuration names, which may take root; ConfigError where something is wrong."""
        self._wall = wall
        self._config = config
        self._random = os.urandom(SECRET)
        self._sources = Sources({}, {})
        self._listeners: dict[Endpoint, TlsListener] = {}
        self._contexts: dict[TlsSettings, TlsContexts] = {}  # that listeners use; equal ones share them
        self._used: dict[Endpoint, TlsSettings] = {}
        self._tried: dict[Endpoint, TlsSettings] = {}  # the same, or what OpenSSL refused
        self._told: frozenset[str] = frozenset()
        self._sources = self._read(config)

    def open(self, cache: Cache) -> "dict[Endpoint, TlsListener]":
        """Make the listeners; they encrypt once something was activated. ConfigError where TLS is not built in."""
        if encrypting := _encrypting(self._config):
            _, listener = compiled()
            self._listeners = {endpoint: listener(cache) for endpoint, _ in encrypting}
        return self._listeners

    def told(self) -> list[Encrypted]:
        """Return the listeners that clients can be told of: those with a name, which they can verify (RFC 9462)."""
        told: list[Encrypted] = []
        for endpoint, section in _encrypting(self._config):
            settings = self._used.get(endpoint)
            if settings is not None and section.discovery:
                plain = [name for name in settings.certificates[0].names if not name.startswith("*")]
                told += [Encrypted(plain[0], endpoint, "dot")] if plain else []
        return told

    def expiries(self) -> dict[str, float]:
        """Return when each certificate in use expires, in seconds since the epoch, by the path of its file."""
        return {section.certificate: found.value.until for section, found in self._sources.certificates.items()}

    # ---------------------------------------------------------------- as the configuration says

    def prepare(self, config: Config) -> Prepared:
        """Read what a configuration names; ConfigError where that, or OpenSSL, refuses it, and nothing changes."""
        sources, contexts, lines = self._read(config), dict(self._contexts), []
        for endpoint, settings in self._wanted(config, sources).items():
            try:
                contexts[settings] = contexts.get(settings) or settings.made()
            except ConfigError as error:
                lines.append(f"listeners: {endpoint}: {error}")
        if lines:
            raise ConfigError("\n".join(lines))
        return Prepared(config, sources, contexts)

    def activate(self, prepared: Prepared) -> None:
        """Let handshakes from now on follow what was prepared."""
        self._config, self._sources, self._contexts = prepared
        self._apply()

    def _read(self, config: Config) -> Sources:
        """Return what a configuration names: what is known already is read again only where it has changed."""
        sections = _certificates_of(config)
        certificates = {each: self._found(each) for each in sections}
        path = config.tls.ticket_secret_file if sections else ""
        return Sources(certificates, {path: self._secret(path)} if path else {})

    def _found(self, section: CertificateSection) -> "Followed[Found]":
        from .certificates import paths_of, read

        known = self._sources.certificates.get(section)
        return _checked(known) if known else Followed(paths_of(section), partial(read, section))

    def _secret(self, path: str) -> Followed[bytes]:
        from .certificates import read_secret

        known = self._sources.secrets.get(path)
        return _checked(known) if known else Followed([Path(path)], partial(read_secret, path))

    # ---------------------------------------------------------------- as the files say

    def follow(self) -> bool:
        """Take up what was changed in files; called about once a second. Tell whether anything was.

        What is wrong is warned of once, and what was there before goes on.
        """
        for each in (*self._sources.certificates.values(), *self._sources.secrets.values()):
            try:
                each.follow()
            except ConfigError as error:
                log.warning("%s; what was read before is used", error)
        return self._apply()

    def _apply(self) -> bool:
        """Give each listener what it should use, where that is something else than before; tell whether any is."""
        if not self._listeners:
            return False
        wanted = {at: each for at, each in self._wanted(self._config, self._sources).items() if at in self._listeners}
        changed = {at: settings for at, settings in wanted.items() if settings != self._tried.get(at)}
        for endpoint, settings in changed.items():
            try:
                self._contexts[settings] = self._contexts.get(settings) or settings.made()
                self._listeners[endpoint].use(self._contexts[settings])
                self._used[endpoint] = settings
            except ConfigError as error:
                log.warning("listeners: %s: %s; what was in use before is used", endpoint, error)
        self._tried = wanted
        self._contexts = {
            settings: self._contexts[settings] for settings in wanted.values() if settings in self._contexts
        }
        self._warn()
        return bool(changed)

    def _wanted(self, config: Config, sources: Sources) -> dict[Endpoint, TlsSettings]:
        """Return what each listener should follow now."""
        secret = next((each.value for each in sources.secrets.values()), self._random)
        now = self._wall()
        return {
            endpoint: _settings(
                section, config.tls, [sources.certificates[each].value.at(now) for each in section.certificates], secret
            )
            for endpoint, section in _encrypting(config)
        }

    def _warn(self) -> None:
        """Tell once of each certificate that clients will not take."""
        now = self._wall()
        found = (each.value for each in self._sources.certificates.values())
        lines = frozenset(line for each in found for line in each.warnings(now))
        for line in sorted(lines - self._told):
            log.warning("listeners.certificates.certificate: %s", line)
        self._told = lines


def compiled() -> "tuple[type[TlsContexts], type[TlsListener]]":
    """Return the compiled part; ConfigError where it was not built, or OpenSSL is gone since."""
    try:
        from ._tls import TlsContexts, TlsListener
    except ModuleNotFoundError:
        raise ConfigError(
            'listeners: transport "tls": DNS over TLS is not built in: install OpenSSL\'s headers (Debian: libssl-dev),'
            " and install funkenshield again"
        ) from None
    except ImportError as error:
        raise ConfigError(f'listeners: transport "tls": DNS over TLS cannot be loaded: {error}') from None
    return TlsContexts, TlsListener


def examine(config: Config) -> None:
    """See that all is right that listeners with TLS name; ConfigError has a line for each thing that is not.

    Where we may not look, all may be right.
    """
    from .certificates import UnreadableError, read, read_secret

    sections = _certificates_of(config)
    if not sections:
        return
    compiled()
    path = config.tls.ticket_secret_file
    looks: list[Callable[[], object]] = [partial(read, each) for each in sections]
    looks += [partial(read_secret, path)] if path else []
    lines, unseen = [], False
    for look in looks:
        try:
            look()
        except UnreadableError:
            unseen = True
        except ConfigError as error:
            lines.append(str(error))
    if lines:
        raise ConfigError("\n".join(lines))
    if not unseen:
        TlsListeners(config).prepare(config)


def _encrypting(config: Config) -> list[tuple[Endpoint, ListenerSection]]:
    """Return the listeners with TLS."""
    return [(each.endpoint, each.section) for each in config.all_listeners if each.encrypts]


def _certificates_of(config: Config) -> list[CertificateSection]:
    """Return the certificates of all listeners, each once."""
    return list(dict.fromkeys(each for _, section in _encrypting(config) for each in section.certificates))


def _settings(
    section: ListenerSection, tls: ClientTlsSection, certificates: "Iterable[Certificate]", secret: bytes
) -> TlsSettings:
    return TlsSettings(
        tuple(certificates), section.min_version, section.ciphers, section.ciphersuites, secret, tls.ticket_lifetime
    )


def _checked(known: Followed[Value]) -> Followed[Value]:
    """Return what is known, read again if it has changed; what may not be read any more stays as it was.

    Root reads keys at the start, and the user that the shield changes to may not.
    """
    from .certificates import UnreadableError

    try:
        known.check()
    except UnreadableError as error:
        log.warning("%s; what was read before is used", error)
    return known
