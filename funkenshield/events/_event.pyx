"""What became of a query, or of an exchange with an upstream: one record, and how a thread makes it.

It knows rings and messages' octets. Who wants what is decided in `_recorder`.
"""

from libc.stdint cimport int16_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.unistd cimport write

from ..core._atomic cimport bump, load_acquire, load_relaxed
from ..core._spsc_ring cimport RING_SIZE, ring_publish, ring_reserve
from ..policy._rule_state cimport KIND_EXCHANGE, ClientInfo

cdef uint64_t FACTOR = 6364136223846793005  # of Knuth's linear congruential generator


cdef class Tap:
    """One thread's way to those who read events. All of it is for that thread alone."""

    cdef uint32_t draw(self) noexcept nogil:
        """Draw a lot for a query: 1 to 2**32 - 1. It goes with the query, so that all that is of one is recorded."""
        self.random = self.random * FACTOR + 1
        return <uint32_t> (self.random >> 32) | 1

    cdef Event* note(self, uint8_t kind, const ClientInfo* client, const uint8_t* query, size_t query_size,
                     const uint8_t* response, size_t response_size) noexcept nogil:
        """Record what became of a client's query; return the record, for what else is known. NULL: there is none.

        Of messages that are not known, the size is 0. The query is kept where nothing else tells its name, or somebody
        wants it.
        """
        cdef:
            Event* event
            uint64_t now
        if response_size and not load_relaxed(&self.wanted.queries):
            query_size = 0
        event = self._begin(kind, client.draw, query, query_size, response, response_size)
        if event == NULL:
            return NULL
        now = self.clock.now()
        event.wall, event.took = now + self.offset, now - min(client.now, now)
        event.transport, event.listener, event.octets = client.transport, client.listener, client.octets
        memcpy(event.address, client.address, client.octets)
        return event

    cdef void note_exchange(self, uint32_t draw, int16_t upstream, uint8_t transport, uint64_t sent,
                            const uint8_t* query, size_t query_size, const uint8_t* response,
                            size_t response_size) noexcept nogil:
        """Record what goes to an upstream, or what comes back."""
        cdef:
            Event* event = self._begin(KIND_EXCHANGE, draw, query, query_size, response, response_size)
            uint64_t now
        if event != NULL:
            now = self.clock.now()
            event.wall, event.took = now + self.offset, now - min(sent, now)
            event.upstream, event.transport = upstream, transport

    cdef Event* _begin(self, uint8_t kind, uint32_t draw, const uint8_t* query, size_t query_size,
                       const uint8_t* response, size_t response_size) noexcept nogil:
        cdef:
            size_t asked, answered
            Event* event
        if not (load_relaxed(&self.wanted.kinds) >> kind & 1 and 0 < draw <= load_relaxed(&self.wanted.chance)):
            return NULL
        asked, answered = self._kept(query_size), self._kept(response_size)
        event = <Event*> ring_reserve(self.ring, <uint32_t> (sizeof(Event) + asked + answered))
        if event == NULL:
            bump(&self.lost, 1)
            return NULL
        memset(event, 0, sizeof(Event))
        event.kind, event.draw, event.upstream, event.rule = kind, draw, -1, NO_RULE
        event.query, event.response = <uint16_t> asked, <uint16_t> answered
        event.query_size, event.response_size = <uint16_t> query_size, <uint16_t> response_size
        memcpy(event + 1, query, asked)
        memcpy(<uint8_t*> (event + 1) + asked, response, answered)
        return event

    cdef size_t _kept(self, size_t size) noexcept nogil:
        """Return how many octets of a message are recorded: a few long ones must not hide what comes beside them."""
        cdef size_t kept = min(size, load_relaxed(&self.wanted.octets))
        if kept > LONG and self.ring.filled - load_acquire(&self.ring.tail) > RING_SIZE // 2:
            return NAMED
        return kept

    cdef void publish(self) noexcept nogil:
        """Show what was recorded, after a batch; whoever reads is woken if he sleeps."""
        cdef uint64_t one = 1
        if self.ring.filled == load_relaxed(&self.ring.head):
            return
        self.offset = self.clock.wall() - self.clock.now()
        if ring_publish(self.ring):
            write(self.wake_fd, &one, 8)
