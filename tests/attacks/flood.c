/* Floods a DNS server on loopback with queries for names below a zone that nobody has asked for, and reads nothing.

     flood PORT QUERIES_A_SECOND SECONDS SOURCES ZONE...

   They come from so many networks (127.X.Y.9), for the zones in turn. Prints how many were sent. Bounded in time and count. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 32, SOURCES_MAX = 1000, WIRE_MAX = 300 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* Write a query of type A for "xXXXXXXXXXX.ZONE"; return its octets. */
static size_t query(uint8_t *out, uint64_t number, const char *zone)
{
    static const uint8_t header[12] = {0, 0, 1, 0, 0, 1};
    size_t at = 12;
    memcpy(out, header, sizeof header);
    out[0] = number >> 8, out[1] = number;
    out[at++] = 11;
    at += sprintf((char *)out + at, "x%010llx", (unsigned long long)(number * 0x9e3779b97f4a7c15 >> 24));
    while (*zone) {
        size_t label = strcspn(zone, ".");
        out[at++] = label;
        memcpy(out + at, zone, label);
        at += label;
        zone += label + (zone[label] == '.');
    }
    memcpy(out + at, "\0\0\1\0\1", 5);
    return at + 5;
}

int main(int argc, char **argv)
{
    int port = atoi(argv[1]), sources = atoi(argv[4]), zones = argc - 5;
    double rate = atof(argv[2]), seconds = atof(argv[3]);
    static int sockets[SOURCES_MAX];
    static uint8_t wires[BATCH][WIRE_MAX];
    struct iovec parts[BATCH];
    struct mmsghdr headers[BATCH] = {0};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    uint64_t sent = 0, turn = (uint64_t)time(NULL) << 32;
    if (zones < 1 || sources < 1 || sources > SOURCES_MAX || seconds > 600)
        return 2;
    for (int n = 0; n < sources; n++) {
        struct sockaddr_in from = {.sin_family = AF_INET};
        int room = 4096;
        from.sin_addr.s_addr = htonl(127 << 24 | (16 + n / 200) << 16 | (n % 200) << 8 | 9);
        sockets[n] = socket(AF_INET, SOCK_DGRAM, 0);
        setsockopt(sockets[n], SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
        if (bind(sockets[n], (struct sockaddr *)&from, sizeof from) || connect(sockets[n], (struct sockaddr *)&to, sizeof to))
            return perror("flood"), 1;
    }
    for (double start = now(), passed; (passed = now() - start) < seconds;) {
        if (sent >= passed * rate) {
            nanosleep(&(struct timespec){0, 50000}, NULL);
            continue;
        }
        for (int k = 0; k < BATCH; k++, turn++) {
            parts[k] = (struct iovec){wires[k], query(wires[k], turn, argv[5 + turn % zones])};
            headers[k].msg_hdr.msg_iov = &parts[k];
            headers[k].msg_hdr.msg_iovlen = 1;
        }
        int went = sendmmsg(sockets[turn / BATCH % sources], headers, BATCH, 0);
        sent += went > 0 ? went : 0;
    }
    printf("%llu\n", (unsigned long long)sent);
    return 0;
}
