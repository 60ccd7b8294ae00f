"""Padding of responses, so that their length tells little about them (RFC 7830, 8467)."""

from libc.stdint cimport uint8_t


cdef size_t pad_response(uint8_t* wire, size_t length) noexcept nogil
