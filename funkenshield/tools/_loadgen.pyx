"""The load tester's engine: keep a window of queries outstanding at a server over UDP, and time the responses.

It knows sockets, message IDs, the octets of a question and a histogram. It does not know names, types,
files or reports: it is given whole messages and overwrites their IDs. One thread drives a `Load`.
"""

import ipaddress
import os
import socket

from cpython.exc cimport PyErr_CheckSignals
from cython cimport final
from libc.errno cimport EAGAIN, ECONNREFUSED, EINTR, ENOBUFS, errno
from libc.stdint cimport UINT64_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy
from posix.time cimport timespec
from posix.unistd cimport close

from ..wire._message cimport HEADER, QR, RCODE, TC, message_flags, question_end


def _check(str name, value, low, high) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be {low} to {high}, not {value}")


@final
cdef class Load:
    """Send queries in turn, for ever or up to a limit, with at most `window` outstanding at any time.

    A latency runs from before the batch of the query is sent until the batch of its response is received.
    With a rate, what a full window held back is caught up on. Memory ownership: the messages are copied;
    they, the table of IDs and the sockets are released with the object.
    """

    cdef:
        Query* queries             # at least a batch, so that no batch holds one twice
        uint8_t* wires
        Slot* slots                # socket by socket; one more, number `ring`, heads the ring of outstanding ones
        uint32_t ring, count, window, batch, sockets
        uint32_t cursor, turn      # the query to send next, and the socket to send it from
        uint64_t left              # queries yet to send
        uint64_t timeout           # nanoseconds
        double interval            # nanoseconds between queries; 0 is as fast as the window lets
        int error
        Counters counts
        uint64_t[BUCKETS] histogram
        pollfd[MOST_SOCKETS] polled
        uint16_t[MOST_SOCKETS] next_id
        mmsghdr[MOST_BATCH] leaving, arrived
        iovec[MOST_BATCH] parts
        uint8_t[MOST_BATCH][HEAD] heads

    def __cinit__(self, queries, str host, port, *, window=100, timeout=5.0, sockets=4, batch=MOST_BATCH,
                  rate=0.0, limit=0) -> None:
        _check("port", port, 1, 65535)
        _check("window", window, 1, MOST_OPEN)
        _check("timeout", timeout, 0.001, 3600)
        _check("sockets", sockets, 1, MOST_SOCKETS)
        _check("batch", batch, 1, MOST_BATCH)
        _check("rate", rate, 0, 1e9)
        _check("limit", limit, 0, 1 << 62)
        if not queries:
            raise ValueError("there is no query to send")
        self.window = window
        self.batch = batch
        self.timeout = <uint64_t> (<double> timeout * NANOSECONDS)
        self.interval = NANOSECONDS / <double> rate if rate else 0
        self.left = limit or UINT64_MAX
        self.counts.least = UINT64_MAX
        self._copy(list(queries) * (1 + (MOST_BATCH - 1) // len(queries)))
        self._connect(ipaddress.ip_address(host), port, sockets)

    cdef int _copy(self, list wires) except -1:
        cdef uint8_t* end
        cdef Query* query
        cdef bytes wire
        end = self.wires = <uint8_t*> malloc(sum(map(len, wires)))
        query = self.queries = <Query*> malloc(len(wires) * sizeof(Query))
        if self.wires == NULL or self.queries == NULL:
            raise MemoryError
        for wire in wires:
            query.wire.iov_base = end
            query.wire.iov_len = len(wire)
            if len(wire) < HEADER or question_end(wire, len(wire)) <= HEADER:
                raise ValueError(f"query {self.count} is not a DNS message with one question")
            query.question = question_end(wire, len(wire)) - HEADER
            memcpy(end, <const uint8_t*> wire, query.wire.iov_len)
            end += query.wire.iov_len
            query += 1
            self.count += 1
        return 0

    cdef int _connect(self, address, port, uint32_t sockets) except -1:
        cdef int i
        self.ring = sockets * IDS
        self.slots = <Slot*> calloc(self.ring + 1, sizeof(Slot))
        if self.slots == NULL:
            raise MemoryError
        self.slots[self.ring].older = self.slots[self.ring].newer = self.ring
        for i in range(MOST_BATCH):
            self.parts[i].iov_base = self.heads[i]
            self.parts[i].iov_len = HEAD
            self.arrived[i].msg_hdr.msg_iov = &self.parts[i]
            self.arrived[i].msg_hdr.msg_iovlen = self.leaving[i].msg_hdr.msg_iovlen = 1
        while self.sockets < sockets:
            with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6,
                               socket.SOCK_DGRAM) as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
                s.setblocking(True)
                s.connect((str(address), port))
                self.polled[self.sockets].fd = s.detach()
            self.polled[self.sockets].events = POLLIN
            self.sockets += 1
        return 0

    def __dealloc__(self) -> None:
        cdef uint32_t i
        for i in range(self.sockets):
            close(self.polled[i].fd)
        free(self.slots)
        free(self.queries)
        free(self.wires)

    def run(self, seconds) -> bool:
        """Send and receive for so many seconds, or until a signal; return whether there is more to do.

        Raises OSError if sending fails for another reason than that nobody listens.
        """
        cdef Status status
        cdef uint64_t until
        _check("seconds", seconds, 0, 1e9)
        until = now_ns() + <uint64_t> (<double> seconds * NANOSECONDS)
        with nogil:
            status = self._pump(until)
        if status == BROKEN:
            raise OSError(self.error, os.strerror(self.error))
        return status != DONE

    def drain(self) -> None:
        """Send no more, and wait until what is outstanding is answered or, after the timeout, lost."""
        self.left = 0
        while self.run(0.25):
            PyErr_CheckSignals()

    def snapshot(self) -> dict:
        """Return the counters so far, by the names in `Counters`; times and latencies in nanoseconds."""
        return self.counts

    def percentile(self, double percent) -> int:
        """Return the latency that so many per cent do not exceed: nanoseconds within 1.6 %, 0 for none."""
        cdef uint64_t seen = 0
        cdef int bucket
        _check("percent", percent, 0, 100)
        for bucket in range(BUCKETS):
            seen += self.histogram[bucket]
            if seen and <double> seen >= self.counts.answered * percent / 100:
                return max(self.counts.least, min(self.counts.most, middle_of(bucket)))
        return 0

    cdef Status _pump(self, uint64_t until) noexcept nogil:
        """Go round until the time comes, or a signal: send a batch, wait, receive from each socket."""
        cdef uint32_t i
        cdef uint64_t now = now_ns()
        if self.counts.began == 0:
            self.counts.began = self.counts.ended = now
        while True:
            if self._send(now) == BROKEN:
                return BROKEN
            if self.counts.outstanding == 0 and self.left == 0:
                return DONE
            if now >= until or self._wait(now, until) < 0:
                return GOING
            for i in range(self.sockets):
                if self.polled[i].revents:
                    self._receive(i)
            now = now_ns()
            self._expire(now)

    cdef int _allowed(self, uint64_t now) noexcept nogil:
        """Return how many queries the batch, the window, the limit and the rate let go now."""
        cdef uint64_t due = UINT64_MAX
        if self.interval > 0:
            due = <uint64_t> (<double> (now - self.counts.began) / self.interval) + 1
        if due <= self.counts.sent:
            return 0
        return <int> min(self.batch, due - self.counts.sent, self.window - self.counts.outstanding, self.left)

    cdef Status _send(self, uint64_t now) noexcept nogil:
        """Send what is allowed in one batch from the socket whose turn it is."""
        cdef:
            int i, _unsent, sent, count = self._allowed(now)
            uint32_t base = self.turn * IDS
            uint16_t id = self.next_id[self.turn]
            Query* query
        if count == 0:
            return GOING
        for i in range(count):
            while self.slots[base + id].state == OPEN:
                id += 1
            query = &self.queries[self.cursor]
            memcpy(query.wire.iov_base, &id, sizeof(id))
            self.leaving[i].msg_hdr.msg_iov = &query.wire
            self._add_outstanding(base + id, now)
            id += 1
        sent = sendmmsg(self.polled[self.turn].fd, self.leaving, <unsigned int> count, 0)
        self.error = errno if sent < 0 else 0
        sent = max(sent, 0)
        for _unsent in range(sent, count):         # take back what did not leave: the newest of the ring
            self.cursor = self.slots[self.slots[self.ring].older].query
            self._close(self.slots[self.ring].older, FREE)
        self.next_id[self.turn] = id
        self.turn = (self.turn + 1) % self.sockets
        self.counts.sent += <uint64_t> sent
        self.left -= <uint64_t> sent
        self.counts.ended = now
        self.counts.refused += self.error == ECONNREFUSED
        return GOING if self.error in (0, ECONNREFUSED, EINTR, EAGAIN, ENOBUFS) else BROKEN

    cdef int _wait(self, uint64_t now, uint64_t until) noexcept nogil:
        """Sleep until a response is there, a query is due or lost, or the time has come; -1 on a signal."""
        cdef timespec nap
        cdef uint64_t wake = until
        if self.counts.outstanding:
            wake = min(wake, self.slots[self.slots[self.ring].newer].sent + self.timeout)
        if self.left and self.counts.outstanding < self.window:
            wake = min(wake, self.counts.began + <uint64_t> (self.counts.sent * self.interval))
        wake = wake - now if wake > now else 0
        nap.tv_sec = wake // NANOSECONDS
        nap.tv_nsec = wake % NANOSECONDS
        return ppoll(self.polled, self.sockets, &nap, NULL)

    cdef void _receive(self, uint32_t number) noexcept nogil:
        """Receive one batch from a socket; all of it arrived now."""
        cdef:
            uint64_t now
            int i
            # MSG_TRUNC: only the head of a response is copied, yet its whole length is told
            int got = recvmmsg(self.polled[number].fd, self.arrived, self.batch, MSG_DONTWAIT | MSG_TRUNC,
                               NULL)
        if got < 0:
            self.counts.refused += errno == ECONNREFUSED
            return
        now = now_ns()
        self._expire(now)
        for i in range(got):
            self._judge(number * IDS, self.heads[i], self.arrived[i].msg_len, now)

    cdef void _judge(self, uint32_t base, const uint8_t* head, size_t length, uint64_t now) noexcept nogil:
        """Count a datagram: as the answer to an outstanding query, as late for a lost one, or as mismatched."""
        cdef uint16_t id
        cdef Slot* slot
        cdef Query* query
        if length < HEADER or not message_flags(head) & QR:
            self.counts.mismatched += 1
            return
        memcpy(&id, head, sizeof(id))
        slot = &self.slots[base + id]
        query = &self.queries[slot.query]
        if (slot.state == FREE or length < HEADER + query.question
                or memcmp(head + HEADER, <uint8_t*> query.wire.iov_base + HEADER, query.question) != 0):
            self.counts.mismatched += 1
        elif slot.state == LOST:
            self.counts.late += 1
            slot.state = FREE                      # a second one is a mismatch
        else:
            self._close(base + id, FREE)
            self._answered(head, length, now, now - slot.sent)

    cdef inline void _answered(self, const uint8_t* head, size_t length, uint64_t now,
                               uint64_t latency) noexcept nogil:
        self.counts.answered += 1
        self.counts.octets += length
        self.counts.truncated += message_flags(head) & TC != 0
        self.counts.rcodes[message_flags(head) & RCODE] += 1
        self.counts.ended = now
        self.counts.least = min(self.counts.least, latency)
        self.counts.most = max(self.counts.most, latency)
        self.counts.total += latency
        self.histogram[bucket_of(latency)] += 1

    cdef void _expire(self, uint64_t now) noexcept nogil:
        """Give up on queries that are outstanding longer than the timeout; the oldest come first."""
        cdef uint32_t oldest = self.slots[self.ring].newer
        while oldest != self.ring and now - self.slots[oldest].sent > self.timeout:
            self._close(oldest, LOST)
            self.counts.lost += 1
            oldest = self.slots[self.ring].newer

    cdef inline void _add_outstanding(self, uint32_t number, uint64_t now) noexcept nogil:
        """Make a slot the newest outstanding one, for the query at the cursor, and move the cursor on."""
        cdef Slot* slot = &self.slots[number]
        slot.state = OPEN
        slot.sent = now
        slot.query = self.cursor
        slot.newer = self.ring
        slot.older = self.slots[self.ring].older
        self.slots[slot.older].newer = self.slots[self.ring].older = number
        self.counts.outstanding += 1
        self.cursor = self.cursor + 1 if self.cursor + 1 < self.count else 0

    cdef inline void _close(self, uint32_t number, State state) noexcept nogil:
        """Take a slot out of the ring, as answered (FREE) or LOST."""
        cdef Slot* slot = &self.slots[number]
        slot.state = state
        self.slots[slot.older].newer = slot.newer
        self.slots[slot.newer].older = slot.older
        self.counts.outstanding -= 1
