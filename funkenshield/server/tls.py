"""TLS for clients: what each listener shows them, kept as the configuration and its files say.

It knows which files there are, and when one is another. What is in them `certificates` reads, and what connections do
with it is in `_tls`, which is there only if OpenSSL was when the package was built.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from ..cache._store import Cache
from ..config import Config
from ..config.listeners import CertificateSection, ListenerSection
from ..config.types import Endpoint
from ..core.files import Version, exposed, version_of
from ..errors import ConfigError
from ..forward.discovery import Encrypted
from .quic import ALPN as QUIC_ALPN
from .quic import QuicContexts, QuicListener

if TYPE_CHECKING:
    from ._tls import TlsContexts, TlsListener
    from .certificate import Certificate
    from .certificates import Found

log = logging.getLogger(__name__)

SECRET = 32  # octets
ALPN = {"tls": "dot", "https": "h2", **QUIC_ALPN}

Value = TypeVar("Value")


class TlsSettings(NamedTuple):
    """What a listener encrypts with."""

    certificates: "tuple[Certificate, ...]"
    min_version: str
    ciphers: str
    ciphersuites: str
    ticket_secret: bytes
    ticket_lifetime: float
    http: bool  # what is spoken is HTTP
    quic: str = ""  # what is spoken over QUIC (ALPN)

    def __repr__(self) -> str:
        return f"<TlsSettings with {self.certificates}>"  # without the secret

    def made(self) -> "TlsContexts | QuicContexts":
        """Return what OpenSSL, or qh3, makes of them; ConfigError, with its reason, where it refuses."""
        how = self._asdict()
        certificates, alpn = how.pop("certificates"), how.pop("quic")
        try:
            if alpn:
                secret, lifetime = self.ticket_secret, self.ticket_lifetime
                return QuicContexts(certificates, alpn, ticket_secret=secret, ticket_lifetime=lifetime)
            return compiled()[0](certificates, **how)
        except ValueError as error:
            raise ConfigError(str(error)) from None


class Chosen(NamedTuple):
    """What a listener is to encrypt with, and its certificates as they were read."""

    settings: TlsSettings
    found: "tuple[Found, ...]"


class Followed(Generic[Value]):
    """What is in some files, as it was when it was right for the last time.

    Raises what `read` raises where they are wrong at the beginning.
    """

    def __init__(self, paths: Iterable[Path], read: Callable[[], Value]) -> None:
        self._paths, self._read = tuple(paths), read
        self._seen = self._changing = self._look()
        self._user = os.geteuid()  # who has read it
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
        """Read the files if they have changed, or were read by another user; ConfigError, once, as above."""
        seen = self._look()
        if seen != self._seen or os.geteuid() != self._user:
            self._read_again(seen)

    def _read_again(self, seen: tuple[Version | None, ...]) -> None:
        self._seen = self._changing = seen
        self._user = os.geteuid()
        self.value = self._read()

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
    contexts: "dict[TlsSettings, TlsContexts | QuicContexts]"


class TlsListeners:
    """The TLS listeners of a daemon, and what they encrypt with; where there are none, it does nothing.

    Those over TCP are one of these, and those over QUIC another one: both may have one address.

    `wall` is the clock that certificates go by, in seconds since the epoch.
    """

    def __init__(
        self, config: Config, wall: Callable[[], float] = time.time, *, over_quic: bool = False,
        secret: bytes = b"",
    ) -> None:  # fmt: skip
        """Read all that the configuration names, which may take root; ConfigError where something is wrong.

        Sessions are resumed by what follows from `secret` (b"": a random one), unless a file has one.
        """
        self._wall, self._over_quic = wall, over_quic
        self._config = config = _only(config, over_quic=over_quic)
        self.secret = secret or os.urandom(SECRET)
        self._sources = Sources({}, {})
        self.listeners: dict[Endpoint, Any] = {}  # each takes what is made for its transport
        self._contexts: dict[TlsSettings, TlsContexts | QuicContexts] = {}  # that listeners use; equal ones share them
        self._used: dict[Endpoint, Chosen] = {}
        self._tried: dict[Endpoint, Chosen] = {}  # the same, or what OpenSSL refused
        self._told: frozenset[str] = frozenset()
        self._sources = self._read(config)

    def told(self) -> list[Encrypted]:
        """Return the listeners that clients can be told of: those with a name, which they can verify (RFC 9462)."""
        told: list[Encrypted] = []
        for endpoint, section in _encrypting(self._config):
            chosen = self._used.get(endpoint)
            if chosen is not None and section.discovery:
                plain = [name for name in chosen.settings.certificates[0].names if not name.startswith("*")]
                path = section.paths[0] if section.transport in ("https", "h3") else ""
                told += [Encrypted(plain[0], endpoint, ALPN[section.transport], path)] if plain else []
        return told

    def expiries(self) -> dict[str, float]:
        """Return when each certificate in use expires, in seconds since the epoch, by the path of its file."""
        return {found.file: found.until for chosen in self._used.values() for found in chosen.found}

    # ---------------------------------------------------------------- as the configuration says

    def prepare(self, config: Config) -> Prepared:
        """Read what a configuration names; ConfigError where that, or OpenSSL, refuses it, and nothing changes.

        What was read before, and is wrong now, is warned of, and stays as it was: nothing else waits for its mending.
        """
        config = _only(config, over_quic=self._over_quic)
        sources, contexts, lines = self._read(config), dict(self._contexts), []
        for endpoint, chosen in self._wanted(config, sources).items():
            try:
                contexts[chosen.settings] = contexts.get(chosen.settings) or chosen.settings.made()
            except ConfigError as error:
                if not self._is_as_before(endpoint, config):  # or else it is told when it is tried, and nothing changes
                    lines.append(f"listeners: {endpoint}: {error}")
        if lines:
            raise ConfigError("\n".join(lines))
        return Prepared(config, sources, contexts)

    def _is_as_before(self, endpoint: Endpoint, config: Config) -> bool:
        """Tell whether a listener that serves is to be as it was, but for what is in its files."""
        now, before = (_encryption_of(endpoint, each) for each in (config, self._config))
        return endpoint in self._used and now == before

    def activate(self, prepared: Prepared, cache: Cache) -> None:
        """Let handshakes from now on follow what was prepared; whoever has another transport is another listener."""
        before, now = (dict(_encrypting(each)) for each in (self._config, prepared.config))
        known = {at: each for at, each in self.listeners.items() if at in now and _is_alike(before[at], now[at])}
        make = QuicListener if self._over_quic else lambda: compiled()[1](cache)
        self.listeners = {at: known.get(at) or make() for at in now}
        self._used, self._tried = ({at: each for at, each in chosen.items() if at in known}
                                   for chosen in (self._used, self._tried))  # fmt: skip
        self._config, self._sources, self._contexts = prepared
        self._apply()

    def _read(self, config: Config) -> Sources:
        """Return what a configuration names: what is known already is read again only where it has changed."""
        sources = Sources({}, {})
        if not _encrypting(config):
            return sources
        from .certificates import paths_of, read, read_secret  # which takes long to load

        lines: list[str] = []
        for section in _certificates_of(config):
            known = self._sources.certificates.get(section)
            with _collected(lines):
                sources.certificates[section] = (
                    _checked(known) if known else Followed(paths_of(section), partial(read, section))
                )
        for path in _secrets_of(config):
            secret = self._sources.secrets.get(path)
            with _collected(lines):
                sources.secrets[path] = (
                    _checked(secret) if secret else Followed([Path(path)], partial(read_secret, path))
                )
        if lines:
            raise ConfigError("\n".join(lines))
        return sources

    # ---------------------------------------------------------------- as the files say

    def follow(self) -> bool:
        """Take up what was changed in files; called about once a second. Tell whether anything was.

        What is wrong is warned of once, and what was there before goes on.
        """
        follows = (each.follow for kind in self._sources for each in kind.values())
        for follow in follows:
            with _survived():
                follow()
        return self._apply()

    def _apply(self) -> bool:
        """Give each listener what it should use, where that is something else than before; tell whether any is."""
        wanted = self._wanted(self._config, self._sources) if self.listeners else {}
        changed = {at: each for at, each in wanted.items() if each != self._tried.get(at)}
        before = {found.certificate.chain for each in self._used.values() for found in each.found}
        for endpoint, chosen in changed.items():
            with _survived(f"listeners: {endpoint}: "):
                self._contexts[chosen.settings] = self._contexts.get(chosen.settings) or chosen.settings.made()
                self.listeners[endpoint].use(self._contexts[chosen.settings])
                self._used[endpoint] = chosen
        self._tried = wanted
        in_use = {each.settings for each in self._used.values()}
        self._contexts = {settings: made for settings, made in self._contexts.items() if settings in in_use}
        if before:
            self._tell_of_new(before)
        self._warn()
        return bool(changed)

    def _wanted(self, config: Config, sources: Sources) -> dict[Endpoint, Chosen]:
        """Return what each listener should follow now."""
        secret = next((each.value for each in sources.secrets.values()), self.secret)
        now, wanted = self._wall(), {}
        for endpoint, section in _encrypting(config):
            found = tuple(sources.certificates[each].value for each in section.certificates)
            settings = TlsSettings(
                tuple(each.at(now) for each in found), section.min_version, section.ciphers, section.ciphersuites,
                secret, config.tls.ticket_lifetime, section.speaks_http, QUIC_ALPN.get(section.transport, ""),
            )  # fmt: skip
            wanted[endpoint] = Chosen(settings, found)
        return wanted

    def _tell_of_new(self, before: set[tuple[bytes, ...]]) -> None:
        found = (each for chosen in self._used.values() for each in chosen.found)
        for line in sorted({each.summary() for each in found if each.certificate.chain not in before}):
            log.info("%s", line)

    def _warn(self) -> None:
        """Tell once of what keeps clients away, or lets in others."""
        lines = frozenset(self._warnings())
        for line in sorted(lines - self._told):
            log.warning("%s", line)
        self._told = lines

    def _warnings(self) -> Iterator[str]:
        if not self._used:
            return
        now = self._wall()
        for found in {each for chosen in self._used.values() for each in chosen.found}:
            yield from (f"listeners.certificates.certificate: {line}" for line in found.warnings(now))
        for section in self._sources.certificates:
            yield from exposed("listeners.certificates.key", section.key_file)
        for path in self._sources.secrets:
            yield from exposed("tls.ticket_secret_file", path)


def compiled() -> "tuple[type[TlsContexts], type[TlsListener]]":
    """Return the compiled part; ConfigError where it was not built, or OpenSSL is gone since."""
    try:
        from ._tls import TlsContexts, TlsListener
    except ModuleNotFoundError:
        raise ConfigError(
            'listeners: transport "tls" or "https": TLS is not built in: install OpenSSL\'s headers (Debian:'
            " libssl-dev), and build or install funkenshield again"
        ) from None
    except ImportError as error:
        raise ConfigError(f'listeners: transport "tls" or "https": TLS cannot be loaded: {error}') from None
    return TlsContexts, TlsListener


def examine(config: Config) -> None:
    """See that all is right that listeners with TLS name; ConfigError has a line for each thing that is not.

    What root will read, and we may not, is told, and not looked at.
    """
    if not _encrypting(config):
        return
    from .certificates import UnreadableError, read, read_secret

    if any(not section.is_quic for _, section in _encrypting(config)):
        compiled()
    looks: list[Callable[[], object]] = [partial(read, each) for each in _certificates_of(config)]
    looks += [partial(read_secret, path) for path in _secrets_of(config)]
    lines, is_for_root, unseen = [], bool(config.user) and os.geteuid() != 0, False
    for look in looks:
        try:
            look()
        except ConfigError as error:
            if is_for_root and isinstance(error, UnreadableError):
                log.warning("%s, or root check it; it was not looked at", error)
                unseen = True
            else:
                lines.append(str(error))
    if lines:
        raise ConfigError("\n".join(lines))
    for over_quic in () if unseen else (False, True):
        TlsListeners(config, over_quic=over_quic).prepare(config)


def _only(config: Config, *, over_quic: bool) -> Config:
    """Return a configuration without the listeners over TCP, or without those over QUIC."""
    listeners = tuple(each for each in config.listeners if each.is_quic == over_quic)
    return config.model_copy(update={"listeners": listeners})


def _encrypting(config: Config) -> list[tuple[Endpoint, ListenerSection]]:
    """Return the listeners with TLS."""
    return [(each.endpoint, each.section) for each in config.all_listeners if each.encrypts]


def _is_alike(one: ListenerSection, other: ListenerSection) -> bool:
    """Tell whether two listeners speak the same."""
    return one.transport == other.transport


def _encryption_of(endpoint: Endpoint, config: Config) -> object:
    """Return what a configuration says of how a listener encrypts."""
    section = dict(_encrypting(config)).get(endpoint)
    others = {"address": (), "discovery": True, "paths": (), "forwarded_for_from": ()}
    return section and (section.model_copy(update=others), config.tls)


def _certificates_of(config: Config) -> list[CertificateSection]:
    """Return the certificates of all listeners, each once."""
    return list(dict.fromkeys(each for _, section in _encrypting(config) for each in section.certificates))


def _secrets_of(config: Config) -> list[str]:
    """Return the path of the secret of tickets, where one is named and wanted."""
    path = config.tls.ticket_secret_file
    return [path] if path and _encrypting(config) else []


def _checked(known: Followed[Value]) -> Followed[Value]:
    """Return what is known, read again if it has changed.

    What is wrong now stays as it was: a key that only root may read, or half of what is being renewed.
    """
    with _survived():
        known.check()
    return known


@contextlib.contextmanager
def _collected(lines: list[str]) -> Iterator[None]:
    """Note a mistake, and go on."""
    try:
        yield
    except ConfigError as error:
        lines.append(str(error))


@contextlib.contextmanager
def _survived(where: str = "") -> Iterator[None]:
    """Tell of a mistake, of our own too, and go on with what there was."""
    try:
        yield
    except ConfigError as error:
        log.warning("%s%s; what was in use before is used", where, error)
    except Exception:
        log.exception("%sinternal error; what was in use before is used", where or "listeners.certificates: ")
