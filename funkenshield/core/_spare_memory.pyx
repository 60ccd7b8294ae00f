"""Memory that is needed for a moment, again and again: blocks that a thread keeps by size, and who holds how many.

malloc(3) keeps such blocks too, and takes three times as many instructions for it. What is larger is left to that, and
so is all where each access is checked: a block that is given back may not be used.
"""

from collections.abc import Sequence

from libc.stdint cimport SIZE_MAX, uint32_t, uint64_t
from libc.stdlib cimport abort, free, malloc
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #ifdef FUNKENSHIELD_CHECKED
    #define FS_SPARE_MAX 0
    #else
    #define FS_SPARE_MAX 64
    #endif
    """
    int BLOCKS_MAX "FS_SPARE_MAX"  # of a size that are kept: 129 KiB at most, all in all
    int leading_zeros "__builtin_clzl"(unsigned long number) noexcept nogil

SPARE_MAX = BLOCKS_MAX


cdef inline uint32_t _place_of(size_t size) noexcept nogil:
    """Return the first of the sizes that is not smaller; SIZES or more: none is."""
    return <uint32_t> (leading_zeros(SMALLEST - 1) - leading_zeros((size - 1) | (SMALLEST - 1)))


cdef void* take_block(size_t size, void* holder) noexcept nogil:
    """Return a block for so many octets at least; NULL: there is no memory."""
    cdef:
        SpareMemory* spare = (<Holder*> holder).spare
        uint32_t place = _place_of(size)
        Block* block
    if place < SIZES and spare.first[place] != NULL:
        block = spare.first[place]
        spare.first[place] = block.next
        spare.count[place] -= 1
    else:
        size = <size_t> SMALLEST << place if place < SIZES else size
        block = <Block*> malloc(sizeof(Block) + size) if size <= SIZE_MAX - sizeof(Block) else NULL
        if block == NULL:
            return NULL
        block.size = size
    block.next = block
    (<Holder*> holder).held += block.size
    return block + 1


cdef void* take_zeros(size_t count, size_t size, void* holder) noexcept nogil:
    """Return a block of zeros for so many, each of a size; NULL: there is no memory."""
    cdef void* taken = take_block(count * size, holder) if not size or count <= SIZE_MAX // size else NULL
    return memset(taken, 0, count * size) if taken != NULL else NULL


cdef void* resize_block(void* octets, size_t size, void* holder) noexcept nogil:
    """Return a block with what another one holds, in place of that; NULL: there is no memory, and that stays."""
    cdef:
        const Block* block = <const Block*> octets - 1
        void* larger
    if octets != NULL and size <= block.size:
        return octets
    larger = take_block(size, holder)
    if larger != NULL and octets != NULL:
        memcpy(larger, octets, block.size)
        give_back(octets, holder)
    return larger


cdef void give_back(void* octets, void* holder) noexcept nogil:
    """Keep a block for whoever needs its size next, or free it. To give one back twice ends the process."""
    cdef:
        SpareMemory* spare = (<Holder*> holder).spare
        Block* block = <Block*> octets - 1
        uint32_t place
    if octets == NULL:
        return
    if block.next != block:
        abort()
    (<Holder*> holder).held -= block.size
    place = _place_of(block.size)
    if place >= SIZES or spare.count[place] >= <uint32_t> BLOCKS_MAX:
        free(block)
        return
    block.next = spare.first[place]
    spare.first[place] = block
    spare.count[place] += 1


cdef void free_spare(SpareMemory* spare) noexcept nogil:
    """Free what is spare."""
    cdef:
        Block* block
        uint32_t place
    for place in range(SIZES):
        while spare.first[place] != NULL:
            block = spare.first[place]
            spare.first[place] = block.next
            free(block)


# ---------------------------------------------------------------- for Python

def use(sizes: Sequence[int]) -> tuple[int, int, int]:
    """Take blocks of these sizes, give them back; return what was held, what is by now, and how many are spare."""
    cdef:
        SpareMemory spare
        Holder holder
        uint64_t most
        void* block
        list taken = []
    memset(&spare, 0, sizeof(SpareMemory))
    holder.spare, holder.held = &spare, 0
    for size in sizes:
        block = take_block(<size_t> size, &holder)
        memset(block, 0xff, <size_t> size)
        taken.append(<size_t> block)
    most = holder.held
    for each in taken:
        give_back(<void*> <size_t> each, &holder)
    try:
        return most, holder.held, sum(spare.count[k] for k in range(SIZES))
    finally:
        free_spare(&spare)
