"""Show that an operator's tasks are done as their page says: our column is typed, word for word."""

import re
import ssl
import subprocess

import dns.rcode
import pytest
from support.certificates import HOST, Authority
from support.client import Address, ask, free_port
from support.pages import PAGES
from support.process import run_shield
from support.until import until
from support.upstream import ScriptedUpstream, answer

CLIENT, PORT = "127.0.0.7", free_port()
ELSEWHERE = {"192.0.2.7": CLIENT, "127.0.0.1:5304": f"127.0.0.1:{PORT}"}  # what stands in the page, and here
ALONE = ("funkenshield top", "pip ", "funkenshield upgrade")  # that other tests do: test_top, try-wheel, test_upgrade
TOML = """
upstreams = [{{ name = "ams", address = "{upstream}" }}, {{ name = "fra", address = "{upstream}", transport = "tcp" }}]

[[listeners]]
address = "{tls}"
transport = "tls"
certificates = {{ certificate = "{folder}/fullchain.pem", key = "{folder}/key.pem" }}
"""
PAGE = PAGES["docs/guide/operators-tasks.md"]
ROWS = [line.strip("| ").split(" | ") for line in re.findall(r"^\| .*", PAGE, re.M)[1:]]


@pytest.fixture(scope="module")
def operated(tmp_path_factory):
    """Yield a shield, where it listens for TLS, and its folder of certificates, with new ones below."""
    folder, tls = tmp_path_factory.mktemp("dns"), Address("127.0.0.1", free_port())
    (folder / "new").mkdir()
    authority = Authority(folder)
    for place in (folder, folder / "new"):
        issued = authority.issue(HOST)
        (place / "fullchain.pem").write_bytes(issued.certificate.read_bytes())
        (place / "key.pem").write_bytes(issued.key.read_bytes())
    with (
        ScriptedUpstream(lambda query: answer(query, "A 192.0.2.80")) as upstream,
        run_shield([], toml=TOML.format(upstream=upstream.address, tls=tls, folder=folder)) as shield,
    ):
        yield shield, tls, folder


def done(operated, number):
    """Do a task as the page says; return what was shown after each of its steps."""
    shield, _, folder = operated
    cell = ROWS[number][1]
    for theirs, ours in ELSEWHERE.items():
        cell = cell.replace(theirs, ours)
    shown = []
    for step in cell.split("<br>"):
        typed = re.findall(r"`(.+?)`", step)
        if step.startswith("*File:*"):
            with (shield.folder / "funkenshield.toml").open("a") as file:
                file.write("\n" + "\n".join(typed) + "\n")
        elif typed[0].startswith("funkenshield"):
            shown.append(shield.command(*typed[0].split()[1:]))
        else:
            subprocess.run(["sh", "-ec", typed[0].replace("/etc/dns/", f"{folder}/")], cwd=folder, check=True)
    return shown


def task(words):
    """Return the number of the task that is put in such words."""
    (number,) = (number for number, row in enumerate(ROWS) if words in row[0])
    return number


def test_steps_are_counted_right():
    assert len(ROWS) == 12
    for _, ours, our_steps, theirs, their_steps, differs in ROWS:
        assert (ours.count("<br>") + 1, theirs.count("<br>") + 1) == (int(our_steps), int(their_steps))
        assert differs
    text = f"{sum(int(row[2]) for row in ROWS)} steps here in all, {sum(int(row[4]) for row in ROWS)} there."
    assert text in PAGE


@pytest.mark.slow
def test_what_is_asked_is_told(operated):
    ask("www.example.com", "A", server=operated[0])
    assert "=> " in done(operated, task("Why was"))[0]
    assert {"ams", "fra"} <= set(done(operated, task("Which upstream"))[0].split())
    assert done(operated, task("What failed")) == ["no query failed\n"]


@pytest.mark.slow
def test_upstreams_entries_and_clients_are_steered(operated):
    shield = operated[0]
    drained, listed, given_back = done(operated, task("Drain"))
    assert (drained, given_back) == ("ams: draining\n", "ams: given back\n")
    assert re.search(r"^ams .*drain", listed, re.M)
    ask("www.example.com", "A", server=shield)
    done(operated, task("Purge"))
    assert "no entry for www.example.com" in done(operated, task("Why was"))[0]
    assert [re.search(r"blocked|removed", each)[0] for each in done(operated, task("Block"))] == ["blocked", "removed"]


@pytest.mark.slow
def test_what_the_file_says_is_in_force_without_a_restart(operated):
    shield, tls, _ = operated
    steps = done(operated, task("Log all"))
    assert steps == ["reloaded\n", "one: disabled\n"]
    shield.command("rules", "enable", "one")
    ask("logged.example.com", "A", server=shield, source=CLIENT)
    until(lambda: f"{CLIENT} asks logged.example.com" in shield.log)
    assert done(operated, task("limit of TTLs")) == ["reloaded\n"]
    assert ask("new.example.com", "A", server=shield).answer
    assert re.search(r"fresh for (60|59) s", shield.command("cache", "lookup", "new.example.com"))
    assert done(operated, task("Add a listener")) == ["reloaded\n"]
    assert ask("new.example.com", "A", server=Address("127.0.0.1", PORT)).rcode() == dns.rcode.NOERROR
    before = ssl.get_server_certificate(tls)
    assert done(operated, task("certificate")) == []
    until(lambda: ssl.get_server_certificate(tls) != before)


def test_the_others_are_tried_elsewhere():
    typed = {step.strip("`") for row in ROWS for step in row[1].split("<br>")}
    assert {each for each in typed if each.startswith(ALONE)} == {
        "funkenshield top", "pip install --upgrade funkenshield", "funkenshield upgrade",
    }  # fmt: skip
