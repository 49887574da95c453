#include "agent/netns.h"
#include "proxy/core/arena.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/fib_rules.h>
#include <linux/netlink.h>
#include <linux/nsfs.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

enum { RULE_PREF = 32764, RULE_MARK = 0x111, RULE_MASK = 0xfff, RULE_TABLE = 100 };

struct job {
	int fd, result;
	int (*fn)(void *arg);
	void *arg;
};

static void *job_main(void *arg)
{
	struct job *j = arg;

	j->result = setns(j->fd, CLONE_NEWNET) < 0 ? -errno : j->fn(j->arg);
	return NULL;
}

int weft_netns_run(int netns_fd, int (*fn)(void *arg), void *arg)
{
	struct job j = {.fd = netns_fd, .fn = fn, .arg = arg};
	pthread_t t;
	int r = pthread_create(&t, NULL, job_main, &j);

	if (r)
		return -r;
	pthread_join(t, NULL);
	return j.result;
}

int weft_netns_open(const char *path, struct weft_err *reterr)
{
	/* non-blocking: a fifo in this place must not stop the agent */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), type;
	struct stat own, st;

	if (fd < 0)
		return weft_fail(reterr, NULL, errno, "namespace %s: %s", path, strerror(errno));
	type = ioctl(fd, NS_GET_NSTYPE);
	if (type != CLONE_NEWNET) {
		close(fd);
		return weft_fail(reterr, NULL, EINVAL, "namespace %s: must be a network namespace",
				 path);
	}
	if (stat("/proc/self/ns/net", &own) < 0 || fstat(fd, &st) < 0) {
		int e = errno;

		close(fd);
		return weft_fail(reterr, NULL, e, "namespace %s: %s", path, strerror(e));
	}
	if (own.st_ino == st.st_ino && own.st_dev == st.st_dev) {
		close(fd);
		return weft_fail(reterr, NULL, EINVAL,
				 "namespace %s: is the agent's own; pods on the host network "
				 "cannot be captured",
				 path);
	}
	return fd;
}

/* ---- addresses */

struct addrs_job {
	struct weft_ip *v;
	size_t max, n;
};

static int addrs_read(void *arg)
{
	struct addrs_job *j = arg;
	struct ifaddrs *list, *i;

	if (getifaddrs(&list) < 0)
		return -errno;
	for (i = list; i; i = i->ifa_next) {
		struct weft_ip ip;

		if (!i->ifa_addr)
			continue;
		if (i->ifa_addr->sa_family == AF_INET) {
			weft_ip_from_bytes(&((struct sockaddr_in *)i->ifa_addr)->sin_addr, 4, &ip);
		} else if (i->ifa_addr->sa_family == AF_INET6) {
			struct sockaddr_in6 *a = (struct sockaddr_in6 *)i->ifa_addr;

			if (IN6_IS_ADDR_LINKLOCAL(&a->sin6_addr))
				continue;
			weft_ip_from_bytes(&a->sin6_addr, 16, &ip);
		} else {
			continue;
		}
		if (weft_ip_is_loopback(&ip))
			continue;
		if (j->n < j->max)
			j->v[j->n] = ip;
		j->n++;
	}
	freeifaddrs(list);
	return 0;
}

int weft_netns_addrs(int netns_fd, struct weft_ip *v, size_t max, size_t *ret_n)
{
	struct addrs_job j = {.v = v, .max = max};
	int r = weft_netns_run(netns_fd, addrs_read, &j);

	if (r < 0)
		return r;
	*ret_n = j.n;
	return 0;
}

/* ---- rule, route, sysctls */

struct nl_req {
	struct nlmsghdr h;
	char body[256];
};

static void nl_begin(struct nl_req *q, int type, int flags, const void *head, size_t n)
{
	memset(q, 0, sizeof(*q));
	q->h.nlmsg_type = (uint16_t)type;
	q->h.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags);
	q->h.nlmsg_len = (uint32_t)NLMSG_LENGTH(n);
	memcpy(q->body, head, n);
}

static void nl_u32(struct nl_req *q, int type, uint32_t v)
{
	struct rtattr *a = (struct rtattr *)((char *)q + NLMSG_ALIGN(q->h.nlmsg_len));

	a->rta_type = (uint16_t)type;
	a->rta_len = RTA_LENGTH(sizeof(v));
	memcpy(RTA_DATA(a), &v, sizeof(v));
	q->h.nlmsg_len = NLMSG_ALIGN(q->h.nlmsg_len) + RTA_ALIGN(a->rta_len);
}

/* Sends one request and reads its acknowledgement. */
static int nl_talk(int fd, struct nl_req *q)
{
	_Alignas(struct nlmsghdr) char buf[4096];
	const struct nlmsghdr *h = (const struct nlmsghdr *)buf;
	const struct nlmsgerr *e;
	ssize_t n;

	if (send(fd, q, q->h.nlmsg_len, 0) < 0)
		return -errno;
	do {
		n = recv(fd, buf, sizeof(buf), 0);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (!NLMSG_OK(h, (size_t)n) || h->nlmsg_type != NLMSG_ERROR ||
	    h->nlmsg_len < NLMSG_LENGTH(sizeof(*e)))
		return -EPROTO;
	e = NLMSG_DATA(h);
	return e->error;
}

/* 1: added; 0: removed, or as wanted already */
static int nl_rule(int fd, int family, bool add)
{
	struct fib_rule_hdr r = {
		.family = (uint8_t)family, .action = FR_ACT_TO_TBL, .table = RULE_TABLE};
	struct nl_req q;
	int e;

	nl_begin(&q, add ? RTM_NEWRULE : RTM_DELRULE, add ? NLM_F_CREATE | NLM_F_EXCL : 0, &r,
		 sizeof(r));
	nl_u32(&q, FRA_PRIORITY, RULE_PREF);
	nl_u32(&q, FRA_FWMARK, RULE_MARK);
	nl_u32(&q, FRA_FWMASK, RULE_MASK);
	nl_u32(&q, FRA_TABLE, RULE_TABLE);
	e = nl_talk(fd, &q);
	if (e == (add ? -EEXIST : -ENOENT))
		return 0;
	return e ? e : add;
}

static int nl_route(int fd, int family, bool add)
{
	struct rtmsg r = {.rtm_family = (uint8_t)family,
			  .rtm_table = RULE_TABLE,
			  .rtm_protocol = RTPROT_STATIC,
			  .rtm_scope = family == AF_INET ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE,
			  .rtm_type = RTN_LOCAL};
	struct nl_req q;
	int e;

	nl_begin(&q, add ? RTM_NEWROUTE : RTM_DELROUTE, add ? NLM_F_CREATE | NLM_F_REPLACE : 0, &r,
		 sizeof(r));
	nl_u32(&q, RTA_OIF, if_nametoindex("lo"));
	nl_u32(&q, RTA_TABLE, RULE_TABLE);
	e = nl_talk(fd, &q);
	return !add && (e == -ESRCH || e == -ENOENT) ? 0 : e;
}

static int nl_open(void)
{
	struct timeval tv = {.tv_sec = 2};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	return fd;
}

static int lo_up(struct weft_err *reterr)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), r = 0;
	struct ifreq ifr = {.ifr_name = "lo"};

	if (fd < 0)
		return weft_fail(reterr, NULL, errno, "lo: %s", strerror(errno));
	if (ioctl(fd, SIOCGIFFLAGS, &ifr) < 0)
		r = -errno;
	else if (!(ifr.ifr_flags & IFF_UP)) {
		ifr.ifr_flags |= IFF_UP;
		if (ioctl(fd, SIOCSIFFLAGS, &ifr) < 0)
			r = -errno;
	}
	close(fd);
	return r < 0 ? weft_fail(reterr, NULL, -r, "lo cannot be set up: %s", strerror(-r)) : 0;
}

/* /proc/sys/net shows the namespace of the thread that opens it. */
static int sysctl_one(const char *path, struct weft_err *reterr)
{
	int fd = open(path, O_RDWR | O_CLOEXEC), r = 0;
	char c = 0;

	if (fd < 0)
		return weft_fail(reterr, NULL, errno, "%s: %s", path, strerror(errno));
	if (read(fd, &c, 1) != 1 || (c != '1' && pwrite(fd, "1\n", 2, 0) != 2))
		r = weft_fail(reterr, NULL, errno ? errno : EIO, "%s: cannot be set to 1", path);
	close(fd);
	return r;
}

static bool v6_on(void)
{
	int fd = open("/proc/sys/net/ipv6/conf/lo/disable_ipv6", O_RDONLY | O_CLOEXEC);
	char c = '1';
	bool on = fd >= 0 && read(fd, &c, 1) == 1 && c == '0';

	if (fd >= 0)
		close(fd);
	return on;
}

struct prepare_job {
	struct weft_err *reterr;
	bool v6, made;
};

static int prepare(void *arg)
{
	struct prepare_job *j = arg;
	const int families[2] = {AF_INET, AF_INET6};
	int fd, r, i;

	r = lo_up(j->reterr);
	if (r < 0)
		return r;
	j->v6 = v6_on();
	if ((r = sysctl_one("/proc/sys/net/ipv4/tcp_fwmark_accept", j->reterr)) < 0 ||
	    (r = sysctl_one("/proc/sys/net/ipv4/fwmark_reflect", j->reterr)) < 0 ||
	    (j->v6 && (r = sysctl_one("/proc/sys/net/ipv6/fwmark_reflect", j->reterr)) < 0))
		return r;
	fd = nl_open();
	if (fd < 0)
		return weft_fail(j->reterr, NULL, -fd, "netlink: %s", strerror(-fd));
	for (i = 0; i < (j->v6 ? 2 : 1) && r >= 0; i++) {
		r = nl_route(fd, families[i], true);
		if (r >= 0)
			r = nl_rule(fd, families[i], true);
		j->made |= r == 1;
		if (r < 0)
			weft_fail(j->reterr, NULL, -r,
				  "rule and route for spoofed replies (IPv%d): %s", i ? 6 : 4,
				  strerror(-r));
	}
	close(fd);
	return r < 0 ? r : j->made;
}

int weft_netns_prepare(int netns_fd, bool *ret_v6, struct weft_err *reterr)
{
	struct weft_err e = {0};
	struct prepare_job j = {.reterr = &e};
	int r = weft_netns_run(netns_fd, prepare, &j);

	if (r < 0 && !e.code)
		return weft_fail(reterr, NULL, -r, "namespace cannot be entered: %s", strerror(-r));
	if (r < 0) {
		if (reterr)
			*reterr = e;
		return r;
	}
	*ret_v6 = j.v6;
	return r;
}

static int restore(void *arg)
{
	const int families[2] = {AF_INET, AF_INET6};
	int fd = nl_open(), r = 0, i;

	(void)arg;
	if (fd < 0)
		return fd;
	for (i = 0; i < 2; i++) {
		int a = nl_rule(fd, families[i], false), b = nl_route(fd, families[i], false);

		/* without IPv6 there is nothing to take back */
		if (families[i] == AF_INET6 && (a == -EAFNOSUPPORT || a == -EOPNOTSUPP))
			continue;
		r = r < 0 ? r : a < 0 ? a : b;
	}
	close(fd);
	return r;
}

int weft_netns_restore(int netns_fd, struct weft_err *reterr)
{
	int r = weft_netns_run(netns_fd, restore, NULL);

	return r < 0 ? weft_fail(reterr, NULL, -r, "rule and route for spoofed replies: %s",
				 strerror(-r))
		     : 0;
}
