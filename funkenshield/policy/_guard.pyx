"""The guard: access lists, query rate limits, dynamic blocks, and response rate limiting (RRL), before all rules.

    check_query:     access list -> blocked? -> rate limits -> allowed
    check_response:  dynamic blocks count it -> RRL (`_rrl`) -> sent, or truncated to TC=1, or dropped

It knows addresses and rates, and of a response its code, its name and its size. Which prefixes are blocked, and for
how long, is decided in Python, by the alarms that are raised here.
"""

cimport cython
from weakref import WeakValueDictionary

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ..core._atomic cimport bump, compare_exchange, copy_words, load_acquire, load_relaxed, store_release
from ..core._epochs cimport Epochs
from ..core._prefix_table cimport PrefixTable, Prefixes, is_empty, octets_of, prefix_value
from ..core._rate_limit cimport RateTable, exceeds, key_of, source_exceeds
from ..wire._message cimport HEADER, MESSAGE_MAX, NXDOMAIN, RCODE, SERVFAIL, message_flags
from ..wire._truncation cimport truncate
from ._rrl cimport exceeds_rrl, slips
from ._rule_state cimport KIND_BLOCKED, KIND_DENIED, KIND_LIMITED, ClientInfo

cdef enum:
    ALLOWED = 0xff                 # on the access list: whoever is there is welcome
    EXEMPT = 1
    NEIGHBOURS = 4                 # places where an alarm may stand

cdef enum:                         # alarms
    FREE
    WRITING
    RAISED

_ACTIONS = {"drop": GUARD_DROP, "refuse": GUARD_REFUSE, "truncate": GUARD_TRUNCATE}
_COUNTED = {"queries": QUERIES, "nxdomains": NXDOMAINS, "servfails": SERVFAILS, "octets": OCTETS}


cdef GuardAction check_query(const GuardTable* guard_table, const ClientInfo* sender, GuardCounters* counters,
                             uint8_t* kind) noexcept nogil:
    """Decide whether a query is taken, by where it comes from and how many came from there; why not: a Kind."""
    cdef:
        uint32_t k
        uint32_t found = prefix_value(&guard_table.access, sender.address, sender.octets)
        GuardAction action = (
            guard_table.otherwise if not found else GUARD_ALLOW if found == ALLOWED else <GuardAction> found)
    if action != GUARD_ALLOW:
        bump(&counters.acl_denied, 1)
        kind[0] = KIND_DENIED
        return action
    action = _unless_proven(<GuardAction> prefix_value(&guard_table.blocked, sender.address, sender.octets), sender)
    if action != GUARD_ALLOW:
        bump(&counters.blocked, 1)
        kind[0] = KIND_BLOCKED
        return action
    _count(guard_table, QUERIES, 1, sender)
    for k in range(guard_table.limit_count):
        if source_exceeds(&guard_table.limits[k], sender.address, sender.octets, 0, 1, sender.now):
            action = _unless_proven(guard_table.over[k], sender)
            if action != GUARD_ALLOW:
                bump(&counters.rate_limited, 1)
                kind[0] = KIND_LIMITED
                return action
    return GUARD_ALLOW


cdef GuardAction _unless_proven(GuardAction action, const ClientInfo* sender) noexcept nogil:
    """Let in by TCP whoever is sent there."""
    return GUARD_ALLOW if action == GUARD_TRUNCATE and not sender.datagram else action


cdef void _count(const GuardTable* guard_table, Counted what, uint64_t weight, const ClientInfo* sender) noexcept nogil:
    """Let the dynamic blocks for this count it, and raise an alarm over their rate."""
    cdef:
        uint64_t key
        uint32_t k
    for k in range(guard_table.dynblock_count):
        if (guard_table.counted[k] != what
                or prefix_value(&guard_table.dynblock_exempt[k], sender.address, sender.octets)):
            continue
        key = key_of(&guard_table.dynblocks[k], sender.address, sender.octets, 0)
        if exceeds(&guard_table.dynblocks[k], key, weight, sender.now):
            _raise(guard_table.alarms, key, guard_table.dynblocks[k].cells, sender)


cdef void _raise(Alarm* alarms, uint64_t key, const uint64_t* rates, const ClientInfo* sender) noexcept nogil:
    """Raise an alarm, if it is not raised already and there is room; or else the next query will."""
    cdef:
        Alarm* alarm
        uint32_t k
    for k in range(NEIGHBOURS):
        alarm = &alarms[(key + k) % ALARMS]
        if load_acquire(&alarm.state) == RAISED and load_relaxed(&alarm.key) == key:
            return
    for k in range(NEIGHBOURS):
        alarm = &alarms[(key + k) % ALARMS]
        if load_acquire(&alarm.state) == FREE and compare_exchange(&alarm.state, FREE, WRITING):
            store_release(&alarm.key, key)
            alarm.rates = rates
            alarm.octets = sender.octets
            memcpy(alarm.address, sender.address, sender.octets)
            store_release(&alarm.state, RAISED)
            return


cdef size_t check_response(const GuardTable* guard_table, const ClientInfo* sender, uint8_t* wire, size_t length,
                           GuardCounters* counters) noexcept nogil:
    """Decide whether a response goes out: return its octets, fewer where it is truncated, 0 where it is withheld.

    Who sent a cookie of ours, or came by TCP, is where he says he is: RRL is not for him.
    """
    cdef uint16_t rcode
    if length < HEADER:
        return length
    rcode = message_flags(wire) & RCODE
    if guard_table.dynblock_count and not prefix_value(&guard_table.blocked, sender.address, sender.octets):
        if rcode == NXDOMAIN or rcode == SERVFAIL:
            _count(guard_table, NXDOMAINS if rcode == NXDOMAIN else SERVFAILS, 1, sender)
        _count(guard_table, OCTETS, length, sender)
    if not guard_table.rrl.any or not sender.datagram or sender.proven:
        return length
    if not exceeds_rrl(&guard_table.rrl, sender, wire, length, rcode):
        return length
    if slips(&guard_table.rrl, load_relaxed(&counters.rrl_dropped) + load_relaxed(&counters.rrl_slipped)):
        bump(&counters.rrl_slipped, 1)
        return truncate(wire, length)
    bump(&counters.rrl_dropped, 1)
    return 0


cdef dict guard_counters_as_dict(const GuardCounters* counters):
    cdef GuardCounters counted
    copy_words(&counted, counters, sizeof(GuardCounters))
    return counted


@cython.final
cdef class _InForce:
    """A guard table, and the tables that it leads to: of prefixes by their place, of rates by what they count."""

    cdef:
        GuardTable table
        dict tables

    cdef Prefixes keep(self, object place, prefixes) except *:
        """Keep a table for as long as this one; it replaces the one that was in its place."""
        cdef PrefixTable table = PrefixTable(prefixes)
        self.tables[place] = table
        return table.prefixes


cdef class Guard:
    """The guard table in force; each of its limits counts in a table of `memory` octets. `epochs` are its readers'.

    Memory ownership: all tables and alarms are its own; whoever judges by them must be gone before it.
    """

    def __cinit__(self, size_t memory, Epochs epochs=None) -> None:
        cdef _InForce made = _InForce()
        self.memory, self.tables = memory, WeakValueDictionary()
        self.epochs = Epochs() if epochs is None else epochs
        made.tables = {}
        made.table.alarms = &self.alarms[0]
        self.held = made

    @property
    def memory_limit(self) -> int:
        """Return the octets that all tables of rates may take."""
        return len(self.tables) * self.memory

    def rate_table(self, tuple what not None, double rate, double window, uint8_t ipv4, uint8_t ipv6,
                   bint indebted=False) -> RateTable:
        """Return the table of a limit: the one that it has already, if anybody keeps it, and what was counted there."""
        cdef:
            tuple key = (what, rate, window, ipv4, ipv6, indebted)
            RateTable found = self.tables.get(key)
        if found is None:
            found = self.tables[key] = RateTable(self.memory, rate, window, ipv4, ipv6, indebted)
        return found

    cdef object _anew(self):
        """Return a guard table that is as the one in force."""
        cdef:
            _InForce before = self.held
            _InForce made = _InForce()
        made.table = before.table
        made.tables = dict(before.tables)
        return made

    cdef int _publish(self, anew) except -1:
        """Put a guard table into force; where it asks for nothing, there is none."""
        cdef:
            _InForce made = anew
            _InForce before = self.held
            GuardTable* new = &made.table
            bint idle = (new.otherwise == GUARD_ALLOW and is_empty(&new.access) and is_empty(&new.blocked)
                         and not new.limit_count and not new.rrl.any and not new.dynblock_count)
        store_guard_table(&self.guard_table, NULL if idle else new)
        self.held = made
        return self.epochs.retire(before)

    def set_access(self, allow, deny, *, bint default_allow=True, bint refuse=True) -> None:
        """Say who may ask: prefixes as (network address, bits), of which the longest decides, and all others."""
        cdef:
            _InForce made = self._anew()
            GuardAction denied = GUARD_REFUSE if refuse else GUARD_DROP
        made.table.otherwise = GUARD_ALLOW if default_allow else denied
        made.table.access = made.keep("access", [
            *((address, bits, ALLOWED) for address, bits in allow), *((address, bits, denied) for address, bits in deny)
        ])
        self._publish(made)

    def set_blocks(self, blocks) -> None:
        """Say who is shut out, as (network address, bits, "drop", "refuse" or "truncate")."""
        cdef _InForce made = self._anew()
        made.table.blocked = made.keep("blocked", [
            (address, bits, _ACTIONS[action]) for address, bits, action in blocks
        ])
        self._publish(made)

    def set_limits(self, limits) -> None:
        """Say how many queries a second are taken, as (rate, window in seconds, IPv4 bits, IPv6 bits, action)."""
        cdef:
            _InForce made = self._anew()
            list counts = [(rate, window, ipv4, ipv6) for rate, window, ipv4, ipv6, _ in limits]
            RateTable table
            uint32_t k
        if len(counts) > LIMITS_MAX:
            raise ValueError(f"at most {LIMITS_MAX} limits")
        made.tables["limits"] = [
            self.rate_table(("limit", counts[:k].count(count)), *count) for k, count in enumerate(counts)
        ]
        made.table.limit_count = <uint32_t> len(counts)
        for k, table in enumerate(made.tables["limits"]):
            made.table.limits[k] = table.limit
            made.table.over[k] = _ACTIONS[limits[k][4]]
        self._publish(made)

    def set_rrl(self, *, double answers=0, double nxdomains=0, double errors=0, double all=0, double window=2,
                uint8_t ipv4=24, uint8_t ipv6=56, uint32_t slip=2, exempt=()) -> None:
        """Say how many responses a second go to a source prefix; 0 is no limit.

        As in BIND, who is over one and goes on gets nothing but what slips, for it is not he who asks.
        """
        cdef:
            _InForce made = self._anew()
            list rates = [answers, nxdomains, errors, all]
            RateTable table
            uint32_t k
        made.tables["responses"] = [
            self.rate_table(("responses", k), rate, window, ipv4, ipv6, True) if rate > 0 else None
            for k, rate in enumerate(rates)
        ]
        for k, table in enumerate(made.tables["responses"]):
            made.table.rrl.limited[k] = table is not None
            if table is not None:
                made.table.rrl.limits[k] = table.limit
        made.table.rrl.any = any(rates)
        made.table.rrl.slip = slip
        made.table.rrl.exempt = made.keep("exempt", [(address, bits, EXEMPT) for address, bits in exempt])
        self._publish(made)

    def set_dynblocks(self, blocks) -> None:
        """Say what raises an alarm, as (what, rate, seconds, IPv4 bits, IPv6 bits, prefixes that are exempt)."""
        cdef:
            _InForce made = self._anew()
            list counts = [(what, (rate, seconds, ipv4, ipv6)) for what, rate, seconds, ipv4, ipv6, _ in blocks]
            RateTable table
            uint32_t k
        if len(counts) > DYNBLOCKS_MAX:
            raise ValueError(f"at most {DYNBLOCKS_MAX} dynamic blocks")
        made.tables["dynblocks"] = [
            self.rate_table((count[0], counts[:k].count(count)), *count[1]) for k, count in enumerate(counts)
        ]
        made.table.dynblock_count = <uint32_t> len(counts)
        for k, table in enumerate(made.tables["dynblocks"]):
            made.table.counted[k] = _COUNTED[counts[k][0]]
            made.table.dynblocks[k] = table.limit
            made.table.dynblock_exempt[k] = made.keep(k, [(address, bits, EXEMPT) for address, bits in blocks[k][5]])
        self._publish(made)

    def take_alarms(self) -> list:
        """Return the alarms that were raised, as (number of the dynamic block, network address, bits).

        Those of a dynamic block that is no more are nobody's.
        """
        cdef:
            _InForce made = self.held
            Alarm* alarm
            uint32_t k, number
            list taken = []
        for k in range(ALARMS):
            alarm = &self.alarms[k]
            if load_acquire(&alarm.state) != RAISED:
                continue
            for number in range(made.table.dynblock_count):
                limit = made.table.dynblocks[number]
                if limit.cells != alarm.rates:
                    continue
                bits = limit.ipv4 if alarm.octets == 4 else limit.ipv6
                size = 1 << (8 * alarm.octets - bits)
                address = int.from_bytes(alarm.address[:alarm.octets], "big") // size * size
                taken.append((number, address.to_bytes(alarm.octets, "big"), bits))
            store_release(&alarm.state, FREE)
        return taken

    # ---------------------------------------------------------------- one at a time

    def admits(self, bytes address not None, uint64_t now, *, bint datagram=True) -> str:
        """Return what becomes of a query: "welcome", "drop", "refuse" or "truncate"; `now` is nanoseconds."""
        cdef:
            GuardCounters counters
            ClientInfo sender = _sender(address, now, datagram, False)
            uint8_t kind
        memset(&counters, 0, sizeof(GuardCounters))
        if self.guard_table == NULL:
            return "welcome"
        action = check_query(self.guard_table, &sender, &counters, &kind)
        return next((name for name, number in _ACTIONS.items() if number == action), "welcome")

    def releases(self, bytes address not None, bytes response not None, uint64_t now, *, bint datagram=True,
                 bint proven=False, uint64_t before=0) -> bytes:
        """Return what goes out of a response, b"" for nothing; so many were over a limit `before`."""
        cdef:
            GuardCounters counters
            ClientInfo sender = _sender(address, now, datagram, proven)
            bytearray wire = bytearray(response)
        memset(&counters, 0, sizeof(GuardCounters))
        counters.rrl_dropped = before
        if self.guard_table == NULL or len(response) > MESSAGE_MAX:
            return response
        return bytes(wire[:check_response(self.guard_table, &sender, wire, len(wire), &counters)])


cdef ClientInfo _sender(bytes address, uint64_t now, bint datagram, bint proven) except *:
    cdef ClientInfo sender
    memset(&sender, 0, sizeof(ClientInfo))
    sender.address, sender.octets = address, octets_of(address)
    sender.now, sender.datagram, sender.proven = now, datagram, proven
    return sender
