"""What is known not to exist, and the responses that follow from it (RFC 8020, 8198).

It knows what a negative response denies beside the question it answers, for how long, and how the upstream
would say so. It does not know where answers are kept, who asks, or which zones want this. Only the control
thread calls it. Where there is doubt it learns nothing, and says nothing.

Names are compared by keys: the labels from the root down, in lower case, each ended by a zero octet. So keys
sort as names do (RFC 4034 6.1), and what is below a name starts with its key.
"""

cimport cython
from bisect import bisect_left, bisect_right

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ..core._limits cimport EDNS_UDP_SIZE
from ..core._random cimport draw_secret
from ..core._suffix_table cimport Suffixes, parent_of, suffixes_full
from ..wire._message cimport (
    AD, CACHEABLE, CNAME, DNAME, DO, DS, HEADER, KEY_EDNS_FLAGS, KEY_FLAGS, KEY_PREFIX, MESSAGE_MAX, NAME_MAX, NOERROR,
    NS, NSEC, NXDOMAIN, OPT, OPT_FIXED, QUESTION_FIXED, RCODE, RD, RRSIG, RRSIG_LABELS, RRSIG_SIGNER, SOA, WITH_OPT,
    Query, fold, get16, name_size, parse_query, plain_end, put_opt, put_question, set16
)
from ..wire._nsec_denial cimport NXNAME, TTL_MAX, Negative, copy_record, expand, finish_records, read_negative
from ._purges cimport BELOW, Purges, is_purged

cdef enum:
    RECORDS_MAX = 4096             # octets of the records of one gap
    KEYED_MAX = 2 * NAME_MAX       # octets of a name's key
    PAGE_MAX = 512                 # gaps of a page
    IN = 1                         # the class that is signed
    GAP_COST = 720                 # octets that a gap takes beside those of its names and records, at most
    LIST_COST = 1024               # octets that a list takes beside its gaps and records, at most
    PURGES = 4096                  # places for purges that concern something


# ---------------------------------------------------------------- names

cdef bytes _key(const uint8_t* name):
    """Return the key of a name without pointers. Octets 0 and 1 of a label become two, so that 0 ends it."""
    cdef:
        uint8_t[KEYED_MAX] key
        uint8_t octet
        size_t at = KEYED_MAX - 1  # it is written from its end
        size_t i
    key[at] = 0
    while name[0]:
        for i in range(name[0], 0, -1):
            octet = fold(name[i])
            at -= 1
            key[at] = octet + (octet <= 1)
            if octet <= 1:
                at -= 1
                key[at] = 1
        at -= 1
        key[at] = 0
        name = parent_of(name)
    return (<char*> key)[at:KEYED_MAX]


cdef bytes _key_at(const uint8_t* wire, size_t at):
    """Return the key of the name at `at`. Caller must ensure that it `is_name`."""
    cdef uint8_t[NAME_MAX] name
    expand(name, wire, at)
    return _key(name)


cdef bytes _key_of(bytes name):
    if plain_end(name, len(name), 0) != len(name):
        raise ValueError(f"not a name on the wire: {name!r}")
    return _key(name)


cdef bytes _past(bytes name):
    """Return the least key that is behind a name and all that is below it."""
    return name[:len(name) - 1] + b"\1"


cdef Py_ssize_t _shared(bytes one, bytes other) noexcept:
    """Return the octets of the key of the deepest name that two names are at or below."""
    cdef:
        const uint8_t* a = one
        const uint8_t* b = other
        Py_ssize_t i, shared = 0
    for i in range(min(len(one), len(other))):
        if a[i] != b[i]:
            break
        if a[i] == 0:
            shared = i + 1
    return shared


# ---------------------------------------------------------------- what is kept

@cython.final
cdef class _Records:
    """Records on the wire, as `copy_record` writes them."""

    cdef:
        bytes wire
        uint16_t count
        uint16_t flags             # of the response that they came in
        double expires


@cython.final
cdef class _Gap:
    """Names from `first` up to, not including, `past`; none of them exists, but for the owner of an NSEC."""

    cdef:
        bytes first                # keys
        bytes past
        _Records records           # that say so; none where it may not be told on
        bytes types                # the bitmap of an NSEC: what its owner has
        bytes list_key             # of the list that it is in
        size_t apex                # octets of the apex
        size_t octets              # that it takes
        uint64_t number            # gaps are numbered as they are learnt
        uint64_t purges            # how many there had been when it was learnt

    cdef bint has(self, uint16_t rtype):
        """Tell whether the owner of this NSEC has records of a type."""
        cdef:
            const uint8_t* at = self.types
            const uint8_t* end = at + len(self.types)
            uint8_t place = (rtype & 0xff) >> 3
        while at < end:
            if at[0] == rtype >> 8:
                return place < at[1] and at[2 + place] & (0x80 >> (rtype & 7)) != 0
            at += 2 + at[1]
        return False

    cdef bint is_cut_above(self, bytes name):
        """Tell whether the owner of this NSEC hands what is below it to somebody else (RFC 6840 4.1)."""
        return name.startswith(self.first) and (self.has(DNAME) or self.has(NS) and not self.has(SOA))


@cython.final
cdef class _GapList:
    """Gaps in order; no two of them overlap."""

    cdef:
        dict gaps                  # by where they start
        list pages                 # of where they start, in order
        list starts                # of the pages
        _Records soa               # of a zone whose NSEC chain this is, and the signatures of it
        _Records signatures
        size_t octets              # that it takes beside its gaps

    def __cinit__(self) -> None:
        self.gaps = {}
        self.pages = []
        self.starts = []

    cdef _Gap before(self, bytes key):
        """Return the last gap that starts before a key, or None."""
        cdef Py_ssize_t page = bisect_left(self.starts, key) - 1
        if page < 0:
            return None
        keys = self.pages[page]
        return self.gaps[keys[bisect_left(keys, key) - 1]]

    cdef int put(self, _Gap gap) except -1:
        cdef:
            Py_ssize_t page = max(bisect_right(self.starts, gap.first) - 1, 0)
            list keys
        self.gaps[gap.first] = gap
        if not self.pages:
            self.pages.append([])
            self.starts.append(gap.first)
        keys = self.pages[page]
        keys.insert(bisect_left(keys, gap.first), gap.first)
        self.starts[page] = keys[0]
        if len(keys) > PAGE_MAX:
            self.pages.insert(page + 1, keys[PAGE_MAX // 2:])
            self.starts.insert(page + 1, keys[PAGE_MAX // 2])
            del keys[PAGE_MAX // 2:]
        return 0

    cdef int remove(self, _Gap gap) except -1:
        cdef:
            Py_ssize_t page = bisect_right(self.starts, gap.first) - 1
            list keys = self.pages[page]
        del self.gaps[gap.first]
        del keys[bisect_left(keys, gap.first)]
        if keys:
            self.starts[page] = keys[0]
        else:
            del self.pages[page]
            del self.starts[page]
        return 0


# ---------------------------------------------------------------- response -> gaps

cdef _Records _take(const Negative* found, uint32_t which):
    """Return copies of records, a bit for each; None where they are too large to be kept."""
    cdef:
        uint8_t[RECORDS_MAX] out
        _Records taken = _Records()
        size_t written, size = 0
        uint16_t i
    for i in range(found.count):
        if which >> i & 1:
            written = copy_record(out + size, RECORDS_MAX - size, found, &found.records[i])
            if not written:
                return None
            size += written
            taken.count += 1
    taken.wire = (<char*> out)[:size]
    taken.flags = found.flags
    taken.expires = found.expires
    return taken


cdef uint32_t _signatures_of(const Negative* found, list owners, uint16_t signed) except? 0xffffffff:
    """Return which records are signatures of this one by its zone, a bit for each; 0: none is.

    One whose count of labels is not the owner's was made for a wildcard (RFC 4034 3.1.3).
    """
    cdef:
        bytes owner = owners[signed]
        Py_ssize_t labels = owner.count(b"\0") - 1 - owner.endswith(b"\0*\0")
        const uint8_t* rdata
        uint32_t which = 0
        uint16_t i
    for i in range(found.count):
        rdata = found.wire + found.records[i].rdata
        if (found.records[i].rtype == RRSIG and owners[i] == owner and get16(rdata) == found.records[signed].rtype
                and rdata[RRSIG_LABELS] == labels and _key(rdata + RRSIG_SIGNER) == owners[found.soa]):
            which |= <uint32_t> 1 << i
    return which


cdef list _gaps(const Negative* found, list owners, bytes name):
    """Return the gaps that the NSEC records leave; those that their zone has not signed have no records.

    None where one lies outside of its zone, or says that there is something at or below the name that does
    not exist: it was made for this question alone (RFC 4470).
    """
    cdef:
        bytes apex = owners[found.soa]
        bytes following
        uint32_t signatures
        uint16_t i
        _Gap gap
        list gaps = []
    for i in range(found.count):
        if found.records[i].rtype != NSEC:
            continue
        following = _key_at(found.wire, found.records[i].rdata)
        gap = _make_gap(found, owners[i], following if following != apex else _past(apex))
        if not following.startswith(apex) or gap.first >= gap.past:
            return None
        if found.flags & RCODE == NXDOMAIN and (gap.first.startswith(name) or gap.past.startswith(name)):
            return None
        gap.types = _bitmap(found, i)
        signatures = _signatures_of(found, owners, i)
        if signatures:
            gap.records = _take(found, signatures | <uint32_t> 1 << i)
        gaps.append(gap)
    return gaps


cdef _Gap _make_gap(const Negative* found, bytes first, bytes past):
    cdef _Gap gap = _Gap()
    gap.first = first
    gap.past = past
    gap.apex = found.apex
    return gap


cdef bytes _bitmap(const Negative* found, uint16_t i):
    """Return the type bitmap of an NSEC record."""
    cdef:
        size_t end = found.records[i].end
        int32_t start = plain_end(found.wire, end, found.records[i].rdata)
    return (<char*> found.wire)[start:end]


# ---------------------------------------------------------------- gaps -> response

cdef bytes _respond(const Query* query, uint16_t rcode, size_t apex, list proof, size_t shown, double now):
    """Write the response that the first `shown` of all records of a proof make; None where none of it lives on.

    All TTLs are what is left of the proof, in whole seconds (RFC 8198 5.4).
    """
    cdef:
        _Records part
        uint16_t flags = 0xffff, count = 0
        uint16_t target = <uint16_t> (HEADER + query.question - QUESTION_FIXED - apex)
        size_t at = HEADER + query.question
        size_t size = at + (OPT_FIXED if query.opt else 0)
        size_t i
        double left = TTL_MAX
        bytes response
        uint8_t* out
    for i, part in enumerate(proof):
        flags &= part.flags
        left = min(left, part.expires - now)
        if i < shown:
            size += len(part.wire)
            count += part.count
    if left < 1:
        return None
    flags = (flags & ~(RCODE | RD)) | rcode | (query.flags & RD)
    if not (query.flags & AD or query.edns_flags & DO):
        flags &= ~AD  # RFC 6840 5.7, 5.8

    response = PyBytes_FromStringAndSize(NULL, size)
    out = <uint8_t*> <char*> response
    put_question(out, query, flags, 0, count, 1 if query.opt else 0)
    for part in proof[:shown]:
        memcpy(out + at, <char*> part.wire, len(part.wire))
        at = finish_records(out, at, part.count, target, <uint32_t> left)
    if query.opt:
        put_opt(out + at, EDNS_UDP_SIZE, 0, query.edns_flags & DO, 0)
    return response


cdef bint _is_ordinary(uint16_t qtype) noexcept nogil:
    """Tell whether a bitmap can tell that there is no such record: not for meta types, nor for its own proof."""
    return 0 < qtype < 128 and qtype != OPT and qtype != RRSIG and qtype != NSEC or qtype > 255


cdef bint _is_nodata(_Gap gap, uint16_t qtype):
    """Tell whether the owner of an NSEC has no answer for this type.

    At a delegation the parent knows about DS alone, at its apex a zone knows all but DS (RFC 6840 4.1, 4.4).
    """
    if gap.has(qtype) or gap.has(CNAME):
        return False
    return not gap.has(SOA) if qtype == DS else gap.has(SOA) or not gap.has(NS)


# ---------------------------------------------------------------- the cache

cdef bint _is_for_everybody(Query* asked, bytes query):
    """Read a query; tell whether others would get the same response: not where it tells its subnet (RFC 7871)."""
    return len(query) <= MESSAGE_MAX and parse_query(asked, query, len(query)) == CACHEABLE and not asked.subnet


cdef bytes _list_key(uint16_t flags, uint16_t edns_flags, uint16_t qclass):
    """Return what keeps one list of gaps from another: flags of a key, and the class."""
    cdef uint8_t[6] key
    set16(key, flags)
    set16(key + 2, edns_flags)
    set16(key + 4, qclass)
    return (<char*> key)[:6]


cdef bytes _cuts_key(const Query* query):
    return _list_key(get16(query.key + KEY_FLAGS), get16(query.key + KEY_EDNS_FLAGS), query.qclass)


cdef bytes _chain_key(const Query* query, bytes apex):
    """Return what keeps chains apart. What comes with DO proves the same without; AD asks for nothing then."""
    return _list_key(get16(query.key + KEY_FLAGS) & ~(AD | WITH_OPT), get16(query.key + KEY_EDNS_FLAGS) & ~DO,
                     query.qclass) + apex


cdef size_t _octets_of(_Records records) noexcept:
    return len(records.wire) if records is not None else 0


cdef void _wildcard_at(uint8_t* out, const uint8_t* name, Py_ssize_t above) noexcept:
    """Write the wildcard below what is so many labels above a name without pointers. Needs NAME_MAX + 2."""
    cdef Py_ssize_t _i
    for _i in range(above):
        name = parent_of(name)
    memcpy(out, b"\1*", 2)
    memcpy(out + 2, name, name_size(name))


@cython.final
cdef class NsecCache:
    """A store of what does not exist, learnt from negative responses, that takes at most `limit` octets.

    Memory ownership: each gap owns copies of its records, at most RECORDS_MAX octets, usually some hundred.
    A list goes with its last gap. Purges are notes, as they are for answers: what one concerns goes when it is
    asked for, or is the oldest.
    """

    cdef:
        readonly size_t limit      # octets that all may take,
        readonly size_t octets     # and those that they take
        Purges purges
        Py_ssize_t deepest         # octets of the longest key of an apex
        dict lists                 # of cuts, and of the chains of zones, by what keeps them apart
        dict ages                  # all gaps by their numbers
        uint64_t learnt            # the next number
        uint64_t oldest            # no gap has one below this

    def __cinit__(self, size_t limit=8 << 20) -> None:
        self.limit = limit
        self.lists = {}
        self.ages = {}
        self.purges = Purges(PURGES)
        draw_secret(&self.purges.rules.secret)

    def __len__(self) -> int:
        return len(self.ages)

    # ------------------------------------------------------------ learning

    def learn(self, bytes query not None, bytes response not None, bytes zone not None, *, bint nxdomain_cut, bint nsec,
              double now, double wall, double longest) -> None:
        """Remember what a response denies beside its question: names below (`nxdomain_cut`), and between (`nsec`).

        Caller must ensure that the response answers the query. `zone` is the name of the configured zone on
        the wire: nothing is learnt about names above it. `now` is on the clock of `response_to`, `wall` since
        the epoch, `longest` bounds how long it is held; all in seconds. Raises ValueError where `zone` is no name.
        """
        cdef:
            Query asked
            Negative found
            uint16_t i, _i
            bytes top = _key_of(zone)
            bytes name, apex
            list owners, gaps
        if not _is_for_everybody(&asked, query) or len(response) > MESSAGE_MAX:
            return
        if not read_negative(&found, &asked, response, len(response), wall) or min(found.hold, longest) < 1:
            return
        found.expires = now + min(found.hold, longest)
        owners = [_key_at(found.wire, found.records[i].owner) for i in range(found.count)]
        apex = owners[found.soa]
        name = _key(asked.wire + HEADER)
        if not apex.startswith(top) or not all([key.startswith(apex) for key in [name, *owners]]):
            return
        gaps = _gaps(&found, owners, name)
        if gaps is None:
            return
        for _i in range(2):  # so many that are over make room whenever one is learnt
            if self.ages and self._first().records.expires <= now:
                self._drop(self._first())
        if nxdomain_cut and found.flags & RCODE == NXDOMAIN and name != apex:
            self._learn_cut(&found, &asked, name, gaps, now)
        if nsec and asked.edns_flags & DO and asked.qclass == IN:
            self._learn_chain(&found, &asked, owners, gaps)

    cdef int _learn_cut(self, const Negative* found, const Query* query, bytes name, list gaps, double now) except -1:
        """Remember that there is nothing below a name either, unless its NSEC records say so of the name alone."""
        cdef:
            _GapList known = self.lists.get(_cuts_key(query))
            _Gap cut = _make_gap(found, name, _past(name))
            _Gap gap
        for gap in gaps:
            if gap.first < name < gap.past:
                break
        else:
            if gaps:
                return 0
        if known is not None and self._covering(known, name, query.key + KEY_PREFIX, now) is not None:
            return 0
        cut.records = _take(found, 0xffffffff)
        if cut.records is not None:
            cut.list_key = _cuts_key(query)
            self._put(cut)
        return 0

    cdef int _learn_chain(self, const Negative* found, const Query* query, list owners, list gaps) except -1:
        """Remember links of a zone's NSEC chain, and its SOA."""
        cdef:
            uint32_t signatures = _signatures_of(found, owners, found.soa)
            _Records soa = _take(found, <uint32_t> 1 << found.soa)
            _Records signed = _take(found, signatures)
            bytes apex = owners[found.soa]
            _Gap gap
        if not signatures or soa is None or signed is None:
            return 0
        for gap in gaps:
            if gap.records is not None and not gap.has(NXNAME):
                gap.list_key = _chain_key(query, apex)
                self._put(gap, soa, signed)
                self.deepest = max(self.deepest, len(apex))
        return 0

    cdef int _put(self, _Gap gap, _Records soa=None, _Records signatures=None) except -1:
        """Put a gap into its list, instead of what overlaps with it: the newer is right. The oldest make room."""
        cdef _GapList known = self.lists.get(gap.list_key)
        cdef _Gap old = None if known is None else known.before(gap.past)
        while old is not None and gap.first < old.past:
            self._drop(old)
            old = known.before(gap.past)
        known = self.lists.setdefault(gap.list_key, known or _GapList())
        self.octets -= known.octets if known.gaps else 0
        known.soa = soa
        known.signatures = signatures
        known.octets = LIST_COST + len(gap.list_key) + _octets_of(soa) + _octets_of(signatures)
        known.put(gap)
        gap.octets = (GAP_COST + len(gap.first) + len(gap.past) + len(gap.list_key) + len(gap.types or b"")
                      + _octets_of(gap.records))
        gap.number = self.learnt
        gap.purges = self.purges.rules.count
        self.learnt += 1
        self.ages[gap.number] = gap
        self.octets += known.octets + gap.octets
        while self.octets > self.limit:
            self._drop(self._first())
        return 0

    cdef _Gap _first(self):
        """Return the oldest gap. Caller must ensure that there is one."""
        while self.oldest not in self.ages:
            self.oldest += 1
        return self.ages[self.oldest]

    cdef int _drop(self, _Gap gap) except -1:
        cdef _GapList known = self.lists[gap.list_key]
        del self.ages[gap.number]
        known.remove(gap)
        self.octets -= gap.octets
        if not known.gaps:
            del self.lists[gap.list_key]
            self.octets -= known.octets
        return 0

    def forget(self, bytes name not None) -> None:
        """Deny nothing more at or below a name on the wire, whatever it costs; ValueError where it is no name."""
        cdef bytes folded = name.lower()  # the octets of lengths are no letters
        _key_of(name)
        if suffixes_full(<Suffixes*> self.purges.rules.table):
            self.purges.retire(max(self._first().purges if self.ages else self.purges.rules.count,
                                   self.purges.rules.everything))
        if not self.purges.add(folded, len(folded), 1, BELOW, -1, 0):
            self.purges.add(b"\0", 1, 1, BELOW, -1, 0)  # what is lost here is learnt again

    # ------------------------------------------------------------ answering

    def response_to(self, bytes query not None, bytes zone not None, *, bint nxdomain_cut, bint nsec,
                    double now) -> bytes | None:
        """Return the response that the upstream would send now, or None where that is not known for sure.

        `zone` and `now` are those of `learn`. Raises ValueError where `zone` is no name.
        """
        cdef:
            Query asked
            bytes top = _key_of(zone)
            bytes name, response = None
        if not _is_for_everybody(&asked, query):
            return None
        name = _key(asked.wire + HEADER)
        if not name.startswith(top):
            return None
        if nxdomain_cut:
            response = self._cut(&asked, name, len(zone), now)
        if nsec and response is None:
            response = self._between(&asked, name, top, now)
        return response

    cdef _Gap _covering(self, _GapList known, bytes name, const uint8_t* wire, double now):
        """Return the gap that a name is in, or None; one that is over, or purged for it (`wire`), is dropped."""
        cdef _Gap gap = known.before(name + b"\0")
        if gap is None or gap.past <= name:
            return None
        if gap.records.expires <= now or is_purged(&self.purges.rules, wire, gap.purges):
            self._drop(gap)
            return None
        return gap

    cdef bytes _cut(self, const Query* query, bytes name, size_t top, double now):
        """Answer for a name at or below one that does not exist (RFC 8020)."""
        cdef:
            _GapList known = self.lists.get(_cuts_key(query))
            _Gap gap = None if known is None else self._covering(known, name, query.key + KEY_PREFIX, now)
        if gap is None or gap.apex < top:
            return None
        return _respond(query, NXDOMAIN, gap.apex, [gap.records], 1, now)

    cdef bytes _between(self, const Query* query, bytes name, bytes top, double now):
        """Answer from the NSEC chain of the name's zone (RFC 8198 5, RFC 4035 5.4)."""
        cdef:
            _GapList known = self._chain_of(query, name, top)
            _Gap gap = None if known is None else self._covering(known, name, query.key + KEY_PREFIX, now)
            _Gap star
            bytes wildcard
            uint8_t[NAME_MAX + 2] wire
            list proof
            size_t shown
        if gap is None or not _is_ordinary(query.qtype):
            return None
        proof = [known.soa, known.signatures, gap.records]
        shown = 3 if query.edns_flags & DO else 1
        if gap.first == name:
            return _respond(query, NOERROR, gap.apex, proof, shown, now) if _is_nodata(gap, query.qtype) else None
        if gap.is_cut_above(name):
            return None
        if gap.past.startswith(name):  # an empty non-terminal
            return _respond(query, NOERROR, gap.apex, proof, shown, now)

        wildcard = name[:max(_shared(name, gap.first), _shared(name, gap.past))] + b"*\0"
        _wildcard_at(wire, query.key + KEY_PREFIX, name.count(b"\0") + 1 - wildcard.count(b"\0"))
        star = self._covering(known, wildcard, wire, now)
        if star is None or star.is_cut_above(wildcard) or star.past.startswith(wildcard):
            return None
        if star is not gap:
            proof.append(star.records)
            shown += shown > 1
        if star.first != wildcard:
            return _respond(query, NXDOMAIN, gap.apex, proof, shown, now)
        return _respond(query, NOERROR, gap.apex, proof, shown, now) if _is_nodata(star, query.qtype) else None

    cdef _GapList _chain_of(self, const Query* query, bytes name, bytes top):
        """Return the chain of the deepest known zone that the name is in, not above `top`; DS is the parent's."""
        cdef:
            _GapList known
            Py_ssize_t end = min(len(name), self.deepest)
        while end >= len(top):
            if query.qtype != DS or end < len(name):
                known = self.lists.get(_chain_key(query, name[:end]))
                if known is not None:
                    return known
            end = name.rfind(b"\0", 0, end - 1) + 1
        return None
