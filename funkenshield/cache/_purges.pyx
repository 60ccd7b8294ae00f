"""Purges: what was taken out of the cache, noted as rules instead of being looked for.

It knows names and the numbers of purges. What is done with an answer that a rule concerns is the cache's
business. One thread adds rules; any may ask, without a lock.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from ..core._atomic cimport load_acquire, load_relaxed32, store_relaxed32, store_release
from ..core._memory cimport free, zeros
from ..core._siphash cimport siphash
from ..core._suffix_table cimport Suffixes, parent_of, suffix_set, suffix_value, suffixes_full
from ..wire._message cimport KEY_TYPE, get16, name_size
from ._entry cimport Answer, answer_key, answer_name

cdef inline uint64_t _key(uint64_t name_hash, PurgeScope reach, int32_t qtype) noexcept nogil:
    """Return the hash of a rule; a type of -1 is every type. Never 0, which is a free place."""
    return (name_hash ^ (<uint64_t> (qtype + 1) << 2 | reach) << 8) | 1


cdef bint survives_purges(const PurgeRules* rules, const Answer* answer) noexcept nogil:
    """Tell whether an answer is left by all purges so far, and mark it if so.

    One that was only to expire is left, expires, and is asked for anew at its next use.
    """
    cdef:
        uint64_t number = load_acquire(&rules.count)  # first: what was added before is in the table that is read then
        const Suffixes* table = <const Suffixes*> load_acquire(&rules.table)
        const uint8_t* name = answer_name(answer)
        const uint8_t* end = name + name_size(name)
        const uint8_t* suffix = name
        uint64_t since = load_relaxed32(&answer.marks.purges)
        uint16_t qtype = get16(answer_key(answer) + KEY_TYPE)
        bint expired = False
        uint64_t hashed
    while suffix != NULL:
        hashed = siphash(&rules.secret, suffix, end - suffix)
        if suffix == name and (suffix_value(table, _key(hashed, EXACT, -1)) > since
                               or suffix_value(table, _key(hashed, EXACT, qtype)) > since):
            return False
        if (suffix_value(table, _key(hashed, BELOW, -1)) > since
                or suffix_value(table, _key(hashed, BELOW, qtype)) > since):
            return False
        expired = expired or suffix_value(table, _key(hashed, LET_EXPIRE, -1)) > since
        suffix = parent_of(suffix)
    if load_acquire(&rules.everything) > since:
        return False
    if expired:
        store_relaxed32(&(<Answer*> answer).marks.expires,
                        min(load_relaxed32(&answer.marks.expires), load_relaxed32(&rules.let_expire_at)))
        store_relaxed32(&(<Answer*> answer).marks.refresh_after, 0)  # whatever failed before
    store_relaxed32(&(<Answer*> answer).marks.purges, <uint32_t> number)
    return True


cdef bint is_purged(const PurgeRules* rules, const uint8_t* name, uint64_t since) noexcept nogil:
    """Tell whether a name without pointers, in lower case, was purged after this purge, with all below a name."""
    cdef:
        const Suffixes* table = <const Suffixes*> rules.table
        const uint8_t* end = name + name_size(name)
    if since == rules.count:
        return False
    while name != NULL:
        if suffix_value(table, _key(siphash(&rules.secret, name, end - name), BELOW, -1)) > since:
            return True
        name = parent_of(name)
    return rules.everything > since


cdef class Purges:
    """The rules of one cache.

    Memory ownership: both tables are its own.
    """

    def __cinit__(self, uint64_t places=PLACES) -> None:
        cdef int32_t k
        for k in range(2):
            self.tables[k].pairs = <uint64_t*> zeros(places, 16)
            self.tables[k].mask = places - 1
        self.rules.table = <uint64_t> &self.tables[0]

    def __dealloc__(self) -> None:
        free(self.tables[0].pairs)
        free(self.tables[1].pairs)

    cdef size_t add(self, const uint8_t* name, size_t length, size_t apex, PurgeScope reach, int32_t qtype,
                    uint32_t now) noexcept nogil:
        """Note a purge at a tick; it is in force when this returns. Return the octets of the name that it is of then.

        Where there is no room, it becomes one of all that is at or below the apex of its zone, whose name has `apex`
        octets, or below its parent where that is 1, for no zone; not where the parent has a single label, for there
        all are strangers. 0: there is no room for that either. Caller must ensure that the name is one on the wire,
        in lower case.
        """
        cdef:
            Suffixes* table = <Suffixes*> self.rules.table
            uint64_t number = self.rules.count + 1
            uint64_t key = _key(siphash(&self.rules.secret, name, length), reach, qtype)
            uint64_t room = (table.mask + 1) // 16
        if length == 1 and reach == BELOW and qtype < 0:
            store_release(&self.rules.everything, number)
        else:
            if suffixes_full(table) and not suffix_value(table, key):
                if apex > 1:
                    room *= 15  # each zone's apex has room, to be purged and to be let expire
                else:
                    room *= 13
                    apex = length - 1 - name[0]
                    if apex <= 1 or apex == 2 + <size_t> parent_of(name)[0]:
                        return 0
                name += length - apex
                length = apex
                key = _key(siphash(&self.rules.secret, name, length), LET_EXPIRE if reach == LET_EXPIRE else BELOW, -1)
                if table.used >= room and not suffix_value(table, key):
                    return 0
            if reach == LET_EXPIRE:  # before the rule can be found, whose release orders it
                store_relaxed32(&self.rules.let_expire_at, now)
            suffix_set(table, key, number)
        store_release(&self.rules.count, number)
        return length

    cdef void retire(self, uint64_t number) noexcept nogil:
        """Forget the rules up to this number: no answer is left that they could concern.

        Caller must ensure that nobody reads the table that was given up the last time.
        """
        cdef:
            Suffixes* old = <Suffixes*> self.rules.table
            Suffixes* new = &self.tables[old == &self.tables[0]]
            uint64_t place
        memset(new.pairs, 0, (new.mask + 1) * 16)
        new.used = 0
        for place in range(new.mask + 1):
            if old.pairs[2 * place + 1] > number:
                suffix_set(new, old.pairs[2 * place], old.pairs[2 * place + 1])
        store_release(&self.rules.table, <uint64_t> new)
