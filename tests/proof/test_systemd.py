"""Show that the unit of `contrib` does under a real systemd what the guide says: start, reload, upgrade, stop."""

import re
import time

import pytest
from support import machine
from support.until import until

pytestmark = [
    pytest.mark.proof,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(machine.why_not()), reason=machine.why_not()),
]
UNIT, CONTROL = "funkenshield", "/run/funkenshield/control.sock"
TOML = """
listen = ["127.0.0.1:53"]
upstreams = ["127.0.0.1:5353"]
workers = 2
"""
XDP = """
[[listeners]]
address = "127.0.0.1:5300"
transport = "xdp"
interface = "lo"
generic_xdp = true
"""
NAMESERVER = """
[Service]
ExecStart=/usr/local/bin/funkenshield nameserver --listen 127.0.0.1:5353
"""
SOCKET = """
[Socket]
ListenDatagram=127.0.0.1:53
ListenStream=127.0.0.1:53
"""
RELOAD = f"""
[Service]
ExecReload=
ExecReload=/usr/local/bin/funkenshield upgrade --control {CONTROL}
"""


@pytest.fixture(scope="module")
def there():
    with machine.machine() as made:
        made.write("/etc/funkenshield.toml", TOML)
        made.write("/etc/systemd/system/nameserver.service", NAMESERVER)
        made.run("systemctl", "daemon-reload")
        made.run("systemctl", "start", "nameserver")
        yield made


def main_pid(there):
    state = there.shown(UNIT, "ActiveState", "SubState", "MainPID", "NRestarts")
    assert (state["ActiveState"], state["SubState"], state["NRestarts"]) == ("active", "running", "0"), there.journal()
    return int(state["MainPID"])


def is_answered(there):
    for transport in "+notcp", "+tcp":
        said = there.run("kdig", "@127.0.0.1", transport, "+noall", "+header", "miek.nl", "A")
        if "NOERROR" not in said:
            return False
    return True


def ends_well(there):
    """Have it stopped; tell whether it ended by itself."""
    there.run("systemctl", "stop", UNIT)
    return there.shown(UNIT, "ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}


def test_it_starts_is_read_anew_is_replaced_and_ends(there):
    there.run("systemctl", "start", UNIT)
    first = main_pid(there)
    assert is_answered(there)
    there.run("systemctl", "reload", UNIT)
    until_said(there, "reloaded")
    assert main_pid(there) == first
    said = there.run("funkenshield", "upgrade", "--control", CONTROL)
    second = int(re.search(r"process (\d+) serves", said)[1])
    until_main(there, second)
    there.run("systemctl", "kill", "--signal=USR2", UNIT)  # as without a control socket
    third = until_main(there, lambda pid: pid not in (first, second))
    assert is_answered(there)
    there.write("/etc/systemd/system/funkenshield.service.d/reload.conf", RELOAD)
    there.run("systemctl", "daemon-reload")
    there.run("systemctl", "reload", UNIT)
    until_main(there, lambda pid: pid not in (first, second, third))
    there.write("/etc/funkenshield.toml", TOML + "workres = 2\n")
    assert "serves on" in there.run("systemctl", "reload", UNIT, check=False) + there.journal()
    there.write("/etc/funkenshield.toml", TOML)
    assert is_answered(there)
    assert ends_well(there)


def until_main(there, wanted):
    """Wait until another process is the main one; return which."""
    matches = wanted if callable(wanted) else lambda pid: pid == wanted
    end = time.monotonic() + 30
    while not matches(main_pid(there)):
        assert time.monotonic() < end, there.journal()
        time.sleep(0.1)
    return main_pid(there)


def until_said(there, words):
    end = time.monotonic() + 30
    while words not in there.journal():
        assert time.monotonic() < end, there.journal()
        time.sleep(0.1)


def test_with_the_drop_in_queries_are_taken_from_interfaces_also_after_an_upgrade(there):
    """Without it, the unit lacks the rights, says so, and all is served by sockets."""
    drop_in = (machine.ROOT / "contrib" / "funkenshield.service.d" / "xdp.conf").read_text()
    there.write("/etc/funkenshield.toml", TOML + XDP)
    try:
        there.run("systemctl", "start", UNIT)
        until_said(there, "served by sockets alone: lo: no AF_XDP in this kernel (CONFIG_XDP_SOCKETS), or for this")
        assert is_answered(there)
        assert ends_well(there)
        there.write("/etc/systemd/system/funkenshield.service.d/xdp.conf", drop_in)
        there.run("systemctl", "daemon-reload")
        there.run("systemctl", "start", UNIT)
        until_said(there, "queries are taken from lo: 1 queues, generic, copied")
        there.run("funkenshield", "upgrade", "--control", CONTROL)
        until(lambda: there.journal().count("queries are taken from lo") == 2, 30)
        assert is_answered(there)
        assert ends_well(there)
    finally:
        there.write("/etc/funkenshield.toml", TOML)


def test_who_is_killed_is_started_again(there):
    there.run("systemctl", "start", UNIT)
    there.run("systemctl", "kill", "--signal=KILL", UNIT)
    end = time.monotonic() + 30
    while there.shown(UNIT, "NRestarts", "SubState") != {"NRestarts": "1", "SubState": "running"}:
        assert time.monotonic() < end, there.journal()
        time.sleep(0.1)
    assert is_answered(there)
    assert ends_well(there)
    there.run("systemctl", "reset-failed", UNIT, check=False)


def test_systemd_binds_the_sockets_and_an_upgrade_keeps_them(there):
    there.write("/etc/systemd/system/funkenshield.socket", SOCKET)
    there.run("systemctl", "daemon-reload")
    there.run("systemctl", "start", "funkenshield.socket")
    assert is_answered(there)  # the first query has started it
    first = main_pid(there)
    there.run("funkenshield", "upgrade", "--control", CONTROL)
    until_main(there, lambda pid: pid != first)
    assert is_answered(there)
    there.run("systemctl", "stop", UNIT, "funkenshield.socket")
    assert there.shown(UNIT, "Result") == {"Result": "success"}


def test_its_exposure_is_small(there):
    said = there.run("systemd-analyze", "security", UNIT, "--no-pager")
    assert float(re.search(r"Overall exposure level for \S+: ([\d.]+)", said)[1]) < 2.0
    assert there.run("systemd-analyze", "verify", f"/etc/systemd/system/{UNIT}.service") == ""
