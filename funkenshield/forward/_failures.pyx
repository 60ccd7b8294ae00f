"""The last failures that clients felt: which question, whom it was asked, and why there was no answer.

Always kept, for failures are rare; and bounded where they are not: a question that fails again counts, and a flood of
names of one zone takes a few places only.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy

from ..core._memory cimport free, zeros
from ..core._siphash cimport Secret
from ..core._suffix_table cimport last_two_labels, suffix_key
from ..upstream._selection cimport reason_name
from ..wire._message cimport name_size, same_folded


cdef class Failures:
    """So many failures. The control thread alone writes and reads them.

    Memory ownership: all is its own.
    """

    def __cinit__(self) -> None:
        self.kept = <Failure*> zeros(KEPT, sizeof(Failure))

    def __dealloc__(self) -> None:
        free(self.kept)

    cdef void note(self, const Secret* secret, const uint8_t* name, uint16_t qtype, int32_t upstream, uint8_t reason,
                   uint64_t wall) noexcept nogil:
        """Keep a failure, in place of the oldest one; or of its kind, where there are many of that."""
        cdef:
            size_t length = name_size(name)
            size_t size
            const uint8_t* zone = last_two_labels(name, &size)
            uint64_t kind = suffix_key(secret, zone, size) ^ <uint64_t> (<uint64_t> upstream << 8 | reason)
            Failure* oldest = self.kept
            Failure* alike = NULL
            Failure* each
            int32_t k, of_kind = 0
        for k in range(KEPT):
            each = &self.kept[k]
            if each.wall < oldest.wall:
                oldest = each
            if each.kind != kind or not each.wall:
                continue
            if each.qtype == qtype and each.length == length and same_folded(each.name, name, length):
                each.times += 1
                each.wall = wall
                return
            of_kind += 1
            if alike == NULL or each.wall < alike.wall:
                alike = each
        each = alike if of_kind >= OF_KIND else oldest
        each.wall, each.times, each.kind, each.upstream = wall, 1, kind, upstream
        each.qtype, each.reason, each.length = qtype, reason, <uint8_t> length
        memcpy(each.name, name, length)

    def listed(self) -> list:
        """Return what is kept, the latest first: (Unix time, times, name on the wire, type, upstream, reason).

        The reason is one of FAILURE_REASONS; where no upstream was asked (-1), "no_upstream".
        """
        found = []
        for k in range(KEPT):
            if self.kept[k].wall:
                found.append((
                    self.kept[k].wall / 1e9, self.kept[k].times, self.kept[k].name[:self.kept[k].length],
                    self.kept[k].qtype, self.kept[k].upstream,
                    reason_name(self.kept[k].reason) if self.kept[k].upstream >= 0 else "no_upstream",
                ))
        found.sort(reverse=True)
        return found
