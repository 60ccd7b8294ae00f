"""An entry on its way to the disk and back: octets that say nothing of this process.

It knows the form of an entry, and trusts none that comes back: what would lead a reader astray is
refused. The file around it is `snapshot`'s business.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from ..core._atomic cimport load_relaxed32
from ..wire._message cimport (
    ANSWER, KEY_FLAGS, KEY_MAX, KEY_PREFIX, RR_RDATA, RR_RDLENGTH, WITH_SUBNET, get16, is_name, name_size,
    rule_choices_of
)
from ._entry cimport (
    ANSWER_MAX, FAILURE, SECTIONS, Answer, answer_body, answer_key, answer_name, fixed_at
)


cdef size_t write_entry(uint8_t* out, const Answer* answer, uint32_t now) noexcept nogil:
    """Write an entry with times relative to now; return its octets, 0 for a failure, and for what rules have chosen."""
    cdef:
        size_t size = _behind(answer.ttls, answer.key_length, answer.body, answer.options)
        Exported exported
    if answer.kind == FAILURE or rule_choices_of(answer_key(answer)):
        return 0
    exported.age, exported.left = now - answer.born, <int32_t> (load_relaxed32(&answer.marks.expires) - now)
    exported.ttls, exported.key_length, exported.body = answer.ttls, answer.key_length, answer.body
    exported.options, exported.flags, exported.edns_flags = answer.options, answer.flags, answer.edns_flags
    memcpy(exported.counts, answer.counts, sizeof(exported.counts))
    exported.rcode_high, exported.opt, exported.kind = answer.rcode_high, answer.opt, answer.kind
    exported.form, exported.scope = answer.form, answer.scope
    exported.everybody, exported.bare = answer.everybody, answer.bare
    memcpy(out, &exported, sizeof(Exported))
    memcpy(out + sizeof(Exported), answer + 1, size)
    return sizeof(Exported) + size


cdef inline size_t _behind(uint16_t ttls, uint16_t key_length, uint16_t body, uint16_t options) noexcept nogil:
    """Return the octets that follow the fields of an entry: TTL offsets, key, body, EDNS options."""
    return <size_t> 2 * ttls + key_length + body + options


cdef size_t read_entry(Answer* answer, const uint8_t* wire, size_t left, uint32_t now, int64_t aged) except 0:
    """Read what `write_entry` wrote `aged` ticks ago; return its octets.

    It was born at 0 where it is older than anything that this clock can tell. Raises ValueError where there is no
    entry in the octets that are left. `answer` has room for ANSWER_MAX.
    """
    cdef:
        Exported exported
        int64_t born, expires
        size_t size
    if left < sizeof(Exported):
        raise ValueError("an entry is truncated")
    memcpy(&exported, wire, sizeof(Exported))
    size = _behind(exported.ttls, exported.key_length, exported.body, exported.options)
    if size > left - sizeof(Exported) or size > ANSWER_MAX - sizeof(Answer):
        raise ValueError("an entry is truncated")
    memset(answer, 0, sizeof(Answer))
    memcpy(answer + 1, wire + sizeof(Exported), size)
    answer.ttls, answer.key_length, answer.body = exported.ttls, exported.key_length, exported.body
    answer.options, answer.flags, answer.edns_flags = exported.options, exported.flags, exported.edns_flags
    memcpy(answer.counts, exported.counts, sizeof(exported.counts))
    answer.rcode_high, answer.opt, answer.kind = exported.rcode_high, exported.opt, exported.kind
    answer.form, answer.scope = exported.form, exported.scope
    answer.everybody, answer.bare = exported.everybody, exported.bare
    if not _is_sound(answer):
        raise ValueError("an entry is malformed")
    born = <int64_t> now - exported.age - aged
    expires = <int64_t> now + exported.left - aged
    answer.born = <uint32_t> born if born > 0 and expires > 0 else 0
    answer.marks.expires = <uint32_t> expires
    return sizeof(Exported) + size


cdef bint _is_sound(const Answer* answer) noexcept nogil:
    """Tell whether all that is read of an answer stands where it may. Caller must ensure that it is whole."""
    cdef:
        const uint8_t* name = answer_name(answer)
        const uint8_t* body = answer_body(answer)
        uint16_t i
        int32_t fixed
        size_t length, room
    if answer.kind >= FAILURE or answer.form != SECTIONS or answer.counts[ANSWER] > answer.ttls:
        return False
    if not KEY_PREFIX < answer.key_length <= KEY_MAX or not is_name(name, answer.key_length - KEY_PREFIX, 0):
        return False
    if rule_choices_of(answer_key(answer)):
        return False
    length = name_size(name)
    room = answer.key_length - KEY_PREFIX - length
    if get16(answer_key(answer) + KEY_FLAGS) & WITH_SUBNET:
        if room < 2 or name[length] > 2 or name[length + 1] > 128 or room != 2 + (name[length + 1] + 7) // 8:
            return False
    elif room:
        return False
    for i in range(answer.ttls):
        fixed = fixed_at(answer, i)
        if (fixed < 1 or fixed + RR_RDATA > answer.body
                or fixed + RR_RDATA + get16(body + fixed + RR_RDLENGTH) > answer.body):
            return False
    return True
