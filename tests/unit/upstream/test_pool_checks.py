"""What becomes of the checks that are on their way."""

import asyncio
import logging
import socket

import pytest

from funkenshield.cache._store import Cache
from funkenshield.config import DEFAULT_GROUP, Config, Member
from funkenshield.core._clock import Clock
from funkenshield.forward._miss_path import MissPath
from funkenshield.upstream.pool import Group, Upstreams

CHECKED = {"check": "always", "fall": 1, "interval": 0.1}


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_an_upstream_that_is_gone_is_not_marked_down_for_a_check_that_was_cancelled(transport, caplog):
    caplog.set_level(logging.INFO)

    async def play():
        clock = Clock()
        miss_path = MissPath(Cache(4 << 20, clock), 64)
        upstreams = Upstreams(miss_path.sockets, miss_path.upstreams, clock, miss_path.abandon)
        with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket(type=socket.SOCK_DGRAM) as also:
            also.bind(silent.getsockname())
            address = "{}:{}".format(*silent.getsockname())
            config = Config(upstreams=[{"address": address, "transport": transport, "health": CHECKED}])
            section = config.upstreams[0]
            upstreams.configure({DEFAULT_GROUP: Group("order", (Member(section.address[0], section),))}, config)
            (upstream,) = upstreams.all
            clock.advance(1)
            upstreams.update_health()
            (checking,) = upstream._checks
            await asyncio.sleep(0.05)
            upstreams.close()
            await asyncio.wait([checking])
        assert checking.cancelled()
        assert upstream.health.state == "up"

    asyncio.run(play())
    assert "marked down" not in caplog.text
