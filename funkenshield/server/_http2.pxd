"""DNS over HTTPS by HTTP/2 for clients: what a listener's requests are judged by, and what is done with a session."""

cimport cython

from ..cache._store cimport Cache
from ._http cimport ListenerHttp


@cython.final
cdef class Http2Listener(ListenerHttp):
    cdef:
        Cache cache
        object in_force            # what its manner is kept in
