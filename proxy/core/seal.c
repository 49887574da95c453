#include "proxy/core/seal.h"

#include <cap-ng.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <pwd.h>
#include <sched.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PASSWD_BYTES = 16384 };

int weft_user_lookup(const char *user, uid_t *ret_uid, gid_t *ret_gid, struct weft_err *reterr)
{
	struct passwd pw, *found = NULL;
	char buf[PASSWD_BYTES];
	char *end = NULL;
	unsigned long id;
	int err;

	err = getpwnam_r(user, &pw, buf, sizeof(buf), &found);
	if (found) {
		*ret_uid = found->pw_uid;
		*ret_gid = found->pw_gid;
		return 0;
	}
	if (!isdigit((unsigned char)user[0])) {
		if (err && err != ENOENT)
			return weft_fail(reterr, NULL, err, "user \"%s\": %s", user, strerror(err));
		return weft_fail(reterr, NULL, ENOENT, "user \"%s\": there is no such user", user);
	}
	errno = 0;
	id = strtoul(user, &end, 10);
	if (errno || *end || id >= (uid_t)-1)
		return weft_fail(reterr, NULL, ENOENT, "user \"%s\": not a user number", user);
	found = NULL;
	getpwuid_r((uid_t)id, &pw, buf, sizeof(buf), &found);
	*ret_uid = (uid_t)id;
	*ret_gid = found ? found->pw_gid : (gid_t)id;
	return 0;
}

/* What a loop over sockets, OpenSSL, malloc and threads made later call with any arguments. */
static const int plain_calls[] = {
	/* bytes and waiting */
	SCMP_SYS(read),
	SCMP_SYS(readv),
	SCMP_SYS(pread64),
	SCMP_SYS(write),
	SCMP_SYS(writev),
	SCMP_SYS(close),
	SCMP_SYS(lseek),
	SCMP_SYS(splice),
	SCMP_SYS(pipe2),
	SCMP_SYS(dup),
	SCMP_SYS(dup2),
	SCMP_SYS(dup3),
	SCMP_SYS(eventfd2),
	SCMP_SYS(timerfd_create),
	SCMP_SYS(timerfd_settime),
	SCMP_SYS(timerfd_gettime),
	SCMP_SYS(epoll_create1),
	SCMP_SYS(epoll_ctl),
	SCMP_SYS(epoll_wait),
	SCMP_SYS(epoll_pwait),
	SCMP_SYS(epoll_pwait2),
	SCMP_SYS(poll),
	SCMP_SYS(ppoll),
	SCMP_SYS(select),
	SCMP_SYS(pselect6),
	/* sockets; socket(2) itself is below */
	SCMP_SYS(connect),
	SCMP_SYS(accept),
	SCMP_SYS(accept4),
	SCMP_SYS(bind),
	SCMP_SYS(listen),
	SCMP_SYS(getsockname),
	SCMP_SYS(getpeername),
	SCMP_SYS(getsockopt),
	SCMP_SYS(setsockopt),
	SCMP_SYS(sendto),
	SCMP_SYS(sendmsg),
	SCMP_SYS(sendmmsg),
	SCMP_SYS(recvfrom),
	SCMP_SYS(recvmsg),
	SCMP_SYS(recvmmsg),
	SCMP_SYS(shutdown),
	/* files, to read only */
	SCMP_SYS(fstat),
	SCMP_SYS(stat),
	SCMP_SYS(lstat),
	SCMP_SYS(newfstatat),
	SCMP_SYS(statx),
	SCMP_SYS(access),
	SCMP_SYS(faccessat),
	SCMP_SYS(faccessat2),
	SCMP_SYS(getdents64),
	SCMP_SYS(readlink),
	SCMP_SYS(readlinkat),
	SCMP_SYS(getcwd),
	/* memory and threads; mmap, mprotect and clone are below */
	SCMP_SYS(munmap),
	SCMP_SYS(mremap),
	SCMP_SYS(madvise),
	SCMP_SYS(brk),
	SCMP_SYS(mlock),
	SCMP_SYS(munlock),
	SCMP_SYS(futex),
	SCMP_SYS(set_robust_list),
	SCMP_SYS(set_tid_address),
	SCMP_SYS(rseq),
	SCMP_SYS(sched_yield),
	SCMP_SYS(sched_getaffinity),
	SCMP_SYS(sched_setaffinity),
	SCMP_SYS(getcpu),
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
	/* signals, clocks, who am I */
	SCMP_SYS(rt_sigaction),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(sigaltstack),
	SCMP_SYS(restart_syscall),
	SCMP_SYS(clock_gettime),
	SCMP_SYS(clock_getres),
	SCMP_SYS(clock_nanosleep),
	SCMP_SYS(nanosleep),
	SCMP_SYS(gettimeofday),
	SCMP_SYS(time),
	SCMP_SYS(getrandom),
	SCMP_SYS(getpid),
	SCMP_SYS(getppid),
	SCMP_SYS(gettid),
	SCMP_SYS(getuid),
	SCMP_SYS(geteuid),
	SCMP_SYS(getgid),
	SCMP_SYS(getegid),
	SCMP_SYS(getresuid),
	SCMP_SYS(getresgid),
	SCMP_SYS(getgroups),
	SCMP_SYS(capget),
	SCMP_SYS(uname),
	SCMP_SYS(sysinfo),
	SCMP_SYS(getrusage),
	SCMP_SYS(times),
};

static const unsigned fcntl_commands[] = {F_GETFL, F_SETFL, F_GETFD,
					  F_SETFD, F_DUPFD, F_DUPFD_CLOEXEC};
/* also SIOCINQ and SIOCOUTQ, and isatty */
static const unsigned ioctl_commands[] = {FIONREAD, FIONBIO, TIOCOUTQ, TCGETS};

static int allow_if(scmp_filter_ctx ctx, int call, unsigned n, const struct scmp_arg_cmp *args)
{
	return seccomp_rule_add_array(ctx, SCMP_ACT_ALLOW, call, n, args);
}

static int allow_sockets(scmp_filter_ctx ctx)
{
	static const struct {
		unsigned domain, type, proto;
	} kinds[] = {
		{AF_UNIX, SOCK_STREAM, 0},
		{AF_UNIX, SOCK_SEQPACKET, 0},
		{AF_UNIX, SOCK_DGRAM, 0},
		{AF_INET, SOCK_STREAM, 0},
		{AF_INET, SOCK_STREAM, IPPROTO_TCP},
		{AF_INET, SOCK_DGRAM, 0},
		{AF_INET, SOCK_DGRAM, IPPROTO_UDP},
		{AF_INET6, SOCK_STREAM, 0},
		{AF_INET6, SOCK_STREAM, IPPROTO_TCP},
		{AF_INET6, SOCK_DGRAM, 0},
		{AF_INET6, SOCK_DGRAM, IPPROTO_UDP},
	};
	const uint64_t type_bits = 0xffffffff & ~(uint64_t)(SOCK_NONBLOCK | SOCK_CLOEXEC);
	int err = 0;

	for (size_t i = 0; !err && i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		struct scmp_arg_cmp args[] = {
			SCMP_A0(SCMP_CMP_EQ, kinds[i].domain),
			SCMP_A1(SCMP_CMP_MASKED_EQ, type_bits, kinds[i].type),
			SCMP_A2(SCMP_CMP_EQ, kinds[i].proto),
		};

		err = allow_if(ctx, SCMP_SYS(socket), 3, args);
		if (!err && kinds[i].domain == AF_UNIX)
			err = allow_if(ctx, SCMP_SYS(socketpair), 2, args);
	}
	return err;
}

/* Access logs, watched folders and unix sockets of listeners that come later. */
static int allow_files(scmp_filter_ctx ctx)
{
	static const int calls[] = {SCMP_SYS(inotify_init1),	SCMP_SYS(inotify_add_watch),
				    SCMP_SYS(inotify_rm_watch), SCMP_SYS(unlink),
				    SCMP_SYS(unlinkat),		SCMP_SYS(chmod),
				    SCMP_SYS(fchmod),		SCMP_SYS(fchmodat)};
	static const unsigned domains[] = {AF_INET, AF_INET6};
	const struct scmp_arg_cmp append =
		SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_APPEND | O_TRUNC, O_WRONLY | O_APPEND);
	const struct scmp_arg_cmp pipe_size = SCMP_A1(SCMP_CMP_EQ, F_SETPIPE_SZ);
	const uint64_t type_bits = 0xffffffff & ~(uint64_t)(SOCK_NONBLOCK | SOCK_CLOEXEC);
	int err = 0;

	for (size_t i = 0; !err && i < sizeof(calls) / sizeof(calls[0]); i++)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
	for (size_t i = 0; !err && i < sizeof(domains) / sizeof(domains[0]); i++) {
		struct scmp_arg_cmp args[] = {
			SCMP_A0(SCMP_CMP_EQ, domains[i]),
			SCMP_A1(SCMP_CMP_MASKED_EQ, type_bits, SOCK_STREAM),
			SCMP_A2(SCMP_CMP_EQ, IPPROTO_MPTCP),
		};

		err = allow_if(ctx, SCMP_SYS(socket), 3, args);
	}
	if (!err)
		err = allow_if(ctx, SCMP_SYS(fcntl), 1, &pipe_size);
	return err ? err : allow_if(ctx, SCMP_SYS(openat), 1, &append);
}

static int allow_with_arguments(scmp_filter_ctx ctx)
{
	const uint64_t new_spaces = CLONE_NEWCGROUP | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWNS |
				    CLONE_NEWPID | CLONE_NEWUSER | CLONE_NEWUTS;
	const struct scmp_arg_cmp read_only =
		SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY);
	const struct scmp_arg_cmp no_exec = SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0);
	const struct scmp_arg_cmp thread =
		SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD | new_spaces, CLONE_THREAD);
	const struct scmp_arg_cmp self = SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid());
	const struct scmp_arg_cmp set_name = SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME);
	const struct scmp_arg_cmp get_name = SCMP_A0(SCMP_CMP_EQ, PR_GET_NAME);
	const struct scmp_arg_cmp get_limit = SCMP_A2(SCMP_CMP_EQ, 0);
	int err = 0;

	for (size_t i = 0; !err && i < sizeof(fcntl_commands) / sizeof(fcntl_commands[0]); i++) {
		struct scmp_arg_cmp a = SCMP_A1(SCMP_CMP_EQ, fcntl_commands[i]);

		err = allow_if(ctx, SCMP_SYS(fcntl), 1, &a);
	}
	for (size_t i = 0; !err && i < sizeof(ioctl_commands) / sizeof(ioctl_commands[0]); i++) {
		struct scmp_arg_cmp a = SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, ioctl_commands[i]);

		err = allow_if(ctx, SCMP_SYS(ioctl), 1, &a);
	}
	if (!err)
		err = allow_if(ctx, SCMP_SYS(openat), 1, &read_only);
	if (!err)
		err = allow_if(ctx, SCMP_SYS(mmap), 1, &no_exec);
	if (!err)
		err = allow_if(ctx, SCMP_SYS(mprotect), 1, &no_exec);
	if (!err)
		err = allow_if(ctx, SCMP_SYS(clone), 1, &thread);
	/* its arguments are behind a pointer; on ENOSYS glibc takes clone */
	if (!err)
		err = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (!err)
		err = allow_if(ctx, SCMP_SYS(tgkill), 1, &self);
	if (!err)
		err = allow_if(ctx, SCMP_SYS(kill), 1, &self);
	if (!err)
		err = allow_if(ctx, SCMP_SYS(prctl), 1, &set_name);
	if (!err)
		err = allow_if(ctx, SCMP_SYS(prctl), 1, &get_name);
	if (!err)
		err = allow_if(ctx, SCMP_SYS(prlimit64), 1, &get_limit);
	return err ? err : allow_sockets(ctx);
}

static int filter_load(bool files, struct weft_err *reterr)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int err = ctx ? 0 : -ENOMEM;

	/* refused calls go to the kernel's log; every thread there is gets the filter */
	if (!err)
		err = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_LOG, 1);
	if (!err)
		err = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);
	if (!err)
		err = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	for (size_t i = 0; !err && i < sizeof(plain_calls) / sizeof(plain_calls[0]); i++)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, plain_calls[i], 0);
	if (!err)
		err = allow_with_arguments(ctx);
	if (!err && files)
		err = allow_files(ctx);
	if (!err)
		err = seccomp_load(ctx);
	seccomp_release(ctx);
	if (err)
		return weft_fail(reterr, NULL, -err, "seccomp filter: %s", strerror(-err));
	return 0;
}

static int user_switch(const struct weft_seal_conf *conf, struct weft_err *reterr)
{
	if (!conf->uid || !conf->gid)
		return weft_fail(reterr, NULL, EINVAL, "user: must not be root, is uid %u gid %u",
				 conf->uid, conf->gid);
	/* the bounding set can be dropped only while CAP_SETPCAP is there */
	capng_clear(CAPNG_SELECT_BOUNDS);
	if (capng_apply(CAPNG_SELECT_BOUNDS))
		return weft_fail(reterr, NULL, EPERM, "cannot drop the capability bounding set");
	if ((conf->low_ports || conf->net_admin) && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
		return weft_fail(reterr, NULL, errno, "capabilities cannot be kept: %s",
				 strerror(errno));
	if (setgroups(0, NULL) || setresgid(conf->gid, conf->gid, conf->gid) ||
	    setresuid(conf->uid, conf->uid, conf->uid))
		return weft_fail(reterr, NULL, errno, "cannot become uid %u gid %u: %s", conf->uid,
				 conf->gid, strerror(errno));
	if (!setuid(0) || !seteuid(0))
		return weft_fail(reterr, NULL, EPERM, "root could be had back after the switch");
	return 0;
}

/* Drops what is not to be kept; then looks. */
static int caps_drop(const struct weft_seal_conf *conf, struct weft_err *reterr)
{
	const struct {
		bool want;
		unsigned cap;
	} keep[] = {{conf->low_ports, CAP_NET_BIND_SERVICE}, {conf->net_admin, CAP_NET_ADMIN}};
	unsigned kept = 0, cap;
	size_t i;

	if (capng_get_caps_process())
		return weft_fail(reterr, NULL, EPERM, "cannot read this process's capabilities");
	for (i = 0; i < sizeof(keep) / sizeof(keep[0]); i++)
		if (keep[i].want && capng_have_capability(CAPNG_PERMITTED, keep[i].cap))
			kept |= 1U << keep[i].cap;
	capng_clear(CAPNG_SELECT_CAPS | CAPNG_SELECT_AMBIENT);
	for (i = 0; i < sizeof(keep) / sizeof(keep[0]); i++)
		if (kept & 1U << keep[i].cap)
			capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, keep[i].cap);
	if (capng_apply(CAPNG_SELECT_CAPS | CAPNG_SELECT_AMBIENT))
		return weft_fail(reterr, NULL, EPERM, "cannot drop capabilities");
	if (capng_get_caps_process())
		return weft_fail(reterr, NULL, EPERM, "cannot read this process's capabilities");
	for (cap = 0; cap <= CAP_LAST_CAP; cap++)
		if ((cap >= 32 || !(kept & 1U << cap)) &&
		    (capng_have_capability(CAPNG_PERMITTED, cap) ||
		     capng_have_capability(CAPNG_EFFECTIVE, cap) ||
		     capng_have_capability(CAPNG_INHERITABLE, cap)))
			return weft_fail(reterr, NULL, EPERM,
					 "capabilities are left after dropping all");
	return 0;
}

int weft_seal(const struct weft_seal_conf *conf, struct weft_err *reterr)
{
	const struct rlimit no_core = {0, 0};
	int err;

	if (capng_get_caps_process())
		return weft_fail(reterr, NULL, EPERM, "cannot read this process's capabilities");
	if ((!geteuid() || !getuid()) && !conf->keep_root) {
		err = user_switch(conf, reterr);
		if (err)
			return err;
	}
	/* after the switch: setuid(2) changes the dumpable flag */
	if (setrlimit(RLIMIT_CORE, &no_core) || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return weft_fail(reterr, NULL, errno, "cannot seal the process: %s",
				 strerror(errno));
	err = caps_drop(conf, reterr);
	if (err || conf->no_seccomp)
		return err;
	return filter_load(conf->files, reterr);
}
