#include "agent/exempt.h"
#include "proxy/core/arena.h"
#include "proxy/core/log.h"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { RMDIR_TRIES = 20, RMDIR_WAIT_MS = 250 };
struct group {
	struct weft_exempt *x;
	char *path; /* the cgroup's folder */
	uint64_t id;
	pid_t pid;
	int pidfd, tries;
	bool made; /* ours: removed at the end */
	struct event *ev;
	struct group *next;
};
struct weft_exempt {
	struct event_base *base;
	struct weft_bpf *bpf;
	char *cgroup2, *instance, *dir; /* dir: "<cgroup2>/weft/<instance>" */
	bool move;
	struct group *groups;
};

static int cgroup_id(const char *path, uint64_t *ret)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return -errno;
	*ret = st.st_ino; /* the cgroup's id, on 64-bit kernels */
	return 0;
}

/* The process's place in cgroup v2, relative to the mount. */
static int cgroup_of(pid_t pid, char *dst, size_t cap, struct weft_err *reterr)
{
	char path[64], line[PATH_MAX + 64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
	f = fopen(path, "re");
	if (!f)
		return weft_fail(reterr, NULL, errno, "%s: %s", path, strerror(errno));
	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, "0::", 3))
			continue;
		fclose(f);
		line[strcspn(line, "\n")] = 0;
		if (strlen(line + 3) >= cap || strstr(line, "/..") || line[3] != '/')
			return weft_fail(reterr, NULL, EINVAL,
					 "cgroup %s of pid %d is outside of what the agent sees",
					 line + 3, pid);
		strcpy(dst, line + 3);
		return 0;
	}
	fclose(f);
	return weft_fail(reterr, NULL, ENOENT, "pid %d has no cgroup v2 place", pid);
}

/* The first pid in a cgroup, 0 when there is none; *ret_n counts them. */
static int cgroup_procs(const char *path, pid_t *ret_first, unsigned *ret_n)
{
	char file[PATH_MAX], line[32];
	FILE *f;

	*ret_first = 0;
	*ret_n = 0;
	if (snprintf(file, sizeof(file), "%s/cgroup.procs", path) >= (int)sizeof(file))
		return -ENAMETOOLONG;
	f = fopen(file, "re");
	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		if (!(*ret_n)++)
			*ret_first = (pid_t)strtol(line, NULL, 10);
	}
	fclose(f);
	return 0;
}

static void group_free(struct group *g)
{
	if (g->ev)
		event_free(g->ev);
	if (g->pidfd >= 0)
		close(g->pidfd);
	free(g->path);
	free(g);
}

static void group_end(struct group *g)
{
	struct group **at = &g->x->groups;

	while (*at != g)
		at = &(*at)->next;
	*at = g->next;
	group_free(g);
}

/* The process is gone. Its threads may leave the cgroup a moment later, so removing it is tried
 * again. */
static void process_gone(evutil_socket_t fd, short what, void *arg)
{
	const struct timeval tv = {.tv_usec = RMDIR_WAIT_MS * 1000};
	struct group *g = arg;
	struct weft_err e;

	(void)fd;
	(void)what;
	if (!g->tries && weft_bpf_exempt_set(g->x->bpf, g->id, false, &e) < 0)
		weft_log_err(WEFT_LOG_WARN, &e, "exemption of an ended proxy");
	if (g->made && rmdir(g->path) < 0 && errno == EBUSY && ++g->tries < RMDIR_TRIES) {
		event_free(g->ev);
		g->ev = event_new(g->x->base, -1, 0, process_gone, g);
		event_add(g->ev, &tv);
		return;
	}
	group_end(g);
}

static void group_watch(struct weft_exempt *x, const char *path, uint64_t id, pid_t pid, int pidfd,
			bool made)
{
	struct group *g = weft_xcalloc(1, sizeof(*g));

	g->x = x;
	g->path = weft_xstrdup(path);
	g->id = id;
	g->pid = pid;
	g->pidfd = pidfd;
	g->made = made;
	g->next = x->groups;
	x->groups = g;
	g->ev = event_new(x->base, pidfd, EV_READ, process_gone, g);
	event_add(g->ev, NULL);
}

static struct group *group_find(struct weft_exempt *x, pid_t pid)
{
	struct group *g = x->groups;

	while (g && (g->pid != pid || g->tries))
		g = g->next;
	return g;
}

static int group_make(struct weft_exempt *x, pid_t pid, char *dst, size_t cap,
		      struct weft_err *reterr)
{
	char file[PATH_MAX], text[16];
	int fd, n;
	ssize_t w;

	if (snprintf(dst, cap, "%s/proxy-%d", x->dir, pid) >= (int)cap ||
	    snprintf(file, sizeof(file), "%s/cgroup.procs", dst) >= (int)sizeof(file))
		return weft_fail(reterr, NULL, ENAMETOOLONG, "%s: too long", x->dir);
	if (mkdir(dst, 0755) < 0 && errno != EEXIST)
		return weft_fail(reterr, NULL, errno, "%s: %s", dst, strerror(errno));
	fd = open(file, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return weft_fail(reterr, NULL, errno, "%s: %s", file, strerror(errno));
	n = snprintf(text, sizeof(text), "%d\n", pid);
	w = write(fd, text, (size_t)n);
	if (w != n)
		weft_fail(reterr, NULL, errno, "pid %d cannot be moved to %s: %s", pid, dst,
			  strerror(errno));
	close(fd);
	if (w != n) {
		rmdir(dst);
		return -ESRCH;
	}
	return 0;
}

/* A number may be another process's by the time it was used; the descriptor cannot. */
static int still_there(pid_t pid, int pidfd, struct weft_err *reterr)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	if (poll(&p, 1, 0) == 0)
		return 0;
	return weft_fail(reterr, NULL, ESRCH, "the proxy (pid %d) ended meanwhile", pid);
}

/* The process's own cgroup serves when nobody else is in it. */
static int group_own(struct weft_exempt *x, pid_t pid, const char *rel, char *dst, size_t cap,
		     struct weft_err *reterr)
{
	unsigned n;
	pid_t first;
	int r;

	if (!strcmp(rel, "/"))
		return weft_fail(
			reterr, NULL, EINVAL,
			"the proxy (pid %d) runs in the root cgroup: it needs one of its own", pid);
	if (snprintf(dst, cap, "%s%s", x->cgroup2, rel) >= (int)cap)
		return weft_fail(reterr, NULL, ENAMETOOLONG, "cgroup %s: too long", rel);
	r = cgroup_procs(dst, &first, &n);
	if (r < 0)
		return weft_fail(reterr, NULL, -r, "%s: %s", dst, strerror(-r));
	if (n != 1 || first != pid)
		return weft_fail(
			reterr, NULL, EINVAL,
			"cgroup %s holds %u processes: the proxy (pid %d) needs one of its own",
			rel, n, pid);
	return 0;
}

int weft_exempt_process(struct weft_exempt *x, pid_t pid, int pidfd, struct weft_err *reterr)
{
	char rel[PATH_MAX], path[PATH_MAX], prefix[256];
	struct group *known = group_find(x, pid);
	bool made = false;
	uint64_t id = 0;
	int r;

	if (known) { /* the same process again: its exemption never ended; set anew all the same */
		r = still_there(pid, known->pidfd, reterr);
		close(pidfd);
		return r < 0 ? r : weft_bpf_exempt_set(x->bpf, known->id, true, reterr);
	}
	snprintf(prefix, sizeof(prefix), "/weft/%s/proxy-", x->instance);
	r = cgroup_of(pid, rel, sizeof(rel), reterr);
	if (r >= 0 && x->move && !strncmp(rel, prefix, strlen(prefix))) {
		made = true;
		r = group_own(x, pid, rel, path, sizeof(path), reterr);
	} else if (r >= 0 && x->move) {
		made = true;
		r = group_make(x, pid, path, sizeof(path), reterr);
	} else if (r >= 0) {
		r = group_own(x, pid, rel, path, sizeof(path), reterr);
	}
	if (r >= 0) {
		r = cgroup_id(path, &id);
		if (r < 0)
			weft_fail(reterr, NULL, -r, "%s: %s", path, strerror(-r));
	}
	if (r >= 0)
		r = still_there(pid, pidfd, reterr);
	if (r >= 0)
		r = weft_bpf_exempt_set(x->bpf, id, true, reterr);
	if (r < 0) {
		if (made)
			rmdir(path); /* empty, unless the number is another's by now */
		close(pidfd);
		return r;
	}
	group_watch(x, path, id, pid, pidfd, made);
	return 0;
}

static void sweep(struct weft_exempt *x)
{
	DIR *d = opendir(x->dir);
	struct dirent *e;

	while (d && (e = readdir(d))) {
		char path[PATH_MAX];
		unsigned n;
		uint64_t id = 0;
		pid_t pid;
		int pidfd = -1;

		if (strncmp(e->d_name, "proxy-", 6) ||
		    snprintf(path, sizeof(path), "%s/%s", x->dir, e->d_name) >= (int)sizeof(path) ||
		    cgroup_id(path, &id) < 0 || cgroup_procs(path, &pid, &n) < 0)
			continue;
		if (n == 1)
			pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
		if (pidfd >= 0) {
			group_watch(x, path, id, pid, pidfd, true);
			continue;
		}
		weft_bpf_exempt_set(x->bpf, id, false, NULL);
		if (!n)
			rmdir(path);
	}
	if (d)
		closedir(d);
}

int weft_exempt_new(struct event_base *base, const struct weft_exempt_conf *conf,
		    struct weft_bpf *bpf, struct weft_exempt **ret, struct weft_err *reterr)
{
	char path[PATH_MAX - 32];
	struct weft_exempt *x;
	const char *c;

	for (c = conf->instance; *c; c++)
		if (!isalnum((unsigned char)*c) && *c != '-')
			break;
	if (*c || c == conf->instance || c - conf->instance > 63)
		return weft_fail(reterr, NULL, EINVAL,
				 "instance \"%s\": must be 1..63 letters, digits and -",
				 conf->instance);
	if (snprintf(path, sizeof(path), "%s/weft/%s", conf->cgroup2, conf->instance) >=
	    (int)sizeof(path))
		return weft_fail(reterr, NULL, ENAMETOOLONG, "cgroup %s: too long", conf->cgroup2);
	x = weft_xcalloc(1, sizeof(*x));
	x->base = base;
	x->bpf = bpf;
	x->move = conf->move;
	x->cgroup2 = weft_xstrdup(conf->cgroup2);
	x->instance = weft_xstrdup(conf->instance);
	x->dir = weft_xstrdup(path);
	if (x->move) {
		*strrchr(path, '/') = 0;
		if ((mkdir(path, 0755) < 0 && errno != EEXIST) ||
		    (mkdir(x->dir, 0755) < 0 && errno != EEXIST)) {
			weft_fail(reterr, NULL, errno, "%s: %s", x->dir, strerror(errno));
			weft_exempt_free(x);
			return reterr ? -reterr->code : -EIO;
		}
		sweep(x);
	}
	*ret = x;
	return 0;
}

unsigned weft_exempt_live(const struct weft_exempt *x)
{
	unsigned n = 0;
	const struct group *g;

	for (g = x->groups; g; g = g->next)
		n += !g->tries;
	return n;
}

void weft_exempt_free(struct weft_exempt *x)
{
	struct group *g;

	if (!x)
		return;
	while ((g = x->groups)) {
		x->groups = g->next;
		group_free(g);
	}
	free(x->cgroup2);
	free(x->instance);
	free(x->dir);
	free(x);
}
