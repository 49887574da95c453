/* The loader's side of the capture tests: what weft-agent does, one step a call, and a stand-in for
 * weft-proxy's listeners. Prints one line a fact; exits 1 with a message when a step fails. */
#include "agent/bpf_load.h"
#include "agent/netns.h"
#include "bpf/abi.h"
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SO_ORIGINAL_DST = 80, EVENTS = 256, LISTENERS = 6, WORKERS = 4 };

static int failed(const char *what, const struct weft_err *e)
{
	char text[640];

	printf("failed %s: %s\n", what, weft_err_text(e, text, sizeof(text)));
	return 1;
}

static int need(int have, int want, const char *usage)
{
	if (have >= want)
		return 0;
	fprintf(stderr, "capture_ctl %s\n", usage);
	return 2;
}

static struct weft_bpf *opened(const char *pin, const char *cgroup, uint32_t half_open)
{
	struct weft_bpf_conf conf = {.pin_dir = pin, .cgroup = cgroup, .half_open_max = half_open};
	struct weft_err e = {};
	struct weft_bpf *b;

	if (weft_bpf_open(&conf, &b, &e) < 0) {
		failed("open", &e);
		exit(1);
	}
	return b;
}

/* HALF_OPEN_MAX in the environment serves every command that opens, so that a test sets it once. */
static uint32_t half_open(void)
{
	const char *s = getenv("HALF_OPEN_MAX");

	return s ? (uint32_t)strtoul(s, NULL, 10) : 0;
}

static struct weft_ip ip_of(const char *s)
{
	struct weft_ip ip;

	if (weft_ip_parse(s, &ip) < 0) {
		fprintf(stderr, "capture_ctl: %s: not an address\n", s);
		exit(2);
	}
	return ip;
}

static int cmd_load(int n, char **v)
{
	int times = n > 2 ? atoi(v[2]) : 1;

	if (need(n, 2, "load PIN CGROUP [TIMES]"))
		return 2;
	while (times-- > 0)
		weft_bpf_close(opened(v[0], v[1], half_open()));
	printf("loaded\n");
	return 0;
}

static int cmd_unload(int n, char **v)
{
	struct weft_err e = {};

	if (need(n, 1, "unload PIN"))
		return 2;
	if (weft_bpf_unload(v[0], &e) < 0)
		return failed("unload", &e);
	printf("unloaded\n");
	return 0;
}

static int cmd_pod(int n, char **v)
{
	struct weft_err e = {};
	struct weft_bpf_pod p = {};
	struct weft_bpf *b;
	int r;

	if (need(n, 5, "pod PIN CGROUP UID NETNS IP..."))
		return 2;
	p.uid = v[2];
	p.netns_fd = open(v[3], O_RDONLY | O_CLOEXEC);
	r = p.netns_fd < 0 ? -errno : weft_netns_cookie(p.netns_fd, &p.cookie);
	if (r < 0) {
		printf("failed netns %s: %s\n", v[3], strerror(-r));
		return 1;
	}
	for (int i = 4; i < n && p.n_addrs < 4; i++)
		p.addrs[p.n_addrs++] = ip_of(v[i]);
	b = opened(v[0], v[1], half_open());
	r = weft_bpf_pod_set(b, &p, &e);
	weft_bpf_close(b);
	if (r < 0)
		return failed("pod", &e);
	printf("pod %llu\n", (unsigned long long)p.cookie);
	return 0;
}

static int cmd_unpod(int n, char **v)
{
	struct weft_err e = {};
	struct weft_bpf *b;
	int r;

	if (need(n, 4, "unpod PIN CGROUP UID COOKIE"))
		return 2;
	b = opened(v[0], v[1], half_open());
	r = weft_bpf_pod_del(b, v[2], strtoull(v[3], NULL, 10), &e);
	weft_bpf_close(b);
	if (r < 0)
		return failed("unpod", &e);
	printf("gone\n");
	return 0;
}

static void print_pinned(void *ctx, const char *uid, uint64_t cookie)
{
	printf("%s %llu\n", uid, (unsigned long long)cookie);
}

static int cmd_pinned(int n, char **v)
{
	struct weft_bpf *b;
	int r;

	if (need(n, 2, "pinned PIN CGROUP"))
		return 2;
	b = opened(v[0], v[1], half_open());
	r = weft_bpf_each_pinned(b, print_pinned, NULL);
	weft_bpf_close(b);
	return r ? 1 : 0;
}

static int cmd_exempt(int n, char **v)
{
	struct weft_err e = {};
	struct weft_bpf *b;
	struct stat st;
	int r;

	if (need(n, 4, "exempt PIN CGROUP GROUP on|off"))
		return 2;
	if (stat(v[2], &st)) {
		printf("failed stat %s: %s\n", v[2], strerror(errno));
		return 1;
	}
	b = opened(v[0], v[1], half_open());
	r = weft_bpf_exempt_set(b, st.st_ino, !strcmp(v[3], "on"), &e);
	weft_bpf_close(b);
	if (r < 0)
		return failed("exempt", &e);
	printf("exempt %llu\n", (unsigned long long)st.st_ino);
	return 0;
}

/* Entries really in a map, not what the gauge says. */
static unsigned long walk(const char *pin, const char *map)
{
	char path[512], key[64], next[64];
	unsigned long n = 0;
	void *prev = NULL;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", pin, map);
	fd = bpf_obj_get(path);
	if (fd < 0) {
		printf("failed %s: %s\n", path, strerror(errno));
		exit(1);
	}
	for (; n < 1000000 && !bpf_map_get_next_key(fd, prev, next); n++, prev = key)
		memcpy(key, next, sizeof(key));
	close(fd);
	return n;
}

static int cmd_counters(int n, char **v)
{
	struct weft_bpf_counters c;
	struct weft_bpf *b;
	int r;

	if (need(n, 2, "counters PIN CGROUP"))
		return 2;
	b = opened(v[0], v[1], half_open());
	r = weft_bpf_counters(b, &c);
	weft_bpf_close(b);
	if (r < 0)
		return 1;
#define SHOW(f) printf(#f "=%llu\n", (unsigned long long)c.f)
	SHOW(captured);
	SHOW(passed);
	SHOW(exempt);
	SHOW(denied_full);
	SHOW(denied_storage);
	SHOW(denied_family);
	SHOW(tuple_lost);
	SHOW(selfc_lost);
	SHOW(accepted);
	SHOW(orphans);
	SHOW(reclaimed);
	SHOW(selfc);
	SHOW(inbound_steered);
	SHOW(inbound_closed);
	SHOW(inbound_lost);
	SHOW(load_missing);
	SHOW(tuples);
	SHOW(selfc_entries);
	printf("tuples_walked=%lu\n", walk(v[0], "weft_tuples"));
	printf("selfc_walked=%lu\n", walk(v[0], "weft_selfc"));
	return 0;
}

static int cmd_check(int n, char **v)
{
	struct weft_feature f[64];
	size_t have = 0;
	int fatal;

	if (need(n, 2, "check CGROUP BPFFS"))
		return 2;
	fatal = weft_bpf_check(v[0], v[1], f, 64, &have);
	for (size_t i = 0; i < have; i++)
		printf("%s\t%s\t%s\n", f[i].name, f[i].state, f[i].detail);
	printf("fatal=%d\n", fatal);
	return fatal ? 1 : 0;
}

/* ---- stand-in for the proxy */

struct listeners {
	int fd[LISTENERS]; /* outbound 4, 6, plain 4, 6, hbone 4, 6 */
	int backlog;
};

static int listeners_make(void *arg)
{
	static const uint16_t ports[] = {15001, 15006, 15008};
	struct listeners *l = arg;

	for (int i = 0; i < LISTENERS; i++) {
		struct sockaddr_in6 six = {.sin6_family = AF_INET6,
					   .sin6_port = htons(ports[i / 2])};
		struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(ports[i / 2])};
		int fd, one = 1;

		fd = socket(i & 1 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
			    0);
		if (fd < 0)
			return -errno;
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
		if (i & 1)
			setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
		if (bind(fd, i & 1 ? (void *)&six : (void *)&four,
			 i & 1 ? sizeof(six) : sizeof(four)) ||
		    listen(fd, l->backlog))
			return -errno;
		l->fd[i] = fd;
	}
	return 0;
}

static void text_of(const struct sockaddr_storage *ss, char *dst, size_t cap)
{
	struct weft_sockaddr a;

	if (weft_sockaddr_from_kernel(ss, &a) < 0)
		snprintf(dst, cap, "none");
	else
		weft_sockaddr_text(&a, dst, cap);
}

/* SO_ORIGINAL_DST, v4 form then v6 form. */
static void dest_text(int fd, char *dst, size_t cap)
{
	struct sockaddr_storage ss = {};
	socklen_t len = sizeof(struct sockaddr_in);

	if (getsockopt(fd, IPPROTO_IP, SO_ORIGINAL_DST, &ss, &len)) {
		len = sizeof(struct sockaddr_in6);
		if (getsockopt(fd, IPPROTO_IPV6, SO_ORIGINAL_DST, &ss, &len)) {
			snprintf(dst, cap, "unknown");
			return;
		}
	}
	text_of(&ss, dst, cap);
}

/* "out DEST PEER", "plain LOCAL PEER", "hbone LOCAL PEER" */
static void greet(int fd, int which, const struct sockaddr_storage *peer)
{
	static const char *const kind[] = {"out", "plain", "hbone"};
	char a[WEFT_SOCKADDR_TEXT], p[WEFT_SOCKADDR_TEXT], line[192];
	struct sockaddr_storage ss = {};
	socklen_t len = sizeof(ss);
	int n;

	if (which == 0) {
		dest_text(fd, a, sizeof(a));
	} else {
		getsockname(fd, (struct sockaddr *)&ss, &len);
		text_of(&ss, a, sizeof(a));
	}
	text_of(peer, p, sizeof(p));
	n = snprintf(line, sizeof(line), "%s %s %s\n", kind[which], a, p);
	if (send(fd, line, (size_t)n, MSG_NOSIGNAL) != n)
		close(fd);
}

static void take(int ep, const struct listeners *l, int at)
{
	for (int i = 0; i < 64; i++) {
		struct sockaddr_storage peer = {};
		socklen_t len = sizeof(peer);
		int fd = accept4(l->fd[at], (struct sockaddr *)&peer, &len,
				 SOCK_NONBLOCK | SOCK_CLOEXEC);
		struct epoll_event ev = {.events = EPOLLIN, .data.fd = fd};

		if (fd < 0 && errno == EMFILE) /* full: leave the rest to the other workers */
			for (int k = 0; k < LISTENERS; k++)
				epoll_ctl(ep, EPOLL_CTL_DEL, l->fd[k], NULL);
		if (fd < 0)
			return;
		epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
		greet(fd, at / 2, &peer);
	}
}

static void drain(int fd)
{
	char buf[4096];
	ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

	if (n == 0 || (n < 0 && errno != EAGAIN))
		close(fd);
}

static void serve(const struct listeners *l)
{
	struct epoll_event ev[EVENTS];
	int ep = epoll_create1(EPOLL_CLOEXEC);

	for (int i = 0; i < LISTENERS; i++) {
		struct epoll_event e = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.fd = l->fd[i]};

		epoll_ctl(ep, EPOLL_CTL_ADD, l->fd[i], &e);
	}
	for (;;) {
		int n = epoll_wait(ep, ev, EVENTS, -1);

		for (int i = 0; i < n; i++) {
			int at = -1;

			for (int k = 0; k < LISTENERS; k++)
				if (l->fd[k] == ev[i].data.fd)
					at = k;
			if (at >= 0)
				take(ep, l, at);
			else
				drain(ev[i].data.fd);
		}
	}
}

static int steer(struct weft_bpf *b, const struct listeners *l, const struct weft_ip *ip)
{
	bool v6 = ip->family == 6;
	struct weft_err e = {};

	if (weft_bpf_listener_set(b, ip, v6 ? WEFT_BPF_PLAIN6 : WEFT_BPF_PLAIN4, l->fd[v6 ? 3 : 2],
				  &e) < 0 ||
	    weft_bpf_listener_set(b, ip, v6 ? WEFT_BPF_HBONE6 : WEFT_BPF_HBONE4, l->fd[v6 ? 5 : 4],
				  &e) < 0)
		return failed("listener", &e);
	return 0;
}

static void many_fds(void)
{
	struct rlimit r;

	getrlimit(RLIMIT_NOFILE, &r);
	r.rlim_cur = r.rlim_max;
	setrlimit(RLIMIT_NOFILE, &r);
}

/* hold: listens and never accepts, a stuck proxy. */
static int cmd_serve(int n, char **v)
{
	struct listeners l = {.backlog = 4096};
	struct weft_err e = {};
	struct weft_bpf *b;
	bool v6;
	int ns, r;

	if (need(n, 5, "serve PIN CGROUP NETNS accept|hold[:BACKLOG] IP..."))
		return 2;
	many_fds();
	signal(SIGPIPE, SIG_IGN);
	if (strchr(v[3], ':'))
		l.backlog = atoi(strchr(v[3], ':') + 1);
	ns = open(v[2], O_RDONLY | O_CLOEXEC);
	if (ns < 0 || weft_netns_prepare(ns, &v6, &e) < 0)
		return failed("prepare", &e);
	r = weft_netns_run(ns, listeners_make, &l);
	if (r < 0) {
		printf("failed listen: %s\n", strerror(-r));
		return 1;
	}
	b = opened(v[0], v[1], half_open());
	for (int i = 4; i < n; i++) {
		struct weft_ip ip = ip_of(v[i]);

		if (steer(b, &l, &ip))
			return 1;
	}
	weft_bpf_close(b);
	printf("ready\n");
	fflush(stdout);
	if (!strncmp(v[3], "hold", 4))
		pause();
	for (int i = 1; i < WORKERS; i++) /* a process may be allowed fewer fds than a test holds */
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			break;
		}
	serve(&l);
	return 0;
}

static const struct {
	const char *name;
	int (*run)(int n, char **v);
} commands[] = {
	{"load", cmd_load},   {"unload", cmd_unload},	  {"pod", cmd_pod},
	{"unpod", cmd_unpod}, {"pinned", cmd_pinned},	  {"exempt", cmd_exempt},
	{"check", cmd_check}, {"counters", cmd_counters}, {"serve", cmd_serve},
};

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (size_t i = 0; argc > 1 && i < sizeof(commands) / sizeof(*commands); i++)
		if (!strcmp(argv[1], commands[i].name))
			return commands[i].run(argc - 2, argv + 2);
	fprintf(stderr,
		"capture_ctl load|unload|pod|unpod|pinned|exempt|check|counters|serve ...\n");
	return 2;
}
