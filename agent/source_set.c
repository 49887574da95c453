/* Which content of each file is used, and what is said about it. */
#include "agent/source_int.h"
#include "proxy/core/arena.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum { TEXT_MAX = 700 };

struct source_entry *source_entry_get(struct weft_source_file *s, const char *name)
{
	struct source_entry *e;
	size_t lo = 0, hi = s->n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		int c = strcmp(s->v[mid]->name, name);

		if (c == 0)
			return s->v[mid];
		if (c < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (s->n == s->cap) {
		s->cap = s->cap ? s->cap * 2 : 64;
		s->v = weft_xrealloc(s->v, s->cap * sizeof(struct source_entry *));
	}
	e = weft_xcalloc(1, sizeof(*e));
	e->name = weft_xstrdup(name);
	memmove(&s->v[lo + 1], &s->v[lo], (s->n - lo) * sizeof(struct source_entry *));
	s->v[lo] = e;
	s->n++;
	return e;
}

void source_entry_free(struct source_entry *e)
{
	weft_file_unref(e->newest);
	weft_file_unref(e->good);
	free(e->found);
	free(e->name);
	free(e);
}

void source_tell(struct weft_source_file *s, enum weft_log_level level, const char *fmt, ...)
{
	char text[TEXT_MAX];
	va_list ap;

	if (!s->conf.told)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	s->conf.told(s->conf.owner, level, text);
}

/* ---- choosing: files that were in use as they are come first, so that a newcomer never pushes
 * them out */
struct round {
	struct weft_source_file *s;
	struct source_entry **order;
	struct weft_file **files;
	struct weft_errs *notes; /* of each file in order */
	size_t n;
	bool again;
};

static void add_found(struct source_entry *e, const struct weft_err *err)
{
	struct weft_err *slot;

	if (!e->found)
		e->found = weft_xcalloc(1, sizeof(*e->found));
	slot = weft_errs_next(e->found);
	if (slot)
		*slot = *err;
	e->n_found++;
}

static void found(void *ctx, enum weft_finding what, size_t file, const struct weft_err *err)
{
	struct round *r = ctx;
	struct source_entry *e = r->order[file];
	struct weft_err *note;

	if (what != WEFT_FOUND_WARNING && e->choice != e->good) {
		add_found(e, err);
		r->again = true;
		return;
	}
	/* content already in use stays when what it refers to goes away */
	note = weft_errs_next(&r->notes[file]);
	if (note)
		*note = *err;
}

static void collect(struct round *r, bool in_use)
{
	for (size_t i = 0; i < r->s->n; i++) {
		struct source_entry *e = r->s->v[i];

		if (!e->choice || (e->choice == e->good) != in_use)
			continue;
		r->order[r->n] = e;
		r->files[r->n++] = e->choice;
	}
}

static void choose_round(struct round *r)
{
	r->n = 0;
	r->again = false;
	collect(r, true);
	collect(r, false);
	memset(r->notes, 0, (r->n + 1) * sizeof(*r->notes));
	weft_files_check(r->files, r->n, found, r);
	for (size_t i = 0; i < r->n; i++)
		if (r->order[i]->n_found)
			r->order[i]->choice = r->order[i]->good;
}

static void choose(struct round *r)
{
	for (size_t i = 0; i < r->s->n; i++) {
		struct source_entry *e = r->s->v[i];

		free(e->found);
		e->found = NULL;
		e->n_found = 0;
		e->choice = e->newest && !e->newest->n_errors ? e->newest : e->good;
	}
	/* each round but the last puts one file at least back to what it was: together those agree
	 */
	do
		choose_round(r);
	while (r->again);
}

/* ---- telling */
static uint64_t hash_errs(const struct weft_errs *v, uint64_t seed)
{
	char text[TEXT_MAX];

	for (int i = 0; v && i < v->n; i++) {
		weft_err_text(&v->v[i], text, sizeof(text));
		seed = XXH64(text, strlen(text), seed);
	}
	return seed;
}

static void tell_all(struct weft_source_file *s, enum weft_log_level level,
		     const struct weft_errs *v)
{
	char text[TEXT_MAX];

	for (int i = 0; v && i < v->n; i++)
		source_tell(s, level, "%s", weft_err_text(&v->v[i], text, sizeof(text)));
}

static int errors_of(const struct source_entry *e)
{
	return (e->newest ? e->newest->n_errors : 0) + e->n_found;
}

static void tell_errors(struct weft_source_file *s, struct source_entry *e)
{
	int n = errors_of(e);
	uint64_t h = n ? hash_errs(e->found, hash_errs(e->newest->errs, (uint64_t)n)) | 1 : 0;

	if (h == e->told_errors)
		return;
	e->told_errors = h;
	if (!n) {
		source_tell(s, WEFT_LOG_INFO, "%s: is right again and in use", e->name);
		return;
	}
	tell_all(s, WEFT_LOG_ERROR, e->newest->errs);
	tell_all(s, WEFT_LOG_ERROR, e->found);
	source_tell(s, WEFT_LOG_ERROR, "%s: %d error%s, %s", e->name, n, n == 1 ? "" : "s",
		    e->good ? "its last good configuration stays" : "none of it is used");
}

static void tell_notes(struct weft_source_file *s, struct source_entry *e,
		       const struct weft_errs *together)
{
	const struct weft_errs *own = e->newest ? e->newest->notes : NULL;
	uint64_t h = hash_errs(together, hash_errs(own, 0));

	if (h == e->told_notes)
		return;
	e->told_notes = h;
	tell_all(s, WEFT_LOG_WARN, own);
	tell_all(s, WEFT_LOG_WARN, together);
}

static void tell(struct round *r)
{
	for (size_t i = 0; i < r->s->n; i++)
		if (r->s->v[i]->newest)
			tell_errors(r->s, r->s->v[i]);
	for (size_t i = 0; i < r->n; i++)
		tell_notes(r->s, r->order[i], &r->notes[i]);
}

/* ---- taking over */
static bool same_set(const struct weft_source_file *s, struct weft_file *const *files, size_t n)
{
	return s->set && s->set->n_files == n &&
	       !memcmp(s->set->files, files, n * sizeof(struct weft_file *));
}

static void take_over(struct round *r)
{
	struct weft_source_file *s = r->s;
	struct weft_objects *old = s->set;
	size_t n = 0;

	for (size_t i = 0; i < s->n; i++) {
		struct source_entry *e = s->v[i];

		if (!e->choice)
			continue;
		r->files[n++] = e->choice;
		if (e->choice == e->good)
			continue;
		weft_file_ref(e->choice);
		weft_file_unref(e->good);
		e->good = e->choice;
		source_keep_store(s, e);
	}
	if (same_set(s, r->files, n))
		return;
	s->set = weft_objects_new(r->files, n);
	s->reloads++;
	s->conf.changed(s->conf.owner, s->set);
	weft_objects_unref(old);
}

void source_decide(struct weft_source_file *s)
{
	struct round r = {.s = s};

	r.order = weft_xcalloc(s->n + 1, sizeof(struct source_entry *));
	r.files = weft_xcalloc(s->n + 1, sizeof(struct weft_file *));
	r.notes = weft_xcalloc(s->n + 1, sizeof(*r.notes));
	choose(&r);
	tell(&r);
	take_over(&r);
	free(r.order);
	free(r.files);
	free(r.notes);
}

/* ---- the last good content of each file, for the next start */
static bool keep_path(const struct weft_source_file *s, const char *name, const char *suffix,
		      char dst[PATH_MAX])
{
	return s->keep_dir &&
	       snprintf(dst, PATH_MAX, "%s/%s%s", s->keep_dir, name, suffix) < PATH_MAX;
}

void source_keep_load(struct weft_source_file *s, struct source_entry *e)
{
	char path[PATH_MAX];
	struct weft_file *f;

	if (e->kept_tried || e->good || !keep_path(s, e->name, "", path))
		return;
	e->kept_tried = true;
	if (access(path, R_OK) < 0)
		return;
	f = weft_file_read(AT_FDCWD, path, e->name);
	if (f->n_errors == 0)
		e->good = f;
	else
		weft_file_unref(f);
}

static char *dump(const struct weft_file *f)
{
	char *text = NULL, *one;
	size_t n;
	FILE *out = open_memstream(&text, &n);

	if (!out)
		abort(); /* memory */
	for (size_t i = 0; i < f->n; i++) {
		one = weft_yaml_encode(f->v[i].msg, false);
		fprintf(out, "---\n%s", one);
		free(one);
	}
	if (fclose(out) != 0)
		abort();
	return text;
}

static bool write_all(int fd, const char *text)
{
	size_t n = strlen(text);

	while (n) {
		ssize_t r = write(fd, text, n);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return false;
		text += r;
		n -= (size_t)r;
	}
	return fdatasync(fd) == 0;
}

void source_keep_store(struct weft_source_file *s, const struct source_entry *e)
{
	char path[PATH_MAX], tmp[PATH_MAX];
	char *text;
	bool ok;
	int fd;

	if (!keep_path(s, e->name, "", path) || !keep_path(s, e->name, ".XXXXXX", tmp))
		return;
	fd = mkostemp(tmp, O_CLOEXEC);
	if (fd < 0) {
		source_tell(s, WEFT_LOG_WARN, "%s: cannot be kept for the next start: %s", e->name,
			    strerror(errno));
		return;
	}
	text = dump(e->good);
	ok = write_all(fd, text);
	free(text);
	if (close(fd) < 0 || !ok || rename(tmp, path) < 0) {
		source_tell(s, WEFT_LOG_WARN, "%s: cannot be kept for the next start: %s", e->name,
			    strerror(errno));
		unlink(tmp);
	}
}

void source_keep_drop(struct weft_source_file *s, const struct source_entry *e)
{
	char path[PATH_MAX];

	if (keep_path(s, e->name, "", path))
		unlink(path);
}

void source_keep_sweep(struct weft_source_file *s)
{
	DIR *d = s->keep_dir ? opendir(s->keep_dir) : NULL;
	struct dirent *de;

	while (d && (de = readdir(d))) {
		bool known = false;

		for (size_t i = 0; i < s->n && !known; i++)
			known = !strcmp(s->v[i]->name, de->d_name);
		if (!known && weft_config_name(de->d_name))
			unlinkat(dirfd(d), de->d_name, 0);
	}
	if (d)
		closedir(d);
}
