/* A load that costs its sender next to nothing: `ask` makes a query of each frame that the kernel runs it on, and sends
 * it; `count` takes the replies.
 *
 * Frames are the kernel's own (BPF_F_TEST_XDP_LIVE_FRAMES, Linux 5.18): at the other end of a wire they are as a
 * driver's are, in pages with room around them, where a socket's would be copied first. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include "kernel.bpf.h"

enum { ROOM = 128, ROUND = 64, SPINS = 4000, RESPONSE = 0x80, RCODE = 0xf, FIRST_PORT = 1024, PORTS = 0x7fff };

struct load {           /* as `load.py` packs it */
    __u64 asked;        /* so many queries */
    __u64 due;          /* when the next one goes, in nanoseconds, and what lies between two */
    __u64 between;
    __u32 sum;          /* of all that their checksums cover, but ID and source port */
    __u32 size;         /* octets of a frame, of this one here */
    __u64 words[ROOM / 8];
};

struct dns {
    __u16 id;
    __u8 flags[2];
};

struct map load SECTION("maps") = {BPF_MAP_TYPE_ARRAY, sizeof(__u32), sizeof(struct load), 1, BPF_F_MMAPABLE};
struct map replies SECTION("maps") = {BPF_MAP_TYPE_ARRAY, sizeof(__u32), sizeof(__u64), 1, BPF_F_MMAPABLE};

/* Wait until a query is due. Who is late does not catch up: the wire has room for 256. */
INLINE void keep_time(struct load *made)
{
    __u64 time = now();

    for (int i = 0; i < SPINS && time < made->due; i++)
        time = now();
    made->due = (made->due + ROUND * made->between < time ? time : made->due) + made->between;
}

SECTION("xdp") int ask(struct xdp_md *context)
{
    const __u32 first = 0;
    struct load *made = lookup(&load, &first);
    __u64 *at = (void *)(long)context->data, number;
    struct udphdr *udp = (void *)at + sizeof(struct ethhdr) + sizeof(struct iphdr);
    struct dns *dns = (void *)(udp + 1);
    __u32 sum;

    if (!made || (void *)at + ROOM > (void *)(long)context->data_end)
        return XDP_ABORTED;
    keep_time(made);
    for (int i = 0; i < ROOM / 8; i++) /* the frame was another query, or its reply, before */
        at[i] = made->words[i];
    number = made->asked++;
    dns->id = number;
    udp->source = NET16(FIRST_PORT + ((number >> 16) & PORTS));
    sum = made->sum + dns->id + udp->source;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    udp->check = ~sum;
    adjust_tail(context, (int)made->size - ROOM);
    return XDP_TX;
}

SECTION("xdp") int count(struct xdp_md *context)
{
    const __u32 first = 0;
    __u64 *counted = lookup(&replies, &first);
    struct ethhdr *ethernet = (void *)(long)context->data;
    struct iphdr *ip = (void *)(ethernet + 1);
    struct udphdr *udp = (void *)(ip + 1);
    struct dns *dns = (void *)(udp + 1);

    if (!counted || (void *)(dns + 1) > (void *)(long)context->data_end || ethernet->h_proto != NET16(ETH_P_IP) ||
        ip->protocol != 17 || udp->source != NET16(53))
        return XDP_PASS;
    if (dns->flags[0] & RESPONSE && !(dns->flags[1] & RCODE))
        ++*counted;
    return XDP_DROP;
}

char _license[] SECTION("license") = "Dual MIT/GPL";
