/* Sets of objects, and files and folders read into them. */
#include "xds/check.h"
#include "xds/yaml_priv.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int object_order(const void *a, const void *b)
{
	const struct weft_object *x = a, *y = b;
	int c = (int)x->kind->id - (int)y->kind->id;

	c = c ? c : strcmp(x->ns, y->ns);
	return c ? c : strcmp(x->name, y->name);
}

struct weft_objects *weft_objects_new(struct weft_file *const *files, size_t n)
{
	struct weft_objects *s = weft_xcalloc(1, sizeof(*s));
	struct weft_object *v;
	size_t total = 0, k = 0;

	s->refs = 1;
	s->files = weft_xcalloc(n + 1, sizeof(struct weft_file *));
	s->n_files = n;
	for (size_t i = 0; i < n; i++) {
		s->files[i] = files[i];
		weft_file_ref(files[i]);
		total += files[i]->n;
	}
	v = weft_xcalloc(total + 1, sizeof(*v));
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < files[i]->n; j++)
			v[s->n++] = files[i]->v[j];
	qsort(v, s->n, sizeof(*v), object_order);
	for (int id = 0; id < WEFT_KIND_COUNT; id++) {
		s->first[id] = k;
		while (k < s->n && (int)v[k].kind->id == id)
			k++;
	}
	s->first[WEFT_KIND_COUNT] = s->n;
	s->v = v;
	return s;
}

void weft_objects_ref(struct weft_objects *s)
{
	s->refs++;
}

void weft_objects_unref(struct weft_objects *s)
{
	if (!s || --s->refs)
		return;
	for (size_t i = 0; i < s->n_files; i++)
		weft_file_unref(s->files[i]);
	free(s->files);
	free((void *)s->v);
	free(s);
}

const struct weft_object *weft_objects_of(const struct weft_objects *s, enum weft_kind_id kind,
					  size_t *ret_n)
{
	*ret_n = s->first[kind + 1] - s->first[kind];
	return s->v + s->first[kind];
}

const struct weft_object *weft_objects_in(const struct weft_objects *s, enum weft_kind_id kind,
					  const char *ns, size_t *ret_n)
{
	size_t lo = s->first[kind], hi = s->first[kind + 1], end;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (strcmp(s->v[mid].ns, ns) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (end = lo; end < s->first[kind + 1] && !strcmp(s->v[end].ns, ns);)
		end++;
	*ret_n = end - lo;
	return s->v + lo;
}

const struct weft_object *weft_objects_find(const struct weft_objects *s, enum weft_kind_id kind,
					    const char *ns, const char *name)
{
	const struct weft_object key = {
		.kind = weft_kind_get(kind), .ns = ns ? ns : "", .name = name};

	return bsearch(&key, s->v, s->n, sizeof(*s->v), object_order);
}

bool weft_config_name(const char *name)
{
	const char *dot = strrchr(name, '.');

	return name[0] != '.' && dot &&
	       (!strcmp(dot, ".yaml") || !strcmp(dot, ".yml") || !strcmp(dot, ".json"));
}

struct collected {
	struct weft_file **files;
	bool *bad;
	size_t n, cap;
	struct weft_errs *errs, *notes;
	int n_errors;
	bool whole; /* a folder is among the paths: what is referred to must be there */
};

static void add_all(struct weft_errs *to, const struct weft_errs *from)
{
	for (int i = 0; from && i < from->n; i++) {
		struct weft_err *e = weft_errs_next(to);

		if (e)
			*e = from->v[i];
	}
}

static void add_file(struct collected *c, struct weft_file *f)
{
	if (c->n == c->cap) {
		c->cap = c->cap ? c->cap * 2 : 16;
		c->files = weft_xrealloc(c->files, c->cap * sizeof(struct weft_file *));
	}
	c->files[c->n++] = f;
	c->n_errors += f->n_errors;
	add_all(c->errs, f->errs);
	if (c->errs && f->errs && f->n_errors > f->errs->n)
		c->errs->dropped += f->n_errors - f->errs->n;
	add_all(c->notes, f->notes);
}

static int wanted(const struct dirent *d)
{
	return weft_config_name(d->d_name);
}

static void add_folder(struct collected *c, const char *dir)
{
	struct dirent **names = NULL;
	int n = scandir(dir, &names, wanted, alphasort);

	if (n < 0) {
		struct weft_err *e = weft_errs_next(c->errs);

		c->n_errors++;
		weft_fail(e, NULL, errno, "the folder cannot be read: %s", strerror(errno));
		if (e)
			yaml_err_place(e, dir, 0, 0);
		return;
	}
	for (int i = 0; i < n; i++) {
		char path[PATH_MAX];

		snprintf(path, sizeof(path), "%s%s%s", dir, dir[strlen(dir) - 1] == '/' ? "" : "/",
			 names[i]->d_name);
		add_file(c, weft_file_read(AT_FDCWD, path, path));
		free(names[i]);
	}
	free(names);
}

static void found(void *ctx, enum weft_finding what, size_t file, const struct weft_err *e)
{
	struct collected *c = ctx;
	bool bad = what == WEFT_FOUND_DUPLICATE || (what == WEFT_FOUND_REFERENCE && c->whole);
	struct weft_err *slot = weft_errs_next(bad ? c->errs : c->notes);

	if (slot)
		*slot = *e;
	if (bad) {
		c->bad[file] = true;
		c->n_errors++;
	}
}

int weft_check_paths(const char *const *paths, size_t n, struct weft_objects **ret,
		     struct weft_errs *errs, struct weft_errs *notes)
{
	struct collected c = {.errs = errs, .notes = notes};
	struct weft_file **good;
	size_t n_good = 0;
	struct stat st;

	for (size_t i = 0; i < n; i++) {
		if (stat(paths[i], &st) == 0 && S_ISDIR(st.st_mode)) {
			c.whole = true;
			add_folder(&c, paths[i]);
		} else {
			add_file(&c, weft_file_read(AT_FDCWD, paths[i], paths[i]));
		}
	}
	c.bad = weft_xcalloc(c.n + 1, sizeof(*c.bad));
	weft_files_check(c.files, c.n, found, &c);
	good = weft_xcalloc(c.n + 1, sizeof(struct weft_file *));
	for (size_t i = 0; i < c.n; i++)
		if (!c.bad[i] && c.files[i]->n_errors == 0)
			good[n_good++] = c.files[i];
	if (ret)
		*ret = weft_objects_new(good, n_good);
	for (size_t i = 0; i < c.n; i++)
		weft_file_unref(c.files[i]);
	free(good);
	free(c.files);
	free(c.bad);
	return c.n_errors;
}

int weft_check_file(const char *path, struct weft_objects **ret, struct weft_errs *errs,
		    struct weft_errs *notes)
{
	return weft_check_paths(&path, 1, ret, errs, notes);
}

int weft_check_folder(const char *dir, struct weft_objects **ret, struct weft_errs *errs,
		      struct weft_errs *notes)
{
	return weft_check_paths(&dir, 1, ret, errs, notes);
}
