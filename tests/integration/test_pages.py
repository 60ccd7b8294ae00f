"""Commands in the pages are understood: ours by a daemon, all others have a reason not to be run from here."""

import contextlib
import os
import shlex

import click
import pytest
from click.testing import CliRunner
from support.client import ask
from support.pages import PAGES, commands, inline_commands
from support.process import run_shield
from support.upstream import ScriptedUpstream, answer

from funkenshield import cli

ELSEWHERE = {  # programs that pages name and that are not run from them, and why
    ".": "a shell's own, run with the quickstart, in test_newcomer.py",
    "acme.sh": "an authority",
    "apt": "changes the machine",
    "asan": "a target of make",
    "cat": "run with what it is for",
    "base64": "part of what openssl prints",
    "certbot": "an authority",
    "curl": "another machine; tests/integration/test_web_page.py asks in the same way",
    "dig": "another machine; run with the quickstart, in test_newcomer.py",
    "docker": "a container engine",
    "dnstap-ldns": "runs until it is ended; tests/integration/test_events.py does that",
    "echo": "changes the machine's kernel",
    "fstrm_capture": "runs until it is ended; tests/integration/test_events.py does that",
    "gh": "needs the hosting site",
    "git": "publishes",
    "helm": "a cluster; tests/release/test_kubernetes.py renders what it sets",
    "kdig": "another machine; tests/integration/test_tls_clients.py asks in the same way",
    "kill": "run with the quickstart, in test_newcomer.py",
    "kubectl": "a cluster",
    "ln": "changes the machine",
    "make": "its targets are what CI runs",
    "named-checkconf": "tests/unit/test_guides.py has it check the configuration",
    "nstat": "shows the kernel's counters",
    "nsd": "run with the quickstart, in test_newcomer.py",
    "openssl": "tests/unit/server/certificate_helpers.py makes certificates",
    "pip": "the package index; tools/try-wheel installs the wheel",
    "podman": "a container engine",
    "python3": "run with make",
    "sed": "changes the machine",
    "sleep": "run with what it waits for",
    "ssh": "another machine",
    "sysctl": "changes the machine's kernel",
    "systemctl": "a service manager",
    "umask": "a shell's own",
}
ALONE = {  # commands of ours that do not talk to a daemon, and what runs them
    "check": "tests/unit/test_docs.py, for each configuration",
    "demo": "tests/integration/test_demo.py",
    "doctor": "tests/xdp/test_doctor.py, for it takes an interface",
    "nameserver": "tests/integration/test_demo.py",
    "perf": "tests/unit/tools/test_perf.py",
    "playground": "tests/integration/test_demo.py",
    "run": "each test with a daemon",
    "top": "tests/integration/test_top.py, for it takes a terminal",
    "upgrade": "tests/integration/test_upgrade.py",
}
TOML = """
[[upstreams]]
address = "192.0.2.53:53"
groups = ["elsewhere"]

[[upstreams]]
name = "one"
address = "192.0.2.54:53"
groups = ["elsewhere"]

[[zones]]
name = "example.com"

[[rules]]
name = "ads"
match = { suffix = "ads.test" }
action = "nxdomain"

[[upstreams]]
address = "UPSTREAM"
"""
OURS = [
    pytest.param(command, id=f"{page}: {' '.join(command)}")
    for page in PAGES
    for command in commands(page)
    if command[0] == "funkenshield"
    and command[1][0] != "-"
    and command[1] not in ALONE
    and "--everywhere" not in command  # tests/integration/test_cluster.py has other nodes
]


@pytest.fixture(scope="module")
def shield():
    """Yield a shield with the names that pages use."""
    with (
        ScriptedUpstream(lambda query: answer(query, "A 192.0.2.80")) as upstream,
        run_shield([], toml=TOML.replace("UPSTREAM", str(upstream.address))) as running,
    ):
        yield running


@pytest.mark.parametrize("command", OURS)
def test_what_is_said_to_a_daemon_is_understood(shield, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ask("www.example.com", "A", server=shield)  # so that there is something in the cache
    given = [each for before, each in zip(["", *command], command, strict=False) if "-c" not in (before, each)][1:]
    done = CliRunner().invoke(cli.main, [*given, *(() if given[0] == "docs" else ("--control", str(shield.control)))])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("page", PAGES)
def test_whatever_else_is_to_be_typed_is_parsed_or_has_a_reason_not_to_be_run(page):
    for program, *args in commands(page):
        if program == "funkenshield":
            parse(args)
        else:
            assert os.path.basename(program) in ELSEWHERE, f"{program} {shlex.join(args)}"
    for _, *args in inline_commands(page):
        with contextlib.suppress(
            click.BadParameter, click.BadOptionUsage
        ):  # a command that is mentioned may lack one, or have a name for it
            parse(args)


def parse(args):
    """Have the parser of the command that words begin with take the others; it raises where it does not."""
    command = cli.main
    while args and args[0] in getattr(command, "commands", ()):
        command, *args = command.commands[args[0]], *args[1:]
    assert not (hasattr(command, "commands") and args and args[0][0] != "-"), f"no such command: {args[0]}"
    if args or not hasattr(command, "commands"):
        with contextlib.suppress(click.exceptions.Exit):  # --version
            command.make_context(command.name, [*args])
