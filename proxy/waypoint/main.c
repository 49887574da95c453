/* weft-waypoint. Order of start: options, bootstrap (everything checked before anything runs),
 * managers, workers, clusters, then listeners. */
#include "proxy/core/log.h"
#include "proxy/core/version.h"
#include "proxy/core/worker_end.h"
#include "proxy/l4/als.h"
#include "proxy/waypoint/waypoint.h"
#include "xds/yaml.h"

#include <errno.h>
#include <event2/event.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
	NOFILE_WANTED = 1 << 20,
	CONCURRENCY_MAX = 256,
	TRIM_BYTES = 4 << 20, /* free memory that a thread keeps; larger blocks are mapped */
};

static unsigned cpus(void)
{
	cpu_set_t set;
	int n = sched_getaffinity(0, sizeof(set), &set) ? 1 : CPU_COUNT(&set);

	return n < 1 ? 1 : n > CONCURRENCY_MAX ? CONCURRENCY_MAX : (unsigned)n;
}

static void files_limit(void)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl))
		return;
	if (rl.rlim_max < NOFILE_WANTED) {
		struct rlimit more = {NOFILE_WANTED, NOFILE_WANTED};

		if (!setrlimit(RLIMIT_NOFILE, &more))
			return;
	}
	rl.rlim_cur = rl.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &rl);
}

static int report(const struct waypoint *w, struct weft_errs *errs)
{
	char text[700];
	int i;

	waypoint_errs_once(errs);
	for (i = 0; i < errs->n; i++)
		fprintf(stderr, "%s\n", weft_err_text(&errs->v[i], text, sizeof(text)));
	if (errs->dropped)
		fprintf(stderr, "and %d more\n", errs->dropped);
	fprintf(stderr, "weft-waypoint: %s: %d error%s, configuration not used\n", w->boot.name,
		errs->n + errs->dropped, errs->n + errs->dropped == 1 ? "" : "s");
	return 1;
}

/* ---- serving */
static void worker_end(struct weft_worker *w)
{
	wlisteners_free(wlisteners_of(w));
}

static int workers_make(struct waypoint *w)
{
	size_t i;

	w->n_workers = w->opt.concurrency ? w->opt.concurrency : cpus();
	w->workers = weft_xcalloc(w->n_workers, sizeof(*w->workers));
	for (i = 0; i < w->n_workers; i++) {
		struct wlisteners_conf lc = {.max_connections = w->boot.max_connections,
					     .connections = &w->connections,
					     .overload_failed = w->boot.overload_failed,
					     .drain_ms = w->opt.drain_s * 1000};

		w->workers[i] = weft_worker_new((int)i, w);
		if (!w->workers[i])
			return -ENOMEM;
		lc.worker = w->workers[i];
		wlisteners_new(&lc);
		weft_worker_at_end(w->workers[i], worker_end);
	}
	return 0;
}

static void workers_end(struct waypoint *w)
{
	size_t i;

	for (i = 0; i < w->n_workers; i++)
		weft_worker_stop(w->workers[i]);
	for (i = 0; i < w->n_workers; i++)
		weft_worker_join(w->workers[i]);
}

static int serve(struct waypoint *w, struct weft_errs *errs, struct weft_errs *warns)
{
	struct ending *signals;
	struct weft_err err = {0};
	size_t i;
	int rc;

	if (bootstrap_load(&w->opt, &w->boot, errs, warns, NULL))
		return report(w, errs);
	w->main = weft_worker_new(-1, w);
	if (!w->main || workers_make(w))
		return 1;
	rc = waypoint_build(w, errs, warns);
	rc |= waypoint_semantics(w, errs, warns);
	waypoint_errs_once(warns);
	bootstrap_place(&w->boot, errs);
	bootstrap_place(&w->boot, warns);
	for (i = 0; i < (size_t)warns->n; i++)
		weft_log_err(WEFT_LOG_WARN, &warns->v[i], "configuration");
	if (rc)
		return report(w, errs);
	w->admin = waypoint_admin_new(w, &err);
	if (!w->admin && err.code) {
		weft_log_err(WEFT_LOG_ERROR, &err, "admin");
		return 1;
	}
	weft_marks_drop((struct weft_marks *)w->boot.marks);
	malloc_trim(0); /* what reading the configuration took */
	/* else each body that ends gives its pages back, and the next faults them in anew; to set
	 * the one keeps the other from following what is allocated */
	mallopt(M_TRIM_THRESHOLD, TRIM_BYTES);
	mallopt(M_MMAP_THRESHOLD, TRIM_BYTES);
	if (waypoint_seal(w, &err)) {
		weft_log_err(WEFT_LOG_ERROR, &err, "seal");
		return 1;
	}
	signals = waypoint_signals(w);
	waypoint_stats_start(w);
	overload_start(w->boot.overload, w->main, w->listeners);
	for (i = 0; i < w->n_workers; i++)
		weft_worker_start(w->workers[i], w->n_workers > 1);
	weft_log(WEFT_LOG_INFO, "weft-waypoint " WEFT_VERSION " workers=%zu config=%s",
		 w->n_workers, w->boot.name);
	w->state = WAYPOINT_INIT;
	if (feeds_start_clusters(w, &err)) {
		weft_log_err(WEFT_LOG_ERROR, &err, "clusters cannot be watched");
		return 1;
	}
	waypoint_look(w);
	weft_worker_run(w->main);
	overload_stop(w->boot.overload);
	listeners_stop_accepting(w->listeners, false, true);
	workers_end(w);
	waypoint_signals_end(signals);
	event_free(w->flush);
	if (w->drain_end)
		event_free(w->drain_end);
	weft_access_logs_flush();
	waypoint_free(w);
	for (i = 0; i < w->n_workers; i++)
		weft_worker_free(w->workers[i]);
	weft_worker_free(w->main);
	free(w->workers);
	weft_log(WEFT_LOG_INFO, "weft-waypoint ended");
	return 0;
}

int main(int argc, char **argv)
{
	static struct waypoint w;
	static struct weft_errs errs, warns;
	int rc = waypoint_options(argc, argv, &w.opt);

	if (rc)
		return rc < 0 ? 2 : 0;
	w.start_ns = weft_now_ns();
	w.start_wall_s = (uint64_t)time(NULL);
	weft_log_setup("weft-waypoint", (enum weft_log_level)w.opt.log_level, w.opt.log_json);
	signal(SIGPIPE, SIG_IGN);
	files_limit();
	return w.opt.mode == MODE_VALIDATE ? waypoint_validate(&w) : serve(&w, &errs, &warns);
}
