"""What can be seen of a shield, and of others: by DNS, as clients see it, by `/ready`, and by files of operators.

It decides about nothing, and remembers nothing. A file that it may not look for is not there, and the log says so.
"""

import asyncio
import contextlib
import logging
import socket
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.rcode

from ..admin.readiness import is_ready
from ..config import Config, Endpoint
from ..config.announce import AnnounceSection
from ..core import logs
from ..errors import FunkenShieldError
from ..wire.messages import read_message
from .decision import Seen

limited = logs.RateLimited(logging.getLogger(__name__))

LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}
DATAGRAM_MAX = 65535


def asked_addresses(config: Config) -> tuple[Endpoint, ...]:
    """Return where the shield is asked: as configured, or where it listens over UDP."""
    own = (each.endpoint for each in config.all_listeners if each.has_udp)
    return config.announce.addresses or tuple(Endpoint(LOOPBACK.get(host, host), port) for host, port in own)


async def look(config: Config, *, announced: bool) -> Seen:
    """Return what there is to see now; others are asked only where it matters whether this is the last node."""
    section, endpoint = config.announce, config.web_endpoint
    assert endpoint is not None  # as the configuration says
    (trouble, leaving), answers = await asyncio.gather(
        asyncio.to_thread(_readiness, endpoint, section.timeout),
        asyncio.gather(*(ask(each, section) for each in asked_addresses(config))),
    )
    if _is_there(section.withdraw_file):
        leaving = leaving or f"{section.withdraw_file} is there"
    seen = Seen(next(filter(None, [trouble, *answers]), ""), leaving)
    return seen if announced and not seen.why else seen._replace(last=await is_last(section))


async def is_last(section: AnnounceSection) -> bool:
    """Tell whether nobody else would answer: an operator says so, or none of the others answers well."""
    if _is_there(section.keep_file):
        return True
    return bool(section.peers) and all(await asyncio.gather(*(ask(each, section) for each in section.peers)))


async def ask(endpoint: Endpoint, section: AnnounceSection) -> str:
    """Ask for the name that is configured, over UDP; return why the answer is not good, or ""."""
    query = dns.message.make_query(section.name, section.type)
    try:
        async with asyncio.timeout(section.timeout):
            response = await _exchange(endpoint, query)
    except TimeoutError:
        return f"{endpoint} does not answer within {section.timeout:g} s"
    except OSError as error:
        return f"{endpoint} cannot be asked: {error.strerror}"
    if response.rcode() != dns.rcode.NOERROR or response.flags & dns.flags.TC or not response.answer:
        said = "TC=1" if response.flags & dns.flags.TC else dns.rcode.to_text(response.rcode())
        return f"{endpoint} has no answer for {section.name} {section.type}: {said}"
    return ""


async def _exchange(endpoint: Endpoint, query: dns.message.Message) -> dns.message.Message:
    """Return the response to a query; what comes else is passed over."""
    loop = asyncio.get_running_loop()
    with socket.socket(endpoint.family, socket.SOCK_DGRAM) as opened:
        opened.setblocking(False)
        opened.connect(endpoint.sockaddr)
        await loop.sock_sendall(opened, query.to_wire())
        while True:
            with contextlib.suppress(dns.exception.DNSException):
                if query.is_response(response := read_message(await loop.sock_recv(opened, DATAGRAM_MAX))):
                    return response


def _readiness(endpoint: Endpoint, timeout: float) -> tuple[str, str]:
    """Return why the daemon cannot be asked, and why it leaves; "" each where that is not so."""
    try:
        return "", "" if is_ready(endpoint, timeout) else f"the shield is about to end, as {endpoint} says"
    except FunkenShieldError as error:
        return str(error), ""


def _is_there(path: str) -> bool:
    """Tell whether an operator has put a file there."""
    try:
        return bool(path and Path(path).stat())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        limited.warning(path, "announce: whether %s is there cannot be seen: %s", path, error.strerror)
        return False
