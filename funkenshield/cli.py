"""The commands that people type, and nothing else: each hands over at once to what does the work.

Modules are loaded by the command that needs them, so that the daemon starts fast.
"""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .core.signals import EndedError
from .errors import FunkenShieldError

if TYPE_CHECKING:
    from .config import Config

ENDPOINT = "ADDR:PORT"


def seconds(written: str | float) -> float:
    """Return the seconds that a text such as 90, 1h30m or 7d stands for."""
    from .config.types import parse_time

    try:
        return parse_time(str(written))
    except ValueError as error:
        raise click.BadParameter(f"{written} is {error}") from None


class Commands(click.Group):
    """A group whose mistakes end in one line and an exit code, never in a traceback."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as in click
        """Run a command; say what went wrong, if something did."""
        try:
            return super().invoke(ctx)
        except FunkenShieldError as error:
            for line in str(error).splitlines():
                click.echo(f"funkenshield: {line}", err=True)
            sys.exit(error.exit_code)
        except EndedError:
            sys.exit(0)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="funkenshield")
def main() -> None:
    """A caching reverse proxy for DNS.

    Put it in front of a slow or fragile nameserver: repeated questions are answered from memory, and
    only misses reach the server behind it.
    """


@main.command()
@click.option("-c", "--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="Read this TOML file.")
@click.option("--listen", multiple=True, metavar=ENDPOINT, help="Take queries here; may be given again.")
@click.option(
    "--upstream", "upstreams", multiple=True, metavar=ENDPOINT, help="Ask this nameserver; may be given again."
)
@click.option("--workers", type=int, metavar="N", help="Threads that answer; by default one for each core.")
@click.option("--cache-memory", metavar="SIZE", help="Memory for answers, such as 512MiB.")
@click.option("--control", metavar="PATH", help="Put the control socket there.")
def run(
    file: Path | None,
    listen: tuple[str, ...],
    upstreams: tuple[str, ...],
    workers: int | None,
    cache_memory: str | None,
    control: str | None,
) -> None:
    """Run the shield until SIGTERM or SIGINT; SIGHUP re-reads FILE. Flags override the file.

    Without FILE, --listen and --upstream, /etc/funkenshield.toml is read, if it is there.
    """
    from .config.places import default_file
    from .daemon import serve

    given = {
        "listen": listen,
        "upstreams": upstreams,
        "workers": workers,
        "cache.memory": cache_memory,
        "control.socket": control and str(Path(control).absolute()),
    }
    overrides = {key: value for key, value in given.items() if value not in (None, ())}
    file = file or (None if listen or upstreams else default_file())
    serve(_read(file, overrides), lambda: _read(file, overrides))


def _read(file: Path | None, overrides: dict[str, Any]) -> "Config":
    """Return a configuration of which all that it names is there."""
    from .config import load
    from .preflight import examine

    config = load(file, overrides)
    examine(config, str(file or "command line"))
    return config


@main.command()
@click.option("-c", "--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="Check this TOML file.")
def check(file: Path | None) -> None:
    """Check a configuration file: a line for each mistake, and exit code 2 if there is one.

    Without FILE, it is /etc/funkenshield.toml.
    """
    from .config.places import DEFAULT_FILE
    from .rules.engine import check as check_rules

    file = file or DEFAULT_FILE
    check_rules(_read(file, {}))
    click.echo(f"{file}: ok")


@main.command()
@click.option("--listen", default="127.0.0.1:8053", show_default=True, metavar=ENDPOINT)
@click.option("--zone", type=click.Path(path_type=Path), metavar="FILE", help="Serve this zone file.")
@click.option("--delay", type=seconds, default=0.0, metavar="TIME", help="Answer so much later.")
def ns(listen: str, zone: Path | None, delay: float) -> None:
    """Run the small nameserver: plain, correct and slow, made to stand behind the shield."""
    from .tools.demo import run_nameserver

    run_nameserver(listen, zone, delay)


@main.command()
@click.option("-d", "file", required=True, metavar="FILE", help='Lines of "name type"; - is standard input.')
@click.option("-s", "server", default="127.0.0.1", show_default=True, metavar="ADDR", help="The server.")
@click.option("-p", "port", type=int, default=53, show_default=True, help="Its port.")
@click.option("-l", "seconds", type=seconds, default=10.0, show_default=True, help="Seconds to run.")
@click.option("-q", "window", type=int, default=100, show_default=True, help="Open queries, at most.")
@click.option("-Q", "rate", type=float, default=0.0, metavar="QPS", help="Queries a second; 0: as many as can be.")
@click.option("-n", "limit", type=int, default=0, metavar="N", help="Stop after N queries; 0: after the seconds.")
@click.option("-t", "timeout", type=seconds, default=5.0, show_default=True, help="Seconds until a query is lost.")
@click.option("-e", "edns", is_flag=True, help="Send EDNS.")
@click.option("-D", "dnssec", is_flag=True, help="Ask for DNSSEC records.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
def perf(
    file: str, server: str, port: int, seconds: float, window: int, rate: float, limit: int, timeout: float,
    edns: bool, dnssec: bool, as_json: bool,
) -> None:  # fmt: skip
    """Load a server with queries, and report how it did."""
    from rich.console import Console

    from .tools.perf import read_queries, run_perf

    queries = read_queries(file, edns=edns, dnssec=dnssec)
    report = run_perf(
        queries, server, port, seconds, window=window, rate=rate, limit=limit, timeout=timeout,
        console=None if as_json else Console(),
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(report.as_dict()))


def _ports(command: Callable[..., None]) -> Callable[..., None]:
    """Let the addresses of the small nameserver and the shield be chosen."""
    for flag, default in (("--shield", "127.0.0.1:8054"), ("--nameserver", "127.0.0.1:8053")):
        command = click.option(flag, default=default, show_default=True, metavar=ENDPOINT, help="It listens there.")(
            command
        )
    return command


@main.command()
@click.option("-l", "seconds", type=seconds, default=5.0, show_default=True, help="Seconds for each of the two runs.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
@_ports
def demo(seconds: float, as_json: bool, nameserver: str, shield: str) -> None:
    """Repeat the experiment of 2011: a slow nameserver alone, then through the shield."""
    from .tools.demo import run_experiment

    run_experiment(nameserver, shield, seconds, as_json=as_json)


@main.command()
@_ports
def playground(nameserver: str, shield: str) -> None:
    """Run the small nameserver and the shield in front of it, to be tried with dig."""
    from .tools.demo import run_playground

    run_playground(nameserver, shield)


@main.group()
def about() -> None:
    """Print the reference pages that are made from the code."""


@about.command("config")
def about_config() -> None:
    """Print the reference of all options, in Markdown."""
    from .config.reference import reference

    click.echo(reference(), nl=False)


@about.command("rules")
@click.argument("page", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def about_rules(page: Path) -> None:
    """Print a page with its tables of conditions and actions made anew, in Markdown."""
    from .config.reference import with_tables

    click.echo(with_tables(page.read_text()), nl=False)


@about.command("metrics")
def about_metrics() -> None:
    """Print the reference of all metrics, in Markdown."""
    from .admin.metrics import documentation

    click.echo(documentation(), nl=False)


def _controls(command: Callable[..., None]) -> Callable[..., None]:
    """Have a command called with `control`, the socket of the daemon that is meant."""

    @click.option(
        "-c", "--config", "file", type=click.Path(path_type=Path), metavar="FILE",
        help="The daemon's file: its control.socket is asked. By default /etc/funkenshield.toml, if it is there.",
    )  # fmt: skip
    @click.option("--control", type=click.Path(path_type=Path), metavar="PATH", help="Or else its control socket.")
    @functools.wraps(command)
    def found(file: Path | None, control: Path | None, **others: Any) -> None:  # noqa: ANN401 - as in click
        from .config.places import control_socket

        command(control=control or control_socket(file), **others)

    return found


@main.command()
@_controls
@click.option("--json", "as_json", is_flag=True, help="All of it, as JSON.")
def stats(control: Path, as_json: bool) -> None:
    """Show what a running daemon has counted."""
    from .admin.control import ask

    found = ask(control, {"command": "stats"})["stats"]
    if as_json:
        click.echo(json.dumps(found))
        return
    upstreams, rules = found.pop("upstreams"), found.pop("rules")
    del found["latencies"]
    for transport, counts in found.pop("responses").items():
        found.update({f"{transport} {rcode}": count for rcode, count in counts.items()})
    for transport, count in found.pop("transport_queries").items():
        found[f"queries_{transport}"] = count
    for name, value in found.items():
        click.echo(f"{name:<20}{value:>16,}")
    for endpoint, counters in upstreams.items():
        click.echo(f"\nupstream {endpoint}")
        del counters["name"], counters["address"]
        click.echo(f"  {'state':<18}{counters.pop('state'):>16}")
        rcodes, latency = counters.pop("rcodes"), counters.pop("latency")
        failed, felt = counters.pop("failed"), counters.pop("felt")
        for name, value in [*counters.items(), *rcodes.items()]:
            click.echo(f"  {name:<18}{value:>16,}")
        for reason, count in failed.items():
            if count:
                click.echo(f"  {f'failed: {reason}':<26}{count:>8,}, felt by clients: {felt[reason]:,}")
        for name, seconds in latency.items():
            click.echo(f"  {f'latency {name}':<18}{seconds * 1000:>16,.3f} ms")
    for rule, counters in rules.items():
        click.echo(f"\nrule {rule}")
        for name, value in counters.items():
            click.echo(f"  {name:<18}{value:>16,}")


@main.command()
@_controls
@click.option("--all", "everything", is_flag=True, help="Purge everything.")
@click.option("--zone", metavar="NAME", help="Purge a name and all names under it.")
@click.option("--name", metavar="NAME", help="Purge one name.")
@click.option("--type", "qtype", metavar="TYPE", help="Purge only this type.")
def purge(control: Path, everything: bool, zone: str | None, name: str | None, qtype: str | None) -> None:
    """Take answers out of a running daemon's cache: --all, --zone NAME or --name NAME."""
    from .admin.control import ask

    if sum((everything, zone is not None, name is not None)) != 1:
        raise click.UsageError("give one of --all, --zone and --name")
    if "" in (zone, name):
        raise click.UsageError("an empty name is none; everything is --all")
    request: dict[str, Any] = {"command": "purge", "name": name or zone or ".", "below": name is None}
    if qtype:
        request["type"] = qtype
    ask(control, request)
    what = "everything" if everything else f"whatever there was of {name or zone}{' and below it' if zone else ''}"
    click.echo(f"purged: {what}{f', of type {qtype}' if qtype else ''}")


@main.command()
@_controls
def blocks(control: Path) -> None:
    """List the source prefixes that are shut out."""
    from .admin.control import ask

    for block in ask(control, {"command": "blocks"})["blocks"]:
        click.echo(f"{block['prefix']:<44}{block['seconds']:>10,.1f} s  {block['action']:<9}{block['reason']}")


@main.command()
@_controls
@click.option("--for", "seconds", type=seconds, default=3600.0, show_default=True, help="Seconds, or such as 30m, 1d.")
@click.option("--refuse", is_flag=True, help="Answer REFUSED, rather than nothing.")
@click.option("--yes", is_flag=True, help="Yes, also a prefix shorter than /8 (IPv6: /16).")
@click.argument("prefix")
def block(control: Path, seconds: float, refuse: bool, yes: bool, prefix: str) -> None:
    """Shut out a source prefix, or an address, for a while."""
    from .admin.control import ControlError, ask

    action = "refuse" if refuse else "drop"
    request = {"command": "block", "prefix": prefix, "seconds": seconds, "action": action, "sure": yes}
    try:
        ask(control, request)
    except ControlError as error:
        raise ControlError(f"{error} Then say --yes." if str(error).endswith("?") else str(error)) from None
    click.echo("shut out")


@main.command()
@_controls
@click.argument("prefix")
def unblock(control: Path, prefix: str) -> None:
    """Let a source prefix, and all that is within it, in again."""
    from .admin.control import ask

    click.echo(f"{ask(control, {'command': 'unblock', 'prefix': prefix})['lifted']} lifted")
