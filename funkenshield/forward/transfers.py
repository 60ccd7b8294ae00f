"""Zone transfers of clients: from the first upstream that begins one, as fast as the client reads (RFC 5936).

It knows how one transfer goes. Whether a client may have one is for `forwarder`.
"""

import asyncio
import logging

from dns.rcode import SERVFAIL

from ..config import ForwardSection
from ..core.logs import RateLimited
from ..upstream.axfr import until_complete
from ..upstream.pool import Upstream, Upstreams
from ..wire._message import error_response, without_hops
from ._miss_path import MissPath
from ._outbox import Outbox

limited = RateLimited(logging.getLogger(__name__))


class _Writing:
    """What a transfer writes to: a connection, by its number."""

    def __init__(self, outbox: Outbox, stream: int) -> None:
        self._outbox, self.stream = outbox, stream
        self._pushed = 0  # replies to its worker, by the time of the last one of this transfer
        self._changed = asyncio.Event()

    def notice(self) -> bool:
        """Go on where the client takes more; False: he is gone."""
        takes_more = self._outbox.takes_more(self.stream, self._pushed)
        if takes_more:
            self._changed.set()
        return takes_more is not None

    async def drained(self) -> None:
        """Send what was written, and wait until the client has taken it."""
        self._pushed = self._outbox.pushed(self.stream)
        self._changed.clear()
        self._outbox.send()
        await self._changed.wait()


class Transfers:
    """The transfers that go on, each a task that ends as soon as its client is gone."""

    settings: ForwardSection

    def __init__(self, miss_path: MissPath, upstreams: Upstreams) -> None:
        self._miss_path, self._upstreams = miss_path, upstreams
        self._written: dict[asyncio.Task[None], _Writing] = {}

    def notice(self) -> None:
        """Go on with transfers whose client takes more, and end those whose client is gone."""
        for task, writing in list(self._written.items()):
            if not writing.notice():
                task.cancel()

    async def run(self, group: int, client: bytes, query: bytes, stream: int) -> None:
        """Let a transfer through, or say that no upstream begins it."""
        tried: list[int] = []
        task, writing = asyncio.current_task(), _Writing(self._miss_path.outbox, stream)
        assert task is not None
        self._written[task] = writing
        try:
            self.notice()
            while len(tried) < self.settings.attempts and (upstream := self._upstreams.choose(group, tried)):
                tried.append(upstream.number)
                if await self._run_from(upstream, client, query, writing):
                    return
            self._miss_path.rules.reply(client, query, error_response(query, SERVFAIL))
        finally:
            del self._written[task]
            self._miss_path.outbox.send()

    async def _run_from(self, upstream: Upstream, client: bytes, query: bytes, writing: _Writing) -> bool:
        """Let a transfer through from one upstream; False: it did not even begin."""
        begun = False
        outbox = self._miss_path.outbox
        try:
            header = upstream.proxy_header(self._miss_path.rules.header_of(client))
            messages = upstream.connections.transfer(
                without_hops(query), self.settings.timeout, header, first=self.settings.transfer_timeout
            )
            async for message in until_complete(query, messages):
                begun = True
                outbox.expect(writing.stream, 1)  # this answer is not the last
                self._miss_path.rules.reply(client, query, message)
                await writing.drained()
            outbox.expect(writing.stream, -1)
        except OSError as error:
            limited.warning(
                "transfer", "zone transfer from upstream %s failed: %s", upstream, str(error) or "timed out"
            )
            if begun:
                outbox.expect(writing.stream, 0, closes=True)  # nothing else tells the client that it has not all
        return begun
