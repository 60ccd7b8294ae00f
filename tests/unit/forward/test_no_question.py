"""Know that a query without a question is passed on as it came, though its upstream is chosen by the name that it has.

There is no name in it; what stands where one would be may look like one without end.
"""

import contextlib
from struct import pack

import pytest
from support.path import TRUTH, Path
from support.quick import QR, A, query

from funkenshield.config import ForwardSection, HealthSection, UpstreamSection
from funkenshield.upstream.pool import Upstream

STATUS = 2 << 11  # an opcode that nothing is known of, and that is passed on
BARE = pack("!6H", 4711, STATUS, 0, 0, 0, 0)
ENDLESS = BARE + 5 * (b"\x3f" + 63 * b"x") + b"\0"  # longer than a name can be
NAMELESS = {"too long for a name": ENDLESS, "nothing but a header": BARE, "no end": BARE + b"\x3f" + 40 * b"x"}


@pytest.fixture
def shield():
    """Return a shield whose two upstreams are chosen by name; both are the test."""
    with contextlib.ExitStack() as stack:
        made = Path(stack)
        at = made.upstream.endpoint
        other = Upstream(1, at, made.miss_path.sockets, made.table, made.clock)
        told = UpstreamSection(address=(at,), random_case=False), None, HealthSection(check="off"), ForwardSection()
        other.configure(*told)
        stack.callback(other.close)
        made.table.set_group(0, "hash", [0, 1])
        yield made


@pytest.mark.parametrize("wire", NAMELESS.values(), ids=NAMELESS.keys())
def test_what_has_no_question_is_passed_on_and_answered(shield, wire):
    (asked,) = shield.ask(wire)
    assert asked.wire[2:] == wire[2:]
    said = asked.wire[:2] + pack("!5H", QR | STATUS, 0, 0, 0, 0)
    shield.say(asked.port, said)
    assert shield.client.recv(512) == wire[:2] + said[2:]
    (named,) = shield.ask("www.test")  # and it goes on
    shield.answer(named)
    assert shield.heard(query("www.test", A)) == TRUTH
