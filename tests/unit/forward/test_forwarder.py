"""Know what Python's side of the miss path does when something in it goes wrong."""

import asyncio
from types import SimpleNamespace

import pytest

from funkenshield.forward.forwarder import Forwarder


def test_what_a_worker_said_once_is_looked_at_again_after_an_error():
    looked = []

    def receive():
        looked.append("looked")
        if len(looked) == 1:
            raise MemoryError
        return 0

    async def story():
        forwarder = Forwarder.__new__(Forwarder)
        forwarder._miss_path = SimpleNamespace(receive=receive, collect=lambda: 0)
        forwarder.dispatch = lambda: None
        with pytest.raises(MemoryError):
            forwarder.ready()
        await asyncio.sleep(0)

    asyncio.run(story())
    assert len(looked) == 2
