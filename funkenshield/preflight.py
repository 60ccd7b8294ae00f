"""What a configuration names on this machine: users, folders, files, certificates, our own addresses.

It looks whether they are there, before anything is begun or changed. What rules name, `rules.engine` finds out.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from .admin.process import find_user
from .cache.hugepages import fitted
from .cluster.node import Credentials
from .config import Config
from .errors import ConfigError
from .forward.loop_detection import refuse_itself
from .policy.cookie_secrets import load_secrets
from .server import http, tls
from .upstream.ports import usable
from .upstream.streams import tls_of


def examine(config: Config, where: str, *, at_reload: bool = False) -> None:
    """See that all is there; ConfigError has a line for each thing that is not, which says where it was named.

    At a reload, the daemon itself looks at what clients are encrypted with: it may know more than we can read now. What
    nodes share takes effect at a restart, and is looked at then.
    """
    looks: list[Callable[[], object]] = [
        *([partial(find_user, config.user)] if config.user else []),
        partial(_find_folder, "cache.snapshot", config.cache.snapshot),
        *(partial(_find_folder, "query_log.file", each.file) for each in config.query_log),
        partial(_find_secrets, config.cookies.secret_file if "secret_file" in config.cookies.model_fields_set else ""),
        *(partial(tls_of, each.address[0], each) for each in config.upstreams),
        *([] if at_reload else [partial(tls.examine, config)]),
        partial(http.examine, config),
        *([partial(_find_token, config.web.token_file)] if config.web.page and not at_reload else []),
        *([partial(Credentials, config.cluster)] if config.cluster.store and not at_reload else []),
        partial(refuse_itself, config),
        partial(usable, config.forward.source_port_avoid),
        partial(fitted, config),
    ]
    lines: list[str] = []
    for look in looks:
        try:
            look()
        except ConfigError as error:
            lines += str(error).splitlines()
    if lines:
        raise ConfigError("\n".join(f"{where}: {line}" for line in lines))


def _find_folder(key: str, file: str) -> None:
    """See that there is a folder for a file that is to be written; where we may not look, there may be one."""
    folder = Path(file).parent
    try:
        if file and not folder.is_dir():
            raise ConfigError(f"{key}: no folder {folder} on this machine")
    except PermissionError:
        return


def _find_secrets(file: str) -> None:
    try:
        if file:
            load_secrets(Path(file))
    except ConfigError as error:
        raise ConfigError(f"cookies.secret_file: {error}") from None


def _find_token(file: str) -> None:
    from .web.access import read_token  # with what it takes, where that is wanted

    if file:
        read_token(Path(file))
