"""What the runbooks quote is what the shield says in such a case."""

import errno
import re

import dns.rcode
import pytest
from support import forked
from support.client import Address, ask, free_port
from support.pages import PAGES
from support.process import run_shield
from support.until import until
from support.upstream import ScriptedUpstream, respond

from funkenshield.admin import process
from funkenshield.config import load
from funkenshield.errors import FunkenShieldError
from funkenshield.server.sockets import BindError, explained
from funkenshield.upstream.pool import FAILURE_TEXTS

PAGE = PAGES["docs/operations/runbooks.md"]
TOML = """
guard.access.deny = ["127.0.0.9"]
forward.retry_on = []

[[zones]]
name = "refused.test"
upstreams = "127.0.0.1:PORT"
"""
RCODES = {b"one": dns.rcode.SERVFAIL, b"two": dns.rcode.REFUSED}


def quoted(title):
    """Return what is quoted of the shield in the first cells of a section's tables, without what differs each time."""
    section = PAGE.partition(f"\n## {title}")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (.*?) \|", section, re.M)
    return [plain(code.removesuffix("...")) for cell in cells for code in re.findall(r"`(.+?)`", cell)]


def plain(text):
    return re.sub(r"[\w.\[]\S*:\d+(?=, UDP)", "ADDRESS", text)


def assert_said(title, said, but=()):
    wanted = [quote for quote in quoted(title) if quote not in but]
    assert wanted
    for quote in wanted:
        assert quote in plain(said), quote


@pytest.fixture(scope="module")
def shield():
    """Yield a shield whose upstream answers SERVFAIL or REFUSED; that of one zone is not there."""
    with (
        ScriptedUpstream(lambda query: respond(query, RCODES[query.name.labels[0]])) as upstream,
        run_shield([upstream], toml=TOML.replace("PORT", str(free_port()))) as running,
    ):
        yield running


def test_it_does_not_start(shield, tmp_path, monkeypatch):
    file = tmp_path / "funkenshield.toml"
    file.write_text('workres = 2\n[cache]\nmemory = "900GiB"')
    said = [forked.command("check", "-c", file).stderr]
    file.write_text('[cache]\nmemory = "900GiB"')
    said.append(forked.command("check", "-c", file).stderr)
    for taken in shield.address, Address("192.0.2.1", 53):
        run = ["run", "--listen", taken, "--upstream", "127.0.0.1:1", "--control", tmp_path / "control"]
        said.append(forked.command(*run).stderr)
    with pytest.raises(BindError) as raised, explained("192.0.2.1:53", "UDP"):
        raise PermissionError(errno.EACCES, "")
    said.append(str(raised.value))
    monkeypatch.setattr(process.machine, "descriptors", lambda: 10)
    with pytest.raises(FunkenShieldError) as raised:
        process.allow_descriptors(load(None, {"listen": "127.0.0.1:1"}))
    said.append(str(raised.value))
    assert_said("It does not start", "\n".join(said), but=["check"])


def test_clients_get_servfail(shield):
    for name in "one.test", "two.test", "three.refused.test":
        ask(name, "A", server=shield)
    said = shield.command("failures") + " ".join(FAILURE_TEXTS.values())
    assert_said("Clients get SERVFAIL", said, but=["failures"])
    until(lambda: "query failed: upstream " in shield.log)


def test_some_clients_get_refused_or_nothing(shield):
    shield.command("block", "add", "127.0.0.8")
    asked = [["--from", "127.0.0.9"], ["--from", "127.0.0.8"], []]
    said = [shield.command("explain", "other.test", "A", *options) for options in asked]
    said.append(shield.command("explain", "other.test", "AXFR", "--transport", "tcp"))
    shield.command("block", "remove", "127.0.0.8")
    assert_said("Some clients get REFUSED, or nothing", "\n".join(said), but=["hit"])


def test_a_change_has_no_effect(shield):
    file = shield.folder / "funkenshield.toml"
    before = file.read_text()
    file.write_text(f"{before}\n[cache]\nmemory = '8MiB'")
    said = [shield.command("reload"), shield.log]
    file.write_text(f"{before}\n[cache]\nmemory = 'much'")
    failed = forked.command("reload", "--control", shield.control)
    assert failed.returncode == 1
    file.write_text(before)
    assert shield.command("reload").endswith("reloaded\n")
    said.append(failed.stderr)
    assert_said("A change of the configuration has no effect", "\n".join(said), but=["config show", "#"])
