/* Wanted pods → enrolled pods, and the proxy told of each change. */
#include "agent/agent.h"
#include "proxy/core/arena.h"
#include "proxy/core/log.h"
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

enum { ADOPT_POLL_MS = 20, ADOPT_END_MS = 15000 };

static bool wanted(const struct weft_store_pod *v, size_t n, const char *uid)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (!strcmp(v[i].conf.uid, uid))
			return true;
	return false;
}

static void pod_out(struct weft_agent *a, const char *uid)
{
	struct weft_err e = {0};
	char *copy = weft_xstrdup(uid);

	weft_broker_pod_removed(a->broker, copy);
	if (weft_pods_remove(a->pods, copy, &e) < 0)
		weft_log_err(WEFT_LOG_WARN, &e, "pod released, with a rest");
	weft_log(WEFT_LOG_INFO, "pod released uid=%s", copy);
	free(copy);
}

static void pod_in(struct weft_agent *a, const struct weft_store_pod *w)
{
	struct weft_pod *pod = weft_pods_find(a->pods, w->conf.uid);
	bool was = pod && pod->state == WEFT_POD_CAPTURED;
	uint64_t cookie = was ? pod->cookie : 0;
	struct weft_err before = pod ? pod->err : (struct weft_err){0}, e = {0};
	int r = weft_pods_add(a->pods, &w->conf, &pod, &e);

	/* the same pod in another namespace is another pod to the proxy */
	if (was && (pod->state != WEFT_POD_CAPTURED || pod->cookie != cookie))
		weft_broker_pod_removed(a->broker, w->conf.uid);
	if (r < 0) {
		/* one line a reason */
		if (before.code != e.code || strcmp(before.msg, e.msg))
			weft_log(WEFT_LOG_WARN, "%s pod=%s/%s source=%s: %s",
				 pod->state == WEFT_POD_CAPTURED
					 ? "pod captured as it was, its change not"
					 : "pod not captured",
				 pod->ns, pod->name, w->source, e.msg);
	} else if (r > 0) {
		weft_log(WEFT_LOG_INFO, "pod captured pod=%s/%s identity=%s", pod->ns, pod->name,
			 w->identity);
		weft_broker_pod_added(a->broker, pod);
	}
}

struct stale {
	char **uids;
	uint64_t *cookies;
	size_t n;
};

static void stale_add(void *ctx, const char *uid, uint64_t cookie)
{
	struct stale *s = ctx;

	s->uids = weft_xrealloc(s->uids, (s->n + 1) * sizeof(*s->uids));
	s->cookies = weft_xrealloc(s->cookies, (s->n + 1) * sizeof(*s->cookies));
	s->uids[s->n] = weft_xstrdup(uid);
	s->cookies[s->n++] = cookie;
}

/* Captures of an earlier agent that the configuration no longer has. Only when all of it could be
 * read: a pod whose file is broken stays captured. */
static void stale_release(struct weft_agent *a, const struct weft_store_pod *v, size_t n)
{
	struct weft_source_file_stat st;
	struct stale s = {0};
	size_t i;

	weft_source_file_stat(a->source, &st);
	if (st.bad_files || st.folder_gone)
		return;
	weft_bpf_each_pinned(a->bpf, stale_add, &s);
	for (i = 0; i < s.n; i++) {
		struct weft_err e = {0};

		if (!wanted(v, n, s.uids[i]) && !weft_pods_find(a->pods, s.uids[i]) &&
		    !weft_store_pod_unusable(a->store, a->opt->node, s.uids[i])) {
			if (weft_bpf_pod_del(a->bpf, s.uids[i], s.cookies[i], &e) < 0)
				weft_log_err(WEFT_LOG_WARN, &e, "capture of an earlier agent");
			else
				weft_log(WEFT_LOG_INFO,
					 "pod released uid=%s: captured by an earlier agent, not "
					 "wanted any more",
					 s.uids[i]);
		}
		free(s.uids[i]);
	}
	free(s.uids);
	free(s.cookies);
}

void weft_agent_sync(struct weft_agent *a)
{
	const struct timeval soon = {.tv_usec = ADOPT_POLL_MS * 1000},
			     end = {.tv_sec = ADOPT_END_MS / 1000};
	const struct weft_store_pod *v;
	struct weft_pod *pod, *next;
	size_t n, i;

	if (!a->started || a->unenroll)
		return;
	if (!a->synced && weft_broker_adopting(a->broker)) {
		event_add(a->adopt, &soon);
		return;
	}
	n = weft_store_pods(a->store, a->opt->node, &v);
	for (pod = weft_pods_first(a->pods); pod; pod = next) {
		next = pod->next;
		/* a mistake in its object must not let it out; without its workload the proxy
		 * refuses what it captures */
		if (!wanted(v, n, pod->uid) &&
		    !weft_store_pod_unusable(a->store, a->opt->node, pod->uid))
			pod_out(a, pod->uid);
	}
	for (i = 0; i < n; i++)
		pod_in(a, &v[i]);
	stale_release(a, v, n);
	if (!a->synced) {
		a->synced = true;
		weft_broker_ready(a->broker);
		event_add(a->adopt_end, &end);
	}
}

void weft_agent_release(struct weft_agent *a)
{
	struct weft_pod *pod;

	while ((pod = weft_pods_first(a->pods)))
		pod_out(a, pod->uid);
}

static void on_sync(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	weft_agent_sync(arg);
}

static void on_adopt_end(evutil_socket_t fd, short what, void *arg)
{
	struct weft_agent *a = arg;

	(void)fd;
	(void)what;
	weft_pods_adopt_end(a->pods);
}

void weft_agent_sync_init(struct weft_agent *a)
{
	const struct timeval tv = {a->opt->retry_ms / 1000, a->opt->retry_ms % 1000 * 1000};

	a->retry = event_new(a->base, -1, EV_PERSIST, on_sync, a);
	a->adopt = evtimer_new(a->base, on_sync, a);
	a->adopt_end = evtimer_new(a->base, on_adopt_end, a);
	if (!a->retry || !a->adopt || !a->adopt_end)
		abort(); /* memory is out */
	event_add(a->retry, &tv);
}

void weft_agent_sync_done(struct weft_agent *a)
{
	if (a->retry)
		event_free(a->retry);
	if (a->adopt)
		event_free(a->adopt);
	if (a->adopt_end)
		event_free(a->adopt_end);
	a->retry = a->adopt = a->adopt_end = NULL;
}
