"""Chains of rules, as a program: tests with two ways out, and actions; no stack, no calls, no Python.

    start of a rule -> test -> test -> action
                         |______|_________|___> next: the next rule that can match

Which rules can match at all is known before one is asked (Lakshman and Stiliadis, SIGCOMM 1998): the name, the type and
the source of a query each are of a class, a class has one bit for each rule that can match, and only rules with all
three bits are asked. So a thousand rules about a thousand names cost as much as one. A class also has one bit for each
set that it is in, which answers "is the name in set 7" without looking again.

It knows how a program runs. How rules become one is told in `rules.compiler`.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ..core._atomic cimport add, load_relaxed, load_relaxed32, store_relaxed, store_relaxed32
from ..core._memory cimport free, zeros
from ..core._prefix_table cimport PrefixTable, octets_of, prefix_value
from ..core._random cimport draw_secret
from ..core._rate_limit cimport CELLS, Limit, RateTable, exceeds, key_of, set_aside
from ..core._siphash cimport Secret, siphash
from ..core._suffix_table cimport label_count, last_two_labels, parent_of, suffix_key, suffix_set, suffix_value
from ..wire._message cimport (
    ADDED_SUBNET, DO, HEADER, MESSAGE_MAX, NAME_MAX, OPCODE, OPTION_DATA, OPT_FIXED, QUESTION_FIXED, SUBNET,
    UNANSWERABLE, OptionCursor, Query, begin_options, get16, has_own_opt, lower_name, next_option, parse_query,
    plain_end
)
from ._rule_state cimport END, OVER_TCP, OVER_UDP, ClientInfo, RuleState, has_server_name

cdef extern from *:
    """
    #define FS_LOWEST(word) __builtin_ctzll(word)
    """
    uint32_t lowest "FS_LOWEST"(uint64_t word) noexcept nogil

cdef enum:
    LABELS_MAX = 128
    DAY = 86400                    # seconds
    THURSDAY = 3                   # the first of January 1970

cdef uint64_t KNOWN = <uint64_t> 1 << 63  # a value in the names' table is never 0

cdef struct Subject:               # what a program has found out about a query so far
    const Query* query
    const ClientInfo* sender
    uint32_t[DIMENSIONS] of        # its classes,
    uint8_t[DIMENSIONS] known      # where these were looked up
    const uint8_t* name            # in lower case; NULL: it was not read yet
    size_t length                  # of it; 0: there is none
    uint8_t[NAME_MAX + 1] folded   # where it stands if it stands nowhere else


cdef const Node* next_action(const Program* program, const Query* query, const ClientInfo* sender,
                             RuleState* rule_state, const MessageFacts* facts) noexcept nogil:
    """Run from `rule_state.at` to the next action and return it, with `at` there; NULL, and END: there is none."""
    cdef:
        Subject subject
        const Node* node
        uint32_t at = rule_state.at
        uint32_t rule
    if at == END:
        return NULL
    subject.query, subject.sender = query, sender
    subject.name = NULL
    memset(subject.known, 0, DIMENSIONS)
    while True:
        node = &program.nodes[at]
        if node.op >= ACTIONS:
            if action_of(node) != ASK_PYTHON:
                add(&program.matched[node.rule], 1)
            rule_state.at = at
            return node
        if node.op == NEXT:
            rule = _next_rule(program, &subject, node.rule + 1)
            if rule >= program.rules:
                rule_state.at = END
                return NULL
            at = load_relaxed32(&program.starts[rule])
        else:
            at = node.yes if _holds(program, node, &subject, rule_state, facts) else node.no


cdef bint could_match(const Program* program, const Query* query) noexcept nogil:
    """Tell whether a rule may match a question, whoever asks it: unless its name and type alone say no."""
    cdef:
        Subject subject
        uint64_t bits
        uint32_t d, word
    subject.query, subject.name = query, NULL
    memset(subject.known, 0, DIMENSIONS)
    for word in range(program.words):
        bits = ~<uint64_t> 0 if word < program.rules // 64 else (<uint64_t> 1 << program.rules % 64) - 1
        for d in range(SOURCE):
            if program.classes[d].used:
                bits &= program.classes[d].rules[_class_of(program, &subject, d) * program.words + word]
        if bits:
            return True
    return False


cdef uint32_t _next_rule(const Program* program, Subject* subject, uint32_t first) noexcept nogil:
    """Return the first rule from this one on that can match, as far as its classes tell; or some number too large.

    Words that are empty in one dimension are left out at once.
    """
    cdef:
        uint64_t words = ~<uint64_t> 0 << first // 64 if first // 64 < 64 else 0
        uint64_t bits
        uint32_t d, word
    for d in range(DIMENSIONS):
        if words and program.classes[d].used:
            words &= program.classes[d].words[_class_of(program, subject, d)]
    while words:
        word = lowest(words)
        if word >= program.words:
            break
        bits = ~<uint64_t> 0 << first % 64 if word == first // 64 else ~<uint64_t> 0
        for d in range(DIMENSIONS):
            if program.classes[d].used:
                bits &= program.classes[d].rules[subject.of[d] * program.words + word]
        if bits:
            return word * 64 + lowest(bits)
        words &= words - 1
    return program.rules


cdef uint32_t _class_of(const Program* program, Subject* subject, uint32_t dimension) noexcept nogil:
    if not subject.known[dimension]:
        subject.known[dimension] = True
        if dimension == NAME:
            subject.of[NAME] = _class_of_name(program, subject)
        elif dimension == TYPE:
            subject.of[TYPE] = program.types[subject.query.qtype] if subject.query.question else 0
        else:
            subject.of[SOURCE] = prefix_value(&program.sources, subject.sender.address, subject.sender.octets)
    return subject.of[dimension]


cdef void _read_name(Subject* subject) noexcept nogil:
    """Take the name out of the question, in lower case; a query that the cache is asked about has it in its key."""
    cdef const Query* query = subject.query
    subject.length = query.question - QUESTION_FIXED if query.question else 0
    subject.name = lower_name(query, subject.folded)


cdef uint32_t _class_of_name(const Program* program, Subject* subject) noexcept nogil:
    """Return the class of the longest name in the table that the query's is, or is below; 0 where there is none.

    What has more labels than any name in the table is not looked up, nor what has fewer.
    """
    cdef:
        const uint8_t* suffix
        const uint8_t* end
        uint32_t labels
        uint64_t value = 0
    if subject.name == NULL:
        _read_name(subject)
    if not subject.length:
        return 0
    suffix, end = subject.name, subject.name + subject.length
    labels = label_count(suffix)
    while suffix != NULL and labels >= program.shallowest:
        if labels <= program.deepest:
            value = suffix_value(&program.names, suffix_key(&program.secret, suffix, end - suffix))
        if value:
            return <uint32_t> value if suffix != subject.name else <uint32_t> (value >> 32) & 0x7fffffff
        suffix = parent_of(suffix)
        labels -= 1
    return 0


cdef bint _holds(const Program* program, const Node* node, Subject* subject, const RuleState* rule_state,
                 const MessageFacts* facts) noexcept nogil:
    """Tell whether a test's condition is true."""
    cdef:
        const Query* query = subject.query
        const Classes* classes
        uint16_t op = node.op
    if op == IN:
        classes = &program.classes[node.more]
        return classes.sets[_class_of(program, subject, node.more) * classes.set_words + node.value // 64] \
            >> node.value % 64 & 1
    if op == QCLASS:
        return query.question and query.qclass == node.value
    if op == OPCODES:
        return node.value >> ((query.flags & OPCODE) >> 11) & 1
    if op == FLAGS:
        return facts.flags & node.value == node.value
    if op == EDNS:
        return has_own_opt(query)
    if op == DNSSEC:
        return query.opt and query.edns_flags & DO
    if op == OPTION:
        return _has_option(query, <uint16_t> node.value)
    if op == LISTENERS:
        return node.value >> (subject.sender.listener & 63) & 1
    if op == TRANSPORT:
        return node.value == subject.sender.transport
    if op == SERVER_NAMES:
        return has_server_name(subject.sender.transport) and subject.sender.server_names & node.value != 0
    if op == OVER:
        return _is_over(program, node, subject)
    if op == TIME:
        return _is_time(node.value, <int64_t> subject.sender.wall + <int64_t> load_relaxed(&program.offset))
    if op == CHANCE:
        return _draw(&program.secret, subject, <uint32_t> (node - program.nodes)) < node.value
    if op == SHARE:
        return _place_of(subject.sender) < node.value
    if op == RCODES:
        return facts.rcode == node.value
    return rule_state.tags & node.value != 0


cdef bint _has_option(const Query* query, uint16_t code) noexcept nogil:
    cdef OptionCursor option
    if has_own_opt(query):
        begin_options(&option, query.wire + query.opt + OPT_FIXED, query.options)
        while next_option(&option):
            if option.code == code and (code != SUBNET or not query.added & ADDED_SUBNET):
                return True
        return option.left >= OPTION_DATA and get16(option.octets) == code  # one that is not whole counts, too
    return False


cdef bint _is_over(const Program* program, const Node* node, Subject* subject) noexcept nogil:
    """Charge a query to its source, zone or name, and tell whether that is too much."""
    return exceeds(&program.limits[node.value], _charged(program, node, subject), 1, subject.sender.now)


cdef inline uint64_t _charged(const Program* program, const Node* node, Subject* subject) noexcept nogil:
    """Return the key of the source, zone or name that a limit counts a query for; a zone is its last two labels."""
    cdef:
        const Limit* limit = &program.limits[node.value]
        const uint8_t* name
        uint8_t[4] nobody
        uint64_t what = 0
        size_t length
    if node.more == PER_SOURCE:
        return key_of(limit, subject.sender.address, subject.sender.octets, 0)
    if node.more != PER_ALL:
        if subject.name == NULL:
            _read_name(subject)
        name, length = subject.name, subject.length
        if node.more == PER_ZONE and length:
            name = last_two_labels(name, &length)
        what = siphash(&limit.secret, name, length)
    memset(nobody, 0, 4)
    return key_of(limit, nobody, 4, what)


cdef bint _is_time(uint64_t span, int64_t local) noexcept nogil:
    """Tell whether a local time, in seconds since 1970, is within a span of the day, on one of its days."""
    cdef:
        uint32_t minute = <uint32_t> (local % DAY // 60)
        uint32_t begin = span & 0xffff
        uint32_t end = span >> 16 & 0xffff
    if not span >> 32 >> ((local // DAY + THURSDAY) % 7) & 1:
        return False
    return begin <= minute < end if begin <= end else minute >= begin or minute < end


cdef uint64_t _draw(const Secret* secret, const Subject* subject, uint32_t node) noexcept nogil:
    """Return a number below 2**32 that is another for each query and each test, and that nobody can know before."""
    cdef uint8_t[36] data
    memset(data, 0, 36)
    memcpy(data, &subject.sender.now, 8)
    memcpy(data + 8, &node, 4)
    memcpy(data + 12, subject.query.wire, HEADER - 4)
    memcpy(data + 20, subject.sender.address, subject.sender.octets)
    return siphash(secret, data, 36) >> 32


cdef uint64_t _place_of(const ClientInfo* sender) noexcept nogil:
    """Return a number below 2**32 that is always the same for an address, here and after a restart."""
    cdef Secret fixed
    fixed.k0, fixed.k1 = 2, 11
    return siphash(&fixed, sender.address, sender.octets) >> 32


# ---------------------------------------------------------------- for Python

cdef class Chain:
    """A program, made once.

    `nodes` are (op, more, rule, value, yes, no); the first is the NEXT of rule 2**32 - 1, before the first rule, and
    `starts` says where each rule begins. `names` are (name on the wire in lower case, its class, the class of those
    below it), `types` classes by type, `sources` (address, bits, class). For each dimension, `rules` and `sets` have a
    number for each class: one bit for each rule that can match, and for each set that it is in; `rules` is empty where
    no rule asks. `limits` are RateTables. `generation` tells it from others. Caller must ensure that sets, classes and
    limits that are named are there.

    Memory ownership: all is its own; rates are shared.
    """

    def __cinit__(self, uint16_t generation, list nodes, list starts, list names, dict types,
                  list sources, list rules, list sets, list limits) -> None:
        cdef:
            Program* program = &self.program
            RateTable table
            bytes name
            uint64_t exact, below
            uint32_t k
        self.limits = limits
        draw_secret(&program.secret)
        program.generation = generation
        program.rules = <uint32_t> len(starts)
        program.words = (program.rules + 63) // 64
        if program.words > 64:
            raise ValueError(f"a chain has at most 4096 rules, not {program.rules}")
        program.names.mask = 7
        program.shallowest = LABELS_MAX
        while program.names.mask * 5 < len(names) * 8:
            program.names.mask = program.names.mask * 2 + 1
        program.nodes = <Node*> zeros(len(nodes), sizeof(Node))
        self.starts, self.size = list(starts), <uint32_t> len(nodes)
        program.starts = <uint32_t*> zeros(program.rules + 1, sizeof(uint32_t))
        program.matched = <uint64_t*> zeros(program.rules + 1, sizeof(uint64_t))
        program.names.pairs = <uint64_t*> zeros(program.names.mask + 1, 16)
        program.types = <uint16_t*> zeros(65536, sizeof(uint16_t))
        program.limits = <Limit*> zeros(len(limits) + 1, sizeof(Limit))
        for k, (op, more, rule, value, yes, no) in enumerate(nodes):
            if max(yes, no) >= len(nodes):
                raise ValueError("a node leads nowhere")
            program.nodes[k] = Node(op, more, rule, value, yes, no)
        for k, start in enumerate(starts):
            program.starts[k] = start
        for name, exact, below in names:
            program.deepest = max(program.deepest, _labels(name))
            program.shallowest = min(program.shallowest, _labels(name))
            suffix_set(&program.names, suffix_key(&program.secret, name, len(name)),
                       KNOWN | exact << 32 | below)
        for qtype, number in types.items():
            program.types[qtype] = number
        self.sources = PrefixTable(sources)
        program.sources = self.sources.prefixes
        for k, table in enumerate(limits):
            program.limits[k] = table.limit
        for k in range(DIMENSIONS):
            self._fill(&program.classes[k], rules[k], sets[k])

    cdef int _fill(self, Classes* classes, list rules, list sets) except -1:
        cdef uint32_t k, word
        classes.used = len(rules) > 0
        classes.set_words = <uint32_t> (max((each.bit_length() for each in sets), default=0) // 64 + 1)
        classes.rules = <uint64_t*> zeros(len(rules) * self.program.words + 1, sizeof(uint64_t))
        classes.words = <uint64_t*> zeros(len(rules) + 1, sizeof(uint64_t))
        classes.sets = <uint64_t*> zeros(len(sets) * classes.set_words + 1, sizeof(uint64_t))
        for k, bits in enumerate(rules):
            for word in range(self.program.words):
                classes.rules[k * self.program.words + word] = bits >> 64 * word & 0xffffffffffffffff
                if classes.rules[k * self.program.words + word]:
                    classes.words[k] |= <uint64_t> 1 << word
        for k, bits in enumerate(sets):
            for word in range(classes.set_words):
                classes.sets[k * classes.set_words + word] = bits >> 64 * word & 0xffffffffffffffff
        return 0

    def __dealloc__(self) -> None:
        cdef uint32_t k
        free(self.program.nodes)
        free(self.program.starts)
        free(self.program.matched)
        free(self.program.names.pairs)
        free(self.program.types)
        free(self.program.limits)
        for k in range(DIMENSIONS):
            free(self.program.classes[k].rules)
            free(self.program.classes[k].words)
            free(self.program.classes[k].sets)

    def set_offset(self, int64_t seconds) -> None:
        """Say how far local time is ahead of UTC."""
        store_relaxed(&self.program.offset, <uint64_t> seconds)

    def matched(self) -> list:
        """Return how often each rule matched."""
        cdef uint32_t k
        return [load_relaxed(&self.program.matched[k]) for k in range(self.program.rules)]

    def enable(self, uint32_t rule, bint enabled) -> None:
        """Have a rule be asked, or not: one that is disabled leads straight to the next one. IndexError: there is none.

        It holds for the next query; caller must be the only one who says so.
        """
        cdef:
            uint32_t start
            uint32_t k = 0
        if rule >= self.program.rules:
            raise IndexError(f"rule {rule} of {self.program.rules}")
        start = self.starts[rule]
        if not enabled:
            while self.program.nodes[k].op != NEXT or self.program.nodes[k].rule != rule:
                k += 1
            start = k
        store_relaxed32(&self.program.starts[rule], start)

    def actions(self, bytes query not None, bytes address not None, *, uint64_t now=0, uint32_t wall=0,
                bint datagram=True, int transport=-1, uint8_t listener=0, uint64_t tags=0, uint16_t flags=0,
                uint16_t rcode=0, uint32_t at=0, uint64_t server_names=0) -> list:
        """Return what a query meets, as (action, value, node, rule), up to the first action that does not go on."""
        cdef:
            Query parsed
            ClientInfo sender
            RuleState rule_state
            MessageFacts facts
            const Node* node
            list met = []
        if len(query) > MESSAGE_MAX or parse_query(&parsed, query, len(query)) == UNANSWERABLE:
            raise ValueError("that is no query")
        memset(&rule_state, 0, sizeof(RuleState))
        memset(&sender, 0, sizeof(ClientInfo))
        sender.address, sender.octets = address, octets_of(address)
        sender.datagram, sender.transport = datagram, OVER_UDP if datagram else OVER_TCP
        if transport >= 0:
            sender.transport = <uint8_t> transport
        sender.now, sender.wall, sender.listener, sender.server_names = now, wall, listener, server_names
        rule_state.at, rule_state.tags = at, tags
        facts.flags, facts.rcode = parsed.flags | flags, rcode
        node = next_action(&self.program, &parsed, &sender, &rule_state, &facts)
        while node != NULL:
            met.append((action_of(node), node.value, rule_state.at, node.rule))
            if action_of(node) == TAG:
                rule_state.tags |= node.value
            if not SKIP_CACHE <= action_of(node) <= COUNT:
                break
            rule_state.at = node.yes
            node = next_action(&self.program, &parsed, &sender, &rule_state, &facts)
        return met


@cython.final
cdef class Trace:
    """A chain as one query meets it: run like any, it charges and counts for nobody, and knows which way it went.

    Behind each test, and before each rule, stands one more node that counts and goes on. So whoever runs the program
    runs it as ever, and what was counted is the way. The other nodes have the numbers that they have in the chain.

    Memory ownership: all that is written to is its own; it keeps the chain, whose is the rest.
    """

    def __cinit__(self, Chain chain not None) -> None:
        cdef:
            const Program* traced = &chain.program
            Program* program = &self.program
            uint32_t size = chain.size
            uint32_t k
        self.chain = chain
        program[0] = traced[0]
        program.nodes, program.starts, program.matched, program.limits = NULL, NULL, NULL, NULL
        program.nodes = <Node*> zeros(3 * size + traced.rules, sizeof(Node))
        program.starts = <uint32_t*> zeros(traced.rules + 1, sizeof(uint32_t))
        program.matched = <uint64_t*> zeros(2 * size + 2 * traced.rules + 1, sizeof(uint64_t))
        program.limits = <Limit*> zeros(len(chain.limits) + 1, sizeof(Limit))
        self.lines = <uint64_t*> zeros(len(chain.limits) + 1, CELLS * sizeof(uint64_t))
        memcpy(program.limits, traced.limits, len(chain.limits) * sizeof(Limit))
        for k in range(size):
            program.nodes[k] = traced.nodes[k]
            if traced.nodes[k].op < NEXT:
                self._mark(size + 2 * k, traced.nodes[k].yes)
                self._mark(size + 2 * k + 1, traced.nodes[k].no)
                program.nodes[k].yes, program.nodes[k].no = size + 2 * k, size + 2 * k + 1
        for k in range(traced.rules):
            self._mark(3 * size + k, load_relaxed32(&traced.starts[k]))
            program.starts[k] = 3 * size + k

    def __dealloc__(self) -> None:
        free(self.program.nodes)
        free(self.program.starts)
        free(self.program.matched)
        free(self.program.limits)
        free(self.lines)

    cdef void _mark(self, uint32_t mark, uint32_t following) noexcept nogil:
        """Put a node that counts before another one."""
        self.program.nodes[mark] = Node(ACTIONS + COUNT, 0, self.program.rules + mark - self.chain.size, 0, following,
                                        following)

    cdef bint _went(self, uint32_t mark) noexcept nogil:
        return self.program.matched[self.program.rules + mark - self.chain.size] != 0

    def decided(self, uint32_t node, bint holds) -> None:
        """Note what Python says of the condition at a node. Caller must ensure that the program has stopped there."""
        self.program.matched[self.program.rules + 2 * node + (not holds)] = 1

    def rules(self) -> list:
        """Return what became of each rule, as (asked, [(node, whether it held), ...], whether it matched, left out).

        The latter are the dimensions ("name", "type", "source") in which the query is none that the rule can match, so
        that it was never asked.
        """
        return [self._rule(k) for k in range(self.program.rules)]

    def _rule(self, uint32_t rule) -> tuple:
        cdef:
            const Classes* classes
            const Node* node
            list steps = []
            list without = []
            uint32_t size = self.chain.size
            uint32_t at = self.program.nodes[3 * size + rule].yes
            uint32_t d
        for d in range(DIMENSIONS):
            classes = &self.program.classes[d]
            if classes.used and not (classes.rules[self.classes[d] * self.program.words + rule // 64] >> rule % 64 & 1):
                without.append(_DIMENSIONS[d])
        if not self._went(3 * size + rule):
            return False, steps, False, without
        while True:
            node = &self.chain.program.nodes[at]
            if node.op == NEXT or not (self._went(size + 2 * at) or self._went(size + 2 * at + 1)):
                return True, steps, self.program.matched[rule] > 0, without
            steps.append((at, self._went(size + 2 * at)))
            at = node.yes if self._went(size + 2 * at) else node.no


cdef Trace trace_of(Chain chain, const Query* query, const ClientInfo* sender):
    """Return a chain as a query meets it, whose limits know what is counted for that alone."""
    cdef:
        Trace made = Trace(chain)
        Subject subject
        const Node* node
        uint32_t k
    subject.query, subject.sender, subject.name = query, sender, NULL
    memset(subject.known, 0, DIMENSIONS)
    for k in range(DIMENSIONS):
        made.classes[k] = _class_of(&made.program, &subject, k) if made.program.classes[k].used else 0
    for k in range(chain.size):
        node = &made.program.nodes[k]
        if node.op == OVER:
            set_aside(&made.program.limits[node.value], _charged(&made.program, node, &subject),
                      made.lines + node.value * CELLS)
    return made


cdef uint32_t _labels(bytes name) except? 0xffffffff:
    """Return how many labels a name on the wire has, the root not counted."""
    if plain_end(name, len(name), 0) != len(name):
        raise ValueError("that is no name on the wire")
    return label_count(name)


_DIMENSIONS = ("name", "type", "source")
TESTS = {
    "in": IN, "qclass": QCLASS, "opcodes": OPCODES, "flags": FLAGS, "edns": EDNS, "do": DNSSEC, "option": OPTION,
    "listeners": LISTENERS, "transport": TRANSPORT, "server_names": SERVER_NAMES, "over": OVER, "time": TIME,
    "chance": CHANCE, "share": SHARE, "rcode": RCODES, "tagged": TAGGED, "next": NEXT,
}
ACTIONS_OF = {
    "pass": ACTIONS + ALLOW, "route": ACTIONS + ROUTE, "error": ACTIONS + ERROR, "drop": ACTIONS + DROP,
    "truncate": ACTIONS + TRUNCATE, "uncached": ACTIONS + SKIP_CACHE, "ttl_limits": ACTIONS + TTL_LIMITS,
    "tag": ACTIONS + TAG, "count": ACTIONS + COUNT, "call": ACTIONS + CALL_PYTHON, "ask": ACTIONS + ASK_PYTHON,
}
