"""The manual: funkenshield(1) from the commands and their options, funkenshield.toml(5) from the page of all options.

It knows man(7), and as much of Markdown as our own pages have. What is said, the commands and the page say. The page of
all commands, in Markdown, is made of the same.
"""

import re
from collections.abc import Iterator
from inspect import cleandoc
from itertools import chain
from textwrap import wrap

import click

from .. import __version__
from ..config.reference import reference, rule_tables

DATE = "2026-11-30"  # of the form of these pages, which have no other date than their version
COMMANDS_INTRODUCTION = """\
Each has `--help`; what is wrong is told in one line on standard error. The exit code is 0, or 1 where something
failed, or 2 where the command line or the configuration has a mistake. Commands to a running daemon find it by its
control socket: [Operating a running daemon](guide/control.md). This page is made of the commands by `funkenshield docs
commands`, and so is `man funkenshield`."""
TEXT_OF_ROW = {"meaning", "it is true if", "what is done"}
AFTERWARDS = """
.SH FILES
.TP
.I /etc/funkenshield.toml
The configuration, where no other file is named: see
.BR funkenshield.toml (5).
.TP
.I /run/funkenshield/control.sock
The control socket of a daemon that root has started.
.SH ENVIRONMENT
.TP
.B FUNKENSHIELD_*
Keys of the configuration, such as
.BR FUNKENSHIELD_CACHE__MEMORY :
see
.BR funkenshield.toml (5).
.TP
.B NOTIFY_SOCKET
Where the service manager is told that the daemon is ready, as
.BR sd_notify (3)
has it.
.SH SIGNALS
.TP
.BR SIGTERM ", " SIGINT
The daemon answers clients that wait, and ends.
.TP
.B SIGHUP
It reads its configuration again.
.TP
.B SIGUSR1
It opens query logs anew.
.TP
.B SIGUSR2
A new process of the same command line takes its place, without a loss.
.SH EXIT STATUS
.TP
.B 0
Done.
.TP
.B 1
It failed: a line on standard error says why.
.TP
.B 2
The command line or the configuration has a mistake: there is a line for each.
.SH SEE ALSO
.BR funkenshield.toml (5),
.BR dig (1),
.BR named (8),
.BR nsd (8)
"""


def command_page(group: click.Group) -> str:
    """Return funkenshield(1), in man(7)."""
    context = click.Context(group, info_name="funkenshield", **group.context_settings)
    summary, _, more = cleandoc(group.help or "").partition("\n\n")
    lines = [
        _title("FUNKENSHIELD", 1),
        ".SH NAME",
        rf"funkenshield \- {_inline(_lower(summary))}",
        ".SH SYNOPSIS",
        ".B funkenshield",
        '.RI [ options "] " command " [" arguments ]',
        ".SH DESCRIPTION",
        *_paragraphs(more),
        ".SH OPTIONS",
        *_options(group, context),
        ".SH COMMANDS",
        *_commands(group, context),
    ]
    return "\n".join(lines) + AFTERWARDS


def file_page() -> str:
    """Return funkenshield.toml(5), in man(7)."""
    rules = [f"## Conditions of rules: `match`\n\n{rule_tables()['conditions']}"]
    rules.append(f"## Actions of rules: `action`\n\n{rule_tables()['actions']}")
    _, _, page = "\n\n".join([reference(), *rules]).partition("# Configuration\n")
    lines = [
        _title("FUNKENSHIELD.TOML", 5),
        ".SH NAME",
        r"funkenshield.toml \- configuration of the caching reverse proxy for DNS",
        ".SH DESCRIPTION",
        *from_markdown(page),
        ".SH SEE ALSO",
        ".BR funkenshield (1)",
    ]
    return "\n".join([*lines, ""])


def _title(name: str, section: int) -> str:
    return f'.TH {name} {section} {DATE} "FunkenShield {__version__}" "FunkenShield"'


def _lower(sentence: str) -> str:
    return (sentence[:1].lower() + sentence[1:]).rstrip(".")


def _contexts(group: click.Group, above: click.Context) -> Iterator[click.Context]:
    """Yield the context of each command of a group, and of the groups in it."""
    for name in group.list_commands(above):
        command = group.get_command(above, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=above)
        if isinstance(command, click.Group):
            yield from _contexts(command, context)
        else:
            yield context


def _arguments(context: click.Context) -> str:
    """Return what a command takes beside its options, as it is typed."""
    return "".join(
        f" {each.human_readable_name}" if each.required else f" [{each.human_readable_name}]"
        for each in context.command.params
        if isinstance(each, click.Argument)
    )


def _commands(group: click.Group, above: click.Context) -> Iterator[str]:
    """Yield a part for each command of a group, and of the groups in it."""
    for context in _contexts(group, above):
        yield f".SS {_inline(context.command_path.partition(' ')[2] + _arguments(context))}"
        yield from _paragraphs(cleandoc(context.command.help or ""))
        yield from _options(context.command, context)


def _records(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """Yield the options of a command, and what they mean; that each has --help goes without saying."""
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        goes_without_saying = context.parent is not None and "--help" in parameter.opts
        if record and isinstance(parameter, click.Option) and not goes_without_saying:
            yield record


def commands_page(group: click.Group) -> str:
    """Return the page of all commands, in Markdown."""
    above = click.Context(group, info_name="funkenshield", **group.context_settings)
    parts = ["# Commands", COMMANDS_INTRODUCTION]
    for context in _contexts(group, above):
        parts += [f"## `{context.command_path}{_arguments(context)}`", cleandoc(context.command.help or "")]
        records = ((each.replace("|", r"\|") for each in record) for record in _records(context.command, context))
        rows = [f"| `{option}` | {meaning} |" for option, meaning in records]
        parts += ["\n".join(["| option | |", "|---|---|", *rows])] if rows else []
    return "\n\n".join(parts) + "\n"


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield the options of a command."""
    for option, meaning in _records(command, context):
        yield from (".TP", f".B {_inline(option)}", *_filled(meaning))


def _paragraphs(text: str) -> Iterator[str]:
    """Yield paragraphs of plain text, below a heading."""
    filled = (_filled(" ".join(paragraph.split())) for paragraph in text.split("\n\n"))
    first = next(filled)
    yield from first
    yield from chain.from_iterable((".PP", *lines) for lines in filled)


def from_markdown(page: str) -> Iterator[str]:
    """Yield the lines of a page in man(7): headings below the first, paragraphs, tables."""
    below_heading = True
    for block in re.split(r"\n{2,}", page.strip()):
        if block.startswith("## "):
            yield f".SS {_inline(block[3:])}"
        elif block.startswith("|"):
            yield from _rows(block.splitlines())
        else:
            yield from ([] if below_heading else [".PP"])
            yield from _filled(" ".join(block.split()))
        below_heading = block.startswith("## ")


def _rows(lines: list[str]) -> Iterator[str]:
    """Yield each row of a table with its first cell as a tag, and what it means before the rest."""
    names, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    for row in rows:
        cells = dict(zip(names, row, strict=True))
        tag = cells.pop(names[0])
        said = " ".join(cells.pop(name) for name in names if name in TEXT_OF_ROW)
        beside = "; ".join(f"{name}: {cell}" for name, cell in cells.items() if cell)
        yield from (".TP", f".B {_inline(tag.strip('`'))}", *_filled(f"{said} ({beside})" if beside else said))


def _filled(text: str) -> list[str]:
    """Return lines that are not too long to be compared."""
    lines = wrap(_inline(text), 78, break_long_words=False, break_on_hyphens=False)
    return [rf"\&{line}" if line.startswith((".", "'")) else line for line in lines]


def _inline(text: str) -> str:
    """Return text or Markdown in man(7)'s words; what begins with a dot would be a command there."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    text = re.sub(r"\[([^\]`]+)\]\([^)\s]+\)", r"\1", text)
    return re.sub(r"``? ?(.+?) ?``?|\*\*(.+?)\*\*", lambda found: rf"\fB{found[1] or found[2]}\fR", text)
