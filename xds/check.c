#include "xds/check.h"
#include "xds/check_priv.h"
#include "xds/proto/gateway.pb-c.h"
#include "xds/yaml_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

static const struct kind_entry {
	struct weft_kind kind;
	void (*check)(struct check *c);
} kinds[WEFT_KIND_COUNT] = {
#define KIND(id_, group_, v1, v2, name_, desc_, lenient_, no_ns_, check_)                          \
	[id_] = {{.id = (id_),                                                                     \
		  .group = (group_),                                                               \
		  .versions = {v1, v2},                                                            \
		  .kind = #name_,                                                                  \
		  .desc = &weft__kube__##desc_##__descriptor,                                      \
		  .lenient = (lenient_),                                                           \
		  .no_ns = (no_ns_)},                                                              \
		 check_},
#include "xds/kinds.def"
#undef KIND
};

/* Kinds of the mesh's groups that this version does not act on, and what to do instead; kind "*":
 * any. */
static const struct {
	const char *group, *kind, *advice;
} refused[] = {
#define REFUSED(group_, kind_, advice_) {group_, kind_, advice_},
#include "xds/refused.def"
#undef REFUSED
};

const struct weft_kind *weft_kind_get(enum weft_kind_id id)
{
	return &kinds[id].kind;
}

static bool group_is(const char *api_version, const char *group)
{
	const char *slash = strchr(api_version, '/');
	size_t n = slash ? (size_t)(slash - api_version) : 0;

	return strlen(group) == n && !memcmp(api_version, group, n);
}

static bool version_is(const struct weft_kind *k, const char *api_version)
{
	const char *slash = strchr(api_version, '/');
	const char *version = slash ? slash + 1 : api_version;

	for (int i = 0; k->versions[i]; i++)
		if (!strcmp(k->versions[i], version))
			return true;
	return false;
}

static const struct kind_entry *kind_by_desc(const ProtobufCMessageDescriptor *d)
{
	for (int i = 0; i < WEFT_KIND_COUNT; i++)
		if (kinds[i].kind.desc == d)
			return &kinds[i];
	return NULL;
}

struct building {
	struct weft_file *f;
	struct weft_errs *notes;
	int skipped;
};

static void note_skipped(struct building *b, const char *api_version, const char *kind,
			 const struct weft_err *at)
{
	struct weft_err *n = weft_errs_next(b->notes);

	b->skipped++;
	weft_fail(n, NULL, ENOENT, "%.64s (%.64s) is not read and was skipped", kind, api_version);
	if (n)
		memcpy(n->where, at->where, sizeof(n->where));
}

/* A known kind's name with another group or version. */
static const ProtobufCMessageDescriptor *wrong_version(const struct weft_kind *k,
						       const char *api_version, struct weft_err *e)
{
	weft_fail(e, &(struct weft_path){NULL, "apiVersion", -1}, EINVAL,
		  "of %s must be %s%s%s, is %.64s", k->kind, k->group, *k->group ? "/" : "",
		  k->versions[0], api_version);
	return NULL;
}

/* Why kind is refused, or NULL; any: by an entry for the whole group. */
static const char *refusal(const char *api_version, const char *kind, bool any)
{
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
		if (group_is(api_version, refused[i].group) &&
		    !strcmp(refused[i].kind, any ? "*" : kind))
			return refused[i].advice;
	return NULL;
}

static const ProtobufCMessageDescriptor *pick_unknown(struct building *b, const char *api_version,
						      const char *kind, struct weft_err *e)
{
	const struct weft_path at = {NULL, "kind", -1};
	const char *names[WEFT_KIND_COUNT], *near, *advice = refusal(api_version, kind, false);
	size_t n = 0;

	for (int i = 0; i < WEFT_KIND_COUNT; i++)
		if (group_is(api_version, kinds[i].kind.group))
			names[n++] = kinds[i].kind.kind;
	near = advice ? NULL : weft_suggest(kind, names, n);
	if (!near && !advice)
		advice = refusal(api_version, kind, true);
	if (near)
		weft_fail(e, &at, EINVAL, "%.64s is not a kind of %.64s; did you mean %s?", kind,
			  api_version, near);
	else if (advice)
		weft_fail(e, &at, ENOTSUP, "%.64s (%.64s) is not supported: %s", kind, api_version,
			  advice);
	else
		note_skipped(b, api_version, kind, e);
	return NULL;
}

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *api_version, const char *kind,
					      bool *ret_lenient, struct weft_err *e)
{
	const struct weft_kind *near = NULL;

	if (!*api_version || !*kind) {
		weft_fail(e, NULL, EINVAL, "a document must have apiVersion and kind, %s missing",
			  *api_version ? "kind is"
			  : *kind      ? "apiVersion is"
				       : "both are");
		return NULL;
	}
	for (int i = 0; i < WEFT_KIND_COUNT; i++) {
		const struct weft_kind *k = &kinds[i].kind;

		if (strcmp(k->kind, kind) != 0)
			continue;
		if (group_is(api_version, k->group) && version_is(k, api_version)) {
			*ret_lenient = k->lenient;
			return k->desc;
		}
		near = k;
	}
	/* a Service of serving.knative.dev is not a Service written wrongly */
	if (near &&
	    (group_is(api_version, near->group) || !strchr(api_version, '/') || *near->group))
		return wrong_version(near, api_version, e);
	return pick_unknown(ctx, api_version, kind, e);
}

/* metadata and spec are made where absent, so that no user meets NULL. */
static void *fill(struct weft_arena *a, ProtobufCMessage *m, const char *field)
{
	const ProtobufCFieldDescriptor *f =
		protobuf_c_message_descriptor_get_field_by_name(m->descriptor, field);
	const ProtobufCMessageDescriptor *d;
	void **slot;

	if (!f)
		return NULL;
	slot = (void **)((char *)m + f->offset);
	if (!*slot) {
		d = f->descriptor;
		*slot = weft_arena_alloc(a, d->sizeof_message);
		protobuf_c_message_init(d, *slot);
	}
	return *slot;
}

static void make_object(struct weft_arena *a, const struct weft_yaml_doc *doc,
			struct weft_object *o)
{
	Weft__Kube__ObjectMeta *meta = fill(a, doc->msg, "metadata");

	fill(a, doc->msg, "spec");
	*o = (struct weft_object){.kind = &kind_by_desc(doc->type)->kind,
				  .msg = doc->msg,
				  .meta = meta,
				  .ns = meta->namespace_ ? meta->namespace_ : "",
				  .name = meta->name ? meta->name : "",
				  .file = doc->file,
				  .line = doc->line,
				  .end_line = doc->end_line,
				  .marks = doc->marks};
}

static struct weft_errs *keep(struct weft_arena *a, const struct weft_errs *e)
{
	return e->n ? weft_arena_memdup(a, e, sizeof(*e)) : NULL;
}

static struct weft_file *file_new(const char *name)
{
	struct weft_arena *a = weft_arena_new(0);
	struct weft_file *f = weft_arena_alloc(a, sizeof(*f));

	f->refs = 1;
	f->arena = a;
	f->name = weft_arena_strdup(a, name);
	return f;
}

struct weft_file *weft_file_parse(const char *name, const char *text, size_t n)
{
	struct weft_file *f = file_new(name);
	struct weft_errs *errs = weft_xcalloc(2, sizeof(*errs)), *notes = errs + 1;
	struct building b = {.f = f, .notes = notes};
	struct weft_yaml_doc *docs;
	struct weft_object *v;
	XXH128_hash_t h;
	size_t n_docs;

	f->n_errors = weft_yaml_decode(f->arena, name, text, n, pick, &b, &docs, &n_docs, errs);
	v = weft_arena_alloc(f->arena, (n_docs + 1) * sizeof(*v));
	for (size_t i = 0; i < n_docs; i++) {
		struct check c = {&v[i], errs, notes, &f->n_errors};

		make_object(f->arena, &docs[i], &v[i]);
		kinds[v[i].kind->id].check(&c);
	}
	h = XXH3_128bits(text, n);
	f->hash[0] = h.low64;
	f->hash[1] = h.high64;
	f->v = v;
	f->n = n_docs;
	f->errs = keep(f->arena, errs);
	f->notes = keep(f->arena, notes);
	free(errs);
	return f;
}

static struct weft_file *unreadable(const char *name, int code, const char *what)
{
	struct weft_file *f = file_new(name);

	f->errs = weft_arena_alloc(f->arena, sizeof(*f->errs));
	f->n_errors = 1;
	weft_fail(weft_errs_next(f->errs), NULL, code, "%s: %s", what, strerror(code));
	yaml_err_place(&f->errs->v[0], f->name, 0, 0);
	return f;
}

/* All of fd, which may shrink or grow while it is read. */
static char *read_all(int fd, size_t *ret_n)
{
	size_t n = 0, cap = 0;
	char *text = NULL;

	while (n <= WEFT_YAML_BYTES_MAX) {
		ssize_t r;

		if (n == cap) {
			cap = cap ? cap * 2 : 16384;
			text = weft_xrealloc(text, cap);
		}
		r = read(fd, text + n, cap - n);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0) {
			free(text);
			return NULL;
		}
		if (r == 0)
			break;
		n += (size_t)r;
	}
	*ret_n = n;
	return text;
}

struct weft_file *weft_file_read(int dirfd, const char *path, const char *name)
{
	int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct weft_file *f;
	struct stat st;
	char *text;
	size_t n;

	if (fd < 0)
		return unreadable(name, errno, "cannot be opened");
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return unreadable(name, EINVAL, "not a regular file");
	}
	text = read_all(fd, &n);
	if (text)
		f = weft_file_parse(name, text, n);
	else
		f = unreadable(name, errno, "cannot be read");
	free(text);
	close(fd);
	return f;
}

void weft_file_ref(struct weft_file *f)
{
	f->refs++;
}

void weft_file_unref(struct weft_file *f)
{
	if (f && --f->refs == 0)
		weft_arena_free(f->arena);
}

static const char *map_get(size_t n, ProtobufCMessage *const *v, const char *key)
{
	/* all map<string, string> entries have one layout */
	for (size_t i = 0; i < n; i++) {
		const Weft__Kube__ObjectMeta__LabelsEntry *e =
			(const Weft__Kube__ObjectMeta__LabelsEntry *)v[i];

		if (!strcmp(e->key, key))
			return e->value;
	}
	return NULL;
}

const char *weft_meta_label(const Weft__Kube__ObjectMeta *m, const char *key)
{
	return map_get(m->n_labels, (ProtobufCMessage *const *)m->labels, key);
}

const char *weft_meta_annotation(const Weft__Kube__ObjectMeta *m, const char *key)
{
	return map_get(m->n_annotations, (ProtobufCMessage *const *)m->annotations, key);
}
