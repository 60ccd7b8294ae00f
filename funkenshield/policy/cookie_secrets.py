"""The secrets that make and verify DNS cookies: read from a file, and read again when it changes.

It knows the file; what a cookie is, `_edns_cookies` knows. No secret ever stands in a message.
"""

import contextlib
import logging
import os
import re
from pathlib import Path

from ..config.clients import CookiesSection
from ..core._limits import COOKIE_SECRETS
from ..core.files import Version, read_text, version_of
from ..errors import ConfigError

log = logging.getLogger(__name__)


def load_secrets(path: Path) -> tuple[bytes, ...]:
    """Return the secrets of a file: 1 to 4 lines of 32 hex digits, with `#` before comments.

    Raises ConfigError with the first mistake, its line, and what is allowed.
    """
    try:
        lines = read_text(path).splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text; write secrets of 32 hex digits, one per line") from None
    secrets = []
    for number, line in enumerate(lines, 1):
        digits = line.partition("#")[0].strip()
        if not digits:
            continue
        if not re.fullmatch(r"[0-9A-Fa-f]{32}", digits):
            raise ConfigError(f"{path}:{number}: not a secret; write 32 hex digits, one secret per line")
        secrets.append(bytes.fromhex(digits))
        if len(secrets) > COOKIE_SECRETS:
            raise ConfigError(f"{path}:{number}: more than {COOKIE_SECRETS} secrets")
    if not secrets:
        raise ConfigError(f"{path}: no secret; write 1 to {COOKIE_SECRETS} of 32 hex digits, one per line")
    return tuple(secrets)


def keep_secret(path: Path, owner: tuple[int, int] | None = None) -> bool:
    """Write a secret of our own where there is no file; False: there is one. Raises OSError where it cannot be kept.

    Nobody ever sees a part of it: where two do that at once, one of them is first. It belongs to `owner`, a user and a
    group, from the start: to give it away by its path later might give away what others have put there.
    """
    if path.exists():
        return False
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    drawn = path.with_name(f".{path.name}.{os.getpid()}")
    drawn.unlink(missing_ok=True)  # of one that was killed
    try:
        with open(os.open(drawn, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(
                f"# DNS cookie secret; servers that share an address (anycast) need the same\n{os.urandom(16).hex()}\n"
            )
            file.flush()
            if owner is not None:
                os.fchown(file.fileno(), *owner)
            os.fsync(file.fileno())
        os.link(drawn, path)
    except FileExistsError:
        return False
    finally:
        drawn.unlink(missing_ok=True)
    return True


def keep(section: CookiesSection, uid: int, gid: int) -> None:
    """Make the file of the secret that nobody named, while we are root, for the user that we shall be."""
    path = _path_of(section)
    if path is not None and _is_ours(section) and os.geteuid() == 0:
        with contextlib.suppress(OSError):  # which is told when it is read
            keep_secret(path, (uid, gid))


def read(section: CookiesSection, before: "CookieSecrets | None", shared: tuple[bytes, ...] = ()) -> "CookieSecrets":
    """Return the secrets of a configuration: those before, unless their file is another, or an operator's to change.

    Where nobody named a file, they are those that nodes share, if there are any. Raises ConfigError where the file is
    wrong.
    """
    path = _path_of(section)
    ours = path is None or _is_ours(section)
    if ours and shared:
        return CookieSecrets(None, shared=shared)
    return before if before is not None and before.path == path and ours else CookieSecrets(path, kept=ours)


def _path_of(section: CookiesSection) -> Path | None:
    return Path(section.secret_file) if section.secret_file and section.mode == "serve" else None


def _is_ours(section: CookiesSection) -> bool:
    """Tell whether nobody named the file."""
    return "secret_file" not in section.model_fields_set


class CookieSecrets:
    """The secrets in use. To change them on several machines, write their files (RFC 9018 5):

    1. add the new secret behind the old one, and wait until every machine has read it;
    2. put the new one first: it makes cookies, and the old one still verifies those that are out;
    3. an hour and five minutes later, when none of the old one's cookies is accepted, take it out.
    """

    def __init__(self, path: Path | None, *, kept: bool = False, shared: tuple[bytes, ...] = ()) -> None:
        """Read the file, or draw one secret if there are none; raises ConfigError where the file is wrong.

        With `kept`, nobody named the file: it is made where it is missing, and what is wrong with it stops nothing.
        """
        self.path = path
        self._secrets = shared or (os.urandom(16),)
        self._drawn = not shared  # they are in no file
        try:
            if path is not None and kept:
                keep_secret(path)
            self._seen = self._look()
            if path is not None:
                self._secrets, self._drawn = load_secrets(path), False
        except (OSError, ConfigError) as error:
            if not kept:
                raise
            self._seen = self._look()
            why = f"{path}: {error.strerror}" if isinstance(error, OSError) else error
            log.warning("%s; using a random cookie secret until the next start", why)

    def current(self) -> tuple[bytes, ...]:
        """Return the secrets in use, the one that makes cookies first."""
        return self._secrets

    def resume(self, secrets: tuple[bytes, ...]) -> None:
        """Go on with the secrets of the process before us, unless a file has others: its cookies are out."""
        if self._drawn:
            self._secrets = secrets

    def refresh(self) -> bool:
        """Look at the file; tell whether there are other secrets now. A wrong file is warned of once, and ignored."""
        seen = self._look()
        if self.path is None or seen == self._seen:
            return False
        self._seen = seen
        try:
            secrets = load_secrets(self.path)
        except ConfigError as error:
            log.warning("%s; keeping the previous cookie secrets", error)
            return False
        changed = secrets != self._secrets
        self._secrets, self._drawn = secrets, False
        return changed

    def _look(self) -> Version | None:
        """Return which version of the file is there; None where there is none."""
        return version_of(self.path) if self.path is not None else None
