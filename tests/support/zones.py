"""Know zones that have all there is in DNS: names of every kind, unsigned, signed with NSEC, and with NSEC3.

They are made once and served alike by every nameserver, so that signatures are the same everywhere. Who serves
them is not known here.
"""

import subprocess
import tempfile
from pathlib import Path

from support.nameservers import program

_LONG = ".".join(["l" * 63, "o" * 63, "n"])
_GLUE = "\n".join(f"wide NS ns{n}.wide\nns{n}.wide A 192.0.2.{n}\nns{n}.wide AAAA 2001:db8::{n}" for n in range(1, 9))
_MIDDLE = "\n".join(f'middle TXT "{n} {"m" * 200}"' for n in range(3))  # too large without EDNS
_BIG = "\n".join(f'big TXT "{n:02} {"x" * 240}"' for n in range(12))  # too large for UDP
_HUGE = "\n".join("huge TXT" + 4 * f' "{n:02} {"y" * 240}"' for n in range(60))  # nearly too large for TCP
_POOL = "\n".join(f"pool A 198.51.100.{n}" for n in range(101, 121))  # larger than what is additional beside it
_HOSTS = "\n".join(f"hosts A 198.51.100.{n}" for n in range(1, 61))
TEMPLATE = rf"""
$ORIGIN {{origin}}
$TTL 3600
@             SOA    ns1 hostmaster 1 3600 600 86400 900
@             NS     ns1
@             NS     ns2
@             NS     ns.elsewhere.test.
@             MX     10 mail
@             MX     20 mail.elsewhere.test.
@             TXT    "apex"
@             CAA    0 issue "ca.test"
ns1           A      192.0.2.1
ns1           AAAA   2001:db8::1
ns2      7200 A      192.0.2.2
mail          A      192.0.2.25
mail          MX     5 mail
mails         MX     10 pool
mails         MX     20 mail
mails         MX     30 ns1
www           A      192.0.2.80
www           A      192.0.2.81
www           AAAA   2001:db8::80
CamelCase     A      192.0.2.82
text          TXT    "first string" "second; \"string\"" ""
text          TXT    "another" "\000\255"
zero        0 A      192.0.2.83
long 2147483647 A    192.0.2.84
alias         CNAME  alias2
alias2   1800 CNAME  www
dangling      CNAME  absent.absent
nodata        CNAME  mail
loop          CNAME  loop2
loop2         CNAME  loop
away          CNAME  www.elsewhere.test.
across        CNAME  www.nsec3.test.
into          CNAME  host.child
renamed       CNAME  host.old
starred       CNAME  any.wild
*.wild        A      192.0.2.99
*.wild        TXT    "wildcard"
*.wild        MX     10 mail.wild
sub.wild      A      192.0.2.98
*.aliases     CNAME  www
*.void        CNAME  absent
leaf.a.empty  A      192.0.2.7
*.b.empty     A      192.0.2.8
child         NS     ns.child
child         NS     ns.elsewhere.test.
ns.child      A      192.0.2.53
ns.child      AAAA   2001:db8::53
secure        NS     ns.secure
secure        DS     4711 13 2 {"4711" * 16}
secure        DS     4711 13 4 {"1147" * 24}
ns.secure     A      192.0.2.54
glueless      NS     ns.elsewhere.test.
sibling       NS     ns.child
both          NS     pool
both          NS     ns.child
both          NS     ns.both
both          NS     ns2.both
ns.both       A      192.0.2.55
ns2.both      AAAA   2001:db8::55
within        CNAME  {"w" * 60}.{"w" * 60}.both
{_GLUE}
old           DNAME  new
host.new      A      192.0.2.9
*.new         TXT    "wildcard below a DNAME's target"
gone          DNAME  elsewhere.test.
longer        DNAME  {_LONG}.new
_dns._udp     SRV    1 2 53 ns1
_dns._udp     SRV    1 2 53 ns.elsewhere.test.
_443._tcp     TLSA   3 1 1 {"0a" * 32}
svc           HTTPS  1 . alpn="h2,h3" port=8443 ipv4hint=192.0.2.80
svc           SVCB   2 www key65280="\000\255"
svcalias      HTTPS  0 www
naptr         NAPTR  100 10 "U" "E2U+sip" "!^(.*)$!sip:\\1@www!" .
naptr         NAPTR  100 20 "S" "SIP" "" _dns._udp
place         LOC    52 22 23.000 N 4 53 32.000 E -2.00m 1m 10000m 10m
place         HINFO  "PDP-11" "UNIX"
place         RP     hostmaster text
place         SSHFP  4 2 {"0b" * 32}
private       TYPE65280 \# 4 0A000001
private       TYPE65281 \# 0
b\000in\255.y\.\032\"\\z TXT "odd octets"
\*            TXT    "no wildcard, but its spelling"
{{longest}}     TXT    "a long name"
{_MIDDLE}
{_BIG}
{_HUGE}
{_HOSTS}
{_POOL}
"""

SIGNED = {"nsec.test": [], "nsec3.test": ["-3", "-"], "optout.test": ["-3", "-", "-A"]}  # options of dnssec-signzone
NAMES = ("plain.test", *SIGNED)


def zone_text(name):
    """Return the master file of a zone, not signed."""
    octets = 253 - len(name) - 2  # that are left for other labels; "*." must fit before them
    longest = ".".join([63 * "l"] * (octets // 64) + ["n" * (octets % 64 - 1)])
    return TEMPLATE.format(origin=f"{name}.", longest=longest)


def make_zones():
    """Return the master file of each zone, by name, signed with a key of its own where it is to be."""
    return {name: _sign(name, SIGNED[name]) if name in SIGNED else zone_text(name) for name in NAMES}


def _sign(name, options):
    """Sign a zone for a month with a new key (RFC 4034, 5155)."""
    with tempfile.TemporaryDirectory(prefix="zone-") as temporary:
        folder = Path(temporary)
        (folder / "zone").write_text(zone_text(name))
        for command in (
            [program("dnssec-keygen"), "-q", "-a", "ECDSAP256SHA256", "-f", "KSK", name],
            [program("dnssec-signzone"), "-q", "-S", "-z", *options, "-o", name, "-f", "signed", "zone"],
        ):
            subprocess.run(command, cwd=folder, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        return (folder / "signed").read_text()
