/* Where queries go that are not answered in the kernel. */
#pragma once
#include "kernel.bpf.h"

enum { QUEUES_MAX = 256 };

struct map sockets SECTION("maps") = {BPF_MAP_TYPE_XSKMAP, sizeof(__u32), sizeof(__u32), QUEUES_MAX, 0};

/* Hand a frame to the socket of the queue that it came by; where there is none, it is the kernel's. */
INLINE int hand_over(const struct xdp_md *context)
{
    return redirect(&sockets, context->rx_queue_index, XDP_PASS);
}
