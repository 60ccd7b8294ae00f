"""Show that whatever becomes of a node, of the store, or of the wires between them, no client notices: a table.

Three nodes, their store, the origin and the clients are on machines of their own. Each node has a client that asks all
the time, as a stub resolver does: a question that its node does not answer well, another node gets. Half of the
questions are for names that nobody has asked for. An answer tells for which name it is, and which version of the zone;
each purge is of another version. It is wrong if it is for another name, and old if its node had purged the version
before the question was sent.
"""

import contextlib
import itertools
import json
import os
import time

import pytest
from support import quick
from support.asking import Asking
from support.client import udp_wire
from support.control import stats
from support.network import as_root
from support.nodes import purge, uses
from support.store import redis, valkey
from support.until import until
from support.upstream import ScriptedUpstream
from support.wires import record_wire, reply_wire

from funkenshield.cluster.shared_cache import SKEW
from proof.machines import HEALED, laid_out

pytestmark = [pytest.mark.proof, pytest.mark.timeout(600), as_root]
STREAM, NODES = "funkenshield:purges", "funkenshield:nodes"
KEPT, SIZE = 20, 32  # names that are asked for again and again; octets of an answer
NEW, LATER = 100, 0.5  # new names in a second, and the seconds after which each client asks what the one before did
PATIENCE = 1.0  # seconds after which a client asks another node
TITLES = ("", "s", "asked", "by others", "failed", "wrong", "old", "99 %, ms", "origin", "purged meanwhile, and")
LINE = "{:<42}{:>4}{:>8}{:>11}{:>8}{:>7}{:>5}{:>10}{:>8}  {}"


class Origin(ScriptedUpstream):
    """A nameserver with one version of its zone after the other."""

    version = 1

    def __init__(self):
        super().__init__(self._answer, "0.0.0.0", 53)

    def _answer(self, query):
        payload = quick.sealed(query.name.to_text().lower(), self.version, SIZE)
        return reply_wire(query, record_wire(quick.TXT, bytes([len(payload)]) + payload, 300))


class Client:
    """Who asks one node, and others where that does not answer."""

    def __init__(self, origin, behind, *machines):
        self._origin, self._behind, self._machines = origin, behind, machines
        self.others, self.wrong, self.old, self.took = 0, [], [], []

    def ask(self, number):
        """Ask a question; OSError where nobody answers it."""
        began = time.monotonic()
        new = int((began - self._behind) * NEW)
        name = f"kept{number // 2 % KEPT}.zone.test." if number % 2 else f"new{new}.zone.test."
        query = quick.query(name, ident=number & 0xFFFF)
        for machine in self._machines:
            purged = machine.purged
            with contextlib.suppress(OSError):
                reply = udp_wire(machine.address, query, PATIENCE)
                if not reply[3] & 15:
                    break
        else:
            raise OSError(f"nobody answers {name}")
        self.took.append(time.monotonic() - began)
        self.others += machine is not self._machines[0]
        self._judge(machine.name, name, purged, quick.payload_of(query, reply))

    def _judge(self, node, name, purged, payload):
        version = int.from_bytes(payload[:4])
        if payload != quick.sealed(name, version, SIZE) or version > self._origin.version:
            self.wrong.append((node, name, payload))
        elif version < purged:
            self.old.append((node, name, version, purged))


class Story:
    """What happens, and the table of it."""

    def __init__(self, store, origin, machines):
        self.store, self.origin, self.machines = store, origin, machines
        self.clients = [
            Client(origin, LATER * number, each, *(other for other in machines if other is not each))
            for number, each in enumerate(machines)
        ]
        self.asking = [Asking(each.ask, pause=0.005) for each in self.clients]
        self.table = [LINE.format(*TITLES)]

    def _counts(self):
        clients, asking = self.clients, self.asking
        return [
            sum(each.asked for each in asking), sum(each.others for each in clients),
            *(sum(map(len, each)) for each in (
                [one.failed for one in asking], [one.wrong for one in clients], [one.old for one in clients],
            )),
        ]  # fmt: skip

    @contextlib.contextmanager
    def happening(self, what):
        """Watch clients while something happens, and until all nodes are as before; write down what it was to them."""
        before, began, received = self._counts(), time.monotonic(), len(self.origin.received)
        for each in self.clients:
            each.took.clear()
        purged = []
        yield purged
        healed = time.monotonic()
        for each in self.machines:
            until(lambda each=each: self._version_at(each) == self.origin.version and uses(each.shield), HEALED)
            each.purged = self.origin.version
        purged.append(f"everywhere {time.monotonic() - healed:.1f} s after the end")
        took = sorted(seconds for each in self.clients for seconds in each.took)
        counted = [after - was for was, after in zip(before, self._counts(), strict=True)]
        slow, origin = f"{took[len(took) * 99 // 100] * 1000:.1f}", len(self.origin.received) - received
        self.table.append(LINE.format(what, round(time.monotonic() - began), *counted, slow, origin, ", ".join(purged)))

    def counted(self, name):
        """Return what all nodes have counted."""
        return sum(stats(each.shield)[name] for each in self.machines)

    def _version_at(self, machine):
        query = quick.query("kept0.zone.test.")
        return int.from_bytes(quick.payload_of(query, udp_wire(machine.address, query, PATIENCE))[:4])

    def purge(self, machine, wait="1s"):
        """Have a new version, and a node purge it everywhere; return at which nodes that is done."""
        self.origin.version += 1
        done = purge(machine.shield, "--zone", "zone.test", "--wait", wait, "--json")
        nodes = json.loads(done.stdout)["nodes"] if done.stdout else [machine.name]
        assert done.stdout or "other nodes will be told when the store is reached again" in done.stderr
        for each in self.machines:
            each.purged = self.origin.version if each.name in nodes else each.purged
        return f"at {', '.join(nodes)}"


def spoil(store):
    """Fill a store with what is not what nodes have put there."""
    values = [each for each in store.entries().items() if each[1]]
    for number, ((name, value), (_, another)) in enumerate(itertools.pairwise(values)):
        store("SET", name, (another, os.urandom(len(value)), value[:-1], b"")[number % 4])
    store("XADD", STREAM, "*", "m", os.urandom(100))
    store("HSET", NODES, "two", os.urandom(100), os.urandom(8), os.urandom(100))


@pytest.fixture(params=[pytest.param(redis, id="redis"), pytest.param(valkey, id="valkey")])
def story(request, tmp_path):
    if not request.param():
        pytest.skip("no such store is installed")
    origin = Origin()
    with laid_out(origin, "one", "two", "three", folder=tmp_path, program=request.param()) as (store, *machines):
        for each in machines:
            each.start()
            each.purged = 1
        time.sleep(SKEW + 1)  # what was written when the stream began may be from before a purge, by another clock
        story = Story(store, origin, machines)
        with contextlib.ExitStack() as asking:
            for each in story.asking:
                asking.enter_context(each)
            time.sleep(0.5)
            yield story
        print("\n".join(story.table))
        for client, asked in zip(story.clients, story.asking, strict=True):
            assert (asked.failed, client.wrong, client.old) == ([], [], [])


def test_no_client_fails_or_hears_anything_wrong_or_old_whatever_breaks(story):
    store, (one, two, three) = story.store, story.machines
    with story.happening("nothing") as purged:
        time.sleep(3)
        purged.append(story.purge(one, "10s"))
        assert purged == ["at one, three, two"]
    with story.happening("a node is killed, and started again") as purged:
        two.kill()
        time.sleep(2)
        purged.append(story.purge(one))
        assert purged == ["at one, three"]
        two.purged = story.origin.version  # it has nothing that is older, and is to take nothing that is
        two.start()
    with story.happening("a node is parted from the store") as purged:
        three.cut("store")
        time.sleep(1)
        purged.append(story.purge(one))
        assert purged == ["at one, two"]
        purged.append(story.purge(three))
        assert purged[1:] == ["at three"]
        time.sleep(3)
        three.heal("store")
    with story.happening("a node hears nothing of the store") as purged, one.deaf("store"):
        time.sleep(1)
        purged.append(story.purge(two))
        assert purged == ["at three, two"]
        time.sleep(3)
    with story.happening("a node is parted from all others") as purged:
        two.cut("clients", "origin", "store")
        time.sleep(1)
        purged.append(story.purge(one))
        assert purged == ["at one, three"]
        time.sleep(3)
        two.heal("clients", "origin", "store")
    with story.happening("the store is killed, and started again") as purged:
        store.stop()
        time.sleep(2)
        purged.append(story.purge(one))
        assert purged == ["at one"]
        store.start()
    with story.happening("the store stands still (SIGSTOP)") as purged, store.paused():
        time.sleep(2)
        purged.append(story.purge(one))
        assert purged == ["at one"]
    rejected = story.counted("shared_cache_rejected")
    with story.happening("the store is full of garbage") as purged:
        for turn in range(20):
            spoil(store)
            time.sleep(0.1)
            if turn == 10:
                purged.append(story.purge(one, "10s"))
        assert purged == ["at one, three, two"]
    assert story.counted("shared_cache_rejected") > rejected + 100
    with story.happening("something else lies where nodes look") as purged:
        store("EVAL", "redis.call('DEL', KEYS[1]); redis.call('SET', KEYS[1], 'x')", 1, STREAM)
        time.sleep(2)
        purged.append(story.purge(one))
        assert purged == ["at one"]
        store("DEL", STREAM)
    with story.happening("the store is emptied (FLUSHALL)") as purged:
        store("FLUSHALL")
        purged.append(story.purge(one, "10s"))
        assert purged == ["at one, three, two"]
    with store.replica() as replica:
        with story.happening("the store is killed, a replica takes over") as purged:
            store.stop()
            time.sleep(2)
            purged.append(story.purge(one))
            assert purged == ["at one"]
            replica.take_over(store)
        with story.happening("nothing") as purged:
            time.sleep(1)
            purged.append(story.purge(two, "10s"))
            assert purged == ["at one, three, two"]
    assert story.counted("cluster_cache_emptied") == 0
