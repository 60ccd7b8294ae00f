"""Commands to a daemon that runs, over its control socket: what they ask for, and how the responses are shown.

What the daemon does is told in `admin/commands`. With `--json`, a response is printed as it comes.
"""

import base64
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from .admin.explained import lines_of
from .errors import FunkenShieldError
from .options import Ask, Commands, controls, located, seconds

LABELLED = (  # that are shown one by one
    "listener_messages", "tls_handshakes", "tls_failures", "tls_versions", "http_responses", "http_errors",
    "events_written", "events_waiting", "events_lost", "events_shortened",
)  # fmt: skip
TRANSPORTS = ("udp", "tcp", "tls", "https", "http", "quic", "h3")
LEVELS = ("debug", "info", "warning", "error", "default")
PAGE = 200  # entries that are asked for at once
UPGRADING = 600.0  # seconds that an upgrade may take, where a large cache is copied
ASKING = 20.0  # seconds that a purge of all nodes may take besides
RELOADING = 120.0  # seconds that a reload may take: rules have a setup
waits = click.option(
    "--wait", type=seconds, default=10.0, show_default=True, help="With --everywhere, wait so long until all have."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the response of the daemon as JSON.")


def _show(response: dict[str, Any], as_json: bool, *lines: str, nothing: str | None = None) -> None:
    """Print a response: as it is, or as these lines, or the word for it that there are none."""
    if as_json:
        click.echo(json.dumps(response))
        return
    for line in lines or ([nothing] if nothing else []):
        click.echo(line)


@click.command()
@controls
@as_json
def stats(ask: Ask, as_json: bool) -> None:
    """Show the statistics of a running daemon."""
    found = ask({"command": "stats"})["stats"]
    if as_json:
        click.echo(json.dumps(found))
        return
    upstreams, rules = found.pop("upstreams", {}), found.pop("rules", {})
    found.pop("start_time_seconds", None)
    for transport, counts in found.pop("responses", {}).items():
        found.update({f"responses {transport} {rcode}": count for rcode, count in counts.items()})
    for transport, count in found.pop("queries_by_transport", {}).items():
        found[f"queries {transport}"] = count
    for name in LABELLED:
        found.update({f"{name} {label}": count for label, count in found.pop(name, {}).items()})
    expiries = found.pop("tls_certificate_expiry_timestamp_seconds", {})
    _echo_numbers(found)
    for path, end in expiries.items():
        click.echo(f"certificate {path}: expires {datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M} UTC")
    for endpoint, counters in upstreams.items():
        click.echo(f"\nupstream {endpoint}")
        click.echo(f"  {'state':<26}{counters.get('state', ''):>16}")
        _echo_numbers(counters | counters.get("rcodes", {}), "  ")
        visible = counters.get("client_visible_failures", {})
        for reason, count in counters.get("failures", {}).items():
            if count:
                click.echo(f"  {f'failures: {reason}':<34}{count:>8,}, visible to clients: {visible.get(reason, 0):,}")
        for name, took in counters.get("latency", {}).items():
            click.echo(f"  {f'latency {name}':<26}{took * 1000:>16,.3f} ms")
    for rule, counters in rules.items():
        click.echo(f"\nrule {rule}")
        _echo_numbers(counters, "  ")


def _echo_numbers(found: dict[str, Any], indent: str = "") -> None:
    """Print what is a number of what a daemon counts; it may be of another version than this."""
    for name, value in found.items():
        if isinstance(value, int | float):
            click.echo(f"{indent}{name:<{28 - len(indent)}}{value:>16,}")


@click.command()
@located
@click.option("--once", is_flag=True, help="Print what there is to see, one table below the other, and end.")
@click.option(
    "--interval", type=seconds, default=1.0, show_default=True, help="Ask the daemon this often; once a second at most."
)
@click.option("--ascii", is_flag=True, help="Draw with ASCII only.")
@click.option("--json", "as_json", is_flag=True, help="Print what there is to see as one JSON object, and end.")
def top(file: Path | None, control: Path | None, once: bool, interval: float, ascii: bool, as_json: bool) -> None:
    """Watch a running daemon on the terminal: what is asked, what becomes of it, and whether all is well.

    Keys sort, filter and pause, and have the daemon purge, block, drain and the like; h shows them all. Without -c and
    --control, the daemon is looked for: where the configuration says, where daemons of this user, of root and of
    playgrounds are. If there are several, the first is shown, and n shows the next.
    """
    from .config import control_socket
    from .screen import live, places, sheet

    if not 1 <= interval <= 60:
        raise click.BadParameter("1 to 60 seconds", param_hint="--interval")
    found = [control or control_socket(file, os.environ)] if file or control else places.running(os.environ)
    if not once and not as_json:
        live.watch(found, interval, ascii=ascii)
        return
    if len(found) > 1:
        others = ", ".join(map(str, found[1:]))
        click.echo(f"funkenshield: this is {found[0]}; daemons are at {others}, too: --control names one", err=True)
    shown = sheet.read(found[0], interval)
    if as_json:
        click.echo(sheet.as_json(found[0], shown))
    else:
        sheet.as_text(found[0], shown, ascii=ascii)


@click.command()
@controls
@as_json
def failures(ask: Ask, as_json: bool) -> None:
    """Show the last queries that clients got no answer for, and why."""
    response = ask({"command": "failures"})
    lines = (
        f"{datetime.fromtimestamp(each['time']).astimezone():%Y-%m-%d %H:%M:%S}  {each['name']} {each['type']}: "
        f"{each['upstream']} {each['text']}".rstrip()
        + (f" ({each['times']:,} times)" if each["times"] > 1 else "")
        for each in response["failures"]
    )
    _show(response, as_json, *lines, nothing="no query failed")


@click.command()
@controls
@click.option("--all", "everything", is_flag=True, help="Purge the whole cache.")
@click.option("--zone", metavar="NAME", help="Purge a name and all names below it.")
@click.option("--name", metavar="NAME", help="Purge one name.")
@click.option("--type", "qtype", metavar="TYPE", help="Purge only records of this type.")
@click.option("--everywhere", is_flag=True, help="Wait until all nodes of the cluster have purged.")
@waits
@as_json
def purge(
    ask: Ask, everything: bool, zone: str | None, name: str | None, qtype: str | None, everywhere: bool, wait: float,
    as_json: bool,
) -> None:  # fmt: skip
    """Purge a running daemon's cache: everything, a zone or a name.

    In a cluster, all nodes are told. With --everywhere, the exit code is 1 if some node did not say in time that it
    has done so; those are named, and do it when they reach the store again.
    """
    if sum((everything, zone is not None, name is not None)) != 1:
        raise click.UsageError("give exactly one of --all, --zone and --name")
    if "" in (zone, name):
        raise click.UsageError("the name is empty; to purge everything, use --all")
    request: dict[str, Any] = {"command": "purge", "name": name or zone or ".", "below": name is None}
    if qtype:
        request["type"] = qtype
    what = "everything" if everything else f"{name or zone}{' and all names below it' if zone else ''}"
    done = f"purged: {what}{f', type {qtype}' if qtype else ''}"
    if not everywhere:
        _show(ask(request), as_json, done)
        return
    _show_nodes(ask(_everywhere(request, wait), wait + ASKING), as_json, done, "purged")


def _everywhere(request: dict[str, Any], wait: float) -> dict[str, Any]:
    """Return a request that waits until all nodes have done what it asks for."""
    return request | {"everywhere": True, "wait": wait}


def _show_nodes(response: dict[str, Any], as_json: bool, line: str, done: str) -> None:
    """Print at which nodes it is done, and at which it is not; the exit code is 1 if there are any."""
    _show(response, as_json, f"{line}, at {len(response['nodes'])} nodes: {', '.join(response['nodes']) or 'none'}")
    for each in response["missing"]:
        click.echo(
            f"funkenshield: not {done} at {each['node']}, which was last heard {each['silent']:g} s ago", err=True
        )
    sys.exit(bool(response["missing"]))


# ---------------------------------------------------------------- clients


@click.group(cls=Commands)
def block() -> None:
    """Block source prefixes, and list those that are blocked."""


@block.command("list")
@controls
@as_json
def block_list(ask: Ask, as_json: bool) -> None:
    """List the blocked prefixes: time left, action, reason."""
    response = ask({"command": "block list"})
    _show(response, as_json, *(
        f"{each['prefix']:<44}{each['seconds']:>10,.1f} s  {each['action']:<9}{each['reason']}"
        for each in response["blocks"]
    ), nothing="nobody is blocked")  # fmt: skip


@block.command("add")
@controls
@click.option(
    "--for", "seconds", type=seconds, default=3600.0, show_default=True, help="Duration, such as 600, 30m or 1d."
)
@click.option("--refuse", is_flag=True, help="Answer REFUSED instead of dropping queries.")
@click.option("--yes", is_flag=True, help="Confirm a prefix shorter than /8 (IPv6: /16).")
@click.option("--everywhere", is_flag=True, help="Block it at all nodes of the cluster, and wait until they have.")
@waits
@as_json
@click.argument("prefix")
def block_add(
    ask: Ask, seconds: float, refuse: bool, yes: bool, everywhere: bool, wait: float, prefix: str, as_json: bool
) -> None:
    """Block an address or a source prefix for a while.

    With --everywhere, the exit code is 1 if some node did not say in time that it has done so; those are named.
    """
    action = "refuse" if refuse else "drop"
    request = {"command": "block add", "prefix": prefix, "seconds": seconds, "action": action, "confirmed": yes}
    done = f"{prefix}: blocked for {seconds:g} s"
    if not everywhere:
        _show(ask(request), as_json, done)
        return
    _show_nodes(ask(_everywhere(request, wait), wait + ASKING), as_json, done, "blocked")


@block.command("remove")
@controls
@click.option("--everywhere", is_flag=True, help="Remove them at all nodes of the cluster, and wait until they have.")
@waits
@as_json
@click.argument("prefix")
def block_remove(ask: Ask, everywhere: bool, wait: float, prefix: str, as_json: bool) -> None:
    """Remove the blocks of a source prefix and of all prefixes within it."""
    request = {"command": "block remove", "prefix": prefix}
    if not everywhere:
        response = ask(request)
        _show(response, as_json, f"{prefix}: {response['removed']} removed")
        return
    response = ask(_everywhere(request, wait), wait + ASKING)
    _show_nodes(response, as_json, f"{prefix}: {response['removed']} removed here", "removed")


# ---------------------------------------------------------------- upstreams, rules, the log


@click.group(cls=Commands)
def upstream() -> None:
    """List upstreams, and take them out of service or back.

    NAME is an upstream's name, or the address that it is asked at. What is set here holds over reloads, until
    `upstream up` or a restart.
    """


@upstream.command("list")
@controls
@as_json
def upstream_list(ask: Ask, as_json: bool) -> None:
    """List the upstreams: state and why, outstanding queries, median latency, groups."""
    response = ask({"command": "upstream list"})
    _show(response, as_json, *(
        f"{each['name']:<32}{each['state']:<24}{each['outstanding']:>6} outstanding"
        f"{each['latency'].get('p50', 0) * 1000:>10,.1f} ms  {', '.join(each['groups'])}"
        + (f"  ({each['why']})" if each["why"] else "")
        for each in response["upstreams"]
    ))  # fmt: skip


def _steers(name: str, done: str, text: str) -> None:
    """Add a command that steers an upstream."""

    @upstream.command(name, help=text)
    @controls
    @as_json
    @click.argument("name")
    def steer(ask: Ask, name: str, as_json: bool) -> None:
        response = ask({"command": steer_command, "name": name})
        _show(response, as_json, *(f"{each}: {done}" for each in response["upstreams"]))

    steer_command = f"upstream {name}"


_steers("down", "down", "Take an upstream out of service now; what waits for it is asked elsewhere.")
_steers("drain", "draining", "Give an upstream no new queries; what waits for it goes on waiting.")
_steers("up", "given back", "Give an upstream back to its health checks, or to the state that is configured.")


@click.group(cls=Commands)
def rules() -> None:
    """List rules, and disable or enable them.

    What is set here holds over reloads, until `rules enable` or a restart.
    """


@rules.command("list")
@controls
@as_json
def rules_list(ask: Ask, as_json: bool) -> None:
    """List the rules in force, in the order in which they are evaluated: how often each matched, what it does."""
    response = ask({"command": "rules list"})
    _show(response, as_json, *(
        f"{each['matches']:>14,}  {each['chain']:<11}{each['name']:<28}"
        f"{'' if each['enabled'] else 'DISABLED  '}{each['match'] or 'everything'} -> {each['action']}"
        for each in response["rules"]
    ), nothing="there are no rules")  # fmt: skip


@rules.command("disable")
@controls
@as_json
@click.argument("name")
def rules_disable(ask: Ask, name: str, as_json: bool) -> None:
    """Have a rule evaluated no more."""
    _show(ask({"command": "rules disable", "name": name}), as_json, f"{name}: disabled")


@rules.command("enable")
@controls
@as_json
@click.argument("name")
def rules_enable(ask: Ask, name: str, as_json: bool) -> None:
    """Have a disabled rule evaluated again."""
    _show(ask({"command": "rules enable", "name": name}), as_json, f"{name}: enabled")


@click.group(cls=Commands)
def log() -> None:
    """See or set what is logged."""


@log.command("level")
@controls
@as_json
@click.argument("level", type=click.Choice(LEVELS), required=False)
def log_level(ask: Ask, level: str | None, as_json: bool) -> None:
    """Show the lowest level that is logged, or set it; `default` is the configured one.

    It holds over reloads, until it is set again or the daemon is restarted.
    """
    response = ask({"command": "log level", "level": level})
    _show(response, as_json, f"{response['level']} (configured: {response['configured']})")


# ---------------------------------------------------------------- the configuration


@click.group(cls=Commands)
def config() -> None:
    """Show the configuration that a daemon follows."""


@config.command("show")
@controls
@click.option("--changed", is_flag=True, help="Show only what differs from the default.")
@as_json
def config_show(ask: Ask, changed: bool, as_json: bool) -> None:
    """Show every option in force; a * marks those that differ from the default, which is shown behind them.

    So is the environment variable, or the command line, that an option comes from in place of the file.

    Of tables such as [[zones]], only what differs is shown. What commands have set besides comes last.
    """
    response = ask({"command": "config show"})
    lines = [
        f"{'*' if each['differs'] else ' '} {each['key']} = {_value(each['value'])}{_remark(each)}"
        for each in response["config"]
        if each["differs"] or not changed
    ]
    steered = [f"! {what}: {_value(value)}" for what, value in response["steered"].items() if value]
    _show(response, as_json, *lines, *(["", "set by commands:", *steered] if steered else []))


def _remark(option: dict[str, Any]) -> str:
    has_default = option["differs"] and option["default"] is not None
    said = [f"default: {_value(option['default'])}" if has_default else "", option.get("origin", "")]
    return f"    # {'; '.join(filter(None, said))}" if any(said) else ""


def _value(value: object) -> str:
    """Write a value as TOML would, as far as it is one of TOML's."""
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


@click.command()
@controls
@as_json
def upgrade(ask: Ask, as_json: bool) -> None:
    """Replace a running daemon by a new process, without a loss.

    The new one runs what is installed by now, with the same options, and takes over sockets, cache and connections. If
    it cannot start, the old one serves on.
    """
    done = ask({"command": "upgrade"}, UPGRADING)
    _show(done, as_json, f"upgraded: process {done['pid']} serves, process {done['was']} answers who waits, and leaves")


@click.command()
@controls
@as_json
def reload(ask: Ask, as_json: bool) -> None:
    """Have a daemon read its configuration again; wait, and tell what became of it.

    Where something is wrong, each mistake is printed on a line of its own, the old configuration stays in force, and
    the exit code is 1.
    """
    response = ask({"command": "reload"}, RELOADING)
    _show(
        response, as_json, *(f"warning: {line}" for line in response["warnings"]), *["reloaded"][: response["reloaded"]]
    )
    if not response["reloaded"]:
        for line in [] if as_json else response["errors"]:
            click.echo(f"funkenshield: reload failed: {line}", err=True)
        sys.exit(1)


# ---------------------------------------------------------------- why


@click.command()
@controls
@click.option("--from", "source", default="127.0.0.1", show_default=True, metavar="ADDR", help="The client's address.")
@click.option("--transport", type=click.Choice(TRANSPORTS), default="udp", show_default=True, help="The transport.")
@click.option("--listener", metavar="ADDR:PORT", help="The address that is asked; default: the first of the transport.")
@click.option("--server-name", default="", metavar="NAME", help="The name in the TLS handshake (SNI).")
@click.option("--dnssec", "do", is_flag=True, help="Set the DO bit.")
@click.option("--cd", is_flag=True, help="Set the CD flag.")
@click.option("--no-rd", is_flag=True, help="Clear the RD flag, as a resolver does.")
@click.option("--no-ad", is_flag=True, help="Clear the AD flag, which dig sets.")
@click.option("--no-edns", is_flag=True, help="Send no OPT record.")
@click.option("--subnet", metavar="PREFIX", help="Send this client subnet (ECS).")
@as_json
@click.argument("name")
@click.argument("type", default="A")
def explain(
    ask: Ask, source: str, transport: str, listener: str | None, server_name: str, do: bool, cd: bool, no_rd: bool,
    no_ad: bool, no_edns: bool, subnet: str | None, as_json: bool, name: str, type: str,
) -> None:  # fmt: skip
    """Show step by step what the daemon would do with a question now, and why.

    The question is as dig asks it unless options say otherwise, for flags are part of what an answer is cached under.
    Nothing is sent, counted, charged or marked by it.
    """
    flags = [flag for flag, is_set in (("RD", not no_rd), ("AD", not no_ad), ("CD", cd)) if is_set]
    response = ask({
        "command": "explain", "name": name, "type": type, "source": source, "transport": transport,
        "listener": listener, "flags": flags, "edns": not no_edns, "do": do, "subnet": subnet,
        "server_name": server_name,
    })  # fmt: skip
    _show(response, as_json, *lines_of(response))


# ---------------------------------------------------------------- the cache


@click.group(cls=Commands)
def cache() -> None:
    """Look into the cache, entry by entry; nothing is marked as used by it."""


@cache.command("lookup")
@controls
@as_json
@click.argument("name")
@click.argument("type", required=False)
def cache_lookup(ask: Ask, name: str, type: str | None, as_json: bool) -> None:
    """Show all entries for a name: each type, each combination of flags and client subnet.

    The exit code is 1 where there is none.
    """
    found = 0
    for each in _entries(ask, name=name, below=False, type=type, messages=True):
        found += 1
        click.echo(json.dumps(each) if as_json else "\n".join(_records(each)))
    sys.exit(not found)


@cache.command("list")
@controls
@click.option("--zone", default=".", help="Only this name and all names below it.")
@click.option("--type", metavar="TYPE", help="Only entries of this type.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="So many entries at most.")
@as_json
def cache_list(ask: Ask, zone: str, type: str | None, limit: int, as_json: bool) -> None:
    """List entries, one on each line, in the order in which they are stored."""
    for number, each in enumerate(_entries(ask, name=zone, below=True, type=type, limit=limit)):
        if number == limit:
            click.echo(f"funkenshield: there are more than {limit}; see --limit", err=True)
            break
        click.echo(json.dumps(each) if as_json else _entry(each))


@cache.command("dump")
@controls
@click.option("--zone", default=".", help="Only this name and all names below it.")
@as_json
@click.argument("target", metavar="FILE")
def cache_dump(ask: Ask, zone: str, target: str, as_json: bool) -> None:
    """Write all entries to FILE, - for standard output: a comment for each entry, and its records, one on each line.

    The daemon serves on: it is asked for some hundred entries at a time, so what changes meanwhile may be there twice,
    or not at all. With --json, each line is an entry.
    """
    written = 0
    try:
        with contextlib.nullcontext(sys.stdout) if target == "-" else Path(target).open("w") as file:
            for each in _entries(ask, name=zone, below=True, messages=True):
                file.write((json.dumps(each) if as_json else "\n".join(_records(each))) + "\n")
                written += 1
    except OSError as error:
        raise FunkenShieldError(f"{target}: {error.strerror}") from None
    click.echo(f"{written:,} entries", err=True)


def _entries(ask: Ask, **wanted: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - members of a request
    """Yield entries, page by page; of a limit, one more where there are more."""
    request = {"command": "cache entries", **wanted, "limit": min(wanted.get("limit", PAGE) + 1, PAGE)}
    while True:
        response = ask(request)
        yield from response["entries"]
        if response["next"] is None:
            return
        request["after"] = response["next"]


def _entry(entry: dict[str, Any]) -> str:
    """Return an entry in a line."""
    marks = [flag for flag in ("rd", "cd", "edns", "do") if entry[flag]]
    if "subnet" in entry:
        marks.append(f"subnet {entry['subnet']}")
    if entry["route"]:
        marks.append(entry["route"])
    life = f"fresh for {entry['ttl']:.0f} s" if entry["ttl"] >= 0 else f"expired {-entry['ttl']:.0f} s ago"
    return (
        f"{entry['name']} {entry['class']} {entry['type']}: {entry['rcode']}, {entry['kind']},"
        f" {entry['age']:.0f} s old, {life} ({entry['freshness']}), zone {entry['zone']}, {entry['bytes']} octets;"
        f" key: {', '.join(marks) or 'no flags'}"
    )


def _records(entry: dict[str, Any]) -> Iterator[str]:
    """Yield an entry as a comment, and its records as they stand in a zone file."""
    import dns.exception

    from .wire.messages import read_message

    yield f"; {_entry(entry)}"
    try:
        message = read_message(base64.b64decode(entry["message"])) if entry["message"] else None
    except dns.exception.DNSException as error:
        yield f"; not shown: {error}"
        return
    for section in (message.answer, message.authority, message.additional) if message else ():
        for rrset in section:
            yield from rrset.to_text().splitlines()
    yield ""


def commands() -> list[click.Command]:
    """Return all of them."""
    return [top, stats, failures, explain, purge, cache, block, upstream, rules, config, log, reload, upgrade]
