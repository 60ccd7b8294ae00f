/* Clients over TCP, TLS or HTTPS: so many connections, each with so many outstanding queries, each replaced after so
   many answers.

       streams PORT tcp|tls|https full|resumed CONNECTIONS OPEN EACH SECONDS QUERIES

   QUERIES is a file of messages, each with its length before it; EACH is 0 for connections that last. Over TLS, a new
   connection takes up the session of the one that it replaces (resumed), or none (full). Prints how many were answered
   without an error, with one, how many connections were made, how many of them resumed a session, how many failed.

   Over HTTPS, each query is a POST by HTTP/2 (RFC 8484), whose fields are those of the first by one octet each. No more
   of it is spoken than takes to ask: windows are as large as can be, statuses are not read, a response without content
   is an error.
*/
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 1 << 17, EVENTS = 64, LARGEST = 1 << 16 };
enum { DATA, HEADERS, SETTINGS = 4, FRAME = 9, END_STREAM = 1, ACK = 1, END_HEADERS = 4 };

struct stream {
    int fd, shaken, sent, answered, have, left, written, owed; /* settings to be acknowledged */
    SSL *ssl;
    SSL_SESSION *session;
    unsigned char in[ROOM], out[ROOM];
};

static int poll_fd, port, outstanding_queries, each;
static unsigned sources;
static SSL_CTX *context;
static int resume, http;
static unsigned char *queries, *next_query, *queries_end;
static unsigned long answered, errors, connections, resumed, failed;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static int keep_session(SSL *ssl, SSL_SESSION *session)
{
    struct stream *stream = SSL_get_app_data(ssl);
    SSL_SESSION_free(stream->session);
    stream->session = session;
    return 1; /* it is ours now */
}

static void open_stream(struct stream *stream)
{
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    /* From an address that was not used for long: a connection that has ended has its port for a minute. */
    unsigned source = 0x7f010001 + (each ? sources++ % 65000 : 0);
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(source)};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&from, sizeof from) ||
        (connect(fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS)) {
        perror("streams: connect");
        exit(1);
    }
    stream->fd = fd;
    stream->shaken = !context;
    stream->sent = stream->answered = stream->have = stream->left = stream->written = stream->owed = 0;
    if (context) {
        stream->ssl = SSL_new(context);
        SSL_set_app_data(stream->ssl, stream);
        SSL_set_fd(stream->ssl, fd);
        SSL_set_connect_state(stream->ssl);
        if (resume && stream->session)
            SSL_set_session(stream->ssl, stream->session);
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = stream};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event);
}

static void replace(struct stream *stream)
{
    if (stream->ssl) {
        if (stream->shaken)
            SSL_shutdown(stream->ssl);
        SSL_free(stream->ssl);
        stream->ssl = NULL;
    }
    close(stream->fd);
    open_stream(stream);
}

/* Return what a call of OpenSSL returned, 0 where it must be repeated, -1 where it failed. */
static int result(SSL *ssl, int returned)
{
    if (returned > 0)
        return returned;
    int error = SSL_get_error(ssl, returned);
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

static int get(struct stream *stream)
{
    unsigned char *at = stream->in + stream->have;
    int room = ROOM - stream->have;
    if (stream->ssl)
        return result(stream->ssl, SSL_read(stream->ssl, at, room));
    int got = read(stream->fd, at, room);
    return got > 0 ? got : got < 0 && errno == EAGAIN ? 0 : -1;
}

static int put(struct stream *stream)
{
    unsigned char *at = stream->out + stream->written;
    if (stream->ssl)
        return result(stream->ssl, SSL_write(stream->ssl, at, stream->left));
    int done = write(stream->fd, at, stream->left);
    return done > 0 ? done : done < 0 && errno == EAGAIN ? 0 : -1;
}

/* Return 0 where the server has yet to say something, 1 once it has, -1 where it failed. */
static int shake(struct stream *stream)
{
    int done = result(stream->ssl, SSL_do_handshake(stream->ssl));
    if (done > 0) {
        stream->shaken = 1;
        connections++;
        resumed += SSL_session_reused(stream->ssl);
    }
    return done;
}

static void append(struct stream *stream, const void *octets, int length)
{
    memcpy(stream->out + stream->left, octets, length);
    stream->left += length;
}

static void append_frame(struct stream *stream, int kind, int flags, unsigned number, const void *octets, int length)
{
    unsigned char head[FRAME] = {length >> 16, length >> 8, length, kind, flags,
                                 number >> 24, number >> 16, number >> 8, number};
    append(stream, head, FRAME);
    append(stream, octets, length);
}

/* Append a request for a query, and what comes before the first. */
static void append_request(struct stream *stream, const unsigned char *query, int length)
{
    static const char first[] = "\x83\x87\x44\x0a/dns-query\x41\x04" "a.se" "\x5f\x17" "application/dns-message";
    static const char other[] = "\x83\x87\xc0\xbf\xbe"; /* POST, https, and what is in the table */
    static const char begin[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0" /* no settings */
                                "\0\0\4\10\0\0\0\0\0\x7f\xff\0\0"; /* and a window of 2 GiB */
    unsigned number = 2 * stream->sent + 1;
    if (!stream->sent)
        append(stream, begin, sizeof begin - 1);
    append_frame(stream, HEADERS, END_HEADERS, number, stream->sent ? other : first,
                 (stream->sent ? sizeof other : sizeof first) - 1);
    append_frame(stream, DATA, END_STREAM, number, query, length);
}

/* Ask as much as may be outstanding; return -1 where the connection failed. */
static int ask(struct stream *stream)
{
    if (!stream->left) {
        stream->written = 0;
        for (; stream->owed; stream->owed--)
            append_frame(stream, SETTINGS, ACK, 0, "", 0);
        while (stream->sent - stream->answered < outstanding_queries && (!each || stream->sent < each) &&
               stream->left < ROOM - LARGEST) {
            int length = 2 + (next_query[0] << 8 | next_query[1]);
            if (http)
                append_request(stream, next_query + 2, length - 2);
            else
                append(stream, next_query, length);
            stream->sent++;
            next_query = next_query + length < queries_end ? next_query + length : queries;
        }
    }
    while (stream->left) {
        int done = put(stream);
        if (done <= 0)
            return done;
        stream->left -= done;
        stream->written += done;
    }
    return 0;
}

static void count(struct stream *stream, const unsigned char *message, int length)
{
    if (length < 12 || message[3] & 15)
        errors++;
    else
        answered++;
    stream->answered++;
}

/* Take whole frames; an answer is in one. */
static void take_frames(struct stream *stream)
{
    unsigned char *head = stream->in;
    for (int left = stream->have, length; left >= FRAME; head += FRAME + length, left -= FRAME + length) {
        length = head[0] << 16 | head[1] << 8 | head[2];
        if (left < FRAME + length)
            break;
        if (head[3] == SETTINGS)
            stream->owed += !(head[4] & ACK);
        else if (head[3] == DATA && length)
            count(stream, head + FRAME, length);
        else if (head[3] == HEADERS && head[4] & END_STREAM)
            count(stream, NULL, 0);
    }
    stream->have -= head - stream->in;
    memmove(stream->in, head, stream->have);
}

static void take(struct stream *stream)
{
    int at = 0, length;
    for (; stream->have - at >= 2; at += 2 + length) {
        length = stream->in[at] << 8 | stream->in[at + 1];
        if (stream->have - at < 2 + length)
            break;
        count(stream, stream->in + at + 2, length);
    }
    memmove(stream->in, stream->in + at, stream->have -= at);
}

/* Do what can be done; return -1 where the connection failed, 1 where it is over. */
static int step(struct stream *stream)
{
    if (!stream->shaken) {
        int done = shake(stream);
        if (done <= 0)
            return done;
    }
    for (int got;;) {
        if (ask(stream) < 0)
            return -1;
        if ((got = get(stream)) <= 0)
            return got;
        stream->have += got;
        (http ? take_frames : take)(stream);
        if (each && stream->answered == each)
            return 1;
    }
}

static void read_queries(const char *name)
{
    FILE *file = fopen(name, "rb");
    if (!file || fseek(file, 0, SEEK_END)) {
        perror(name);
        exit(1);
    }
    long size = ftell(file);
    rewind(file);
    queries = next_query = malloc(size);
    queries_end = queries + fread(queries, 1, size, file);
    fclose(file);
}

int main(int arguments, char **given)
{
    if (arguments != 9)
        return 2;
    port = atoi(given[1]);
    http = !strcmp(given[2], "https");
    resume = !strcmp(given[3], "resumed");
    int streams = atoi(given[4]);
    outstanding_queries = atoi(given[5]);
    each = atoi(given[6]);
    double start = now(), end = start + atof(given[7]);
    read_queries(given[8]);
    if (strcmp(given[2], "tcp")) {
        context = SSL_CTX_new(TLS_client_method());
        SSL_CTX_set_alpn_protos(context, (const unsigned char *)(http ? "\2h2" : "\3dot"), http ? 3 : 4);
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(context, keep_session);
        SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    }
    signal(SIGPIPE, SIG_IGN);
    poll_fd = epoll_create1(0);
    struct stream *all = calloc(streams, sizeof *all);
    for (int k = 0; k < streams; k++)
        open_stream(&all[k]);
    struct epoll_event events[EVENTS];
    do {
        int happened = epoll_wait(poll_fd, events, EVENTS, 100);
        for (int k = 0; k < happened; k++) {
            struct stream *stream = events[k].data.ptr;
            int over = step(stream);
            failed += over < 0;
            connections += over && !context;
            if (over)
                replace(stream);
        }
    } while (now() < end && failed < 1000);
    printf("%lu %lu %lu %lu %lu %.3f\n", answered, errors, connections, resumed, failed, now() - start);
}
