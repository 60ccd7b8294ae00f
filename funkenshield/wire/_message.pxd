"""The wire format of DNS (RFC 1035, 6891): where each octet of a message stands, and how to read it.

Nobody else touches octets of a message by number. What a message means is decided elsewhere.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ..core._limits cimport IGNORED_MAX
from ..core._siphash cimport Secret

cdef enum:  # offsets in a header
    HEADER_FLAGS = 2, QDCOUNT = 4, ANCOUNT = 6, NSCOUNT = 8, ARCOUNT = 10
    HEADER = 12                    # octets of a header

cdef enum:  # sections of records
    ANSWER, AUTHORITY, ADDITIONAL

cdef enum:  # offsets in a record, and in a question, from where its name ends
    RR_TYPE = 0, RR_CLASS = 2, RR_TTL = 4, RR_RDLENGTH = 8, RR_RDATA = 10
    QUESTION_FIXED = 4             # octets of type and class

cdef enum:  # offsets in an OPT record, whose owner is the root
    OPT_PAYLOAD = 3, OPT_RCODE = 5, OPT_VERSION = 6, OPT_FLAGS = 7, OPT_RDLENGTH = 9
    OPT_FIXED = 11                 # octets of an OPT record without options

cdef enum:  # offsets in an EDNS option; the last ones are of CLIENT-SUBNET
    OPTION_LENGTH = 2, OPTION_DATA = 4
    SUBNET_FAMILY = 4, SUBNET_SOURCE = 6, SUBNET_SCOPE = 7, SUBNET_ADDRESS = 8

cdef enum:  # offsets in the RDATA of an RRSIG; and of a SOA, from its end
    RRSIG_LABELS = 3, RRSIG_EXPIRATION = 8, RRSIG_SIGNER = 18
    SOA_NUMBERS = 20, SOA_MINIMUM = 4  # the serial is the first of these numbers

cdef enum:  # offsets in a key
    KEY_FLAGS = 0, KEY_EDNS_FLAGS = 2, KEY_TYPE = 4, KEY_CLASS = 6, KEY_RULE_CHOICES = 8
    KEY_PREFIX = 12                # octets before the name

cdef enum:
    POINTER = 0xc000               # bits of a compression pointer
    NAME_MAX = 255                 # octets of a name on the wire
    LABEL_MAX = 63                 # octets of a label
    HOPS_MAX = 127                 # pointers that a name can need
    STEPS_MAX = 512                # labels and pointers of a name, and more
    QUESTION_MAX = NAME_MAX + QUESTION_FIXED
    SUBNET_MAX = 2 + 16            # family, prefix length and address, behind the name in a key
    KEY_MAX = KEY_PREFIX + NAME_MAX + SUBNET_MAX
    MESSAGE_MAX = 65535
    QUERY_MAX = 4096               # octets of the longest query that is read over UDP; longer ones get TC=1
    UDP_PLAIN = 512                # octets of a UDP message without EDNS (RFC 1035 4.2.1)
    EXTRA_MAX = 96                 # octets of EDNS options for one client alone

cdef enum:  # the header's flags
    QR = 0x8000
    OPCODE = 0x7800
    AA = 0x0400
    TC = 0x0200
    RD = 0x0100
    RA = 0x0080
    AD = 0x0020
    CD = 0x0010
    RCODE = 0x000f

cdef enum:  # opcodes, where they stand among the header's flags
    NOTIFY = 4 << 11
    UPDATE = 5 << 11

cdef enum:  # EDNS flags
    DO = 0x8000
    CO = 0x4000

cdef enum:  # flags of a key, where a query's header has the opcode, which is QUERY
    WITH_OPT = 0x0800
    WITH_SUBNET = 0x1000

cdef enum:  # all that means something in a query; no other bit makes a key, or goes upstream (RFC 6895 2, 6891 6.1.4)
    ASKING = RD | AD | CD
    EDNS_ASKING = DO | CO

cdef enum:  # record types and classes that are treated in a way of their own
    NS = 2
    CNAME = 5
    SOA = 6
    HINFO = 13
    SIG = 24
    DNAME = 39
    OPT = 41
    DS = 43
    RRSIG = 46
    NSEC = 47
    NSEC3 = 50
    A = 1
    AAAA = 28
    META_FIRST = 128               # from here to ANY: of one message, or of questions alone (RFC 6895 3.1)
    TKEY = 249
    TSIG = 250
    IXFR = 251
    AXFR = 252
    ANY = 255
    CHAOS = 3                      # a class

cdef enum:  # response codes
    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADCOOKIE = 23

cdef enum:  # EDNS options
    DAU = 5
    DHU = 6
    N3U = 7
    SUBNET = 8
    COOKIE = 10
    KEEPALIVE = 11
    PADDING = 12
    EDE = 15
    REPORT_CHANNEL = 18

cdef enum:  # extended errors (RFC 8914)
    STALE_ANSWER = 3
    STALE_NXDOMAIN = 19
    NO_REACHABLE_AUTHORITY = 22
    NETWORK_ERROR = 23

cdef enum:  # what of a query its client did not send, and gets no answer to
    ADDED_SUBNET = 1
    ADDED_OPT = 2

cdef enum Verdict:
    CACHEABLE                      # one question that a cache may answer: its key is set
    UNCACHEABLE                    # well formed, but only the upstream can answer it, each time anew
    MALFORMED      # a header, and then something that is no query: FORMERR
    UNANSWERABLE   # shorter than a header, or a response: never answered

cdef struct Query:
    const uint8_t* wire      # the whole message; not owned
    uint16_t length          # octets of the message
    uint16_t question        # octets of the question section; 0: none was read
    uint16_t flags           # the header's flags, with opcode and rcode
    uint16_t qtype
    uint16_t qclass
    uint16_t opt             # where the OPT record starts; 0: there is none
    uint16_t options         # octets of EDNS options
    uint16_t payload         # the UDP payload size of the OPT record
    uint16_t edns_flags
    uint16_t cookie          # octets of the first COOKIE option, code and length included; 0: none
    uint16_t cookie_at       # where that option starts
    uint16_t subnet          # where the CLIENT-SUBNET option starts; 0: there is none (RFC 7871)
    uint64_t hash            # of the key; set by `hash_key`
    const void* likely       # an answer that may be its own, fetched beforehand; NULL: nobody looked
    uint16_t key_length      # 0: only CACHEABLE queries have one
    uint8_t added            # what the client did not send; not read from the wire
    uint8_t keepalive        # it asks how long its connection may be idle (RFC 7828)
    uint8_t padded           # it is, and its client wants responses to be (RFC 7830)
    uint8_t key[KEY_MAX + 1]

cdef struct Ignored:         # EDNS options that tell no questions apart, and end here
    uint8_t count
    uint16_t[IGNORED_MAX] codes

cdef struct EdnsOptions:           # EDNS options for one client alone
    uint16_t length
    uint8_t octets[EXTRA_MAX]

cdef struct Record:                # offsets in its message
    uint32_t owner                 # where it starts
    uint32_t fixed                 # where its owner ends, and RR_TYPE and the others count from
    uint32_t rdata
    uint32_t end
    uint16_t rtype
    uint16_t section

cdef struct RecordCursor:          # a walk over the records of a message
    const uint8_t* wire            # not owned
    size_t length
    size_t at                      # where the next record starts
    uint16_t section
    uint16_t[ADDITIONAL + 1] left  # records of each section

cdef struct OptionCursor:          # a walk over EDNS options, and the one that it is at
    const uint8_t* octets          # not owned
    size_t size                    # octets of the option, with code and length
    size_t left                    # octets from the option on
    uint16_t code


cdef inline uint16_t get16(const uint8_t* at) noexcept nogil:
    return (<uint16_t> at[0] << 8) | at[1]


cdef inline uint32_t get32(const uint8_t* at) noexcept nogil:
    return (<uint32_t> get16(at) << 16) | get16(at + 2)


cdef inline void set16(uint8_t* at, uint16_t value) noexcept nogil:
    at[0] = value >> 8
    at[1] = value & 0xff


cdef inline void set32(uint8_t* at, uint32_t value) noexcept nogil:
    set16(at, value >> 16)
    set16(at + 2, value & 0xffff)


cdef inline uint16_t message_id(const uint8_t* wire) noexcept nogil:
    return get16(wire)


cdef inline void set_id(uint8_t* wire, uint16_t value) noexcept nogil:
    set16(wire, value)


cdef inline uint16_t message_flags(const uint8_t* wire) noexcept nogil:
    return get16(wire + HEADER_FLAGS)


cdef inline void read_counts(uint16_t* counts, const uint8_t* wire) noexcept nogil:
    """Read how many records a header announces in each section."""
    cdef uint32_t section
    for section in range(ADDITIONAL + 1):
        counts[section] = get16(wire + ANCOUNT + 2 * section)


cdef inline void set_header(uint8_t* wire, uint16_t flags, uint16_t questions, uint16_t answers, uint16_t authorities,
                            uint16_t additionals) noexcept nogil:
    """Write all of a header but the ID."""
    set16(wire + HEADER_FLAGS, flags)
    set16(wire + QDCOUNT, questions)
    set16(wire + ANCOUNT, answers)
    set16(wire + NSCOUNT, authorities)
    set16(wire + ARCOUNT, additionals)


cdef inline size_t put_question(uint8_t* out, const Query* query, uint16_t flags, uint16_t answers,
                                uint16_t authorities, uint16_t additionals) noexcept nogil:
    """Write a header with a query's ID, and its question; return their octets."""
    cdef size_t octets = HEADER + query.question
    memcpy(out, query.wire, octets)
    set_header(out, flags, octets > HEADER, answers, authorities, additionals)
    return octets


cdef inline void begin_records(RecordCursor* cursor, const uint8_t* wire, size_t length, size_t at) noexcept nogil:
    """Begin a walk over a message's records at its `question_end`, which may be -1; it needs a whole header."""
    cursor.wire, cursor.length, cursor.at, cursor.section = wire, length, at, ANSWER
    read_counts(cursor.left, wire)


cdef inline bint next_record(RecordCursor* cursor, Record* record) noexcept nogil:
    """Read the next record; False: there is no other, or it cannot be read, and `has_read_all` tells which."""
    while cursor.section <= ADDITIONAL and not cursor.left[cursor.section]:
        cursor.section += 1
    if cursor.section > ADDITIONAL or not read_record(record, cursor.wire, cursor.length, cursor.at):
        return False
    record.section = cursor.section
    cursor.left[cursor.section] -= 1
    cursor.at = record.end
    return True


cdef inline bint has_read_all(const RecordCursor* cursor) noexcept nogil:
    """Tell whether all records that were announced have been read, and nothing stands behind them."""
    return (cursor.at == cursor.length and not cursor.left[ANSWER] and not cursor.left[AUTHORITY]
            and not cursor.left[ADDITIONAL])


cdef inline bint is_opt(const Record* record) noexcept nogil:
    return record.rtype == OPT and record.fixed == record.owner + 1


cdef inline bint find_opt(RecordCursor* cursor, Record* record) noexcept nogil:
    """Read up to the next OPT record; False: there is none, as far as the records can be read."""
    while next_record(cursor, record):
        if is_opt(record):
            return True
    return False


cdef inline void begin_options(OptionCursor* option, const uint8_t* octets, size_t length) noexcept nogil:
    option.octets, option.size, option.left = octets, 0, length


cdef inline bint next_option(OptionCursor* option) noexcept nogil:
    """Go on to the next option; False: there is none, and what is `left` is not whole."""
    option.octets += option.size
    option.left -= option.size
    option.size = 0
    if option.left < OPTION_DATA or option.left - OPTION_DATA < get16(option.octets + OPTION_LENGTH):
        return False
    option.code = get16(option.octets)
    option.size = OPTION_DATA + <size_t> get16(option.octets + OPTION_LENGTH)
    return True


cdef inline uint32_t rule_choices_of(const uint8_t* key) noexcept nogil:
    """Return what rules chose for a query, as its key has it; 0: nothing."""
    return get32(key + KEY_RULE_CHOICES)


cdef inline size_t name_size(const uint8_t* name) noexcept nogil:
    """Return the octets of a name without pointers. Caller must ensure that it is whole."""
    cdef size_t at = 0
    while name[at]:
        at += 1 + name[at]
    return at + 1


cdef inline uint32_t steps_of(size_t length) noexcept nogil:
    """Return how many labels and pointers may be followed in a message of so many octets.

    A record takes 11 octets or more, and its names can lead through all names before them. Thousands of addresses of a
    name with ten labels, or of PTR records below ip6.arpa, need fewer; a message that needs more was made to cost.
    """
    return <uint32_t> (4 * length + 4096)


cdef inline uint8_t source_prefix(const Query* query) noexcept nogil:
    """Return the SOURCE PREFIX-LENGTH of the CLIENT-SUBNET option. Caller must ensure that there is one."""
    return query.wire[query.subnet + SUBNET_SOURCE]


cdef inline const uint8_t* cookie_of(const Query* query) noexcept nogil:
    """Return the client's cookie, of 8 octets, or NULL where he sent none that can be one."""
    return query.wire + query.cookie_at + OPTION_DATA if query.cookie >= OPTION_DATA + 8 else NULL


cdef inline bint has_own_opt(const Query* query) noexcept nogil:
    """Tell whether the client sent an OPT record, and gets one."""
    return query.opt and not query.added & ADDED_OPT


cdef inline bint ends_here(uint16_t code, const Ignored* ignored) noexcept nogil:
    """Tell whether an EDNS option of a query is hop by hop, or to be ignored; NULL: none is that."""
    cdef uint8_t k
    if code == COOKIE or code == PADDING or code == KEEPALIVE:
        return True
    if ignored != NULL:
        for k in range(ignored.count):
            if ignored.codes[k] == code:
                return True
    return False


cdef inline uint8_t fold(uint8_t c) noexcept nogil:
    """Return the octet in lower case: ASCII only (RFC 4343)."""
    return c + ((<uint8_t> (c - 65) < 26) << 5)


cdef inline uint64_t fold8(const uint8_t* octets) noexcept nogil:
    """Return eight octets in lower case, as they lie in memory."""
    cdef uint64_t word, low
    memcpy(&word, octets, 8)
    low = word & <uint64_t> 0x7f7f7f7f7f7f7f7f  # of each, so that no sum runs over into the next
    return word | ((low + <uint64_t> 0x3f3f3f3f3f3f3f3f ^ low + <uint64_t> 0x2525252525252525) & ~word
                   & <uint64_t> 0x8080808080808080) >> 2


cdef inline bint same_folded(const uint8_t* a, const uint8_t* b, size_t length) noexcept nogil:
    """Tell whether two names (or questions) differ in nothing but case."""
    cdef size_t i = 0
    if length < 8:
        while i < length and fold(a[i]) == fold(b[i]):
            i += 1
        return i == length
    while i + 8 < length:
        if fold8(a + i) != fold8(b + i):
            return False
        i += 8
    return fold8(a + length - 8) == fold8(b + length - 8)  # some of it for the second time


cdef inline void fold_all(uint8_t* out, const uint8_t* octets, size_t length) noexcept nogil:
    """Write octets in lower case."""
    cdef:
        size_t i = 0
        uint64_t word
    while length < 8 and i < length:
        out[i] = fold(octets[i])
        i += 1
    while i < length:
        i = min(i, length - 8)
        word = fold8(octets + i)
        memcpy(out + i, &word, 8)
        i += 8


cdef Verdict parse_query(Query* query, const uint8_t* wire, size_t length) noexcept nogil
cdef Verdict parse_ignoring(Query* query, const uint8_t* wire, size_t length, const Ignored* ignored) noexcept nogil
cdef void find_partial_opt(Query* query) noexcept nogil
cdef void hash_key(Query* query, const Secret* secret) noexcept nogil
cdef const uint8_t* lower_name(const Query* query, uint8_t* room) noexcept nogil
cdef bint is_transfer(const Query* query) noexcept nogil
cdef void set_payload(uint8_t* wire, const Query* query, uint16_t payload) noexcept nogil
cdef bint is_unsigned(const Query* query) noexcept nogil
cdef int32_t question_end(const uint8_t* wire, size_t length) noexcept nogil
cdef bint read_record(Record* record, const uint8_t* wire, size_t length, size_t at) noexcept nogil
cdef int32_t plain_end(const uint8_t* wire, size_t length, size_t at) noexcept nogil
cdef int32_t skip_name(const uint8_t* wire, size_t length, size_t at) noexcept nogil
cdef bint is_name(const uint8_t* wire, size_t length, size_t at) noexcept nogil
cdef bint can_move(const uint8_t* wire, const Record* record, size_t behind) noexcept nogil
cdef int32_t follow_name(const uint8_t* wire, size_t length, size_t at, uint32_t* steps) noexcept nogil
cdef size_t put_opt(uint8_t* out, uint16_t payload, uint8_t rcode_high, uint16_t flags,
                    uint16_t options) noexcept nogil
cdef size_t forwardable(uint8_t* out, size_t room, const Query* query, uint16_t payload) noexcept nogil
cdef size_t end_options(uint8_t* wire, const Query* query, const Ignored* ignored) noexcept nogil
cdef size_t copy_options(uint8_t* out, const uint8_t* options, size_t length, uint16_t but) noexcept nogil
cdef size_t put_own_options(uint8_t* wire, size_t length, const EdnsOptions* extra) noexcept nogil
cdef void set_rule_choices(Query* query, uint16_t route, uint16_t ttl_limits) noexcept nogil
cdef void set_subnet(Query* query, uint8_t prefix) noexcept nogil
cdef void drop_subnet(Query* query) noexcept nogil
cdef uint16_t put_option(uint8_t* out, uint16_t code, uint16_t value) noexcept nogil
cdef void add_option(EdnsOptions* extra, uint16_t code, uint16_t value) noexcept nogil
cdef size_t put_own_opt(uint8_t* out, const Query* query, uint16_t payload, uint8_t rcode_high, uint16_t edns_flags,
                        const EdnsOptions* extra) noexcept nogil
cdef size_t put_error(uint8_t* out, const Query* query, uint16_t rcode, uint16_t payload,
                      const EdnsOptions* extra) noexcept nogil
cdef size_t put_minimal_any(uint8_t* out, const Query* query, uint16_t payload, const EdnsOptions* extra) noexcept nogil
