"""Know which share of clients gets an answer where the link to the only upstream loses packets."""

import pytest
from support import quick
from support.pipeline import ask_all
from support.process import run_shield

from proof.link import nameserver_behind_a_link

pytestmark = [pytest.mark.proof, pytest.mark.timeout(300)]
NAMES = 1000
FORWARD = "[forward]\ntimeout = 0.5\ndeadline = 2.5\nattempts = {}\n"


@pytest.mark.parametrize(
    ("loss", "tries", "answered"),
    # each way: of n tries, all are lost with (1 - (1 - loss)^2)^n; the bound leaves room for four deviations
    [(0.05, 1, 0.86), (0.05, 3, 0.994), (0.2, 1, 0.57), (0.2, 3, 0.92), (0.2, 4, 0.965)],
)
def test_lost_packets_are_made_up_for(loss, tries, answered, tmp_path):
    with (
        nameserver_behind_a_link(loss, tmp_path) as upstream,
        run_shield([upstream], toml=FORWARD.format(tries)) as shield,
    ):
        # of many lengths: those of one length may cross this link as one, and be lost as one, as on no real wire
        replies = ask_all(shield, [quick.query(f"{'n' * (1 + n % 50)}{n}.lossy.test", quick.A) for n in range(NAMES)])
        told = [reply[3] & 15 for reply in replies]
        print(f"loss {loss:.0%} each way, {tries} tries: {told.count(0) / NAMES:.1%} answered")
        assert told.count(0) + told.count(2) == NAMES, "an answer or SERVFAIL, and never nothing"
        assert told.count(0) / NAMES >= answered
        if tries == 1:
            assert told.count(0) < NAMES, "nothing is lost: this shows nothing"
