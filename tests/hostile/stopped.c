/* A process whose workers can be stopped between receiving a batch and answering it, and whose monotonic clock can be
   set on. $STOPPED is a file of three longs: whether they stop, how many have, and by how many seconds the clock is on.
   Preload it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long none[3]; /* until the file is mapped: a sanitizer asks for the time before */
static volatile long *words = none;
static __thread int received; /* by this thread, and the time of day was not asked for since */

__attribute__((constructor)) static void map(void)
{
    int fd = open(getenv("STOPPED"), O_RDWR);
    words = mmap(NULL, 3 * sizeof *words, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
}

int recvmmsg(int fd, struct mmsghdr *headers, unsigned int count, int flags, struct timespec *timeout)
{
    int got = (int)syscall(SYS_recvmmsg, fd, headers, count, flags, timeout);
    received = got > 0 && gettid() != getpid();
    return got;
}

int clock_gettime(clockid_t which, struct timespec *t)
{
    if (which == CLOCK_REALTIME && received) {
        received = 0;
        if (words[0])
            __atomic_fetch_add(&words[1], 1, __ATOMIC_SEQ_CST);
        while (words[0])
            usleep(1000);
    }
    int failed = (int)syscall(SYS_clock_gettime, which, t);
    if (!failed && which == CLOCK_MONOTONIC)
        t->tv_sec += words[2];
    return failed;
}
