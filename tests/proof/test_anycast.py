"""Show that `funkenshield announce` and BGP speakers as they are (ExaBGP 4 and 5, BIRD) move clients in time.

Nodes and a router have networks of their own. The router is a BIRD, which has the routes of the nodes in its kernel, so
that clients behind it ask the anycast address of whoever announces it. It takes root, and tools/install-bgp.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import quick
from support.asking import Asking
from support.client import Address, udp_wire
from support.network import Network, as_root
from support.until import until as _until

ROOT = Path(__file__).parents[2]
ANYCAST = Address("192.0.2.53", 53)
RISE, FALL, INTERVAL, TIMEOUT, HOLD, HOLD_MAX = 2, 3, 0.2, 0.3, 1.0, 60.0
LAME_DUCK = 2.0
MX = 15
COMMAND = (sys.executable, "-m", "funkenshield")
pytestmark = [
    pytest.mark.proof,
    pytest.mark.timeout(600),
    as_root,
    pytest.mark.skipif(
        not (shutil.which("bird") and (ROOT / "build/exabgp-5/bin/exabgp").exists()), reason="tools/install-bgp"
    ),
]

SHIELD = f"""
listen = ["0.0.0.0:53"]
upstreams = ["127.0.0.1:8053"]
workers = 1
lame_duck = {LAME_DUCK}
cache.memory = "32MiB"
metrics.listen = "127.0.0.1:9153"
control.socket = "control"

[announce]
addresses = ["{ANYCAST}"]
name = "miek.nl"
type = "MX"
interval = {INTERVAL}
timeout = {TIMEOUT}
rise = {RISE}
fall = {FALL}
hold = {HOLD}
hold_max = {HOLD_MAX}
withdraw_file = "withdraw"
keep_file = "keep"
"""
SOON = "connect delay time 1; connect retry time 1; error wait time 1, 2;"  # of BIRD, which waits for minutes by itself
CONTRIB = ROOT / "contrib" / "anycast"


def shipped(file, own, router, number, folder):
    """Return a configuration of a speaker as it is shipped, for these addresses, and for a shield in this folder."""
    text = (CONTRIB / file).read_text()
    for what, here in {
        "198.51.100.2": own, "198.51.100.1": router, "65001": str(number), "log syslog": "log stderr",
        "run funkenshield": f"run {' '.join(COMMAND)}", "/etc/": f"{folder}/",
        f"neighbor {router} as": f"{SOON} neighbor {router} as",
    }.items():  # fmt: skip
        text = text.replace(what, here)
    return text


ROUTER = """
log stderr all;
router id 192.0.2.254;
protocol device {{}}
protocol kernel {{ ipv4 {{ import none; export all; }}; }}
{peers}
"""
PEER = """
protocol bgp node{number} {{
    local 10.0.{number}.1 as 65000;
    neighbor 10.0.{number}.2 as {as_number};
    {soon}
    ipv4 {{ import filter {{ preference = {preference}; accept; }}; export none; }};
}}
"""


def until(condition, within=30):
    """Wait for what may take a while on a machine with much else to do; what must be in time is asserted besides."""
    return _until(condition, within)


@contextlib.contextmanager
def started(network, *command, log, cwd=None, **environ):
    """Run a command in a network, until the end."""
    with network.entered(), log.open("ab") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=cwd,
            env=os.environ | {"PYTHONPATH": str(ROOT), "FUNKENSHIELD_RELOAD_ON_CHANGE": "false"} | environ,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Node:
    """A network with a nameserver, a shield in front of it, and a BGP speaker that is told by `announce`."""

    def __init__(self, number, folder, stack):
        self.network, self.number, self.folder = stack.enter_context(Network()), number, folder / f"node{number}"
        self.folder.mkdir()
        self.names = {
            "own": f"10.0.{number}.2", "router": f"10.0.{number}.1", "number": 65000 + number, "folder": self.folder,
        }  # fmt: skip
        self._stack = stack
        self.network.run("ip", "address", "add", f"{ANYCAST.host}/32", "dev", "lo")

    def start(self, *command, name, **environ):
        log = self.folder / f"{name}.log"
        return self._stack.enter_context(started(self.network, *command, log=log, cwd=self.folder, **environ))

    def serve(self, announce="", shield=SHIELD):
        (self.folder / "funkenshield.toml").write_text(shield + announce)
        self.start(*COMMAND, "nameserver", "--listen", "127.0.0.1:8053", name="nameserver")
        self.start_shield()

    def start_shield(self):
        self.shield = self.start(*COMMAND, "run", "-c", self.folder / "funkenshield.toml", name="shield")
        return self.shield

    def speak_exabgp(self, major=5, ack=True):
        (self.folder / "exabgp.conf").write_text(shipped("exabgp.conf", **self.names))
        exabgp = ROOT / f"build/exabgp-{major}/bin/exabgp"
        settings = {"api_ack": str(ack).lower(), "api_cli": "false", "daemon_user": "root", "log_level": "INFO"}
        self.speaker = self.start(
            exabgp, *(["server"] if major > 4 else []), "exabgp.conf", name="exabgp",
            **{f"exabgp_{key}": value for key, value in settings.items()},
        )  # fmt: skip
        self.told_in = "exabgp"

    def speak_bird(self):
        (self.folder / "bird.conf").write_text(shipped("bird.conf", **self.names))
        self.speaker = self.start("bird", "-f", "-c", "bird.conf", "-s", "bird.ctl", name="bird")
        self.announcer = self.start(*COMMAND, "announce", "-c", self.folder / "funkenshield.toml", name="announce")
        self.told_in = "announce"

    def log(self, name=None):
        return (self.folder / f"{name or self.told_in}.log").read_text(errors="replace")


class Router:
    """A BIRD that has what the nodes announce; of several, it takes the first node's."""

    def __init__(self, nodes, folder, stack):
        self.network = stack.enter_context(Network())
        self.wires = []
        for node in nodes:
            own, router = (f"{node.names[each]}/24" for each in ("own", "router"))
            self.wires.append(self.network.join(node.network, router, own))
            node.network.run("ip", "route", "add", "default", "via", node.names["router"])
        peers = "".join(
            PEER.format(soon=SOON, number=node.number, as_number=node.names["number"], preference=200 - node.number)
            for node in nodes
        )
        (folder / "router.conf").write_text(ROUTER.format(peers=peers))
        self.control = folder / "router.ctl"
        self.network.run("ip", "address", "add", "198.51.100.1/32", "dev", "lo")
        stack.enter_context(
            started(self.network, "bird", "-f", "-c", folder / "router.conf", "-s", self.control, log=folder / "router")
        )
        until(self.control.exists)

    def routes(self):
        """Return the numbers of the nodes that announce it."""
        shown = subprocess.run(
            ["birdc", "-s", self.control, "show", "route", "for", ANYCAST.host, "all"], capture_output=True, text=True
        )
        return {int(each) for each in re.findall(r"\[node(\d)", shown.stdout)}

    def updates(self, node):
        """Return how often a node has announced and withdrawn it."""
        shown = subprocess.run(
            ["birdc", "-s", self.control, "show", "protocols", "all", f"node{node.number}"],
            capture_output=True, text=True,
        ).stdout  # fmt: skip
        return tuple(int(re.search(rf"Import {kind}: +(\d+)", shown)[1]) for kind in ("updates", "withdraws"))


def clients_behind(router):
    """Return a client that asks the anycast address from behind the router, each question with one try."""

    def ask(number):
        query = quick.query("miek.nl", MX, ident=number & 0xFFFF)
        answer = udp_wire(ANYCAST, query, timeout=2)
        if answer[:2] != query[:2] or answer[3] & 15 or not answer[7]:
            raise OSError(answer.hex())

    return Asking(ask, pause=0.005, inside=router.network.entered)


@pytest.fixture
def stack():
    with contextlib.ExitStack() as stack:
        yield stack


def answers(node):
    with node.network.entered(), contextlib.suppress(OSError):
        return udp_wire(ANYCAST, quick.query("miek.nl", MX, ident=1), timeout=0.5)[7] > 0


@pytest.mark.parametrize("ack", [True, False], ids=["acknowledged", "unacknowledged"])
@pytest.mark.parametrize("major", [4, 5])
def test_exabgp_has_the_route_while_the_shield_answers_and_not_once_it_is_about_to_end(major, ack, stack, tmp_path):
    node = Node(1, tmp_path, stack)
    router = Router([node], tmp_path, stack)
    node.serve('engine = "exabgp"\nroutes = ["192.0.2.53/32"]\nattributes = "med 100 community [65000:53]"\n')
    until(lambda: answers(node))
    node.speak_exabgp(major, ack)
    until(lambda: router.routes() == {1})
    shown = subprocess.run(["birdc", "-s", router.control, "show", "route", "all"], capture_output=True, text=True)
    assert "BGP.med: 100" in shown.stdout
    assert "BGP.community: (65000,53)" in shown.stdout

    # Its own death is nobody's loss: ExaBGP starts it anew, and the route stays.
    before = router.updates(node)
    (child,) = Path(f"/proc/{node.speaker.pid}/task/{node.speaker.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    until(lambda: node.log().count("asking 192.0.2.53:53") == 2)
    until(lambda: node.log().count(" announced") == 2)
    assert router.routes() == {1}
    assert router.updates(node)[1] == before[1]

    node.shield.terminate()
    until(lambda: not router.routes())
    assert answers(node), "it was withdrawn too late"
    assert node.shield.wait(10) == 0
    assert "withdrawn: the shield is about to end" in node.log()
    node.start_shield()
    until(lambda: router.routes() == {1})
    node.speaker.terminate()
    until(lambda: not router.routes())


def test_two_nodes_of_two_speakers_move_clients_without_a_failure_and_the_last_one_stays(stack, tmp_path):
    first, second = Node(1, tmp_path, stack), Node(2, tmp_path, stack)
    router = Router([first, second], tmp_path, stack)
    for node, speaker, other in (
        (first, 'engine = "exabgp"\nroutes = ["192.0.2.53/32"]\n', second),
        (second, 'engine = "bird"\nprotocols = ["anycast4"]\nbird_socket = "bird.ctl"\n', first),
    ):
        node.serve(speaker + f'peers = ["{other.names["own"]}:53"]\n')
        until(lambda node=node: answers(node))
    router.network.run("sysctl", "-qw", "net.ipv4.ip_forward=1")  # nodes ask each other through it
    for which in "all", "default", *router.wires:  # an answer may come from where the route led a moment before
        router.network.run("sysctl", "-qw", f"net.ipv4.conf.{which}.rp_filter=0")
    first.speak_exabgp()
    second.speak_bird()
    until(lambda: router.routes() == {1, 2})
    table = []

    @contextlib.contextmanager
    def happening(what, *, may_fail=0):
        """Watch clients meanwhile, and write down what it cost them."""
        with clients_behind(router) as clients:
            time.sleep(0.3)
            yield
            time.sleep(0.3)
        table.append(f"{what:<60}{clients.asked:>7} asked{len(clients.failed):>5} failed")
        assert len(clients.failed) <= may_fail, (what, clients.failed, router.routes())

    with happening("the shield ends in order: its neighbour has its clients"):
        first.shield.terminate()
        until(lambda: router.routes() == {2})
        assert answers(first), "it was withdrawn too late"
        first.shield.wait(10)
    with happening("it is back"):
        first.start_shield()
        until(lambda: router.routes() == {1, 2})

    before = router.updates(first)
    with happening("an upgrade in place: the route stays, sockets are handed over"):
        with first.network.entered():
            done = subprocess.run(
                [*COMMAND, "upgrade", "--control", "control"],
                cwd=first.folder, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        assert done.returncode == 0, done.stderr
        time.sleep(2)
    successor = int(re.search(r"process (\d+) serves", done.stdout)[1])
    stack.callback(os.kill, successor, signal.SIGTERM)
    assert router.updates(first) == before

    with happening("an operator takes the node out, and in again"):
        (first.folder / "withdraw").touch()
        until(lambda: router.routes() == {2})
        (first.folder / "withdraw").unlink()
        until(lambda: router.routes() == {1, 2})

    holds = []
    for turn in range(2):
        with happening(
            f"the shield hangs, and comes back: time {turn + 1}", may_fail=int(2 * FALL * (INTERVAL + TIMEOUT) + 2)
        ):
            os.kill(successor, signal.SIGSTOP)
            until(lambda: router.routes() == {2})
            os.kill(successor, signal.SIGCONT)
            began = time.monotonic()
            until(lambda: router.routes() == {1, 2})
            holds.append(time.monotonic() - began)
    assert holds[1] > 1.6 * holds[0] > 1.6 * HOLD, "each time it is withdrawn, it has to wait for longer"

    with happening("the neighbour ends in order"):
        second.shield.terminate()
        until(lambda: router.routes() == {1})
        second.shield.wait(10)
    with clients_behind(router):
        os.kill(successor, signal.SIGSTOP)
        time.sleep(3 * FALL * (INTERVAL + TIMEOUT))
        assert router.routes() == {1}, "of the last one, the route stays"
        assert "not withdrawn, for this is the last node" in first.log()
        os.kill(successor, signal.SIGCONT)
        until(lambda: answers(first))
    with happening("alone, it answers"):
        time.sleep(0.5)

    second.start_shield()
    until(lambda: router.routes() == {1, 2})
    with happening("BIRD forgets what it was told, and is told again"):
        subprocess.run(
            ["birdc", "-s", second.folder / "bird.ctl", "disable", "anycast4"], check=True, capture_output=True
        )
        until(lambda: router.routes() == {1})
        until(lambda: router.routes() == {1, 2})
    second.announcer.terminate()
    until(lambda: router.routes() == {1})
    assert second.announcer.wait(10) == 0
    print("\n".join(table))
