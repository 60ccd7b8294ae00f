/* The floor of a hit over connections: what the kernel and OpenSSL take for queries in and as many octets out; nothing
   is looked at but lengths.

       streams PORT [TLS_PORT CERTIFICATE KEY]
*/
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { ROOM = 2 * 65537, EVENTS = 64 };

struct stream {
    int fd, have;
    SSL_CTX *context; /* of a listener */
    SSL *ssl;
    unsigned char octets[ROOM];
};

static int poll_fd;

static void watch(struct stream *stream)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = stream};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, stream->fd, &event))
        abort();
}

static struct stream *open_stream(int fd, SSL_CTX *context)
{
    struct stream *stream = malloc(sizeof *stream);
    stream->fd = fd;
    stream->have = 0;
    stream->context = context;
    stream->ssl = NULL;
    watch(stream);
    return stream;
}

static struct stream *listen_on(int port, SSL_CTX *context)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* connections inherit it */
    if (bind(fd, (struct sockaddr *)&name, sizeof name) || listen(fd, 4096))
        abort();
    return open_stream(fd, context);
}

static void accept_all(struct stream *listener)
{
    for (int fd; (fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        struct stream *stream = open_stream(fd, NULL);
        if (listener->context) {
            stream->ssl = SSL_new(listener->context);
            SSL_set_fd(stream->ssl, fd);
            SSL_set_accept_state(stream->ssl);
        }
    }
}

static void close_stream(struct stream *stream)
{
    SSL_free(stream->ssl);
    close(stream->fd);
    free(stream);
}

/* Return how many octets came; 0 where none are there yet, -1 at the end. */
static int get(struct stream *stream)
{
    unsigned char *free_room = stream->octets + stream->have;
    int room = ROOM - stream->have;
    if (stream->ssl) {
        int got = SSL_read(stream->ssl, free_room, room);
        return got > 0 ? got : SSL_get_error(stream->ssl, got) == SSL_ERROR_WANT_READ ? 0 : -1;
    }
    int got = read(stream->fd, free_room, room);
    return got > 0 ? got : got == 0 ? -1 : 0;
}

static void serve(struct stream *stream)
{
    int got, more = 1, at = 0;
    while (more && (got = get(stream)) > 0) {
        stream->have += got;
        more = stream->ssl != NULL; /* a record may be waiting in it */
    }
    for (int next; stream->have - at >= 2; at = next) {
        next = at + 2 + (stream->octets[at] << 8 | stream->octets[at + 1]);
        if (next > stream->have)
            break;
        stream->octets[at + 4] |= 0x80; /* QR: it is a response */
    }
    if (at) {
        int put = stream->ssl ? SSL_write(stream->ssl, stream->octets, at) : (int)write(stream->fd, stream->octets, at);
        if (put != at)
            got = -1;
        memmove(stream->octets, stream->octets + at, stream->have -= at);
    }
    if (got < 0)
        close_stream(stream);
}

int main(int count, char **given)
{
    if (count != 2 && count != 5)
        return 2;
    signal(SIGPIPE, SIG_IGN); /* clients leave as they like */
    poll_fd = epoll_create1(0);
    struct stream *listeners[2] = {listen_on(atoi(given[1]), NULL)};
    if (count == 5) {
        SSL_CTX *context = SSL_CTX_new(TLS_server_method());
        SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
        SSL_CTX_set_read_ahead(context, 1); /* one system call for all records that have come */
        if (SSL_CTX_use_certificate_chain_file(context, given[3]) != 1 ||
            SSL_CTX_use_PrivateKey_file(context, given[4], SSL_FILETYPE_PEM) != 1)
            return 1;
        listeners[1] = listen_on(atoi(given[2]), context);
    }
    for (struct epoll_event events[EVENTS];;) {
        int happened = epoll_wait(poll_fd, events, EVENTS, -1);
        for (int k = 0; k < happened; k++) {
            struct stream *stream = events[k].data.ptr;
            if (stream == listeners[0] || stream == listeners[1])
                accept_all(stream);
            else
                serve(stream);
        }
    }
}
