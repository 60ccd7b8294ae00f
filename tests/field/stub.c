/* Ask as programs do that know nothing of DNS (getaddrinfo), and as those do that know a little (res_query).
 *
 * stub addresses NAME...   the addresses of each name, a line for each
 * stub TYPE NAME...        how many records of a type (its number) each name has, and the octets of the answer
 */
#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <netdb.h>
#include <netinet/in.h>
#include <resolv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned char answer[65536];

static void addresses(const char *name)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *first, *each;
    int error = getaddrinfo(name, NULL, &hints, &first);
    printf("%s", name);
    if (error)
        printf(" %s", gai_strerror(error));
    for (each = error ? NULL : first; each; each = each->ai_next) {
        char text[INET6_ADDRSTRLEN];
        const void *from = each->ai_family == AF_INET
                               ? (void *)&((struct sockaddr_in *)each->ai_addr)->sin_addr
                               : (void *)&((struct sockaddr_in6 *)each->ai_addr)->sin6_addr;
        printf(" %s", inet_ntop(each->ai_family, from, text, sizeof text));
    }
    printf("\n");
    if (!error)
        freeaddrinfo(first);
}

static void records(const char *name, int type)
{
    int length = res_query(name, ns_c_in, type, answer, sizeof answer);
    if (length < 12)
        printf("%s error %d\n", name, h_errno);
    else
        printf("%s records %d cut %d octets %d\n", name, answer[6] << 8 | answer[7], answer[2] >> 1 & 1, length);
}

int main(int argc, char **argv)
{
    int number;
    for (number = 2; number < argc; number++)
        if (!strcmp(argv[1], "addresses"))
            addresses(argv[number]);
        else
            records(argv[number], atoi(argv[1]));
    return 0;
}
