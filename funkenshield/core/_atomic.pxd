"""Memory orders, under the names of C11 (ISO/IEC 9899:2011, 7.17.3), for threads that share memory without a lock.

What one writer has made is stored with release and loaded with acquire; counters and marks need no order (relaxed).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    LINE = 64                      # octets of a cache line

cdef extern from *:
    """
    #define FS_LOAD_ACQUIRE(p)           __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define FS_STORE_RELEASE(p, v)     __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define FS_LOAD_RELAXED(p)           __atomic_load_n((p), __ATOMIC_RELAXED)
    #define FS_STORE_RELAXED(p, v)        __atomic_store_n((p), (v), __ATOMIC_RELAXED)
    #define FS_STORE_SEQ_CST(p, v)    __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
    #define FS_LOAD_SEQ_CST(p)        __atomic_load_n((p), __ATOMIC_SEQ_CST)
    #define FS_FENCE()         __atomic_thread_fence(__ATOMIC_SEQ_CST)
    #define FS_EXCHANGE(p, v)        __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)
    #define FS_ADD(p, v)         __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)
    static inline int fs_compare_exchange(uint64_t* p, uint64_t old, uint64_t other) {
        return __atomic_compare_exchange_n(p, &old, other, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    }
    typedef uint64_t __attribute__((may_alias)) fs_word;
    static inline void fs_copy_words(void* to, const void* from, size_t octets) {
        for (size_t i = 0; i < octets / 8; i++)
            FS_STORE_RELAXED((fs_word*) to + i, FS_LOAD_RELAXED((const fs_word*) from + i));
    }
    #ifdef __SANITIZE_THREAD__   /* to it, a look at what nobody will read is a race */
    #define FS_PREFETCH_BY_LOAD(p)          __builtin_prefetch((p))
    #else
    #define FS_PREFETCH_BY_LOAD(p)          ((void) *(const volatile char*) (p))
    #endif
    """
    # What was written before a store with release is seen after a load with acquire that sees it.
    uint64_t load_acquire "FS_LOAD_ACQUIRE"(const uint64_t*) noexcept nogil
    void store_release "FS_STORE_RELEASE"(uint64_t*, uint64_t) noexcept nogil

    # What is replaced as a whole, and only read meanwhile.
    const void* load_pointer "FS_LOAD_ACQUIRE"(const void* const* place) noexcept nogil
    void store_pointer "FS_STORE_RELEASE"(const void** place, const void* replacement) noexcept nogil

    # No order: counters with one writer, settings, "was used" marks.
    uint64_t load_relaxed "FS_LOAD_RELAXED"(const uint64_t*) noexcept nogil
    void store_relaxed "FS_STORE_RELAXED"(uint64_t*, uint64_t) noexcept nogil
    uint8_t load_relaxed8 "FS_LOAD_RELAXED"(const uint8_t*) noexcept nogil
    void store_relaxed8 "FS_STORE_RELAXED"(uint8_t*, uint8_t) noexcept nogil
    uint16_t load_relaxed16 "FS_LOAD_RELAXED"(const uint16_t*) noexcept nogil
    uint32_t load_relaxed32 "FS_LOAD_RELAXED"(const uint32_t*) noexcept nogil
    void store_relaxed32 "FS_STORE_RELAXED"(uint32_t*, uint32_t) noexcept nogil

    # A struct of settings, in words of eight octets: each field is true, but not all of them need be of one time.
    void copy_words "fs_copy_words"(void* to, const void* source, size_t octets) noexcept nogil

    # Words that several threads write: counters, and words that one of them may replace.
    uint64_t add "FS_ADD"(uint64_t*, uint64_t) noexcept nogil
    bint compare_exchange "fs_compare_exchange"(uint64_t*, uint64_t old, uint64_t other) noexcept nogil

    # One order for all: each side tells first and looks afterwards, so one of the two must notice.
    void store_seq_cst "FS_STORE_SEQ_CST"(uint64_t*, uint64_t) noexcept nogil
    uint64_t load_seq_cst "FS_LOAD_SEQ_CST"(const uint64_t*) noexcept nogil
    uint64_t exchange "FS_EXCHANGE"(uint64_t*, uint64_t) noexcept nogil
    void barrier "FS_FENCE"() noexcept nogil

    # Fetch a cache line, and wait for nothing: a load, for a prefetch is dropped where many are under way.
    void prefetch_by_load "FS_PREFETCH_BY_LOAD"(const void*) noexcept nogil


cdef inline void bump(uint64_t* counter, uint64_t by) noexcept nogil:
    """Add to a counter that this thread alone writes and others may read at any time."""
    store_relaxed(counter, load_relaxed(counter) + by)
