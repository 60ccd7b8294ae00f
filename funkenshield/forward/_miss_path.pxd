"""The miss path, put together: from the workers' rings to upstreams, and back to all who wait."""

cimport cython
from libc.stdint cimport int32_t, uint32_t, uint64_t

from .._fastpath cimport SettingsWriter
from ..cache._store cimport Cache
from ..core._epochs cimport READERS_MAX
from ..core._spsc_ring cimport Ring
from ..events._recorder cimport Recorder
from ..upstream._selection cimport UpstreamTable
from ..upstream._sockets_and_ids cimport Sockets
from ._admission cimport Admission
from ._attempts cimport Attempts
from ._client_replies cimport ClientReplies
from ._outbox cimport Outbox
from ._pending cimport PendingQueries, PendingQuery, Stage
from ._python_rules cimport PythonRules
from ._reply_queue cimport ReplyQueue
from ._resolution cimport Resolution
from ._shared_cache cimport SharedCache
from ._transport cimport Transport


@cython.final
cdef class MissPath:
    cdef:
        readonly Cache cache
        readonly SettingsWriter settings_writer
        readonly Recorder recorder
        PendingQueries queries
        PendingQuery* pool         # the queries'
        ClientReplies replies
        readonly Outbox outbox     # the replies'
        Attempts attempts
        readonly Sockets sockets   # the attempts'
        readonly UpstreamTable upstreams  # the attempts'
        Admission admission
        readonly SharedCache shared
        Resolution resolution
        readonly PythonRules rules
        Transport transport
        Ring* rings[READERS_MAX]
        uint32_t ring_count
        int wake_fd
        uint64_t retries

    cdef Ring* join(self) except NULL
    cdef ReplyQueue* join_connections(self, int wake_fd) except NULL
    cdef void wake(self) noexcept nogil
    cdef int _send(self, int32_t* listed, uint32_t count, Stage stage) except -1
