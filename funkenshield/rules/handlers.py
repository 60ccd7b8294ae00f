"""What the actions do that Python does: answer, log, wait, send a copy, change the query and its answer back.

Each takes the action and a Query, and returns what a function of a rule returns: a response, or None for "go on".
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Any

import dns.edns
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset

from ..config.action import Action
from ..config.types import Endpoint
from ..core._limits import EDNS_UDP_SIZE
from ..wire.messages import read_message
from ..wire.record_text import parse_record
from .query import Query

log = logging.getLogger("funkenshield.rules")

SOA = "60 SOA . . 1 3600 600 86400 60"  # of what `answer` says does not exist, so that it is kept

_copies: dict[Endpoint, socket.socket] = {}


def answer(action: Action, query: Query) -> dns.message.Message:
    """Answer with the records of the type asked for; where there are none of it, the name has none."""
    owner = dns.name.from_text(query.qname)
    wanted = dns.rdatatype.from_text(query.qtype)
    made = [parse_record(text, owner) for text in action.answer]
    fitting = [
        each for each in made if wanted in (each.rdtype, dns.rdatatype.ANY) or each.rdtype == dns.rdatatype.CNAME
    ]
    return query.respond(*fitting, authority=() if fitting else (f"{query.qname} {SOA}",))


def write_log(action: Action, query: Query) -> None:
    """Write a line about the query."""
    log.info(
        "%s",
        action.log.format(
            source=str(query.source), qname=query.qname, qtype=query.qtype, qclass=query.qclass, id=query.id,
            transport=query.transport, tags=" ".join(sorted(query.tags)), rcode=query.rcode,
        ),
    )  # fmt: skip


async def delay(action: Action, query: Query) -> None:
    """Wait."""
    await asyncio.sleep(action.delay)


def tee(action: Action, query: Query) -> None:
    """Send a copy to a server; what the network does not take is lost, and so is the answer."""
    endpoint = action.tee
    assert endpoint is not None
    with contextlib.suppress(OSError):
        if endpoint not in _copies:
            opened = socket.socket(endpoint.family, socket.SOCK_DGRAM)
            opened.setblocking(False)
            _copies[endpoint] = opened
        _copies[endpoint].sendto(query.wire, endpoint.sockaddr)


def close() -> None:
    """Close the sockets that copies went through."""
    while _copies:
        _copies.popitem()[1].close()


async def rename(action: Action, query: Query) -> dns.message.Message | None:
    """Ask for another name, and turn the owners of what comes back into the one asked for."""
    assert action.rename is not None
    old, new = dns.name.from_text(action.rename.old), dns.name.from_text(action.rename.new)
    asked = read_message(query.wire)
    if not any(question.name.is_subdomain(old) for question in asked.question):
        return None
    asked.question[:] = [_renamed(question, old, new) for question in asked.question]
    response = await query.resolve(asked)
    response.question = list(query.message.question)
    for section in (response.answer, response.authority, response.additional):
        section[:] = [_renamed(rrset, new, old) for rrset in section]
    return response


def _renamed(rrset: dns.rrset.RRset, old: dns.name.Name, new: dns.name.Name) -> dns.rrset.RRset:
    """Return the same records with what the owner's name ends in replaced."""
    if rrset.name.is_subdomain(old):
        rrset.name = rrset.name.relativize(old).derelativize(new)
    return rrset


async def remove_option(action: Action, query: Query) -> dns.message.Message | None:
    """Ask without some EDNS options."""
    asked = read_message(query.wire)
    left = [option for option in asked.options if option.otype not in action.remove_option]
    if len(left) == len(asked.options):
        return None
    asked.use_edns(asked.edns, asked.ednsflags, asked.payload, options=left)
    return await query.resolve(asked)


async def add_option(action: Action, query: Query) -> dns.message.Message:
    """Ask with one EDNS option more; a client that sent no OPT record gets none."""
    assert action.add_option is not None
    asked = read_message(query.wire)
    bare = asked.edns < 0
    added = dns.edns.GenericOption(
        dns.edns.OptionType.make(action.add_option.code), bytes.fromhex(action.add_option.data)
    )
    asked.use_edns(max(asked.edns, 0), asked.ednsflags, EDNS_UDP_SIZE if bare else asked.payload,
                   options=[*asked.options, added])  # fmt: skip
    response = await query.resolve(asked)
    if bare:
        response.use_edns(False)
    return response


HANDLERS: dict[str, Callable[[Action, Query], Any]] = {
    "log": write_log,
    **{handler.__name__: handler for handler in (answer, delay, tee, rename, remove_option, add_option)},
}
