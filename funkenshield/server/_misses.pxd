"""How a worker hands a query over to the control thread: into its ring, as far as shares allow."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from .._fastpath cimport QueryContext
from ..core._atomic cimport bump
from ..core._fair_shares cimport RingShares, ring_share
from ..core._spsc_ring cimport Ring, ring_reserve
from ..forward._outbox cimport Client
from ..policy._rule_state cimport ClientInfo, has_server_name
from ..wire._message cimport NAME_MAX, lower_name


cdef inline Client* put_miss(Ring* ring, RingShares* shares, const QueryContext* context, const uint8_t* wire,
                             uint32_t length, uint8_t added, bint by_zone) noexcept nogil:
    """Put a query into the ring, as it came; `added` tells what of it its client did not send.

    `by_zone`: zones have shares, too, where addresses may be forged.

    NULL: there is no room, or its client prefix, or zone, has its share. How the client is reached is the caller's to
    fill in: `fd`, `stream`, `request`, `peer`, and both ends' ports.
    """
    cdef:
        const ClientInfo* asking = &context.client
        uint8_t[NAME_MAX] name
        Client* client
    if not ring_share(shares, ring, &context.settings.index.secret, asking.address, asking.octets,
                      lower_name(context.query, name) if by_zone else NULL, <uint32_t> sizeof(Client) + length):
        bump(&context.counters.queue_share_exceeded, 1)
        return NULL
    client = <Client*> ring_reserve(ring, <uint32_t> sizeof(Client) + length)
    if client == NULL:
        bump(&context.counters.dropped_queue_full, 1)
        return NULL
    client.arrived = asking.now
    client.octets, client.proven = asking.octets, asking.proven
    client.listener, client.transport = asking.listener, asking.transport
    client.server_names = asking.server_names if has_server_name(asking.transport) else 0
    client.added, client.rule_state, client.draw = added, context.rule_state, asking.draw
    memcpy(client.ip, asking.address, asking.octets)
    memcpy(client + 1, wire, length)
    return client
