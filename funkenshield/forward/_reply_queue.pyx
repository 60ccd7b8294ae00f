"""The way from the control thread to a worker that holds connections: a queue without a bound, and without a lock."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy
from posix.unistd cimport write

from ..core._atomic cimport barrier, copy_words, load_acquire, load_pointer, load_relaxed32

cdef extern from *:
    """
    #define FS_PUSH(newest, reply) do { \\
        (reply)->next = __atomic_load_n((newest), __ATOMIC_RELAXED); \\
    } while (!__atomic_compare_exchange_n((newest), &(reply)->next, (reply), 1, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
    #define FS_TAKE_ALL(newest) __atomic_exchange_n((newest), NULL, __ATOMIC_ACQUIRE)
    """
    void _push "FS_PUSH"(Reply** newest, Reply* reply) noexcept nogil
    Reply* _take_all "FS_TAKE_ALL"(Reply** newest) noexcept nogil


cdef int push_reply(ReplyQueue* queue, uint64_t connection, uint32_t request, int32_t answered,
                    const uint8_t* framed, uint32_t length, bint closes) except -1:
    """Let a worker have a framed message, or none, for one of its connections; it is woken by `wake_worker`."""
    cdef Reply* reply = <Reply*> malloc(sizeof(Reply) + length)
    if reply == NULL:
        raise MemoryError("no memory for a reply")
    reply.connection, reply.request, reply.answered = connection, request, answered
    reply.length, reply.closes = length, closes
    if length:
        memcpy(reply + 1, framed, length)
    _push(&queue.newest, reply)
    queue.count += 1
    queue.pushed = True
    return 0


cdef void wake_worker(ReplyQueue* queue) noexcept nogil:
    """Wake the worker, if there is something new for it."""
    cdef uint64_t one = 1
    if queue.pushed:
        queue.pushed = False
        write(queue.wake_fd, &one, 8)


cdef Reply* take_replies(ReplyQueue* queue) noexcept nogil:
    """Return all that was pushed, the oldest first; its memory is the worker's to free."""
    cdef:
        Reply* newest = _take_all(&queue.newest)
        Reply* oldest = NULL
        Reply* before
    while newest != NULL:
        before = newest.next
        newest.next = oldest
        oldest, newest = newest, before
    return oldest


cdef ConnectionState connection_state(const ReplyQueue* queue, uint64_t connection, uint64_t pushed) noexcept nogil:
    """Tell whether a connection takes more, when `pushed` replies were pushed by the time of the last one for it."""
    cdef:
        uint32_t place = place_of(connection)
        const ConnectionHead* head = <const ConnectionHead*> (
            queue.chunks[place // CHUNK] + place % CHUNK * queue.stride)
    if load_acquire(&queue.taken) < pushed:
        return FULL
    if load_relaxed32(&head.generation) != generation_of_number(connection):
        return GONE
    return FULL if load_relaxed32(&head.unsent) else WRITABLE


cdef bytes server_name_of(const ReplyQueue* queue, uint64_t connection):
    """Return the name that the client of a connection asked for, in lower case; b"" where it is gone, or asked none."""
    cdef:
        uint32_t place = place_of(connection)
        const ServerName* chunk = <const ServerName*> load_pointer(
            <const void* const*> &queue.server_names[place // CHUNK])
        const ServerName* found = chunk + place % CHUNK
        uint64_t generation = <uint64_t> generation_of_number(connection) + 1
        ServerName seen
    if chunk == NULL or load_acquire(&found.generation) != generation:
        return b""
    copy_words(&seen, found, sizeof(ServerName))
    barrier()
    return <bytes> (<const char*> seen.name) if load_acquire(&found.generation) == generation else b""
