"""Debian's package, under a service manager: installed, asked, replaced while it serves, and taken away.

`make deb-test` runs this, in containers of podman's that are booted.
"""

import os
import re
import time

import pytest

from release.podman import ROOT, container, has_image, podman, typed

IMAGE = f"localhost/debian-booted:{os.environ.get('SUITE', 'bookworm')}"
PACKAGES = sorted(ROOT.glob("build/debian/funkenshield_*.deb"))
ANSWER = "192.0.2.80"
pytestmark = [
    pytest.mark.release,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not PACKAGES or not has_image(IMAGE), reason="make deb-test makes the package, and the image"),
]
INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 --yes install --no-install-recommends"
# what installing and removing any package leaves behind
OF_DPKG = re.compile(
    r"/(var/(lib/(dpkg|apt|pam|systemd|python)|log/(apt|journal)|cache)|run|proc|sys|dev|tmp)(/|$)"
    r"|/var/log/(alternatives|dpkg)\.log$|/etc/(passwd|group|shadow|gshadow|subuid|subgid)-?$|/etc/ld\.so\.cache$|/root/"
)


@pytest.fixture(scope="module")
def booted():
    """Yield a Debian with a service manager, a nameserver for example.com on port 53, and what asks it."""
    with container(IMAGE, "--systemd=always", "--volume", f"{ROOT}/build/debian:/build/debian:ro") as debian:
        begin = typed("debian.md")[0]
        debian.run(f"systemctl is-system-running --wait || :; apt-get --quiet=2 update; {begin}")
        debian.run(f"{INSTALL} python3 libnghttp2-14 procps iproute2")  # what the package takes is no part of it
        debian.run("echo nameserver 127.0.0.1 > /etc/resolv.conf")
        yield debian


def files(debian):
    found = debian.run("find / -xdev").splitlines()
    return {name for name in found if not OF_DPKG.match(name)}


def main_process(debian):
    return int(debian.run("systemctl show --property MainPID --value funkenshield"))


def ask(debian, port=53):
    return debian.run(f"dig +short +tries=1 @127.0.0.1 -p {port} www.example.com")


def listening(debian):
    sockets = debian.run("ss --no-header --listening --udp --tcp --numeric")
    return {line.split()[4] for line in sockets.splitlines()}


@pytest.fixture(scope="module")
def installed(booted):
    """Yield it with the package; what was there before is its attribute."""
    booted.before, booted.listening = files(booted), listening(booted)
    booted.accounts = booted.run("getent passwd; getent group")
    booted.run(f"{INSTALL} ./build/debian/{PACKAGES[-1].name}")
    return booted


def test_as_installed_it_serves_this_machine_alone_and_takes_nobodys_port(installed):
    assert installed.run("systemctl is-active funkenshield named") == "active\nactive"
    assert ask(installed, 5300) == ask(installed) == ANSWER
    assert listening(installed) - installed.listening == {"127.0.0.1:5300"}


def test_it_runs_as_its_user_and_may_little(installed):
    status = installed.run(f"cat /proc/{main_process(installed)}/status")
    user = installed.run("id --user funkenshield")
    assert re.search(rf"^Uid:\t{user}\t{user}\t{user}\t{user}$", status, re.M)
    assert re.search(r"^CapBnd:\t0000000000000400$", status, re.M)  # CAP_NET_BIND_SERVICE
    assert re.search(r"^NoNewPrivs:\t1$", status, re.M)
    assert re.search(r"^Seccomp:\t2$", status, re.M)
    assert installed.run("stat --format %U:%a /var/lib/funkenshield/cookies") == "funkenshield:600"


def test_it_has_manual_completion_and_what_encrypts(installed):
    version = installed.run("funkenshield --version")
    for each in "DNS over TLS: OpenSSL 3", "DNS over HTTPS: nghttp2", "DNS over QUIC: qh3", "; AF_XDP)":
        assert each in version
    listed = installed.run("dpkg --listfiles funkenshield")
    for each in "man1/funkenshield.1.gz", "man5/funkenshield.toml.5.gz", "completions/funkenshield", "_funkenshield":
        assert each in listed
    assert "ratio" in installed.run("funkenshield demo -l 0.2")  # while the service runs


def test_its_own_tests_pass(installed):
    installed.run("mkdir /tmp/answers")
    podman("cp", ROOT / "debian" / "tests" / "answers", f"{installed.name}:/tmp/answers/run")
    installed.run("AUTOPKGTEST_TMP=/tmp/answers /tmp/answers/run")


def test_a_new_version_takes_over_without_a_loss(installed):
    installed.run("echo '# edited' >> /etc/funkenshield.toml; echo 'www.example.com A' > /tmp/queries")
    before = main_process(installed)
    load = "funkenshield perf -d /tmp/queries -p 5300 -l 20 -Q 500 --json > /tmp/report & sleep 1"
    installed.run(f"{load}; {INSTALL} --reinstall ./build/debian/{PACKAGES[-1].name}; wait")
    assert installed.run("systemctl is-active funkenshield") == "active"
    assert main_process(installed) != before
    assert re.search(r'"lost": 0\b', installed.run("cat /tmp/report"))
    assert "# edited" in installed.run("cat /etc/funkenshield.toml")


def test_what_is_purged_leaves_nothing(installed):
    installed.run("apt-get --quiet=2 --yes purge funkenshield")
    assert files(installed) - installed.before == set()
    assert installed.run("getent passwd; getent group") == installed.accounts
    assert installed.run("systemctl list-units --all --no-legend 'funkenshield*'") == ""


def test_the_guide_leads_from_nothing_to_an_answer():
    with container(IMAGE, "--systemd=always", "--volume", f"{ROOT}/build/debian:/build/debian:ro") as debian:
        debian.run("systemctl is-system-running --wait || :; apt-get --quiet=2 update")
        began = time.monotonic()
        said = [debian.run(f"export DEBIAN_FRONTEND=noninteractive\n{block}") for block in typed("debian.md")]
        print(f"{time.monotonic() - began:.1f} s from nothing to an answer")
        assert ANSWER in said[2]
        assert ANSWER in said[3]
        assert debian.run("ss --no-header --listening --udp --numeric | grep -c ':53 '") != "0"
