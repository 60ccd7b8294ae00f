"""Who records what, and the thread that reads it: from all rings into the sinks, without the GIL, start to stop.

    a thread's tap -> its ring -> every few milliseconds: each event into the buffers of those who want it -> pump

What holds for the sinks is replaced as a whole, by epoch, as all settings are. A sink that is in it no more is sent
what is left by this thread, for a while: no other one writes. While nobody listens, there is no record, and the thread
sleeps.
"""

cimport cython
from libc.errno cimport errno
from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from posix.unistd cimport close, read, usleep, write

from ..core._atomic cimport (
    load_acquire, load_pointer, load_relaxed, load_relaxed32, store_pointer, store_relaxed, store_release
)
from ..core._clock cimport Clock
from ..core._epochs cimport READERS_MAX, Epochs, enter, leave
from ..core._epoll cimport EFD_CLOEXEC, EFD_NONBLOCK, POLLIN, eventfd, poll, pollfd
from ..core._limits cimport LISTENERS_MAX, SINKS_MAX, UPSTREAMS_MAX
from ..core._memory cimport zeros
from ..core._random cimport draw_secret
from ..core._spsc_ring cimport Ring, ring_next, ring_sleep, ring_taken
from ..policy._rule_state cimport CHAINS, KIND_ASKED, KIND_EXCHANGE, KINDS, ClientInfo
from ..wire._message cimport MESSAGE_MAX
from ._event cimport NAMED, Event, Tap, Wanted
from ._output cimport close_sink, end, is_wanted, next_look, pump, put_event
from ._sink cimport (
    ADDRESS_MAX, ALL_SINKS_MAX, BUFFER, COLLECTOR, DESCRIPTOR, DNSTAP, FILE, IDENTITY_MAX, JSON_LINES, OPEN, TEXT_LINES,
    TITLE_MAX, ZONES_MAX, Form, Known, Peer, Place, Plan, Sink
)
from ._top cimport Sketches, count_event, listed, try_lock, turn, unlock

cdef enum:
    ROUND = 4                      # milliseconds between two looks at the rings, while something comes
    SELDOM = 1000                  # at most, while nothing comes
    TRY = 100                      # microseconds between two tries to be alone with the sketches
    SOON = 20                      # until sinks that end are looked at again

cdef uint64_t LAST = <uint64_t> 2000000000  # nanoseconds that sinks have to end, all together
cdef uint64_t ALL = <uint64_t> 1 << 32  # of 2**32 queries
cdef uint64_t COUNTED = (<uint64_t> 1 << KIND_ASKED) - 1  # what becomes of clients' queries

FORMS = {"dnstap": DNSTAP, "json": JSON_LINES, "text": TEXT_LINES}
PLACES = {"descriptor": DESCRIPTOR, "file": FILE, "collector": COLLECTOR}
ENDING_MAX = ALL_SINKS_MAX - SINKS_MAX


@cython.final
cdef class Output:
    """A sink, as Python knows it.

    Memory ownership: its buffer, and whatever it opens, are its own.
    """

    cdef Sink sink

    def __cinit__(self, *, str form not None, str place not None, bytes address not None=b"", int fd=-1,
                  bint is_socket=False, kinds=(), double sample=1.0, types=(), uint8_t ipv4=32, uint8_t ipv6=128,
                  bytes zones not None=b"", bytes identity not None=b"") -> None:
        """Make a sink of a form (dnstap, json, text) that goes to a place (descriptor, file, collector).

        `address` is a sockaddr or a path, `types` are the numbers of dnstap messages, `zones` names on the wire in
        lower case, `identity` the fields that each dnstap message begins with. Raises ValueError where one is too long.
        """
        if len(address) >= ADDRESS_MAX or len(zones) > ZONES_MAX or len(identity) > IDENTITY_MAX:
            raise ValueError("too long")
        self.sink.fd = fd
        self.sink.octets = <uint8_t*> zeros(BUFFER, 1)
        self.sink.form, self.sink.place = <Form> <int> FORMS[form], <Place> <int> PLACES[place]
        self.sink.is_socket = is_socket or self.sink.place == COLLECTOR
        memcpy(self.sink.address, <const uint8_t*> address, len(address))
        self.sink.address_length = <uint32_t> len(address)
        self.sink.kinds = sum({1 << kind for kind in kinds})
        self.sink.types = sum({1 << number for number in types})
        self.sink.chance = <uint64_t> (min(max(sample, 0.0), 1.0) * 4294967296.0)
        self.sink.ipv4, self.sink.ipv6 = ipv4, ipv6
        memcpy(self.sink.zones, <const uint8_t*> zones, len(zones))
        self.sink.zones_length = <uint16_t> len(zones)
        memcpy(self.sink.identity, <const uint8_t*> identity, len(identity))
        self.sink.identity_length = <uint16_t> len(identity)

    def __dealloc__(self) -> None:
        close_sink(&self.sink)
        free(self.sink.octets)

    @property
    def is_open(self) -> bool:
        """Tell whether what is written gets somewhere."""
        return load_relaxed32(&self.sink.state) == OPEN

    @property
    def error(self) -> int:
        """Return why it could not be opened, or was lost, as an errno; 0: it says nothing."""
        return load_relaxed32(&self.sink.error)

    @property
    def is_over(self) -> bool:
        """Tell whether it has ended: what was left then is lost."""
        return load_acquire(&self.sink.over) != 0

    def counters(self) -> dict:
        """Return how many lines, or messages of dnstap, were written, lost, wait, and had to leave out their octets.

        And how often it was opened, and failed.
        """
        return {
            "written": load_relaxed(&self.sink.written), "lost": load_relaxed(&self.sink.lost),
            "waiting": load_relaxed(&self.sink.waiting), "shortened": load_relaxed(&self.sink.shortened),
            "opened": load_relaxed(&self.sink.opened), "failed": load_relaxed(&self.sink.failed),
        }


@cython.final
cdef class _InForce:
    """A plan, and the sinks and names that it leads to."""

    cdef:
        Plan plan
        tuple outputs, names           # of all sinks, also those that end


cdef int _set_peer(Peer* peer, bytes address, uint16_t port, uint8_t transport, bytes name, uint64_t now) except -1:
    """Say who has a number; another one had it before `now`, unless it was free."""
    cdef bint is_same = ((<char*> peer.address)[:peer.octets], peer.port) == (address, port)
    if not is_same and (peer.octets or peer.port):
        peer.since = now
    peer.octets = <uint8_t> len(address)
    memcpy(peer.address, <const uint8_t*> address, peer.octets)
    peer.port, peer.transport = port, transport
    peer.length = <uint8_t> min(len(name), TITLE_MAX)
    memcpy(peer.name, <const uint8_t*> name, peer.length)
    return 0


cdef class Recorder:
    """The taps of all threads, and the sinks.

    Memory ownership: rings and the descriptor are its own; who records must be gone before it.
    """

    def __cinit__(self, Clock clock not None) -> None:
        self.wake_fd = -1
        self.clock, self.epochs, self.taps = clock, Epochs(), []
        self.reader = self.epochs.join()
        self.held = _InForce()
        self.plan = &(<_InForce> self.held).plan
        self.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self.wake_fd < 0:
            raise OSError(errno, "no descriptor for who reads events")

    def __dealloc__(self) -> None:
        cdef uint64_t k
        free(self.sketches)
        for k in range(self.ring_count):
            free(self.rings[k])
        if self.wake_fd >= 0:
            close(self.wake_fd)

    # ------------------------------------------------------------ for the control thread

    cdef Tap join(self):
        """Return the tap of one more thread. Caller must ensure that it is used no more when this is gone."""
        cdef Tap tap = Tap()
        if self.ring_count == READERS_MAX:
            raise ValueError(f"at most {READERS_MAX} threads record events")
        tap.clock, tap.wanted, tap.wake_fd = self.clock, &self.wanted, self.wake_fd
        tap.random = self.clock.wall() ^ self.ring_count << 32
        tap.offset = self.clock.wall() - self.clock.now()
        tap.ring = self.rings[self.ring_count] = <Ring*> zeros(1, sizeof(Ring))
        tap.ring.asleep = 1  # whoever reads did not hear of it yet
        self.taps.append(tap)
        store_release(&self.ring_count, self.ring_count + 1)
        return tap

    def configure(self, tuple outputs not None, *, dict listeners=None, dict upstreams=None,
                  uint16_t generation=0, tuple rules=()) -> None:
        """Let events go to these sinks from now on; those that were there before go on as they are.

        Listeners and upstreams, by number, are (address of 4 or 16 octets, port, transport's number, name as it is
        written). `rules` are names of rules as they are written, by chain. Raises ValueError where there are too many.
        """
        cdef:
            _InForce made = _InForce()
            const Known* before = &(<_InForce> self.held).plan.known
            uint64_t now = self.clock.wall()
        if len(outputs) > SINKS_MAX or len(outputs) + len(self._left_out(outputs)) > ALL_SINKS_MAX:
            raise ValueError(f"at most {SINKS_MAX} sinks, {ALL_SINKS_MAX} with those that end")
        made.plan.known = before[0]  # who had a number is known as long as nobody else has it
        for number, (address, port, transport, name) in (listeners or {}).items():
            _set_peer(&made.plan.known.listeners[_within(number, LISTENERS_MAX)], address, port, transport, name, now)
        for number, (address, port, transport, name) in (upstreams or {}).items():
            _set_peer(&made.plan.known.upstreams[_within(number, UPSTREAMS_MAX)], address, port, transport, name, now)
        made.plan.known.generation = generation
        made.names = tuple(b"".join([name[:TITLE_MAX].ljust(TITLE_MAX, b"\0") for name in chain]) for chain in rules)
        for number in range(CHAINS):
            names = made.names[number] if number < len(made.names) else b""
            made.plan.known.rules[<int> number] = <const char*> <bytes> names
            made.plan.known.rule_counts[<int> number] = <uint32_t> (len(names) // TITLE_MAX)
        self._put_in_force(made, outputs)
        self._set_wanted()

    cdef tuple _left_out(self, tuple outputs):
        """Return those of all that there are that are not among these, and have not ended yet."""
        before = (<_InForce> self.held).outputs or ()
        return tuple([each for each in before if each not in outputs and not each.is_over])

    cdef void _put_in_force(self, object replacement, tuple outputs) except *:
        """Tell these sinks from now on, and have those end that were told before."""
        cdef:
            _InForce made = replacement
            Output output
            uint64_t kinds = 0
            uint64_t chance = 0
            uint64_t octets = NAMED
            uint64_t queries = 0
        made.outputs = outputs + self._left_out(outputs)
        made.plan.count, made.plan.total = <uint32_t> len(outputs), <uint32_t> len(made.outputs)
        for number, output in enumerate(made.outputs):
            made.plan.sinks[<int> number] = &output.sink
        for output in outputs:
            kinds |= output.sink.kinds
            chance = max(chance, output.sink.chance)
            if output.sink.form == DNSTAP:
                octets = MESSAGE_MAX
                queries |= output.sink.types & (1 << 5 | 1 << 13)
        before, self.held = self.held, made
        store_pointer(&self.plan, &made.plan)
        self.of_sinks = Wanted(kinds, chance, octets, queries)
        self.epochs.retire(before)
        self._wake()

    @property
    def ending(self) -> tuple:
        """The outputs that are told of nothing more, and have not ended yet."""
        cdef _InForce held = self.held
        return tuple([each for each in (held.outputs or ())[held.plan.count:] if not each.is_over])

    cdef void _set_wanted(self) noexcept:
        """Say what is recorded: what the sinks want, and each query while sketches are watched."""
        cdef bint watched = self.clock.now() < load_relaxed(&self.watched_until)
        store_relaxed(&self.wanted.chance, ALL if watched else self.of_sinks.chance)
        store_relaxed(&self.wanted.octets, self.of_sinks.octets)
        store_relaxed(&self.wanted.queries, self.of_sinks.queries)
        store_relaxed(&self.wanted.kinds, self.of_sinks.kinds | (COUNTED if watched else 0))

    def watch(self, double seconds) -> None:
        """Count what is asked for most for so many seconds from now on; the thread must be running."""
        if self.sketches == NULL:
            self.sketches = <Sketches*> zeros(1, sizeof(Sketches))
            draw_secret(&self.sketches.secret)
        store_release(&self.watched_until, self.clock.now() + <uint64_t> (seconds * 1e9))
        self._set_wanted()

    def top(self, uint32_t most) -> dict:
        """Return what was asked for most in the last five to ten seconds of those that were watched; see `_top.listed`.

        It is {} where nothing was watched yet.
        """
        if self.sketches == NULL:
            return {}
        self._lock()  # who has it needs no GIL
        try:
            return listed(self.sketches, self.clock.now(), most)
        finally:
            unlock(self.sketches)

    def record(self, uint8_t kind, bytes query not None, bytes response not None, *, bytes address not None,
               uint16_t port=0, uint8_t transport=0, uint8_t listener=0, int16_t upstream=-1, double took=0.0,
               uint32_t draw=1) -> bool:
        """Record an event as a worker would, from this thread: b"" is a message that is not there.

        False: nobody wants it, or there was no room for it. It took so many seconds. Raises ValueError where a message
        is too long, the address is none, or a number is too large.
        """
        cdef:
            ClientInfo client
            Event* event
        if max(len(query), len(response)) > MESSAGE_MAX or len(address) not in (4, 16):
            raise ValueError("messages have at most 65535 octets, addresses 4 or 16")
        _within(kind, KINDS)
        _within(listener, LISTENERS_MAX)
        if upstream >= 0 or kind == KIND_EXCHANGE:
            _within(upstream, UPSTREAMS_MAX)
        if self.own is None:
            self.own = self.join()
        memset(&client, 0, sizeof(ClientInfo))
        client.address, client.octets, client.transport = address, <uint8_t> len(address), transport
        client.now, client.listener, client.draw = self.clock.now() - <uint64_t> (took * 1e9), listener, draw
        event = self.own.note(kind, &client, query, len(query), response, len(response))
        if event != NULL:
            event.port, event.upstream = port, upstream
        self.own.publish()
        return event != NULL

    def reopen(self) -> None:
        """Have files opened again: what was there before was moved away."""
        store_relaxed(&self.reopened, self.reopened + 1)
        self._wake()

    def reclaim(self) -> None:
        """Free what was replaced, close sinks that are no more, and end what is watched no more; once a second."""
        cdef:
            _InForce held = self.held
            _InForce made
        if held.plan.total > held.plan.count + len(self.ending):
            made = _InForce()
            made.names, made.plan.known = held.names, held.plan.known
            self._put_in_force(made, held.outputs[:held.plan.count])
        self.epochs.reclaim()
        self._set_wanted()

    @property
    def memory_limit(self) -> int:
        """Return the octets that events may take as things are: rings, sinks' buffers, sketches; 0: nobody listens."""
        cdef size_t octets = 0 if self.sketches == NULL else sizeof(Sketches)
        outputs = (<_InForce> self.held).outputs or ()
        if outputs or octets:
            octets += self.ring_count * sizeof(Ring) + <size_t> len(outputs) * BUFFER
        return octets

    @property
    def lost(self) -> int:
        """Return how many events found no room in their ring."""
        cdef Tap tap
        return sum([load_relaxed(&tap.lost) for tap in self.taps])

    def stop(self) -> None:
        """Have `run` write what it can, and return."""
        store_release(&self.stopped, 1)
        self._wake()

    cdef void _wake(self) noexcept nogil:
        cdef uint64_t one = 1
        write(self.wake_fd, &one, 8)

    # ------------------------------------------------------------ the thread

    def run(self) -> None:
        """Read events until `stop`; called in a thread of its own, which needs no GIL meanwhile."""
        with nogil:
            while not load_acquire(&self.stopped):
                self._serve()
            self._finish()

    cdef void _serve(self) noexcept nogil:
        """Take what there is, have it sent, and wait for more."""
        cdef:
            const Plan* plan
            bint taken
            int patience = SELDOM
            uint32_t k
            uint64_t now = self.clock.now()
        enter(self.reader)
        plan = <const Plan*> load_pointer(&self.plan)
        taken = self._drain(plan, now)
        for k in range(plan.count):
            pump(plan.sinks[k], now, load_relaxed(&self.reopened))
            patience = min(patience, next_look(plan.sinks[k], now))
        for k in range(plan.count, plan.total):
            if not end(plan.sinks[k], now, now + LAST):
                patience = SOON
        leave(self.reader)
        self._wait(taken, patience)

    cdef void _wait(self, bint taken, int patience) noexcept nogil:
        """Let something come together; where nothing came, be woken by what does, or after so many milliseconds."""
        cdef:
            pollfd watched
            uint64_t count, k
        watched.fd, watched.events = self.wake_fd, POLLIN
        if not taken:
            for k in range(load_acquire(&self.ring_count)):
                if not ring_sleep(self.rings[k]):
                    return
        if poll(&watched, 1, min(patience, <int> ROUND) if taken else patience) > 0:
            read(self.wake_fd, &count, 8)

    cdef bint _drain(self, const Plan* plan, uint64_t now) noexcept nogil:
        """Give the events of all rings to those who want them; tell whether there were any."""
        cdef:
            bint taken = False
            Ring* ring
            uint64_t head
            uint64_t k = load_acquire(&self.ring_count)
            uint32_t size, s
            const Event* event
            bint counts = now < load_acquire(&self.watched_until)
        for s in range(plan.count):
            plan.sinks[s].is_blocked = False
        if counts:
            self._lock()
            turn(self.sketches, now)
            unlock(self.sketches)
        while k:  # the control thread's is the first: what came to a worker is older than what became of it there
            k -= 1
            ring = self.rings[k]
            head = load_acquire(&ring.head)  # what comes meanwhile is for the next time
            while load_relaxed(&ring.tail) < head:
                event = <const Event*> ring_next(ring, &size)
                if event == NULL:
                    break
                for s in range(plan.count):
                    if is_wanted(plan.sinks[s], event):
                        put_event(plan.sinks[s], &plan.known, event)
                if counts and COUNTED >> event.kind & 1:
                    self._lock()  # for this alone: whoever looks does not wait for a disk
                    count_event(self.sketches, event)
                    unlock(self.sketches)
                ring_taken(ring, size)
                taken = True
        return taken

    cdef void _lock(self) noexcept nogil:
        """Wait until nobody looks at the sketches, which takes less than a millisecond."""
        while not try_lock(self.sketches):
            usleep(TRY)

    cdef void _finish(self) noexcept nogil:
        """Have all sinks end, within so long for all of them together."""
        cdef:
            const Plan* plan
            uint64_t now = self.clock.now()
            uint64_t until = now + LAST
        enter(self.reader)
        plan = <const Plan*> load_pointer(&self.plan)
        self._drain(plan, now)
        while not _have_ended(plan, self.clock.now(), until):
            usleep(ROUND * 1000)
        leave(self.reader)


cdef bint _have_ended(const Plan* plan, uint64_t now, uint64_t until) noexcept nogil:
    """Go on with ending all sinks of a plan; tell whether all are over."""
    cdef:
        bint all_over = True
        uint32_t k
    for k in range(plan.total):
        all_over &= end(plan.sinks[k], now, until)
    return all_over


cdef uint32_t _within(number, uint32_t most) except? 0:
    """Return a number that is less than `most`; ValueError where it is not."""
    if not 0 <= number < most:
        raise ValueError(f"{number} is not less than {most}")
    return number
