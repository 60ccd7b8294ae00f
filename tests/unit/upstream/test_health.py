"""Health leaves an upstream alone and brings it back as the rules say; time is given, nothing is sent."""

import dns.message
import dns.rcode
import pytest

from funkenshield.config import HealthSection
from funkenshield.upstream.health import Health, Signals, check_query, is_healthy


def health(check="lazy", forced="auto", **settings):
    return Health(HealthSection(check=check, **settings), forced, 0.0)


def test_silence_takes_it_out_and_old_silence_does_not_count_again():
    it = health("off")
    it.observe(Signals(5, 2, 0, 2), 1.0)
    assert (it.in_service, it.share(1.0), it.state) == (True, 1.0, "up")
    it.observe(Signals(5, 3, 0, 3), 2.0)
    assert (it.in_service, it.share(2.0), it.state) == (False, 0.0, "down")
    assert it.why == "3 queries in a row timed out"
    it.observe(Signals(5, 3, 0, 3), 3.0)
    it.observe(Signals(5, 5, 0, 5), 4.0)
    assert it.state == "recovering"
    assert it.share(3.0) == 1 / 16
    assert it.share(13.0) == 1.0
    it.observe(Signals(5, 6, 0, 6), 5.0)  # again, so soon: twice as long
    it.observe(Signals(5, 6, 0, 6), 6.9)
    assert not it.in_service
    it.observe(Signals(5, 6, 0, 6), 7.0)
    assert it.in_service


@pytest.mark.parametrize(
    ("signals", "why"),
    [
        (Signals(10, 10, 0, 0), "50 % of 20 queries timed out"),
        (Signals(40, 0, 38, 0), "SERVFAIL in 95 % of 40 responses"),
        (Signals(9, 10, 9, 0), ""),
        (Signals(20, 19, 17, 0), ""),
    ],
)
def test_shares_of_the_window(signals, why):
    it = health()
    it.observe(signals, 1.0)
    assert (it.why, it.in_service) == (why, not why)


def test_the_window_slides():
    it = health()
    it.observe(Signals(0, 19, 0, 0), 1.0)
    it.observe(Signals(0, 19, 0, 0), 12.0)
    it.observe(Signals(0, 37, 0, 0), 13.0)
    assert it.in_service


def test_lazy_checks_back_off_and_bring_it_back():
    it = health(max_backoff=3)
    assert not it.check_due(100.0)
    it.observe(Signals(0, 3, 0, 3), 100.0)
    assert not it.check_due(100.9)
    assert it.check_due(101.0)
    assert not it.check_due(200.0)
    it.checked(False, 101.0)
    assert not it.check_due(102.9)
    assert it.check_due(103.0)
    it.checked(False, 103.0)
    assert not it.check_due(105.9)
    assert it.check_due(106.0)
    it.checked(True, 106.0)
    assert not it.in_service
    assert it.check_due(107.0)
    it.checked(True, 107.0)
    assert (it.in_service, it.why) == (True, "health checks succeeded")
    assert not it.check_due(1000.0)


def test_constant_checks():
    it = health("always")
    for now in (0.0, 1.0, 2.0):
        assert it.in_service
        assert it.check_due(now)
        it.checked(False, now)
    assert (it.in_service, it.why) == (False, "health checks failed")


def test_a_relapse_waits_longer_although_checks_succeed():
    it = health(rise=1)
    it.observe(Signals(0, 3, 0, 3), 1.0)
    it.checked(True, 2.0)
    it.observe(Signals(0, 6, 0, 6), 3.0)
    it.checked(True, 4.0)
    assert not it.in_service
    it.checked(True, 5.0)
    assert it.in_service


def test_forced():
    up, down = health("always", "up"), health("always", "down")
    up.observe(Signals(0, 9, 0, 9), 1.0)
    assert (up.in_service, up.share(1.0), up.state, up.check_due(9.0)) == (True, 1.0, "up (forced)", False)
    assert (down.in_service, down.share(1.0), down.state, down.check_due(9.0)) == (False, 0.0, "down (forced)", False)
    up.configure(HealthSection(), "auto", 2.0)
    up.observe(Signals(0, 9, 0, 9), 3.0)
    assert (up.in_service, up.share(3.0)) == (True, 1.0)


def test_checks_on_the_wire():
    query = check_query("example.", "SOA")
    assert query[:12] == bytes.fromhex("000001000001000000000000")
    response = dns.message.make_response(dns.message.from_wire(query))
    assert is_healthy(response.to_wire(), ["NOERROR"])
    response.set_rcode(dns.rcode.SERVFAIL)
    assert not is_healthy(response.to_wire(), ["NOERROR"])
    assert not is_healthy(b"\0\0\x80", ["NOERROR"])
    assert not is_healthy(query, ["NOERROR"])
    assert not is_healthy(response.to_wire() + bytes(4096), ["NOERROR"])


def test_a_good_check_forgives_failed_ones_and_the_interval_stays_while_in_service():
    it = health("always")
    for now, well in enumerate((False, False, True, False, False)):
        assert it.check_due(float(now))
        it.checked(well, float(now))
    assert it.in_service


def test_a_reload_keeps_what_is_known():
    it = health("off", slow_start=0)
    it.observe(Signals(0, 3, 0, 3), 1.0)
    it.configure(HealthSection(check="lazy", rise=1, slow_start=0), "auto", 5.0)
    assert not it.in_service
    assert it.check_due(6.0)
    it.checked(True, 6.0)
    assert (it.share(6.0), it.state) == (1.0, "up")


def test_the_wait_after_a_relapse_is_bounded_and_forgotten_in_time():
    it, now = health("off", max_backoff=3), 1.0
    for count, (later, wait) in enumerate([(1, 1), (1, 2), (1, 3), (1, 3), (11, 1)], 1):
        now += later
        it.observe(Signals(0, 3 * count, 0, 3 * count), now)
        it.observe(Signals(0, 3 * count, 0, 3 * count), now + wait - 0.1)
        assert not it.in_service
        now += wait
        it.observe(Signals(0, 3 * count, 0, 3 * count), now)
        assert it.in_service


def test_good_checks_must_be_in_a_row():
    it = health()
    it.observe(Signals(0, 3, 0, 3), 0.0)
    for now, well in ((1.0, True), (2.0, False), (4.0, True)):
        it.checked(well, now)
    assert not it.in_service


def test_who_is_always_overtaken_is_checked_while_in_service():
    it = health(interval=1)
    it.observe(Signals(5, 0, 0, 0, 2), 1.0)
    assert not it.check_due(1.0)
    it.observe(Signals(5, 0, 0, 0, 3), 2.0)
    for now in (2.0, 3.0, 4.0):
        assert it.in_service
        assert it.check_due(now)
        it.observe(Signals(5, 0, 0, 0, 4), now)
        assert not it.check_due(now + 0.5), "one at a time"
        it.checked(False, now)
    assert (it.in_service, it.why) == (False, "health checks failed")


def test_who_is_overtaken_no_more_is_checked_no_more():
    it = health()
    it.observe(Signals(5, 0, 0, 0, 3), 1.0)
    assert it.check_due(1.0)
    it.checked(True, 1.0)
    it.observe(Signals(6, 0, 0, 0, 0), 1.5)
    assert not it.check_due(9.0)
    assert it.in_service


def test_without_checks_who_is_always_overtaken_is_left_alone():
    it = health("off")
    it.observe(Signals(5, 0, 0, 0, 3), 1.0)
    assert (it.in_service, it.why) == (False, "3 hedged queries in a row answered by another upstream first")


def test_reloads_do_not_put_checks_off():
    it = health("always", interval=10)
    assert it.check_due(0.0)
    it.checked(True, 0.0)
    due = 0
    for now in range(1, 100):
        it.configure(HealthSection(check="always", interval=10, min_samples=20 + now), "auto", float(now))
        if it.check_due(float(now)):
            it.checked(True, float(now))
            due += 1
    assert due == 9
