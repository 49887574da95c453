/* The app's side of the capture tests: dials as odd apps do and says what it saw; or is an app that
 * listens. */
#include "proxy/core/addr.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
enum { WAIT_MS = 5000, LINE = 192, EVENTS = 256 };

struct how {
	const char *bind, *dev, *first;
	unsigned mark, repeat, window;
	bool six, only6, mptcp, tfo, transparent, rst, hold, quiet, patient;
};

static void die(const char *what)
{
	printf("error %s: %s\n", what, strerrorname_np(errno));
	exit(1);
}

static struct weft_sockaddr where(const char *s)
{
	struct weft_sockaddr a;

	if (weft_sockaddr_parse(s, &a) < 0) {
		fprintf(stderr, "capture_dial: %s: not an address with a port\n", s);
		exit(2);
	}
	return a;
}

static const char *name_of(int fd, int (*get)(int, struct sockaddr *, socklen_t *), char *dst,
			   size_t cap)
{
	struct sockaddr_storage ss = {};
	struct sockaddr_in6 *six = (void *)&ss;
	socklen_t len = sizeof(ss);
	struct weft_sockaddr a;
	char text[WEFT_SOCKADDR_TEXT];

	snprintf(dst, cap, "none");
	if (get(fd, (void *)&ss, &len) || weft_sockaddr_from_kernel(&ss, &a) < 0)
		return dst;
	weft_sockaddr_text(&a, text, sizeof(text));
	/* the parsers fold v4-mapped into v4; the app's view keeps them apart */
	snprintf(dst, cap, "%s%s",
		 ss.ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&six->sin6_addr) ? "mapped:" : "",
		 text);
	return dst;
}

static int made(const struct how *h, int family)
{
	int on = 1, fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, h->mptcp ? IPPROTO_MPTCP : 0);

	if (fd < 0)
		die("socket");
	if (h->only6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)))
		die("v6only");
	if (h->dev &&
	    setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, h->dev, (socklen_t)strlen(h->dev)))
		die("bindtodevice");
	if (h->mark && setsockopt(fd, SOL_SOCKET, SO_MARK, &h->mark, sizeof(h->mark)))
		die("mark");
	if (h->transparent &&
	    (setsockopt(fd, family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6,
			family == AF_INET ? IP_TRANSPARENT : IPV6_TRANSPARENT, &on, sizeof(on)) ||
	     setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on))))
		die("transparent");
	if (h->bind) {
		struct weft_sockaddr a = {};
		struct sockaddr_storage ss;

		if (weft_ip_parse(h->bind, &a.ip) < 0)
			a = where(h->bind);
		if (bind(fd, (void *)&ss, weft_sockaddr_to_kernel(&a, family, &ss)))
			die("bind");
	}
	return fd;
}

static int dialled(int fd, const struct weft_sockaddr *to, int family, bool tfo)
{
	struct sockaddr_storage ss;
	socklen_t len = weft_sockaddr_to_kernel(to, family, &ss);

	if (!tfo)
		return connect(fd, (void *)&ss, len);
	return sendto(fd, "early", 5, MSG_FASTOPEN | MSG_NOSIGNAL, (void *)&ss, len) < 0 ? -1 : 0;
}

/* A line of the peer, "" at its end, or dies after WAIT_MS. */
static void heard(int fd, char *line, size_t cap)
{
	size_t n = 0;

	while (n + 1 < cap && (!n || line[n - 1] != '\n')) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t r;

		if (poll(&p, 1, WAIT_MS) != 1) {
			errno = ETIMEDOUT;
			die("answer");
		}
		r = recv(fd, line + n, cap - 1 - n, 0);
		if (r < 0)
			die("answer");
		if (!r)
			break;
		n += (size_t)r;
	}
	if (n && line[n - 1] == '\n')
		n--;
	line[n] = '\0';
}

static int family_of(const struct how *h, const struct weft_sockaddr *a)
{
	return h->six || a->ip.family == 6 ? AF_INET6 : AF_INET;
}

static int cmd_dial(const struct how *h, int n, char **v)
{
	char line[LINE], peer[80], self[80];
	struct weft_sockaddr to = where(v[0]);
	int family = family_of(h, &to), fd = made(h, family);

	if (h->first) {
		struct sockaddr_storage none = {.ss_family = AF_UNSPEC};
		struct weft_sockaddr a = where(h->first);

		if (dialled(fd, &a, family, false))
			die("first connect");
		heard(fd, line, sizeof(line));
		if (connect(fd, (void *)&none, sizeof(none)))
			die("unspec");
		if (strncmp(name_of(fd, getsockname, self, sizeof(self)), "0.0.0.0:", 8) &&
		    strncmp(self, "[::]:", 5)) {
			printf("error unspec: still bound to %s\n", self);
			return 1;
		}
	}
	if (dialled(fd, &to, family, h->tfo))
		die("connect");
	if (h->quiet) {
		printf("connected\n");
		return 0;
	}
	heard(fd, line, sizeof(line));
	printf("peer=%s self=%s said=%s\n", name_of(fd, getpeername, peer, sizeof(peer)),
	       name_of(fd, getsockname, self, sizeof(self)), line);
	return 0;
}

/* ---- many */

struct storm {
	unsigned want, begun, good, wrong, refused, open;
	unsigned long long connect_ns;
	char expect[LINE];
	int *held;
};

static unsigned long long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (unsigned long long)t.tv_sec * 1000000000ull + (unsigned long long)t.tv_nsec;
}

static void many_fds(void)
{
	struct rlimit r;

	getrlimit(RLIMIT_NOFILE, &r);
	r.rlim_cur = r.rlim_max;
	setrlimit(RLIMIT_NOFILE, &r);
}

static void begin(const struct how *h, struct storm *s, int ep, const struct weft_sockaddr *to)
{
	int family = family_of(h, to), fd;
	struct epoll_event ev = {.events = EPOLLIN};
	unsigned long long t;
	int r;

	fd = made(h, family);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	s->begun++;
	t = now_ns();
	r = dialled(fd, to, family, false);
	s->connect_ns += now_ns() - t;
	if (r && errno != EINPROGRESS) {
		s->refused++;
		close(fd);
		return;
	}
	ev.data.fd = fd;
	epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
	s->open++;
}

static void reset(int fd)
{
	struct linger now = {1, 0};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
}

static void end(const struct how *h, struct storm *s, int ep, int fd)
{
	char line[LINE];
	ssize_t n = recv(fd, line, sizeof(line) - 1, MSG_DONTWAIT);

	s->open--;
	if (n < 0 && (errno == ECONNREFUSED || errno == ECONNRESET)) {
		s->refused++;
	} else {
		line[n < 0 ? 0 : n] = '\0';
		if (n > 0 && !strncmp(line, s->expect, strlen(s->expect)))
			s->good++;
		else
			s->wrong++;
	}
	if (h->hold && n > 0) {
		epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL);
		s->held[s->good + s->wrong - 1] = fd;
		return;
	}
	if (h->rst)
		reset(fd);
	close(fd); /* the client first: TIME_WAIT stays here */
}

static int cmd_storm(const struct how *h, int n, char **v)
{
	struct weft_sockaddr to = where(v[0]);
	struct storm s = {.want = h->repeat};
	struct epoll_event ev[EVENTS];
	unsigned long long t0 = now_ns();
	int ep = epoll_create1(EPOLL_CLOEXEC);

	many_fds();
	s.held = calloc(s.want + 1, sizeof(int));
	snprintf(s.expect, sizeof(s.expect), "%s", n > 1 ? v[1] : "out ");
	while (s.begun < s.want || s.open) {
		int k;

		while (s.begun < s.want && s.open < h->window)
			begin(h, &s, ep, &to);
		k = epoll_wait(ep, ev, EVENTS, h->patient ? -1 : WAIT_MS);
		if (k <= 0)
			break;
		for (int i = 0; i < k; i++)
			end(h, &s, ep, ev[i].data.fd);
	}
	printf("begun=%u good=%u wrong=%u refused=%u stuck=%u ms=%llu connect_ns=%llu\n", s.begun,
	       s.good, s.wrong, s.refused, s.open, (now_ns() - t0) / 1000000,
	       s.connect_ns / (s.begun ? s.begun : 1));
	if (h->hold) {
		char c;
		ssize_t r = read(0, &c, 1); /* until the test closes our stdin */

		if (r < 0)
			die("stdin");
		for (unsigned i = 0; i < s.good + s.wrong; i++) {
			if (h->rst)
				reset(s.held[i]);
			close(s.held[i]);
		}
		printf("released\n");
	}
	free(s.held);
	return s.good == s.want ? 0 : 1;
}

/* ---- an app that listens: "app LOCAL PEER", then until the peer ends */

static void app_take(int ep, int fd)
{
	char line[LINE], a[80], b[80];
	int c = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), len;
	struct epoll_event ev = {.events = EPOLLIN, .data.fd = c};

	if (c < 0)
		return;
	len = snprintf(line, sizeof(line), "app %s %s\n", name_of(c, getsockname, a, sizeof(a)),
		       name_of(c, getpeername, b, sizeof(b)));
	if (send(c, line, (size_t)len, MSG_NOSIGNAL) != len || epoll_ctl(ep, EPOLL_CTL_ADD, c, &ev))
		close(c);
}

static int cmd_app(const struct how *h, int n, char **v)
{
	struct weft_sockaddr at = where(v[0]);
	struct epoll_event ev[EVENTS], first = {.events = EPOLLIN};
	struct sockaddr_storage ss;
	int family = family_of(h, &at), fd, one = 1, ep = epoll_create1(EPOLL_CLOEXEC);

	many_fds();
	fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (void *)&ss, weft_sockaddr_to_kernel(&at, family, &ss)) ||
	    listen(fd, n > 1 ? atoi(v[1]) : 1024))
		die("listen");
	printf("ready\n");
	if (h->hold)
		pause();
	first.data.fd = fd;
	epoll_ctl(ep, EPOLL_CTL_ADD, fd, &first);
	for (;;) {
		int k = epoll_wait(ep, ev, EVENTS, -1);

		for (int i = 0; i < k; i++) {
			char buf[4096];
			ssize_t r;

			if (ev[i].data.fd == fd) {
				app_take(ep, fd);
				continue;
			}
			r = recv(ev[i].data.fd, buf, sizeof(buf), MSG_DONTWAIT);
			if (!r || (r < 0 && errno != EAGAIN))
				close(ev[i].data.fd);
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct how h = {.repeat = 1, .window = 64};
	int o;

	setvbuf(stdout, NULL, _IOLBF, 0);
	while ((o = getopt(argc, argv, "b:d:m:u:n:w:6otfxrhqp")) != -1)
		switch (o) {
		case 'b':
			h.bind = optarg;
			break;
		case 'd':
			h.dev = optarg;
			break;
		case 'm':
			h.mark = (unsigned)strtoul(optarg, NULL, 0);
			break;
		case 'u':
			h.first = optarg;
			break;
		case 'n':
			h.repeat = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'w':
			h.window = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case '6':
			h.six = true;
			break;
		case 'o':
			h.six = h.only6 = true;
			break;
		case 't':
			h.mptcp = true;
			break;
		case 'f':
			h.tfo = true;
			break;
		case 'x':
			h.transparent = true;
			break;
		case 'r':
			h.rst = true;
			break;
		case 'h':
			h.hold = true;
			break;
		case 'p':
			h.patient = true;
			break;
		case 'q':
			h.quiet = true;
			break;
		default:
			return 2;
		}
	argc -= optind;
	argv += optind;
	if (argc >= 2 && !strcmp(argv[0], "dial"))
		return cmd_dial(&h, argc - 1, argv + 1);
	if (argc >= 2 && !strcmp(argv[0], "storm"))
		return cmd_storm(&h, argc - 1, argv + 1);
	if (argc >= 2 && !strcmp(argv[0], "app"))
		return cmd_app(&h, argc - 1, argv + 1);
	fprintf(stderr, "capture_dial [-b ADDR[:PORT]] [-d DEV] [-m MARK] [-u FIRST] [-6otfxrhqp] "
			"[-n N] [-w WINDOW] "
			"dial TO | storm TO [EXPECT] | app AT [BACKLOG]\n");
	return 2;
}
