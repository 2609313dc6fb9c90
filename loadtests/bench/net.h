/* What sink and floor share: clocks, loopback addresses, histogram. Linux only. */
#ifndef NET_H
#define NET_H
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef int64_t ns_t;

static inline ns_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (ns_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline ns_t cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (ns_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* 127.0.0.1 and the addresses after it. */
static inline struct sockaddr_in loopback(unsigned host, int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK + host);
    return a;
}

static inline void fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static inline void refuse(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static inline void no_file_limit(void) {
    struct rlimit r;
    getrlimit(RLIMIT_NOFILE, &r);
    r.rlim_cur = r.rlim_max;
    setrlimit(RLIMIT_NOFILE, &r);
}

static inline void *grown(void *old, size_t bytes) {
    void *p = realloc(old, bytes);
    if (!p) fail("memory");
    return p;
}

/* The value of "--name value" among the arguments, or fallback. */
static inline const char *option(int argc, char **argv, const char *name, const char *fallback) {
    for (int i = 1; i + 1 < argc; i++)
        if (!strcmp(argv[i], name)) return argv[i + 1];
    return fallback;
}

/* Exact below 128 us, within 1.6 % above. */
#define BUCKETS (128 + 64 * 33)
typedef struct { uint64_t count[BUCKETS], total; } histogram_t;

static inline int bucket_of(uint64_t us) {
    if (us < 128) return (int)us;
    int e = 63 - __builtin_clzll(us);
    int b = 128 + (e - 7) * 64 + (int)((us >> (e - 6)) & 63);
    return b < BUCKETS ? b : BUCKETS - 1;
}

/* The highest value that falls into a bucket. */
static inline uint64_t bucket_top(int b) {
    if (b < 128) return (uint64_t)b;
    int e = (b - 128) / 64 + 7;
    return (((uint64_t)(64 + (b - 128) % 64) + 1) << (e - 6)) - 1;
}
#endif
