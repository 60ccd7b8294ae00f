/* The table of answers that workers write and the program in the kernel reads: how it lies in the memory that both see,
 * and the few steps that both must take alike. */
#pragma once

typedef __UINT64_TYPE__ u64;
typedef __UINT32_TYPE__ u32;
typedef __UINT16_TYPE__ u16;

enum {
    PLACE_BITS = 14,
    ANSWERS = 1 << PLACE_BITS,  /* places in the table */
    NAME_WORDS = 16,            /* of the longest name, of eight octets each */
    ANSWER_WORDS = 64,          /* of the longest answer */
    PLAIN_OPT = 11,             /* octets of an OPT record without options */
    CPUS_MAX = 1024,            /* that are counted apart */
    LISTENERS = 64,
    RCODES = 16,
};

/* All that tells questions apart but the name: octets as in the message, so that it can be compared at once. */
union asked {
    struct {
        u32 what;             /* type and class */
        u16 flags;            /* of the header */
        u16 opt;              /* 0: there is none; else 1, and DO as in its flags */
    };
    u64 word;
};

/* An answer: header and all that stands behind the question, for everybody who asks the same with the same flags.
 * Whoever writes makes `sequence` odd, and then even again; who reads an odd one, or another one afterwards, has read
 * nothing. */
struct answer {
    u64 sequence;
    u64 generation;           /* that it is true in; see `struct table` */
    u64 dies;                 /* nanoseconds since boot; from then on it answers nobody */
    union asked asked;
    u16 name_length;          /* octets; 0: the place was never used */
    u16 length;               /* octets behind the question */
    u16 flags;                /* of the header, as it is sent */
    u16 zero;
    u64 counts;               /* of the header, likewise */
    u64 last;                 /* the last eight octets of `octets` */
    u64 sum;                  /* over all but ID and name, as the Internet's checksum adds them, where they stand */
    u64 name[NAME_WORDS];     /* in lower case; zeros behind it */
    u64 octets[ANSWER_WORDS]; /* behind the question */
};

/* What holds for the whole table. An answer of another generation than this one is none: so one store takes out all. */
struct table {
    u64 generation;           /* 0: the kernel answers nobody */
    u64 recorded;             /* of 2**32 queries, so many go to a worker, which has them recorded */
    u64 secret[2];            /* of the hash; the second is odd */
};

/* What a CPU has answered; nobody else writes it. */
struct answered {
    u64 answers;
    u64 rcodes[RCODES];
    u64 listeners[LISTENERS];
};

/* Return eight octets with ASCII in lower case; octets of lengths are below 64, and stay as they are. */
static inline __attribute__((always_inline)) u64 fold8(u64 word)
{
    const u64 low = word & 0x7f7f7f7f7f7f7f7f;
    return word | ((low + 0x3f3f3f3f3f3f3f3f) & ~(low + 0x2525252525252525) & ~word & 0x8080808080808080) >> 2;
}

/* Take the next word of a key into its hash. Each bit of it goes through the secret, so that nobody else can have names
 * meet: after the first product, a highest bit is still one that can be told; after the second one, it is not. */
static inline __attribute__((always_inline)) u64 hash_on(const u64 *secret, u64 hash, u64 word)
{
    hash = (hash ^ word) * secret[1];
    return (hash ^ hash >> 32) * secret[1];
}

/* Return the place of a key, by the bits of its hash that all others have gone into. */
static inline __attribute__((always_inline)) u32 place_of(u64 hash)
{
    return hash >> (64 - PLACE_BITS);
}
