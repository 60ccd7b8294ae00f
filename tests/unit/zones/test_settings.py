"""Show which zone a name is in, and that each zone has the settings that its section says, and else the top's."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples
from support.quick import answer, name_wire, payload_of, query

from funkenshield import config
from funkenshield.cache._store import Cache
from funkenshield.cache._zone_table import Zones
from funkenshield.config import Endpoint
from funkenshield.core._clock import Clock
from funkenshield.errors import ConfigError
from funkenshield.zones.settings import assign, groups

MEMORY = 1 << 22


def wires(*names):
    return [name_wire(name) for name in names]


# ---------------------------------------------------------------- which zone


def test_the_longest_zone_counts():
    zones = Zones()
    zones.assign(wires("example.com", "b.example.com", "com.example", "test"))
    for name, zone in {
        "example.com": "example.com",
        "www.example.com": "example.com",
        "b.example.com": "b.example.com",
        "a.b.example.com": "b.example.com",
        "ab.example.com": "example.com",
        "com.example": "com.example",
        "a.a.a.a.test": "test",
    }.items():
        assert zones.name(zones.number(name_wire(name))) == name_wire(zone), name
    for name in ("xexample.com", "com", "example", "example.com.net", "."):
        assert zones.number(name_wire(name)) == 0, name
    assert zones.number(b"\x0c\x07example\x03com\0") == 0, "all of it one label"
    assert zones.name(0) == b"\0"


def test_the_root_can_be_a_zone_of_its_own():
    zones = Zones()
    assert zones.assign(wires(".", "test")) == wires(".", "test")
    assert [zones.name(zones.number(name_wire(name))) for name in (".", "com", "a.test")] == wires(".", ".", "test")
    assert 0 not in {zones.number(name_wire(name)) for name in (".", "com", "a.test")}


@pytest.mark.parametrize("name", [b"", bytes(2), b"\1", b"\1a", b"\300\0", b"\300\014", b"\100" + bytes(65)])
def test_what_is_no_name_is_in_no_zone(name):
    zones = Zones()
    zones.assign(wires("test"))
    with pytest.raises(ValueError, match="no name on the wire"):
        zones.number(name)


labels = st.sampled_from(["a", "b", "ab", "x" * 63])
names = st.lists(labels, max_size=3).map(".".join)


@examples(50)
@given(st.lists(st.tuples(st.sets(names, max_size=6), names), max_size=6))
def test_zones_come_and_go_and_those_that_stay_keep_their_numbers(turns):
    zones, numbers = Zones(), {}
    for wanted, asked in turns:
        changed = zones.assign(wires(*wanted))
        assert changed == sorted(wires(*(wanted ^ set(numbers))))
        before, numbers = numbers, {name: zones.number(name_wire(name)) for name in wanted}
        assert len({0, *numbers.values()}) == 1 + len(wanted)
        assert all(numbers[name] == before[name] for name in wanted & set(before))
        assert all(zones.name(number) == name_wire(name) for name, number in numbers.items())
        parts = asked.split(".") if asked else []
        suffixes = [".".join(parts[at:]) for at in range(len(parts) + 1)]
        assert zones.number(name_wire(asked)) == next((numbers[each] for each in suffixes if each in numbers), 0)


def test_there_are_so_many_zones_and_no_more():
    zones, many = Zones(), wires(*(f"n{number}" for number in range(4096)))
    assert len(zones.assign(many[:4095])) == 4095
    assert {zones.number(name) for name in many} == set(range(4096))
    with pytest.raises(ValueError, match="there can be 4095 zones, not 4096"):
        zones.assign(many)
    assert zones.number(many[0]) > 0, "all is as it was"
    assert len(zones.assign([])) == 4095
    assert zones.number(many[0]) == 0


@pytest.mark.parametrize(
    ("zone", "settings", "message"),
    [
        (4096, {}, "numbered below 4096"),
        (0, {"group": 4096}, "numbered below 4096"),
        (0, {"payload": 511}, "512 to 4096 octets, not 511"),
        (0, {"payload": 4097}, "512 to 4096 octets, not 4097"),
    ],
)
def test_settings_have_bounds(zone, settings, message):
    with pytest.raises(ValueError, match=message):
        Zones().configure(zone, **settings)


# ---------------------------------------------------------------- what is configured

FULL = """
upstreams = ["127.0.0.1:53"]
allow_notify_from = ["192.0.2.0/24", "::1"]
rrset_roundrobin = true
udp.max_payload = 1400
cache = { prefetch = false, nxdomain_cut = true }
forward.max_outstanding_per_zone = 50
[ttl]
min = 100
negative_max = 77
serve_original = true
[stale]
mode = "immediate"
max = 1000
ttl = 11
client_timeout = 0.5
recheck = 7.0
[[zones]]
name = "Example.COM"
[[zones]]
name = "a.example.com."
upstreams = ["127.0.0.2:53", "[::1]:54"]
allow_notify_from = []
max_outstanding = 20
aggressive_nsec = true
nxdomain_cut = false
[zones.ttl]
min = 0
failure = 9
[zones.stale]
mode = "off"
recheck = 8.0
"""
AT_THE_TOP = {
    "shortest": 100, "longest": 86400, "negative": 77, "failure": 5, "keep_ttl": True, "payload": 1400,
    "shuffle": True, "prefetch": False, "stale": "immediate", "stale_longest": 1000, "stale_ttl": 11,
    "client_timer": 0.5, "recheck": 7.0, "nxdomain_cut": True, "max_outstanding": 50, "trust_nsec": False, "group": 0,
}  # fmt: skip
DEFAULT = {"default": 0}
OF_ITS_OWN = {
    "shortest": 0,
    "failure": 9,
    "stale": "off",
    "recheck": 8.0,
    "nxdomain_cut": False,
    "max_outstanding": 20,
    "trust_nsec": True,
}


class Recorder:
    """Zones that remember which settings each was given."""

    def __init__(self):
        self.zones, self.settings = Zones(), {}
        self.assign, self.number = self.zones.assign, self.zones.number

    def configure(self, zone, **settings):
        self.zones.configure(zone, **settings)
        self.settings[zone] = settings


@pytest.fixture
def load(tmp_path):
    def load(text):
        (tmp_path / "f.toml").write_text(text)
        return config.load(tmp_path / "f.toml")

    return load


def test_a_zone_has_what_its_section_says_and_else_what_the_top_says(load):
    zones = Recorder()
    made = assign(zones, load(FULL), {"default": 0, "zone a.example.com.": 7})
    outer, inner = (zones.number(name_wire(name)) for name in ("example.com", "a.example.com"))
    assert zones.settings == {
        0: AT_THE_TOP,
        outer: AT_THE_TOP,
        inner: AT_THE_TOP | OF_ITS_OWN | {"group": 7},
    }
    assert [zones.number(name) for name in wires("www.example.com", "a.example.com", "com")] == [outer, inner, 0]
    assert {
        name: (policy, tuple(each.endpoint for each in members))
        for name, (policy, members) in groups(load(FULL)).items()
    } == {
        "default": ("round-robin", (Endpoint("127.0.0.1", 53),)),
        "zone a.example.com.": ("round-robin", (Endpoint("127.0.0.2", 53), Endpoint("::1", 54))),
    }
    assert made.notifiers == {0: (ip_network("192.0.2.0/24"), ip_network("::1")), inner: ()}
    assert made.changed == sorted(wires("example.com", "a.example.com"))


def test_a_zone_without_a_word_is_as_the_top_without_a_word(load):
    zones = Recorder()
    assign(zones, load('[[zones]]\nname = "test"'), DEFAULT)
    assert zones.settings[zones.number(name_wire("test"))] == zones.settings[0]
    assert zones.settings[0]["stale"] == "on-failure"


def test_a_new_configuration_tells_which_zones_changed(load):
    zones = Zones()
    assign(zones, load(FULL), {"default": 0, "zone a.example.com.": 7})
    kept = zones.number(name_wire("a.example.com"))
    made = assign(zones, load('[[zones]]\nname = "a.example.com"\n[[zones]]\nname = "test"'), DEFAULT)
    assert made.changed == sorted(wires("example.com", "test"))
    assert zones.number(name_wire("a.example.com")) == kept != zones.number(name_wire("test"))
    assert assign(zones, load('[[zones]]\nname = "test"\n[[zones]]\nname = "A.example.com."'), DEFAULT).changed == []


def test_answers_are_held_and_served_as_their_zone_says(load):
    clock = Clock()
    cache = Cache(MEMORY, clock)
    assign(cache.zones, load(FULL), {"default": 0, "zone a.example.com.": 7})
    asked = [query(name) for name in ("test", "www.example.com", "a.example.com")]
    for each in asked:
        assert cache.store(each, answer(each, b"text", ttl=50))

    def ttl_of(each):
        hit = cache.lookup(each)
        return hit and int.from_bytes(hit[len(each) + 6 : len(each) + 10])

    for seconds, ttls in ((0, [50] * 3), (49, [50] * 3), (1, [50, 50, None]), (50, [11, 11, None]), (1000, [None] * 3)):
        clock.advance(seconds)
        assert [ttl_of(each) for each in asked] == ttls
    assert cache.store(asked[0], answer(asked[0], b"anew"))
    assert payload_of(asked[0], cache.lookup(asked[0])) == b"anew"


# ---------------------------------------------------------------- mistakes

MISTAKES = {
    '[[zones]]\nname = "a.test"\n[[zones]]\nname = "A.Test."\n[[zones]]\nname = "b.test"': [
        "zones: more than once: a.test."
    ],
    '[[zones]]\nname = "a..test"\n[[zones]]\n[[zones]]\nname = ""\n[[zones]]\nname = 5\n[[zones]]\nname = "@"': [
        "zones[1].name: a..test is not a name: A DNS label is empty.",
        "zones[2].name: this key is missing",
        'zones[3].name: the name is empty; the root is "."',
        'zones[4].name: 5: the name is empty; the root is "."',
        'zones[5].name: "@": the name is empty; the root is "."',
    ],
    'allow_notify_from = ["192.0.2.1/24", 5]\n'
    '[[zones]]\nname = "test"\n[[zones]]\nname = "a"\nallow_notify_from = ["::/129"]': [
        'allow_notify_from[1]: "192.0.2.1/24" is not a prefix: host bits are set; did you mean 192.0.2.0/24?',
        "allow_notify_from[2]: 5 is not a prefix; write ADDR/LENGTH, or ADDR",
        'zones[2].allow_notify_from[1] (in "a"): "::/129" is not a prefix; write ADDR/LENGTH, or ADDR',
    ],
    '[[zones]]\nname = "a"\nupstreams = ["127.0.0.1"]\n'
    'max_outstanding = 0\naggressive_nsec = "on"\nwatch_jitter = 1.0': [
        'zones[1].upstreams[1] (in "a"): "127.0.0.1" is not an endpoint; an address needs a port: 127.0.0.1:53',
        'zones[1].max_outstanding (in "a"): 0 is too small; at least 1',
        'zones[1].watch_jitter (in "a"): 1.0 is too large; at most 0.9',
        'zones[1].aggressive_nsec (in "a"): "on" is neither true nor false (without quotes)',
    ],
    '[[zones]]\nname = "a"\nwatches = true\n[zones.ttl]\nmin = -1\nmost = 2\n[zones.stale]\nmode = "on"\nttl = 0': [
        'zones[1].ttl.min (in "a"): -1 is too small; at least 0 s',
        'zones[1].ttl.most (in "a"): no such key; keys are min, max, negative_max, failure, serve_original',
        'zones[1].stale.mode (in "a"): "on" is not one of "off", "on-failure", "immediate"',
        'zones[1].stale.ttl (in "a"): 0 is too small; at least 1 s',
        'zones[1].watches (in "a"): no such key; did you mean "watch"?',
    ],
    "\n".join(f'[[zones]]\nname = "n{number}"' for number in range(4001)): [
        "zones: 4001 entries are too many; at most 4000"
    ],
}


@pytest.mark.parametrize(("text", "lines"), MISTAKES.items(), ids=range(len(MISTAKES)))
def test_each_mistake_is_told_with_its_table_and_key(text, lines, load, tmp_path):
    with pytest.raises(ConfigError) as told:
        load(text)
    assert str(told.value).splitlines() == [f"{tmp_path / 'f.toml'}: {line}" for line in lines]


def test_as_many_zones_as_may_be_configured_fit(load):
    made = assign(Zones(), load("\n".join(f'[[zones]]\nname = "n{number}"' for number in range(4000))), DEFAULT)
    assert len(made.changed) == 4000
