#include "agent/source_file.h"
#include "agent/source_int.h"
#include "proxy/core/arena.h"
#include "proxy/core/worker.h"
#include <dirent.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

enum {
	DEBOUNCE_MS = 60,
	DEBOUNCE_MOST_MS = 1000, /* a folder that never rests is read all the same */
	SETTLE_MS = 1000,	 /* a folder that came back may be filled file by file */
	RESCAN_MS = 3000,
	RACY_NS =
		1000000000 /* a file changed within the clock's grain of our read looks unchanged */
};

static void schedule(struct weft_source_file *s, unsigned ms)
{
	struct timeval tv = {ms / 1000, (suseconds_t)(ms % 1000) * 1000};

	evtimer_add(s->debounce, &tv);
}

/* ---- reading the folder */
static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
	       a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static int64_t wall_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static bool is_racy(const struct source_entry *e)
{
	int64_t changed = e->st.st_mtim.tv_sec * 1000000000LL + e->st.st_mtim.tv_nsec;

	return (int64_t)e->read_ns - changed < RACY_NS;
}

/* Reads a file if it is not the one known. Returns false when it went away meanwhile. */
static bool look(struct weft_source_file *s, int dirfd, struct source_entry *e)
{
	struct weft_file *f;
	struct stat st;

	if (e->busy && weft_now_ns() - e->busy_ns < SOURCE_BUSY_MS * 1000000ull) {
		schedule(s, DEBOUNCE_MOST_MS); /* the writer may take its time, not for ever */
		return true;
	}
	e->busy = false;
	if (fstatat(dirfd, e->name, &st, 0) < 0) {
		if (errno == ENOENT && fstatat(dirfd, e->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return false;
		memset(&st, 0, sizeof(st)); /* a dangling link or no right: reading tells it */
	}
	if (e->newest && !e->dirty && same_file(&st, &e->st) && !is_racy(e))
		return true;
	e->dirty = false;
	e->st = st;
	e->read_ns = (uint64_t)wall_ns();
	f = weft_file_read(dirfd, e->name, e->name);
	if (e->newest && f->hash[0] && !memcmp(f->hash, e->newest->hash, sizeof(f->hash))) {
		weft_file_unref(f); /* touched, or read again to be sure */
		return true;
	}
	weft_file_unref(e->newest);
	e->newest = f;
	s->stirred = true;
	if (f->n_errors)
		source_keep_load(s, e);
	return true;
}

static bool list(struct weft_source_file *s, DIR *d)
{
	struct dirent *de;
	size_t n = 0;

	for (size_t i = 0; i < s->n; i++)
		s->v[i]->seen = false;
	while ((errno = 0, de = readdir(d))) {
		if (!weft_config_name(de->d_name))
			continue;
		if (++n > SOURCE_FILES_MAX) {
			if (!s->many_told)
				source_tell(
					s, WEFT_LOG_ERROR,
					"%s: has more than %d files, its last configuration stays",
					s->dir, SOURCE_FILES_MAX);
			s->many_told = true;
			return false;
		}
		source_entry_get(s, de->d_name)->seen = true;
	}
	s->many_told = false;
	if (errno)
		source_tell(s, WEFT_LOG_ERROR, "%s: cannot be listed: %s", s->dir, strerror(errno));
	return errno == 0;
}

static void forget_unseen(struct weft_source_file *s)
{
	size_t kept = 0;

	for (size_t i = 0; i < s->n; i++) {
		struct source_entry *e = s->v[i];

		if (e->seen) {
			s->v[kept++] = e;
			continue;
		}
		source_keep_drop(s, e);
		source_entry_free(e);
		s->stirred = true;
	}
	s->n = kept;
}

static void folder_gone(struct weft_source_file *s, int code)
{
	if (!s->gone)
		source_tell(s, WEFT_LOG_ERROR,
			    "%s: the folder is gone (%s); the last good configuration stays",
			    s->dir, strerror(code));
	s->gone = true;
}

/* The watch follows the folder's inode; the path may lead to another one by now. */
static void watch(struct weft_source_file *s, int dirfd)
{
	const uint32_t mask = IN_CLOSE_WRITE | IN_MODIFY | IN_CREATE | IN_DELETE | IN_MOVED_FROM |
			      IN_MOVED_TO | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;
	char path[64];
	struct stat st;

	if (s->inotify_fd < 0 || fstat(dirfd, &st) < 0)
		return;
	if (s->watch >= 0 && st.st_dev == s->watch_dev && st.st_ino == s->watch_ino)
		return;
	if (s->watch >= 0)
		inotify_rm_watch(s->inotify_fd, s->watch);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", dirfd);
	s->watch = inotify_add_watch(s->inotify_fd, path, mask);
	s->watch_dev = st.st_dev;
	s->watch_ino = st.st_ino;
	if (s->watch < 0 && !s->watch_told) {
		s->watch_told = true;
		source_tell(s, WEFT_LOG_WARN, "%s: cannot be watched (%s), is read every %u ms",
			    s->dir, strerror(errno), s->conf.rescan_ms);
	}
}

static int reload(struct weft_source_file *s)
{
	int fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	int code = errno;

	s->first_event_ns = 0;
	if (!d) {
		if (fd >= 0)
			close(fd);
		folder_gone(s, code);
		return -code;
	}
	if (s->gone) {
		s->gone = false;
		s->settling = true;
		source_tell(s, WEFT_LOG_INFO, "%s: the folder is back", s->dir);
		watch(s, fd);
		schedule(s, SETTLE_MS);
		closedir(d);
		return 0;
	}
	s->settling = false;
	watch(s, fd);
	if (list(s, d)) {
		for (size_t i = 0; i < s->n; i++)
			if (s->v[i]->seen)
				s->v[i]->seen = look(s, fd, s->v[i]);
		forget_unseen(s);
		if (s->stirred || !s->set)
			source_decide(s);
		s->stirred = false;
	}
	closedir(d);
	return 0;
}

/* ---- events */
static void note_event(struct weft_source_file *s, const struct inotify_event *ev, int dirfd)
{
	const char *name = ev->len ? ev->name : "";
	struct source_entry *e;
	struct stat st;

	if (ev->wd != s->watch)
		return;
	if (ev->mask & IN_IGNORED)
		s->watch = -1;
	if (!weft_config_name(name))
		return;
	e = source_entry_get(s, name);
	e->dirty = true;
	if (ev->mask & (IN_CLOSE_WRITE | IN_MOVED_TO | IN_DELETE | IN_MOVED_FROM)) {
		e->busy = false;
	} else if (ev->mask & (IN_MODIFY | IN_CREATE) && !e->busy) {
		/* links appear whole: nobody has them open */
		if (ev->mask & IN_CREATE && (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
					     !S_ISREG(st.st_mode) || st.st_nlink > 1))
			return;
		e->busy = true;
		e->busy_ns = weft_now_ns();
	}
}

static void notified(evutil_socket_t fd, short what, void *arg)
{
	struct weft_source_file *s = arg;
	char buf[8192] __attribute__((aligned(__alignof__(struct inotify_event))));
	int dirfd = open(s->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	uint64_t now = weft_now_ns(), waited;
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		for (char *p = buf; p < buf + n;) {
			const struct inotify_event *ev = (const struct inotify_event *)p;

			note_event(s, ev, dirfd);
			p += sizeof(*ev) + ev->len;
		}
	}
	if (dirfd >= 0)
		close(dirfd);
	if (!s->first_event_ns)
		s->first_event_ns = now;
	waited = (now - s->first_event_ns) / 1000000;
	if (s->settling && waited < SOURCE_BUSY_MS)
		schedule(s, SETTLE_MS);
	else if (waited < DEBOUNCE_MOST_MS)
		schedule(s, s->conf.debounce_ms);
}

static void debounced(evutil_socket_t fd, short what, void *arg)
{
	reload(arg);
}

static void rescan(evutil_socket_t fd, short what, void *arg)
{
	struct weft_source_file *s = arg;

	if (!evtimer_pending(s->debounce, NULL))
		reload(s);
}

/* ---- opening and closing */
static int start_events(struct weft_source_file *s)
{
	struct timeval tv = {s->conf.rescan_ms / 1000,
			     (suseconds_t)(s->conf.rescan_ms % 1000) * 1000};

	s->inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	s->debounce = evtimer_new(s->base, debounced, s);
	s->rescan = event_new(s->base, -1, EV_PERSIST, rescan, s);
	if (!s->debounce || !s->rescan || event_add(s->rescan, &tv) < 0)
		return -ENOMEM;
	if (s->inotify_fd < 0) {
		s->watch_told = true;
		source_tell(s, WEFT_LOG_WARN, "%s: cannot be watched (%s), is read every %u ms",
			    s->dir, strerror(errno), s->conf.rescan_ms);
		return 0;
	}
	s->notify = event_new(s->base, s->inotify_fd, EV_READ | EV_PERSIST, notified, s);
	return s->notify && event_add(s->notify, NULL) == 0 ? 0 : -ENOMEM;
}

static int check_keep_dir(const struct weft_source_file *s, struct weft_err *reterr)
{
	if (!s->keep_dir || mkdir(s->keep_dir, 0700) == 0 || errno == EEXIST)
		return 0;
	return weft_fail(reterr, NULL, errno, "%s: cannot be made: %s", s->keep_dir,
			 strerror(errno));
}

int weft_source_file_open(struct event_base *base, const struct weft_source_file_conf *conf,
			  struct weft_source_file **ret, struct weft_err *reterr)
{
	struct weft_source_file *s = weft_xcalloc(1, sizeof(*s));
	DIR *d = opendir(conf->dir);
	int r;

	*ret = NULL;
	s->conf = *conf;
	s->conf.debounce_ms = conf->debounce_ms ? conf->debounce_ms : DEBOUNCE_MS;
	s->conf.rescan_ms = conf->rescan_ms ? conf->rescan_ms : RESCAN_MS;
	s->base = base;
	s->watch = s->inotify_fd = -1;
	s->dir = weft_xstrdup(conf->dir);
	s->keep_dir = conf->keep_dir ? weft_xstrdup(conf->keep_dir) : NULL;
	if (!d) {
		r = weft_fail(reterr, NULL, errno, "%s: the folder cannot be read: %s", conf->dir,
			      strerror(errno));
		weft_source_file_close(s);
		return r;
	}
	closedir(d);
	r = check_keep_dir(s, reterr);
	if (r == 0) {
		r = start_events(s);
		if (r < 0)
			weft_fail(reterr, NULL, -r, "%s: no events: %s", conf->dir, strerror(-r));
	}
	if (r < 0) {
		weft_source_file_close(s);
		return r;
	}
	*ret = s;
	(void)reload(s);
	if (!s->set)
		source_decide(s); /* the folder went away this instant: an empty set, told */
	else
		source_keep_sweep(s);
	return 0;
}

void weft_source_file_close(struct weft_source_file *s)
{
	if (!s)
		return;
	if (s->notify)
		event_free(s->notify);
	if (s->debounce)
		event_free(s->debounce);
	if (s->rescan)
		event_free(s->rescan);
	if (s->inotify_fd >= 0)
		close(s->inotify_fd);
	for (size_t i = 0; i < s->n; i++)
		source_entry_free(s->v[i]);
	weft_objects_unref(s->set);
	free(s->v);
	free(s->dir);
	free(s->keep_dir);
	free(s);
}

struct weft_objects *weft_source_file_set(const struct weft_source_file *s)
{
	return s->set;
}

void weft_source_file_rescan(struct weft_source_file *s)
{
	for (size_t i = 0; i < s->n; i++)
		s->v[i]->busy = false;
	reload(s);
}

static int errors_of(const struct source_entry *e)
{
	return (e->newest ? e->newest->n_errors : 0) + e->n_found;
}

void weft_source_file_each_bad(const struct weft_source_file *s,
			       void (*fn)(void *ctx, const char *name, int n_errors,
					  const char *text),
			       void *ctx)
{
	char text[600];

	for (size_t i = 0; i < s->n; i++) {
		const struct source_entry *e = s->v[i];
		const struct weft_errs *v =
			e->newest && e->newest->errs ? e->newest->errs : e->found;

		if (errors_of(e) && v)
			fn(ctx, e->name, errors_of(e), weft_err_text(&v->v[0], text, sizeof(text)));
	}
}

void weft_source_file_stat(const struct weft_source_file *s, struct weft_source_file_stat *ret)
{
	*ret = (struct weft_source_file_stat){.files = s->n,
					      .objects = s->set ? s->set->n : 0,
					      .reloads = s->reloads,
					      .folder_gone = s->gone};
	for (size_t i = 0; i < s->n; i++)
		ret->bad_files += errors_of(s->v[i]) > 0;
}
