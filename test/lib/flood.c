/* Integrity load: many TCP connections whose every byte is checked at both ends. One thread, epoll,
 * bounded. flood server --listen ADDR:PORT [--listen ...]            until SIGTERM; prints one JSON
 * line flood client --to ADDR:PORT [--expect ADDR:PORT] [--src ADDR] --conns N --par P [--max
 * BYTES] [--modes LIST]
 *                [--seed N] [--timeout S] [--hold S]
 * Modes: plain (client closes first), half (client half-closes, the server answers after it),
 * srvhalf (server half-closes first), cabort, sabort (reset midway), slow (slow reader). The client
 * tells the server in its first bytes what it dialled and from where, and the server compares with
 * what it sees: a connection to a wrong destination or with a wrong source is an error. */
#include "proxy/core/addr.h"
#include "proxy/core/arena.h"
#include "proxy/core/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum mode { PLAIN, HALF, SRVHALF, CABORT, SABORT, SLOW, MODES };
static const char *const mode_name[MODES] = {"plain",  "half",	 "srvhalf",
					     "cabort", "sabort", "slow"};
enum { MAGIC = 0x77656674, CHUNK = 32768, LISTEN_MAX = 64, SLOW_STEP = 4096, SLOW_BYTES = 262144 };

struct head { /* the first bytes of each client */
	uint32_t magic, mode;
	uint64_t seed, up, down;
	uint8_t dst[16], src[16]; /* family 0: not checked */
	uint8_t dst_family, src_family, pad[2];
	uint16_t dst_port, pad2;
};
struct tail { /* the last bytes of each server's answer */
	uint64_t seed, ok;
};

struct conn {
	int fd;
	bool server, connected, rd_end, wr_end, dead, paused, reaped;
	uint32_t events;
	struct head h;
	struct tail t;
	uint64_t rx, tx, rx_total, tx_total, abort_at;
	uint64_t slow_at, began;
	int err;
	struct conn *next_dead, *next_paused;
	LIST_ENTRY(conn) all;
};

struct counts {
	uint64_t made, ok, refused, reset, eof, corrupt, wrong_dst, wrong_src, timeout, other,
		bytes;
	uint64_t aborts_seen, aborts_as_eof;
	int other_errno;
};

static struct counts tally;
static struct conn *dead_list, *paused_list;
static LIST_HEAD(, conn) all;
static int ep;
static volatile sig_atomic_t stop;
static uint64_t live;

static void on_signal(int s)
{
	stop = 1;
}

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ULL;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

/* Bytes [off, off + n) of the stream named by seed. */
static void fill(uint8_t *dst, uint64_t seed, uint64_t off, size_t n)
{
	for (size_t i = 0; i < n;) {
		uint64_t w = mix(seed ^ ((off + i) / 8));
		size_t k = (off + i) % 8, m = 8 - k < n - i ? 8 - k : n - i;
		memcpy(dst + i, (uint8_t *)&w + k, m);
		i += m;
	}
}

static void want(struct conn *c, uint32_t ev)
{
	if (c->events == ev || c->fd < 0)
		return;
	struct epoll_event e = {.events = ev, .data.ptr = c};
	epoll_ctl(ep, c->events == UINT32_MAX ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, c->fd, &e);
	c->events = ev;
}

static void finish(struct conn *c, uint64_t *counter)
{
	if (c->dead)
		return;
	(*counter)++;
	c->dead = true;
	close(c->fd);
	c->fd = -1;
	c->next_dead = dead_list;
	dead_list = c;
	live--;
}

static void finish_errno(struct conn *c, int e)
{
	uint64_t *k = &tally.other;
	if (e == ECONNREFUSED)
		k = &tally.refused;
	else if (e == ECONNRESET || e == EPIPE)
		k = c->h.mode == SABORT && !c->server && c->connected ? &tally.ok : &tally.reset;
	else if (e == ETIMEDOUT)
		k = &tally.timeout;
	if (c->server && e == ECONNRESET && c->h.mode == CABORT && c->rx >= sizeof(c->h))
		k = &tally.aborts_seen;
	if (k == &tally.other)
		tally.other_errno = e;
	finish(c, k);
}

static void reset(struct conn *c, uint64_t *counter)
{
	struct linger l = {1, 0};
	setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	finish(c, counter);
}

/* The bytes this end sends, at offset off: client head + body; server body + tail. */
static size_t outgoing(struct conn *c, uint8_t *dst, size_t cap)
{
	uint64_t off = c->tx;
	if (!c->server) {
		if (off < sizeof(c->h)) {
			size_t n = sizeof(c->h) - off;
			memcpy(dst, (uint8_t *)&c->h + off, n);
			return n;
		}
		off -= sizeof(c->h);
		size_t n = c->h.up - off < cap ? c->h.up - off : cap;
		fill(dst, c->h.seed, off, n);
		return n;
	}
	if (off < c->h.down) {
		size_t n = c->h.down - off < cap ? c->h.down - off : cap;
		fill(dst, ~c->h.seed, off, n);
		return n;
	}
	off -= c->h.down;
	c->t = (struct tail){.seed = c->h.seed, .ok = 1};
	memcpy(dst, (uint8_t *)&c->t + off, sizeof(c->t) - off);
	return sizeof(c->t) - off;
}

static bool same_ip(const uint8_t *b, uint8_t family, const struct weft_ip *ip)
{
	return !family || (family == ip->family && !memcmp(b, ip->b, 16));
}

static void server_head(struct conn *c)
{
	struct sockaddr_storage ss;
	struct weft_sockaddr me = {0}, peer = {0};
	socklen_t n = sizeof(ss);
	if (!getsockname(c->fd, (struct sockaddr *)&ss, &n))
		weft_sockaddr_from_kernel(&ss, &me);
	n = sizeof(ss);
	if (!getpeername(c->fd, (struct sockaddr *)&ss, &n))
		weft_sockaddr_from_kernel(&ss, &peer);
	if (c->h.magic != MAGIC || c->h.mode >= MODES) {
		reset(c, &tally.corrupt);
		return;
	}
	if (!same_ip(c->h.dst, c->h.dst_family, &me.ip) ||
	    (c->h.dst_port && c->h.dst_port != me.port)) {
		reset(c, &tally.wrong_dst);
		return;
	}
	/* a client that has reset already has no peer address any more */
	if (peer.ip.family && !same_ip(c->h.src, c->h.src_family, &peer.ip)) {
		reset(c, &tally.wrong_src);
		return;
	}
	c->rx_total = sizeof(c->h) + c->h.up;
	c->tx_total = c->h.down + sizeof(c->t);
	c->abort_at = c->h.mode == SABORT ? mix(c->h.seed) % (c->h.down + 1) : UINT64_MAX;
}

/* Checks n bytes that came at offset c->rx. */
static bool incoming(struct conn *c, const uint8_t *p, size_t n)
{
	static uint8_t good[CHUNK];
	size_t i = 0;
	if (c->server && c->rx < sizeof(c->h)) {
		i = sizeof(c->h) - c->rx < n ? sizeof(c->h) - c->rx : n;
		memcpy((uint8_t *)&c->h + c->rx, p, i);
		c->rx += i;
		if (c->rx < sizeof(c->h))
			return true;
		server_head(c);
		if (c->dead)
			return true;
	}
	uint64_t head = c->server ? sizeof(c->h) : 0, body = c->server ? c->h.up : c->h.down;
	uint64_t off = c->rx - head;
	size_t m = off < body ? (body - off < n - i ? body - off : n - i) : 0;
	fill(good, c->server ? c->h.seed : ~c->h.seed, off, m);
	if (memcmp(good, p + i, m))
		return false;
	i += m;
	c->rx += m;
	if (i == n)
		return true;
	if (c->server || c->rx + (n - i) > c->rx_total)
		return false;
	memcpy((uint8_t *)&c->t + (c->rx - body), p + i, n - i);
	c->rx += n - i;
	return true;
}

static bool may_send(const struct conn *c)
{
	if (!c->connected || c->wr_end || c->tx >= c->tx_total)
		return false;
	if (c->server)
		return c->rx >= sizeof(c->h) && (c->h.mode != HALF || c->rd_end) &&
		       (c->tx < c->h.down || c->rx >= c->rx_total || c->h.mode == SRVHALF);
	return c->h.mode != SRVHALF || c->tx < sizeof(c->h) || c->rd_end;
}

static void after_io(struct conn *c)
{
	if (c->dead)
		return;
	bool sent = c->tx_total && c->tx >= c->tx_total, got = c->rx_total && c->rx >= c->rx_total;
	if (c->tx >= c->abort_at) {
		reset(c, &tally.ok);
		return;
	}
	bool client_first = c->h.mode == PLAIN || c->h.mode == SLOW;
	if (sent && !c->wr_end &&
	    (c->server ? !client_first : c->h.mode == HALF || c->h.mode == SRVHALF)) {
		shutdown(c->fd, SHUT_WR);
		c->wr_end = true;
	}
	if (!c->server && got) {
		if (c->t.seed != c->h.seed || c->t.ok != 1)
			return finish(c, &tally.corrupt);
		if (sent && (client_first || c->rd_end))
			return finish(c, &tally.ok);
	}
	if (c->server && c->rd_end && (c->wr_end || (sent && client_first)))
		return finish(c, &tally.ok);
	want(c, (c->rd_end || c->paused ? 0 : EPOLLIN) | (may_send(c) ? EPOLLOUT : 0) |
			(c->connected ? 0 : EPOLLOUT));
}

static void on_eof(struct conn *c)
{
	c->rd_end = true;
	bool whole = c->rx_total && c->rx >= c->rx_total;
	if (whole)
		return;
	if (c->server && c->h.mode == CABORT)
		return finish(c, &tally.aborts_as_eof);
	if (!c->server && c->h.mode == SABORT)
		return finish(c, &tally.aborts_as_eof);
	if (c->server && c->rx == 0)
		return finish(c, &tally.ok); /* a probe that sent nothing */
	finish(c, &tally.eof);
}

static void do_read(struct conn *c)
{
	uint8_t buf[CHUNK];
	size_t cap = sizeof(buf);
	if (c->h.mode == SLOW && !c->server && c->rx < SLOW_BYTES)
		cap = SLOW_STEP;
	ssize_t n = read(c->fd, buf, cap);
	if (n < 0 && errno == EAGAIN)
		return;
	if (n < 0)
		return finish_errno(c, errno);
	if (n == 0)
		return on_eof(c);
	tally.bytes += n;
	if (!incoming(c, buf, n))
		return finish(c, &tally.corrupt);
	if (cap == SLOW_STEP && !c->dead) {
		c->paused = true;
		c->slow_at = weft_now_ns() + 1000000;
		c->next_paused = paused_list;
		paused_list = c;
	}
}

static void do_write(struct conn *c)
{
	uint8_t buf[CHUNK];
	size_t cap = sizeof(buf);
	size_t n = outgoing(c, buf, cap);
	if (c->tx + n > c->abort_at)
		n = c->abort_at - c->tx;
	ssize_t k = n ? send(c->fd, buf, n, MSG_NOSIGNAL) : 0;
	if (k < 0 && errno == EAGAIN)
		return;
	if (k < 0)
		return finish_errno(c, errno);
	c->tx += k;
	tally.bytes += k;
}

static void on_event(struct conn *c, uint32_t ev)
{
	if (c->dead)
		return;
	if (!c->connected) {
		int e = 0;
		socklen_t n = sizeof(e);
		getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &e, &n);
		if (e)
			return finish_errno(c, e);
		c->connected = true;
	} else if ((ev & EPOLLERR) && !(ev & EPOLLIN)) {
		int e = 0;
		socklen_t n = sizeof(e);
		getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &e, &n);
		return finish_errno(c, e ? e : ECONNRESET);
	}
	if ((ev & (EPOLLIN | EPOLLHUP | EPOLLERR)) && !c->rd_end && !c->paused)
		do_read(c);
	if (!c->dead && may_send(c) && (ev & EPOLLOUT))
		do_write(c);
	after_io(c);
}

static struct conn *conn_new(int fd, bool server)
{
	struct conn *c = weft_xcalloc(1, sizeof(*c));
	int one = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	c->fd = fd;
	c->server = server;
	c->abort_at = UINT64_MAX;
	c->events = UINT32_MAX;
	c->began = weft_now_ns();
	LIST_INSERT_HEAD(&all, c, all);
	live++;
	tally.made++;
	return c;
}

static void conn_free(struct conn *c)
{
	LIST_REMOVE(c, all);
	free(c);
}

static void reap(void)
{
	while (dead_list) {
		struct conn *c = dead_list;
		dead_list = c->next_dead;
		if (!c->paused)
			conn_free(c);
		else
			c->reaped = true; /* freed when its pause ends */
	}
}

static void wake_paused(void)
{
	uint64_t now = weft_now_ns();
	struct conn *keep = NULL, *n;
	for (struct conn *c = paused_list; c; c = n) {
		n = c->next_paused;
		if (c->dead) {
			c->paused = false;
			if (c->reaped)
				conn_free(c);
		} else if (now >= c->slow_at) {
			c->paused = false;
			after_io(c);
		} else {
			c->next_paused = keep;
			keep = c;
		}
	}
	paused_list = keep;
}

struct options {
	struct weft_sockaddr listen[LISTEN_MAX], to, expect;
	struct weft_ip src;
	int n_listen;
	uint64_t conns, par, max, seed, timeout_s, hold_s, big; /* one in big is as large as max */
	int modes[MODES], n_modes;
};

static int spawn(const struct options *o, uint64_t i)
{
	struct sockaddr_storage ss;
	socklen_t n = weft_sockaddr_to_kernel(&o->to, 0, &ss);
	int fd = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	struct conn *c = conn_new(fd, false);
	uint64_t r = mix(o->seed * 1000003 + i);
	c->h = (struct head){.magic = MAGIC,
			     .mode = o->modes[r % o->n_modes],
			     .seed = r,
			     .dst_port = o->expect.port};
	/* most are small, a few are as large as allowed */
	uint64_t cap = mix(r) % o->big ? 4096 : o->max;
	c->h.up = mix(r + 1) % (cap + 1);
	c->h.down = mix(r + 2) % (cap + 1);
	if (c->h.mode == SLOW)
		c->h.down = o->max;
	memcpy(c->h.dst, o->expect.ip.b, 16);
	c->h.dst_family = o->expect.ip.family;
	memcpy(c->h.src, o->src.b, 16);
	c->h.src_family = o->src.family;
	c->tx_total = sizeof(c->h) + c->h.up;
	c->rx_total = c->h.down + sizeof(c->t);
	if (c->h.mode == CABORT)
		c->abort_at = sizeof(c->h) + mix(r + 3) % (c->h.up + 1);
	if (connect(fd, (struct sockaddr *)&ss, n) && errno != EINPROGRESS) {
		int e = errno;
		finish_errno(c, e);
		return 0;
	}
	want(c, EPOLLIN | EPOLLOUT);
	return 0;
}

static void print_tally(const char *role)
{
	printf("{\"role\":\"%s\",\"made\":%" PRIu64 ",\"ok\":%" PRIu64 ",\"refused\":%" PRIu64
	       ",\"reset\":%" PRIu64 ",\"eof\":%" PRIu64 ",\"corrupt\":%" PRIu64
	       ",\"wrong_dst\":%" PRIu64 ",\"wrong_src\":%" PRIu64 ",\"timeout\":%" PRIu64
	       ",\"aborts_seen\":%" PRIu64 ",\"aborts_as_eof\":%" PRIu64 ",\"other\":%" PRIu64
	       ",\"other_errno\":%d,\"live\":%" PRIu64 ",\"bytes\":%" PRIu64 "}\n",
	       role, tally.made, tally.ok, tally.refused, tally.reset, tally.eof, tally.corrupt,
	       tally.wrong_dst, tally.wrong_src, tally.timeout, tally.aborts_seen,
	       tally.aborts_as_eof, tally.other, tally.other_errno, live, tally.bytes);
	fflush(stdout);
}

static int listen_on(const struct weft_sockaddr *a)
{
	struct sockaddr_storage ss;
	socklen_t n = weft_sockaddr_to_kernel(a, 0, &ss);
	int one = 1, fd = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, (struct sockaddr *)&ss, n) || listen(fd, 4096)) {
		perror("flood: listen");
		exit(2);
	}
	struct epoll_event e = {.events = EPOLLIN, .data.u64 = (uint64_t)fd << 1 | 1};
	epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
	return fd;
}

static void accept_all(int lfd)
{
	for (int i = 0; i < 256; i++) {
		int fd = accept4(lfd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0)
			return;
		struct conn *c = conn_new(fd, true);
		c->connected = true;
		want(c, EPOLLIN);
	}
}

static void poll_once(int ms)
{
	struct epoll_event ev[256];
	int n = epoll_wait(ep, ev, 256, paused_list ? 1 : ms);
	for (int i = 0; i < n; i++) {
		if (ev[i].data.u64 & 1)
			accept_all(ev[i].data.u64 >> 1);
		else
			on_event(ev[i].data.ptr, ev[i].events);
	}
	wake_paused();
	reap();
}

static int run_server(const struct options *o)
{
	for (int i = 0; i < o->n_listen; i++)
		listen_on(&o->listen[i]);
	printf("listening\n");
	fflush(stdout);
	while (!stop)
		poll_once(200);
	for (int i = 0; i < 10 && live; i++) /* what is under way may end */
		poll_once(100);
	print_tally("server");
	return 0;
}

static int run_client(const struct options *o)
{
	uint64_t started = 0, end = weft_now_ns() + o->timeout_s * 1000000000ULL;
	while ((started < o->conns || live) && !stop && weft_now_ns() < end) {
		while (started < o->conns && live < o->par) {
			int r = spawn(o, started);
			if (r) {
				fprintf(stderr, "flood: socket: %s\n", strerror(-r));
				return 2;
			}
			started++;
			reap();
		}
		poll_once(200);
	}
	tally.timeout += live;
	print_tally("client");
	bool good = tally.ok == o->conns;
	return good ? 0 : 1;
}

/* Holds N connections at once, each having passed one byte both ways by the plain mode's head; then
 * closes them all. */
static int run_hold(const struct options *o)
{
	struct sockaddr_storage ss;
	socklen_t n = weft_sockaddr_to_kernel(&o->to, 0, &ss);
	int *fds = weft_xcalloc(o->conns, sizeof(int));
	uint64_t up = 0, bad = 0, end = weft_now_ns() + o->timeout_s * 1000000000ULL;
	for (uint64_t i = 0; i < o->conns && weft_now_ns() < end; i++) {
		fds[i] = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		struct head h = {.magic = MAGIC,
				 .mode = PLAIN,
				 .seed = i,
				 .up = 1,
				 .down = 1,
				 .dst_port = o->expect.port};
		uint8_t b[sizeof(h) + 1];
		memcpy(h.dst, o->expect.ip.b, 16);
		h.dst_family = o->expect.ip.family;
		memcpy(b, &h, sizeof(h));
		fill(b + sizeof(h), h.seed, 0, 1);
		struct {
			uint8_t body;
			struct tail t;
		} __attribute__((packed)) ans;
		uint8_t expect;
		fill(&expect, ~h.seed, 0, 1);
		bool ok = !connect(fds[i], (struct sockaddr *)&ss, n) &&
			  send(fds[i], b, sizeof(b), MSG_NOSIGNAL) == sizeof(b) &&
			  recv(fds[i], &ans, sizeof(ans), MSG_WAITALL) == sizeof(ans) &&
			  ans.body == expect && ans.t.seed == i;
		ok ? up++ : bad++;
	}
	printf("{\"role\":\"hold\",\"held\":%" PRIu64 ",\"failed\":%" PRIu64 "}\n", up, bad);
	fflush(stdout);
	if (o->hold_s > 1)
		sleep(o->hold_s);
	for (uint64_t i = 0; i < o->conns; i++)
		if (fds[i] > 0)
			close(fds[i]);
	free(fds);
	return bad || up != o->conns;
}

static int usage(void)
{
	fprintf(stderr, "usage: flood server --listen ADDR:PORT...\n"
			"       flood client --to ADDR:PORT --conns N --par P [--expect "
			"ADDR:PORT|-] [--src ADDR] [--max BYTES] [--big N]\n"
			"                    [--modes plain,half,srvhalf,cabort,sabort,slow] "
			"[--seed N] [--timeout S] [--hold S]\n");
	return 2;
}

static bool parse_modes(struct options *o, char *list)
{
	o->n_modes = 0;
	for (char *p = strtok(list, ","); p; p = strtok(NULL, ",")) {
		int m = 0;
		while (m < MODES && strcmp(mode_name[m], p))
			m++;
		if (m == MODES)
			return false;
		o->modes[o->n_modes++ % MODES] = m;
	}
	return o->n_modes > 0;
}

int main(int argc, char **argv)
{
	struct options o = {.par = 64,
			    .max = 1 << 20,
			    .seed = 1,
			    .timeout_s = 120,
			    .big = 16,
			    .n_modes = MODES};
	bool expect = false, client;
	for (int i = 0; i < MODES; i++)
		o.modes[i] = i;
	if (argc < 2 || (strcmp(argv[1], "server") && strcmp(argv[1], "client")))
		return usage();
	client = argv[1][0] == 'c';
	for (int i = 2; i + 1 < argc; i += 2) {
		char *k = argv[i], *v = argv[i + 1];
		int bad = 0;
		if (!strcmp(k, "--listen") && o.n_listen < LISTEN_MAX)
			bad = weft_sockaddr_parse(v, &o.listen[o.n_listen++]);
		else if (!strcmp(k, "--to"))
			bad = weft_sockaddr_parse(v, &o.to);
		else if (!strcmp(k, "--expect"))
			expect = true, bad = strcmp(v, "-") ? weft_sockaddr_parse(v, &o.expect) : 0;
		else if (!strcmp(k, "--src"))
			bad = weft_ip_parse(v, &o.src);
		else if (!strcmp(k, "--modes"))
			bad = !parse_modes(&o, v);
		else if (!strcmp(k, "--conns"))
			o.conns = strtoull(v, NULL, 10);
		else if (!strcmp(k, "--par"))
			o.par = strtoull(v, NULL, 10);
		else if (!strcmp(k, "--max"))
			o.max = strtoull(v, NULL, 10);
		else if (!strcmp(k, "--seed"))
			o.seed = strtoull(v, NULL, 10);
		else if (!strcmp(k, "--timeout"))
			o.timeout_s = strtoull(v, NULL, 10);
		else if (!strcmp(k, "--big"))
			bad = !(o.big = strtoull(v, NULL, 10));
		else if (!strcmp(k, "--hold"))
			o.hold_s = strtoull(v, NULL, 10);
		else
			bad = 1;
		if (bad)
			return usage();
	}
	if (!expect)
		o.expect = o.to;
	struct rlimit rl;
	getrlimit(RLIMIT_NOFILE, &rl);
	rl.rlim_cur = rl.rlim_max;
	setrlimit(RLIMIT_NOFILE, &rl);
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	signal(SIGPIPE, SIG_IGN);
	ep = epoll_create1(EPOLL_CLOEXEC);
	if (client ? !o.conns || !o.to.port : !o.n_listen)
		return usage();
	int rc = !client ? run_server(&o) : o.hold_s ? run_hold(&o) : run_client(&o);
	while (!LIST_EMPTY(&all)) /* what was still under way */
		conn_free(LIST_FIRST(&all));
	return rc;
}
