"""Log the queries of each client: a line for each query, in a file for each address.

It shows what `[[query_log]]` does not do: that costs a fraction of this, and knows what became of each query.
Lines are buffered, and written once a second. UDP source addresses can be forged: use a rate limit, too (`[guard]`).
"""

import asyncio
import logging
import os
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

from funkenshield.rules import shield

FOLDER = Path(os.environ.get("QUERY_LOG", "queries"))

log = logging.getLogger(__name__)
lines = defaultdict(list)
tasks = []


@shield.rule()
async def note(query):
    """Buffer a line for the query; it is then processed as usual."""
    lines[query.source].append(f"{datetime.now(UTC):%FT%TZ} {query.qname} {query.qtype}\n")


def write():
    """Write the buffered lines; those that cannot be written are lost, so that they take no memory."""
    lost, why = 0, None
    for source in list(lines):
        buffered = lines.pop(source)
        try:
            with (FOLDER / f"{source}.log").open("a") as file:
                file.writelines(buffered)
        except OSError as error:
            lost, why = lost + len(buffered), error
    if lost:
        log.warning("query log: %s; lines lost: %d", why, lost)


async def write_each_second():
    """Write once a second, for ever."""
    while True:
        await asyncio.sleep(1)
        write()


@shield.setup
async def begin():
    """Make the folder, and begin to write."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    tasks.append(asyncio.create_task(write_each_second()))


@shield.teardown
def end():
    """Write the rest."""
    tasks.pop().cancel()
    write()
