"""What rules leave to Python, and how queries go on from there."""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from .._fastpath cimport SettingsWriter
from ..cache._store cimport Cache
from ._admission cimport Admission
from ._client_replies cimport ClientReplies
from ._outbox cimport Client, Outbox
from ._pending cimport PendingQueries
from ._resolution cimport Resolution


@cython.final
cdef class PythonRules:
    cdef:
        Cache cache
        readonly SettingsWriter settings_writer
        PendingQueries queries
        ClientReplies replies
        Outbox outbox              # the replies'
        Admission admission
        Resolution resolution
        list stopped_queries, handled

    cdef int take_in(self, const Client* client, const uint8_t* wire, size_t length, uint64_t now) except -1
    cdef bint enter(self, Client* client, const uint8_t* wire, size_t length, bint anew) except -1
    cdef int _stop_query(self, const Client* client, const uint8_t* wire, size_t length) except -1
    cdef Client _client(self, bytes client) except *
    cdef int _go_on(self, Client* client, bytes query, uint32_t at, uint16_t generation, int32_t route) except -1
    cdef int let_function_answer(self, int32_t i, uint64_t now) except -1
