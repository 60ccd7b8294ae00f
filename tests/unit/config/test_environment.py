"""Each key can be given by an environment variable: over the file, below flags, and never by a variable of no key."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from funkenshield import cli, config
from funkenshield.config import Config, environment, load
from funkenshield.errors import ConfigError

GIVEN = {
    "FUNKENSHIELD_LISTEN": ("127.0.0.1:53,[::1]:53", lambda found: list(map(str, found.listen))),
    "FUNKENSHIELD_CACHE__MEMORY": ("1GiB", lambda found: found.cache.memory),
    "FUNKENSHIELD_TTL__MAX": ("1h", lambda found: found.ttl.max),
    "FUNKENSHIELD_WORKERS": ("3", lambda found: found.workers),
    "FUNKENSHIELD_MINIMAL_ANY": ("True", lambda found: found.minimal_any),
    "FUNKENSHIELD_HEALTH__TIMEOUT_RATIO": ("0.25", lambda found: found.health.timeout_ratio),
    "FUNKENSHIELD_METRICS__LISTEN": ("127.0.0.1:9153", lambda found: str(found.metrics.listen)),
    "FUNKENSHIELD_FORWARD__ALLOW__TRANSFERS": (
        " 192.0.2.1, 198.51.100.0/24", lambda found: list(map(str, found.forward.allow.transfers)),
    ),
    "FUNKENSHIELD_FORWARD__RETRY_ON": ("", lambda found: found.forward.retry_on),
    "FUNKENSHIELD_CACHE__SKIP_OPTIONS": ('[65001, "NSID"]', lambda found: found.cache.skip_options),
    "FUNKENSHIELD_UPSTREAMS": (
        '[{ address = "192.0.2.1:853", transport = "tcp" }]', lambda found: [str(each) for each in found.all_upstreams],
    ),
    "FUNKENSHIELD_CONTROL__SOCKET": ("", lambda found: found.control.socket),
    "FUNKENSHIELD_CACHE__SNAPSHOT": ("kept", lambda found: found.cache.snapshot),
}  # fmt: skip
FOUND = [
    ["127.0.0.1:53", "[::1]:53"], 1 << 30, 3600, 3, True, 0.25, "127.0.0.1:9153", ["192.0.2.1/32", "198.51.100.0/24"],
    (), (65001, 3), ["tcp://192.0.2.1:853"], "", f"{Path.cwd()}/kept",
]  # fmt: skip
KUBERNETES = {
    "FUNKENSHIELD_SERVICE_HOST": "10.0.0.1", "FUNKENSHIELD_SERVICE_PORT": "53", "FUNKENSHIELD_SERVICE_PORT_DNS": "53",
    "FUNKENSHIELD_PORT": "udp://10.0.0.1:53", "FUNKENSHIELD_PORT_53_UDP": "udp://10.0.0.1:53",
    "FUNKENSHIELD_PORT_53_UDP_ADDR": "10.0.0.1", "FUNKENSHIELD_METRICS_SERVICE_PORT_HTTP": "9153",
    "FUNKENSHIELD_METRICS_PORT_9153_TCP_PROTO": "tcp",
}  # fmt: skip
EVERY_KEY = dict(environment.keys(Config))


def test_variables_override_the_file_and_flags_override_them(tmp_path):
    file = tmp_path / "f.toml"
    file.write_text('workers = 1\ncache.memory = "8MiB"\nttl.min = 5\n')
    environ = {variable: text for variable, (text, _) in GIVEN.items()}
    found = load(file, {"workers": 2}, environ)
    assert [read(found) for _, read in GIVEN.values()] == [*FOUND[:3], 2, *FOUND[4:]]
    assert found.ttl.min == 5
    assert [found.origin_of(key) for key in ("ttl.min", "workers", "cache.memory", "upstreams[0].address")] == [
        "", "command line", "FUNKENSHIELD_CACHE__MEMORY", "FUNKENSHIELD_UPSTREAMS",
    ]  # fmt: skip


def test_every_key_has_a_variable_of_its_own_and_no_service_of_kubernetes_has_it():
    variables = set(map(environment.variable_of, EVERY_KEY))
    assert len(variables) == len(EVERY_KEY) > 100
    assert {"FUNKENSHIELD_GUARD__RRL__SLIP", "FUNKENSHIELD_ZONES", "FUNKENSHIELD_RULES_FILE"} <= variables
    assert not [each for each in variables if environment.OF_SERVICES.fullmatch(each.removeprefix("FUNKENSHIELD_"))]


def test_what_is_meant_for_others_configures_nothing():
    others = {"FUNKENSHIELD_TEST_CLOCK": "1", "FUNKENSHIELD_BUILD": "debug", "PATH": "/bin"}
    assert load(None, {}, KUBERNETES | others) == load(None)
    assert not config.in_environment(KUBERNETES | others)


@pytest.mark.parametrize(
    ("variable", "text", "line"),
    [
        ("FUNKENSHIELD_CACHE_MEMORY", "1GiB", "no key has this variable; did you mean FUNKENSHIELD_CACHE__MEMORY?"),
        ("FUNKENSHIELD_upstreams", "192.0.2.1:53", "no key has this variable; did you mean FUNKENSHIELD_UPSTREAMS?"),
        ("FUNKENSHIELD_X", "1", "no key has this variable; FUNKENSHIELD_CACHE__MEMORY is memory in [cache]"),
        ("FUNKENSHIELD_ZONES__NAME", "a", "no key has this variable; did you mean FUNKENSHIELD_ZONES?"),
        (
            "FUNKENSHIELD_CACHE__MEMORY", "much",
            'cache.memory: "much" is not a size; write octets, or a string such as "512MiB", "2GB"',
        ),
        ("FUNKENSHIELD_WORKERS", "many", 'workers: "many" is not an integer'),
        ("FUNKENSHIELD_WORKERS", "300", "workers: 300 is too large; at most 255"),
        (
            "FUNKENSHIELD_LISTEN", "127.0.0.1:53,::1",
            'listen[2]: "::1" is not an endpoint; an address needs a port: [::1]:53',
        ),
        ("FUNKENSHIELD_ZONES", '[{ name = "a", tll = 1 }]', 'zones[1].tll (in "a"): no such key; did you mean "ttl"?'),
        ("FUNKENSHIELD_ZONES", "[{ name = a }]", "not TOML: invalid value: [{ name = a }]"),
    ],
)  # fmt: skip
def test_a_mistake_is_said_to_be_in_its_variable(variable, text, line, tmp_path):
    file = tmp_path / "f.toml"
    file.write_text("workers = 1\n")
    for path in None, file:
        with pytest.raises(ConfigError) as error:
            load(path, {}, {variable: text})
        assert str(error.value) == f"{variable}: {line}"


def test_all_mistakes_are_told_each_with_where_it_is(tmp_path):
    file = tmp_path / "f.toml"
    file.write_text('workers = 300\ncache.memory = "much"\n')
    with pytest.raises(ConfigError) as error:
        load(file, {"ttl.max": -1}, {"FUNKENSHIELD_CACHE__MEMORY": "more", "FUNKENSHIELD_TTL__MAX": "2"})
    assert [line.partition(": ")[0] for line in str(error.value).splitlines()] == [
        str(file), "FUNKENSHIELD_CACHE__MEMORY", "command line",
    ]  # fmt: skip


def test_a_table_that_is_none_in_the_file_is_the_files_mistake(tmp_path):
    file = tmp_path / "f.toml"
    file.write_text("cache = 5\n")
    with pytest.raises(ConfigError, match=r"f\.toml: cache: 5 is not a table"):
        load(file, {}, {"FUNKENSHIELD_CACHE__MEMORY": "1GiB"})


def test_commands_go_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "none.toml")
    monkeypatch.setenv("FUNKENSHIELD_CONTROL__SOCKET", f"{tmp_path}/here")
    checked = CliRunner().invoke(cli.main, ["check"])
    assert (checked.exit_code, checked.output) == (0, "environment: ok\n")
    asked = CliRunner().invoke(cli.main, ["stats"])
    assert asked.stderr.startswith(f"funkenshield: {tmp_path}/here: no daemon answers")
    monkeypatch.setenv("FUNKENSHIELD_CONTROL__SOCKET", "")
    asked = CliRunner().invoke(cli.main, ["stats"])
    assert "has no control socket" in asked.stderr
