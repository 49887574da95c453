/* Ways in which an app might connect past its capture, or take the proxy's place. Says what came of
 * it. */
#include "proxy/core/addr.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { WAIT_MS = 5000, LINE = 192 };

static void die(const char *what)
{
	printf("error %s: %s\n", what, strerrorname_np(errno));
	exit(1);
}

static socklen_t where(const char *s, struct sockaddr_storage *ret)
{
	struct weft_sockaddr a;

	if (weft_sockaddr_parse(s, &a) < 0) {
		fprintf(stderr, "capture_evade: %s: not an address with a port\n", s);
		exit(2);
	}
	return weft_sockaddr_to_kernel(&a, a.ip.family == 6 ? AF_INET6 : AF_INET, ret);
}

static int made(const char *to)
{
	struct sockaddr_storage ss;
	int fd;

	where(to, &ss);
	fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		die("socket");
	return fd;
}

static int say(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char line[LINE];
	ssize_t n;

	if (poll(&p, 1, WAIT_MS) != 1) {
		errno = ETIMEDOUT;
		die("answer");
	}
	n = recv(fd, line, sizeof(line) - 1, 0);
	if (n < 0)
		die("answer");
	line[n] = '\0';
	line[strcspn(line, "\n")] = '\0';
	printf("said=%s\n", line);
	return 0;
}

static int say_connected(int fd, const char *to)
{
	struct sockaddr_storage ss;
	socklen_t n = where(to, &ss);

	if (connect(fd, (void *)&ss, n))
		die("connect");
	return say(fd);
}

/* ---- connect() by the kernel's own threads */

struct ring {
	int fd;
	char *sq, *cq;
	struct io_uring_params p;
	struct io_uring_sqe *sqes;
};

static void *ring_map(const struct ring *r, size_t n, off_t at)
{
	void *m = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, at);

	if (m == MAP_FAILED)
		die("io_uring mmap");
	return m;
}

static void ring_open(struct ring *r)
{
	memset(r, 0, sizeof(*r));
	r->fd = (int)syscall(SYS_io_uring_setup, 4, &r->p);
	if (r->fd < 0)
		die("io_uring");
	r->sq = ring_map(r, r->p.sq_off.array + r->p.sq_entries * sizeof(__u32),
			 IORING_OFF_SQ_RING);
	r->cq = ring_map(r, r->p.cq_off.cqes + r->p.cq_entries * sizeof(struct io_uring_cqe),
			 IORING_OFF_CQ_RING);
	r->sqes = ring_map(r, r->p.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
}

/* flags: IOSQE_ASYNC gives it to a worker thread at once */
static int ring_connect(struct ring *r, int fd, const struct sockaddr_storage *ss, socklen_t n,
			unsigned char flags)
{
	struct io_uring_sqe *e = &r->sqes[0];
	const struct io_uring_cqe *c;

	memset(e, 0, sizeof(*e));
	e->opcode = IORING_OP_CONNECT;
	e->flags = flags;
	e->fd = fd;
	e->addr = (__u64)(uintptr_t)ss;
	e->off = n;
	*(__u32 *)(r->sq + r->p.sq_off.array) = 0;
	__atomic_store_n((__u32 *)(r->sq + r->p.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, r->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		die("io_uring_enter");
	c = (const struct io_uring_cqe *)(r->cq + r->p.cq_off.cqes);
	return c->res;
}

static int cmd_uring(const char *to, unsigned char flags)
{
	struct sockaddr_storage ss;
	socklen_t n = where(to, &ss);
	int fd = made(to), res;
	struct ring r;

	ring_open(&r);
	res = ring_connect(&r, fd, &ss, n, flags);
	if (res < 0) {
		errno = -res;
		die("connect");
	}
	return say(fd);
}

/* ---- sockets with another past */

static int cmd_elsewhere(const char *netns, const char *to)
{
	int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC),
	    there = open(netns, O_RDONLY | O_CLOEXEC), fd;

	if (home < 0 || there < 0 || setns(there, CLONE_NEWNET))
		die("namespace");
	fd = made(to);
	if (setns(home, CLONE_NEWNET))
		die("namespace");
	return say_connected(fd, to);
}

static int cmd_early(const char *to)
{
	int fd = made(to);
	char c;

	printf("made\n");
	if (read(STDIN_FILENO, &c, 1) < 0)
		die("stdin");
	return say_connected(fd, to);
}

/* ---- in the proxy's place */

static int cmd_listen(const char *at, int option)
{
	struct sockaddr_storage ss;
	socklen_t n = where(at, &ss);
	int fd = made(at), on = 1;

	if (option && setsockopt(fd, SOL_SOCKET, option, &on, sizeof(on)))
		die("option");
	if (bind(fd, (void *)&ss, n))
		die("bind");
	if (listen(fd, 16))
		die("listen");
	printf("listening\n");
	return 0;
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 3 && !strcmp(argv[1], "uring"))
		return cmd_uring(argv[2], 0);
	if (argc == 3 && !strcmp(argv[1], "uring-async"))
		return cmd_uring(argv[2], IOSQE_ASYNC);
	if (argc == 4 && !strcmp(argv[1], "elsewhere"))
		return cmd_elsewhere(argv[2], argv[3]);
	if (argc == 3 && !strcmp(argv[1], "early"))
		return cmd_early(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "listen"))
		return cmd_listen(argv[2], 0);
	if (argc == 3 && !strcmp(argv[1], "listen-reuseaddr"))
		return cmd_listen(argv[2], SO_REUSEADDR);
	fprintf(stderr, "capture_evade uring|uring-async|early|listen|listen-reuseaddr ADDR:PORT | "
			"elsewhere NETNS ADDR:PORT\n");
	return 2;
}
