"""Know that a tester of servers finds the shield as compliant as the nameserver behind it (RFC 8906 section 8).

Each of its probes is sent by dig to NSD, Knot DNS and BIND, and to the shield before each, cold and warm. What a
tester looks at must be the same: status, flags, the EDNS line, options and all records. How large buffers are is for
each to say.
"""

import re
import subprocess

import pytest

PLAIN = "+noedns +noad +norec"
EDNS = "+nocookie +noad +norec"
PROBES = {
    "plain": f"{PLAIN} soa",
    "unknown type": f"{PLAIN} type1000",
    "CD": f"{PLAIN} +cd soa",
    "AD": "+noedns +norec +ad soa",
    "reserved bit": f"{PLAIN} +zflag soa",
    "RD": "+noedns +noad +rec soa",
    "unknown opcode": "+noedns +noad +norec +opcode=15 +header-only",
    "TCP": f"{PLAIN} +tcp soa",
    "EDNS": f"+edns=0 {EDNS} soa",
    "EDNS over TCP": f"+edns=0 {EDNS} +tcp soa",
    "unknown version": f"+edns=1 +noednsneg {EDNS} soa",
    "unknown option": f"+edns=0 {EDNS} +ednsopt=100 soa",
    "unknown flag": f"+edns=0 {EDNS} +ednsflags=0x40 soa",
    "unknown version and flag": f"+edns=1 +noednsneg {EDNS} +ednsflags=0x40 soa",
    "unknown version and option": f"+edns=1 +noednsneg {EDNS} +ednsopt=100 soa",
    "small buffer": f"+edns=0 {EDNS} +ignore +dnssec +bufsize=512 dnskey",
    "unknown version and DO": f"+edns=1 +noednsneg {EDNS} +dnssec soa",
    "several options": f"+edns=0 {EDNS} +nsid +expire +subnet=0.0.0.0/0 soa",
}
ITS_OWN = re.compile(
    r"udp: \d+|id: \d+|^;; (Query time|SERVER|WHEN|MSG SIZE|Got bad).*|^; <<>>.*|^;; global.*|^;; WARNING.*", re.M
)


def dig(server, probe):
    """Return what dig prints about the answer to a probe, without what is each server's or each query's own."""
    command = [
        "dig",
        f"@{server.address.host}",
        "-p",
        str(server.address.port),
        "+tries=1",
        "+time=15",
        "+nottlid",
        *probe.split(),
        "+qid=2011",
        "nsec.test",
    ]
    printed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout
    return ITS_OWN.sub("", printed).strip()


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_a_tester_finds_the_shield_as_compliant_as_its_nameserver(nameserver, shield, probe):
    direct = dig(nameserver, probe)
    assert "status: " in direct
    assert [dig(shield, probe), dig(shield, probe)] == [direct, direct]
