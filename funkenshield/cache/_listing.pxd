"""Entries as an operator sees them: what each is, and which there are, in pieces that hold nobody up."""

from libc.stdint cimport uint32_t

from ._entry cimport Answer
from ._index cimport Index


cdef dict describe(const Index* index, const Answer* answer, uint32_t now)
