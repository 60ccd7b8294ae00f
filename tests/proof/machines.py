"""Know how to have nodes, their store and their origin on machines of their own, with wires that can be pulled.

    clients --- one, two, three --- origin     each is a network namespace, and from each node
                      `------------ store      a wire (veth) leads to each of the three places

Everything is made for the test and removed after it. It takes root and iproute2.
"""

import contextlib

import pytest
from support import upgrades
from support.client import Address
from support.network import Network
from support.nodes import uses
from support.rig import PATIENT, toml
from support.store import clustered, redis, run_store
from support.until import until

PLACES = ("clients", "origin", "store")
HEALED = 40  # seconds within which a node uses a store that it can reach again


class Machine:
    """A node's: its network, its wires, and the files that stay when it ends."""

    def __init__(self, name, number, places, store, folder, stack):
        self.name, self.shield = name, None
        self.folder = folder / name
        self.folder.mkdir()
        self._network, self._places, self._stack = stack.enter_context(Network()), places, stack
        self._there = {place: f"10.{at}.{number}.1" for at, place in enumerate(PLACES, 1)}
        self._wires = {
            place: places[place].join(self._network, f"{there}/24", f"{there[:-1]}2/24")
            for place, there in self._there.items()
        }
        self.address = Address(f"{self._there['clients'][:-1]}2", 53)
        self.store = f"redis://{self._there['store']}:{store.port}"

    def start(self, **options):
        """Start its node, and wait until it uses the store; return the shield."""
        section = clustered(self.store, self.folder, self.name, timeout="100ms")
        running = contextlib.ExitStack()
        with self._network.entered():
            upgradable = running.enter_context(
                upgrades.upgradable(
                    [Address(self._there["origin"], 53)], listen=[self.address],
                    toml=toml(forward=PATIENT, cluster=section, **options),
                )
            )  # fmt: skip
        self.shield, self.upgrade = upgradable.shield, upgradable.upgrade
        self._running = self._stack.enter_context(running)
        until(lambda: uses(self.shield), HEALED)
        return self.shield

    def end(self):
        """End its node in order."""
        self._running.close()

    def kill(self):
        """End its node as a failure does."""
        self.shield.process.kill()
        with pytest.raises(AssertionError, match="exit code -9"):
            self._running.close()

    @contextlib.contextmanager
    def running(self, **options):
        """Run its node meanwhile."""
        yield self.start(**options)
        self.end()

    def cut(self, *places):
        """Pull the wires to these places, as they are there: nothing passes, and nobody is told."""
        for place in places:
            self._places[place].run("ip", "link", "set", self._wires[place], "down")

    def heal(self, *places):
        for place in places:
            self._places[place].run("ip", "link", "set", self._wires[place], "up")

    def deaf(self, place):
        """Lose meanwhile what comes from a place, but not what goes there."""
        return self._network.filtered(f"ip saddr {self._there[place]} drop")


@contextlib.contextmanager
def laid_out(origin, *names, folder, program=None):
    """Have a store, an origin that is given, and a machine for each name; yield (store, *machines). We are a client."""
    with contextlib.ExitStack() as stack:
        places = {place: stack.enter_context(Network()) for place in PLACES}
        store = stack.enter_context(run_store(program or redis(), places["store"]))
        with places["origin"].entered():
            stack.enter_context(origin)
        stack.enter_context(places["clients"].entered())
        yield store, *(Machine(*each, places, store, folder, stack) for each in zip(names, range(1, 250), strict=False))
