/* The seal, looked at from inside a child: what is gone, what is refused, what must still work.
 * also built: release, where the filter is in force: sanitizers make calls that it refuses */
#include "proxy/core/seal.h"

#include "proxy/core/worker.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s:%d: %s: errno %d\n", __FILE__, __LINE__, #x, errno);   \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)
#define REFUSED(x)                                                                                 \
	do {                                                                                       \
		errno = 0;                                                                         \
		CHECK((x) == -1 && errno == EPERM);                                                \
	} while (0)

/* Runs fn in a child that has sealed itself; the parent needs its own privileges for the next test.
 */
static void sealed_child(void (*fn)(void), bool no_seccomp)
{
	struct weft_err e = {0};
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (!pid) {
		struct weft_seal_conf conf = {.uid = 65534, .gid = 65534, .no_seccomp = no_seccomp};
		char text[600];

		if (weft_seal(&conf, &e)) {
			fprintf(stderr, "seal: %s\n", weft_err_text(&e, text, sizeof(text)));
			_exit(2);
		}
		fn();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void check_privileges(void)
{
	static const char *const empty[] = {"CapInh:", "CapPrm:", "CapEff:", "CapAmb:"};
	char line[256], *groups = NULL;
	int seen = 0;
	struct rlimit core;
	FILE *f;

	f = fopen("/proc/self/status", "re");
	CHECK(f);
	while (fgets(line, sizeof(line), f)) {
		for (size_t i = 0; i < sizeof(empty) / sizeof(empty[0]); i++)
			if (!strncmp(line, empty[i], strlen(empty[i]))) {
				CHECK(strtoull(line + strlen(empty[i]), NULL, 16) == 0);
				seen++;
			}
		if (!strncmp(line, "CapBnd:", 7)) {
			CHECK(strtoull(line + 7, NULL, 16) == 0);
			seen++;
		}
		if (!strncmp(line, "NoNewPrivs:", 11)) {
			CHECK(strtol(line + 11, NULL, 10) == 1);
			seen++;
		}
		if (!strncmp(line, "Groups:", 7)) {
			groups = line + 7 + strspn(line + 7, " \t");
			CHECK(*groups == '\n');
			seen++;
		}
	}
	fclose(f);
	CHECK(seen == 7);
	CHECK(getuid() == 65534 && geteuid() == 65534 && getgid() == 65534);
	CHECK(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0);
	CHECK(!getrlimit(RLIMIT_CORE, &core) && core.rlim_cur == 0 && core.rlim_max == 0);
	CHECK(setuid(0) == -1);
}

#if !SANITIZED
static void check_refused(void)
{
	union bpf_attr attr = {
		.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
	char *argv[] = {(char *)"/bin/true", NULL};
	void *p;

	REFUSED(execve("/bin/true", argv, NULL));
	REFUSED(setns(0, CLONE_NEWNET));
	REFUSED(unshare(CLONE_NEWUSER));
	REFUSED(syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr)));
	REFUSED(ptrace(PTRACE_ATTACH, getppid(), 0, 0));
	REFUSED(open("/tmp", O_WRONLY));
	REFUSED(open("/dev/null", O_RDWR));
	REFUSED(open("/dev/null", O_WRONLY));
	REFUSED(open("/tmp", O_RDWR | O_TMPFILE, 0600));
	REFUSED(open("weft-seal-test-none", O_RDONLY | O_CREAT, 0600));
	REFUSED(unlink("weft-seal-test-none"));
	REFUSED(kill(getppid(), 0));
	REFUSED(socket(AF_NETLINK, SOCK_RAW, 0));
	REFUSED(socket(AF_PACKET, SOCK_RAW, 0));
	REFUSED(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
	REFUSED(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP));
	REFUSED(syscall(SYS_process_vm_readv, getppid(), NULL, 0, NULL, 0, 0));
	REFUSED(syscall(SYS_io_uring_setup, 1, NULL));
	REFUSED(fork());
	REFUSED(memfd_create("x", 0));
	p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED);
	REFUSED(mprotect(p, 4096, PROT_READ | PROT_EXEC));
	CHECK(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
	      MAP_FAILED);
}
#endif

/* A byte from one end to the other; a clean close is seen. */
static void pass_byte(int a, int b)
{
	char c = 'x';

	CHECK(send(a, &c, 1, MSG_NOSIGNAL) == 1);
	c = 0;
	CHECK(recv(b, &c, 1, 0) == 1 && c == 'x');
	CHECK(!shutdown(a, SHUT_WR));
	CHECK(recv(b, &c, 1, 0) == 0);
}

static void check_tcp(int family)
{
	struct sockaddr_storage ss = {.ss_family = (sa_family_t)family};
	socklen_t len =
		family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
	int l = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0), c, s, one = 1;

	CHECK(l >= 0);
	if (family == AF_INET)
		((struct sockaddr_in *)&ss)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else
		((struct sockaddr_in6 *)&ss)->sin6_addr = in6addr_loopback;
	if (bind(l, (struct sockaddr *)&ss, len)) {
		CHECK(family == AF_INET6 && errno == EADDRNOTAVAIL);
		close(l);
		return;
	}
	CHECK(!listen(l, 1));
	CHECK(!getsockname(l, (struct sockaddr *)&ss, &len));
	c = socket(family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
	CHECK(c >= 0 && !setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)));
	CHECK(!connect(c, (struct sockaddr *)&ss, len));
	s = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	CHECK(s >= 0);
	CHECK(!fcntl(s, F_SETFL, fcntl(s, F_GETFL) & ~O_NONBLOCK));
	pass_byte(c, s);
	close(c);
	close(s);
	close(l);
}

static void check_fd_passing(void)
{
	char byte = 'f', ctl[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec iov = {&byte, 1};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = ctl,
			   .msg_controllen = sizeof(ctl)};
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	int pair[2], in[2], got;

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, in));
	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(h), &in[0], sizeof(int));
	CHECK(sendmsg(pair[0], &m, 0) == 1);
	close(in[0]);
	CHECK(recvmsg(pair[1], &m, MSG_CMSG_CLOEXEC) == 1);
	h = CMSG_FIRSTHDR(&m);
	CHECK(h && h->cmsg_type == SCM_RIGHTS);
	memcpy(&got, CMSG_DATA(h), sizeof(int));
	pass_byte(got, in[1]);
}

static void on_post(struct weft_worker *w, void *arg)
{
	void *p = malloc(8 << 20); /* an arena of its own, by mmap */
	char name[16] = "";

	CHECK(!pthread_getname_np(pthread_self(), name, sizeof(name)));
	CHECK(!strcmp(name, "weft-w0"));
	CHECK(p);
	memset(p, 1, 8 << 20);
	free(p);
	atomic_store((_Atomic int *)arg, 1);
	weft_worker_stop(w);
}

static void check_works(void)
{
	struct weft_worker *w;
	_Atomic int ran = 0;
	int fd;

	check_tcp(AF_INET);
	check_tcp(AF_INET6);
	check_fd_passing();
	fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0);
	close(fd);
	(void)weft_rand64();
	w = weft_worker_new(0, NULL);
	CHECK(!weft_worker_start(w, true));
	weft_worker_post(w, on_post, &ran);
	weft_worker_join(w);
	weft_worker_free(w);
	CHECK(atomic_load(&ran));
	CHECK(!raise(0));
}

static void need_root(void)
{
	if (geteuid()) {
		print_message("# SKIP needs root\n");
		skip();
	}
}

static void test_privileges(void **state)
{
	need_root();
	sealed_child(check_privileges, true); /* the filter would refuse to tell */
}

#if !SANITIZED
static void test_refused(void **state)
{
	need_root();
	sealed_child(check_refused, false);
}
#endif

static void test_works(void **state)
{
	need_root();
	sealed_child(check_works, SANITIZED);
}

static void test_root_refused(void **state)
{
	struct weft_seal_conf conf = {.uid = 0, .gid = 0};
	struct weft_err e = {0};

	need_root();
	assert_int_equal(weft_seal(&conf, &e), -EINVAL);
	assert_string_equal(e.msg, "user: must not be root, is uid 0 gid 0");
	assert_int_equal(geteuid(), 0);
}

static void test_user_lookup(void **state)
{
	struct weft_err e = {0};
	uid_t uid = 1;
	gid_t gid = 1;

	assert_int_equal(weft_user_lookup("root", &uid, &gid, &e), 0);
	assert_int_equal(uid, 0);
	assert_int_equal(weft_user_lookup("54321", &uid, &gid, &e), 0);
	assert_int_equal(uid, 54321);
	assert_int_equal(gid, 54321);
	assert_int_equal(weft_user_lookup("weft-no-such-user", &uid, &gid, &e), -ENOENT);
	assert_string_equal(e.msg, "user \"weft-no-such-user\": there is no such user");
	assert_int_equal(weft_user_lookup("12x", &uid, &gid, &e), -ENOENT);
	assert_int_equal(weft_user_lookup("4294967295", &uid, &gid, &e), -ENOENT);
	assert_int_equal(weft_user_lookup("", &uid, &gid, &e), -ENOENT);
}

/* weft-waypoint's: as another user with the right to low ports, or as root without anything. */
static void check_waypoint(void)
{
	uint64_t caps[2] = {1, 1};
	char line[256];
	FILE *f = fopen("/proc/self/status", "re");
	int fd;

	CHECK(f);
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, "CapPrm:", 7))
			caps[0] = strtoull(line + 7, NULL, 16);
		if (!strncmp(line, "CapEff:", 7))
			caps[1] = strtoull(line + 7, NULL, 16);
	}
	fclose(f);
	CHECK(caps[0] == caps[1] && caps[0] == (geteuid() ? 1U << 10 : 0U));
	if (SANITIZED)
		return;
	REFUSED(open("/tmp", O_RDWR));
	REFUSED(open("/dev/null", O_WRONLY));
	REFUSED(open("/dev/null", O_WRONLY | O_APPEND | O_TRUNC));
	fd = open("/dev/null", O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
	CHECK(fd >= 0);
	close(fd);
	fd = inotify_init1(IN_CLOEXEC);
	CHECK(fd >= 0);
	CHECK(inotify_add_watch(fd, "/", IN_CREATE) >= 0);
	close(fd);
	CHECK(unlink("/tmp/no-such-file-of-weft") == -1 && errno == ENOENT);
	REFUSED(rename("/tmp/no-such-file-of-weft", "/tmp/x"));
	REFUSED(execl("/bin/true", "true", (char *)NULL));
}

static void test_waypoint(void **state)
{
	int root;

	need_root();
	for (root = 0; root < 2; root++) {
		struct weft_seal_conf conf = {.uid = 65534,
					      .gid = 65534,
					      .no_seccomp = SANITIZED,
					      .keep_root = root,
					      .low_ports = !root,
					      .files = true};
		struct weft_err e = {0};
		pid_t pid = fork();
		int status;

		assert_true(pid >= 0);
		if (!pid) {
			if (weft_seal(&conf, &e))
				fprintf(stderr, "seal: %s\n", e.msg);
			else
				check_waypoint();
			_exit(e.code != 0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_user_lookup),
		cmocka_unit_test(test_root_refused),
		cmocka_unit_test(test_privileges),
		cmocka_unit_test(test_waypoint),
#if !SANITIZED
		cmocka_unit_test(test_refused),
#endif

		cmocka_unit_test(test_works),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
