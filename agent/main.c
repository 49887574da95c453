/* weft-agent: see agent/options.c for what it takes, agent/agent.c for the order of start. */
#include "agent/agent.h"
#include "proxy/core/log.h"
#include "proxy/core/version.h"
#include <errno.h>
#include <event2/event.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

static void print_errs(const struct weft_errs *errs)
{
	char text[sizeof(struct weft_err) + 8];
	int i;

	for (i = 0; i < errs->n; i++)
		printf("%s\n", weft_err_text(&errs->v[i], text, sizeof(text)));
	if (errs->dropped)
		printf("... and %d more\n", errs->dropped);
}

/* The folder, then what only shows when objects meet. */
static int check_config(const char *dir)
{
	struct weft_errs *errs = calloc(1, sizeof(*errs)), *notes = calloc(1, sizeof(*notes));
	struct weft_store *store = weft_store_new();
	struct weft_objects *set = NULL;
	int n;

	if (!errs || !notes)
		abort();
	n = weft_check_folder(dir, &set, errs, notes);
	if (set)
		n += weft_store_load(store, set, errs);
	print_errs(notes);
	print_errs(errs);
	printf("%s: %zu objects, %d errors\n", dir, set ? set->n : 0, n);
	weft_objects_unref(set);
	weft_store_free(store);
	free(errs);
	free(notes);
	return n;
}

static int check(const struct weft_agent_options *o)
{
	struct weft_feature v[64];
	char bpffs[PATH_MAX];
	size_t n = 0, i;
	int fatal;

	snprintf(bpffs, sizeof(bpffs), "%s", o->pin_dir);
	if (strrchr(bpffs, '/') > bpffs)
		*strrchr(bpffs, '/') = 0;
	fatal = weft_bpf_check(o->cgroup, bpffs, v, sizeof(v) / sizeof(v[0]), &n);
	for (i = 0; i < n && i < sizeof(v) / sizeof(v[0]); i++)
		printf("%-28s %-9s %s\n", v[i].name, v[i].state, v[i].detail);
	if (o->config)
		fatal += check_config(o->config);
	return fatal ? 1 : 0;
}

static int unload(const struct weft_agent_options *o)
{
	struct weft_err e = {0};

	if (weft_bpf_unload(o->pin_dir, &e) < 0) {
		weft_log_err(WEFT_LOG_ERROR, &e, "unload");
		return 1;
	}
	printf("%s: nothing is captured any more\n", o->pin_dir);
	return 0;
}

/* Six listeners a pod, each twice while it is handed over. */
static void raise_files(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) < 0)
		return;
	l.rlim_cur = l.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &l) < 0 || l.rlim_cur < 4096)
		weft_log(WEFT_LOG_WARN, "open files: at most %llu", (unsigned long long)l.rlim_cur);
}

/* The CA's key and every identity's are in memory. */
static void no_dumps(void)
{
	const struct rlimit none = {0, 0};

	if (setrlimit(RLIMIT_CORE, &none) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		weft_log(WEFT_LOG_WARN, "core dumps cannot be turned off: %s", strerror(errno));
}

int main(int argc, char **argv)
{
	struct weft_agent_options opt;
	struct weft_agent a = {.opt = &opt};
	struct weft_err e = {0};
	int r = weft_agent_options(argc, argv, &opt);

	if (r)
		return r < 0 ? 2 : 0;
	weft_log_setup("weft-agent", opt.log_level, opt.log_json);
	if (opt.unload)
		return unload(&opt);
	if (opt.check)
		return check(&opt);
	raise_files();
	no_dumps();
	if (weft_agent_start(&a, &e) < 0) {
		weft_log_err(WEFT_LOG_ERROR, &e, "start");
		weft_agent_stop(&a);
		return 1;
	}
	weft_log(WEFT_LOG_INFO, "running version=%s node=%s config=%s run-dir=%s", WEFT_VERSION,
		 opt.node, opt.config, opt.run_dir);
	event_base_dispatch(a.base);
	r = a.unenroll ? 0 : !a.signalled;
	weft_log(WEFT_LOG_INFO,
		 a.unenroll ? "ends; every pod was released" : "ends; pods stay captured");
	weft_agent_stop(&a);
	return r;
}
