#include "xds/folders.h"

#include "proxy/core/arena.h"
#include <errno.h>
#include <event2/event.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/queue.h>
#include <unistd.h>

enum { EVENTS_BYTES = 16 << 10 };

struct weft_folder_watch {
	TAILQ_ENTRY(weft_folder_watch) link;
	struct weft_folders *all;
	void (*moved)(void *owner);
	void *owner;
	int wd; /* several may watch one folder */
	bool hit;
};
struct weft_folders {
	TAILQ_HEAD(, weft_folder_watch) list;
	struct event *ev;
	int fd;
};

static void mark(struct weft_folders *f, const struct inotify_event *e)
{
	struct weft_folder_watch *w;

	TAILQ_FOREACH (w, &f->list, link)
		if (w->wd == e->wd || e->mask & IN_Q_OVERFLOW)
			w->hit = true;
}

static struct weft_folder_watch *next_hit(struct weft_folders *f)
{
	struct weft_folder_watch *w;

	TAILQ_FOREACH (w, &f->list, link)
		if (w->hit)
			return w;
	return NULL;
}

static void on_events(evutil_socket_t fd, short what, void *arg)
{
	_Alignas(struct inotify_event) char buf[EVENTS_BYTES];
	struct weft_folders *f = arg;
	struct weft_folder_watch *w;
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0)
		for (char *p = buf; p < buf + n;) {
			const struct inotify_event *e = (void *)p;

			if (e->mask & (IN_MOVED_TO | IN_Q_OVERFLOW))
				mark(f, e);
			p += sizeof(*e) + e->len;
		}
	while ((w = next_hit(f)) != NULL) { /* any may go in a call */
		w->hit = false;
		w->moved(w->owner);
	}
}

struct weft_folders *weft_folders_new(struct event_base *base)
{
	struct weft_folders *f = weft_xcalloc(1, sizeof(*f));

	TAILQ_INIT(&f->list);
	f->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (f->fd < 0)
		return f; /* told by each watch */
	f->ev = event_new(base, f->fd, EV_READ | EV_PERSIST, on_events, f);
	if (!f->ev || event_add(f->ev, NULL))
		abort(); /* memory is out */
	return f;
}

void weft_folders_free(struct weft_folders *f)
{
	if (!f)
		return;
	if (f->ev)
		event_free(f->ev);
	if (f->fd >= 0)
		close(f->fd);
	free(f);
}

struct weft_folder_watch *weft_folder_watch(struct weft_folders *f, const char *path,
					    void (*moved)(void *owner), void *owner)
{
	struct weft_folder_watch *w;
	int wd;

	if (f->fd < 0) {
		errno = EMFILE;
		return NULL;
	}
	wd = inotify_add_watch(f->fd, path, IN_MOVED_TO | IN_ONLYDIR);
	if (wd < 0)
		return NULL;
	w = weft_xcalloc(1, sizeof(*w));
	*w = (struct weft_folder_watch){.all = f, .moved = moved, .owner = owner, .wd = wd};
	TAILQ_INSERT_TAIL(&f->list, w, link);
	return w;
}

void weft_folder_unwatch(struct weft_folder_watch *w)
{
	const struct weft_folder_watch *o;

	if (!w)
		return;
	TAILQ_REMOVE(&w->all->list, w, link);
	TAILQ_FOREACH (o, &w->all->list, link)
		if (o->wd == w->wd)
			break;
	if (!o)
		inotify_rm_watch(w->all->fd, w->wd);
	free(w);
}
