"""The command line: options and help texts; each command calls the module that does the work.

A command imports what it needs when it runs, so that `--version` and `--help` load neither pydantic nor dnspython.
"""

import functools
import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import operate
from .options import PATH, Commands, seconds

if TYPE_CHECKING:
    from .config import Config

ENDPOINT = "ADDR:PORT"


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print the version, and what depends on where it was built."""
    if not wanted or ctx.resilient_parsing:
        return
    from . import __version__

    try:
        from .server._tls import OPENSSL_VERSION

        encrypted = "DNS over TLS: " + " ".join(OPENSSL_VERSION.split()[:2])
    except ModuleNotFoundError:
        encrypted = "without DNS over TLS for clients: built without OpenSSL's headers"
    except ImportError as error:
        encrypted = f"without DNS over TLS for clients: {error}"
    try:
        from .server._http2 import NGHTTP2_VERSION

        requested = f"DNS over HTTPS: nghttp2 {NGHTTP2_VERSION}"
    except ModuleNotFoundError:
        requested = "without DNS over HTTPS for clients: built without nghttp2's headers"
    except ImportError as error:
        requested = f"without DNS over HTTPS for clients: {error}"
    from .errors import FunkenShieldError
    from .server import quic
    from .xdp.interface import PROGRAMS

    try:
        over_quic = f"DNS over QUIC: qh3 {quic.installed()}"
    except FunkenShieldError:
        over_quic = "without DNS over QUIC for clients: pip install 'funkenshield[quic]'"
    from_interfaces = "without AF_XDP for clients: built without clang"
    if all(each.exists() for each in PROGRAMS.values()):
        from_interfaces = "AF_XDP"
    click.echo(f"funkenshield {__version__} ({encrypted}; {requested}; {over_quic}; {from_interfaces})")
    ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version,
    help="Show the version, and what is built in.",
)  # fmt: skip
def main() -> None:
    """A caching reverse proxy for DNS.

    It runs in front of nameservers that are slow or easily overloaded: repeated queries are answered
    from its cache, and only misses are forwarded.
    """


@main.command()
@click.option("-c", "--config", "file", type=PATH, metavar="FILE", help="Read this TOML file.")
@click.option("--listen", multiple=True, metavar=ENDPOINT, help="Listen on this address; repeatable.")
@click.option(
    "--upstream", "upstreams", multiple=True, metavar=ENDPOINT,
    help="Forward misses to this nameserver, which may be a host's name; repeatable.",
)  # fmt: skip
@click.option("--workers", type=int, metavar="N", help="Worker threads; default: one per core.")
@click.option("--cache-memory", metavar="SIZE", help="Memory for the cache, such as 512MiB.")
@click.option("--control", metavar="PATH", help="Path of the control socket.")
@click.option("--take-over", is_flag=True, help="Replace the daemon that runs at this control socket, without a loss.")
def run(
    file: Path | None,
    listen: tuple[str, ...],
    upstreams: tuple[str, ...],
    workers: int | None,
    cache_memory: str | None,
    control: str | None,
    take_over: bool,
) -> None:
    """Run the daemon in the foreground until SIGTERM or SIGINT.

    FILE is read again when it changes, and at SIGHUP. Environment variables such as
    FUNKENSHIELD_CACHE__MEMORY=1GiB override it, and options override both. Without -c, --listen and
    --upstream, /etc/funkenshield.toml is read if it exists.
    """
    from .config import default_file
    from .core.files import Watched
    from .daemon import serve
    from .upgrade import reported

    given = {
        "listen": listen,
        "upstreams": upstreams,
        "workers": workers,
        "cache.memory": cache_memory,
        "control.socket": control and str(Path(control).absolute()),
    }
    overrides = {key: value for key, value in given.items() if value not in (None, ())}
    file = file or (None if listen or upstreams else default_file())
    watched = Watched(file) if file else None

    def read(*, at_reload: bool = False) -> "Config":
        with watched.reading() if watched else nullcontext():
            return _read(file, overrides, at_reload=at_reload)

    with reported() as connected:
        serve(read(), functools.partial(read, at_reload=True), watched, take_over=take_over, connected=connected)


def _read(file: Path | None, overrides: dict[str, Any], *, at_reload: bool = False) -> "Config":
    """Load a configuration, and check that the users, folders and files it names exist."""
    from .config import load
    from .preflight import examine

    config = load(file, overrides, os.environ)
    examine(config, str(file or "command line"), at_reload=at_reload)
    return config


@main.command()
@click.option("-c", "--config", "file", type=PATH, metavar="FILE", help="Check this TOML file.")
def check(file: Path | None) -> None:
    """Check a configuration file and its rules, with the environment variables that override it.

    Every mistake is printed on a line of its own, and the exit code is then 2. Without -c,
    /etc/funkenshield.toml is checked, or the variables alone if it does not exist.
    """
    from .config import DEFAULT_FILE, default_file, in_environment
    from .config.kernel_answers import against_all, off
    from .rules.engine import check as check_rules

    file = file or default_file() or (None if in_environment(os.environ) else DEFAULT_FILE)
    config = _read(file, {})
    check_rules(config)
    if reasons := against_all(config):
        click.echo(f"{file or 'environment'}: {off(reasons)}")
    click.echo(f"{file or 'environment'}: ok")


@main.command()
@click.option("-c", "--config", "file", type=PATH, metavar="FILE", help="Find the daemon by this TOML file.")
@click.option("--control", type=PATH, help="Ask at the control socket at this path, and not over HTTP.")
def ready(file: Path | None, control: Path | None) -> None:
    """Tell whether a daemon serves, as a container's health check asks.

    It is asked for /ready, where its metrics are: metrics.listen takes an address. The exit code is 1 where it does
    not serve. FILE and environment variables are as for run. With --control, no file is read, and the answer is that
    daemon's also where several share an address.
    """
    from .admin.readiness import check_control, check_ready

    if control is not None:
        check_control(control)
    else:
        from .config import default_file, load

        check_ready(load(file or default_file(), {}, os.environ).web_endpoint)
    click.echo("ready")


@main.command()
@click.option("-c", "--config", "file", type=PATH, metavar="FILE", help="Follow this TOML file, the daemon's.")
def announce(file: Path | None) -> None:
    """Announce anycast routes while a daemon answers well, by ExaBGP or BIRD, and withdraw them before it ends.

    What is asked, when, and who is told is in the section announce. ExaBGP runs it as its process. It ends at SIGTERM,
    SIGINT, or with ExaBGP, and withdraws. FILE and environment variables are as for run.
    """
    from .announce.announcer import announce
    from .config import default_file, load

    announce(load(file or default_file(), {}, os.environ))


@main.command()
@click.option("--xdp", "interface", required=True, metavar="INTERFACE", help="Look at this network interface.")
@click.option("--attach", is_flag=True, help="Attach a program for a moment, too: some drivers stop the link for it.")
@click.option("-c", "--config", "file", type=PATH, metavar="FILE", help="Look at what this TOML file says, too.")
def doctor(interface: str, attach: bool, file: Path | None) -> None:
    """Tell whether queries can be taken from an interface, and what is in the way.

    Each thing that it takes is looked at; the exit code is 1 where one is missing. What a user may do is looked at as
    that user: root, or what the service runs as. With -c, it is told, too, what has workers answer all queries,
    although kernel_answers is set.
    """
    from .xdp.doctor import Finding, examine

    findings = list(examine(interface, attach=attach))
    if file is not None:
        from .config import load
        from .config.kernel_answers import against_all, off

        reasons = against_all(load(file, {}, os.environ))
        findings.append(
            Finding("answers", not reasons, off(reasons) if reasons else "nothing keeps the kernel from them")
        )
    for each in findings:
        click.echo(f"{'ok' if each.is_right else 'NO':4}{each.subject:11}{each.found}")
    if not all(each.is_right for each in findings):
        raise SystemExit(1)


@main.command()
@click.option("--listen", default="127.0.0.1:8053", show_default=True, metavar=ENDPOINT, help="Listen on this address.")
@click.option("--zone", type=PATH, metavar="FILE", help="Serve this zone file.")
@click.option("--delay", type=seconds, default=0.0, metavar="TIME", help="Delay each response by this long.")
def nameserver(listen: str, zone: Path | None, delay: float) -> None:
    """Run the small authoritative nameserver, for tests."""
    from .tools.demo import run_nameserver

    run_nameserver(listen, zone, delay)


@main.command()
@click.option(
    "-d", "file", required=True, metavar="FILE", help='Query file, lines of "name type"; - for standard input.'
)
@click.option("-s", "server", default="127.0.0.1", show_default=True, metavar="ADDR", help="Address of the server.")
@click.option("-p", "port", type=int, default=53, show_default=True, help="Port of the server.")
@click.option("-l", "seconds", type=seconds, default=10.0, show_default=True, help="Run this long.")
@click.option("-q", "window", type=int, default=100, show_default=True, help="Outstanding queries, at most.")
@click.option("-Q", "rate", type=float, default=0.0, metavar="QPS", help="Queries per second; 0 for no limit.")
@click.option("-n", "limit", type=int, default=0, metavar="N", help="Stop after N queries; 0 for no limit.")
@click.option(
    "-t", "timeout", type=seconds, default=5.0, show_default=True, help="Count a query as lost after this long."
)
@click.option("-e", "edns", is_flag=True, help="Send an OPT record (EDNS).")
@click.option("-D", "dnssec", is_flag=True, help="Set the DO bit (DNSSEC).")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def perf(
    file: str, server: str, port: int, seconds: float, window: int, rate: float, limit: int, timeout: float,
    edns: bool, dnssec: bool, as_json: bool,
) -> None:  # fmt: skip
    """Load a server with queries, and report latencies and losses."""
    from rich.console import Console

    from .tools.perf import read_queries, run_perf

    queries = read_queries(file, edns=edns, dnssec=dnssec)
    report = run_perf(
        queries, server, port, seconds, window=window, rate=rate, limit=limit, timeout=timeout,
        console=None if as_json else Console(),
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(report._asdict()))


def _ports(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options for the addresses of the small nameserver and the shield."""
    for flag, default in (("--shield", "127.0.0.1:8054"), ("--nameserver", "127.0.0.1:8053")):
        text = f"Address that the {flag[2:]} listens on."
        command = click.option(flag, default=default, show_default=True, metavar=ENDPOINT, help=text)(command)
    return command


@main.command()
@click.option("-l", "seconds", type=seconds, default=5.0, show_default=True, help="Duration of each of the two runs.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@_ports
def demo(seconds: float, as_json: bool, nameserver: str, shield: str) -> None:
    """Measure a nameserver alone, then behind the shield.

    It is slow, as in the experiment of 2011.
    """
    from .tools.demo import run_experiment

    run_experiment(nameserver, shield, seconds, as_json=as_json)


@main.command()
@_ports
def playground(nameserver: str, shield: str) -> None:
    """Run the small nameserver behind the shield, to try."""
    from .tools.demo import run_playground

    run_playground(nameserver, shield)


@main.group()
def docs() -> None:
    """Print the reference pages that are generated from the code."""


@docs.command("config")
def docs_config() -> None:
    """Print the reference of the configuration, in Markdown."""
    from .config.reference import reference

    click.echo(reference(), nl=False)


@docs.command("commands")
def docs_commands() -> None:
    """Print the reference of all commands, in Markdown."""
    from .tools.manual import commands_page

    click.echo(commands_page(main), nl=False)


@docs.command("json-schema")
def docs_json_schema() -> None:
    """Print the JSON Schema of the configuration, with which editors complete and check the file."""
    from .config.json_schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@docs.command("rules")
@click.argument("page", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def docs_rules(page: Path) -> None:
    """Print a page with its tables of conditions and actions regenerated, in Markdown."""
    from .config.reference import with_tables

    click.echo(with_tables(page.read_text()), nl=False)


@docs.command("metrics")
def docs_metrics() -> None:
    """Print the reference of all metrics, in Markdown."""
    from .admin.metrics import documentation

    click.echo(documentation(), nl=False)


@docs.command("man")
@click.argument("page", type=click.Choice(["funkenshield.1", "funkenshield.toml.5"]))
def docs_man(page: str) -> None:
    """Print a page of the manual, for man(1)."""
    from .tools.manual import command_page, file_page

    click.echo(command_page(main) if page == "funkenshield.1" else file_page(), nl=False)


@docs.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def docs_completion(shell: str) -> None:
    """Print the script with which a shell completes commands and options."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(main, {}, "funkenshield", "_FUNKENSHIELD_COMPLETE")
    click.echo(made.source_template % made.source_vars(), nl=False)  # source() would look which bash is here


for command in operate.commands():
    main.add_command(command)
