"""NOTIFY (RFC 1996) of a zone that we watch: to every upstream of its group, once; the first response is the client's.

It knows how one NOTIFY goes on. Whether it may is for `forwarder`, and what it means for the cache for `soa_watch`.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from dns.rcode import SERVFAIL

from ..config import ForwardSection
from ..core.logs import RateLimited
from ..upstream.pool import Upstreams
from ..wire._message import error_response, without_hops
from ._miss_path import MissPath

limited = RateLimited(logging.getLogger(__name__))


async def forward_notify(
    miss_path: MissPath, upstreams: Upstreams, settings: ForwardSection, dispatch: Callable[[], object],
    group: int, client: bytes, query: bytes,
) -> None:  # fmt: skip
    """Forward a NOTIFY, and have its answer dispatched; SERVFAIL where no upstream answers."""
    response = None
    try:
        header, timeout = miss_path.rules.header_of(client), settings.update_timeout
        onward = without_hops(query)
        asked = [
            asyncio.wait_for(upstream.exchange(onward, header, once=True), timeout)
            for upstream in upstreams.groups.get(group, ())  # a reload may have taken it away by now
        ]
        for first in asyncio.as_completed(asked):
            with contextlib.suppress(OSError):
                received = await first
                if response is None:
                    response = received
                    miss_path.rules.reply(client, query, response)
                    dispatch()
    except Exception as error:  # without an answer, a client over TCP would never have its place back
        limited.warning("notify", "internal error, NOTIFY dropped: %r", error)
    if response is None:
        miss_path.rules.reply(client, query, error_response(query, SERVFAIL))
    dispatch()
