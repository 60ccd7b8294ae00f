"""A new shield starts at an address while the old one serves there, and that one ends: no client notices."""

import time

import pytest
from support.asking import over_udp_and_tcp
from support.client import free_port
from support.control import stats
from support.process import run_shield
from support.until import until
from support.upstream import ScriptedUpstream, answer

from funkenshield.config import Config

SHARED = 'share_addresses = true\nmetrics.listen = "127.0.0.1:{}"\n'


@pytest.mark.slow
def test_clients_are_served_by_both_and_then_by_the_new_one_without_a_failure():
    toml, port = SHARED.format(free_port()), free_port()
    listen = [("127.0.0.1", port)]
    with (
        ScriptedUpstream(lambda query: answer(query, "A 192.0.2.1")) as upstream,
        run_shield([upstream], listen=listen, toml=toml) as new,
    ):
        for _ in range(3):
            with (
                run_shield([upstream], listen=listen, toml=toml) as old,
                over_udp_and_tcp(old.address, "n{}.example") as clients,
            ):
                until(lambda old=old: stats(old)["queries"] > 50, 20)
                old.terminate()
                time.sleep(0.2)
            assert not clients.failed
            assert clients.asked > 100
        assert stats(new)["queries"] > 100
        assert new.command("ready") == "ready\n"


def test_not_with_quic_whose_connections_are_one_processs():
    quic = {"address": "127.0.0.1:8853", "transport": "quic", "certificates": {"certificate": "all.pem"}}
    with pytest.raises(ValueError, match="share_addresses: not with listeners over QUIC"):
        Config.model_validate({"share_addresses": True, "listeners": [quic]})


def test_not_with_announce_which_asks_one_of_both_whether_it_ends():
    announce = {"engine": "bird", "protocols": ["anycast4"], "name": "example.com"}
    shared = {
        "share_addresses": True,
        "lame_duck": "10s",
        "metrics": {"listen": "127.0.0.1:9153"},
        "announce": announce,
    }
    with pytest.raises(ValueError, match="share_addresses: not with announce"):
        Config.model_validate(shared)
