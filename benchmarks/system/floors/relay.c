/* The floor of a miss: client, relay, upstream, and back, in batches; only IDs are changed.

       relay PORT UPSTREAM
*/
#define _GNU_SOURCE
#include <sys/epoll.h>

#include "batch.h"

static struct sockaddr_in clients[65536];
static uint16_t ids[65536];

int main(int count, char **given)
{
    if (count != 3)
        return 2;
    int listener = open_socket(atoi(given[1]), 0), upstream = open_socket(0, atoi(given[2]));
    int poll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    event.data.fd = upstream;
    epoll_ctl(poll, EPOLL_CTL_ADD, upstream, &event);
    for (uint16_t next = 0;;) {
        if (epoll_wait(poll, &event, 1, -1) != 1)
            continue;
        int asked = event.data.fd == listener;
        int received = receive(event.data.fd, MSG_DONTWAIT);
        for (int k = 0; k < received; k++) {
            uint16_t id = next;
            if (asked) {
                clients[next] = peers[k];
                memcpy(&ids[next], octets[k], 2);
                memcpy(octets[k], &id, 2);
                messages[k].msg_hdr.msg_namelen = 0; /* it is connected */
                next++;
            } else {
                memcpy(&id, octets[k], 2);
                peers[k] = clients[id];
                memcpy(octets[k], &ids[id], 2);
                messages[k].msg_hdr.msg_namelen = sizeof peers[k];
            }
        }
        send_all(asked ? upstream : listener, received);
    }
}
