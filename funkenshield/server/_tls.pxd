"""DNS over TLS for clients: what a listener's sessions are made of, and what is done with each."""

cimport cython

from ..cache._store cimport Cache
from ._encryption cimport ListenerEncryption


@cython.final
cdef class TlsListener(ListenerEncryption):
    cdef:
        Cache cache
        object in_force            # what its contexts are kept in
