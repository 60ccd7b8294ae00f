"""Give tests of upstreams a shield without its daemon, event loops, and certificates."""

import asyncio
import contextlib

import pytest
import uvloop
from support.certificates import Authority
from support.path import Path


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    """Run a coroutine on one of the event loops, which has nothing to complain of."""
    complaints = []
    with asyncio.Runner(loop_factory=request.param) as runner:
        runner.get_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        yield lambda story: runner.run(asyncio.wait_for(story, 20))
    assert complaints == []


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def host(authority):
    return authority.issue("ns.test")


@pytest.fixture
def path():
    """Return what makes a Path; all of them end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: Path(stack, **options)
