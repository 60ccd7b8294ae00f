"""Padding of responses, so that their length tells little about them (RFC 7830, 8467).

It knows the length that a response should have. Who gets one padded is decided by whoever sends it.
"""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy, memset

from ._message cimport (
    HEADER, MESSAGE_MAX, OPTION_DATA, OPTION_LENGTH, OPT_RDLENGTH, PADDING, Record, RecordCursor,
    begin_records, find_opt, get16, has_read_all, question_end, set16
)

cdef enum:
    BLOCK = 468                    # octets (RFC 8467 4.1)


cdef size_t pad_response(uint8_t* wire, size_t length) noexcept nogil:
    """Pad a response to whole blocks, or the longest message, and return its octets; there must be room for that.

    One without an OPT record at its end stays as it is: its client knows no EDNS, or it is signed (TSIG).
    """
    cdef:
        RecordCursor cursor
        Record record
        uint8_t* option = wire + length
        uint16_t options
        size_t padded = (length + OPTION_DATA + BLOCK - 1) // BLOCK * BLOCK
    if length < HEADER or length + OPTION_DATA > MESSAGE_MAX:
        return length
    begin_records(&cursor, wire, length, question_end(wire, length))
    if not find_opt(&cursor, &record) or not has_read_all(&cursor):
        return length
    padded = min(padded, <size_t> MESSAGE_MAX)
    options = get16(wire + record.owner + OPT_RDLENGTH)
    set16(option, PADDING)
    set16(option + OPTION_LENGTH, <uint16_t> (padded - length - OPTION_DATA))
    memset(option + OPTION_DATA, 0, padded - length - OPTION_DATA)
    set16(wire + record.owner + OPT_RDLENGTH, <uint16_t> (options + padded - length))
    return padded


# ---------------------------------------------------------------- for Python

def padded(bytes response not None) -> bytes:
    """Return a response as `pad_response` makes it; of 65,535 octets at most."""
    cdef:
        uint8_t[MESSAGE_MAX] room
        size_t length = min(len(response), <Py_ssize_t> MESSAGE_MAX)
    memcpy(room, <const uint8_t*> response, length)
    return (<char*> room)[:pad_response(room, length)]
