/* Datagrams in batches: what both floors do, and all that they cost. */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BATCH = 64, ROOM = 4096, BUFFER = 8 << 20 };

static struct mmsghdr messages[BATCH];
static struct iovec pieces[BATCH];
static struct sockaddr_in peers[BATCH];
static unsigned char octets[BATCH][ROOM];

static struct sockaddr_in at(int port)
{
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static int open_socket(int port, int peer)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0), buffer = BUFFER;
    struct sockaddr_in here = at(port), there = at(peer);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer);
    if (bind(fd, (struct sockaddr *)&here, sizeof here) || (peer && connect(fd, (struct sockaddr *)&there, sizeof there))) {
        perror("cannot open a socket");
        exit(1);
    }
    return fd;
}

static int receive(int fd, int flags)
{
    for (int k = 0; k < BATCH; k++) {
        pieces[k] = (struct iovec){octets[k], ROOM};
        messages[k].msg_hdr = (struct msghdr){&peers[k], sizeof peers[k], &pieces[k], 1, NULL, 0, 0};
    }
    int received = recvmmsg(fd, messages, BATCH, flags | MSG_WAITFORONE, NULL);
    for (int k = 0; k < received; k++)
        pieces[k].iov_len = messages[k].msg_len;
    return received;
}

static void send_all(int fd, int count)
{
    for (int sent = 0, more; sent < count; sent += more)
        if ((more = sendmmsg(fd, messages + sent, count - sent, 0)) <= 0)
            return;
}
