# ruff: noqa: E501 - a mistake and its line stand side by side
"""Each mistake that newcomers make gets one line: where it is, what stands there, and what was probably meant."""

import pytest

from funkenshield import config
from funkenshield.errors import ConfigError

ZONE = '[[zones]]\nname = "example.com"\n'
RULE = "[[rules]]\n"
OVER_TCP = '[[upstreams]]\naddress = "192.0.2.1:53"\ntransport = "tcp"\n'
PINNED = '[[upstreams]]\naddress = "192.0.2.1:853"\ntransport = "tls"\ntls.pin_sha256 = "{0}AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="\n'
LISTENER = '[[listeners]]\naddress = "192.0.2.1:853"\n'
ENCRYPTED = f'{LISTENER}transport = "tls"\ncertificates = {{ certificate = "c.pem", key = "k.pem" }}\n'
MISTAKES = {
    # addresses
    'listen = "127.0.0.1"': ": listen: \"127.0.0.1\" is not an endpoint; an address needs a port: 127.0.0.1:53",
    'listen = ["127.0.0.1:53", "::1:53"]': ': listen[2]: "::1:53" is not an endpoint; IPv6 addresses are written in brackets: [::1]:53',
    'listen = ":53"': ': listen: ":53" is not an endpoint; for all addresses, write 0.0.0.0:53 and [::]:53',
    "listen = 53": ": listen: 53 is not an endpoint; write ADDR:PORT",
    'listen = "localhost:53"': ': listen: "localhost:53": localhost is not an IP address',
    'upstreams = "localhost"': ': upstreams: "localhost" is not an endpoint; a host needs a port: localhost:53',
    'upstreams = "localhost:0"': ': upstreams: "localhost:0": port 0 is not between 1 and 65535',
    'upstreams = "192.0.2.1O:53"': ': upstreams: "192.0.2.1O:53": 192.0.2.1O is not an IP address',
    'upstreams = "a..test:53"': ': upstreams: "a..test:53": a..test is not an IP address',
    'upstreams = "resolv.conf:5353x"': ': upstreams: "resolv.conf:5353x" is not an endpoint; write ADDR:PORT',
    'upstreams = "192.0.2.1:99999"': ': upstreams: "192.0.2.1:99999": port 99999 is not between 1 and 65535',
    'listen = "[fe80::1]:53"': ': listen: "[fe80::1]:53": fe80::1 is link-local; add its interface: fe80::1%eth0',
    'listen = "[fe80::1%nowhere0]:53"': ': listen: "[fe80::1%nowhere0]:53": this machine has no interface nowhere0',
    'listen = "[fe80::1%4000000]:53"': ': listen: "[fe80::1%4000000]:53": this machine has no interface 4000000',
    'listen = "[fe80::1%4294967297]:53"': ': listen: "[fe80::1%4294967297]:53": this machine has no interface 4294967297',
    'allow_notify_from = "192.0.2.1/24"': ': allow_notify_from: "192.0.2.1/24" is not a prefix: host bits are set; did you mean 192.0.2.0/24?',
    'listen = ["127.0.0.1:53", "127.0.0.1:53"]': ": listen: more than once: 127.0.0.1:53",
    'upstreams = ["192.0.2.1:53", "192.0.2.2:53", "192.0.2.1:53"]': ": upstreams: more than once: 192.0.2.1:53",
    f'{OVER_TCP}name = "a"\n{OVER_TCP}name = "b"': ": upstreams: more than once: tcp://192.0.2.1:53",
    f'{OVER_TCP}name = "a"\n[[upstreams]]\naddress = "192.0.2.1:53"\nname = "a"': (
        ": upstreams: several have the same identifier: a (192.0.2.1:53); give each a name of its own"
    ),
    f'{PINNED.format("A")}{PINNED.format("B")}': (
        ": upstreams: several have the same identifier: tls://192.0.2.1:853; give each a name of its own"
    ),
    f'{OVER_TCP}[[upstreams]]\naddress = "192.0.2.1:53"\nname = "a"\n{ZONE}upstreams = "192.0.2.1:53"': (
        ": zones: example.com.: 192.0.2.1:53 is the address of several upstreams: tcp://192.0.2.1:53, a (192.0.2.1:53);"
        " put the intended one into a group, and name the group"
    ),
    # listeners
    "listen = []": ": listen: an empty list, and there are no [[listeners]]; at least one address is needed",
    f'{LISTENER}transport = "tls"': (
        ': listeners[1] (in "192.0.2.1:853"): certificates: needed with transport = "tls"; write'
        ' { certificate = "FILE", key = "FILE" }'
    ),
    f"{LISTENER}min_version = \"1.3\"": ': listeners[1] (in "192.0.2.1:853"): min_version: only with transport = "tls" or "https"',
    f'{LISTENER}ciphers = "ALL"': ': listeners[1] (in "192.0.2.1:853"): ciphers: only with transport = "tls" or "https"',
    f'{LISTENER}ciphersuites = "A"': ': listeners[1] (in "192.0.2.1:853"): ciphersuites: only with transport = "tls" or "https"',
    f'{LISTENER}certificates = {{ certificate = "a" }}': (
        ': listeners[1] (in "192.0.2.1:853"): certificates: only with transport = "tls", "https", "quic" or "h3"'
    ),
    f'{LISTENER}transport = "https"': (
        ': listeners[1] (in "192.0.2.1:853"): certificates: needed with transport = "https"; write'
        ' { certificate = "FILE", key = "FILE" }'
    ),
    f'{LISTENER}transport = "doh"': ': listeners[1].transport (in "192.0.2.1:853"): "doh": write "https"',
    f'{LISTENER}transport = "http"\ncertificates = {{ certificate = "a" }}': (
        ': listeners[1] (in "192.0.2.1:853"): certificates: only with transport = "tls", "https", "quic" or "h3"'
    ),
    f'{ENCRYPTED}paths = "/dns-query"': (
        ': listeners[1] (in "192.0.2.1:853"): paths: only with transport = "https", "http" or "h3"'
    ),
    f'{LISTENER}forwarded_for_from = "127.0.0.1"': (
        ': listeners[1] (in "192.0.2.1:853"): forwarded_for_from: only with transport = "https" or "http"'
    ),
    f'{LISTENER}transport = "http"\npaths = "dns-query"': (
        ': listeners[1].paths (in "192.0.2.1:853"): "dns-query" is not a path that begins with /, without ? and #'
    ),
    f'{LISTENER}transport = "quic"': (
        ': listeners[1] (in "192.0.2.1:853"): certificates: needed with transport = "quic"; write'
        ' { certificate = "FILE", key = "FILE" }'
    ),
    f'{LISTENER}transport = "doq"': ': listeners[1].transport (in "192.0.2.1:853"): "doq": write "quic"',
    f'{LISTENER}transport = "h3"\ncertificates = {{ certificate = "a" }}\nciphers = "A"': (
        ': listeners[1] (in "192.0.2.1:853"): ciphers: only with transport = "tls" or "https"'
    ),
    f'{LISTENER}transport = "udp"': ': listeners[1].transport (in "192.0.2.1:853"): write "udp+tcp"',
    f'{LISTENER}transport = "ucp"': (
        ': listeners[1].transport (in "192.0.2.1:853"): "ucp" is not one of "udp+tcp", "xdp", "tls", "https", "http",'
        ' "quic", "h3"; did you mean "udp+tcp"?'
    ),
    f'{LISTENER}transport = "xdp"': (
        ': listeners[1] (in "192.0.2.1:853"): interface: needed with transport = "xdp"; write interface = "eth0"'
    ),
    f'{LISTENER}interface = "eth0"': (
        ': listeners[1] (in "192.0.2.1:853"): interface: only with transport = "xdp"'
    ),
    '[[listeners]]\naddress = "[::]:53"\ntransport = "xdp"\ninterface = "eth0"': (
        ': listeners[1] (in "[::]:53"): address: with transport = "xdp", name an address of this machine\'s, not [::]:53'
    ),
    f"{ENCRYPTED}min_version = 1.3": (
        ': listeners[1].min_version (in "192.0.2.1:853"): 1.3 is not one of "1.2", "1.3"; did you mean "1.3"?'
    ),
    f'{ENCRYPTED}ciphers = "A\\nB"': (
        ': listeners[1].ciphers (in "192.0.2.1:853"): "A\\nB" is not text without control characters'
    ),
    f'{LISTENER}bind = "127.0.0.1:53"': ': listeners[1].bind (in "192.0.2.1:853"): no such key; did you mean "address"?',
    f'{LISTENER}cert = "a.pem"': ': listeners[1].cert (in "192.0.2.1:853"): no such key; did you mean "certificates"?',
    f'{LISTENER}transport = "tls"\ncertificates = "a.pem"': (
        ': listeners[1].certificates (in "192.0.2.1:853"): "a.pem" is not a table; write [[listeners.certificates]]'
        " with keys such as certificate, key, ocsp_response"
    ),
    f'{LISTENER}transport = "tls"\ncertificates = {{ certificate = "a", private_key = "b" }}': (
        ': listeners[1].certificates.private_key (in "192.0.2.1:853"): no such key; did you mean "key"?'
    ),
    f'{LISTENER}transport = "tls"\ncertificates = {{ certificate = "" }}': (
        ': listeners[1].certificates.certificate (in "192.0.2.1:853"): an empty string is not allowed'
    ),
    'listeners = "192.0.2.1:853"': (
        ': listeners: "192.0.2.1:853" is not a table; write [[listeners]] with keys such as address, transport, certificates'
    ),
    f'listen = "192.0.2.1:853"\n{ENCRYPTED}': (
        ": listeners: more than once, those of listen included: 192.0.2.1:853"
    ),
    f"{LISTENER}{LISTENER}": ": listeners: more than once, those of listen included: 192.0.2.1:853",
    f"listen = {[f'127.0.0.{n}:53' for n in range(1, 65)]}\n{LISTENER}": (
        ": listeners: at most 64, those of listen included, not 65"
    ),
    f"tcp.max_connections = 0\n{ENCRYPTED}": (
        ": tcp.max_connections: 0 disables TCP, and the listener 192.0.2.1:853 (TLS) needs it"
    ),
    f'metrics.listen = "0.0.0.0:853"\n{ENCRYPTED}': (
        ": metrics.listen: 0.0.0.0:853 conflicts with listeners (TCP); choose another port"
    ),
    'certificate = "a.pem"': ": certificate: no such key; it belongs in [[listeners.certificates]]",
    '[tls]\nca_file = "a.pem"': ": tls.ca_file: no such key; it belongs in [cluster] or [upstreams.tls]",
    '[tls]\nticket_key = "a"': ': tls.ticket_key: no such key; did you mean "ticket_secret_file"?',
    '[tls]\nticket_lifetime = "1s"': ': tls.ticket_lifetime: "1s" is too small; at least 1min',
    "[tls]\nhandshakes_per_second = 5": (
        ': tls.handshakes_per_second: no such key; did you mean "handshakes_per_second_per_client"?'
    ),
    # keys
    'listens = "127.0.0.1:53"': ': listens: no such key; did you mean "listen"?',
    'servers = "127.0.0.1:53"': ': servers: no such key; did you mean "upstreams"?',
    "[cache]\nsize = 5": ': cache.size: no such key; did you mean "memory"?',
    "[cash]\nmemory = 5": ': cash: no such key; did you mean "cache"?',
    "[udp]\nbuffer-size = 5": ": udp.buffer-size: no such key; keys are max_payload, receive_buffer",
    "deadline = 3": ": deadline: no such key; it belongs in [forward]",
    '[cache]\nmemory = "1GiB"\nlisten = "127.0.0.1:53"': (
        ": cache.listen: no such key; listen belongs to the top level, above the first line in brackets,"
        " or in [metrics]"
    ),
    f"{ZONE}workers = 2": (
        ': zones[1].workers (in "example.com"): no such key; workers belongs to the top level, above the first line'
        " in brackets"
    ),
    f"{ZONE}negative_max = 5": ': zones[1].negative_max (in "example.com"): no such key; it belongs in [ttl]',
    "[forward.health]\nrise = 3": ": forward.health: no such key; [health] is a table at the top level",
    '[zones."example.com"]\nwatch = true': (
        ': zones.example.com: no such key; write [[zones]], and below it name = "example.com"'
    ),
    f'{RULE}action = "refuse"': ': rules[1].action: "refuse" is not known; did you mean "refused"?',
    f'{RULE}action = "drop"\nmatch = {{ sufix = "a.test" }}': (
        ': rules[1].match.sufix: no such key; did you mean "suffix"?'
    ),
    f'{RULE}name = "mine"\naction = "drop"\nmatch = {{ nots = {{ edns = true }} }}': (
        ': rules[1].match.nots (in "mine"): no such key; did you mean "not"?'
    ),
    f'{RULE}match = {{ edns = true }}': ": rules[1].action: this key is missing",
    "[[zones]]\nwatch = true": ": zones[1].name: this key is missing",
    # what stands there
    'workers = "4"': ": workers: \"4\" is a string; write numbers without quotes: 4",
    "workers = 1.5": ": workers: 1.5 is not an integer",
    'rrset_roundrobin = "yes"': ': rrset_roundrobin: "yes" is neither true nor false (without quotes)',
    '[stale]\nmode = "imediate"': ': stale.mode: "imediate" is not one of "off", "on-failure", "immediate"; did you mean "immediate"?',
    '[log]\nlevel = "WARN"': ': log.level: "WARN" is not one of "debug", "info", "warning", "error"; did you mean "warning"?',
    "user = 1000": ': user: 1000 is not a string; write it in quotes: "1000"',
    "cache = 5": ": cache: 5 is not a table; write [cache] with keys such as memory, snapshot, snapshot_interval",
    'zones = "example.com"': (
        ': zones: "example.com" is not a table; write [[zones]] with keys such as name, upstreams, group'
    ),
    "[[cache]]\nmemory = 5000000": ": cache: a list of tables, but there is one table only; write [cache]",
    "upstreams = []": ": upstreams: an empty list; at least one entry is needed",
    f'{ZONE}{ZONE.replace("example", "EXAMPLE")}': ": zones: more than once: example.com.",
    # sizes and times
    '[cache]\nmemory = "64 apples"': ': cache.memory: "64 apples" is not a size; write octets, or a string such as "512MiB", "2GB"',
    '[cache]\nmemory = "64KB"': ': cache.memory: "64KB" is too small; at least 4MiB',
    "[cache]\nmemory = 64": ": cache.memory: 64 is too small; at least 4194304 octets",
    '[ttl]\nmax = "30d"': ': ttl.max: "30d" is too large; at most 1w',
    "[ttl]\nmax = 9999999": ": ttl.max: 9999999 is too large; at most 604800 s",
    '[ttl]\nmin = "1.5s"': ': ttl.min: "1.5s" is not a time; write seconds, or a string such as "90s", "1h30m", "7d", whole seconds',
    '[forward]\ntimeout = "soon"': ': forward.timeout: "soon" is not a time; write seconds, or a string such as "90s", "1h30m", "7d"',
    f'{ZONE}[zones.ttl]\nmax = "30d"': ': zones[1].ttl.max (in "example.com"): "30d" is too large; at most 1w',
    # what does not go together
    '[ttl]\nmin = "2h"\nmax = 3600': ": ttl: min (7200) is larger than max (3600)",
    f"{ZONE}[zones.ttl]\nmax = 60\n[ttl]\nmin = 3600": ": zones: example.com.: ttl: min (3600) is larger than max (60)",
    f'{RULE}action = {{ ttl = {{ min = 9, max = 8 }} }}': ": rules[1].action.ttl: min (9) is larger than max (8)",
    "[forward]\ndeadline = 0.5": ": forward: deadline (0.5) is shorter than timeout (1.0): a client would get SERVFAIL before the query is retried",
    # what is no TOML
    "listen = 127.0.0.1:53": ":1:15: not TOML: strings are written in quotes: listen = 127.0.0.1:53",
    "listen: 127.0.0.1": ":1:7: not TOML: a key is followed by =, not by a colon: listen: 127.0.0.1",
    "workers = 1\n\nlisten = [": ":3:11: not TOML: invalid value: listen = [",
    f"workers = {'9' * 5000}": ": not accepted: an integer has too many digits",
    f"workers = 0x{'f' * 5000}": ": not accepted: an integer has too many digits",
    f"workers = {'9' * 400}": f": workers: {'9' * 60}... is too large; at most 255",
    "[cache]\n[cache]": ":2:7: not TOML: the table [cache] is in the file twice: [cache]",
    "workers = 1\nworkers = 2": ":2:12: not TOML: the key is in the file twice: workers = 2",
    "user = 'caf\udce9'": ":1: not UTF-8 text",
}  # fmt: skip


def load(tmp_path, text):
    path = tmp_path / "f.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    return config.load(path)


@pytest.mark.parametrize("text", MISTAKES)
def test_each_mistake_has_one_line(text, tmp_path):
    with pytest.raises(ConfigError) as told:
        load(tmp_path, text)
    assert str(told.value) == f"{tmp_path / 'f.toml'}{MISTAKES[text]}"


def test_a_flag_with_a_mistake_is_not_said_to_be_in_the_file(tmp_path):
    path = tmp_path / "f.toml"
    path.write_text("drain_timeout = 1000")
    with pytest.raises(ConfigError) as told:
        config.load(path, {"workers": 300, "cache.memory": "1MiB"})
    assert str(told.value).splitlines() == [
        "command line: workers: 300 is too large; at most 255",
        f"{path}: drain_timeout: 1000 is too large; at most 300 s",
        'command line: cache.memory: "1MiB" is too small; at least 4MiB',
    ]


@pytest.mark.parametrize(
    ("text", "key", "meant"),
    [
        ('listen = "127.0.0.1:53"', "listen", ("127.0.0.1", 53)),
        ('proxy_protocol_from = "192.0.2.1"', "proxy_protocol_from", "192.0.2.1/32"),
        ('forward.retry_on = "REFUSED"', "forward.retry_on", "REFUSED"),
        ('health.rcodes = "NOERROR"', "health.rcodes", "NOERROR"),
        ('guard.access.deny = "192.0.2.0/24"', "guard.access.deny", "192.0.2.0/24"),
    ],
)
def test_one_value_is_a_list_of_one(text, key, meant, tmp_path):
    found = load(tmp_path, text)
    for part in key.split("."):
        found = getattr(found, part)
    assert len(found) == 1
    assert str(found[0]) == meant or found[0] == meant


def test_one_table_is_a_list_of_one(tmp_path):
    text = (
        '[upstreams]\naddress = "192.0.2.1:53"\n[zones]\nname = "a.test"\n[guard.rate_limits]\nqueries_per_second = 5\n'
    )
    made = load(tmp_path, f'{text}[rules]\naction = "drop"\nmatch = {{ any = {{ edns = true }} }}\n')
    assert [len(each) for each in (made.upstreams, made.zones, made.rules, made.guard.rate_limits)] == [1, 1, 1, 1]
    assert made.rules[0].match.any[0].edns


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("90", 90), ('"90"', 90), ('"90s"', 90), ('"1m30s"', 90), ('"1.5 min"', 90), ('"1h"', 3600), ('"1d"', 86400), ('"1w"', 604800)],
)  # fmt: skip
def test_times_are_understood_as_people_write_them(written, seconds, tmp_path):
    assert load(tmp_path, f"[ttl]\nmax = {written}").ttl.max == seconds


def test_times_may_be_parts_of_a_second(tmp_path):
    forward = load(tmp_path, '[forward]\ntimeout = "250ms"\ndeadline = "1s500ms"').forward
    assert (forward.timeout, forward.deadline) == (0.25, 1.5)


def test_sizes_are_understood_wherever_octets_are_meant(tmp_path):
    made = load(tmp_path, '[udp]\nmax_payload = "1KiB"\nreceive_buffer = "8 MB"\n[guard]\nmemory = "1mib"')
    assert (made.udp.max_payload, made.udp.receive_buffer, made.guard.memory) == (1024, 8_000_000, 1 << 20)
