"""Know what a blind forger gets who sends 50,000 answers a second: nothing, and how long it would take.

The shield is as it is by default. The forger knows which name is asked for, makes it be asked for in as many ways as a
client can, and is told nothing else.
"""

import os
import socket
from struct import pack

import pytest
from attacks.forging import RATE, Impersonated, days_until_right
from support import quick
from support.control import stats_of
from support.edns import option, subnet, with_opt
from support.process import run_shield
from support.upstream import Delayed
from support.wires import record_wire, reply_wire

SECONDS = int(os.environ.get("FORGING_SECONDS", "25"))
pytestmark = [pytest.mark.proof, pytest.mark.timeout(1.5 * SECONDS + 60)]
SOCKETS, ALIKE, THRESHOLD, SUSPICION = 16, 4, 3, 300  # seconds on average
NAME = "bank.example"
LIE, TRUTH = bytes([192, 0, 2, 66]), bytes([192, 0, 2, 1])
PLAIN = quick.query(NAME, quick.A)


def after(seconds):
    """Return a script that says the truth after some seconds, over TCP at once; None: over TCP alone."""

    def script(query):
        reply = reply_wire(query, record_wire(quick.A, TRUTH, 0))
        if query.transport == "tcp":
            return reply
        return None if seconds is None else Delayed(seconds, reply)

    return script


def subnets(n):
    return with_opt(PLAIN, subnet(f"{16 + n // 65536 % 64}.{n // 256 % 256}.{n % 256}.0", 24))


def flags(n):
    plain = quick.query(NAME, quick.A, flags=(n & 1) << 8 | (n >> 1 & 3) << 4)
    return plain if n & 8 else with_opt(plain)[:-6] + pack("!HHH", 0, (n >> 4 & 3) << 14, 0)


def options(n):
    return with_opt(PLAIN, option(12, bytes(n % 64)), option(5, bytes([n % 256])))


def classes(n):
    return PLAIN[:-2] + pack("!H", 1 if n % 2 else n % 4096 + 5)


def alone(n):
    return PLAIN


ATTACKS = {
    "silent": (None, alone, False),
    "50 ms": (0.05, alone, False),
    "300 ms": (0.3, alone, False),
    "300 ms, random case": (0.3, alone, True),
    "silent, subnets": (None, subnets, False),
    "50 ms, subnets": (0.05, subnets, False),
    "300 ms, subnets": (0.3, subnets, False),
    "300 ms, subnets, random case": (0.3, subnets, True),
    "silent, flags": (None, flags, False),
    "300 ms, options": (0.3, options, False),
    "300 ms, classes": (0.3, classes, False),
}


@pytest.mark.parametrize(("delay", "ask", "random_case"), ATTACKS.values(), ids=ATTACKS)
def test_a_blind_forger_gets_nothing_and_would_need_a_month_at_least(tmp_path_factory, delay, ask, random_case):
    lie = quick.answer(PLAIN, LIE, rdtype=quick.A, ttl=86400)
    folder = tmp_path_factory.getbasetemp()
    with (
        Impersonated(after(delay)) as upstream,
        run_shield([], toml=upstream.toml(random_case=random_case)) as shield,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.connect(shield.address)
        client.settimeout(0.002)
        asked = told = lies = 0
        with upstream.forged_blindly(folder, lie, SECONDS) as forging:
            while forging.goes_on:
                client.send(ask(asked))
                asked += 1
                try:
                    lies += LIE in client.recv(512)
                    told += 1
                except TimeoutError:
                    pass
        counted = stats_of(shield, upstream.address)
        keys = [PLAIN, with_opt(PLAIN), subnets(0), subnets(asked - 1), with_opt(PLAIN, subnet("9.9.9.0", 24))]
        lies += sum(LIE in shield.udp_wire(key) for key in keys)
        udp = upstream.count(transport="udp")
    days = days_until_right(
        counted["unsolicited_replies"],
        forging.seconds,
        sockets=SOCKETS,
        alike=ALIKE,
        threshold=THRESHOLD,
        suspicion=SUSPICION,
    )
    print(
        f"{forging.sent / forging.seconds:.0f} forged/s,"
        f" {counted['unsolicited_replies'] / forging.seconds:.1f}/s reached a port;"
        f" asked {asked}, told {told}; to the upstream {udp} over UDP, {len(upstream.received) - udp} over TCP;"
        f" {days:.0f} days"
    )
    assert lies == 0
    assert forging.sent > 0.5 * RATE * SECONDS
    assert counted["unsolicited_replies"] > 3 * THRESHOLD
    assert counted["spoof_detections"] >= 1
    assert days >= 30
