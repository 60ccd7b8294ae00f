"""The memory orders that two threads need to talk without a lock, under names that say what for.

One writer publishes (release), readers look (acquire); counters and marks need no order (relaxed).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    LINE = 64                      # octets of a cache line

cdef extern from *:
    """
    #define FS_LOOK(p)           __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define FS_PUBLISH(p, v)     __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define FS_PEEK(p)           __atomic_load_n((p), __ATOMIC_RELAXED)
    #define FS_POKE(p, v)        __atomic_store_n((p), (v), __ATOMIC_RELAXED)
    #define FS_ANNOUNCE(p, v)    __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
    #define FS_WITNESS(p)        __atomic_load_n((p), __ATOMIC_SEQ_CST)
    #define FS_BARRIER()         __atomic_thread_fence(__ATOMIC_SEQ_CST)
    #define FS_SWAP(p, v)        __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)
    #define FS_ADD(p, v)         __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)
    static inline int fs_replace(uint64_t* p, uint64_t old, uint64_t other) {
        return __atomic_compare_exchange_n(p, &old, other, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    }
    typedef uint64_t __attribute__((may_alias)) fs_word;
    static inline void fs_copy_words(void* to, const void* from, size_t octets) {
        for (size_t i = 0; i < octets / 8; i++)
            FS_POKE((fs_word*) to + i, FS_PEEK((const fs_word*) from + i));
    }
    #ifdef __SANITIZE_THREAD__   /* to it, a look at what nobody will read is a race */
    #define FS_TOUCH(p)          __builtin_prefetch((p))
    #else
    #define FS_TOUCH(p)          ((void) *(const volatile char*) (p))
    #endif
    """
    # What was written before `publish` is seen after a `look` that sees it.
    uint64_t look "FS_LOOK"(const uint64_t*) noexcept nogil
    void publish "FS_PUBLISH"(uint64_t*, uint64_t) noexcept nogil

    # No order: counters with one writer, settings, "was used" marks.
    uint64_t peek "FS_PEEK"(const uint64_t*) noexcept nogil
    void poke "FS_POKE"(uint64_t*, uint64_t) noexcept nogil
    uint8_t peek_octet "FS_PEEK"(const uint8_t*) noexcept nogil
    void poke_octet "FS_POKE"(uint8_t*, uint8_t) noexcept nogil
    uint16_t peek16 "FS_PEEK"(const uint16_t*) noexcept nogil
    uint32_t peek32 "FS_PEEK"(const uint32_t*) noexcept nogil
    void poke32 "FS_POKE"(uint32_t*, uint32_t) noexcept nogil

    # A struct of settings, in words of eight octets: each field is true, but not all of them need be of one time.
    void copy_words "fs_copy_words"(void* to, const void* source, size_t octets) noexcept nogil

    # Words that several threads write: counters, and words that one of them may replace.
    uint64_t add "FS_ADD"(uint64_t*, uint64_t) noexcept nogil
    bint replace "fs_replace"(uint64_t*, uint64_t old, uint64_t other) noexcept nogil

    # One order for all: each side tells first and looks afterwards, so one of the two must notice.
    void announce "FS_ANNOUNCE"(uint64_t*, uint64_t) noexcept nogil
    uint64_t witness "FS_WITNESS"(const uint64_t*) noexcept nogil
    uint64_t swap "FS_SWAP"(uint64_t*, uint64_t) noexcept nogil
    void barrier "FS_BARRIER"() noexcept nogil

    # Fetch a cache line, and wait for nothing: a load, for a prefetch is dropped where many are under way.
    void touch "FS_TOUCH"(const void*) noexcept nogil


cdef inline void bump(uint64_t* counter, uint64_t by) noexcept nogil:
    """Add to a counter that this thread alone writes and others may read at any time."""
    poke(counter, peek(counter) + by)
