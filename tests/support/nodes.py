"""Know how to run nodes that share a store, before one upstream that counts what it is asked."""

import contextlib
import tempfile

from click.testing import CliRunner
from dns.rdatatype import SOA

from funkenshield import cli
from support.client import address_of
from support.control import advance, stats
from support.process import run_shield
from support.rig import PATIENT, numbered, toml
from support.store import clustered
from support.until import until
from support.upstream import Delayed, ScriptedUpstream, answer

ZONES = [
    {"name": "zone.test", "watch": True},
    {"name": "beside.test", "shared_cache": "beside"},
    {"name": "own.test", "shared_cache": "off"},
]
RULES = [
    {"chain": "responses", "match": {"suffix": "limited.test"}, "action": {"ttl": {"max": 60}}},
    {"chain": "responses", "match": {"suffix": "again.test"}, "action": {"forward": "again"}},
]
FIRST, SECOND = "192.0.2.1", "192.0.2.2"


class Upstream(ScriptedUpstream):
    """A nameserver that answers everything with 192.0.2.`number`, from zones with a serial."""

    number = serial = 1
    delay = 0.0  # seconds

    def __init__(self, *where):
        super().__init__(self._answer, *where)

    def _answer(self, query):
        if query.rdtype == SOA:
            return answer(query, f"SOA ns.invalid. hostmaster.invalid. {self.serial} 3600 600 86400 300")
        reply = numbered(self.number)(query)
        return Delayed(self.delay, reply) if self.delay else reply

    def asked(self, name):
        """Return how often it was asked for the addresses of a name."""
        return sum(each.rdtype != SOA and str(each.name).rstrip(".") == name for each in self.received)


@contextlib.contextmanager
def running(store, *nodes, **options):
    """Run nodes with one store before one upstream; yield it, and them, once they use the store."""
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(Upstream())
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        origin, place = str(address_of(upstream)), f"redis://127.0.0.1:{store.port}"
        shields = [
            stack.enter_context(
                run_shield(
                    [],
                    toml=toml(
                        upstreams=[origin, {"address": origin, "source": "127.0.0.2", "groups": ["again"]}],
                        forward=PATIENT, cluster=clustered(place, folder, node, **options),
                        allow_notify_from=["127.0.0.1"], zones=ZONES, rules=RULES,
                    ),
                )
            )
            for node in nodes
        ]  # fmt: skip
        for each in shields:
            until(lambda each=each: uses(each))
            advance(each, 10)  # what was written when the stream began may be from before a purge, by another clock
        yield upstream, *shields


def uses(shield):
    return stats(shield)["cluster_in_use"]


def purge(shield, *args):
    return CliRunner().invoke(cli.main, ["purge", "--everywhere", *args, "--control", str(shield.control)])


def block(shield, *args):
    return CliRunner().invoke(cli.main, ["block", *args, "--control", str(shield.control)])
