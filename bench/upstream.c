/* A model's endpoint on the loopback that answers at once: the floor of `python -m bench gateway`.

   cc -O2 -o upstream upstream.c && ./upstream      prints its port, and serves until it is killed

   One thread, epoll, HTTP/1.1 with keep-alive. A request with `"stream": true` gets `max_tokens`
   chunks, `seed` milliseconds apart (0: as fast as they are read). Each holds the time at which it
   was written, in nanoseconds of the monotonic clock, so that a client sees how late it arrives. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST 4096
#define IN 65536
#define OUT 131072

typedef struct {
    char in[IN + 1], out[OUT];
    int used, from, to;   /* bytes of `in`; of `out` those that are still to be written */
    int left, sent;       /* chunks of the stream in progress; 0: none */
    long long next, gap;  /* nanoseconds */
} Client;

static Client *clients[MOST];
static int streams;
static const char *REPLY =
    "{\"id\":\"1\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"echo\",\"choices\":"
    "[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"four\"},\"finish_reason\":"
    "\"stop\"}],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":1,\"total_tokens\":6}}";

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void chunk(Client *c, const char *text) {
    c->to += sprintf(c->out + c->to, "%zx\r\n%s\r\n", strlen(text), text);
}

static void piece(Client *c, const char *delta, const char *reason, const char *usage) {
    char text[600];
    snprintf(text, sizeof text,
             "data: {\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":"
             "\"echo\",\"choices\":[{\"index\":0,\"delta\":%s,\"finish_reason\":%s}]%s}\n\n",
             delta, reason, usage);
    chunk(c, text);
}

static void close_client(int fd) {
    if (clients[fd]->left) streams--;
    free(clients[fd]);
    clients[fd] = NULL;
    close(fd);
}

/* Writes what is due and fits; returns 0 if the client is gone. */
static int pump(int fd) {
    Client *c = clients[fd];
    for (;;) {
        while (c->left && c->to < OUT - 2048 && (!c->gap || now() >= c->next)) {
            char delta[80];
            snprintf(delta, sizeof delta, "{\"content\":\"four t=%lld \"}", now());
            piece(c, delta, "null", "");
            c->next += c->gap;
            if (--c->left) continue;
            streams--;
            piece(c, "{}", "\"stop\"", "");
            chunk(c, "data: {\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"created\":1,"
                     "\"model\":\"echo\",\"choices\":[],\"usage\":{\"prompt_tokens\":5,"
                     "\"completion_tokens\":1,\"total_tokens\":6}}\n\n");
            chunk(c, "data: [DONE]\n\n");
            c->to += sprintf(c->out + c->to, "0\r\n\r\n");
        }
        if (c->from == c->to) return 1;
        ssize_t n = write(fd, c->out + c->from, c->to - c->from);
        if (n < 0) return errno == EAGAIN;
        c->from += n;
        if (c->from < c->to) return 1;
        c->from = c->to = 0;
        if (!c->left || c->gap) return 1;
    }
}

static long value_of(const char *body, const char *key, long otherwise) {
    const char *at = strstr(body, key);
    return at ? strtol(at + strlen(key) + strspn(at + strlen(key), ": "), NULL, 10) : otherwise;
}

static int is_stream(const char *body) {
    const char *at = strstr(body, "\"stream\"");
    return at && !strncmp(at + 8 + strspn(at + 8, ": "), "true", 4);
}

/* Answers every whole request that has arrived. */
static int answer(int fd) {
    Client *c = clients[fd];
    char *body;
    while (!c->left && (c->in[c->used] = 0, body = strstr(c->in, "\r\n\r\n"))) {
        char *length = strcasestr(c->in, "content-length:");
        body += 4;
        int size = length && length < body ? atoi(length + 15) : 0;
        int whole = (int)(body - c->in) + size;
        if (c->used < whole) break;
        char saved = c->in[whole];
        c->in[whole] = 0;
        if (is_stream(body)) {
            c->left = (int)value_of(body, "\"max_completion_tokens\"", 16);
            c->left = (int)value_of(body, "\"max_tokens\"", c->left);
            if (c->left < 1) c->left = 1;
            c->gap = value_of(body, "\"seed\"", 0) * 1000000LL;
            c->next = now();
            streams++;
            c->to += sprintf(c->out + c->to, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream"
                                             "\r\ntransfer-encoding: chunked\r\n\r\n");
            piece(c, "{\"role\":\"assistant\",\"content\":\"\"}", "null", "");
        } else {
            c->to += sprintf(c->out + c->to, "HTTP/1.1 200 OK\r\ncontent-type: application/json"
                                             "\r\ncontent-length: %zu\r\n\r\n%s",
                             strlen(REPLY), REPLY);
        }
        c->in[whole] = saved;
        memmove(c->in, c->in + whole, c->used - whole);
        c->used -= whole;
        if (!pump(fd)) return 0;
    }
    return 1;
}

int main(void) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1024)) return 1;
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(poll, events, 256, streams ? 1 : -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (fd < 0) continue;
                if (fd >= MOST) { close(fd); continue; }
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                clients[fd] = calloc(1, sizeof(Client));
                event.events = EPOLLIN | EPOLLOUT | EPOLLET;
                event.data.fd = fd;
                epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
                continue;
            }
            Client *c = clients[fd];
            int alive = 1;
            while (alive) {
                ssize_t n = read(fd, c->in + c->used, IN - c->used);
                if (n < 0 && errno == EAGAIN) break;
                if (n <= 0) { alive = 0; break; }
                c->used += (int)n;
                alive = answer(fd);
            }
            if (!alive || !pump(fd)) close_client(fd);
        }
        for (int fd = 0; streams && fd < MOST; fd++)
            if (clients[fd] && clients[fd]->left && !pump(fd)) close_client(fd);
    }
}
