/* The reading end of the benchmark: very many WebSocket clients at the cost of a read() each.
 *
 * It connects, subscribes, says {"event":"ready"}, and then obeys lines on its standard input:
 *   measure FIRST_NS INTERVAL_NS TICKS    count what the ticks planned at FIRST_NS + n * INTERVAL_NS bring
 * Anything else, or the end of the input, ends it. Frame k of a connection belongs to tick k / FRAMES: what a client
 * gets in the measured phase is counted off, and its delay taken from the planned instant, not from the sending one.
 * A frame is parsed by its header; payloads are skipped. Loopback only; an alarm ends what was forgotten. */
#include "net.h"

enum dialect { WEBSOCKET, SOCKETIO };
enum state { ANSWER, GREETING, OPEN, DEAD, GONE };
enum { PEEK = 126, SLACK_NS = 5000000, READ = 1 << 18 };

typedef struct {
    int fd;
    unsigned char state, head[14], head_used, peek[PEEK], peek_used, opcode, compressed, packed, step;
    uint64_t left;     /* payload bytes of the frame still to come; valid once its header is complete */
    uint64_t size;     /* bytes of the message so far, headers included */
    uint32_t messages; /* since it was opened */
    uint32_t values;   /* of these, such with token data */
    uint64_t counted;  /* in the measured phase */
    char in_payload;
    char *answer;      /* the HTTP response so far */
    size_t answer_used;
} client_t;

static int queue, count, frames = 1, dead, first_messages, storm, port;
static enum dialect dialect;
static const char *deflate_offer = "", *target;
static char **subscribe;
static int subscribes;
static client_t *clients;
static int opened, upgraded, greeted, deflated, closed, served;
static ns_t began, ready_at, connected_at;

static int measuring;
static ns_t first_ns, interval_ns, mark_ns, end_ns, cpu_mark;
static long ticks;
static uint64_t received, wire, late, packed;
static histogram_t delays;

/* --- sending ----------------------------------------------------------------------------------------------- */

static void send_frame(client_t *c, int opcode, const void *data, size_t n) {
    static unsigned char out[1 << 17];
    size_t h = 2;
    if (n + 14 > sizeof out) refuse("a subscription is too long");
    out[0] = (unsigned char)(0x80 | opcode);
    if (n < 126) out[1] = (unsigned char)(0x80 | n);
    else if (n < 65536) { out[1] = 0x80 | 126; out[2] = (unsigned char)(n >> 8); out[3] = (unsigned char)n; h = 4; }
    else {
        out[1] = 0x80 | 127;
        for (int i = 0; i < 8; i++) out[2 + i] = (unsigned char)((uint64_t)n >> (56 - 8 * i));
        h = 10;
    }
    memset(out + h, 0, 4); /* a mask of zeros leaves the payload as it is */
    memcpy(out + h + 4, data, n);
    size_t total = h + 4 + n, at = 0;
    while (at < total) {
        ssize_t w = write(c->fd, out + at, total - at);
        if (w > 0) at += (size_t)w;
        else if (errno != EAGAIN && errno != EINTR) return; /* the next read tells */
    }
}

static void send_text(client_t *c, const char *text) { send_frame(c, 1, text, strlen(text)); }

static void greeting_done(client_t *c) {
    send_text(c, subscribe[(c - clients) % subscribes]);
    c->state = OPEN;
    greeted++;
    if (c - clients >= count - dead) { /* subscribed, and never read again */
        epoll_ctl(queue, EPOLL_CTL_DEL, c->fd, NULL);
        c->state = DEAD;
    }
}

/* --- one message arrived ------------------------------------------------------------------------------------ */

static int begins(client_t *c, const char *text) {
    size_t n = strlen(text);
    return !c->compressed && c->peek_used >= n && !memcmp(c->peek, text, n);
}

static int is_value(client_t *c) {
    return memmem(c->peek, c->peek_used, "\"token_", 7) != NULL;
}

static uint32_t data_messages(client_t *c) { /* how many messages with data this one stands for */
    if (dialect == SOCKETIO) return c->compressed || begins(c, "42");
    return 1;
}

static void greet(client_t *c) { /* Socket.IO's: open, then join */
    if (begins(c, "0{")) send_text(c, "40");
    else if (begins(c, "40")) greeting_done(c);
}

static void keep_alive(client_t *c) {
    if (dialect == SOCKETIO && begins(c, "2") && c->peek_used == 1) send_text(c, "3");
}

static void arrived(client_t *c, ns_t at) {
    c->messages++;
    if (c->state == GREETING) { greet(c); return; }
    uint32_t n = data_messages(c);
    if (!n) { keep_alive(c); return; }
    if (storm && is_value(c) && ++c->values == (uint32_t)storm) {
        served++;
        uint64_t us = (uint64_t)(at - began) / 1000;
        delays.count[bucket_of(us)]++;
        delays.total++;
    }
    if (!storm && c->messages == (uint32_t)first_messages) served++;
    if (!measuring || at < mark_ns || at >= end_ns) return;
    uint64_t expected = (uint64_t)ticks * (uint64_t)frames;
    for (; n && c->counted < expected; n--) {
        ns_t planned = first_ns + (ns_t)(c->counted / (uint64_t)frames) * interval_ns;
        ns_t delay = at > planned ? at - planned : 0;
        if (delay > interval_ns) late++;
        delays.count[bucket_of((uint64_t)delay / 1000)]++;
        delays.total++;
        c->counted++;
        received++;
        packed += c->packed;
    }
    wire += c->size;
}

/* --- parsing ------------------------------------------------------------------------------------------------ */

static void gone(client_t *c) {
    close(c->fd);
    c->state = GONE;
    closed++;
}

static void frame_done(client_t *c, ns_t at) {
    int opcode = c->head[0] & 15;
    c->in_payload = 0;
    c->head_used = 0;
    if (opcode >= 8) {
        if (opcode == 9) send_frame(c, 10, c->peek, c->peek_used);
    } else if (c->head[0] & 0x80) {
        arrived(c, at);
        c->size = 0;
        c->peek_used = 0;
        return;
    }
    if (opcode >= 8) c->peek_used = 0;
}

static void feed(client_t *c, const unsigned char *p, size_t n, ns_t at) {
    while (n) {
        if (!c->in_payload) {
            while (n && c->head_used < 2) { c->head[c->head_used++] = *p++; n--; }
            if (c->head_used < 2) return;
            int seven = c->head[1] & 127;
            int need = seven == 126 ? 4 : seven == 127 ? 10 : 2;
            if (c->head[1] & 128) { gone(c); return; } /* a server must not mask */
            while (n && c->head_used < need) { c->head[c->head_used++] = *p++; n--; }
            if (c->head_used < need) return;
            c->left = (uint64_t)seven;
            if (need > 2) {
                c->left = 0;
                for (int i = 2; i < need; i++) c->left = c->left << 8 | c->head[i];
            }
            c->in_payload = 1;
            int opcode = c->head[0] & 15;
            if (opcode == 1 || opcode == 2) {
                c->compressed = (c->head[0] & 0x40) != 0;
                c->packed = c->compressed || opcode == 2;
            }
            if (opcode < 8) c->size += (uint64_t)need + c->left;
        }
        size_t take = c->left < n ? (size_t)c->left : n;
        size_t keep = (size_t)(PEEK - c->peek_used);
        if (keep > take) keep = take;
        memcpy(c->peek + c->peek_used, p, keep);
        c->peek_used = (unsigned char)(c->peek_used + keep);
        p += take;
        n -= take;
        c->left -= take;
        if (!c->left) frame_done(c, at);
        if (c->state == DEAD || c->state == GONE) return;
    }
}

static void answer(client_t *c, const char *p, size_t n, ns_t at) {
    c->answer = grown(c->answer, c->answer_used + n + 1);
    memcpy(c->answer + c->answer_used, p, n);
    c->answer_used += n;
    c->answer[c->answer_used] = 0;
    char *end = strstr(c->answer, "\r\n\r\n");
    if (!end) {
        if (c->answer_used > 16384) refuse("the handshake's answer does not end");
        return;
    }
    if (!strstr(c->answer, " 101 ")) {
        fprintf(stderr, "the server refused the handshake: %.60s\n", c->answer);
        exit(1);
    }
    if (strcasestr(c->answer, "permessage-deflate")) deflated++;
    size_t rest = c->answer_used - (size_t)(end + 4 - c->answer);
    char *text = c->answer;
    c->answer = NULL;
    upgraded++;
    if (upgraded == count) connected_at = at;
    c->state = GREETING;
    if (dialect == WEBSOCKET) greeting_done(c);
    if (rest && c->state != DEAD) feed(c, (unsigned char *)end + 4, rest, at);
    free(text);
}

static void readable(client_t *c) {
    static unsigned char buffer[READ];
    ssize_t n = read(c->fd, buffer, sizeof buffer);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        if (c->state == ANSWER) refuse("the server closed a connection during its handshake");
        gone(c);
        return;
    }
    ns_t at = now_ns();
    if (c->state == ANSWER) answer(c, (char *)buffer, (size_t)n, at);
    else feed(c, buffer, (size_t)n, at);
}

/* --- connecting, and the main loop -------------------------------------------------------------------------- */

static void open_one(void) {
    client_t *c = &clients[opened];
    struct sockaddr_in from = loopback((unsigned)opened / 10000, 0), to = loopback(0, port);
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0) fail("socket");
    setsockopt(c->fd, IPPROTO_IP, 24 /* IP_BIND_ADDRESS_NO_PORT */, &on, sizeof on);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    int small = 4096; /* whoever never reads shall be noticed soon */
    if (opened >= count - dead) setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from)) fail("bind");
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to)) fail("connect");
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    static char request[2048];
    int n = snprintf(request, sizeof request,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n", target, port, deflate_offer);
    if (write(c->fd, request, (size_t)n) != n) fail("handshake");
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(queue, EPOLL_CTL_ADD, c->fd, &e);
    opened++;
}

static void read_subscriptions(const char *path) {
    FILE *f = fopen(path, "r");
    if (!f) fail(path);
    char *text = NULL;
    size_t room = 0;
    ssize_t n;
    while ((n = getline(&text, &room, f)) > 0) {
        if (text[n - 1] == '\n') text[n - 1] = 0;
        subscribe = grown(subscribe, sizeof *subscribe * (size_t)(subscribes + 1));
        subscribe[subscribes++] = strdup(text);
    }
    free(text);
    fclose(f);
    if (!subscribes) refuse("the file of subscriptions is empty");
}

static uint64_t percentile(double p) {
    uint64_t rank = (uint64_t)(p * (double)delays.total + 0.9999), seen = 0;
    for (int b = 0; b < BUCKETS; b++)
        if ((seen += delays.count[b]) >= rank && seen) return bucket_top(b);
    return 0;
}

static void print_result(void) {
    uint64_t expected = (uint64_t)ticks * (uint64_t)frames * (uint64_t)(count - dead);
    ns_t used = cpu_ns() - cpu_mark, wall = now_ns() - mark_ns;
    printf("{\"event\":\"result\",\"received\":%llu,\"expected\":%llu,\"late\":%llu,\"packed\":%llu,\"bytes\":%llu,\"closed\":%d,"
           "\"cpu\":%.4f,\"p50\":%llu,\"p90\":%llu,\"p99\":%llu,\"p999\":%llu,\"max\":%llu,\"histogram\":[",
           (unsigned long long)received, (unsigned long long)expected, (unsigned long long)late, (unsigned long long)packed,
           (unsigned long long)wire,
           closed, (double)used / (double)wall, (unsigned long long)percentile(0.5), (unsigned long long)percentile(0.9),
           (unsigned long long)percentile(0.99), (unsigned long long)percentile(0.999), (unsigned long long)percentile(1));
    const char *comma = "";
    for (int b = 0; b < BUCKETS; b++)
        if (delays.count[b]) {
            printf("%s[%llu,%llu]", comma, (unsigned long long)bucket_top(b), (unsigned long long)delays.count[b]);
            comma = ",";
        }
    printf("]}\n");
    fflush(stdout);
}

static void command(void) {
    char text[256];
    ssize_t n = read(0, text, sizeof text - 1);
    long long first, interval;
    if (n <= 0) exit(0);
    text[n] = 0;
    if (sscanf(text, "measure %lld %lld %ld", &first, &interval, &ticks) != 3) exit(0);
    first_ns = first;
    interval_ns = interval;
    ns_t slack = interval / 10 < SLACK_NS ? interval / 10 : SLACK_NS;
    mark_ns = first_ns - slack;
    end_ns = first_ns + ticks * interval_ns - slack;
    measuring = 1;
    cpu_mark = 0;
}

int main(int argc, char **argv) {
    if (argc < 2 || !strcmp(argv[1], "--help")) {
        puts("usage: sink --port P --connections N --subscribe FILE [--target PATH] [--dialect websocket|socketio]\n"
             "            [--deflate 1] [--frames PER_TICK] [--first MESSAGES] [--outstanding N] [--dead N] "
             "[--storm VALUES] [--limit SECONDS]");
        return argc < 2 ? 2 : 0;
    }
    signal(SIGPIPE, SIG_IGN);
    no_file_limit();
    alarm((unsigned)atoi(option(argc, argv, "--limit", "120")));
    const char *spoken = option(argc, argv, "--dialect", "websocket");
    dialect = !strcmp(spoken, "socketio") ? SOCKETIO : WEBSOCKET;
    target = option(argc, argv, "--target", "/api/v1/ws/token-data");
    if (atoi(option(argc, argv, "--deflate", "0")))
        deflate_offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    port = atoi(option(argc, argv, "--port", "0"));
    count = atoi(option(argc, argv, "--connections", "10"));
    frames = atoi(option(argc, argv, "--frames", "1"));
    dead = atoi(option(argc, argv, "--dead", "0"));
    storm = atoi(option(argc, argv, "--storm", "0"));
    first_messages = atoi(option(argc, argv, "--first", "0"));
    int outstanding = atoi(option(argc, argv, "--outstanding", "50"));
    read_subscriptions(option(argc, argv, "--subscribe", ""));
    clients = calloc((size_t)count, sizeof *clients);
    queue = epoll_create1(EPOLL_CLOEXEC);
    if (!clients || queue < 0) fail("start");
    struct epoll_event input = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(queue, EPOLL_CTL_ADD, 0, &input);
    began = now_ns();
    int told = 0;
    for (;;) {
        while (opened < count && (storm || opened - upgraded < outstanding)) open_one();
        struct epoll_event events[512];
        int n = epoll_wait(queue, events, 512, measuring ? 2 : 50);
        for (int i = 0; i < n; i++) {
            client_t *c = events[i].data.ptr;
            if (!c) command();
            else if (c->state != GONE && c->state != DEAD) readable(c);
        }
        if (upgraded / 1000 > told) {
            told = upgraded / 1000;
            if (upgraded < count) printf("{\"event\":\"progress\",\"connected\":%d}\n", upgraded), fflush(stdout);
        }
        int is_served = !(storm || first_messages) || served + closed >= count - dead;
        if (!ready_at && is_served && greeted + closed >= count) {
            ready_at = now_ns();
            printf("{\"event\":\"ready\",\"connected_s\":%.3f,\"ready_s\":%.3f,\"deflated\":%d,\"closed\":%d}\n",
                   (double)(connected_at - began) / 1e9, (double)(ready_at - began) / 1e9, deflated, closed);
            fflush(stdout);
            if (storm) print_result();
        }
        if (measuring) {
            ns_t at = now_ns();
            if (!cpu_mark && at >= mark_ns) cpu_mark = cpu_ns();
            if (at >= end_ns) {
                measuring = 0;
                print_result();
            }
        }
    }
}
