/* What programs in the kernel are written with: maps as a table that `bpf.py` reads, and the kernel's functions by
 * number (bpf-helpers(7)). None of these functions is for GPL alone. All functions of ours are inlined; there are no
 * globals but maps. */
#pragma once
#include <linux/bpf.h>
#include <linux/types.h>

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define LIKELY(x) __builtin_expect(!!(x), 1)

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NET16(x) ((__u16)__builtin_bswap16(x))
#define NET32(x) ((__u32)__builtin_bswap32(x))
#define NET64(x) ((__u64)__builtin_bswap64(x))
#else
#define NET16(x) (x)
#define NET32(x) (x)
#define NET64(x) (x)
#endif

struct map {                    /* as `bpf.MapKind` has it */
    __u32 type, key_size, value_size, max_entries, flags;
};

static void *(*lookup)(const void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*redirect)(const void *map, __u64 key, __u64 otherwise) = (void *)BPF_FUNC_redirect_map;
static long (*adjust_tail)(struct xdp_md *context, int by) = (void *)BPF_FUNC_xdp_adjust_tail;
static __u64 (*now)(void) = (void *)BPF_FUNC_ktime_get_boot_ns;
static __u32 (*random)(void) = (void *)BPF_FUNC_get_prandom_u32;
static __u32 (*this_cpu)(void) = (void *)BPF_FUNC_get_smp_processor_id;
