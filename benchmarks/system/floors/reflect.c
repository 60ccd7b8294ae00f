/* The floor of a hit: what the kernel takes for a datagram in and one out, in batches; nothing is looked at.

       reflect PORT
*/
#define _GNU_SOURCE
#include "batch.h"

int main(int count, char **given)
{
    if (count != 2)
        return 2;
    int fd = open_socket(atoi(given[1]), 0);
    for (;;) {
        int received = receive(fd, 0);
        for (int k = 0; k < received; k++)
            octets[k][2] |= 0x80; /* QR: it is a response */
        send_all(fd, received);
    }
}
