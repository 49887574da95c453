/* --mode validate: everything that is wrong with a file, in one go. */
#include "proxy/l4/als.h"
#include "proxy/waypoint/resource.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The same of the same place: generic checks and builders may both find it. */
void waypoint_errs_once(struct weft_errs *e)
{
	int i, k, n = 0;

	for (i = 0; i < e->n; i++) {
		for (k = 0; k < n; k++)
			if (!strcmp(e->v[i].path, e->v[k].path) &&
			    !strcmp(e->v[i].msg, e->v[k].msg))
				break;
		if (k == n)
			e->v[n++] = e->v[i];
	}
	e->n = n;
}

static bool lack(const struct weft_err *e)
{
	return e->code == WEFT_CFG_MISSING || strstr(e->msg, "must be set") ||
	       strstr(e->msg, "is required") || strstr(e->msg, "must have a");
}

/* at is path or right above it. */
static bool around(const char *at, const char *path)
{
	size_t n = strlen(at);

	if (strncmp(at, path, n))
		return false;
	path += n;
	return !*path || ((*path == '.' || *path == '[') && !strchr(path + 1, '.'));
}

void waypoint_errs_caused(struct weft_errs *e, int n)
{
	int i, k, to = n;

	for (i = n; i < e->n; i++) {
		for (k = 0; k < n; k++)
			if (lack(&e->v[i]) && around(e->v[i].path, e->v[k].path))
				break;
		if (k == n)
			e->v[to++] = e->v[i];
	}
	e->n = to < e->n ? to : e->n;
}

static void print_text(const struct weft_errs *e, const char *kind)
{
	char text[700];
	int i;

	for (i = 0; i < e->n; i++)
		fprintf(stderr, "%s%s\n", kind, weft_err_text(&e->v[i], text, sizeof(text)));
	if (e->dropped)
		fprintf(stderr, "%sand %d more\n", kind, e->dropped);
}

/* "file:line:col" apart; a name may have colons too. */
static json_t *one(const struct weft_err *e)
{
	json_t *j = json_object();
	char file[sizeof(e->where)];
	long at[2] = {0, 0};
	int i;

	snprintf(file, sizeof(file), "%s", e->where);
	for (i = 1; i >= 0; i--) {
		char *colon = strrchr(file, ':');

		if (!colon || !colon[1] || strspn(colon + 1, "0123456789") != strlen(colon + 1))
			break;
		at[i] = strtol(colon + 1, NULL, 10);
		*colon = '\0';
	}
	json_object_set_new(j, "file", json_string(file));
	if (at[0]) {
		json_object_set_new(j, "line", json_integer(at[0]));
		json_object_set_new(j, "column", json_integer(at[1]));
	}
	json_object_set_new(j, "field", json_string(e->path));
	json_object_set_new(j, "message", json_string(e->msg));
	return j;
}

static json_t *list(const struct weft_errs *e)
{
	json_t *j = json_array();
	int i;

	for (i = 0; i < e->n; i++)
		json_array_append_new(j, one(&e->v[i]));
	return j;
}

static void print_json(const char *name, bool ok, const struct weft_errs *errs,
		       const struct weft_errs *warns)
{
	json_t *j = json_object();

	json_object_set_new(j, "file", json_string(name));
	json_object_set_new(j, "valid", json_boolean(ok));
	json_object_set_new(j, "errors", list(errs));
	json_object_set_new(j, "errors_left_out", json_integer(errs->dropped));
	json_object_set_new(j, "warnings", list(warns));
	json_object_set_new(j, "warnings_left_out", json_integer(warns->dropped));
	json_dumpf(j, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(j);
}

static int told(struct waypoint *w, struct weft_errs *errs, struct weft_errs *warns, int err)
{
	int n = errs->n + errs->dropped;

	if (w->opt.output_json) {
		print_json(w->boot.name, !err, errs, warns);
		return err ? 1 : 0;
	}
	print_text(warns, "warning: ");
	print_text(errs, "");
	if (err)
		fprintf(stderr, "weft-waypoint: %s: %d error%s, configuration not used\n",
			w->boot.name, n, n == 1 ? "" : "s");
	else
		printf("configuration '%s' OK\n", w->boot.name);
	return err ? 1 : 0;
}

int waypoint_validate(struct waypoint *w)
{
	static struct weft_errs errs, warns;
	int n, err;

	weft_access_logs_check_only();
	if (waypoint_is_resources(w->opt.config_path)) {
		err = waypoint_resources_validate(w, &errs, &warns);
		return told(w, &errs, &warns, err);
	}
	err = bootstrap_load(&w->opt, &w->boot, &errs, &warns, NULL);
	w->main = weft_worker_new(-1, w);
	n = w->boot.bad;
	if (w->boot.msg) { /* what is wrong with some parts keeps the others from nothing */
		err |= waypoint_build(w, &errs, &warns);
		err |= waypoint_admin_check(w, &errs, &warns);
		err |= waypoint_semantics(w, &errs, &warns);
		waypoint_errs_caused(&errs, n < errs.n ? n : errs.n);
		bootstrap_place(&w->boot, &errs);
		bootstrap_place(&w->boot, &warns);
		waypoint_errs_once(&errs);
		waypoint_errs_once(&warns);
	}
	return told(w, &errs, &warns, err);
}
