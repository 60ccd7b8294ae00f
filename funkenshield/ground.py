"""How a large cache gets its memory from the kernel: in huge pages, before they are written to.

Among millions of answers, a look-up would wait for page tables, too. But the kernel clears what it gives, two megabytes
at a time, and a miss whose answer is stored there would wait for that: so it is done on a thread that nobody waits for.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

from ._cache import Cache

LARGE = 1 << 30  # octets
INTERVAL = 0.1  # seconds
NICE = 10  # whoever has queries to answer comes first


def is_large(memory: int) -> bool:
    """Tell whether a cache of so many octets should have huge pages."""
    return memory >= LARGE


async def prepare(cache: Cache) -> None:
    """Keep memory of a cache with huge pages ready, for ever."""
    with ThreadPoolExecutor(1, "ground", os.nice, (NICE,)) as thread:
        while True:
            if cache.needs_memory:
                await asyncio.get_running_loop().run_in_executor(thread, cache.prepare)
            await asyncio.sleep(INTERVAL)
