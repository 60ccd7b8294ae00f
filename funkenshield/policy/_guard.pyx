"""Who may ask, how often, and how much is answered: what stands before all rules.

    query:     access list -> shut out? -> limits -> welcome
    response:  watches count it -> limits of its kind -> sent, or cut to TC=1, or withheld

It knows addresses and rates, and of a response its code, its name and its size. Which prefixes are shut out, and for
how long, is decided in Python, by the alarms that are raised here.
"""

cimport cython
from weakref import WeakValueDictionary

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from ..core._atomic cimport bump, look, peek, publish, replace
from ..core._epochs cimport Epochs
from ..core._prefix_table cimport Prefixes, PrefixTable, prefix_value
from ..core._rate_limit cimport Limit, RateTable, exceeds, key_of
from ..core._siphash cimport Secret, siphash
from ..wire._message cimport (
    HEADER, MESSAGE_MAX, NOERROR, NXDOMAIN, OPT, QUESTION_MAX, RCODE, RECORD, SERVFAIL, TC, fold, get16, message_flags,
    question_length, set16, skip_name
)
from ._rule_state cimport Sender

cdef enum:
    ALLOWED = 0xff                 # on the access list: whoever is there is welcome
    EXEMPT = 1
    NEIGHBOURS = 4                 # places where an alarm may stand

cdef enum:                         # alarms
    FREE
    WRITING
    RAISED

cdef uint64_t GOLDEN = 0x9e3779b97f4a7c15     # 2**64 divided by the golden ratio

_RULINGS = {"drop": IGNORE, "refuse": REFUSE, "truncate": CUT}
_COUNTED = {"queries": QUERIES, "nxdomains": NXDOMAINS, "servfails": SERVFAILS, "octets": OCTETS}


cdef Ruling judge_query(const Orders* orders, const Sender* sender, Watch* watch) noexcept nogil:
    """Decide whether a query is taken, by where it comes from and how many came from there."""
    cdef:
        uint32_t k
        uint32_t found = prefix_value(&orders.access, sender.address, sender.octets)
        Ruling ruling = orders.otherwise if not found else WELCOME if found == ALLOWED else <Ruling> found
    if ruling != WELCOME:
        bump(&watch.denied, 1)
        return ruling
    ruling = _unless_proven(<Ruling> prefix_value(&orders.shut_out, sender.address, sender.octets), sender)
    if ruling != WELCOME:
        bump(&watch.shut_out, 1)
        return ruling
    _count(orders, QUERIES, 1, sender)
    for k in range(orders.limit_count):
        if _is_exceeded(&orders.limits[k], 0, sender):
            ruling = _unless_proven(orders.over[k], sender)
            if ruling != WELCOME:
                bump(&watch.limited, 1)
                return ruling
    return WELCOME


cdef Ruling _unless_proven(Ruling ruling, const Sender* sender) noexcept nogil:
    """Let in by TCP whoever is sent there."""
    return WELCOME if ruling == CUT and not sender.datagram else ruling


cdef inline bint _is_exceeded(const Limit* limit, uint64_t what, const Sender* sender) noexcept nogil:
    return exceeds(limit, key_of(limit, sender.address, sender.octets, what), 1, sender.now)


cdef void _count(const Orders* orders, Counted what, uint64_t weight, const Sender* sender) noexcept nogil:
    """Let the watches for this count it, and raise an alarm where it is too much."""
    cdef:
        uint64_t key
        uint32_t k
    for k in range(orders.watch_count):
        if orders.counted[k] != what or prefix_value(&orders.unwatched[k], sender.address, sender.octets):
            continue
        key = key_of(&orders.watches[k], sender.address, sender.octets, 0)
        if exceeds(&orders.watches[k], key, weight, sender.now):
            _raise(orders.alarms, key, orders.watches[k].cells, sender)


cdef void _raise(Alarm* alarms, uint64_t key, const uint64_t* rates, const Sender* sender) noexcept nogil:
    """Raise an alarm, if it is not raised already and there is room; or else the next query will."""
    cdef:
        Alarm* alarm
        uint32_t k
    for k in range(NEIGHBOURS):
        alarm = &alarms[(key + k) % ALARMS]
        if look(&alarm.state) == RAISED and peek(&alarm.key) == key:
            return
    for k in range(NEIGHBOURS):
        alarm = &alarms[(key + k) % ALARMS]
        if look(&alarm.state) == FREE and replace(&alarm.state, FREE, WRITING):
            publish(&alarm.key, key)
            alarm.rates = rates
            alarm.octets = sender.octets
            memcpy(alarm.address, sender.address, sender.octets)
            publish(&alarm.state, RAISED)
            return


cdef size_t judge_response(const Orders* orders, const Sender* sender, uint8_t* wire, size_t length,
                           Watch* watch) noexcept nogil:
    """Decide whether a response goes out: return its octets, fewer where it was cut to TC=1, 0 where it is withheld.

    Equal answers are those with the same name and type; of NXDOMAIN and other errors, all are. Who sent a cookie of
    ours, or came by TCP, is where he says he is.
    """
    cdef uint16_t rcode
    if length < HEADER:
        return length
    rcode = message_flags(wire) & RCODE
    if orders.watch_count and not prefix_value(&orders.shut_out, sender.address, sender.octets):
        if rcode == NXDOMAIN or rcode == SERVFAIL:
            _count(orders, NXDOMAINS if rcode == NXDOMAIN else SERVFAILS, 1, sender)
        _count(orders, OCTETS, length, sender)
    if not orders.limits_responses or not sender.datagram or sender.proven:
        return length
    if prefix_value(&orders.exempt, sender.address, sender.octets) or not _is_over(orders, sender, wire, length, rcode):
        return length
    if _slips(orders.slip, peek(&watch.withheld) + peek(&watch.slipped)):
        bump(&watch.slipped, 1)
        return _cut(wire, length)
    bump(&watch.withheld, 1)
    return 0


cdef bint _slips(uint64_t one_in, uint64_t turn) noexcept nogil:
    """Tell whether this is one of those that slip.

    Steps of the golden ratio are as even as dice are in the long run; and of two clients who come in turn, it is not
    always the same one.
    """
    return one_in and (turn * GOLDEN >> 32) * one_in >> 32 == 0


cdef bint _is_over(const Orders* orders, const Sender* sender, const uint8_t* wire, size_t length,
                   uint16_t rcode) noexcept nogil:
    """Charge a response to its source prefix, and tell whether it is one too many."""
    cdef:
        uint32_t kind = DENIALS if rcode == NXDOMAIN else ERRORS
        uint64_t what = 0
        size_t opt
        bint over = False
    if rcode == NOERROR:
        # Where there is neither answer nor authority, it may be an error whose upper bits are in the OPT record.
        opt = 0 if get16(wire + 6) or get16(wire + 8) else _find_opt(wire, length)
        if not opt or not wire[opt + 5]:
            kind = ANSWERS
    if orders.limits_kind[kind]:
        if kind == ANSWERS:
            what = _hash_question(&orders.kinds[ANSWERS].secret, wire, length)
        over = _is_exceeded(&orders.kinds[kind], what, sender)
    if orders.limits_kind[RESPONSES] and not over:
        over = _is_exceeded(&orders.kinds[RESPONSES], 0, sender)
    return over


cdef uint64_t _hash_question(const Secret* secret, const uint8_t* wire, size_t length) noexcept nogil:
    """Return a number for a response's name, in lower case, and type; 0 where it has none."""
    cdef:
        uint8_t[QUESTION_MAX] question
        int32_t octets = question_length(wire, length) if get16(wire + 4) == 1 else 0
        int32_t i
    for i in range(octets):
        question[i] = fold(wire[HEADER + i])
    return siphash(secret, question, octets) if octets > 0 else 0


cdef size_t _cut(uint8_t* wire, size_t length) noexcept nogil:
    """Cut a response to TC=1 with its question, and the OPT record that it had; return its octets.

    The options stay: a client that sent a cookie believes no response without it (RFC 7873 5.3).
    """
    cdef:
        int32_t question = question_length(wire, length) if get16(wire + 4) == 1 else -1
        size_t start = HEADER + max(question, 0)
        size_t opt = _find_opt(wire, length)
        size_t octets
    set16(wire + 2, message_flags(wire) | TC)
    memset(wire + 6, 0, 6)
    if question < 0:
        set16(wire + 4, 0)
        return HEADER
    if not opt:
        return start
    octets = 1 + RECORD + get16(wire + opt + 9)
    set16(wire + 10, 1)
    memmove(wire + start, wire + opt, octets)
    return start + octets


cdef size_t _find_opt(const uint8_t* wire, size_t length) noexcept nogil:
    """Return where the OPT record of a response with at most one question is; 0: it has none."""
    cdef:
        int32_t question = question_length(wire, length) if get16(wire + 4) == 1 else 0
        uint32_t records = <uint32_t> get16(wire + 6) + get16(wire + 8) + get16(wire + 10)
        size_t at = HEADER + max(question, 0)
        size_t next
        int32_t end
        uint32_t _i
    for _i in range(records):
        end = skip_name(wire, length, at)
        if end < 0 or <size_t> end + RECORD > length:
            break
        next = <size_t> end + RECORD + get16(wire + end + 8)
        if next > length:
            break
        if get16(wire + end) == OPT and end - at == 1:
            return at
        at = next
    return 0


cdef dict watch_as_dict(const Watch* watch):
    return {
        "denied": peek(&watch.denied), "shut_out": peek(&watch.shut_out), "limited": peek(&watch.limited),
        "withheld": peek(&watch.withheld), "slipped": peek(&watch.slipped),
    }


@cython.final
cdef class _Orders:
    """Orders, and the tables that they lead to: of prefixes by their place, of rates by what they count."""

    cdef:
        Orders orders
        dict tables

    cdef Prefixes keep(self, object place, prefixes) except *:
        """Keep a table for as long as these orders; it replaces the one that was in its place."""
        cdef PrefixTable table = PrefixTable(prefixes)
        self.tables[place] = table
        return table.prefixes


@cython.final
cdef class Guard:
    """All orders; each limit of theirs counts in a table of `memory` octets. `epochs` are those of who judges by them.

    Memory ownership: orders, their tables and alarms are its own; whoever judges by its orders must be gone before it.
    """

    def __cinit__(self, size_t memory, Epochs epochs=None) -> None:
        cdef _Orders orders = _Orders()
        self.memory, self.tables = memory, WeakValueDictionary()
        self.epochs = Epochs() if epochs is None else epochs
        orders.tables = {}
        orders.orders.alarms = &self.alarms[0]
        self.held = orders

    @property
    def memory_limit(self) -> int:
        """Return the octets that all tables of rates may take."""
        return len(self.tables) * self.memory

    def rates_of(self, tuple what not None, double rate, double burst, uint8_t ipv4, uint8_t ipv6,
                 bint indebted=False) -> RateTable:
        """Return the table of a limit: the one that it has already, if anybody keeps it, and what was counted there."""
        cdef:
            tuple key = (what, rate, burst, ipv4, ipv6, indebted)
            RateTable found = self.tables.get(key)
        if found is None:
            found = self.tables[key] = RateTable(self.memory, rate, burst, ipv4, ipv6, indebted)
        return found

    cdef object _anew(self):
        """Return orders that are as those in force."""
        cdef:
            _Orders before = self.held
            _Orders orders = _Orders()
        orders.orders = before.orders
        orders.tables = dict(before.tables)
        return orders

    cdef int _publish(self, orders) except -1:
        """Put orders into force; where they ask for nothing, there are none."""
        cdef:
            _Orders made = orders
            _Orders before = self.held
            PrefixTable table
            Orders* new = &made.orders
            bint idle = (new.otherwise == WELCOME and not new.limit_count and not new.limits_responses
                         and not new.watch_count)
        for place in ("access", "shut out"):
            table = made.tables.get(place)
            if table is not None:
                idle = idle and not table.prefixes.ipv4_count + table.prefixes.ipv6_count
        publish_orders(&self.orders, NULL if idle else new)
        self.held = made
        return self.epochs.retire(before)

    def set_access(self, allow, deny, *, bint default_allow=True, bint refuse=True) -> None:
        """Say who may ask: prefixes as (network address, bits), of which the longest decides, and all others."""
        cdef:
            _Orders orders = self._anew()
            Ruling denied = REFUSE if refuse else IGNORE
        orders.orders.otherwise = WELCOME if default_allow else denied
        orders.orders.access = orders.keep("access", [
            *((address, bits, ALLOWED) for address, bits in allow), *((address, bits, denied) for address, bits in deny)
        ])
        self._publish(orders)

    def shut_out(self, blocks) -> None:
        """Say who is shut out, as (network address, bits, "drop", "refuse" or "truncate")."""
        cdef _Orders orders = self._anew()
        orders.orders.shut_out = orders.keep("shut out", [
            (address, bits, _RULINGS[action]) for address, bits, action in blocks
        ])
        self._publish(orders)

    def set_limits(self, limits) -> None:
        """Say how many queries a second are taken, as (rate, burst in seconds, IPv4 bits, IPv6 bits, action)."""
        cdef:
            _Orders orders = self._anew()
            list counts = [(rate, burst, ipv4, ipv6) for rate, burst, ipv4, ipv6, _ in limits]
            RateTable table
            uint32_t k
        if len(counts) > LIMITS_MAX:
            raise ValueError(f"at most {LIMITS_MAX} limits")
        orders.tables["limits"] = [
            self.rates_of(("limit", counts[:k].count(count)), *count) for k, count in enumerate(counts)
        ]
        orders.orders.limit_count = <uint32_t> len(counts)
        for k, table in enumerate(orders.tables["limits"]):
            orders.orders.limits[k] = table.limit
            orders.orders.over[k] = _RULINGS[limits[k][4]]
        self._publish(orders)

    def set_responses(self, *, double answers=0, double nxdomains=0, double errors=0, double all=0, double burst=2,
                      uint8_t ipv4=24, uint8_t ipv6=56, uint32_t slip=2, exempt=()) -> None:
        """Say how many responses a second go to a source prefix; 0 is no limit.

        As in BIND, who is over one and goes on gets nothing but what slips, for it is not he who asks.
        """
        cdef:
            _Orders orders = self._anew()
            list rates = [answers, nxdomains, errors, all]
            RateTable table
            uint32_t k
        orders.tables["responses"] = [
            self.rates_of(("responses", k), rate, burst, ipv4, ipv6, True) if rate > 0 else None
            for k, rate in enumerate(rates)
        ]
        for k, table in enumerate(orders.tables["responses"]):
            orders.orders.limits_kind[k] = table is not None
            if table is not None:
                orders.orders.kinds[k] = table.limit
        orders.orders.limits_responses = any(rates)
        orders.orders.slip = slip
        orders.orders.exempt = orders.keep("exempt", [(address, bits, EXEMPT) for address, bits in exempt])
        self._publish(orders)

    def set_watches(self, watches) -> None:
        """Say what raises an alarm, as (what, rate, seconds, IPv4 bits, IPv6 bits, prefixes that are exempt)."""
        cdef:
            _Orders orders = self._anew()
            list counts = [(what, (rate, seconds, ipv4, ipv6)) for what, rate, seconds, ipv4, ipv6, _ in watches]
            RateTable table
            uint32_t k
        if len(counts) > WATCHES_MAX:
            raise ValueError(f"at most {WATCHES_MAX} watches")
        orders.tables["watches"] = [
            self.rates_of((count[0], counts[:k].count(count)), *count[1]) for k, count in enumerate(counts)
        ]
        orders.orders.watch_count = <uint32_t> len(counts)
        for k, table in enumerate(orders.tables["watches"]):
            orders.orders.counted[k] = _COUNTED[counts[k][0]]
            orders.orders.watches[k] = table.limit
            orders.orders.unwatched[k] = orders.keep(k, [(address, bits, EXEMPT) for address, bits in watches[k][5]])
        self._publish(orders)

    def take_alarms(self) -> list:
        """Return the alarms that were raised, as (number of the watch, network address, bits).

        Those of a watch that is no more are nobody's.
        """
        cdef:
            _Orders orders = self.held
            Alarm* alarm
            uint32_t k, number
            list taken = []
        for k in range(ALARMS):
            alarm = &self.alarms[k]
            if look(&alarm.state) != RAISED:
                continue
            for number in range(orders.orders.watch_count):
                limit = orders.orders.watches[number]
                if limit.cells != alarm.rates:
                    continue
                bits = limit.ipv4 if alarm.octets == 4 else limit.ipv6
                size = 1 << (8 * alarm.octets - bits)
                address = int.from_bytes(alarm.address[:alarm.octets], "big") // size * size
                taken.append((number, address.to_bytes(alarm.octets, "big"), bits))
            publish(&alarm.state, FREE)
        return taken

    # ---------------------------------------------------------------- one at a time

    def admits(self, bytes address not None, uint64_t now, *, bint datagram=True) -> str:
        """Return what becomes of a query: "welcome", "drop", "refuse" or "truncate"; `now` is nanoseconds."""
        cdef:
            Watch watch
            Sender sender = _sender(address, now, datagram, False)
        memset(&watch, 0, sizeof(Watch))
        if self.orders == NULL:
            return "welcome"
        ruling = judge_query(self.orders, &sender, &watch)
        return next((name for name, number in _RULINGS.items() if number == ruling), "welcome")

    def releases(self, bytes address not None, bytes response not None, uint64_t now, *, bint datagram=True,
                 bint proven=False, uint64_t before=0) -> bytes:
        """Return what goes out of a response, b"" for nothing; so many were over a limit `before`."""
        cdef:
            Watch watch
            Sender sender = _sender(address, now, datagram, proven)
            bytearray wire = bytearray(response)
        memset(&watch, 0, sizeof(Watch))
        watch.withheld = before
        if self.orders == NULL or len(response) > MESSAGE_MAX:
            return response
        return bytes(wire[:judge_response(self.orders, &sender, wire, len(wire), &watch)])


cdef Sender _sender(bytes address, uint64_t now, bint datagram, bint proven) except *:
    cdef Sender sender
    if len(address) not in (4, 16):
        raise ValueError("an address has 4 or 16 octets")
    memset(&sender, 0, sizeof(Sender))
    sender.address, sender.octets = address, <uint8_t> len(address)
    sender.now, sender.datagram, sender.proven = now, datagram, proven
    return sender
