/* Files that hold a DiscoveryResponse, and the folders they stand in, watched by inotify. A file is
 * fed through a stream that has no server: what it holds is judged and remembered in the same way.
 */
#include "proxy/core/arena.h"
#include "xds/source_priv.h"
#include "xds/yaml.h"
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	SETTLE_MS = 20, /* from an event to the read: changes come in bursts */
	EVENTS_BYTES = 16 << 10,
	DIR_EVENTS = IN_CREATE | IN_MOVED_TO | IN_CLOSE_WRITE | IN_DELETE | IN_ATTRIB,
	FILE_EVENTS = IN_CLOSE_WRITE | IN_ATTRIB,
	WATCHES = 3,
};

struct xinotify {
	struct weft_xds_sources *sources;
	struct event *ev;
	int fd;
};
struct xfile {
	struct xsource *source;
	char *path, *folder, *watched; /* watched may be NULL */
	int wd[WATCHES];	       /* of the folder, the watched folder, the file */
	struct event *ev_read;
	struct stat last; /* of what was read */
	bool again;	  /* even if it is the same file */
};

static void read_later(struct xfile *f)
{
	const struct timeval tv = {0, SETTLE_MS * 1000};

	if (!event_pending(f->ev_read, EV_TIMEOUT, NULL))
		event_add(f->ev_read, &tv);
}

/* ---- inotify */

/* Which file an event is of does not matter: each that watches there looks for itself. */
static void on_events(evutil_socket_t fd, short what, void *arg)
{
	_Alignas(struct inotify_event) char buf[EVENTS_BYTES];
	struct xinotify *in = arg;
	struct xsource *src;
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0)
		for (char *p = buf; p < buf + n;) {
			const struct inotify_event *e = (void *)p;

			TAILQ_FOREACH (src, &in->sources->sources, link)
				for (int i = 0; src->file && i < WATCHES; i++)
					if (src->file->wd[i] == e->wd || e->mask & IN_Q_OVERFLOW)
						read_later(src->file);
			p += sizeof(*e) + e->len;
		}
}

static struct xinotify *inotify_of(struct weft_xds_sources *s)
{
	struct xinotify *in = s->inotify;

	if (in)
		return in;
	in = s->inotify = weft_xcalloc(1, sizeof(*in));
	in->sources = s;
	in->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (in->fd < 0)
		return in;
	in->ev = event_new(s->base, in->fd, EV_READ | EV_PERSIST, on_events, in);
	if (!in->ev || event_add(in->ev, NULL))
		abort();
	return in;
}

void weft_xds_inotify_free(struct xinotify *in)
{
	if (!in)
		return;
	if (in->ev)
		event_free(in->ev);
	if (in->fd >= 0)
		close(in->fd);
	free(in);
}

/* A replaced file or folder is another one: watched anew each time. The same one gives the same
 * number. */
static void watch(struct xfile *f)
{
	struct xinotify *in = inotify_of(f->source->sources);

	f->wd[0] = inotify_add_watch(in->fd, f->folder, DIR_EVENTS);
	f->wd[1] = f->watched ? inotify_add_watch(in->fd, f->watched, DIR_EVENTS) : -1;
	f->wd[2] = inotify_add_watch(in->fd, f->path, FILE_EVENTS);
}

/* ---- reading */

static void tell_lost(struct xfile *f, const char *why)
{
	f->source->stream->conf.lost(f->source, why);
}

static char *slurp(const char *path, size_t *ret_n, struct weft_err *reterr)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), err = 0;
	size_t n = 0, cap = 16 << 10;
	char *text = NULL;
	ssize_t r = 1;

	if (fd < 0) {
		weft_fail(reterr, NULL, errno, "%s: %s", path, strerror(errno));
		return NULL;
	}
	while (r > 0 && !err) {
		text = weft_xrealloc(text, cap + 1);
		r = read(fd, text + n, cap - n);
		n += r > 0 ? (size_t)r : 0;
		if (r < 0)
			err = errno;
		else if (n > WEFT_YAML_BYTES_MAX)
			err = EFBIG;
		if (n == cap)
			cap *= 2;
	}
	close(fd);
	if (err) {
		weft_fail(reterr, NULL, err, "%s: %s", path, strerror(err));
		free(text);
		return NULL;
	}
	text[n] = '\0';
	*ret_n = n;
	return text;
}

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *api_version, const char *kind,
					      bool *ret_lenient, struct weft_err *reterr)
{
	return &envoy__service__discovery__v3__discovery_response__descriptor;
}

/* Each type that is watched in it: mostly one. */
static void feed(struct xfile *f, const struct weft_yaml_doc *doc)
{
	Envoy__Service__Discovery__V3__DiscoveryResponse *m = (void *)doc->msg;
	struct weft_xds_stream *s = f->source->stream;
	struct xtype *t;

	TAILQ_FOREACH (t, &s->types, link) {
		uint8_t *p;
		size_t n;

		if (m->type_url && m->type_url[0] && strcmp(m->type_url, t->type->url)) {
			tell_lost(f, "type_url is not that of what is watched here");
			continue;
		}
		m->type_url = (char *)t->type->url;
		t->asked = true;
		n = protobuf_c_message_get_packed_size(&m->base);
		p = weft_xcalloc(1, n + 1);
		protobuf_c_message_pack(&m->base, p);
		s->doc = doc;
		if (weft_xds_stream_response(s, p, n))
			tell_lost(f, "the bytes are not a DiscoveryResponse");
		s->doc = NULL;
		free(p);
	}
}

static void read_text(struct xfile *f, const char *text, size_t n)
{
	struct weft_arena *a = weft_arena_new(64 << 10);
	struct weft_errs *errs = weft_xcalloc(1, sizeof(*errs));
	struct weft_yaml_doc *docs = NULL;
	size_t n_docs = 0;
	char line[600];
	int i, bad = weft_yaml_decode(a, f->path, text, n, pick, NULL, &docs, &n_docs, errs);

	for (i = 0; i < errs->n; i++)
		tell_lost(f, weft_err_text(&errs->v[i], line, sizeof(line)));
	if (bad)
		goto out;
	if (n_docs != 1)
		tell_lost(f, "must hold one DiscoveryResponse");
	else
		feed(f, &docs[0]);
out:
	free(errs);
	weft_arena_free(a);
}

static void read_bytes(struct xfile *f, const char *text, size_t n)
{
	struct weft_xds_stream *s = f->source->stream;
	struct xtype *t;

	TAILQ_FOREACH (t, &s->types, link)
		t->asked = true;
	if (weft_xds_stream_response(s, (const uint8_t *)text, n))
		tell_lost(f, "the bytes are not a DiscoveryResponse");
}

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static void on_read(evutil_socket_t fd, short what, void *arg)
{
	struct xfile *f = arg;
	struct weft_err err = {0};
	struct stat st = {0};
	size_t n, len = strlen(f->path);
	char *text, line[600];

	watch(f); /* first: what changes from now on is told */
	if (!stat(f->path, &st) && same_file(&st, &f->last) && !f->again)
		return;
	text = slurp(f->path, &n, &err);
	f->again = false;
	f->last = text ? st : (struct stat){0};
	if (!text)
		tell_lost(f, weft_err_text(&err, line, sizeof(line)));
	else if (len > 3 && !strcmp(f->path + len - 3, ".pb"))
		read_bytes(f, text, n);
	else
		read_text(f, text, n);
	free(text);
}

/* ---- a file */

void weft_xds_file_read_soon(struct xfile *f)
{
	const struct timeval now = {0, 0};

	f->again = true;
	event_add(f->ev_read, &now);
}

int weft_xds_file_open(struct xsource *src, const char *path, const char *watched_dir,
		       struct weft_err *reterr)
{
	const char *slash = strrchr(path, '/');
	struct xfile *f;
	struct stat st;

	if (stat(path, &st))
		return weft_fail(reterr, NULL, errno, "path: \"%s\": %s", path, strerror(errno));
	f = src->file = weft_xcalloc(1, sizeof(*f));
	f->source = src;
	f->path = weft_xstrdup(path);
	f->folder = slash && slash != path ? strndup(path, (size_t)(slash - path))
					   : weft_xstrdup(slash ? "/" : ".");
	f->watched = watched_dir ? weft_xstrdup(watched_dir) : NULL;
	f->ev_read = event_new(src->sources->base, -1, 0, on_read, f);
	if (!f->ev_read || !f->folder)
		abort();
	if (inotify_of(src->sources)->fd < 0)
		return weft_fail(reterr, NULL, EMFILE, "path: \"%s\": no inotify", path);
	return 0;
}

void weft_xds_file_close(struct xfile *f)
{
	if (!f)
		return;
	event_free(f->ev_read);
	free(f->path);
	free(f->folder);
	free(f->watched);
	free(f);
}
