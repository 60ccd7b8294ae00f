"""The table of answers that the kernel gives by itself (`xdp/answers.bpf.h`), as workers write it.

    a worker has answered from the cache -> may everybody who asks so have the same? until when? -> offer it

What may be there is decided here, and nowhere else: it is what the fast path would answer to anybody, octet for octet,
until a TTL in it would be another. So where it matters who asks (access lists, blocks, limits, subnets for upstreams,
front proxies), or a rule could concern the question, nothing is offered, and workers answer as ever. Whatever is
replaced or purged outdates all of the table at once (`Epochs.outdate_copies`).
"""

cimport cython
from collections.abc import Iterable

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from .._fastpath cimport (
    SEND, Counters, QueryContext, Settings, SettingsWriter, counters_as_dict, parse_and_hash,
    process_query
)
from ..cache._entry cimport FAILURE, Answer, render
from ..cache._freshness cimport FRESH, OFTEN, freshness_of
from ..cache._index cimport Index, find
from ..cache._store cimport Cache
from ..cache._zone_settings cimport ZoneSettings
from ..core._atomic cimport (
    barrier, compare_exchange, copy_words, load_acquire, load_pointer, load_relaxed, load_relaxed32, load_relaxed8,
    store_pointer, store_relaxed, store_release
)
from ..core._clock cimport NANOSECONDS, TICKS_PER_SECOND, ticks
from ..core._limits cimport LISTENERS_MAX
from ..core._prefix_table cimport is_empty, octets_of
from ..core._random cimport draw_secret
from ..core._siphash cimport Secret
from ..policy._guard cimport load_guard_table
from ..policy._rule_program cimport could_match
from ..policy._rule_state cimport ANSWERS, KIND_HIT, OVER_UDP, QUERIES
from ..wire._message cimport (
    ASKING, DO, HEADER, HEADER_FLAGS, KEY_PREFIX, OPT_FLAGS, OPT_RCODE, QDCOUNT, QUERY_MAX, QUESTION_FIXED, RCODE, TC,
    UDP_PLAIN, Query, message_flags, rule_choices_of
)

# ---------------------------------------------------------------- what may be there

cdef bint _read_plain(Question* question, const Query* query) noexcept nogil:
    """Read a query that the program in the kernel would take for plain; False: it is not."""
    cdef size_t length = query.key_length - KEY_PREFIX
    if (not query.key_length or length > 8 * NAME_WORDS or query.subnet or query.options or query.added
            or query.flags & ~ASKING or rule_choices_of(query.key)):
        return False
    if query.opt and (query.edns_flags & ~DO or query.wire[query.opt + OPT_RCODE]):
        return False
    memset(question, 0, sizeof(Question))
    memcpy(question.name, query.key + KEY_PREFIX, length)
    question.length = <uint16_t> length
    memcpy(&question.asked.what, query.wire + HEADER + length, QUESTION_FIXED)
    memcpy(&question.asked.flags, query.wire + HEADER_FLAGS, 2)
    if query.opt:
        memcpy(&question.asked.opt, query.wire + query.opt + OPT_FLAGS, 2)
        question.asked.opt |= 1
    return True


cdef Reason _reason_against(const QueryContext* context) noexcept nogil:
    """Tell why a worker must give an answer that it has given, whatever the entry is."""
    cdef const Settings* settings = context.settings
    if context.length > UDP_PLAIN or message_flags(context.reply) & TC:
        return NOT_SMALL
    if load_guard_table(settings.guard_table) != NULL or settings.subnets or not is_empty(&settings.proxies):
        return WHO_ASKS
    if ((settings.programs[QUERIES] != NULL and could_match(settings.programs[QUERIES], context.query))
            or (settings.programs[ANSWERS] != NULL and could_match(settings.programs[ANSWERS], context.query))):
        return RULES
    return NO_REASON


cdef bint _gave(const Answer* stored, const ZoneSettings* zone_settings, const QueryContext* context) noexcept nogil:
    """Tell whether an entry gives the reply that was sent: it may just have replaced the one that did."""
    cdef uint8_t[UDP_PLAIN] again
    return (context.length <= UDP_PLAIN
            and context.length == render(again, min(context.limit, <size_t> UDP_PLAIN), stored, context.query,
                                         &zone_settings.manner, context.now, &context.options)
            and not memcmp(again, context.reply, context.length))


cdef uint32_t _same_until(const QueryContext* context) noexcept nogil:
    """Return until when an answer is the same octets for all who ask, in ticks; now: it is not even for the next one.

    What is due for prefetch is left to workers, from the first tick on.
    """
    cdef:
        const Index* index = context.settings.index
        const Answer* stored = find(index, context.query)
        ZoneSettings zone_settings
        uint32_t now = context.now
        uint32_t until = now + TICKS_PER_SECOND
        uint32_t expires
    if stored == NULL:
        return now
    copy_words(&zone_settings, &index.zone_settings[stored.zone], sizeof(ZoneSettings))
    if (zone_settings.manner.shuffle or freshness_of(stored, &zone_settings, now) != FRESH
            or load_relaxed8(&stored.marks.used) < OFTEN or not _gave(stored, &zone_settings, context)):
        return now
    expires = load_relaxed32(&stored.marks.expires)
    if not zone_settings.manner.keep_ttl:
        until -= (now - stored.born) % TICKS_PER_SECOND
    if zone_settings.prefetch and stored.kind != FAILURE:
        expires -= (expires - stored.born - 1) // 10
    return max(min(until, expires), now)


cdef Reason reason_against(const QueryContext* context) noexcept nogil:
    """Tell why a worker answers a question that it has just answered from the cache; NO_REASON: the kernel may."""
    cdef:
        Question question
        Reason reason = _reason_against(context)
    if not _read_plain(&question, context.query):
        return NOT_PLAIN
    if reason == NO_REASON and _same_until(context) == context.now:
        return NOT_THE_SAME
    return reason


# ---------------------------------------------------------------- the table

cdef uint64_t _sum(const uint8_t* octets, size_t length) noexcept nogil:
    """Add octets up as the Internet's checksum does (RFC 1071), in the machine's order, without folding."""
    cdef:
        uint64_t total = 0
        uint16_t word
        size_t i
    for i in range(0, length - length % 2, 2):
        memcpy(&word, octets + i, 2)
        total += word
    if length % 2:
        word = 0
        memcpy(&word, octets + length - 1, 1)
        total += word
    return total


cdef void _write(KernelAnswer* place, const Question* question, const uint8_t* reply, size_t length) noexcept nogil:
    """Write all of an answer that stands in the reply to this question."""
    cdef:
        const uint8_t* fixed = reply + HEADER + question.length
        const uint8_t* behind = fixed + QUESTION_FIXED
        size_t left = reply + length - behind
    place.asked = question.asked
    place.name_length, place.length = question.length, <uint16_t> left
    memcpy(place.name, question.name, sizeof(place.name))
    memcpy(&place.flags, reply + HEADER_FLAGS, 2)
    memcpy(&place.counts, reply + QDCOUNT, 8)
    memcpy(place.octets, behind, left)
    if left:
        memcpy(&place.last, behind + left - 8, 8)
    place.sum = (_sum(reply + HEADER_FLAGS, HEADER - HEADER_FLAGS)
                 + (_sum(fixed, QUESTION_FIXED + left) << (8 if question.length % 2 else 0)))


@cython.final
cdef class KernelAnswers:
    """The table of all interfaces, once there is one, and what the kernel has answered from it.

    There is one for a cache. Memory ownership: it holds the maps, which may never be taken from it.
    """

    def __cinit__(self, Cache cache not None) -> None:
        self.clock, self.epochs = cache.clock, cache.epochs

    def use(self, answers not None, table not None, answered not None) -> None:
        """Write to a table from now on, in memory that is mapped from three maps of the program, of these names.

        Raises ValueError where there is one already, or they are too short.
        """
        cdef:
            uint8_t[::1] answers_view = answers
            uint8_t[::1] table_view = table
            uint8_t[::1] answered_view = answered
            Secret secret
            Table* made
        if (self.memory is not None or <size_t> answers_view.nbytes < PLACES * sizeof(KernelAnswer)
                or <size_t> table_view.nbytes < sizeof(Table)
                or <size_t> answered_view.nbytes < CPUS_MAX * sizeof(Answered)):
            raise ValueError("no maps for the one table that there is")
        self.memory = answers_view, table_view, answered_view
        self.answers, self.answered = <KernelAnswer*> &answers_view[0], <Answered*> &answered_view[0]
        made = <Table*> &table_view[0]
        draw_secret(&secret)
        made.secret[0], made.secret[1] = secret.k0, secret.k1 | 1
        made.generation = 1
        self.epochs.copies = &made.generation
        store_pointer(<const void**> &self.table, made)

    def close(self) -> None:
        """Have the kernel answer nobody, from now on."""
        if self.table != NULL:
            self.epochs.copies = NULL
            store_release(&self.table.generation, 0)

    cdef uint64_t generation(self) noexcept nogil:
        """Return what holds, to be read before anything that an answer is made of; 0: nothing is offered."""
        cdef const Table* table = <const Table*> load_pointer(<const void* const*> &self.table)
        return load_acquire(&table.generation) if table != NULL else 0

    def answer_for(self, listeners: Iterable[int]) -> None:
        """Say whose queries the kernel may answer, by the numbers of listeners."""
        store_relaxed(&self.listeners, sum({1 << number for number in listeners}))

    cdef bint is_for(self, int32_t listener) noexcept nogil:
        """Tell whether the kernel may answer queries to a listener: to others, it hands all over."""
        return load_relaxed(&self.listeners) >> listener & 1

    cdef void record(self, uint64_t chance) noexcept nogil:
        """Have so many of 2**32 queries come to a worker nevertheless."""
        if load_relaxed(&self.table.recorded) != chance:
            store_relaxed(&self.table.recorded, chance)

    cdef KernelAnswer* _place(self, const Question* question) noexcept nogil:
        cdef:
            const uint64_t* secret = self.table.secret
            uint64_t hashed = hash_on(secret, secret[0], question.asked.word)
            size_t k
        for k in range((question.length + 7) // 8):
            hashed = hash_on(secret, hashed, question.name[k])
        return &self.answers[place_of(hashed)]

    cdef uint64_t _since_boot(self, uint64_t time) noexcept nogil:
        """Return a time of our clock's as the kernel's own tells it."""
        return time + self.clock.start - load_relaxed(&self.clock.moved)

    cdef bint _is_alive(self, const KernelAnswer* place, uint64_t now) noexcept nogil:
        return (load_relaxed(&place.generation) == load_relaxed(&self.table.generation)
                and self._since_boot(now) < load_relaxed(&place.dies))

    cdef void offer(self, const QueryContext* context, uint64_t generation) noexcept nogil:
        """Have the kernel answer what was just answered from the cache as it was, as long as it would be.

        What is answered has outcome SEND and nothing else. An answer that is there, whosever it is, stays until it
        dies. Caller must ensure that `generation`, which is not 0, was read before the settings of the context were
        looked up, and that it has not left the cache since.
        """
        cdef:
            Question question
            KernelAnswer* place
            uint64_t sequence
            uint32_t until
        if context.rule_state.kind != KIND_HIT or not _read_plain(&question, context.query):
            return
        place = self._place(&question)
        if self._is_alive(place, context.client.now) or _reason_against(context) != NO_REASON:
            return
        until = _same_until(context)
        sequence = load_relaxed(&place.sequence)
        if until == context.now or sequence & 1 or not compare_exchange(&place.sequence, sequence, sequence + 1):
            return
        barrier()
        _write(place, &question, context.reply, context.length)
        place.dies = self._since_boot(until * <uint64_t> (NANOSECONDS // TICKS_PER_SECOND))
        place.generation = generation
        store_release(&place.sequence, sequence + 2)

    # ------------------------------------------------------------ the control thread's side

    cdef Answered _counted(self) noexcept:
        """Return what all CPUs have answered."""
        cdef:
            Answered total
            uint32_t cpu, k
        memset(&total, 0, sizeof(Answered))
        for cpu in range(CPUS_MAX if self.table != NULL else 0):
            if self.answered[cpu].answers:
                total.answers += load_relaxed(&self.answered[cpu].answers)
                for k in range(RCODE + 1):
                    total.rcodes[k] += load_relaxed(&self.answered[cpu].rcodes[k])
                for k in range(LISTENERS_MAX):
                    total.listeners[k] += load_relaxed(&self.answered[cpu].listeners[k])
        return total

    def counters(self) -> dict:
        """Return what the kernel answered, as workers return what they did."""
        cdef Counters counters
        memset(&counters, 0, sizeof(Counters))
        counters.queries = counters.cache_hits = self._counted().answers
        return counters_as_dict(&counters)

    def messages_by_listener(self) -> list:
        """Return how many queries to each listener were answered, by its number."""
        cdef Answered counted = self._counted()
        return [counted.listeners[k] for k in range(LISTENERS_MAX)]

    def rcodes(self) -> list:
        """Return how many responses there were of each RCODE in a header."""
        cdef Answered counted = self._counted()
        return [counted.rcodes[k] for k in range(RCODE + 1)]

    # ------------------------------------------------------------ one at a time

    def answer(self, SettingsWriter settings_writer not None, bytes query not None, bytes address not None) -> bytes:
        """Answer a query of an address over UDP as a worker does, and offer it; b"": it is no hit.

        Raises ValueError where it is longer than a worker takes. Only where no worker runs.
        """
        cdef:
            Query parsed
            QueryContext context
            Counters counters
            uint8_t[QUERY_MAX] reply
            uint64_t generation = self.generation()
        if len(query) > QUERY_MAX:
            raise ValueError("a query has at most 4096 octets")
        memset(&context, 0, sizeof(QueryContext))
        memset(&counters, 0, sizeof(Counters))
        context.client.now = self.clock.now()
        context.now = ticks(context.client.now)
        context.client.address, context.client.octets = address, octets_of(address)
        context.client.datagram, context.client.transport = True, OVER_UDP
        context.counters, context.query, context.reply = &counters, &parsed, reply
        context.settings = settings_writer.settings
        context.verdict = parse_and_hash(context.settings, &parsed, query, len(query))
        context.limit = min(parsed.payload, context.settings.index.zone_settings.manner.payload)
        if process_query(&context) != SEND or context.rule_state.kind != KIND_HIT:
            return b""
        if generation:
            self.offer(&context, generation)
        return reply[:context.length]
