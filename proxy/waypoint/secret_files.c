#include "proxy/waypoint/secret_files.h"

#include "xds/folders.h"
#include "xds/tls_conf.h"
#include "xds/wire.h"
#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

typedef Envoy__Extensions__TransportSockets__Tls__V3__Secret secret_msg;
typedef Envoy__Config__Core__V3__DataSource source_msg;
typedef Envoy__Config__Core__V3__WatchedDirectory folder_msg;

enum {
	SETTLE_MS = 20,	 /* from a move to the read: certificate and key may come one by one */
	FOLDERS_MAX = 16 /* of one secret */
};

struct secret_files {
	uint8_t *raw; /* the secret with the names of its files */
	size_t n_raw;
	struct weft_folder_watch *watch[FOLDERS_MAX];
	unsigned n;
	struct event *ev;
	void (*moved)(void *owner);
	void *owner;
};

/* ---- every message of one kind within another, however deep */
struct visit {
	const ProtobufCMessageDescriptor *d;
	int (*fn)(void *ctx, const struct weft_path *at, ProtobufCMessage *m);
	void *ctx;
};

static int visit(const struct visit *v, const struct weft_path *at, ProtobufCMessage *m)
{
	int err = 0;

	if (m->descriptor == v->d)
		return v->fn(v->ctx, at, m);
	for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
		const bool many = f->label == PROTOBUF_C_LABEL_REPEATED;
		char *p = (char *)m + f->offset;
		const void *q = (const char *)m + f->quantifier_offset;
		size_t n;

		if (f->type != PROTOBUF_C_TYPE_MESSAGE ||
		    (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF && *(const uint32_t *)q != f->id))
			continue;
		n = many ? *(const size_t *)q : 1;
		for (size_t k = 0; k < n; k++) {
			ProtobufCMessage *sub =
				many ? (*(ProtobufCMessage ***)p)[k] : *(ProtobufCMessage **)p;
			const struct weft_path sp = {at, f->name, many ? (int)k : -1};

			if (sub && visit(v, &sp, sub))
				err = -EINVAL;
		}
	}
	return err;
}

/* ---- reading */
static int read_one(void *ctx, const struct weft_path *at, ProtobufCMessage *m)
{
	source_msg *d = (source_msg *)m;
	const char *text;
	size_t n;

	if (d->specifier_case != ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_FILENAME &&
	    d->specifier_case !=
		    ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_ENVIRONMENT_VARIABLE)
		return 0;
	text = weft_data_source(ctx, at, d, at->field, &n);
	if (!text)
		return -EINVAL;
	d->specifier_case = ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_INLINE_BYTES;
	d->inline_bytes = (ProtobufCBinaryData){n, (uint8_t *)text};
	return 0;
}

int secret_files_read(struct weft_cfg *c, secret_msg *m)
{
	const struct visit v = {&envoy__config__core__v3__data_source__descriptor, read_one, c};

	return visit(&v, NULL, &m->base);
}

/* ---- watching */
struct finding {
	struct secret_files *f;
	struct weft_folders *folders;
	struct weft_cfg *c;
	bool files; /* some are named */
};

static void on_settled(evutil_socket_t fd, short what, void *arg)
{
	struct secret_files *f = arg;

	f->moved(f->owner);
}

static void on_moved(void *owner)
{
	const struct timeval tv = {0, SETTLE_MS * 1000};
	struct secret_files *f = owner;

	if (!event_pending(f->ev, EV_TIMEOUT, NULL))
		event_add(f->ev, &tv);
}

static int watch(struct finding *w, const struct weft_path *at, const char *folder)
{
	struct secret_files *f = w->f;

	if (f->n == FOLDERS_MAX)
		return weft_cfg_fail(w->c, at, "files must be in at most %d folders", FOLDERS_MAX);
	f->watch[f->n] = weft_folder_watch(w->folders, folder, on_moved, f);
	if (!f->watch[f->n])
		return weft_cfg_fail(w->c, at, "\"%s\" cannot be watched: %s", folder,
				     strerror(errno));
	f->n++;
	return 0;
}

static int watch_folder(void *ctx, const struct weft_path *at, ProtobufCMessage *m)
{
	const struct weft_path pp = {at, "path", -1};

	return watch(ctx, &pp, ((const folder_msg *)m)->path);
}

static int find_file(void *ctx, const struct weft_path *at, ProtobufCMessage *m)
{
	const source_msg *d = (const source_msg *)m;
	struct finding *w = ctx;

	w->files |= d->specifier_case == ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_FILENAME;
	return 0;
}

/* The folder of a file, where no watched_directory stands for all of them. */
static int watch_parent(void *ctx, const struct weft_path *at, ProtobufCMessage *m)
{
	const source_msg *d = (const source_msg *)m;
	const struct weft_path fp = {at, "filename", -1};
	struct finding *w = ctx;
	const char *slash;
	char *folder;
	int err;

	if (d->specifier_case != ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_FILENAME)
		return 0;
	slash = strrchr(d->filename, '/');
	folder = !slash			? weft_xstrdup(".")
		 : slash == d->filename ? weft_xstrdup("/")
					: strndup(d->filename, (size_t)(slash - d->filename));
	if (!folder)
		abort();
	err = watch(w, &fp, folder);
	free(folder);
	return err;
}

static int watch_all(struct finding *w, ProtobufCMessage *m)
{
	const struct visit folders = {&envoy__config__core__v3__watched_directory__descriptor,
				      watch_folder, w},
			   parents = {&envoy__config__core__v3__data_source__descriptor,
				      watch_parent, w};
	int err = visit(&folders, NULL, m);

	return err || w->f->n ? err : visit(&parents, NULL, m);
}

int secret_files_new(struct weft_folders *folders, struct event_base *base, struct weft_cfg *c,
		     const secret_msg *m, void (*moved)(void *owner), void *owner,
		     struct secret_files **ret)
{
	struct finding w = {.folders = folders, .c = c};
	const struct visit files = {&envoy__config__core__v3__data_source__descriptor, find_file,
				    &w};
	struct secret_files *f;
	int err;

	*ret = NULL;
	visit(&files, NULL, (ProtobufCMessage *)m);
	if (!w.files)
		return 0;
	f = w.f = weft_xcalloc(1, sizeof(*f));
	f->moved = moved;
	f->owner = owner;
	f->n_raw = protobuf_c_message_get_packed_size(&m->base);
	f->raw = weft_xcalloc(1, f->n_raw + 1);
	protobuf_c_message_pack(&m->base, f->raw);
	f->ev = event_new(base, -1, 0, on_settled, f);
	if (!f->ev)
		abort();
	err = watch_all(&w, (ProtobufCMessage *)m);
	if (err)
		secret_files_free(f);
	else
		*ret = f;
	return err;
}

void secret_files_free(struct secret_files *f)
{
	if (!f)
		return;
	for (unsigned i = 0; i < f->n; i++)
		weft_folder_unwatch(f->watch[i]);
	event_free(f->ev);
	explicit_bzero(f->raw, f->n_raw); /* it may hold a password */
	free(f->raw);
	free(f);
}

secret_msg *secret_files_names(const struct secret_files *f, struct weft_arena *a)
{
	ProtobufCAllocator al = weft_wire_allocator(a);
	uint8_t *copy = weft_arena_alloc(a, f->n_raw + 1);

	memcpy(copy, f->raw, f->n_raw);
	return (secret_msg *)protobuf_c_message_unpack(
		&envoy__extensions__transport_sockets__tls__v3__secret__descriptor, &al, f->n_raw,
		copy);
}
