/* The two ends that a fan-out measurement needs besides a server, in C so that they cost little:
 *   fanout sink HOST_PORT CONNECTIONS SECONDS     subscribe to DOGE on many connections, read and count
 *   fanout floor HOST_PORT CONNECTIONS SECONDS HZ BYTES   a server that sends BYTES to each, HZ times a second:
 *                                                 a loop of send(), the least that any server can do
 * Both speak just enough HTTP to pass a WebSocket handshake. Loopback only. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double cpu(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static struct sockaddr_in loopback(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static const char UPGRADE[] = "GET /api/v1/ws/token-data HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
static const char SUBSCRIBE[] = "{\"type\":\"subscription\",\"data\":{\"action\":\"subscribe\",\"tokens\":[\"DOGE\"]}}";

static int sink(int port, int count, double seconds) {
    struct sockaddr_in address = loopback(port);
    int queue = epoll_create1(0);
    static char buffer[1 << 16];
    unsigned char head[6] = {0x81, 0x80 | (sizeof SUBSCRIBE - 1), 0, 0, 0, 0};
    for (int i = 0; i < count; i++) {
        int s = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(s, (struct sockaddr *)&address, sizeof address)) fail("connect");
        if (write(s, UPGRADE, sizeof UPGRADE - 1) < 0 || read(s, buffer, sizeof buffer) <= 0) fail("handshake");
        if (write(s, head, 6) < 0 || write(s, SUBSCRIBE, sizeof SUBSCRIBE - 1) < 0) fail("subscribe");
        struct epoll_event e = {.events = EPOLLIN, .data.fd = s};
        epoll_ctl(queue, EPOLL_CTL_ADD, s, &e);
    }
    printf("connected %d\n", count);
    fflush(stdout);
    double warm = now() + 1, end = warm + seconds;
    long long bytes = 0, reads = 0;
    double cpu_start = 0;
    while (now() < end) {
        struct epoll_event events[256];
        int ready = epoll_wait(queue, events, 256, 100);
        for (int i = 0; i < ready; i++) {
            ssize_t n = read(events[i].data.fd, buffer, sizeof buffer);
            if (n <= 0) fail("the server closed a connection");
            if (now() > warm) {
                if (!cpu_start) cpu_start = cpu();
                bytes += n;
                reads++;
            }
        }
    }
    printf("sink bytes=%lld reads=%lld cpu=%.3f\n", bytes, reads, (cpu() - cpu_start) / seconds);
    return 0;
}

static int floor_server(int port, int count, double seconds, double hz, int size) {
    struct sockaddr_in address = loopback(port);
    int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) fail("listen");
    printf("listening\n");
    fflush(stdout);
    int *clients = calloc((size_t)count, sizeof *clients);
    char *message = malloc((size_t)size), buffer[4096];
    memset(message, 'x', (size_t)size);
    for (int i = 0; i < count; i++) {
        int s = clients[i] = accept(listener, NULL, NULL);
        setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (read(s, buffer, sizeof buffer) <= 0 || write(s, "HTTP/1.1 101 x\r\n\r\n", 18) < 0) fail("handshake");
    }
    sleep(2);
    double start = now(), cpu_start = cpu();
    long long sent = 0;
    for (long tick = 1; now() - start < seconds; tick++) {
        double planned = start + (double)tick / hz;
        while (planned > now()) usleep((useconds_t)((planned - now()) * 1e6) + 1);
        for (int i = 0; i < count; i++) sent += send(clients[i], message, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL) == size;
    }
    printf("floor sent=%lld cpu=%.6f us_per_message=%.3f\n", sent, cpu() - cpu_start, (cpu() - cpu_start) * 1e6 / (double)sent);
    fflush(stdout);
    sleep(3);
    return 0;
}

int main(int argc, char **argv) {
    if (argc >= 5 && !strcmp(argv[1], "sink")) return sink(atoi(argv[2]), atoi(argv[3]), atof(argv[4]));
    if (argc >= 7 && !strcmp(argv[1], "floor"))
        return floor_server(atoi(argv[2]), atoi(argv[3]), atof(argv[4]), atof(argv[5]), atoi(argv[6]));
    fprintf(stderr, "usage: fanout sink PORT CONNECTIONS SECONDS | floor PORT CONNECTIONS SECONDS HZ BYTES\n");
    return 2;
}
