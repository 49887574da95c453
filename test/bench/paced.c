/* HTTP/1.1 requests at a fixed rate, whatever the answers take: each request has its time, and its
 * latency counts from then, so that a stall is not hidden by the client waiting. One thread, some
 * connections turn about; a request whose connection is still busy waits in its queue.
 * paced PORT PATH RATE SECONDS [CONNECTIONS]: "N ok, M failed, p50 p99 p999 in µs" */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { CONNS_MAX = 256, DEPTH = 1024, HEAD = 8192 };

struct conn {
	int fd;
	int64_t due[DEPTH]; /* a ring of times at which a request should have gone out */
	unsigned head, n;
	int asked;
	char in[HEAD];
	size_t got;
	long body; /* still to come; -1: the head is not whole */
};

static char request[512];
static size_t request_n;
static uint32_t *took;
static size_t n_took, max_took;
static unsigned long bad;

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int dial(uint16_t port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
		perror("connect");
		exit(1);
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

static void ask(struct conn *c)
{
	if (c->asked || c->n == 0)
		return;
	if (send(c->fd, request, request_n, MSG_NOSIGNAL) != (ssize_t)request_n) {
		fprintf(stderr, "send: %s\n", strerror(errno));
		exit(1);
	}
	c->asked = 1;
	c->body = -1;
	c->got = 0;
}

static void answered(struct conn *c)
{
	int64_t us = (now_ns() - c->due[c->head]) / 1000;

	if (n_took < max_took)
		took[n_took++] = (uint32_t)us;
	c->head = (c->head + 1) % DEPTH;
	c->n--;
	c->asked = 0;
	ask(c);
}

static void head_read(struct conn *c)
{
	char *end, *len;

	c->in[c->got] = 0;
	end = strstr(c->in, "\r\n\r\n");
	if (!end)
		return;
	if (strncmp(c->in + 8, " 200", 4) != 0)
		bad++;
	len = strcasestr(c->in, "\r\ncontent-length:");
	if (!len || len > end) {
		fprintf(stderr, "no content-length\n");
		exit(1);
	}
	c->body = atol(len + 17) - (long)(c->got - (size_t)(end + 4 - c->in));
}

static void readable(struct conn *c)
{
	char rest[65536];
	ssize_t n;

	if (c->body < 0) {
		n = recv(c->fd, c->in + c->got, HEAD - 1 - c->got, MSG_DONTWAIT);
		if (n > 0) {
			c->got += (size_t)n;
			head_read(c);
		}
	} else {
		n = recv(c->fd, rest, sizeof(rest), MSG_DONTWAIT);
		c->body -= n > 0 ? n : 0;
	}
	if (n == 0 || (n < 0 && errno != EAGAIN)) {
		fprintf(stderr, "the connection ended\n");
		exit(1);
	}
	if (c->asked && c->body == 0)
		answered(c);
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void run(struct conn *c, int n, long rate, double secs)
{
	int64_t start = now_ns(), end = start + (int64_t)(secs * 1e9), step = 1000000000 / rate;
	int64_t next = start;
	struct itimerspec it = {{0, step}, {0, step}};
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL}, evs[64];
	int ep = epoll_create1(EPOLL_CLOEXEC), tick = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	uint64_t fired;
	int turn = 0;

	epoll_ctl(ep, EPOLL_CTL_ADD, tick, &ev);
	for (int i = 0; i < n; i++) {
		ev.data.ptr = &c[i];
		epoll_ctl(ep, EPOLL_CTL_ADD, c[i].fd, &ev);
	}
	timerfd_settime(tick, 0, &it, NULL);
	while (now_ns() < end) {
		int k = epoll_wait(ep, evs, 64, 100);

		if (read(tick, &fired, sizeof(fired)) < 0 && errno != EAGAIN)
			exit(1);
		for (; next <= now_ns() && next < end; next += step) {
			struct conn *x = &c[turn++ % n];

			if (x->n == DEPTH) {
				bad++;
				continue;
			}
			x->due[(x->head + x->n++) % DEPTH] = next;
			ask(x);
		}
		for (int i = 0; i < k; i++) {
			if (evs[i].data.ptr)
				readable(evs[i].data.ptr);
		}
	}
	close(tick);
	close(ep);
}

int main(int argc, char **argv)
{
	static struct conn c[CONNS_MAX];
	int n = argc > 5 ? atoi(argv[5]) : 16;
	long rate = argc > 3 ? atol(argv[3]) : 0;
	double secs = argc > 4 ? atof(argv[4]) : 0;

	if (rate < 1 || rate > 1000000 || secs <= 0 || n < 1 || n > CONNS_MAX) {
		fprintf(stderr, "usage: paced PORT PATH RATE SECONDS [CONNECTIONS]\n");
		return 2;
	}
	prctl(PR_SET_TIMERSLACK, 1);
	max_took = (size_t)((double)rate * (secs + 1));
	took = calloc(max_took, sizeof(*took));
	request_n = (size_t)snprintf(request, sizeof(request),
				     "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", argv[2]);
	for (int i = 0; i < n; i++)
		c[i].fd = dial((uint16_t)atoi(argv[1]));
	run(c, n, rate, secs);
	qsort(took, n_took, sizeof(*took), by_value);
	printf("%zu ok, %lu failed, p50 %u p99 %u p999 %u\n", n_took - bad, bad,
	       n_took ? took[n_took / 2] : 0, n_took ? took[n_took * 99 / 100] : 0,
	       n_took ? took[n_took * 999 / 1000] : 0);
	free(took);
	return bad > 0;
}
