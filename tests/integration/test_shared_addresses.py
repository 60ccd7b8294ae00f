"""A new shield starts at an address while the old one serves there, and that one ends: no client notices."""

import threading
import time

import pytest
from support import quick
from support.client import free_port, tcp_wire, udp_wire
from support.control import stats
from support.process import run_shield
from support.until import until
from support.upstream import ScriptedUpstream, answer

from funkenshield.config import Config

A = 1
SHARED = 'share_addresses = true\nmetrics.listen = "127.0.0.1:{}"\n'


class Clients(threading.Thread):
    """Ask one question after another, over UDP and over TCP, each once."""

    def __init__(self, address):
        super().__init__()
        self._address, self._end = address, threading.Event()
        self.asked, self.failed = 0, []

    def run(self):
        while not self._end.is_set():
            for exchange in udp_wire, tcp_wire:
                self.asked += 1
                try:
                    exchange(self._address, quick.query(f"n{self.asked}.example", A), timeout=5)
                except (OSError, EOFError) as error:
                    self.failed.append((exchange.__name__, time.monotonic(), repr(error)))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self.join()


@pytest.mark.slow
def test_clients_are_served_by_both_and_then_by_the_new_one_without_a_failure():
    toml, port = SHARED.format(free_port()), free_port()
    listen = [("127.0.0.1", port)]
    with (
        ScriptedUpstream(lambda query: answer(query, "A 192.0.2.1")) as upstream,
        run_shield([upstream], listen=listen, toml=toml) as new,
    ):
        for _ in range(3):
            with run_shield([upstream], listen=listen, toml=toml) as old, Clients(old.address) as clients:
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
