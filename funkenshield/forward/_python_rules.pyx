"""What rules leave to Python, and how queries go on from there.

    a query that stopped at a rule    take_stopped_queries -> resume | ask | reply | drop
    a miss that a function answers    take_handled   -> settle | give_up
    a response that stopped at a rule take_stopped_responses   -> conclude

It knows how a query leaves the compiled part and comes back to it, at the rule that comes next. What Python makes of it
meanwhile is not known here.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from .._fastpath cimport ASK, DROP, SEND, Outcome, QueryContext, Settings, parse_with_ecs, process_query, resume_query
from ..core._clock cimport ticks
from ..policy._rule_program cimport Program
from ..policy._rule_state cimport END, KIND_RULE, RuleState, has_server_name
from ..wire._ecs_upstream cimport ECS_QUERY_MAX
from ..wire._fit cimport fit_message
from ..wire._message cimport (
    CD, DO, HEADER, MESSAGE_MAX, OPCODE, QR, RD, UNCACHEABLE, EdnsOptions, Query, message_id, parse_query, set_id
)
from ..wire._proxy_protocol cimport PROXIED_MAX
from ..wire._truncation cimport put_truncated
from ._admission cimport Admission
from ._outbox cimport NOBODY, STREAM, Client, put_client
from ._pending cimport DECIDING, FUNCTION, SENT, PendingQuery, TtlBounds
from ._resolution cimport Resolution, Response

cdef tuple TRANSPORT_NAMES = ("udp", "tcp", "tls", "https", "http", "quic", "h3")  # in the order of their numbers


cdef class PythonRules:
    """Queries that Python decides about: each leaves with all that is known of it, and goes on where it stopped."""

    def __cinit__(self, Admission admission not None, Resolution resolution not None) -> None:
        self.admission, self.resolution = admission, resolution
        self.replies, self.queries = resolution.replies, resolution.queries
        self.cache, self.settings_writer = self.replies.cache, self.replies.settings_writer
        self.outbox = self.replies.outbox
        self.stopped_queries, self.handled = [], []

    def set_route(self, uint16_t number, *, uint16_t group=0, bint function=False) -> None:
        """Say whom queries ask for which rules chose this route: a group of upstreams, or a function of Python's."""
        self.queries.routes[number] = FUNCTION if function else group

    def set_ttl_limits(self, uint16_t number, uint32_t shortest, uint32_t longest) -> None:
        """Say between how many seconds TTLs are for which rules chose these limits."""
        self.queries.ttl_limits[number] = TtlBounds(shortest, longest)

    # ------------------------------------------------------------ queries

    cdef int take_in(self, const Client* client, const uint8_t* wire, size_t length, uint64_t now) except -1:
        """Take what a worker handed over: a miss, or a query that stopped at a rule."""
        if client.rule_state.stopped:
            return self._stop_query(client, wire, length)
        return self.admission.admit(client, wire, length, now)

    cdef bint enter(self, Client* client, const uint8_t* wire, size_t length, bint anew) except -1:
        """Decide about a query as a worker would, and see to what comes of it; False: it gets no answer."""
        cdef:
            const Settings* settings = self.settings_writer.settings
            uint8_t[ECS_QUERY_MAX] room
            Query query
            QueryContext context
            Outcome outcome
        context.verdict = parse_with_ecs(settings, &query, wire, length, client.ip, client.octets, room)
        context.settings, context.query, context.counters = settings, &query, &self.replies.counts
        context.client, context.rule_state = self.outbox.client_info(client), client.rule_state
        context.now = ticks(context.client.now)
        context.reply, context.limit = self.outbox.reserve(client), self.replies.limit(client, &query)
        outcome = process_query(&context) if anew else resume_query(&context)
        client.proven, client.rule_state = context.client.proven, context.rule_state
        if outcome & SEND:
            self.outbox.post(client, context.length, client.rule_state.kind)
        if client.rule_state.stopped:
            self._stop_query(client, wire, length)
        elif outcome & ASK:
            if outcome & SEND:
                client.fd = NOBODY
            client.added = query.added
            self.admission.admit(client, query.wire, query.length, context.client.now)
        return outcome != DROP

    cdef int _stop_query(self, const Client* client, const uint8_t* wire, size_t length) except -1:
        self.stopped_queries.append((
            (<char*> client)[:sizeof(Client)], wire[:length], 0 if client.fd >= 0 else client.stream,
            client.rule_state.chain, client.rule_state.at, client.rule_state.generation,
        ))
        return 0

    def take_stopped_queries(self) -> list:
        """Return the queries that stopped at a rule, as (client, query, stream, chain, node, generation)."""
        taken, self.stopped_queries = self.stopped_queries, []
        return taken

    cdef Client _client(self, bytes client) except *:
        if client is None or len(client) != sizeof(Client):
            raise ValueError("that is no client")
        return (<Client*> <char*> client)[0]

    def resume(self, bytes client, bytes query not None, uint32_t at, uint16_t generation, *, int32_t route=-1,
               uint64_t tags=0, uint16_t ttl_limits=0, bint uncached=False) -> None:
        """Let a query go on at a node of its chain, changed or not; what else is given is added to its state.

        Rules that are in force no more let it begin anew.
        """
        cdef Client asking = self._client(client)
        asking.rule_state.tags |= tags
        asking.rule_state.ttl_limits = ttl_limits or asking.rule_state.ttl_limits
        asking.rule_state.skip_cache = uncached or asking.rule_state.skip_cache
        self._go_on(&asking, query, at, generation, route)

    def ask(self, bytes client, bytes query not None, uint32_t at, uint16_t generation, uint64_t stream, *,
            int32_t route=-1) -> None:
        """Let a query go on like `resume`, but have its answer come back for `outbox.take_streams`."""
        cdef Client asking = self._client(client)
        asking.fd = STREAM
        asking.stream, asking.request = stream, 0
        asking.peer.length = 0
        self._go_on(&asking, query, at, generation, route)

    cdef int _go_on(self, Client* client, bytes query, uint32_t at, uint16_t generation, int32_t route) except -1:
        if not HEADER <= len(query) <= MESSAGE_MAX:
            raise ValueError(f"a query has {HEADER} to {MESSAGE_MAX} octets, not {len(query)}")
        client.rule_state.at = at
        client.rule_state.generation = generation
        if route >= 0:
            client.rule_state.route = <uint16_t> route
            client.rule_state.by_function = self.queries.routes[route] == FUNCTION
        if not self.enter(client, query, len(query), False):
            self.outbox.drop(client)
        self.outbox.flush()
        return 0

    def drop(self, bytes client, bytes query not None) -> None:
        """Give a query no answer."""
        cdef Client asking = self._client(client)
        if asking.draw:
            self.outbox.note(&asking, KIND_RULE, -1, query, len(query), NULL, 0)
        self.outbox.drop(&asking)

    def reply(self, bytes client, bytes query not None, bytes response not None) -> None:
        """Give the response to a query that Python answers, or what its client takes of it: `take_streams` sends it."""
        cdef:
            Query asked
            EdnsOptions own
            Client to = self._client(client)
            uint8_t* out
            size_t length = len(response)
            size_t limit
        if not HEADER <= len(query) <= MESSAGE_MAX or not HEADER <= length <= MESSAGE_MAX:
            raise ValueError("that is no query or no response")
        parse_query(&asked, query, len(query))
        self.replies.add_own(&own, &to, &asked)
        out = self.outbox.reserve(&to)
        limit = self.replies.limit(&to, &asked)
        if length > limit or to.fd >= 0 and length + own.length > limit:
            length = fit_message(out, response, length, &asked, limit - own.length)
        else:
            memcpy(out, <char*> response, length)
        if not length:
            length = put_truncated(out, &asked, QR | asked.flags & (OPCODE | RD | CD), self.replies.payload(), 0,
                                   asked.edns_flags & DO, &own)
        elif own.length and length + own.length <= limit:  # no message of a transfer is truncated for these
            length = self.replies.put_own(out, length, limit, &asked, 0, &own)
        set_id(out, message_id(query))
        self.outbox.post(&to, length, KIND_RULE)

    def pass_on(self, bytes client, bytes query not None) -> None:
        """Let a query that Python has go to one upstream, like any that is never cached."""
        cdef:
            Query asked
            Client asking = self._client(client)
        if len(query) > MESSAGE_MAX or parse_query(&asked, query, len(query)) > UNCACHEABLE:
            raise ValueError("that is no query")
        self.admission.admit_uncached(&asking, &asked, self.cache.clock.now())
        self.outbox.flush()

    def address_of(self, bytes client) -> bytes:
        """Return the address of the client of a query that Python has, 4 or 16 octets."""
        cdef Client asking = self._client(client)
        return asking.ip[:asking.octets]

    def header_of(self, bytes client) -> bytes:
        """Return the header that tells an upstream whose query it is that Python has."""
        cdef:
            Client asking = self._client(client)
            uint8_t[PROXIED_MAX] out
        return (<char*> out)[:put_client(out, &asking)]

    def client_info(self, bytes client) -> tuple:
        """Return whose query it is: (address, transport by its name, number of the listener, tags, stream or 0)."""
        cdef Client asking = self._client(client)
        return (asking.ip[:asking.octets], TRANSPORT_NAMES[asking.transport], asking.listener, asking.rule_state.tags,
                asking.stream if asking.fd == STREAM else 0)

    def server_name(self, bytes client) -> str:
        """Return the name that a client with TLS asked for, in lower case; "" where it asked none, or has left."""
        cdef Client asking = self._client(client)
        if asking.fd != STREAM or not has_server_name(asking.transport):
            return ""
        return self.outbox.server_name(asking.stream).decode("ascii", "backslashreplace")

    # ------------------------------------------------------------ misses that a function answers

    cdef int let_function_answer(self, int32_t i, uint64_t now) except -1:
        """Let a function of Python's answer a pending query, for all who wait for it."""
        cdef PendingQuery* pending = &self.queries.pool[i]
        pending.stage = DECIDING
        self.handled.append((self.queries.handle(i, 0), pending.client.rule_state.route, pending.wire[:pending.length],
                             (pending.deadline - min(now, pending.deadline)) / 1e9,
                             (<char*> &pending.client)[:sizeof(Client)]))
        return 0

    def take_handled(self) -> list:
        """Return the misses for functions, for `settle` or `give_up`: (handle, route, query, seconds left, client)."""
        taken, self.handled = self.handled, []
        return taken

    def settle(self, uint64_t handle, bytes response not None) -> bool:
        """End a miss with what a function answered; False: it is over already, or this is no answer to it."""
        cdef:
            Query query
            Response received
            int32_t i = self.queries.held(handle)
            uint64_t now = self.cache.clock.now()
        if i < 0 or self.queries.pool[i].stage != DECIDING or len(response) > MESSAGE_MAX:
            return False
        if not self.resolution.read(i, &query, &received, response, len(response), True, now):
            return False
        self.resolution.resolve(i, -1, &query, &received, now)
        self.outbox.flush()
        return True

    def give_up(self, uint64_t handle) -> None:
        """Say that a function has no answer."""
        cdef int32_t i = self.queries.held(handle)
        if i >= 0 and self.queries.pool[i].stage == DECIDING:
            self.resolution.fail(i, self.cache.clock.now())
            self.outbox.flush()

    def turn_away(self, handle: int) -> None:
        """Say that there is no time for a function's answer: all who wait get what is stale, or REFUSED, or nothing."""
        cdef int32_t i = self.queries.held(handle)
        if i >= 0 and self.queries.pool[i].stage == DECIDING:
            self.resolution.reject_all(i, self.cache.clock.now())
            self.outbox.flush()

    # ------------------------------------------------------------ responses

    @property
    def has_stopped_responses(self) -> bool:
        """Tell whether responses stopped at a rule."""
        return len(self.resolution.stopped_responses) > 0

    def take_stopped_responses(self) -> list:
        """Return the responses that stopped at a rule, as (handle, node, generation, query, response, client)."""
        taken, self.resolution.stopped_responses = self.resolution.stopped_responses, []
        return taken

    def conclude(self, uint64_t handle, bytes response, uint32_t at, uint16_t generation) -> bool:
        """Let a response go on at a node of its chain, changed or not; None: as if it had not come.

        False: the query is over already. What is no answer to it is as if it had not come.
        """
        cdef:
            Query query
            Response received
            RuleState rule_state
            const Program* program = self.resolution.program()
            int32_t i = self.queries.held(handle)
            uint64_t now = self.cache.clock.now()
        if i < 0 or self.queries.pool[i].stage != DECIDING or self.queries.pool[i].by_function:
            return False
        rule_state = self.queries.pool[i].response_state
        rule_state.stopped = False
        self.queries.pool[i].stage = SENT
        self.resolution.attempts.schedule(i, self.queries.pool[i].try_until)
        if (response is None or len(response) > MESSAGE_MAX
                or not self.resolution.read(i, &query, &received, response, len(response), True, now)):
            self.resolution.ignore(i, now)
        elif at == END or program == NULL or program.generation != generation:
            self.resolution.finish_by_rules(i, -1, &query, &received, &rule_state, now)
        else:
            rule_state.at, rule_state.generation = at, generation
            self.resolution.run(i, -1, &query, &received, &rule_state, now)
        self.outbox.flush()
        return True
