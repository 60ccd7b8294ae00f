"""Show a newcomer's path: the README's own commands lead to a shield before a real nameserver, in under a minute."""

import os
import subprocess
import sys

import pytest
from support.nameservers import nsd
from support.pages import PAGES, blocks
from support.stopwatch import Stopwatch

from funkenshield import cli

ZONE = "$ORIGIN example.com.\n$TTL 300\n@ SOA ns h 1 2 3 4 5\n@ NS ns\nns A 192.0.2.1\nwww A 192.0.2.80\n"
WITHIN = 60.0  # seconds
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


@pytest.mark.slow
def test_the_readmes_commands_lead_to_a_shield_before_a_nameserver_in_a_minute(home):
    section = PAGES["README.md"].partition("\n## In front of your nameserver\n")[2].partition("\n## ")[0]
    start, then = [block.text for block in blocks("README.md", "sh") if block.text in section]
    watch = WATCHED if "top" in cli.main.commands else ""
    script = f"{start}until grep -q ready log; do sleep 0.1; done\n{then}{watch}kill %1; wait\n"
    stopwatch = Stopwatch()
    with nsd({"example.com": ZONE}, port=5300), (home / "log").open("w") as log:
        done = subprocess.run(
            ["bash", "-e", "-m", "-c", script],
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            timeout=WITHIN,
            env=os.environ | {"FUNKENSHIELD_CONTROL__SOCKET": str(home / "control")},
        )
    assert done.returncode == 0, done.stdout + (home / "log").read_text()
    assert done.stdout.count("192.0.2.80") >= 2
    assert "hit NOERROR: the entry is fresh" in done.stdout
    assert not watch or "www.example.com" in done.stdout.partition("the entry is fresh")[2]
    assert stopwatch.seconds() < WITHIN
