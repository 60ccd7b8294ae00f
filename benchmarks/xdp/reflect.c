/* The least that a process can do for queries that it has as frames (AF_XDP): send each back as a response, and look at
 * nothing. `reflect INTERFACE`: one queue, copied frames, until it is ended. */
#include <linux/bpf.h>
#include <linux/if_xdp.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FRAMES = 4096, SIZE = 2048, RING = 2048, BATCH = 64, ETHERNET = 14, IPV4 = 20, UDP = 8 };

struct ring {
    uint32_t *producer, *consumer, *flags;
    void *entries;
    uint32_t at; /* of ours: what we have taken from it, or put into it */
};

static uint8_t *memory;

static long bpf(int command, union bpf_attr *attributes)
{
    long made = syscall(SYS_bpf, command, attributes, sizeof *attributes);
    if (made < 0) {
        perror("bpf");
        exit(1);
    }
    return made;
}

/* Have all frames go to the socket of their queue. */
static void attach(int sock, int interface)
{
    union bpf_attr map = {.map_type = BPF_MAP_TYPE_XSKMAP, .key_size = 4, .value_size = 4, .max_entries = 1};
    uint32_t queue = 0, value = sock;
    int sockets = bpf(BPF_MAP_CREATE, &map);
    struct bpf_insn code[] = {
        {BPF_LDX | BPF_MEM | BPF_W, 2, 1, 16, 0}, /* rx_queue_index */
        {BPF_LD | BPF_DW | BPF_IMM, 1, BPF_PSEUDO_MAP_FD, 0, sockets},
        {0, 0, 0, 0, 0},
        {BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, XDP_PASS},
        {BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_redirect_map},
        {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
    };
    union bpf_attr program = {.prog_type = BPF_PROG_TYPE_XDP, .insn_cnt = 6, .insns = (uintptr_t)code,
                              .license = (uintptr_t) "GPL"};
    union bpf_attr entry = {.map_fd = sockets, .key = (uintptr_t)&queue, .value = (uintptr_t)&value};
    union bpf_attr link = {0};
    bpf(BPF_MAP_UPDATE_ELEM, &entry);
    link.link_create.prog_fd = bpf(BPF_PROG_LOAD, &program);
    link.link_create.target_ifindex = interface;
    link.link_create.attach_type = BPF_XDP;
    link.link_create.flags = 1 << 2; /* by the driver */
    bpf(BPF_LINK_CREATE, &link);
}

static struct ring map_ring(int sock, const struct xdp_ring_offset *at, uint64_t page, size_t entry)
{
    uint8_t *ring = mmap(0, at->desc + RING * entry, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, sock, page);
    return (struct ring){(void *)(ring + at->producer), (void *)(ring + at->consumer), (void *)(ring + at->flags),
                         ring + at->desc, 0};
}

static void turn(uint8_t *frame)
{
    uint8_t mac[6], address[4], port[2];
    memcpy(mac, frame, 6);
    memcpy(frame, frame + 6, 6);
    memcpy(frame + 6, mac, 6);
    uint8_t *ip = frame + ETHERNET + 12, *udp = frame + ETHERNET + IPV4;
    memcpy(address, ip, 4);
    memcpy(ip, ip + 4, 4);
    memcpy(ip + 4, address, 4);
    memcpy(port, udp, 2);
    memcpy(udp, udp + 2, 2);
    memcpy(udp + 2, port, 2);
    memset(udp + 6, 0, 2);
    udp[UDP + 2] |= 0x80;
}

int main(int count, char **arguments)
{
    int sock = socket(AF_XDP, SOCK_RAW, 0), size = RING;
    int interface = count > 1 ? if_nametoindex(arguments[1]) : 0;
    struct xdp_mmap_offsets at;
    socklen_t length = sizeof at;
    memory = mmap(0, FRAMES * SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    struct xdp_umem_reg all = {(uintptr_t)memory, FRAMES * SIZE, SIZE, 0, 0};
    setsockopt(sock, SOL_XDP, XDP_UMEM_REG, &all, sizeof all);
    setsockopt(sock, SOL_XDP, XDP_UMEM_FILL_RING, &size, sizeof size);
    setsockopt(sock, SOL_XDP, XDP_UMEM_COMPLETION_RING, &size, sizeof size);
    setsockopt(sock, SOL_XDP, XDP_RX_RING, &size, sizeof size);
    setsockopt(sock, SOL_XDP, XDP_TX_RING, &size, sizeof size);
    getsockopt(sock, SOL_XDP, XDP_MMAP_OFFSETS, &at, &length);
    struct ring fill = map_ring(sock, &at.fr, XDP_UMEM_PGOFF_FILL_RING, 8);
    struct ring done = map_ring(sock, &at.cr, XDP_UMEM_PGOFF_COMPLETION_RING, 8);
    struct ring came = map_ring(sock, &at.rx, XDP_PGOFF_RX_RING, sizeof(struct xdp_desc));
    struct ring sent = map_ring(sock, &at.tx, XDP_PGOFF_TX_RING, sizeof(struct xdp_desc));
    for (uint32_t k = 0; k < RING; k++)
        ((uint64_t *)fill.entries)[fill.at++ % RING] = (uint64_t)k * SIZE;
    __atomic_store_n(fill.producer, fill.at, __ATOMIC_RELEASE);
    struct sockaddr_xdp bound = {.sxdp_family = AF_XDP, .sxdp_ifindex = interface,
                                 .sxdp_flags = XDP_USE_NEED_WAKEUP | XDP_COPY};
    if (bind(sock, (void *)&bound, sizeof bound)) {
        perror("bind");
        return 1;
    }
    attach(sock, interface);
    puts("ready");
    fflush(stdout);
    for (;;) {
        uint32_t there = __atomic_load_n(came.producer, __ATOMIC_ACQUIRE) - came.at, k;
        if (!there) {
            struct pollfd waiting = {sock, POLLIN, 0};
            poll(&waiting, 1, -1);
            continue;
        }
        for (k = 0; k < there && k < BATCH; k++) {
            struct xdp_desc each = ((struct xdp_desc *)came.entries)[came.at++ % RING];
            turn(memory + each.addr);
            ((struct xdp_desc *)sent.entries)[sent.at++ % RING] = each;
        }
        __atomic_store_n(came.consumer, came.at, __ATOMIC_RELEASE);
        __atomic_store_n(sent.producer, sent.at, __ATOMIC_RELEASE);
        if (*sent.flags & XDP_RING_NEED_WAKEUP)
            sendto(sock, 0, 0, MSG_DONTWAIT, 0, 0);
        while (done.at != __atomic_load_n(done.producer, __ATOMIC_ACQUIRE))
            ((uint64_t *)fill.entries)[fill.at++ % RING] = ((uint64_t *)done.entries)[done.at++ % RING];
        __atomic_store_n(done.consumer, done.at, __ATOMIC_RELEASE);
        __atomic_store_n(fill.producer, fill.at, __ATOMIC_RELEASE);
    }
}
