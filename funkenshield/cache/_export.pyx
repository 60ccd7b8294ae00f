"""An entry on its way to the disk and back: octets that say nothing of this process.

It knows the form of an entry, and trusts none that comes back: what would lead a reader astray is
refused. The file around it is `snapshot`'s business.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from ..core._atomic cimport load_relaxed32
from ..wire._message cimport (
    ANSWER, KEY_FLAGS, KEY_MAX, KEY_PREFIX, RR_RDATA, RR_RDLENGTH, WITH_SUBNET, get16, is_name, name_size,
    rule_choices_of
)
from ._entry cimport (
    ANSWER_MAX, FAILURE, SECTIONS, Answer, EntryState, answer_body, answer_key, answer_name, answer_size, fixed_at
)


cdef size_t write_entry(uint8_t* out, const Answer* answer, uint32_t now) noexcept nogil:
    """Write an entry with times relative to now; return its octets, 0 for a failure, and for what rules have chosen."""
    cdef:
        size_t size = answer_size(answer)
        Answer copy
    if answer.kind == FAILURE or rule_choices_of(answer_key(answer)):
        return 0
    memcpy(&copy, answer, sizeof(Answer) - sizeof(EntryState))
    copy.born = now - answer.born
    copy.marks = EntryState(expires=load_relaxed32(&answer.marks.expires) - now, refresh_after=0, purges=0, failed=0,
                            used=0)
    memcpy(out, &copy, sizeof(Answer))
    memcpy(out + sizeof(Answer), answer + 1, size - sizeof(Answer))
    return size


cdef size_t read_entry(Answer* answer, const uint8_t* wire, size_t left, uint32_t now, int64_t aged) except 0:
    """Read what `write_entry` wrote `aged` ticks ago; return its octets.

    It was born at 0 where it is older than anything that this clock can tell. Raises ValueError where there is no
    entry in the octets that are left. `answer` has room for ANSWER_MAX.
    """
    cdef:
        int64_t born, expires
        size_t size
    if left < sizeof(Answer):
        raise ValueError("an entry is truncated")
    memcpy(answer, wire, sizeof(Answer))
    size = answer_size(answer)
    if size > left or size > ANSWER_MAX:
        raise ValueError("an entry is truncated")
    memcpy(answer, wire, size)
    if not _is_sound(answer):
        raise ValueError("an entry is malformed")
    born = <int64_t> now - answer.born - aged
    expires = <int64_t> now + <int32_t> answer.marks.expires - aged
    answer.born = <uint32_t> born if born > 0 and expires > 0 else 0
    answer.marks = EntryState(expires=<uint32_t> expires, refresh_after=0, purges=0, failed=0, used=0)
    return size


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
