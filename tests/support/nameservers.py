"""Know how to start nameservers of other people (NSD, Knot DNS, BIND), each with test zones on loopback.

Each runs in the foreground as the user who runs the tests, keeps all its files in a temporary folder, lets
loopback transfer the zones, and is ended with the context.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from support.client import Address, ask, free_port

READY_WITHIN = 15.0  # seconds

_BIG = "\n".join(f'big TXT "{n:02} {"x" * 240}"' for n in range(12))
_MANY = "\n".join(f'host{n} TXT "{n:03} {"y" * 200}"' for n in range(400))  # more than one message of AXFR
ZONE = rf"""
$ORIGIN shield.test.
$TTL 300
@           SOA   ns1 hostmaster 1 3600 600 86400 60
@           NS    ns1
@           NS    ns2
@           MX    10 mail
@           MX    20 mail.elsewhere.test.
@           CAA   0 issue "ca.test"
ns1         A     192.0.2.1
ns1         AAAA  2001:db8::1
ns2         A     192.0.2.2
www         A     192.0.2.80
www         A     192.0.2.81
www         AAAA  2001:db8::80
mail        A     192.0.2.25
text        TXT   "first string" "second; \"string\"" ""
text        TXT   "another"
alias       CNAME alias2
alias2      CNAME www
*.wild      A     192.0.2.99
leaf.empty  A     192.0.2.7
child       NS    ns.child
ns.child    A     192.0.2.53
old         DNAME new
host.new    A     192.0.2.9
_dns._udp   SRV   1 2 53 ns1
private     TYPE65280 \# 4 0A000001
{_BIG}
{_MANY}
"""
SHIELD_TEST = {"shield.test": ZONE}

NSD = """
server:
    ip-address: {address.host}
    port: {address.port}
    username: ""
    database: ""
    pidfile: ""
    zonesdir: "{folder}"
    xfrdir: "{folder}"
    xfrdfile: "{folder}/xfrd"
    zonelistfile: "{folder}/zones"
    server-count: 1
    nsid: "ascii_nsd"
    {more}
remote-control:
    control-enable: no
{zones}
"""

UNLIMITED = "rrl-ratelimit: 0"  # by default, what is like another is dropped or cut above 200 a second

NSD_ZONE = """
zone:
    name: {zone}
    zonefile: "{folder}/{zone}"
    provide-xfr: 127.0.0.1 NOKEY
"""

KNOT = """
server:
    rundir: {folder}
    listen: {address.host}@{address.port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
    nsid: knot
    edns-client-subnet: on
database:
    storage: {folder}
acl:
  - id: loopback
    address: 127.0.0.1
    action: transfer
zone:
{zones}
"""

KNOT_ZONE = """
  - domain: {zone}
    file: {folder}/{zone}
    zonefile-sync: -1
    journal-content: none
    acl: loopback
"""

BIND = """
options {{
    directory "{folder}";
    managed-keys-directory "{folder}";
    pid-file none;
    session-keyfile none;
    listen-on port {address.port} {{ {address.host}; }};
    listen-on-v6 {{ none; }};
    dnssec-validation no;
    recursion no;
    minimal-responses no;
    notify no;
    allow-transfer {{ 127.0.0.1; }};
    server-id "bind";
    rrset-order {{ order none; }};  # by default at random
    no-case-compress {{ any; }};  # else the size of an answer, and what fits in, depend on the question's spelling
}};
controls {{ }};
view "chaos" CH {{  # as the built-in one, which answers but three times a second
    zone "version.bind" {{ type primary; database "_builtin version"; }};
    zone "hostname.bind" {{ type primary; database "_builtin hostname"; }};
    zone "id.server" {{ type primary; database "_builtin id"; }};
}};
view "all" {{
{zones}
}};
"""

BIND_ZONE = """
zone "{zone}" {{ type primary; file "{folder}/{zone}"; {more} }};
"""


@dataclass
class Nameserver:
    """A real nameserver that answers for its zones; it may be signalled, killed, and started again where it was."""

    name: str
    address: Address
    zones: Sequence[str]
    command: Sequence[str | Path]
    log: Path

    def start(self):
        """Start it, and wait until it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + READY_WITHIN
        while not self._answers():
            assert self._process.poll() is None, f"exited {self._process.returncode}\n{self._said()}"
            assert time.monotonic() < deadline, f"no answer in time\n{self._said()}"
            time.sleep(0.02)

    def signal(self, number):
        """Send a signal to all its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def kill(self):
        """Kill all its processes without a warning."""
        self.signal(signal.SIGKILL)
        self._process.wait()

    def end(self):
        """Terminate it, and kill what is left of its session."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self.kill()

    def _answers(self):
        with contextlib.suppress(OSError):
            return all(ask(zone, "SOA", server=self, timeout=0.2).answer for zone in self.zones)

    def _said(self):
        return self.log.read_text(errors="replace")


def program(name):
    """Return the path of an installed program; its absence is a failure, never a skip."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        pytest.fail(f"{name} is not installed; run tools/install-nameservers")
    return path


@contextlib.contextmanager
def _run(
    name, options, config, stanza, zones: Mapping[str, str] = SHIELD_TEST, *, host="127.0.0.1", port=0, more=""
) -> Iterator[Nameserver]:
    """Run one nameserver with these master files, by the names of their zones, until the context is left.

    `more` options are the server's, or with BIND the zone's.
    """
    address = Address(host, port or free_port(host))
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as temporary:
        folder = Path(temporary)
        for zone, text in zones.items():
            (folder / zone).write_text(text)
        stanzas = "".join(stanza.format(folder=folder, zone=zone, more=more) for zone in zones)
        (folder / "conf").write_text(config.format(folder=folder, address=address, zones=stanzas, more=more))
        command = program(name), *options, folder / "conf"
        running = Nameserver(name, address, [*zones], command, folder / "log")
        try:
            running.start()
            yield running
        finally:
            running.end()


nsd = partial(_run, "nsd", ("-d", "-c"), NSD, NSD_ZONE, more=UNLIMITED)
knot = partial(_run, "knotd", ("-c",), KNOT, KNOT_ZONE)
bind = partial(_run, "named", ("-g", "-c"), BIND, BIND_ZONE)
