/* weftctl: what its subcommands share. Exit codes: 0 good, 1 a problem was found or an answer
 * refused, 2 wrong usage. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

enum { CTL_ITEMS_MAX = 64, CTL_WAIT_MS = 10000 };
struct weft_ctl {
	const char *run_dir, *pin_dir, *cgroup;
	const char *netns, *sa;
	const char *ips[CTL_ITEMS_MAX], *labels[CTL_ITEMS_MAX];
	const char *method, *path, *headers[CTL_ITEMS_MAX]; /* explain */
	int n_ips, n_labels, n_headers;
	bool json, all, yes;
	char **args; /* after the subcommand */
	int n_args;
};
/* Asks agent ("admin.sock") or proxy ("proxy/admin.sock"). 0 and *ret; or 1 after saying on stderr
 * what is wrong. */
int weft_ctl_ask(const struct weft_ctl *c, const char *socket, const char *method,
		 const char *target, const json_t *body, json_t **ret);
/* The same, silent: false when there is no good answer. */
bool weft_ctl_try(const struct weft_ctl *c, const char *socket, const char *target, json_t **ret);
int weft_ctl_json(json_t *j);	      /* prints and drops; 0 */
char *weft_ctl_escape(const char *s); /* for a query; malloc'ed */

/* Lines of columns, printed together so that they align. Texts are copied. */
struct weft_table;
struct weft_table *weft_table_new(const char *const *heads, size_t n);
void weft_table_row(struct weft_table *t, const char *const *cells);
void weft_table_print(struct weft_table *t); /* and frees; nothing when it has no row */

const char *weft_ctl_str(const json_t *j, const char *key); /* "" when absent */
long long weft_ctl_int(const json_t *j, const char *key);
void weft_ctl_age(long long s, char *dst, size_t cap);	   /* "3h12m" */
char *weft_ctl_join(const json_t *array, const char *sep); /* strings; malloc'ed */

/* bootstrap.c: the file is an Envoy bootstrap; what weft-waypoint says of it (the exit code). */
bool weft_ctl_is_bootstrap(const char *path);
int weft_ctl_bootstrap(const char *path, bool json);

int weft_ctl_check(struct weft_ctl *c);
int weft_ctl_status(struct weft_ctl *c);
int weft_ctl_gateways(struct weft_ctl *c); /* status gateways, routes, policies */
int weft_ctl_pod(struct weft_ctl *c);
int weft_ctl_dump(struct weft_ctl *c);
int weft_ctl_validate(struct weft_ctl *c);
int weft_ctl_explain(struct weft_ctl *c);
int weft_ctl_unenroll(struct weft_ctl *c);
