"""Show a newcomer's paths: commands of README and quickstart lead to a shield before a real nameserver, in a minute."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from support.nameservers import nsd
from support.pages import PAGES, blocks
from support.stopwatch import Stopwatch

from funkenshield import cli

ZONE = "$ORIGIN example.com.\n$TTL 300\n@ SOA ns h 1 2 3 4 5\n@ NS ns\nns A 192.0.2.1\nwww A 192.0.2.80\n"
WITHIN = 60.0  # seconds
NSD = "/usr/sbin/nsd"
PATH = ":".join(each for each in os.environ["PATH"].split(":") if not each.endswith("/sbin"))  # of a user on Debian
WATCHED = "{ sleep 1; for k in 1 2 3; do dig @127.0.0.1 -p 5301 www.example.com >&2; sleep 1; done; printf q; }"
WATCHED += " | TERM=xterm script -qec 'stty rows 50 columns 160; funkenshield top' /dev/null\n"


@pytest.fixture
def home(tmp_path):
    """Return a folder with the command where `make run` puts it."""
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "activate").write_text(f"PATH={folder}:$PATH\n")
    (folder / "funkenshield").write_text(f'#!/bin/sh\nexec {sys.executable} -m funkenshield "$@"\n')
    (folder / "funkenshield").chmod(0o755)
    return tmp_path


def typed(home, script):
    """Return what is shown of a script; what goes to standard error is in `log`."""
    path = f"{home}/.venv/bin:{PATH}"
    env = os.environ | {"PATH": path, "FUNKENSHIELD_CONTROL__SOCKET": str(home / "control")}
    with (home / "log").open("w") as log:
        done = subprocess.run(
            ["bash", "-e", "-m", "-c", f"trap 'kill $(jobs -p) || :' EXIT\n{script}"],
            cwd=home, stdout=subprocess.PIPE, stderr=log, text=True, timeout=WITHIN, env=env,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + (home / "log").read_text()
    return done.stdout


def package_of(program):
    """Return the Debian package that a program is from."""
    return subprocess.run(["dpkg", "-S", program], stdout=subprocess.PIPE, text=True, check=True).stdout.split(":")[0]


@pytest.mark.slow
def test_the_readmes_commands_lead_to_a_shield_before_a_nameserver_in_a_minute(home):
    section = PAGES["README.md"].partition("\n## In front of your nameserver\n")[2].partition("\n## ")[0]
    start, then = [block.text for block in blocks("README.md", "sh") if block.text in section]
    watch = WATCHED if "top" in cli.main.commands else ""
    script = f"{start}until grep -q ready log; do sleep 0.1; done\n{then}{watch}kill %1; wait\n"
    stopwatch = Stopwatch()
    with nsd({"example.com": ZONE}, port=5300):
        shown = typed(home, script)
    assert shown.count("192.0.2.80") >= 2
    assert "hit NOERROR: the entry is fresh" in shown
    assert not watch or "www.example.com" in shown.partition("the entry is fresh")[2]
    assert stopwatch.seconds() < WITHIN


@pytest.mark.slow
def test_the_quickstart_leads_to_an_answer(home):
    if not shutil.which(NSD):
        pytest.skip(f"{NSD} is not there")
    page = "docs/quickstart.md"
    for block in blocks(page):
        if named := re.match(r"[#;] (\S+\.(?:zone|conf|toml))\n", block.text):
            (home / named[1]).write_text(block.text)
    by_root, *steps = [text for _, text in blocks(page, "sh") if "pip install" not in text and "demo" not in text]
    if shutil.which("dpkg"):
        assert {package_of(each) for each in (shutil.which("dig"), NSD)} < set(by_root.split())
    shown = typed(home, "until grep -q ready log; do sleep 0.1; done\n".join(steps))
    (promised,) = (text.split() for _, text in blocks(page, "text") if "\tIN\t" in text)
    answers = [line.split() for line in shown.splitlines() if "\tIN\tA\t" in line]
    assert [[name, *data] for name, _, *data in answers] == [[promised[0], *promised[2:]]] * 3
    assert re.search(r"^cache_hits +1$", shown, re.M)
    assert re.search(r"^=> +hit", shown, re.M)
