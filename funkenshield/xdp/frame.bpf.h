/* A frame as it stands in the memory of the interface's driver: which of its octets are a DNS query for one of our
 * listeners. Whatever is not certain is the kernel's: options, fragments, extension headers, wrong lengths. */
#pragma once
#include "kernel.bpf.h"
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

enum { IN_KERNEL = 1, AT_HOME = 2 };
enum { TAKEN_MAX = 1792 };      /* octets that a socket's frame holds: of 2,048, the kernel has 256 for itself */
enum { VLANS = 4096, LISTENERS_MAX = 64, FRAGMENT = 0x3fff, QR = 0x80 };

struct tag {                    /* of a VLAN */
    __u16 number, next;
};

struct dns {
    __u16 id;
    __u8 flags[2];
    __u16 questions, answers, authorities, additionals;
};

struct address {                /* a listener's; IPv4 as ::ffff:a.b.c.d */
    __u32 ip[4];
    __u16 port, zero;
};

struct listener {
    __u16 mac[3];               /* of the interface */
    __u8 number, flags;         /* as workers know it; IN_KERNEL, AT_HOME: this is the loopback */
};

struct frame {
    struct ethhdr *ethernet;
    struct iphdr *ipv4;         /* NULL: it is IPv6 */
    struct ipv6hdr *ipv6;       /* NULL: it is IPv4 */
    struct udphdr *udp;
    struct dns *dns;
    void *end;                  /* of the frame; there may be padding behind the message */
    __u16 length;               /* octets of the message, which are all there */
    const struct listener *listener;
};

struct map listeners SECTION("maps") = {
    BPF_MAP_TYPE_HASH, sizeof(struct address), sizeof(struct listener), LISTENERS_MAX, 0,
};

struct map vlans SECTION("maps") = { /* by number, whether it has an interface on ours */
    BPF_MAP_TYPE_ARRAY, sizeof(__u32), sizeof(__u8), VLANS, 0,
};

struct map state SECTION("maps") = { /* one word: whether anybody takes queries */
    BPF_MAP_TYPE_ARRAY, sizeof(__u32), sizeof(__u32), 1, BPF_F_MMAPABLE,
};

INLINE int is_taking(void)
{
    __u32 first = 0;
    const volatile __u32 *taking = lookup(&state, &first);
    return taking && *taking;
}

/* Tell whether the kernel would take what has a tag: who is in another VLAN is none of our clients. */
INLINE int is_ours(const struct tag *tag)
{
    __u32 number = NET16(tag->number) & (VLANS - 1);
    const __u8 *here = lookup(&vlans, &number);
    return here && *here;
}

/* Tell whether the sum over an IPv4 header without options is right: the kernel itself counts those that are not. */
INLINE int is_whole(const struct iphdr *ip)
{
    const __u16 *word = (const void *)ip;
    __u32 sum = 0;
    for (int i = 0; i < 10; i++)
        sum += word[i];
    sum = (sum & 0xffff) + (sum >> 16);
    return sum + (sum >> 16) == 0xffff;
}

/* Tell whether a packet can be from where it says: the kernel drops those that come from itself, or from many. */
INLINE int is_foreign(const struct iphdr *ip)
{
    __u8 first = NET32(ip->saddr) >> 24;
    return first != 0 && first != 127 && first < 224 && ip->saddr != ip->daddr;
}

INLINE int is_foreign6(const struct ipv6hdr *ip)
{
    const __u32 *from = ip->saddr.s6_addr32, *to = ip->daddr.s6_addr32;
    return ip->saddr.s6_addr[0] != 0xff && (from[0] | from[1]) && (to[0] | to[1]) && /* no IPv4 in IPv6, and no ::1 */
           ((from[0] ^ to[0]) | (from[1] ^ to[1]) | (from[2] ^ to[2]) | (from[3] ^ to[3]));
}

/* Tell whether a frame was sent to our interface, and to no other that is told of it, too; by one that can be told. */
INLINE int is_for(const struct ethhdr *ethernet, const struct listener *listener)
{
    const __u16 *to = (const void *)ethernet->h_dest;
    return !(ethernet->h_source[0] & 1) && to[0] == listener->mac[0] && to[1] == listener->mac[1] && to[2] == listener->mac[2];
}

/* Find a query for one of our listeners in a frame; 0: it is none. The sum of UDP is not looked at: between virtual
 * machines and containers it is not made at all, and an interface that has verified it does not tell us. */
INLINE int parse_query(struct frame *frame, struct xdp_md *context)
{
    void *at = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    struct address to = {};
    __u16 kind, left;
    int foreign;

    frame->ethernet = at;
    at += sizeof(struct ethhdr);
    if (at > end || end - (void *)frame->ethernet > TAKEN_MAX)
        return 0;
    kind = frame->ethernet->h_proto;
    if (kind == NET16(ETH_P_8021Q)) {
        struct tag *tag = at;
        at += sizeof(struct tag);
        if (at > end || !is_ours(tag))
            return 0;
        kind = tag->next;
    }
    frame->ipv4 = 0;
    frame->ipv6 = 0;
    if (kind == NET16(ETH_P_IP)) {
        struct iphdr *ip = at;
        at += sizeof(struct iphdr);
        if (at > end || ip->version != 4 || ip->ihl != 5 || ip->protocol != IPPROTO_UDP ||
            ip->frag_off & NET16(FRAGMENT) || !is_whole(ip))
            return 0;
        frame->ipv4 = ip;
        foreign = is_foreign(ip);
        left = NET16(ip->tot_len) - sizeof(struct iphdr);
        to.ip[2] = NET32(0xffff);
        to.ip[3] = ip->daddr;
    } else if (kind == NET16(ETH_P_IPV6)) {
        struct ipv6hdr *ip = at;
        at += sizeof(struct ipv6hdr);
        if (at > end || ip->version != 6 || ip->nexthdr != IPPROTO_UDP)
            return 0;
        frame->ipv6 = ip;
        foreign = is_foreign6(ip);
        left = NET16(ip->payload_len);
        __builtin_memcpy(to.ip, &ip->daddr, sizeof(to.ip));
    } else {
        return 0;
    }
    frame->udp = at;
    at += sizeof(struct udphdr);
    frame->dns = at;
    frame->end = end;
    if (at + sizeof(struct dns) > end)
        return 0;
    frame->length = NET16(frame->udp->len) - sizeof(struct udphdr);
    if (NET16(frame->udp->len) < sizeof(struct udphdr) + sizeof(struct dns) || NET16(frame->udp->len) > left ||
        left > end - (void *)frame->udp || !frame->udp->source || frame->dns->flags[0] & QR)
        return 0;
    to.port = frame->udp->dest;
    frame->listener = lookup(&listeners, &to);
    return frame->listener && is_for(frame->ethernet, frame->listener) &&
           (foreign || frame->listener->flags & AT_HOME);
}
