"""How a listener's connections are encrypted, as their worker sees it: functions, all of which need no GIL.

A connection that is encrypted has a session, which only these functions know. Where nothing is encrypted, or what it
takes is not built in, there is no such struct.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    SOCKET_MAX = 4096              # octets that are read of a socket at once
    INPUT_MAX = 16384 + SOCKET_MAX  # that these can be the last of: one record (RFC 8446 5.1), and those behind it

cdef enum Progress:                # of a handshake
    HANDSHAKE_DONE
    AWAITS_INPUT
    AWAITS_OUTPUT                  # until the kernel takes more
    HANDSHAKE_FAILED

cdef struct HandshakeCounters:     # counters with one writer; failed ones by reason
    uint64_t full
    uint64_t resumed
    uint64_t closed                # by the client, who said nothing of why
    uint64_t crowded               # to make room for others
    uint64_t timeout
    uint64_t alert                 # by the client, who did not like what he got
    uint64_t version               # he speaks none of ours
    uint64_t cipher
    uint64_t protocol              # he came for something else than is spoken here
    uint64_t not_tls               # what came was something else
    uint64_t other
    uint64_t version_1_2           # of handshakes that did not fail
    uint64_t version_1_3

cdef struct Encryption:
    const void* contexts           # what new sessions are made of; replaced as a whole
    void* (*begin)(const Encryption* encryption, int fd) noexcept nogil  # NULL: there is no memory
    Progress (*handshake)(void* session, uint64_t wall, HandshakeCounters* counts) noexcept nogil
    # As read(2) and write(2) on a socket that does not block, with their errors. To read takes room for INPUT_MAX
    # octets, and leaves nothing that could be read now elsewhere than in the socket; `ended`: nothing follows.
    ssize_t (*read)(void* session, uint8_t* octets, size_t room, bint* ended) noexcept nogil
    ssize_t (*write)(void* session, const uint8_t* octets, size_t length) noexcept nogil
    const char* (*server_name)(void* session) noexcept nogil  # that the client asked for; NULL: none
    void (*end)(void* session) noexcept nogil


cdef class ListenerEncryption:
    cdef Encryption encryption
