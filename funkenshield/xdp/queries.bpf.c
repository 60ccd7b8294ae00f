/* A program for an interface: queries for our listeners go to the socket of the queue that they came by, and all else
 * is the kernel's, as ever; so are queries, where there is no such socket. */
#include "frame.bpf.h"

enum { QUEUES_MAX = 256 };

struct map sockets SECTION("maps") = {BPF_MAP_TYPE_XSKMAP, sizeof(__u32), sizeof(__u32), QUEUES_MAX, 0};

SECTION("xdp") int take_queries(struct xdp_md *context)
{
    struct frame frame;
    if (!parse_query(&frame, context) || !is_taking())
        return XDP_PASS;
    return redirect(&sockets, context->rx_queue_index, XDP_PASS);
}

char _license[] SECTION("license") = "Dual MIT/GPL";
