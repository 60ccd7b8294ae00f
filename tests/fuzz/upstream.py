"""Replies of an upstream to a query that clients wait for: each of them gets one answer, and it is his."""

from support.quick import carried, miss_path_before_a_test

from funkenshield.cache._entry import is_response_to
from funkenshield.cache._store import Cache
from funkenshield.core._clock import Clock
from funkenshield.wire._message import inspect_query

from .messages import ADDRESS, framed, query_of, reply_to, unframed

CLOCK = Clock()
MISS_PATH = miss_path_before_a_test(Cache(1 << 22, CLOCK))  # one for all: to make it takes longer than to use it
MISS_PATH.set_limits(attempts=2, retry_on=(2,), deadline=0.2, update_timeout=0.2)


def made(dice):
    """Return a query and two replies."""
    query = query_of(dice)
    return framed(query.to_wire(), *(reply_to(dice, query).to_wire(max_size=65535) for _ in range(2)))


def one(data):
    """Ask for the same twice, and let the upstream say all of it, whether it is a reply to that or not."""
    query, *replies = unframed(data) or [b""]
    MISS_PATH.cache.purge(b"\0", below=True)
    MISS_PATH.settings_writer.set_cookies((bytes(16),), serve=len(query) % 2 == 0, require=False)
    clients = {number: number.to_bytes(2) + query[2:] for number in (1, 2)}
    for number, asked in clients.items():
        if not MISS_PATH.submit(number, ADDRESS, asked):
            assert inspect_query(asked)["verdict"] == "unanswerable"
            return
    for reply in replies:
        for handle in carried(MISS_PATH):
            MISS_PATH.resolve(handle, reply)
    while MISS_PATH.pending_queries:  # then it says nothing any more
        CLOCK.advance(1)
        MISS_PATH.tick()
    for client, asked, *_ in MISS_PATH.take_notifies_and_transfers():
        MISS_PATH.reply(client, asked, clients[1][:2] + bytes([asked[2] | 0x80]) + asked[3:])
    _check(clients)


def _check(clients):
    """Each client has one answer, to what he asked; nobody waits."""
    answers = MISS_PATH.outbox.take_streams()
    assert sorted(stream for stream, _ in answers) == sorted(clients)
    assert MISS_PATH.pending_queries == 0
    for stream, framed_answer in answers:
        answer = framed_answer[2:]
        assert int.from_bytes(framed_answer[:2]) == len(answer)
        assert answer[:2] == clients[stream][:2]
        if inspect_query(clients[stream])["verdict"] == "plain":
            assert is_response_to(clients[stream], answer)
