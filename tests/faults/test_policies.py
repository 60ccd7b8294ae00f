"""Know which upstream is asked, and how often: groups, zones, and every policy.

Each answers with a number of its own, so that the clients' answers tell who was asked; the upstreams tell how often.
"""

import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from support import quick
from support.control import stats
from support.pipeline import ask_all
from support.rig import (
    NOERROR,
    PATIENT,
    SERVFAIL,
    SOON,
    after,
    answerers,
    ask_each,
    behind,
    counters,
    names,
    numbered,
    placed,
    rcodes,
    received,
    silent,
    toml,
)
from support.until import until
from support.upstream import ScriptedUpstream

NEVER_ILL = {"check": "off", "fall": 100, "min_samples": 100000}
POLICIES = ["round-robin", "order", "least-outstanding", "random", "latency", "hash"]


def three(*options, ttl=300):
    """Return three upstreams that tell who they are, each with its options."""
    filled = [*options, *[{}] * (3 - len(options))]
    return [placed(numbered(number, ttl), **one) for number, one in enumerate(filled, 1)]


def below(zone, count):
    return [name.replace("test.", f"{zone}.") for name in names(count)]


def policy(name, **more):
    return {**PATIENT, "policy": name, **more}


def reconfigure(shield, upstreams, **options):
    """Change the shield's configuration while it runs, all but where it listens."""
    tables = [{"address": str(upstream.address), "order": n, **each} for n, (upstream, each) in enumerate(upstreams, 1)]
    before = stats(shield)["reloads"]
    listen = [str(address) for address in shield.addresses]
    text = toml(listen=listen, workers=1, upstreams=tables, **options)
    (shield.folder / "funkenshield.toml").write_text(text)
    shield.process.send_signal(signal.SIGHUP)
    until(lambda: stats(shield)["reloads"] == before + 1)


# ------------------------------------------------------------ every policy


def by_every_policy(*upstreams, **options):
    """Run a shield in which a zone for each policy asks these upstreams."""
    everywhere = [placed(each.server, **each.options, groups=["default", *POLICIES]) for each in upstreams]
    groups = [{"name": name, "policy": name} for name in POLICIES]
    zones = [{"name": f"{name}.test", "group": name} for name in POLICIES]
    return behind(*everywhere, groups=groups, zones=zones, **options)


def test_by_every_policy_each_name_is_asked_once():
    with by_every_policy(*three()) as (shield, *upstreams):
        for policy in POLICIES:
            asked = below(f"{policy}.test", 100)
            for _ in "cold", "warm":
                assert rcodes(ask_each(shield, asked)) == {NOERROR: 100}
            assert [sum(upstream.count(name) for upstream in upstreams) for name in asked] == [1] * 100


def test_by_every_policy_a_silent_upstream_is_stood_in_for():
    with by_every_policy(placed(silent), *three()[1:], forward=SOON, health=NEVER_ILL) as (shield, mute, *well):
        for policy in POLICIES:
            asked = below(f"{policy}.test", 32)
            assert rcodes(ask_each(shield, asked)) == {NOERROR: 32}
            assert [sum(upstream.count(name) for upstream in well) for name in asked] == [1] * 32
            assert any(mute.count(name) for name in asked)


def test_by_every_policy_who_is_forced_out_is_never_asked():
    forward = {"timeout": 0.5, "deadline": 1.5}
    with by_every_policy(*three({"state": "down"}), forward=forward, health=NEVER_ILL) as (shield, out, *well):
        for policy in POLICIES:
            assert rcodes(ask_each(shield, below(f"{policy}.test", 60))) == {NOERROR: 60}
        for upstream in well:
            upstream.handle = silent
        asked = [name for policy in POLICIES for name in below(f"{policy}.test", 3)]
        assert rcodes(ask_each(shield, asked)) == {SERVFAIL: 3 * len(POLICIES)}
        assert out.received == []


def test_by_every_policy_who_is_full_is_passed_over():
    """The first may have one outstanding query, and takes its time: whoever finds it busy goes elsewhere at once."""
    full = placed(after(0.1, numbered(1)), max_outstanding=1, weight=1000)
    with by_every_policy(full, *three()[1:]) as (shield, slow, *_):
        for policy in POLICIES:
            asked = below(f"{policy}.test", 100)
            assert rcodes(ask_each(shield, asked)) == {NOERROR: 100}
            assert sum(slow.count(name) for name in asked) < 20
        assert counters(shield, slow)["timeouts"] == 0


# ------------------------------------------------------------ each policy


def test_each_in_turn():
    with behind(*three(), forward=policy("round-robin")) as (shield, *_):
        found = answerers(ask_each(shield, names(210)))
        assert found == {1: 70, 2: 70, 3: 70}


def test_the_lowest_order_is_asked_and_the_next_only_when_it_fails():
    with behind(*three({"order": 7}, {"order": 2}, {"order": 5}), forward=policy("order", **SOON)) as (
        shield,
        *upstreams,
    ):
        assert answerers(ask_each(shield, names(200))) == {2: 200}
        upstreams[1].handle = silent
        assert answerers(ask_each(shield, names(100))) == {3: 100}
        upstreams[2].handle = silent
        assert answerers(ask_each(shield, names(100))) == {1: 100}


def test_those_of_one_order_have_their_turns():
    with behind(*three({"order": 1}, {"order": 1}, {"order": 2}), forward=policy("order")) as (shield, *_):
        assert answerers(ask_each(shield, names(100))) == {1: 50, 2: 50}


def test_at_random_by_weight():
    with behind(*three({"weight": 3}, {"weight": 1}, {"weight": 4}), forward=policy("random")) as (shield, *_):
        found = answerers(ask_each(shield, names(800)))
        assert 230 < found[1] < 370  # 300, and five deviations
        assert 50 < found[2] < 150
        assert 330 < found[3] < 470


def test_a_slow_one_has_as_many_outstanding_and_so_gets_fewer():
    slow = placed(after(0.1, numbered(1)))
    others = [placed(after(0.02, numbered(number))) for number in (2, 3)]  # so that a busy machine matters less
    with behind(slow, *others, forward=policy("least-outstanding")) as (shield, *_):
        found = answerers(ask_each(shield, names(400)))
        assert found.total() == 400
        assert found[1] < 100
        assert min(found[2], found[3]) > 100


def test_who_weighs_three_times_as_much_has_three_times_as_many_outstanding():
    both = [placed(after(0.05, numbered(n)), weight=weight) for n, weight in ((1, 3), (2, 1))]
    with behind(*both, forward=policy("least-outstanding")) as (shield, *_):
        found = answerers(ask_each(shield, names(400)))
        assert 2.0 < found[1] / found[2] < 4.5


def test_the_fastest_gets_most():
    slow = [placed(after(seconds, numbered(n))) for n, seconds in ((1, 0.06), (2, 0.12))]
    with behind(*slow, placed(numbered(3)), forward=policy("latency")) as (shield, *_):
        ask_each(shield, names(60))  # all are known
        replies = [ask_each(shield, [name])[0] for name in names(100)]
        found = answerers(replies)
        assert found[3] > 55  # of two that are drawn, it is one in 67 of 100 cases
        assert found[3] > found[1] > found[2]


def test_who_becomes_slow_gets_less_and_who_becomes_fast_again_gets_it_back():
    pair = placed(numbered(1, ttl=0)), placed(after(0.03, numbered(2, ttl=0)))
    with behind(*pair, forward=policy("latency")) as (shield, *both):
        ask_each(shield, names(60))
        assert answerers(ask_each(shield, [name])[0] for name in names(30))[1] > 25
        both[0].handle = after(0.2, numbered(1))
        ask_each(shield, names(60))
        assert answerers(ask_each(shield, [name])[0] for name in names(30))[2] > 20
        both[0].handle = numbered(1)
        until(lambda: answerers(ask_each(shield, names(20)))[1] > 10, within=20)


def belongs(shield, asked):
    """Return who answers for each name; one query at a time, so that nobody has too much to do."""
    return {name: ask_each(shield, [name])[0][-1] for name in asked}


def test_a_name_always_goes_to_the_same_and_they_share_the_names():
    with behind(*three(ttl=0), forward=policy("hash")) as (shield, *upstreams):
        asked = names(200)
        first = belongs(shield, asked)
        assert belongs(shield, [name.upper() for name in asked]) == {name.upper(): n for name, n in first.items()}
        assert all(30 < count < 110 for count in Counter(first.values()).values())
        assert len(set(first.values())) == 3
        for number, upstream in enumerate(upstreams, 1):
            assert received(upstream) == {name: 2 for name in asked if first[name] == number}


def test_a_name_goes_to_the_same_after_a_restart():
    upstreams = three(ttl=0)
    with behind(*upstreams, forward=policy("hash")) as (shield, *running):
        asked = names(60)
        first = belongs(shield, asked)
        with behind(*running, forward=policy("hash")) as (another, *_):
            assert belongs(another, asked) == first


def test_when_one_leaves_only_its_names_move():
    with behind(*three(ttl=0), forward=policy("hash")) as (shield, *upstreams):
        asked = names(150)
        before = belongs(shield, asked)
        reconfigure(shield, [(one, {}) for one in upstreams[1:]], forward=policy("hash"))
        left = belongs(shield, asked)
        assert [name for name in asked if before[name] != 1 and left[name] != before[name]] == []
        assert set(left.values()) == {2, 3}
        reconfigure(shield, [(one, {}) for one in upstreams], forward=policy("hash"))
        assert belongs(shield, asked) == before


def test_when_one_is_ill_its_names_are_shared_and_no_others_move():
    patient, hasty = ({**policy("hash"), "retry_after": each, "timeout": 5.0, "deadline": 15.0} for each in (5.0, 0.05))
    with behind(*three(ttl=0), forward=patient) as (shield, *upstreams):
        asked, all_of_them = names(90), [(one, {}) for one in upstreams]
        before = belongs(shield, asked)
        upstreams[0].handle = silent
        reconfigure(shield, all_of_them, forward=hasty)
        assert rcodes(ask_each(shield, asked)) == {NOERROR: 90}
        reconfigure(shield, all_of_them, forward=patient)  # a busy machine is not taken for one that is ill
        left = belongs(shield, asked)
        assert {name: n for name, n in left.items() if before[name] != 1} == {
            name: n for name, n in before.items() if n != 1
        }
        assert {n for name, n in left.items() if before[name] == 1} == {2, 3}


def test_one_name_that_is_asked_for_much_does_not_drown_its_upstream():
    """With 32 queries at once for types of one name, whoever has more than his share lets others help."""
    upstreams = [placed(after(0.05, numbered(n))) for n in (1, 2, 3)]
    with behind(*upstreams, forward=policy("hash")) as (shield, *_):
        (name,) = names(1)
        found = answerers(ask_all(shield, [quick.query(name, rdtype) for rdtype in range(1000, 1300)]))
        assert found.total() == 300
        assert max(found.values()) < 180


# ------------------------------------------------------------ groups

GROUPS = [{"name": "inner", "policy": "order"}, {"name": "spare", "policy": "round-robin"}]
ZONES = [{"name": "inner.test", "group": "inner"}, {"name": "deep.inner.test", "group": "spare"}]


def test_each_zone_asks_its_group_and_all_else_the_default():
    upstreams = [
        placed(numbered(1)),
        placed(numbered(2), groups=["inner"], order=1),
        placed(numbered(3), groups=["inner"], order=2),
        placed(numbered(4), groups=["spare"]),
        placed(numbered(5), groups=["spare", "default"]),
    ]
    with behind(*upstreams, groups=GROUPS, zones=ZONES) as (shield, *_):
        assert answerers(ask_each(shield, below("inner.test", 60))) == {2: 60}
        assert answerers(ask_each(shield, below("deep.inner.test", 60))) == {4: 30, 5: 30}
        assert answerers(ask_each(shield, names(60))) == {1: 30, 5: 30}
        assert answerers(ask_each(shield, below("notinner.test", 60))) == {1: 30, 5: 30}


def test_a_group_that_is_silent_is_not_stood_in_for_by_another():
    upstreams = placed(numbered(1)), placed(silent, groups=["inner"])
    limits = {"timeout": 1.0, "deadline": 3.0}
    with behind(*upstreams, groups=GROUPS[:1], zones=ZONES[:1], forward=limits) as (shield, default, inner):
        assert rcodes(ask_each(shield, below("inner.test", 3))) == {SERVFAIL: 3}
        assert answerers(ask_each(shield, names(30))) == {1: 30}
        assert (len(default.received), len(inner.received)) == (30, 9)


def test_an_upstream_in_two_groups_has_one_health():
    upstreams = placed(silent, groups=["default", "inner"]), placed(numbered(2), groups=["default", "inner"])
    options = {"groups": GROUPS[:1], "zones": ZONES[:1], "health": {"check": "off"}}
    with behind(*upstreams, forward=SOON, **options) as (shield, mute, _):
        for name in names(8):  # one after another: those that are unanswered together count as one
            assert answerers(ask_each(shield, [name])) == {2: 1}
        before = len(mute.received)
        assert answerers(ask_each(shield, below("inner.test", 60))) == {2: 60}
        assert len(mute.received) - before <= 3


def test_a_zone_may_name_its_nameservers_alone():
    with ScriptedUpstream(numbered(2)) as two, ScriptedUpstream(numbered(3)) as other:
        zones = [{"name": "own.test", "upstreams": [str(two.address), str(other.address)]}]
        with behind(numbered(1), zones=zones) as (shield, one):
            assert answerers(ask_each(shield, below("own.test", 60))) == {2: 30, 3: 30}
            assert answerers(ask_each(shield, names(20))) == {1: 20}
            assert (len(one.received), len(two.received), len(other.received)) == (20, 30, 30)


def test_who_waits_while_the_upstreams_change_gets_his_answer():
    patient = policy("order")
    with (
        behind(placed(after(0.5, numbered(1))), forward=patient) as (shield, slow),
        ScriptedUpstream(numbered(2)) as other,
    ):
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(ask_each, shield, names(20))
            slow.wait_for(20)
            reconfigure(shield, [(slow, {"order": 9}), (other, {})], forward=patient)
            assert answerers(ask_each(shield, names(20))) == {2: 20}
        assert answerers(waiting.result()) == {1: 20}
        assert len(slow.received) == 20


# ------------------------------------------------------------ forced


def test_who_is_forced_up_is_asked_however_ill():
    forced = placed(silent, state="up")
    with behind(forced, placed(numbered(2)), forward=SOON) as (shield, mute, _):
        asked = names(60)
        assert answerers(ask_each(shield, asked)) == {2: 60}
        assert len(mute.received) == 30
        assert counters(shield, mute)["state"].startswith("up")


def test_forced_down_and_let_be_again_while_it_runs():
    with behind(*three(ttl=0)[:2]) as (shield, *both):
        asked = names(40)
        assert answerers(ask_each(shield, asked)) == {1: 20, 2: 20}
        reconfigure(shield, [(both[0], {"state": "down"}), (both[1], {})], forward=PATIENT)
        assert answerers(ask_each(shield, asked)) == {2: 40}
        reconfigure(shield, [(one, {}) for one in both], forward=PATIENT)
        assert answerers(ask_each(shield, asked))[1] > 0


def test_when_all_are_forced_down_clients_are_told_at_once():
    with behind(*[placed(numbered(1), state="down")] * 2) as (shield, *both):
        assert rcodes(ask_each(shield, names(10), tcp=False)) in ({SERVFAIL: 10}, {5: 10})
        assert [one.received for one in both] == [[], []]
