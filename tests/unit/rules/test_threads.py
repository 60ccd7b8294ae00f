"""Show that functions of rules get their threads, as soon as there are any."""

import asyncio
import threading

import pytest

from funkenshield.rules.threads import Threads


def test_a_thread_that_cannot_be_started_is_started_at_the_next_call(monkeypatch):
    failures, start = [RuntimeError("can't start new thread")], threading.Thread.start

    def start_or_fail(thread):
        if failures:
            raise failures.pop()
        start(thread)

    async def play():
        threads = Threads(1)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threads.call(threading.current_thread)
        called = await asyncio.wait_for(threads.call(threading.current_thread), 10)
        assert called.result is not threading.main_thread()
        threads.close()

    monkeypatch.setattr("threading.Thread.start", start_or_fail)
    asyncio.run(play())
