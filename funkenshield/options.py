"""What commands have in common: how they fail, how times are written, which daemon they mean.

Whatever is loaded here is loaded for `--version`, too.
"""

import difflib
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .core.early_signals import EndedError
from .errors import FunkenShieldError

PATH = click.Path(path_type=Path)
Ask = Callable[..., dict[str, Any]]  # what a daemon responds to a request, within so many seconds

# names that commands had before the first release
RENAMED = {"about": "docs", "blocks": "block list", "ns": "nameserver", "unblock": "block remove"}


def seconds(written: str | float) -> float:
    """Parse a duration such as 90, 1h30m or 7d; return seconds."""
    from .config.types import parse_time

    try:
        return parse_time(str(written))
    except ValueError as error:
        raise click.BadParameter(f"{written} is {error}") from None


class Commands(click.Group):
    """A group of commands that reports an error as one line and an exit code, never as a traceback."""

    group_class = type  # a group within it is of the same class

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that `args` begin with; a UsageError names the ones that are like it."""
        wanted, known = args[0], self.list_commands(ctx)
        if wanted in known or wanted.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        close = [RENAMED[wanted]] if wanted in RENAMED else difflib.get_close_matches(wanted, known)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are {', '.join(known)}"
        raise click.UsageError(f"no such command: {wanted!r}; {hint}", ctx)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as in click
        """Run a command; print the error, if there is one, and exit."""
        try:
            return super().invoke(ctx)
        except FunkenShieldError as error:
            for line in str(error).splitlines():
                click.echo(f"funkenshield: {line}", err=True)
            sys.exit(error.exit_code)
        except EndedError:
            sys.exit(0)


def located(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that select a daemon: `file` and `control`."""
    command = click.option("--control", type=PATH, help="Use the control socket at this path.")(command)
    return click.option(
        "-c", "--config", "file", type=PATH, metavar="FILE",
        help="Use control.socket of this configuration file; default: /etc/funkenshield.toml, if it exists.",
    )(command)  # fmt: skip


def controls(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that select a daemon; the command gets what asks that over its control socket."""

    @located
    @functools.wraps(command)
    def found(file: Path | None, control: Path | None, **others: Any) -> None:  # noqa: ANN401 - as in click
        from .admin.control import ask
        from .config import control_socket

        command(functools.partial(ask, control or control_socket(file, os.environ)), **others)

    return found
