/* Answers from the table: a question that it has is answered where it stands, and goes back by the queue it came by.
 *
 *     read the question, hash it -> compare all of what is at its place -> write the answer behind it -> turn the frame
 *
 * An answer in the table is what a worker has just sent to somebody who asked the same, and lives until a TTL in it
 * would be another, a second at most: so nothing is counted down here, a daemon that is dead or stopped answers nobody
 * for longer than that, and each second a worker sees what is asked for. Who may ask, and what is answered here at all,
 * is decided by who writes the table. */
#pragma once
#include "answers.h"
#include "frame.bpf.h"

enum lot { NONE, SPARED, RECORDED }; /* of a query that could be answered here: whether somebody wants it recorded */
enum { ASKING = 0x0130, OPT = 41, HOPS = 64, WHOLE = 0x4000, IPV4_WORDS = 5, HEADER = sizeof(struct dns), QUESTION_FIXED = 4 };

struct map answers SECTION("maps") = {
    BPF_MAP_TYPE_ARRAY, sizeof(__u32), sizeof(struct answer), ANSWERS, BPF_F_MMAPABLE,
};
struct map table SECTION("maps") = {BPF_MAP_TYPE_ARRAY, sizeof(__u32), sizeof(struct table), 1, BPF_F_MMAPABLE};
struct map answered SECTION("maps") = {
    BPF_MAP_TYPE_ARRAY, sizeof(__u32), sizeof(struct answered), CPUS_MAX, BPF_F_MMAPABLE,
};

struct question {
    union asked asked;
    __u32 length;               /* octets of its name */
    __u64 hash;
    __u64 sum;                  /* over the name, as it is spelled */
    __u64 counts, opt;          /* what an answer is written over */
    __u32 opt_end;
    __u64 name[NAME_WORDS];     /* in lower case; zeros behind it, up to a whole word */
};

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define LAST(word, octets) ((word) >> (64 - 8 * (octets))) /* the last octets of a word, as its first, and zeros */
#else
#define LAST(word, octets) ((word) << (64 - 8 * (octets)))
#endif

/* Keep what is read before this from being read behind it. The compiler makes of a sum that nobody looks at an
 * instruction that orders nothing, so it must believe that somebody does. */
#ifdef ORDER /* a test writes meanwhile */
#elif defined TOTAL_STORE_ORDER
#define ORDER() __asm__ volatile("" ::: "memory")
#else
#define ORDER() ({ __u64 fence = 0; __asm__ volatile("" ::"r"(__sync_fetch_and_add(&fence, 1)) : "memory"); })
#endif

/* Let the kernel's verifier see that a number is within bounds, however the compiler would rather compare it. */
#define WITHIN(number, mask) __asm__ volatile("%0 &= " #mask : "+r"(number))

/* Have the compiler know nothing of a pointer any more. It would leave out what asks whether all is within the frame
 * where that follows from what was asked before, which the verifier does not see. */
#define FORGET(pointer) __asm__ volatile("" : "+r"(pointer))

INLINE __u64 both_halves(__u64 word)
{
    return (word & 0xffffffff) + (word >> 32);
}

/* Return the Internet's checksum (RFC 1071) for a sum of words of any size. */
INLINE __u16 checksum(__u64 sum)
{
    sum = both_halves(both_halves(sum));
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

/* Read an OPT record of version 0 without options, and without a flag but DO; 0: it is none. */
INLINE int read_plain_opt(struct question *question, const void *at)
{
    question->opt = *(const __u64 *)at;
    question->opt_end = *(const __u32 *)(at + 7);
    question->asked.opt = 1 | *(const __u16 *)(at + 7);
    return (question->opt & NET64(0xffffff0000ffff7f)) == NET64((__u64)OPT << 40) &&
           !(question->opt_end & NET32(0x7fffffff));
}

/* Take a word of the name into all that is made of it. */
INLINE void take_word(struct question *question, const u64 *secret, __u32 number, __u64 word)
{
    question->sum += both_halves(word);
    question->name[number] = fold8(word);
    question->hash = hash_on(secret, question->hash, question->name[number]);
}

/* Read a query that is one question and a plain OPT at most; 0: it is something else, or a longer name.
 *
 * That it is a name is not looked at: there is an answer for names alone. */
INLINE int read_question(struct question *question, const struct frame *frame, const u64 *secret)
{
    const struct dns *dns = frame->dns;
    const void *name = dns + 1, *behind;
    __u32 opt = dns->additionals ? PLAIN_OPT : 0;
    __u32 length = frame->length - HEADER - QUESTION_FIXED - opt;

    question->counts = *(const __u64 *)&dns->questions;
    if (question->counts != NET64(1ull << 48 | (opt != 0)) || *(const __u16 *)dns->flags & NET16(~ASKING))
        return 0;
    if (!length || length > 8 * NAME_WORDS)
        return 0;
    WITHIN(length, 0xff);
    behind = name + length;
    if (behind + QUESTION_FIXED > frame->end)
        return 0;
    question->length = length;
    question->asked.what = *(const __u32 *)behind;
    question->asked.flags = *(const __u16 *)dns->flags;
    question->asked.opt = 0;
    behind += QUESTION_FIXED;
    if (opt && (behind + PLAIN_OPT > frame->end || !read_plain_opt(question, behind)))
        return 0;
    question->sum = 0;
    question->hash = hash_on(secret, secret[0], question->asked.word);
    for (__u32 i = 0; i < NAME_WORDS; i++) {
        if (8 * i + 8 > length)
            break;
        const void *word = name + 8 * i;
        FORGET(word);
        if (word + 8 > frame->end)
            return 0;
        take_word(question, secret, i, *(const __u64 *)word);
    }
    if (length % 8) {
        __u32 last = length / 8;
        WITHIN(last, 0xf);
        take_word(question, secret, last, LAST(*(const __u64 *)(behind - QUESTION_FIXED - 8), length % 8));
    }
    return 1;
}

/* Tell whether an answer, whose name has so many octets, is to this question, and still true. */
INLINE int answers_it(
    const struct answer *answer, __u32 name_length, const struct question *question, const struct table *in_force)
{
    __u64 differs = name_length ^ question->length; /* or the verifier would look at all that follows for each length */
    if (answer->asked.word != question->asked.word || answer->generation != in_force->generation)
        return 0;
    for (__u32 i = 0; i < NAME_WORDS; i++) {
        if (8 * i >= question->length)
            break;
        differs |= answer->name[i] ^ question->name[i];
    }
    return !differs && now() < answer->dies;
}

/* Write all of an answer but the question, for which there must be room. 0: there is none. */
INLINE int write_answer(struct dns *dns, const struct answer *answer, __u32 name_length, __u32 length, const void *end)
{
    __u8 *at = (void *)(dns + 1);
    if ((void *)at > end)
        return 0;
    *(__u16 *)dns->flags = answer->flags;
    *(__u64 *)&dns->questions = answer->counts;
    if (!length)
        return 1;
    at += name_length + QUESTION_FIXED;
    if ((void *)(at + length) > end)
        return 0;
    *(__u64 *)(at + length - 8) = answer->last;
    for (__u32 i = 0; i < ANSWER_WORDS; i++) {
        if (8 * i + 8 > length)
            break;
        void *word = at + 8 * i;
        FORGET(word);
        if (word + 8 > end)
            return 0;
        *(__u64 *)word = answer->octets[i];
    }
    return 1;
}

/* Put back what an answer was written over: it is a query again. */
INLINE void unwrite_answer(struct dns *dns, const struct question *question, __u32 name_length, const void *end)
{
    FORGET(dns);
    __u8 *opt = (void *)(dns + 1);
    if ((void *)opt > end)
        return;
    *(__u16 *)dns->flags = question->asked.flags;
    *(__u64 *)&dns->questions = question->counts;
    opt += name_length + QUESTION_FIXED;
    if (!question->asked.opt || (void *)(opt + PLAIN_OPT) > end)
        return;
    *(__u64 *)opt = question->opt;
    *(__u32 *)(opt + 7) = question->opt_end;
}

/* Turn a frame around: who sent it gets it. `sum` is that of its message. 0: it is not whole. */
INLINE int turn(void *at, __u32 network, __u32 transport, __u32 length, __u64 sum, const void *end)
{
    struct ethhdr *ethernet = at;
    struct udphdr *udp = at + transport;
    struct ethhdr old;
    __u16 port;

    FORGET(ethernet);
    FORGET(udp);
    if ((void *)(ethernet + 1) > end || (void *)(udp + 1) > end)
        return 0;
    old = *ethernet;
    __builtin_memcpy(ethernet->h_dest, old.h_source, ETH_ALEN);
    __builtin_memcpy(ethernet->h_source, old.h_dest, ETH_ALEN);
    length += sizeof(struct udphdr);
    if (transport - network == sizeof(struct iphdr)) {
        struct iphdr *ip = at + network;
        const __u32 *word;
        __u64 whole = 0;
        __u32 from;
        FORGET(ip);
        word = (void *)ip;
        if ((void *)(ip + 1) > end)
            return 0;
        from = ip->daddr;
        ip->daddr = ip->saddr;
        ip->saddr = from;
        ip->tos = 0;
        ip->tot_len = NET16(sizeof(struct iphdr) + length);
        ip->id = 0; /* what nobody divides needs none (RFC 6864) */
        ip->frag_off = NET16(WHOLE);
        ip->ttl = HOPS;
        ip->check = 0;
        for (int i = 0; i < IPV4_WORDS; i++)
            whole += word[i];
        ip->check = checksum(whole);
        sum += (__u64)ip->saddr + ip->daddr;
    } else {
        struct ipv6hdr *ip = at + network;
        struct in6_addr from;
        FORGET(ip);
        if ((void *)(ip + 1) > end)
            return 0;
        from = ip->daddr;
        ip->daddr = ip->saddr;
        ip->saddr = from;
        *(__u32 *)ip = NET32(6u << 28);
        ip->payload_len = NET16(length);
        ip->hop_limit = HOPS;
        for (int i = 0; i < 4; i++)
            sum += (__u64)ip->saddr.s6_addr32[i] + ip->daddr.s6_addr32[i];
    }
    port = udp->dest;
    udp->dest = udp->source;
    udp->source = port;
    udp->len = NET16(length);
    sum += (__u64)udp->source + udp->dest + udp->len + udp->len + NET16(IPPROTO_UDP);
    udp->check = checksum(sum);
    if (!udp->check)
        udp->check = 0xffff;
    return 1;
}

/* Answer a query from the table: XDP_TX, and the frame is the answer; 0: nothing was done to it, but for its padding,
 * and `lot` was drawn, if any.
 *
 * Pointers into the frame are not to be used again. */
INLINE int answer_query(struct xdp_md *context, const struct frame *frame, enum lot *lot)
{
    const __u32 first = 0;
    const struct table *in_force = lookup(&table, &first);
    const struct answer *answer;
    struct answered *counts;
    struct question question;
    struct dns *dns;
    __u64 sequence, sum;
    __u32 place, length, name_length, cpu, rcode;
    __u32 network = (frame->ipv4 ? (void *)frame->ipv4 : (void *)frame->ipv6) - (void *)frame->ethernet;
    __u32 transport = (void *)frame->udp - (void *)frame->ethernet;
    __u32 listener = frame->listener->number;
    int grows;

    if (!in_force || !in_force->generation || !read_question(&question, frame, in_force->secret))
        return 0;
    place = place_of(question.hash);
    answer = lookup(&answers, &place);
    if (!answer)
        return 0;
    sequence = answer->sequence;
    ORDER();
    name_length = *(const volatile u16 *)&answer->name_length;
    if (sequence & 1 || !answers_it(answer, name_length, &question, in_force))
        return 0;
    if (in_force->recorded)
        *lot = random() < in_force->recorded ? RECORDED : SPARED;
    if (*lot == RECORDED)
        return 0;
    length = answer->length;
    sum = answer->sum + question.sum + frame->dns->id;
    rcode = NET16(answer->flags) & 0xf;
    if (length > 8 * ANSWER_WORDS)
        return 0;
    grows = (int)(HEADER + name_length + QUESTION_FIXED + length) - (int)(frame->end - (void *)frame->dns);
    if (adjust_tail(context, grows))
        return 0;

    WITHIN(transport, 0x7f);
    WITHIN(network, 0x3f);
    WITHIN(name_length, 0xff);
    WITHIN(length, 0x3ff);
    void *at = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    dns = at + transport + sizeof(struct udphdr);
    if (!write_answer(dns, answer, name_length, length, end))
        return XDP_DROP;
    ORDER();
    if (answer->sequence != sequence) {
        unwrite_answer(dns, &question, name_length, end);
        return adjust_tail(context, -grows) ? XDP_DROP : 0;
    }
    if (!turn(at, network, transport, HEADER + name_length + QUESTION_FIXED + length, sum, end))
        return XDP_DROP;
    cpu = this_cpu();
    counts = lookup(&answered, &cpu);
    if (counts && listener < LISTENERS) {
        counts->answers++;
        counts->rcodes[rcode]++;
        counts->listeners[listener]++;
    }
    return XDP_TX;
}

/* Mark a frame that goes to a worker with the lot that was drawn for it: by the group bits of both its addresses, which
 * are not set in what comes to one interface from another. What goes elsewhere stays as it came. */
INLINE int marked(struct xdp_md *context, int action, enum lot lot)
{
    struct ethhdr *ethernet = (void *)(long)context->data;
    if (lot != NONE && action == XDP_REDIRECT && (void *)(ethernet + 1) <= (void *)(long)context->data_end) {
        ethernet->h_dest[0] |= 1;
        ethernet->h_source[0] |= lot == RECORDED;
    }
    return action;
}
