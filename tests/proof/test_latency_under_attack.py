"""Know how fast a client who means well is answered while others do harm; and that nothing kills what is kept."""

import pytest
from hostile.attacks import ATTACKS
from hostile.behaved import Behaved
from hostile.killing import kill_again_and_again
from hostile.test_service_under_attack import protected

pytestmark = [pytest.mark.proof, pytest.mark.timeout(900)]
SECONDS = 10
P99 = 5.0  # milliseconds
KILLS = 60


@pytest.fixture(scope="module")
def shield():
    with protected(idle=10) as running:
        yield running


def peace(_, going):
    """Do no harm."""
    going()


@pytest.mark.parametrize("attack", [peace, *ATTACKS], ids=lambda attack: attack.__name__)
def test_99_of_100_are_answered_within_5_ms(shield, attack, tmp_path):
    with Behaved(shield, tmp_path, SECONDS) as behaved:
        done = attack(shield, behaved.going)
    print(f"{attack.__name__}: {done}; p99 in ms: {behaved.p99}")
    assert behaved.outcome == behaved.flawless
    assert max(behaved.p99.values()) < P99


def test_killed_sixty_times_each_start_serves_with_what_was_kept(tmp_path):
    assert kill_again_and_again(tmp_path, KILLS) == KILLS
