"""A daemon configured by what is around it: environment variables, names of hosts, a file that another one replaces."""

import os

import pytest
from support import rig
from support.client import Address, free_port
from support.control import advance, stats
from support.process import run_shield
from support.until import until
from support.upstream import ScriptedUpstream

from integration.test_metrics import get


@pytest.fixture(scope="module")
def around():
    """Yield a shield, its upstream, and where it is scraped: the environment says where that is, and names a zone."""
    scraped = Address("127.0.0.1", free_port())
    zones = '[{ name = "nowhere.test", upstreams = ["nowhere.invalid:53"] }]'
    with pytest.MonkeyPatch.context() as patched, ScriptedUpstream(rig.numbered(1)) as upstream:
        patched.setenv("FUNKENSHIELD_METRICS__LISTEN", str(scraped))
        patched.setenv("FUNKENSHIELD_ZONES", zones)
        patched.setenv("FUNKENSHIELD_RELOAD_ON_CHANGE", "true")
        place = {"address": f"localhost:{upstream.address.port}", "source": "127.0.0.1"}
        with run_shield([], toml=rig.toml(upstreams=[place], forward=rig.HASTY)) as shield:
            yield shield, upstream, scraped


def test_an_upstream_is_asked_where_its_host_is_and_called_by_its_name(around):
    shield, upstream, _ = around
    (name,) = rig.names(1)
    assert rig.data(rig.ask(shield, name)) == ["192.0.2.1"]
    assert rig.received(upstream)[name] == 1
    (counted,) = stats(shield)["upstreams"].values()
    place = f"localhost:{upstream.address.port}"
    assert (counted["name"], counted["address"]) == (f"{place} from 127.0.0.1", str(upstream.address))
    assert f"{place} resolved: 127.0.0.1:{upstream.address.port}" in shield.log


def test_a_host_that_nobody_knows_keeps_nobody_else_waiting(around):
    shield, _, _ = around
    assert rig.rcode(rig.ask(shield, "www.nowhere.test.")) == "SERVFAIL"
    for _ in range(3):
        advance(shield, 100)
    until(lambda: "nowhere.invalid:53 cannot be resolved" in shield.log, 30)
    assert shield.log.count("nowhere.invalid:53 cannot be resolved") == 1
    assert stats(shield)["unresolved_hosts"] == 1


def test_what_the_environment_says_is_shown_with_its_variable(around):
    shield, _, scraped = around
    shown = shield.command("config", "show", "--changed").splitlines()
    assert f'* metrics.listen = "{scraped}"    # FUNKENSHIELD_METRICS__LISTEN' in shown
    assert '* zones[0].name = "nowhere.test."    # FUNKENSHIELD_ZONES' in shown
    assert f'* control.socket = "{shield.control}"' in " ".join(shown)
    assert any(line.endswith("; command line") for line in shown if line.startswith("* control.socket"))


def test_it_is_alive_and_ready(around):
    _, _, scraped = around
    for path in "/live", "/ready", "/healthz":
        assert get(scraped, path) == (200, "ok\n")


def test_a_file_in_place_of_another_is_read_and_a_wrong_one_changes_nothing(around):
    shield, _, _ = around
    file, other = shield.folder / "funkenshield.toml", shield.folder / "other.toml"

    def replace(text):
        other.write_text(text)
        os.replace(other, file)

    before = file.read_text()
    replace(f'{before}\nchaos = {{ identity = "another" }}\n')
    until(lambda: "reloaded" in shield.log, 20)
    assert rig.data(rig.ask(shield, rig.asked("id.server.", "TXT", rdclass="CH"))) == ['"another"']
    replace("workers = many")
    until(lambda: "reload failed" in shield.log, 20)
    assert rig.data(rig.ask(shield, rig.asked("id.server.", "TXT", rdclass="CH"))) == ['"another"']
    counted = stats(shield)
    assert (counted["reloads"], counted["reload_failures"]) == (1, 1)
