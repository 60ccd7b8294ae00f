"""Know how to start resolvers of other people (BIND, Unbound, Knot Resolver, PowerDNS Recursor).

Each asks, for each zone that it is told, one address at port 53: as a stub would who knows that it is the zone's
nameserver (RD=0), or as one forwards (RD=1). It knows no root, and keeps what it has as long as its TTL says.
"""

import contextlib
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from support.client import Address, free_port
from support.nameservers import Nameserver, program

BIND = (
    """
options {{
    directory "{folder}";
    managed-keys-directory "{folder}";
    pid-file none;
    session-keyfile none;
    listen-on port {address.port} {{ {address.host}; }};
    listen-on-v6 {{ none; }};
    dnssec-validation no;
    recursion yes;
}};
controls {{ }};
{stubs}
{forwards}
""",
    'zone "{zone}" {{ type static-stub; server-addresses {{ {host}; }}; }};',
    'zone "{zone}" {{ type forward; forward only; forwarders {{ {host}; }}; }};',
)

UNBOUND = (
    """
server:
    interface: {address.host}
    port: {address.port}
    directory: "{folder}"
    chroot: ""
    username: ""
    pidfile: ""
    use-syslog: no
    do-daemonize: no
    do-not-query-localhost: no
    module-config: "iterator"
remote-control:
    control-enable: no
{stubs}
{forwards}
""",
    'stub-zone:\n    name: "{zone}"\n    stub-addr: {host}',
    'forward-zone:\n    name: "{zone}"\n    forward-addr: {host}',
)

KRESD = (
    """
net.listen("{address.host}", {address.port}, {{ kind = "dns" }})
trust_anchors.remove(".")
for _, module in ipairs({{ "priming", "ta_update", "ta_signal_query", "detect_time_skew", "detect_time_jump" }}) do
    modules.unload(module)
end
cache.size = 16 * MB
cache.min_ttl(0)
{stubs}
{forwards}
""",
    'policy.add(policy.suffix(policy.STUB("{host}"), policy.todnames({{"{zone}"}})))',
    'policy.add(policy.suffix(policy.FORWARD("{host}"), policy.todnames({{"{zone}"}})))',
)

PDNS_BEFORE_5 = (
    """
local-address={address.host}
local-port={address.port}
socket-dir={folder}
hint-file=no
dnssec=off
security-poll-suffix=
dont-query=
disable-packetcache=yes
threads=1
write-pid=no
forward-zones=
forward-zones-recurse=
{stubs}
{forwards}
""",
    "forward-zones+={zone}={host}",
    "forward-zones-recurse+={zone}={host}",
)

PDNS = (  # which 5.0 and later read, where it is there
    """
incoming: {{ listen: ["{address.host}"], port: {address.port} }}
dnssec: {{ validation: "off" }}
outgoing: {{ dont_query: [] }}
packetcache: {{ disable: true }}
recursor:
    socket_dir: "{folder}"
    hint_file: "no"
    security_poll_suffix: ""
    threads: 1
    write_pid: false
    forward_zones:
{stubs}
    forward_zones_recurse:
{forwards}
""",
    *['        - {{ zone: "{zone}", forwarders: ["{host}"] }}'] * 2,
)


@contextlib.contextmanager
def _run(name, configs, options, stubs: Mapping[str, str], forwards: Mapping[str, str]):
    """Run one resolver with the hosts to ask, by the names of zones, until the context is left.

    `configs` has, by its file's name, a configuration, and what it says of a zone of either kind.
    """
    address = Address("127.0.0.1", free_port())
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as temporary:
        folder = Path(temporary)
        for config, (text, *stanzas) in configs.items():
            kinds = [
                "\n".join(stanza.format(zone=zone, host=host) for zone, host in hosts.items())
                for stanza, hosts in zip(stanzas, (stubs, forwards), strict=True)
            ]
            filled = text.format(folder=folder, address=address, stubs=kinds[0], forwards=kinds[1])
            (folder / config).write_text(filled)
        command = program(name), *(option.format(folder=folder) for option in options)
        running = Nameserver(name, address, [*stubs, *forwards], command, folder / "log")
        try:
            running.start()
            yield running
        finally:
            running.end()


bind = partial(_run, "named", {"conf": BIND}, ("-g", "-c", "{folder}/conf"))
unbound = partial(_run, "unbound", {"conf": UNBOUND}, ("-d", "-c", "{folder}/conf"))
kresd = partial(_run, "kresd", {"conf": KRESD}, ("-n", "-c", "{folder}/conf", "{folder}"))
pdns = partial(
    _run, "pdns_recursor", {"recursor.conf": PDNS_BEFORE_5, "recursor.yml": PDNS}, ("--config-dir={folder}",)
)
