"""What a worker records of a query: what became of it there, and which rule saw to that."""

from libc.stdint cimport uint8_t, uint16_t

from .._fastpath cimport ASK, SEND, Outcome, QueryContext
from ..events._event cimport Event
from ..policy._rule_program cimport Program
from ..policy._rule_state cimport KIND_ASKED, KIND_LIMITED, KIND_REJECTED, KIND_RULE


cdef inline uint8_t kind_of(const QueryContext* context, Outcome outcome, bint put) noexcept nogil:
    """Return what became of a query, a Kind; `put`: there is a reply, which the guard has not held back."""
    if outcome & SEND:
        return context.rule_state.kind if put else KIND_LIMITED
    return KIND_ASKED if outcome & ASK and context.rule_state.kind != KIND_REJECTED else context.rule_state.kind


cdef inline void note_rule(Event* event, const QueryContext* context) noexcept nogil:
    """Say which rule answered, or dropped, a query, if one did."""
    cdef const Program* program
    if event.kind == KIND_RULE:
        program = context.settings.programs[context.rule_state.chain]
        event.chain, event.generation = context.rule_state.chain, program.generation
        event.rule = <uint16_t> program.nodes[context.rule_state.at].rule
