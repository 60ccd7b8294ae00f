"""Know that C libraries (glibc, musl) say of a name the same through the shield as with the nameserver alone."""

import contextlib
import shutil
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import nameservers
from support.client import Address
from support.control import request as command
from support.network import Network
from support.process import run_shield
from support.relay import RecordingRelay

SERVER = Address("127.0.0.1", 53)  # the port that stubs know
MANY = [f"192.0.2.{n}" for n in range(60)]  # more than 512 octets hold, and fewer than 1,232
MORE = [f"198.51.100.{n}" for n in range(100)]  # more than that
SIX = [f"2001:db8::{n:x}" for n in range(1, 61)]
EXPECTED = {
    "both": ["192.0.2.1", "192.0.2.2", "2001:db8::1"],
    "four": ["192.0.2.4"],
    "six": ["2001:db8::6"],
    "alias": ["192.0.2.1", "192.0.2.2", "2001:db8::1"],
    "many": MANY,
    "more": [*MORE, "2001:db8::1"],
    "many-six": ["192.0.2.9", *SIX],
}
NOBODY = "absent", "text"
TYPES = {"text": 16, "mail": 15, "_sip._udp": 33, "long-text": 16, "absent": 16}
ZONE = "\n".join(
    [
        "$ORIGIN stub.example.\n$TTL 300\n@ SOA ns root 1 3600 600 86400 60\n@ NS ns\nns A 192.0.2.53",
        *(
            f"{name} {'AAAA' if ':' in address else 'A'} {address}"
            for name, addresses in EXPECTED.items()
            if name != "alias"
            for address in addresses
        ),
        "alias CNAME both",
        'text TXT "of no address"',
        "mail MX 10 both\nmail MX 20 four",
        "_sip._udp SRV 1 2 5060 both",
        *(f'long-text TXT "{n} {"x" * 200}"' for n in range(12)),
    ]
)
OPTIONS = [
    "",
    "edns0",
    "trust-ad",
    "single-request",
    "single-request-reopen",
    "use-vc",
    "use-vc edns0 trust-ad",
    "edns0 trust-ad rotate timeout:3 attempts:1",
]
COMPILERS = {"glibc": ("gcc", "-lresolv"), "musl": ("musl-gcc", "-static")}
ALONE = 'mount --bind "$0" /etc/resolv.conf && mount --bind "$1" /etc/nsswitch.conf && shift && exec "$@"'


class Stub:
    """A program with a C library's resolver, and the files that this one reads."""

    def __init__(self, folder, library, options):
        self._folder = folder
        self._program = folder / library
        (folder / "nsswitch.conf").write_text("hosts: dns\n")
        (folder / "resolv.conf").write_text(f"nameserver {SERVER.host}\noptions {options}\n")

    def say(self, *args):
        """Run it, and return its lines, each with its words in order."""
        files = [self._folder / name for name in ("resolv.conf", "nsswitch.conf")]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", ALONE, *files, self._program, *args],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return [sorted(line.split()) for line in done.stdout.splitlines()]

    def everything(self):
        """Return all that it says of all names."""
        names = [f"{name}.stub.example" for name in (*EXPECTED, *NOBODY)]
        said = self.say("addresses", *names)
        for name, rdtype in TYPES.items():
            said += self.say(str(rdtype), f"{name}.stub.example")
        return said


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stubs")
    source = Path(__file__).with_name("stub.c")
    for library, (compiler, *flags) in COMPILERS.items():
        program = nameservers.program(compiler)
        subprocess.run([program, "-O2", "-Wall", "-Werror", source, *flags, "-o", folder / library], check=True)
    return folder


@pytest.fixture(scope="module")
def places():
    """Run the nameserver at the address that stubs know, and elsewhere the shield, with what its upstream receives."""
    with contextlib.ExitStack() as stack:
        direct, shielded = (stack.enter_context(Network()) for _ in range(2))
        for network in direct, shielded:
            with network.entered():
                server = stack.enter_context(nameservers.nsd({"stub.example": ZONE}))
                before = {"host": SERVER.host, "port": SERVER.port} if network is direct else {}
                relay = stack.enter_context(RecordingRelay(server, **before))
        with shielded.entered():
            shield = stack.enter_context(run_shield([relay], listen=[SERVER]))
        yield direct, shielded, shield, relay


def stub_of(programs, folder, library, options):
    shutil.copy(programs / library, folder / library)
    return Stub(folder, library, options)


@pytest.mark.parametrize(("library", "options"), [*(("glibc", options) for options in OPTIONS), ("musl", "")])
def test_a_program_hears_what_it_would_hear_from_the_nameserver(places, programs, tmp_path, library, options):
    direct, shielded, shield, relay = places
    stub = stub_of(programs, tmp_path, library, options)
    command(shield, b'{"command": "purge", "name": ".", "below": true}')
    before = len(relay.received)
    with direct.entered():
        told = stub.everything()
    with shielded.entered():
        assert [stub.everything() for _ in ("cold", "warm")] == [told, told]
    if library == "glibc":
        right = [sorted([f"{name}.stub.example", *addresses]) for name, addresses in EXPECTED.items()]
        assert told[: len(right)] == right
    asked = Counter((query.name, query.rdtype, query.transport) for query in relay.received[before:])
    assert set(asked.values()) == {1}


@pytest.mark.parametrize(("library", "options"), [("glibc", ""), ("glibc", "edns0"), ("musl", "")])
def test_so_it_does_where_a_firewall_lets_no_tcp_through(places, programs, tmp_path, library, options):
    told = []
    stub = stub_of(programs, tmp_path, library, options)
    for network in places[:2]:
        with network.entered(), network.filtered("tcp dport 53 reject with tcp reset"):
            told.append(stub.everything())
    assert told[0] == told[1]
    whole = sorted(["many.stub.example", *MANY])
    assert (whole in told[1]) == (options == "edns0")


def test_many_programs_at_once_are_one_query_for_each_name_and_type(places, programs, tmp_path):
    """Each asks for both families from one port, and takes what comes for either."""
    _, shielded, shield, relay = places
    stubs = [stub_of(programs, tmp_path, library, "") for library in COMPILERS]
    command(shield, b'{"command": "purge", "name": ".", "below": true}')
    before = len(relay.received)
    names = "both", "four", "six", "alias"
    with shielded.entered(), ThreadPoolExecutor(16) as pool:
        said = [pool.submit(stub.say, "addresses", *(f"{name}.stub.example" for name in names)) for stub in stubs * 8]
        right = [sorted([f"{name}.stub.example", *EXPECTED[name]]) for name in names]
        assert [each.result() for each in said] == [right] * 16
    assert len(relay.received) - before == 2 * len(names)
