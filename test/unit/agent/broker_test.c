/* Pods and broker against a stand-in for the proxy: a child process with its own script. Real BPF,
 * a namespace of its own. */
#include "agent/broker.h"
#include "agent/netns.h"
#include "agent/podsock.h"
#include "xds/proto/broker.pb-c.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
// cmocka wants the four above
#include <cmocka.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WAIT_MS = 20000 };
#define UID "shop_web"
/* in the child: says the line and ends */
#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "# %s:%d: %s\n", __func__, __LINE__, #x);                  \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

static char work[128], bpffs[192], pins[256], path[192], instance[32], cgroup[256], netns[64];
static struct event_base *base;
static struct weft_bpf *bpf;
static struct weft_pods *pods;
static struct weft_broker *broker;

/* ---- a namespace with two addresses, named by a descriptor */

static void *netns_main(void *arg)
{
	int *fd = arg;

	*fd = unshare(CLONE_NEWNET) == 0 &&
			      system("ip link add d0 type bridge && ip addr add 10.77.0.1/24 dev "
				     "d0 "
				     "&& "
				     "ip addr add fd77::1/64 dev d0 nodad && ip link set d0 up") ==
				      0
		      ? open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)
		      : -1;
	return NULL;
}

static int netns_make(char *dst, size_t cap)
{
	pthread_t t;
	int fd;

	pthread_create(&t, NULL, netns_main, &fd);
	pthread_join(t, NULL);
	snprintf(dst, cap, "/proc/%d/fd/%d", getpid(), fd);
	return fd;
}

static bool find_cgroup(void)
{
	char line[1024], type[64];
	FILE *f = fopen("/proc/mounts", "r");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%*s %255s %63s", cgroup, type) == 2 && !strcmp(type, "cgroup2")) {
			fclose(f);
			return true;
		}
	return false;
}

static int group_setup(void **state)
{
	const char *tmp = getenv("TMPDIR");
	struct weft_bpf_conf conf = {.pin_dir = pins, .cgroup = cgroup};
	struct weft_err e = {0};

	(void)state;
	if (geteuid() != 0 || !find_cgroup())
		return 0;
	snprintf(work, sizeof(work), "%.80s/weft-broker-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(work))
		return -1;
	chmod(work, 0755);
	snprintf(bpffs, sizeof(bpffs), "%s/bpf", work);
	snprintf(pins, sizeof(pins), "%s/weft", bpffs);
	snprintf(path, sizeof(path), "%s/broker.sock", work);
	snprintf(instance, sizeof(instance), "test-%d", getpid());
	if (mkdir(bpffs, 0755) < 0 || mount("bpf", bpffs, "bpf", 0, NULL) < 0)
		return -1;
	base = event_base_new();
	if (weft_bpf_open(&conf, &bpf, &e) < 0) {
		fprintf(stderr, "# %s\n", e.msg);
		return -1;
	}
	return netns_make(netns, sizeof(netns)) < 0 ? -1 : 0;
}

static int group_teardown(void **state)
{
	char dir[600];

	(void)state;
	if (!base)
		return 0;
	weft_bpf_close(bpf);
	weft_bpf_unload(pins, NULL);
	umount(bpffs);
	rmdir(bpffs);
	unlink(path);
	rmdir(work);
	event_base_free(base);
	snprintf(dir, sizeof(dir), "%s/weft/%s", cgroup, instance);
	rmdir(dir);
	snprintf(dir, sizeof(dir), "%s/weft", cgroup);
	rmdir(dir);
	return 0;
}

static void need_root(void)
{
	if (base)
		return;
	print_message("# SKIP: needs root and a cgroup2 mount\n");
	skip();
}

static struct weft_pod_conf web(void)
{
	struct weft_pod_conf c = {.uid = UID,
				  .name = "web",
				  .ns = "shop",
				  .sa = "web",
				  .trust_domain = "cluster.local",
				  .workload_uid = "Kubernetes//Pod/shop/web",
				  .netns_path = netns};

	return c;
}

static void broker_start(uid_t uid)
{
	struct weft_broker_conf c = {.path = path,
				     .proxy_uid = uid,
				     .node = "node-a",
				     .network = "",
				     .trust_domain = "cluster.local",
				     .cgroup2 = cgroup,
				     .instance = instance,
				     .move_cgroup = true,
				     .adopt_wait_ms = 2000};
	struct weft_err e = {0};

	pods = weft_pods_new(bpf);
	if (weft_broker_new(base, &c, pods, bpf, &broker, &e) < 0)
		fail_msg("%s", e.msg);
}

static void broker_stop(void)
{
	weft_broker_free(broker);
	weft_pods_free(pods);
	broker = NULL;
	pods = NULL;
}

/* Runs the loop until the child ends: 0 when it was content. */
static int loop_until(pid_t pid, int *also)
{
	const struct timespec nap = {.tv_nsec = 500000};
	int i, st = -1;

	for (i = 0; i < WAIT_MS; i++) {
		event_base_loop(base, EVLOOP_NONBLOCK);
		if (also && *also)
			return 0;
		if (waitpid(pid, &st, WNOHANG) == pid)
			return WIFEXITED(st) ? WEXITSTATUS(st) : 128;
		nanosleep(&nap, NULL);
	}
	kill(pid, SIGKILL);
	waitpid(pid, &st, 0);
	return 255;
}

static int child(void (*script)(void))
{
	pid_t pid = fork();

	if (!pid) {
		signal(SIGPIPE, SIG_IGN);
		alarm(15);
		script();
		_exit(0);
	}
	return loop_until(pid, NULL);
}

/* ---- the child's side */

static int fds[64];
static unsigned n_fds;

static int dial(void)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);

	strcpy(sun.sun_path, path);
	CHECK(connect(fd, (struct sockaddr *)&sun, sizeof(sun)) == 0);
	return fd;
}

static void put(int fd, const void *bytes, size_t n, const int *v, unsigned n_v)
{
	char u[CMSG_SPACE(sizeof(int) * 64)] = {0};
	struct iovec iov = {(void *)bytes, n};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (n_v) {
		struct cmsghdr *c;

		m.msg_control = u;
		m.msg_controllen = CMSG_SPACE(n_v * sizeof(int));
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n_v * sizeof(int));
		memcpy(CMSG_DATA(c), v, n_v * sizeof(int));
	}
	/* a broker that has cut us may make this fail: what comes next finds out */
	(void)!sendmsg(fd, &m, MSG_NOSIGNAL);
}

static void put_msg(int fd, Weft__Broker__ToAgent__MCase which, void *m, int one_fd)
{
	Weft__Broker__ToAgent out = WEFT__BROKER__TO_AGENT__INIT;
	uint8_t bytes[8192];

	out.m_case = which;
	out.hello = m;
	put(fd, bytes, weft__broker__to_agent__pack(&out, bytes), &one_fd, one_fd >= 0);
}

static void hello(int fd)
{
	Weft__Broker__Hello m = WEFT__BROKER__HELLO__INIT;

	m.has_version = true;
	m.version = 1;
	m.proxy_version = (char *)"test";
	put_msg(fd, WEFT__BROKER__TO_AGENT__M_HELLO, &m, -1);
}

static void holding(int fd, const char *uid, int kind, int one_fd)
{
	Weft__Broker__Holding m = WEFT__BROKER__HOLDING__INIT;

	m.pod_uid = (char *)uid;
	m.has_kind = uid != NULL;
	m.kind = (Weft__Broker__SocketKind)kind;
	m.has_done = m.done = uid == NULL;
	put_msg(fd, WEFT__BROKER__TO_AGENT__M_HOLDING, &m, one_fd);
}

static void want(int fd, const char *uid, int kind, unsigned n)
{
	Weft__Broker__Want m = WEFT__BROKER__WANT__INIT;

	m.pod_uid = (char *)uid;
	m.has_kind = m.has_count = true;
	m.kind = (Weft__Broker__SocketKind)kind;
	m.count = n;
	put_msg(fd, WEFT__BROKER__TO_AGENT__M_WANT, &m, -1);
}

/* The next message, its descriptors in fds; NULL: cut off. */
static Weft__Broker__ToProxy *get(int fd)
{
	static uint8_t bytes[8192];
	char u[CMSG_SPACE(sizeof(int) * 64)];
	struct iovec iov = {bytes, sizeof(bytes)};
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = u, .msg_controllen = sizeof(u)};
	ssize_t n = recvmsg(fd, &m, 0);
	struct cmsghdr *c;

	n_fds = 0;
	if (n <= 0)
		return NULL;
	CHECK(!(m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)));
	for (c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		n_fds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(c), n_fds * sizeof(int));
	}
	return weft__broker__to_proxy__unpack(NULL, (size_t)n, bytes);
}

static void expect_cut(int fd)
{
	Weft__Broker__ToProxy *m;
	int i;

	for (i = 0; i < 8 && (m = get(fd)); i++) /* what was sent before */
		weft__broker__to_proxy__free_unpacked(m, NULL);
	CHECK(i < 8);
}

static void welcomed(int fd)
{
	Weft__Broker__ToProxy *m = get(fd);

	CHECK(m && m->m_case == WEFT__BROKER__TO_PROXY__M_WELCOME);
	CHECK(m->welcome->version == 1 && !strcmp(m->welcome->node, "node-a"));
}

static int sockopt(int fd, int level, int name)
{
	int v = -1;
	socklen_t n = sizeof(v);

	return getsockopt(fd, level, name, &v, &n) == 0 ? v : -1;
}

static ino_t ino_of(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 ? st.st_ino : 0;
}

/* ---- scripts */

static void script_usual(void)
{
	int fd = dial(), i;
	char line[512], mine[128];
	Weft__Broker__ToProxy *m;
	FILE *f;

	hello(fd);
	welcomed(fd);
	/* exempted before it was welcomed */
	snprintf(mine, sizeof(mine), "0::/weft/%s/proxy-%d\n", instance, getpid());
	f = fopen("/proc/self/cgroup", "r");
	for (i = 0; fgets(line, sizeof(line), f);)
		i += !strcmp(line, mine);
	CHECK(i == 1);
	holding(fd, NULL, 0, -1);
	m = get(fd);
	CHECK(m && m->m_case == WEFT__BROKER__TO_PROXY__M_POD_ADD && n_fds == 6 &&
	      m->pod_add->n_kinds == 6);
	CHECK(!strcmp(m->pod_add->uid, UID) && !strcmp(m->pod_add->service_account, "web"));
	CHECK(m->pod_add->n_addresses == 2 &&
	      m->pod_add->addresses[0].len + m->pod_add->addresses[1].len == 20);
	for (i = 0; i < 6; i++) {
		CHECK((int)m->pod_add->kinds[i] == i + 1);
		CHECK(sockopt(fds[i], SOL_SOCKET, SO_ACCEPTCONN) == 1);
		CHECK(sockopt(fds[i], SOL_SOCKET, SO_MARK) == WEFT_MARK_PROXY);
		CHECK(fcntl(fds[i], F_GETFL) & O_NONBLOCK);
		/* what is accepted inherits it; tunnels have PINGs */
		CHECK(sockopt(fds[i], SOL_SOCKET, SO_KEEPALIVE) == (i != 2 && i != 3));
		CHECK(weft_podsock_verify(fds[i], i + 1, 0) == 0);
	}
	m = get(fd);
	CHECK(m && m->m_case == WEFT__BROKER__TO_PROXY__M_SNAPSHOT_SENT);
	want(fd, UID, 7, 32);
	m = get(fd);
	CHECK(m && m->m_case == WEFT__BROKER__TO_PROXY__M_SOCKETS && n_fds == 32 &&
	      !m->sockets->error);
	CHECK(sockopt(fds[31], SOL_SOCKET, SO_MARK) == WEFT_MARK_PROXY);
	CHECK(sockopt(fds[31], SOL_TCP, TCP_NODELAY) == 1 &&
	      sockopt(fds[31], SOL_TCP, TCP_KEEPIDLE) == 180);
	want(fd, UID, 9, 1);
	m = get(fd);
	CHECK(m && n_fds == 1 && sockopt(fds[0], SOL_SOCKET, SO_MARK) == WEFT_MARK_SPOOF);
	CHECK(sockopt(fds[0], SOL_IP, IP_TRANSPARENT) == 1 &&
	      sockopt(fds[0], SOL_IP, IP_FREEBIND) == 1);
	CHECK(sockopt(fds[0], SOL_IP, IP_BIND_ADDRESS_NO_PORT) == 1);
	want(fd, UID, 10, 2);
	m = get(fd);
	CHECK(m && n_fds == 2 && sockopt(fds[1], SOL_SOCKET, SO_DOMAIN) == AF_INET6);
	CHECK(sockopt(fds[1], SOL_IPV6, IPV6_TRANSPARENT) == 1);
	want(fd, "nobody", 7, 1);
	m = get(fd);
	CHECK(m && n_fds == 0 && strstr(m->sockets->error, "nobody"));
}

static void script_second_hello(void)
{
	int fd = dial();

	hello(fd);
	welcomed(fd);
	hello(fd);
	expect_cut(fd);
}

static void script_too_many(void)
{
	int fd = dial();

	hello(fd);
	welcomed(fd);
	want(fd, UID, 7, 33);
	expect_cut(fd);
}

static void script_listener_wanted(void)
{
	int fd = dial();

	hello(fd);
	welcomed(fd);
	want(fd, UID, 1, 1);
	expect_cut(fd);
}

static void script_want_first(void)
{
	int fd = dial();

	want(fd, UID, 7, 1);
	expect_cut(fd);
}

static void script_garbage(void)
{
	int fd = dial();

	put(fd, "\xff\xff\xff\xff\xff", 5, NULL, 0);
	expect_cut(fd);
}

static void script_fds_where_none_belong(void)
{
	Weft__Broker__Hello m = WEFT__BROKER__HELLO__INIT;
	int fd = dial();

	m.has_version = true;
	m.version = 1;
	put_msg(fd, WEFT__BROKER__TO_AGENT__M_HELLO, &m, fd);
	expect_cut(fd);
}

static void script_version(void)
{
	Weft__Broker__Hello m = WEFT__BROKER__HELLO__INIT;
	int fd = dial();

	m.has_version = true;
	m.version = 2;
	put_msg(fd, WEFT__BROKER__TO_AGENT__M_HELLO, &m, -1);
	expect_cut(fd);
}

static void script_large(void)
{
	static char big[9000];
	int fd = dial();

	put(fd, big, sizeof(big), NULL, 0);
	expect_cut(fd);
}

/* What is no listener of the pod is not taken back, and the pod comes with the agent's own. */
static void script_false_listener(void)
{
	int fd = dial(), other = socket(AF_INET, SOCK_STREAM, 0);
	Weft__Broker__ToProxy *m;

	hello(fd);
	welcomed(fd);
	holding(fd, UID, 1, other);
	holding(fd, UID, 2, fd);
	holding(fd, NULL, 0, -1);
	m = get(fd);
	CHECK(m && m->m_case == WEFT__BROKER__TO_PROXY__M_POD_ADD && n_fds == 6);
}

static void script_refused(void)
{
	int fd = dial();

	hello(fd);
	expect_cut(fd);
}

/* Two may be connected, a third may not; both have every pod. */
static void script_successor(void)
{
	int a = dial(), b, c, i;
	Weft__Broker__ToProxy *m;

	hello(a);
	welcomed(a);
	holding(a, NULL, 0, -1);
	for (i = 0; i < 2; i++)
		CHECK(get(a));
	b = dial();
	hello(b);
	welcomed(b);
	holding(b, NULL, 0, -1);
	m = get(b);
	CHECK(m && m->m_case == WEFT__BROKER__TO_PROXY__M_POD_ADD && n_fds == 6);
	CHECK(get(b));
	c = dial();
	hello(c);
	expect_cut(c);
	/* the one before still gets sockets, for what lives on it */
	want(a, UID, 7, 1);
	m = get(a);
	CHECK(m && n_fds == 1);
	/* a successor that fails: what was before is active again and told everything */
	close(b);
	m = get(a);
	CHECK(m && m->m_case == WEFT__BROKER__TO_PROXY__M_POD_ADD && n_fds == 0);
}

/* ---- tests */

static void capture_count(void *ctx, const char *uid, uint64_t cookie)
{
	(void)uid;
	(void)cookie;
	++*(int *)ctx;
}

static int captures(void)
{
	int n = 0;

	weft_bpf_each_pinned(bpf, capture_count, &n);
	return n;
}

/* In a pod: 0 when no app can listen where the proxy does, whatever it asks for; else what could.
 */
static int steal(void *arg)
{
	static const int options[] = {0, SO_REUSEADDR, SO_REUSEPORT};
	static const char *const at[] = {"127.64.1.1:15001", "0.0.0.0:15001",	"[::1]:15001",
					 "[::]:15001",	     "10.77.0.1:15001", "10.77.0.1:15006",
					 "10.77.0.1:15008",  "[fd77::1]:15008"};
	int on = 1, got = 0;
	size_t i, k;

	(void)arg;
	for (i = 0; i < sizeof(at) / sizeof(at[0]) && !got; i++)
		for (k = 0; k < sizeof(options) / sizeof(options[0]) && !got; k++) {
			struct sockaddr_storage ss;
			struct weft_sockaddr a;
			socklen_t n;
			int fd;

			if (weft_sockaddr_parse(at[i], &a) < 0)
				return -EINVAL;
			n = weft_sockaddr_to_kernel(&a, a.ip.family == 6 ? AF_INET6 : AF_INET, &ss);
			fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
			if (options[k])
				setsockopt(fd, SOL_SOCKET, options[k], &on, sizeof(on));
			if (bind(fd, (struct sockaddr *)&ss, n) == 0 || errno != EADDRINUSE)
				got = (int)(i * 10 + k + 1);
			close(fd);
		}
	return got;
}

static void pods_alone(void **state)
{
	struct weft_pod_conf c = web();
	struct weft_pod *pod;
	struct weft_err e = {0};
	char fifo[200], other[64];
	int fd, other_fd;

	(void)state;
	need_root();
	pods = weft_pods_new(bpf);
	assert_int_equal(weft_pods_add(pods, &c, &pod, &e), 1);
	assert_int_equal(pod->state, WEFT_POD_CAPTURED);
	assert_int_equal(pod->n_addrs, 2);
	assert_int_equal(weft_pods_add(pods, &c, &pod, &e), 0);
	c.sa = "other";
	assert_int_equal(weft_pods_add(pods, &c, &pod, &e), 1);
	assert_string_equal(pod->sa, "other");
	assert_int_equal(weft_netns_run(pod->netns_fd, steal, NULL), 0);
	/* one of its addresses only, then one that it does not have */
	assert_int_equal(weft_ip_parse("10.77.0.1", &c.addrs[0]), 0);
	c.n_addrs = 1;
	assert_int_equal(weft_pods_add(pods, &c, &pod, &e), 1);
	assert_int_equal(pod->n_addrs, 1);
	assert_int_equal(weft_ip_parse("10.77.0.9", &c.addrs[0]), 0);
	assert_int_equal(weft_pods_add(pods, &c, &pod, &e), -EADDRNOTAVAIL);
	assert_non_null(strstr(e.msg, "10.77.0.9"));
	/* it is not let out of the mesh for that */
	assert_int_equal(pod->state, WEFT_POD_CAPTURED);
	assert_non_null(strstr(pod->err.msg, "10.77.0.9"));
	assert_int_equal(pod->n_addrs, 1);
	assert_true(pod->listeners[0] >= 0);
	assert_int_equal(captures(), 1);
	assert_int_equal(weft_ip_parse("10.77.0.1", &c.addrs[0]), 0);
	assert_int_equal(weft_pods_add(pods, &c, &pod, &e), 1);
	assert_int_equal(pod->err.code, 0);
	assert_int_equal(weft_pods_add(pods, &c, &pod, &e), 0);
	/* a port that somebody in the pod has */
	c = web();
	other_fd = netns_make(other, sizeof(other));
	assert_true(other_fd >= 0);
	assert_int_equal(weft_podsock_make(other_fd, 5, &fd, 1, &e), 0);
	c.uid = "shop_busy";
	c.netns_path = other;
	assert_int_equal(weft_pods_add(pods, &c, &pod, &e), -EADDRINUSE);
	assert_non_null(strstr(e.msg, "15006"));
	close(fd);
	assert_int_equal(weft_pods_add(pods, &c, &pod, &e), 1);
	/* the pod came back in another namespace: only when that is not another pod's */
	c.netns_path = netns;
	assert_int_equal(weft_pods_add(pods, &c, &pod, &e), -EADDRINUSE);
	assert_int_equal(weft_pods_remove(pods, UID, &e), 0);
	assert_int_equal(weft_pods_add(pods, &c, &pod, &e), 1);
	close(other_fd);
	/* what is no network namespace, or our own */
	snprintf(fifo, sizeof(fifo), "%s/fifo", work);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	c.netns_path = fifo;
	assert_int_equal(weft_pods_add(pods, &c, &pod, &e), -EINVAL);
	unlink(fifo);
	c.netns_path = "/proc/self/ns/mnt";
	assert_int_equal(weft_pods_add(pods, &c, &pod, &e), -EINVAL);
	c.netns_path = "/proc/self/ns/net";
	assert_int_equal(weft_pods_add(pods, &c, &pod, &e), -EINVAL);
	c.netns_path = "/nowhere";
	assert_int_equal(weft_pods_add(pods, &c, &pod, &e), -ENOENT);
	assert_int_equal(weft_pods_remove(pods, "shop_busy", &e), 0);
	assert_int_equal(weft_pods_remove(pods, UID, &e), -ENOENT);
	weft_pods_free(pods);
	pods = NULL;
}

/* An earlier agent enrolled the namespace as a pod of another name. */
static void renamed_while_away(void **state)
{
	struct weft_pod_conf c = web();
	struct weft_err e = {0};
	struct weft_pod *pod;
	char pin[600];
	uint64_t cookie;

	(void)state;
	need_root();
	pods = weft_pods_new(bpf);
	c.uid = "shop_old";
	assert_int_equal(weft_pods_add(pods, &c, &pod, &e), 1);
	cookie = pod->cookie;
	weft_pods_free(pods);
	pods = weft_pods_new(bpf);
	c.uid = UID;
	assert_int_equal(weft_pods_add(pods, &c, &pod, &e), -EEXIST);
	assert_non_null(strstr(e.msg, "shop_old"));
	assert_int_equal(captures(), 1); /* still, and not half of it */
	assert_int_equal(weft_bpf_pod_del(bpf, "shop_old", cookie, &e), 0);
	assert_int_equal(weft_pods_add(pods, &c, &pod, &e), 1);
	assert_int_equal(weft_pods_remove(pods, UID, &e), 0);
	assert_int_equal(captures(), 0);
	snprintf(pin, sizeof(pin), "ls %s/pod-* 2>/dev/null", pins);
	assert_int_not_equal(system(pin), 0);
	weft_pods_free(pods);
	pods = NULL;
}

static void pod_in(void)
{
	struct weft_pod_conf c = web();
	struct weft_err e = {0};

	if (weft_pods_add(pods, &c, NULL, &e) < 0)
		fail_msg("%s", e.msg);
	weft_broker_ready(broker);
}

static void the_table_of_permits(void **state)
{
	static void (*const scripts[])(void) = {script_usual,	       script_second_hello,
						script_too_many,       script_listener_wanted,
						script_want_first,     script_garbage,
						script_version,	       script_fds_where_none_belong,
						script_false_listener, script_large,
						script_successor};
	size_t i;

	(void)state;
	need_root();
	broker_start(0);
	pod_in();
	for (i = 0; i < sizeof(scripts) / sizeof(scripts[0]); i++)
		if (child(scripts[i]))
			fail_msg("script %zu", i);
	assert_int_equal(weft_pods_remove(pods, UID, NULL), 0);
	broker_stop();
}

static void another_user_is_refused(void **state)
{
	struct stat st;

	(void)state;
	need_root();
	broker_start(65533);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(st.st_uid, 65533);
	assert_int_equal(child(script_refused), 0);
	broker_stop();
}

static int to_child[2], to_parent[2];

/* Lives longer than one agent: hands its listeners to the next. */
static void script_survivor(void)
{
	int fd = dial(), held[6], i;
	Weft__Broker__ToProxy *m;
	char c = 0;

	hello(fd);
	welcomed(fd);
	holding(fd, NULL, 0, -1);
	m = get(fd);
	CHECK(m && n_fds == 6);
	memcpy(held, fds, sizeof(held));
	CHECK(get(fd));
	CHECK(write(to_parent[1], &c, 1) == 1);
	CHECK(!get(fd)); /* the agent ends */
	close(fd);
	CHECK(read(to_child[0], &c, 1) == 1); /* the next one is there */
	fd = dial();
	hello(fd);
	welcomed(fd);
	for (i = 0; i < 6; i++)
		holding(fd, UID, i + 1, held[i]);
	holding(fd, NULL, 0, -1);
	CHECK(write(to_parent[1], &c, 1) == 1);
	m = get(fd);
	CHECK(m && m->m_case == WEFT__BROKER__TO_PROXY__M_POD_ADD && n_fds == 0 &&
	      m->pod_add->n_kinds == 0);
	m = get(fd);
	CHECK(m && m->m_case == WEFT__BROKER__TO_PROXY__M_SNAPSHOT_SENT);
	for (i = 0; i < 6; i++) /* and they are the same sockets */
		CHECK(sockopt(held[i], SOL_SOCKET, SO_ACCEPTCONN) == 1);
}

static int told(void)
{
	char c;

	return read(to_parent[0], &c, 1) == 1;
}

static void on_told(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	*(int *)arg = told();
}

static void run_until_told(pid_t pid)
{
	int flag = 0;
	struct event *ev = event_new(base, to_parent[0], EV_READ, on_told, &flag);

	event_add(ev, NULL);
	assert_int_equal(loop_until(pid, &flag), 0);
	assert_int_equal(flag, 1);
	event_free(ev);
}

static void the_next_agent_adopts(void **state)
{
	ino_t before[6];
	const struct weft_pod *pod;
	struct weft_pod_conf c = web();
	struct weft_err e = {0};
	char go = 1;
	pid_t pid;
	int i;

	(void)state;
	need_root();
	assert_int_equal(pipe2(to_child, O_CLOEXEC), 0);
	assert_int_equal(pipe2(to_parent, O_CLOEXEC), 0);
	broker_start(0);
	pod_in();
	pod = weft_pods_find(pods, UID);
	for (i = 0; i < 6; i++)
		before[i] = ino_of(pod->listeners[i]);
	pid = fork();
	if (!pid) {
		/* the parent's copies of listeners must not keep them alive: only those received
		 * may */
		for (i = 0; i < 6; i++)
			close(pod->listeners[i]);
		alarm(15);
		script_survivor();
		_exit(0);
	}
	run_until_told(pid);
	broker_stop(); /* as when the agent is killed: pins stay, its descriptors are gone */
	broker_start(0);
	assert_true(weft_broker_adopting(broker)); /* the proxy's group tells that it lives */
	/* too early: its ports are the proxy's; nothing that works is taken down */
	assert_int_equal(weft_pods_add(pods, &c, NULL, &e), -EADDRINUSE);
	assert_int_equal(write(to_child[1], &go, 1), 1);
	run_until_told(pid);
	for (i = 0; i < 100; i++) {
		event_base_loop(base, EVLOOP_NONBLOCK);
		if (!weft_broker_adopting(broker))
			break;
		usleep(2000);
	}
	assert_false(weft_broker_adopting(broker));
	pod_in();
	pod = weft_pods_find(pods, UID);
	for (i = 0; i < 6; i++)
		assert_int_equal(ino_of(pod->listeners[i]), before[i]);
	weft_pods_adopt_end(pods);
	assert_int_equal(loop_until(pid, NULL), 0);
	assert_int_equal(weft_pods_remove(pods, UID, &e), 0);
	broker_stop();
}

/* Gone processes leave no group and no exemption behind. */
/* Its number may be another process's by the time the agent reads its Hello. */
static void a_dead_one_exempts_nobody(void **state)
{
	char group[600];
	struct stat st;
	siginfo_t info;
	pid_t pid;
	int i;

	(void)state;
	need_root();
	broker_start(0);
	pid = fork();
	if (!pid) {
		hello(dial());
		_exit(0);
	}
	/* it stays a zombie: its number is not free yet */
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	for (i = 0; i < 200; i++) {
		event_base_loop(base, EVLOOP_NONBLOCK);
		usleep(1000);
		snprintf(group, sizeof(group), "%s/weft/%s/proxy-%d", cgroup, instance, pid);
		if (i > 100)
			assert_int_not_equal(stat(group, &st), 0);
	}
	assert_false(weft_broker_proxy_connected(broker));
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	broker_stop();
}

static void groups_end_with_their_process(void **state)
{
	char dir[600];
	struct stat st;
	int i;

	(void)state;
	need_root();
	broker_start(0);
	assert_int_equal(child(script_second_hello), 0);
	snprintf(dir, sizeof(dir), "%s/weft/%s", cgroup, instance);
	for (i = 0; i < 2000; i++) {
		event_base_loop(base, EVLOOP_NONBLOCK);
		if (stat(dir, &st) == 0 && st.st_nlink == 2)
			break;
		usleep(2000);
	}
	assert_int_equal(st.st_nlink, 2);
	broker_stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pods_alone),
		cmocka_unit_test(renamed_while_away),
		cmocka_unit_test(the_table_of_permits),
		cmocka_unit_test(another_user_is_refused),
		cmocka_unit_test(the_next_agent_adopts),
		cmocka_unit_test(a_dead_one_exempts_nobody),
		cmocka_unit_test(groups_end_with_their_process),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
