/* A program for an interface: queries for our listeners go to the socket of the queue that they came by, and all else
 * is the kernel's, as ever; so are queries, where there is no such socket. */
#include "frame.bpf.h"
#include "sockets.bpf.h"

SECTION("xdp") int take_queries(struct xdp_md *context)
{
    struct frame frame;
    return parse_query(&frame, context) && is_taking() ? hand_over(context) : XDP_PASS;
}

char _license[] SECTION("license") = "Dual MIT/GPL";
