"""How a listener's connections are encrypted: what a worker is given, whatever that is built with."""


cdef class ListenerEncryption:
    """What connections to one listener are encrypted with. Whoever makes one fills in its functions.

    It must live for as long as connections do.
    """
