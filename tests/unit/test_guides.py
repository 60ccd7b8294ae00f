"""Configurations in the guides for those who come from elsewhere are right: ours, and those of the others."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from funkenshield.config import load
from funkenshield.preflight import examine
from funkenshield.rules.engine import check
from unit.server.certificate_helpers import Issued

GUIDES = Path(__file__).parents[2] / "docs" / "guide"
MIGRATION = (GUIDES / "migration.md").read_text()
IN_FRONT = (GUIDES / "in-front-of.md").read_text()


def rows(title):
    """Return the pairs of what is written there and here, in the first table below a title."""
    section = MIGRATION.partition(f"\n## {title}")[2].partition("\n## ")[0]
    table = re.findall(r"^(?:\|.*\n)+", section, re.M)[0]
    cells = [line.strip("|").split(" | ") for line in table.splitlines()[2:]]
    return [[re.findall(r"`([^`]+)`", cell) for cell in row] for row in cells]


PRODUCTS = {title: rows(title) for title in ("dnsdist", "Unbound", "dnsmasq", "CoreDNS")}
OURS = {" ".join(ours): "\n".join(ours) for pairs in PRODUCTS.values() for _, ours in pairs if "=" in ours[0]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with the certificate that examples name."""
    folder, issued = tmp_path_factory.mktemp("guides"), Issued()
    (folder / "fullchain.pem").write_bytes(issued.pem)
    (folder / "key.pem").write_bytes(issued.key_bytes())
    (folder / "key.pem").chmod(0o600)
    return folder


def test_there_is_much_to_compare():
    assert {title: len(pairs) > 15 for title, pairs in PRODUCTS.items()} == dict.fromkeys(PRODUCTS, True)
    assert len(OURS) > 60


@pytest.mark.parametrize("example", OURS.values(), ids=OURS)
def test_ours_is_right(example, folder):
    if "certificates" in example:  # what may be left out of the build
        pytest.importorskip("funkenshield.server._tls")
    if '"https"' in example:
        pytest.importorskip("funkenshield.server._http2")
    file = folder / "funkenshield.toml"
    file.write_text(example.replace("/var/lib/funkenshield", str(folder)))
    config = load(file)
    examine(config, str(file))
    check(config)


def accepted(folder, program, text, *args):
    """Have another's program check its configuration, which is `FILE`; return what it says where that is wrong."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{program} is not there")
    file = folder / f"{program}.conf"
    file.write_text(text)
    command = [found, *(each.replace("FILE", str(file)) for each in args)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def theirs(title, before=""):
    return "\n".join([before, *(line for left, _ in PRODUCTS[title] for line in left), ""])


def test_what_dnsdist_has_is_right(folder):
    assert accepted(folder, "dnsdist", theirs("dnsdist"), "--check-config", "-C", "FILE") == ""


def test_what_unbound_has_is_right(folder):
    before = f'server: chroot: "" directory: "{folder}" pidfile: "" use-syslog: no'
    assert accepted(folder, "unbound-checkconf", theirs("Unbound", before), "FILE") == ""


def test_what_dnsmasq_has_is_right(folder):
    assert accepted(folder, "dnsmasq", theirs("dnsmasq"), "--test", "--conf-file=FILE") == ""


SERVERS = {
    "named": ("named-checkconf", "FILE"), "nsd": ("nsd-checkconf", "FILE"), "unbound": ("unbound-checkconf", "FILE"),
    "knot": ("knotc", "-c", "FILE", "conf-check"),
}  # fmt: skip


@pytest.mark.parametrize("language", SERVERS)
def test_what_is_behind_the_shield_is_configured_right(language, folder):
    (text,) = re.findall(rf"```{language}\n(.*?)```", IN_FRONT, re.S)
    program, *args = SERVERS[language]
    zone = "@ 60 SOA ns hostmaster 1 3600 600 86400 60\n@ 60 NS ns\nns 60 A 192.0.2.1\n"
    (folder / "example.com.zone").write_text(zone)
    text = text.replace("/var/cache/bind", str(folder)).replace("file: example", f"file: {folder}/example")
    if language == "unbound":
        text += f'    chroot: ""\n    directory: "{folder}"\n    pidfile: ""\n'
    assert accepted(folder, program, text, *args) == ""
