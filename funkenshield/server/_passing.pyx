"""Connections on their way from one process to the next: what is known of each, and how another worker goes on."""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memcpy
from posix.unistd cimport close as close_fd, dup

from ..core._epoll cimport EPOLLIN, EPOLL_CTL_ADD, EPOLL_CTL_DEL, epoll_ctl, epoll_event
from ..policy._rule_state cimport OVER_TCP
from ._connections cimport STALLED, Connection, Connections, can_be_passed_on, number_of


def let_go(Connections connections not None) -> list:
    """Return the connections on which nobody waits for an answer, and forget them: another process can go on.

    Each is a descriptor, which is the caller's, the listener's number, the client's address, the one that it asked,
    both ports, and octets that were read, and not taken. They are of listeners without TLS and HTTP, whose state is
    in no socket. Caller must ensure that the worker does not run.
    """
    cdef:
        Connection* connection
        int32_t place
        list found = []
    for place in range(connections.places):
        connection = connections.at(place)
        if connection.fd < 0 or not can_be_passed_on(connection) or connection.in_flight:
            continue
        if connection.head.unsent or connection.closing or connection.transfers:
            continue
        fd = dup(connection.fd)
        if fd < 0:  # there are no more: it ends here, as others do
            continue
        found.append((
            fd, connection.listener, (<char*> connection.address)[:connection.octets],
            (<char*> connection.to)[:connection.to_octets], connection.port, connection.to_port,
            b"" if connection.input.octets == NULL
            else (<char*> connection.input.octets)[connection.input.begin:connection.input.end],
        ))
        # Else we would be told of what another one has to read: the file stays open, and is known by this number.
        epoll_ctl(connections.epoll_fd, EPOLL_CTL_DEL, connection.fd, NULL)
        connections.close(connection)
    return found


def resume(Connections connections not None, tuple passed not None) -> bool:
    """Go on with a connection that `let_go` returned in another process, if it may be; False: it is closed."""
    cdef:
        Connection* connection
        bytes address, to, octets
        epoll_event event
    fd, listener, address, to, port, to_port, octets = passed
    connection = connections.insert(fd, listener, connections.clock.now())
    if connection == NULL:
        close_fd(fd)
        return False
    connection.port, connection.to_port, connection.transport = port, to_port, OVER_TCP
    connection.to_octets, connection.events = <uint8_t> min(len(to), 16), EPOLLIN
    memcpy(connection.to, <char*> to, connection.to_octets)
    event.events, event.data.number = EPOLLIN, number_of(connection)
    if (address and not connections.admit(connection, address, <uint8_t> min(len(address), 16))
            or octets and not connections.reserve(connection, &connection.input, <uint32_t> len(octets))
            or epoll_ctl(connections.epoll_fd, EPOLL_CTL_ADD, fd, &event)):
        connections.close(connection)
        return False
    if octets:
        memcpy(connection.input.octets, <char*> octets, len(octets))
        connection.input.end = <uint32_t> len(octets)
    connections.append(connection, STALLED)
    return True
