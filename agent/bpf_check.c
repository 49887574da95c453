/* What this kernel can do, found by doing it: the real objects are loaded, attached to a cgroup of
 * their own and used in a network namespace of their own. Everything is gone afterwards. */
#include "agent/bpf_load.h"
#include "agent/bpf_obj.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif
enum { SO_ORIGINAL_DST = 80, WAIT_MS = 2000, CHILD_MS = 15000 };

struct report {
	struct weft_feature *v;
	size_t max, n;
	int fatal;
};

static void put(struct report *r, const struct weft_feature *f)
{
	r->fatal += !strcmp(f->state, "fatal");
	if (r->n < r->max)
		r->v[r->n++] = *f;
}

__attribute__((format(printf, 4, 0))) static void
feature(struct weft_feature *f, const char *name, const char *state, const char *fmt, va_list ap)
{
	memset(f, 0, sizeof(*f));
	snprintf(f->name, sizeof(f->name), "%s", name);
	snprintf(f->state, sizeof(f->state), "%s", state);
	vsnprintf(f->detail, sizeof(f->detail), fmt, ap);
}

__attribute__((format(printf, 4, 5))) static void add(struct report *r, const char *name,
						      const char *state, const char *fmt, ...)
{
	struct weft_feature f;
	va_list ap;

	va_start(ap, fmt);
	feature(&f, name, state, fmt, ap);
	va_end(ap);
	put(r, &f);
}

/* ---- files and file systems */

static bool magic_is(const char *path, unsigned long magic)
{
	struct statfs fs;

	return !statfs(path, &fs) && (unsigned long)fs.f_type == magic;
}

/* The folder may be one that weft-agent makes: then what it is made in counts. */
static bool bpffs_is(const char *path)
{
	char at[512];

	snprintf(at, sizeof(at), "%s", path);
	while (access(at, F_OK) && strrchr(at, '/') > at)
		*strrchr(at, '/') = '\0';
	return magic_is(at, BPF_FS_MAGIC);
}

static void check_kernel(struct report *r)
{
	unsigned major = 0, minor = 0;
	struct utsname u;

	uname(&u);
	if (sscanf(u.release, "%u.%u", &major, &minor) != 2 || major < 5 ||
	    (major == 5 && minor < 15))
		add(r, "kernel", "fatal", "%s: 5.15 or newer is needed", u.release);
	else
		add(r, "kernel", "found", "%s", u.release);
	if (access("/sys/kernel/btf/vmlinux", R_OK))
		add(r, "BTF", "fatal", "/sys/kernel/btf/vmlinux: %s", strerror(errno));
	else
		add(r, "BTF", "found", "/sys/kernel/btf/vmlinux");
}

static bool check_mounts(struct report *r, const char *cgroup, const char *bpffs)
{
	bool group = magic_is(cgroup, CGROUP2_SUPER_MAGIC);

	if (group)
		add(r, "cgroup2", "found", "%s%s", cgroup,
		    magic_is("/sys/fs/cgroup", CGROUP2_SUPER_MAGIC) ? "" : " (beside cgroup v1)");
	else
		add(r, "cgroup2", "fatal", "%s is not in a cgroup2 file system", cgroup);
	if (bpffs_is(bpffs))
		add(r, "bpffs", "found", "%s", bpffs);
	else if (!strncmp(bpffs, "/sys/fs/bpf", 11) && !access("/sys/fs/bpf", F_OK))
		add(r, "bpffs", "fallback", "not mounted; weft-agent mounts it at /sys/fs/bpf");
	else
		add(r, "bpffs", "fatal", "%s is not a bpffs", bpffs);
	return group;
}

/* Someone else's programs see a connect too, in the order of attachment; one that rewrites
 * addresses may come first. */
static void check_others(struct report *r, int cgroup)
{
	__u32 ids[64], n = 64, flags = 0, seen = 0;
	char names[100] = "";

	if (bpf_prog_query(cgroup, BPF_CGROUP_INET4_CONNECT, 0, &flags, ids, &n)) {
		add(r, "other connect hooks", "found", "cannot be listed: %s", strerror(errno));
		return;
	}
	for (__u32 i = 0; i < n; i++) {
		struct bpf_prog_info info = {};
		__u32 len = sizeof(info);
		int fd = bpf_prog_get_fd_by_id(ids[i]);

		if (fd < 0)
			continue;
		if (!bpf_obj_get_info_by_fd(fd, &info, &len) &&
		    strcmp(info.name, "weft_connect4") &&
		    strlen(names) + strlen(info.name) + 2 < sizeof(names)) {
			strcat(names, seen++ ? " " : "");
			strcat(names, info.name);
		}
		close(fd);
	}
	if (seen)
		add(r, "other connect hooks", "found",
		    "%s: an address it rewrites first is what weft captures", names);
	else
		add(r, "other connect hooks", "found", "none");
}

/* ---- in the child: a namespace and a cgroup of its own */

struct trial {
	const struct weft_bpf_set *set;
	int out; /* features go here, one a write */
	char group[512];
};

__attribute__((format(printf, 4, 5))) static void tell(const struct trial *t, const char *name,
						       const char *state, const char *fmt, ...)
{
	struct weft_feature f;
	va_list ap;

	va_start(ap, fmt);
	feature(&f, name, state, fmt, ap);
	va_end(ap);
	if (write(t->out, &f, sizeof(f)) != (ssize_t)sizeof(f))
		_exit(1);
}

static struct sockaddr_in v4(const char *ip, uint16_t port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};

	inet_pton(AF_INET, ip, &a.sin_addr);
	return a;
}

/* lo up, with one more address */
static int lo_address(const char *alias, const char *ip)
{
	struct ifreq q = {};
	struct sockaddr_in a = v4(ip, 0);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), r = 0;

	if (fd < 0)
		return -errno;
	snprintf(q.ifr_name, sizeof(q.ifr_name), "%s", alias);
	memcpy(&q.ifr_addr, &a, sizeof(a));
	if (ioctl(fd, SIOCSIFADDR, &q))
		r = -errno;
	q.ifr_flags = IFF_UP;
	if (!r && ioctl(fd, SIOCSIFFLAGS, &q))
		r = -errno;
	close(fd);
	return r;
}

static int listener(uint16_t port)
{
	struct sockaddr_in a = v4("0.0.0.0", port);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (void *)&a, sizeof(a)) || listen(fd, 8))
		return -errno;
	return fd;
}

/* Connects and takes the other end from the listener: the accepted fd, *ret_client the dialling
 * one; -errno. */
static int dial(int at, const struct sockaddr_in *to, int *ret_client)
{
	struct pollfd p = {.fd = at, .events = POLLIN};
	int c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), r;

	if (c < 0)
		return -errno;
	if (connect(c, (const void *)to, sizeof(*to)) && errno != EINPROGRESS) {
		r = -errno;
		close(c);
		return r;
	}
	*ret_client = c;
	if (poll(&p, 1, WAIT_MS) != 1)
		return -ETIMEDOUT;
	r = accept4(at, NULL, NULL, SOCK_CLOEXEC);
	return r < 0 ? -errno : r;
}

static bool same(const struct sockaddr_in *a, const struct sockaddr_in *b)
{
	return a->sin_family == b->sin_family && a->sin_port == b->sin_port &&
	       a->sin_addr.s_addr == b->sin_addr.s_addr;
}

static void try_outbound(const struct trial *t)
{
	struct sockaddr_in to = v4("198.51.100.1", 80), got = {}, me = v4("192.0.2.1", 0);
	socklen_t len = sizeof(got);
	int at = listener(WEFT_ABI_PORT_OUTBOUND), client = -1, fd;

	fd = at < 0 ? at : dial(at, &to, &client);
	if (fd < 0) {
		tell(t, "outbound capture", "fatal", "a connect did not reach the listener: %s",
		     strerror(-fd));
		return;
	}
	if (getsockopt(fd, IPPROTO_IP, SO_ORIGINAL_DST, &got, &len) || !same(&got, &to))
		tell(t, "outbound capture", "fatal",
		     "SO_ORIGINAL_DST did not give what was dialled: %s", strerror(errno));
	else
		tell(t, "outbound capture", "found",
		     "tried: a connect arrives with its destination");
	len = sizeof(got);
	if (getpeername(client, (void *)&got, &len) || !same(&got, &to))
		tell(t, "getpeername", "fatal", "does not show what was dialled");
	else
		tell(t, "getpeername", "found", "tried: shows what was dialled");
	len = sizeof(got);
	if (getsockname(client, (void *)&got, &len) || got.sin_addr.s_addr != me.sin_addr.s_addr)
		tell(t, "getsockname", "fatal", "does not show the pod's address");
	else
		tell(t, "getsockname", "found", "tried: shows the pod's address");
	close(client);
	close(fd);
	close(at);
}

/* To an address here that is not the "pod's" own, from an exempt cgroup: what arrives from outside
 * looks the same. */
static void try_inbound(const struct trial *t)
{
	struct weft_abi_listener key = {.kind = WEFT_ABI_PLAIN};
	struct sockaddr_in to = v4("192.0.2.2", 8080), got = {};
	int at = listener(WEFT_ABI_PORT_PLAIN), client = -1, fd, ns;
	socklen_t len = sizeof(got);
	struct stat st;
	uint32_t one = 1;
	__u64 value = (__u64)at, group;

	key.addr.be[2] = htonl(0xffff);
	key.addr.be[3] = to.sin_addr.s_addr;
	ns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (at < 0 || ns < 0 || stat(t->group, &st)) {
		tell(t, "inbound steering", "fatal", "cannot be tried: %s", strerror(errno));
		return;
	}
	group = st.st_ino;
	if (!bpf_program__attach_netns(weft_bpf_set_prog(t->set, "weft_inbound"), ns)) {
		tell(t, "sk_lookup", "fatal", "attach to a network namespace: %s", strerror(errno));
		return;
	}
	tell(t, "sk_lookup", "found", "attached to a network namespace");
	if (bpf_map_update_elem(t->set->map[WEFT_BPF_LISTENERS], &key, &value, BPF_ANY)) {
		tell(t, "SOCKHASH", "fatal", "a listening socket is not taken: %s",
		     strerror(errno));
		return;
	}
	tell(t, "SOCKHASH", "found", "takes listening sockets");
	bpf_map_update_elem(t->set->map[WEFT_BPF_EXEMPT], &group, &one, BPF_ANY);
	fd = dial(at, &to, &client);
	if (fd < 0)
		tell(t, "inbound steering", "fatal", "a flow did not reach the listener: %s",
		     strerror(-fd));
	else if (getsockname(fd, (void *)&got, &len) || !same(&got, &to))
		tell(t, "inbound steering", "fatal",
		     "the accepted socket does not have the dialled address");
	else
		tell(t, "inbound steering", "found",
		     "tried: a flow arrives at the listener with its destination");
}

static void try_sockets(const struct trial *t)
{
	int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &on, sizeof(on)))
		tell(t, "IP_TRANSPARENT", "fatal",
		     "a client's address cannot be kept towards the app: %s", strerror(errno));
	else
		tell(t, "IP_TRANSPARENT", "found", "clients' addresses are kept towards apps");
	if (access("/proc/sys/net/ipv4/tcp_fwmark_accept", W_OK))
		tell(t, "tcp_fwmark_accept", "fatal", "%s", strerror(errno));
	else
		tell(t, "tcp_fwmark_accept", "found",
		     "replies to kept addresses come back to the proxy");
}

static int trial_begin(const struct trial *t)
{
	struct weft_abi_pod pod = {.n = 1, .flags = WEFT_ABI_POD_HAS4};
	struct sockaddr_in me = v4("192.0.2.1", 0);
	struct weft_abi_load none = {};
	char path[600], pid[32];
	__u64 cookie = 0;
	socklen_t len = sizeof(cookie);
	int fd, r;

	snprintf(path, sizeof(path), "%s/cgroup.procs", t->group);
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, pid, strlen(pid)) < 0)
		return -errno;
	close(fd);
	if (unshare(CLONE_NEWNET))
		return -errno;
	r = lo_address("lo", "127.0.0.1");
	if (!r)
		r = lo_address("lo:1", "192.0.2.1");
	if (!r)
		r = lo_address("lo:2", "192.0.2.2");
	if (r)
		return r;
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &len))
		return -errno;
	close(fd);
	pod.addr[0].be[2] = htonl(0xffff);
	pod.addr[0].be[3] = me.sin_addr.s_addr;
	pod.self4 = pod.addr[0];
	if (bpf_map_update_elem(t->set->map[WEFT_BPF_LOAD], &cookie, &none, BPF_ANY) ||
	    bpf_map_update_elem(t->set->map[WEFT_BPF_PODS], &cookie, &pod, BPF_ANY))
		return -errno;
	return 0;
}

static void child(const struct trial *t)
{
	int r;

	sigset_t timer;

	sigemptyset(&timer); /* the program may have blocked it */
	sigaddset(&timer, SIGALRM);
	signal(SIGALRM, SIG_DFL);
	sigprocmask(SIG_UNBLOCK, &timer, NULL);
	alarm(CHILD_MS / 1000);
	r = trial_begin(t);
	if (r < 0) {
		tell(t, "trial", "fatal", "a cgroup and a network namespace to try capture in: %s",
		     strerror(-r));
	} else {
		tell(t, "netns cookie", "found", "SO_NETNS_COOKIE");
		try_outbound(t);
		try_inbound(t);
		try_sockets(t);
	}
	_exit(0);
}

/* ---- the trial, from outside */

static void run_child(struct report *r, struct trial *t)
{
	struct weft_feature f;
	int pipefd[2], status = 0;
	size_t have = 0;
	ssize_t n;
	pid_t pid;

	if (pipe2(pipefd, O_CLOEXEC)) {
		add(r, "trial", "fatal", "pipe: %s", strerror(errno));
		return;
	}
	t->out = pipefd[1];
	pid = fork();
	if (pid == 0)
		child(t);
	close(pipefd[1]);
	if (pid < 0)
		add(r, "trial", "fatal", "fork: %s", strerror(errno));
	/* ends with the child, which an alarm bounds */
	while (pid > 0 && (n = read(pipefd[0], (char *)&f + have, sizeof(f) - have)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			break;
		have += (size_t)n;
		if (have == sizeof(f)) {
			put(r, &f);
			have = 0;
		}
	}
	close(pipefd[0]);
	if (pid > 0 &&
	    (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status)))
		add(r, "trial", "fatal", "ended before it was done");
}

static void group_remove(const char *group)
{
	for (int i = 0; i < 50 && rmdir(group) && errno == EBUSY; i++)
		nanosleep(&(struct timespec){.tv_nsec = 20000000},
			  NULL); /* the child's exit reaches the cgroup late */
}

static void check_programs(struct report *r, const char *cgroup)
{
	struct bpf_link *links[WEFT_BPF_HOOKS] = {};
	struct weft_bpf_set set;
	struct weft_err e = {};
	struct trial t = {.set = &set};
	int fd;

	if (weft_bpf_set_load(&set, NULL, 64, &e) < 0) {
		add(r, "programs", "fatal", "%s", e.msg);
		return;
	}
	add(r, "programs", "found", "the verifier takes all of them; maps and sk_storage are made");
	snprintf(t.group, sizeof(t.group), "%s/weft-check-%d", cgroup, (int)getpid());
	fd = mkdir(t.group, 0755) && errno != EEXIST
		     ? -1
		     : open(t.group, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) {
		add(r, "trial", "fatal", "make %s: %s", t.group, strerror(errno));
		goto out;
	}
	for (int i = 0; i < WEFT_BPF_HOOKS; i++) {
		const char *name = weft_bpf_hooks[i].prog;
		const char *hook = bpf_program__section_name(weft_bpf_set_prog(&set, name));

		links[i] = bpf_program__attach_cgroup(weft_bpf_set_prog(&set, name), fd);
		if (links[i])
			add(r, hook, "found", "%s attached", name);
		else
			add(r, hook, "fatal", "%s: attach: %s", name, strerror(errno));
	}
	run_child(r, &t);
	for (int i = 0; i < WEFT_BPF_HOOKS; i++)
		bpf_link__destroy(links[i]);
	close(fd);
	group_remove(t.group);
out:
	weft_bpf_set_done(&set);
}

int weft_bpf_check(const char *cgroup, const char *bpffs, struct weft_feature *v, size_t max,
		   size_t *ret_n)
{
	struct report r = {.v = v, .max = max};
	int fd;

	check_kernel(&r);
	if (check_mounts(&r, cgroup, bpffs)) {
		fd = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd >= 0) {
			check_others(&r, fd);
			close(fd);
		}
		check_programs(&r, cgroup);
	}
	*ret_n = r.n;
	return r.fatal;
}
