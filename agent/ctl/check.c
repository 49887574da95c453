/* weftctl check: the kernel by loading the real objects, the machine, and who answers. Needs no
 * agent. */
#include "agent/bpf_load.h"
#include "agent/ctl/ctl.h"
#include "proxy/core/seal.h"
#include "proxy/core/version.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FEATURES_MAX = 64 };
struct list {
	struct weft_feature v[FEATURES_MAX];
	size_t n;
	int fatal;
};

static void add(struct list *l, const char *name, const char *state, const char *detail)
{
	if (!strcmp(state, "fatal"))
		l->fatal++;
	if (l->n >= FEATURES_MAX)
		return;
	snprintf(l->v[l->n].name, sizeof(l->v[0].name), "%.39s", name);
	snprintf(l->v[l->n].state, sizeof(l->v[0].state), "%s", state);
	snprintf(l->v[l->n++].detail, sizeof(l->v[0].detail), "%.159s", detail);
}

static void cgroup_find(char *dst, size_t cap)
{
	char line[1024], dir[512], type[64];
	FILE *f = fopen("/proc/mounts", "re");

	*dst = 0;
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%*s %511s %63s", dir, type) == 2 && !strcmp(type, "cgroup2") &&
		    !*dst)
			snprintf(dst, cap, "%s", dir);
	if (f)
		fclose(f);
}

/* The programs beside this one, or in the usual places. */
static void program(struct list *l, const char *name)
{
	static const char *const dirs[] = {"", "/usr/local/sbin", "/usr/sbin", "/usr/local/bin",
					   "/usr/bin"};
	char own[PATH_MAX], path[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", own, sizeof(own) - 1);
	size_t i;

	own[n > 0 ? n : 0] = 0;
	if (strrchr(own, '/'))
		*strrchr(own, '/') = 0;
	for (i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
		snprintf(path, sizeof(path), "%.3900s/%s", *dirs[i] ? dirs[i] : own, name);
		if (access(path, X_OK) == 0) {
			add(l, name, "found", path);
			return;
		}
	}
	add(l, name, "fatal", "is not installed beside weftctl or in sbin");
}

static void run_dir(struct list *l, const struct weft_ctl *c)
{
	char text[PATH_MAX];
	struct stat st;

	if (stat(c->run_dir, &st) < 0)
		snprintf(text, sizeof(text), "%.120s: %s; weft-agent makes it", c->run_dir,
			 strerror(errno));
	else if (st.st_mode & 022)
		snprintf(text, sizeof(text), "%.100s: others may write there", c->run_dir);
	else
		snprintf(text, sizeof(text), "%.140s", c->run_dir);
	add(l, "run-dir",
	    stat(c->run_dir, &st) < 0 ? "fallback"
	    : st.st_mode & 022	      ? "fatal"
				      : "found",
	    text);
}

static void user(struct list *l)
{
	struct weft_err e = {0};
	uid_t uid;
	gid_t gid;

	if (weft_user_lookup("weft", &uid, &gid, &e) < 0)
		add(l, "user weft", "fallback",
		    "does not exist: make it, or give agent and proxy another by option");
	else
		add(l, "user weft", "found", "");
}

static void answers(struct list *l, const struct weft_ctl *c)
{
	json_t *s = NULL;
	char text[200];

	if (weft_ctl_try(c, "admin.sock", "/status", &s) && s) {
		snprintf(text, sizeof(text), "node %.60s, version %.20s%s", weft_ctl_str(s, "node"),
			 weft_ctl_str(s, "version"),
			 strcmp(weft_ctl_str(s, "version"), WEFT_VERSION) ? ", weftctl is another"
									  : "");
		add(l, "agent", "found", text);
	} else {
		add(l, "agent", "fallback", "does not answer in run-dir");
	}
	json_decref(s);
	add(l, "proxy", weft_ctl_try(c, "proxy/admin.sock", "/ready", NULL) ? "found" : "fallback",
	    weft_ctl_try(c, "proxy/admin.sock", "/ready", NULL)
		    ? "ready"
		    : "does not answer in run-dir, or is not ready");
}

int weft_ctl_check(struct weft_ctl *c)
{
	struct list *l = calloc(1, sizeof(*l));
	char cgroup[512], bpffs[PATH_MAX];
	json_t *all;
	size_t i;
	int r;

	if (!l)
		abort();
	if (c->n_args) {
		free(l);
		fprintf(stderr, "weftctl: check takes no argument\n");
		return 2;
	}
	cgroup_find(cgroup, sizeof(cgroup));
	snprintf(bpffs, sizeof(bpffs), "%.4000s", c->pin_dir);
	if (strrchr(bpffs, '/') > bpffs)
		*strrchr(bpffs, '/') = 0;
	if (geteuid() == 0)
		l->fatal = weft_bpf_check(c->cgroup ? c->cgroup : cgroup, bpffs, l->v,
					  FEATURES_MAX - 16, &l->n);
	else
		add(l, "root", "fatal", "the kernel's features are tried by loading: needs root");
	program(l, "weft-agent");
	program(l, "weft-proxy");
	user(l);
	run_dir(l, c);
	answers(l, c);
	all = json_array();
	for (i = 0; i < l->n; i++) {
		if (!c->json)
			printf("%-24s %-9s %s\n", l->v[i].name, l->v[i].state, l->v[i].detail);
		json_array_append_new(all, json_pack("{s:s,s:s,s:s}", "name", l->v[i].name, "state",
						     l->v[i].state, "detail", l->v[i].detail));
	}
	if (c->json)
		weft_ctl_json(all);
	else
		json_decref(all);
	r = l->fatal ? 1 : 0;
	free(l);
	return r;
}
