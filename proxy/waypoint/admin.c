/* Admin: Envoy's paths on a unix socket, or on TCP loopback with a bearer token. Never open. */
#include "proxy/core/log.h"
#include "proxy/net/http_admin.h"
#include "proxy/net/listener.h"
#include "proxy/waypoint/waypoint.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct waypoint_admin {
	struct waypoint *w;
	struct weft_http_admin *http;
	char *path;
};

static const char *state_text(const struct waypoint *w)
{
	static const char *const names[] = {"PRE_INITIALIZING", "INITIALIZING", "LIVE", "DRAINING"};

	return names[w->state];
}

static int ready(struct waypoint_admin *a, const struct weft_http_req *r, struct evbuffer *out,
		 const char **ret_type)
{
	evbuffer_add_printf(out, "%s\n", state_text(a->w));
	return a->w->state == WAYPOINT_LIVE ? 200 : 503;
}

static int stats(struct waypoint_admin *a, const struct weft_http_req *r, struct evbuffer *out,
		 const char **ret_type)
{
	char filter[256], format[32] = "", type[32];
	struct weft_scope_query q = {0};

	if (!weft_http_query(r->query, "filter", filter, sizeof(filter)))
		q.filter = filter;
	if (!weft_http_query(r->query, "type", type, sizeof(type)))
		q.type = type;
	q.used_only = weft_http_query(r->query, "usedonly", format, sizeof(format)) == 0;
	if (weft_http_query(r->query, "format", format, sizeof(format)))
		format[0] = 0;
	if (!strcmp(format, "prometheus"))
		return weft_scope_prometheus(out, &q) ? 400 : 200;
	if (!strcmp(format, "json")) {
		*ret_type = "application/json";
		return weft_scope_json(out, &q) ? 400 : 200;
	}
	return weft_scope_text(out, &q) ? 400 : 200;
}

static int prometheus(struct waypoint_admin *a, const struct weft_http_req *r, struct evbuffer *out,
		      const char **ret_type)
{
	char filter[256], used[8];
	struct weft_scope_query q = {0};

	if (!weft_http_query(r->query, "filter", filter, sizeof(filter)))
		q.filter = filter;
	q.used_only = weft_http_query(r->query, "usedonly", used, sizeof(used)) == 0;
	*ret_type = "text/plain; version=0.0.4; charset=utf-8";
	return weft_scope_prometheus(out, &q) ? 400 : 200;
}

static const struct {
	const char *method, *path;
	int (*run)(struct waypoint_admin *a, const struct weft_http_req *r, struct evbuffer *out,
		   const char **ret_type);
	const char *help;
} commands[] = {
	{"GET", "/ready", ready, "LIVE and 200 once everything is warm, else 503"},
	{"GET", "/stats", stats,
	 "counters, gauges and histograms (filter=, usedonly, format=json|prometheus, type=)"},
	{"GET", "/stats/prometheus", prometheus, "the same for Prometheus"},
};
enum { N_COMMANDS = sizeof(commands) / sizeof(*commands) };

static int handle(void *owner, const struct weft_http_req *r, struct evbuffer *out,
		  const char **ret_type)
{
	bool found = false;
	int i;

	for (i = 0; i < N_COMMANDS; i++) {
		if (strcmp(r->path, commands[i].path))
			continue;
		found = true;
		if (!strcmp(r->method, commands[i].method))
			return commands[i].run(owner, r, out, ret_type);
	}
	if (found) {
		evbuffer_add_printf(out, "Method Not Allowed\n");
		return 405;
	}
	evbuffer_add_printf(out, "%sadmin commands are:\n",
			    strcmp(r->path, "/") ? "invalid path. " : "");
	for (i = 0; i < N_COMMANDS; i++)
		evbuffer_add_printf(out, "  %s (%s): %s\n", commands[i].path, commands[i].method,
				    commands[i].help);
	return strcmp(r->path, "/") && strcmp(r->path, "/help") ? 404 : 200;
}

struct waypoint_admin *waypoint_admin_new(struct waypoint *w, struct weft_err *reterr)
{
	const Envoy__Config__Bootstrap__V3__Admin *m = w->boot.msg->admin;
	const char *path = w->opt.admin_path;
	struct weft_listen_conf lc = {.unix_mode = 0600};
	struct waypoint_admin *a;
	int fd;

	reterr->code = 0;
	if (!path && m && m->address &&
	    m->address->address_case == ENVOY__CONFIG__CORE__V3__ADDRESS__ADDRESS_PIPE)
		path = m->address->pipe->path;
	if (!path) {
		if (m && m->address)
			weft_fail(reterr, NULL, EINVAL, "admin.address: must be a pipe");
		return NULL;
	}
	lc.unix_path = path;
	if (weft_listen(&lc, &fd, reterr) < 0)
		return NULL;
	a = weft_xcalloc(1, sizeof(*a));
	a->w = w;
	a->path = weft_xstrdup(path);
	a->http = weft_http_admin_new(w->main->base, fd, handle, a);
	return a;
}

void waypoint_admin_free(struct waypoint_admin *a)
{
	if (!a)
		return;
	weft_http_admin_free(a->http);
	unlink(a->path);
	free(a->path);
	free(a);
}
