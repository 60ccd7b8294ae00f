/* A program for an interface whose queries may be answered in the kernel: what the table of answers does not have goes
 * the way of `queries.bpf.c`. */
#include "answers.bpf.h"
#include "frame.bpf.h"
#include "sockets.bpf.h"

SECTION("xdp") int answer_queries(struct xdp_md *context)
{
    struct frame frame;
    enum lot lot = NONE;
    int action;
    if (!parse_query(&frame, context) || !is_taking())
        return XDP_PASS;
    action = frame.listener->flags & IN_KERNEL ? answer_query(context, &frame, &lot) : 0;
    return action ? action : marked(context, hand_over(context), lot);
}

char _license[] SECTION("license") = "Dual MIT/GPL";
