"""How a large cache gets its memory from the kernel: in huge pages, before they are written to.

Among millions of answers, a look-up would wait for page tables, too. But the kernel clears what it gives, two megabytes
at a time, and a miss whose answer is stored there would wait for that: so it is done on a thread that nobody waits for.
"""

import asyncio
import contextlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..config import Config
from ..core import machine, system_calls
from ..core.logs import RateLimited
from ..errors import ConfigError
from ._store import Cache

log = logging.getLogger(__name__)
limited = RateLimited(log)

LARGE = 1 << 30  # octets
SHARED = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")  # huge pages in memory of several processes
INTERVAL = 0.1  # seconds
NICE = 10  # whoever has queries to answer comes first
OWN = 64 << 20  # octets that all else takes where nothing happens
LEAST = 4 << 20
SHARE = 4  # where the default does not fit, one part in so many of what may be had is the cache's


def is_large(memory: int) -> bool:
    """Tell whether a cache of so many octets should have huge pages."""
    return memory >= LARGE


def memory_file(octets: int, *, huge_pages: bool) -> int:
    """Return a file of so much memory, which another process can map, too; -1: there is none to be had.

    There, huge pages are another setting of the kernel's (shmem_enabled); a cache that needs them goes without it.
    """
    if huge_pages and not _has_shared_huge_pages():
        log.info('an upgrade would copy the cache, and take its memory twice meanwhile: %s is not "advise"', SHARED)
        return -1
    try:
        file = system_calls.memory_file("funkenshield-cache")
        os.ftruncate(file, octets)
        system_calls.seal(file)
    except OSError:
        return -1
    return file


def _has_shared_huge_pages() -> bool:
    with contextlib.suppress(OSError):
        setting = SHARED.read_text()
        return any(f"[{each}]" in setting for each in ("always", "within_size", "advise", "force"))
    return False


def fitted(config: Config) -> Config:
    """Return a configuration whose cache fits into what may be had; ConfigError where it was said to be too large."""
    allowed, wanted = machine.memory(), config.cache.memory
    if wanted + OWN <= allowed:
        return config
    if "memory" in config.cache.model_fields_set:
        raise ConfigError(
            f"cache.memory: {_said(wanted)} is too large: this machine or control group has {_said(allowed)};"
            f" at most {_said(max(LEAST, allowed - OWN))}, for the shield needs memory beside the cache"
        )
    less = max(LEAST, allowed // SHARE)
    log.warning("cache.memory reduced to %s: this machine or control group has %s", _said(less), _said(allowed))
    return config.model_copy(update={"cache": config.cache.model_copy(update={"memory": less})})


def _said(octets: int) -> str:
    return f"{octets >> 20} MiB"


def _give_way() -> None:
    """Let others go first, if that is allowed."""
    with contextlib.suppress(OSError):
        os.nice(NICE)


async def prepare(cache: Cache) -> None:
    """Keep memory of a cache with huge pages ready, for ever."""
    while True:
        if cache.needs_memory:
            try:
                with ThreadPoolExecutor(1, "hugepages", _give_way) as thread:
                    await asyncio.get_running_loop().run_in_executor(thread, cache.prepare)
            except (RuntimeError, MemoryError) as error:  # no thread can be started: a miss waits for the kernel
                limited.warning("thread", "memory of the cache not prepared: %s", str(error) or type(error).__name__)
        await asyncio.sleep(INTERVAL)
