"""What has workers answer all queries, by the keys of a configuration: said by `check`, and in the log."""

import pytest
from click.testing import CliRunner

from funkenshield import cli
from funkenshield.config import Config
from funkenshield.config.kernel_answers import against_all

LISTENER = {"address": "192.0.2.1:53", "transport": "xdp", "interface": "eth0", "kernel_answers": True}
AGAINST = [
    ("guard.access", {"guard": {"access": {"deny": "192.0.2.0/24"}}}),
    ("guard.access", {"guard": {"access": {"default": "deny"}}}),
    ("guard.rate_limits", {"guard": {"rate_limits": [{"queries_per_second": 100}]}}),
    ("guard.rrl", {"guard": {"rrl": {"nxdomains_per_second": 5}}}),
    ("guard.dynamic_blocks", {"guard": {"dynamic_blocks": [{"type": "queries", "rate": 100}]}}),
    ("proxy_protocol_from", {"proxy_protocol_from": "192.0.2.7"}),
    ("client_subnet.add", {"client_subnet": {"add": True}}),
    ("rules", {"rules": [{"match": {"source": "192.0.2.0/24"}, "action": "drop"}]}),
    ("query_log", {"query_log": [{"sample": 0.1}, {"file": "/tmp/log"}]}),
    ("dnstap", {"dnstap": [{"socket": "/tmp/tap"}]}),
]
NOT_AGAINST = {
    "rules for names": {"rules": [{"match": {"suffix": "example.com"}, "action": "drop"}]},
    "rules for responses": {"rules": [{"chain": "responses", "match": {"rcode": "SERVFAIL"}, "action": "servfail"}]},
    "a log of some": {"query_log": [{"sample": 0.1}]},
    "a log of misses": {"query_log": [{"outcomes": "forwarded"}]},
    "what upstreams are asked": {"dnstap": [{"socket": "/tmp/tap", "messages": "forwarder_query"}]},
}


def config(**keys):
    return Config.model_validate({"upstreams": "192.0.2.53:53", "listeners": [LISTENER], **keys})


@pytest.mark.parametrize(("key", "keys"), AGAINST)
def test_what_is_against_all_is_told_by_its_key(key, keys):
    assert against_all(config(**keys)) == [key]
    assert against_all(config(**keys, listeners=[LISTENER | {"kernel_answers": False}])) == []


@pytest.mark.parametrize("keys", NOT_AGAINST.values(), ids=NOT_AGAINST)
def test_what_concerns_some_is_not(keys):
    assert against_all(config(**keys)) == []
    assert against_all(config(**keys), blocked=True) == ["blocks"]


def test_check_says_so_in_one_line(tmp_path):
    file = tmp_path / "f.toml"
    file.write_text(
        'upstreams = "192.0.2.53:53"\nguard.rrl.responses_per_second = 5\nclient_subnet.add = true\n[[listeners]]\n'
        'address = "192.0.2.1:53"\ntransport = "xdp"\ninterface = "eth0"\nkernel_answers = true\n'
    )
    done = CliRunner().invoke(cli.main, ["check", "-c", str(file)])
    assert (done.exit_code, done.stdout.splitlines()) == (0, [
        f"{file}: kernel answers are off, because of guard.rrl, client_subnet.add: workers answer all queries",
        f"{file}: ok",
    ])  # fmt: skip
