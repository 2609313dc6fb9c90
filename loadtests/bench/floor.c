/* The least that any server can do: one send() of ready bytes to each connection, at each tick.
 *
 * After each handshake it sends, from the first tick after "grid", FRAMES WebSocket frames of together BYTES bytes to
 * everybody: as many bytes and frames as the server it is compared with. It does not read what clients say. */
#include "net.h"

static volatile sig_atomic_t over;
static void end(int s) { (void)s; over = 1; }

/* Fill one unmasked text frame of exactly size bytes, its header included; returns size. */
static size_t text_frame(unsigned char *p, size_t size) {
    size_t h = 2;
    memset(p, 'x', size);
    p[0] = 0x81;
    if (size <= 127) p[1] = (unsigned char)(size - 2);
    else if (size <= 65539) {
        h = 4;
        p[1] = 126;
        p[2] = (unsigned char)((size - h) >> 8);
        p[3] = (unsigned char)(size - h);
    } else {
        h = 10;
        p[1] = 127;
        for (int i = 0; i < 8; i++) p[2 + i] = (unsigned char)((uint64_t)(size - h) >> (56 - 8 * i));
    }
    return size;
}

static int greet(int fd) {
    char text[4096];
    size_t used = 0;
    while (used < sizeof text - 1) {
        ssize_t n = read(fd, text + used, sizeof text - 1 - used);
        if (n <= 0) return -1;
        used += (size_t)n;
        text[used] = 0;
        if (strstr(text, "\r\n\r\n")) break;
    }
    static const char yes[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    return write(fd, yes, sizeof yes - 1) == sizeof yes - 1 ? 0 : -1;
}

int main(int argc, char **argv) {
    if (argc < 2 || !strcmp(argv[1], "--help")) {
        puts("usage: floor --port P --interval-ms MS --bytes BYTES_PER_TICK --frames FRAMES_PER_TICK [--limit SECONDS]");
        return argc < 2 ? 2 : 0;
    }
    no_file_limit();
    alarm((unsigned)atoi(option(argc, argv, "--limit", "120")));
    struct sigaction term = {.sa_handler = end};
    sigaction(SIGTERM, &term, NULL);
    ns_t interval = (ns_t)(atof(option(argc, argv, "--interval-ms", "1000")) * 1e6);
    size_t bytes = (size_t)atol(option(argc, argv, "--bytes", "260")), frames = (size_t)atol(option(argc, argv, "--frames", "1"));
    if (!frames || bytes / frames < 4) refuse("a frame has at least 4 bytes here");
    unsigned char *message = grown(NULL, bytes);
    for (size_t at = 0, i = 0; i < frames; i++) at += text_frame(message + at, bytes * (i + 1) / frames - at);
    struct sockaddr_in address = loopback(0, atoi(option(argc, argv, "--port", "0")));
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) fail("listen");
    int queue = epoll_create1(0), count = 0, room = 0, *fds = NULL;
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(queue, EPOLL_CTL_ADD, listener, &e);
    ns_t t0 = now_ns(), tick = 1;
    printf("listening\ngrid %lld\n", (long long)t0);
    fflush(stdout);
    while (!over) {
        ns_t planned = t0 + tick * interval, wait = planned - now_ns();
        if (wait > 0) {
            struct timespec left = {wait / 1000000000, wait % 1000000000};
            int n = epoll_pwait2(queue, &e, 1, &left, NULL);
            if (n > 0) {
                int fd = accept(listener, NULL, NULL);
                if (fd < 0) continue;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                if (greet(fd)) { close(fd); continue; }
                if (count == room) fds = grown(fds, sizeof *fds * (size_t)(room = room ? room * 2 : 1024));
                fds[count++] = fd;
            }
            continue;
        }
        for (int i = 0; i < count; i++)
            if (send(fds[i], message, bytes, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN) {
                close(fds[i]);
                fds[i--] = fds[--count];
            }
        tick++;
        if (now_ns() > t0 + tick * interval + interval) tick = (now_ns() - t0) / interval + 1; /* a whole one late */
    }
    return 0;
}
