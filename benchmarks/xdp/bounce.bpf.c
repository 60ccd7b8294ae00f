/* The least that a program on an interface can do for a query: send it back, as a response, and look at nothing. */
#include <linux/bpf.h>
#include <linux/types.h>

enum { ETHERNET = 14, IPV4 = 20, UDP = 8, FLAGS = 2, LEAST = ETHERNET + IPV4 + UDP + 12 };

__attribute__((section("xdp"), used)) int bounce(struct xdp_md *context)
{
    __u8 *frame = (void *)(long)context->data, *end = (void *)(long)context->data_end, mac[6];
    __u32 *ip = (void *)(frame + ETHERNET + 12), address;
    __u16 *port = (void *)(frame + ETHERNET + IPV4), number;

    if (frame + LEAST > end || frame[23] != 17)
        return XDP_PASS;
    __builtin_memcpy(mac, frame, 6);
    __builtin_memcpy(frame, frame + 6, 6);
    __builtin_memcpy(frame + 6, mac, 6);
    address = ip[0];
    ip[0] = ip[1];
    ip[1] = address;
    number = port[0];
    port[0] = port[1];
    port[1] = number;
    port[3] = 0;
    frame[ETHERNET + IPV4 + UDP + FLAGS] |= 0x80;
    return XDP_TX;
}

char _license[] __attribute__((section("license"), used)) = "Dual MIT/GPL";
