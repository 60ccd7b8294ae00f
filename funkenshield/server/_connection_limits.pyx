"""What all workers' connections may be, and are: limits, set by the control thread, and totals that each counts in."""

cimport cython
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free

from ..cache._store cimport Cache
from ..core._atomic cimport load_acquire, load_relaxed, store_pointer, store_relaxed
from ..core._limits cimport LISTENERS_MAX
from ..core._memory cimport zeros
from ..core._rate_limit cimport RateTable
from ..policy._server_names cimport ServerNameTable

cdef enum:
    COUNTERS = 1 << 17             # of clients, and of prefixes; few share one with another
    HANDSHAKE_SOURCES = 1 << 20    # octets of memory for who began how many handshakes


@cython.final
cdef class ConnectionLimits:
    """What all workers' connections may be, and are.

    Memory ownership: the counters are its own.
    """

    def __cinit__(self, Cache cache not None) -> None:
        self.cache, self.totals.secret = cache, &cache.index.secret
        self.totals.by_client = <uint64_t*> zeros(COUNTERS, sizeof(uint64_t))
        self.totals.by_prefix = <uint64_t*> zeros(COUNTERS, sizeof(uint64_t))
        self.totals.memory_of = <uint64_t*> zeros(COUNTERS, sizeof(uint64_t))

    def __dealloc__(self) -> None:
        free(self.totals.by_client)
        free(self.totals.by_prefix)
        free(self.totals.memory_of)

    def configure(self, *, uint64_t max_connections, uint64_t max_per_client, uint64_t memory, uint64_t max_in_flight,
                  uint64_t write_buffer, double idle_timeout, double handshakes_per_client=0,
                  double handshake_timeout=5) -> None:
        """Set the limits: connections, those of a client, octets of memory, queries and unread octets of a connection.

        A connection without traffic for `idle_timeout` seconds ends, and one whose handshake takes longer than
        `handshake_timeout`. A client begins at most `handshakes_per_client` handshakes a second; 0: as many as come.
        """
        store_relaxed(&self.totals.connections_max, max_connections)
        store_relaxed(&self.totals.per_client_max, max_per_client)
        store_relaxed(&self.totals.memory_max, memory)
        store_relaxed(&self.totals.in_flight_max, max_in_flight)
        store_relaxed(&self.totals.write_buffer, write_buffer)
        store_relaxed(&self.totals.idle, <uint64_t> (idle_timeout * 1e9))
        store_relaxed(&self.totals.handshake, <uint64_t> (handshake_timeout * 1e9))
        self._limit_handshakes(handshakes_per_client)

    cdef int _limit_handshakes(self, double rate) except -1:
        cdef:
            RateTable table = None if rate <= 0 else RateTable(HANDSHAKE_SOURCES, rate, 1.0)
            object before = self.handshake_rate
        if before is not None and table is not None and (<RateTable> before).limit.cost == table.limit.cost:
            return 0  # who began how many is not forgotten
        store_limit(&self.totals.handshakes, NULL if table is None else &table.limit)
        self.handshake_rate = table
        if before is not None:
            self.cache.epochs.retire(before)
        return 0

    def set_server_names(self, ServerNameTable table) -> None:
        """Say which TLS server names rules ask for from now on; None: for none."""
        cdef object before = self.server_names
        store_pointer(&self.totals.server_names, NULL if table is None else &table.made)
        self.server_names = table
        if before is not None:
            self.cache.epochs.retire(before)

    @property
    def held(self) -> tuple[int, int]:
        """Return how many connections there are, and how many octets they hold."""
        return load_relaxed(&self.totals.connections), load_relaxed(&self.totals.memory)

    def held_at(self, uint8_t listener) -> int:
        """Return how many connections of a listener there are: while there is one, it needs what encrypts it."""
        return load_acquire(&self.totals.by_listener[listener % LISTENERS_MAX])

    @property
    def encrypted(self) -> int:
        """Return how many of the connections are encrypted."""
        return load_relaxed(&self.totals.encrypted)

    @property
    def memory_limit(self) -> int:
        """Return how many octets they may hold."""
        return self.totals.memory_max
