"""A configuration with keys of before is answered line by line: what each of them is called now."""

from collections import defaultdict

import pytest
from pydantic import BaseModel

from funkenshield import config
from funkenshield.config.renamed import KEYS, VALUES
from funkenshield.config.types import kind_of
from funkenshield.errors import ConfigError

OLD = """\
proxies = ["192.0.2.0/24"]
drain = 5
any = "minimal"
notify = ["192.0.2.53"]
shuffle = true

[cache]
options_ignored = [65001]

[ttl]
on_wire = "keep"

[stale]
client_timer = 1.0

[cookies]
secrets = "/etc/secrets"

[identity]
server = "ns1"
version = "none"

[udp]
payload = 1232
edns_udp_size = 1232

[tcp]
connections = 100
per_client = 10
queries = 50
idle = "10s"

[forward]
policy = "least-open"
patience = 0.1
try_next = ["SERVFAIL"]
tries = 3
open = 1000
open_zone = 100
forgeable = 10
passed_on = 16
transfers = 4
mismatches = 3
port_life = 20
ports_avoided = [5353]
connections = 4

[health]
backoff = 30
least = 20
timeouts = 0.5
servfails = 0.9

[[upstreams]]
name = "far"
address = "192.0.2.1:853"
open = 100
transport = "tls"
tls = { name = "ns.test", pins = ["x"], authorities = "/etc/ca.pem" }
health.least = 5

[client_subnet]
ipv4 = 24
ipv6 = 56

[[zones]]
name = "example.com"
open = 10
notify = []
nsec = "trust"
ttl.on_wire = "age"
stale.client_timer = 1

[guard]
blocked = 100

[[guard.limits]]
queries = 100
burst = 1
ipv4 = 24
ipv6 = 48

[guard.responses]
answers = 10
nxdomains = 5
errors = 5
all = 100
ipv4 = 24

[[guard.blocks]]
name = "floods"
what = "queries"
rate = 100
block = 60
ipv6 = 48

[[rules]]
chain = "answers"
match = { any = [{ rate = { limit = 5, ipv4 = 24 } }] }
action = "uncached"
on_error = "pass"

[[rules]]
action = "pass"

[[rules]]
action = { strip_option = 65001 }

[[rules]]
action = { uncached = true }
match = { share = 0.1 }
"""
TOLD = """\
upstreams[1].tls.name: no such key; name is now server_name
upstreams[1].tls.pins (in "far"): no such key; pins is now pin_sha256
upstreams[1].tls.authorities (in "far"): no such key; authorities is now ca_file
upstreams[1].health.least (in "far"): no such key; least is now min_samples
upstreams[1].open (in "far"): no such key; open is now max_outstanding
cache.options_ignored: no such key; options_ignored is now skip_options
ttl.on_wire: no such key; on_wire is now serve_original = true
stale.client_timer: no such key; client_timer is now client_timeout
cookies.secrets: no such key; secrets is now secret_file
udp.payload: no such key; payload is now max_payload
udp.edns_udp_size: no such key; edns_udp_size is now max_payload
tcp.connections: no such key; connections is now max_connections
tcp.per_client: no such key; per_client is now max_connections_per_client
tcp.queries: no such key; queries is now max_in_flight
tcp.idle: no such key; idle is now idle_timeout
forward.policy: "least-open" is now "least-outstanding"
forward.patience: no such key; patience is now retry_after
forward.try_next: no such key; try_next is now retry_on
forward.tries: no such key; tries is now attempts
forward.open: no such key; open is now max_outstanding
forward.open_zone: no such key; open_zone is now max_outstanding_per_zone
forward.forgeable: no such key; forgeable is now max_outstanding_per_prefix
forward.passed_on: no such key; passed_on is now max_uncached
forward.transfers: no such key; transfers is now max_transfers
forward.mismatches: no such key; mismatches is now spoof_threshold
forward.port_life: no such key; port_life is now source_port_lifetime
forward.ports_avoided: no such key; ports_avoided is now source_port_avoid
forward.connections: no such key; connections is now max_connections
health.backoff: no such key; backoff is now max_backoff
health.least: no such key; least is now min_samples
health.timeouts: no such key; timeouts is now timeout_ratio
health.servfails: no such key; servfails is now servfail_ratio
client_subnet.ipv4: no such key; ipv4 is now ipv4_prefix_length
client_subnet.ipv6: no such key; ipv6 is now ipv6_prefix_length
zones[1].ttl.on_wire (in "example.com"): no such key; on_wire is now serve_original = false
zones[1].stale.client_timer (in "example.com"): no such key; client_timer is now client_timeout
zones[1].open (in "example.com"): no such key; open is now max_outstanding
zones[1].notify (in "example.com"): no such key; notify is now allow_notify_from
zones[1].nsec (in "example.com"): no such key; nsec is now aggressive_nsec = true
guard.blocked: no such key; blocked is now max_blocked
guard.limits: no such key; limits is now rate_limits
guard.limits[1].queries: no such key; queries is now queries_per_second
guard.limits[1].burst: no such key; burst is now window
guard.limits[1].ipv4: no such key; ipv4 is now ipv4_prefix_length
guard.limits[1].ipv6: no such key; ipv6 is now ipv6_prefix_length
guard.responses: no such key; responses is now rrl
guard.responses.answers: no such key; answers is now responses_per_second
guard.responses.nxdomains: no such key; nxdomains is now nxdomains_per_second
guard.responses.errors: no such key; errors is now errors_per_second
guard.responses.all: no such key; all is now all_per_second
guard.responses.ipv4: no such key; ipv4 is now ipv4_prefix_length
guard.blocks: no such key; blocks is now dynamic_blocks
guard.blocks[1].what: no such key; what is now type
guard.blocks[1].block: no such key; block is now duration
guard.blocks[1].ipv6: no such key; ipv6 is now ipv6_prefix_length
rules[1].chain: "answers" is now "cache-hits"
rules[1].match.any[1].rate.ipv4: no such key; ipv4 is now ipv4_prefix_length
rules[1].action: "uncached" is now "skip_cache"
rules[1].on_error: "pass" is now "allow"
rules[2].action: "pass" is now "allow"
rules[3].action.strip_option: no such key; strip_option is now remove_option
rules[4].match.share: no such key; share is now source_ratio
rules[4].action.uncached: no such key; uncached is now skip_cache
proxies: no such key; proxies is now proxy_protocol_from
drain: no such key; drain is now drain_timeout
any: no such key; any is now minimal_any = true
notify: no such key; notify is now allow_notify_from
shuffle: no such key; shuffle is now rrset_roundrobin
identity: no such key; identity is now chaos
identity.server: no such key; server is now identity
"""


def told(tmp_path, text):
    """Return what is told of a file, line by line."""
    path = tmp_path / "old.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as mistakes:
        config.load(path)
    return [line.removeprefix(f"{path}: ") for line in str(mistakes.value).splitlines()]


def test_every_old_key_of_a_file_is_told_with_its_new_name_all_at_once(tmp_path):
    assert told(tmp_path, OLD) == TOLD.splitlines()


def test_the_file_has_every_key_and_value_that_was_renamed():
    old = {key for names in KEYS.values() for key in names} | {each for values in VALUES.values() for each in values}
    assert [each for each in old if f" {each} is now " not in TOLD and f'"{each}" is now ' not in TOLD] == []


def tables(section=config.Config, name=""):
    """Yield all tables of the file, each with the last part of its path; those of rules that hold themselves once."""
    yield name, section
    for key, field in section.model_fields.items():
        kind = kind_of(field)
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not section:
            both = (name, field.alias or key)
            yield from tables(kind, ".".join(both) if both == ("upstreams", "tls") else both[1])


def test_new_names_are_keys_and_old_ones_are_not():
    known = defaultdict(set)
    for name, section in tables():
        known[name] |= {field.alias or key for key, field in section.model_fields.items()}
    for table, names in KEYS.items():
        now = known[KEYS[""].get(table) or KEYS["guard"].get(table) or table]
        assert set(names.values()) <= now
        assert not names.keys() & now


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('any = "none"', "any: no such key; any is now minimal_any"),
        ("any = 5", "any: no such key; any is now minimal_any"),
        ('any = "pass"', "any: no such key; any is now minimal_any = false"),
        ("anyone = 5", "anyone: no such key; see `funkenshield docs config` for all keys"),
        ("[guard.rrl]\nanswers = 5", "guard.rrl.answers: no such key; answers is now responses_per_second"),
        (
            "[[guard.rate_limits]]\nqueries = 5",
            "guard.rate_limits[1].queries: no such key; queries is now queries_per_second",
        ),
        ("[guard]\nlimits = 5", "guard.limits: no such key; limits is now rate_limits"),
        ("[guard]\nlimits = [5]", "guard.limits: no such key; limits is now rate_limits"),
        ('[tls]\nname = "a"', "tls.name: no such key; it belongs in [[upstreams]] or [[groups]] or [health]"),
        ('[chaos]\nserver = "a"', "chaos.server: no such key; server is now identity"),
        (
            '[[rules]]\nname = "a"\naction = "drop"\nmatch = { any = [{ share = 0.1 }] }',
            "rules[1].match.any[1].share: no such key; share is now source_ratio",
        ),
        (
            '[[groups]]\nname = "a"\npolicy = "least-open"',
            'groups[1].policy (in "a"): "least-open" is now "least-outstanding"',
        ),
    ],
)
def test_one_mistake_has_one_line(written, said, tmp_path):
    assert told(tmp_path, written) == [said]
