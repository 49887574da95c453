/* One HTTP filter in a connection manager whose terminal filter answers as it is told: hcm_fix.h
 * with configuration that was checked as a whole, as files and servers' resources are. */
#pragma once
#include "test/unit/proxy/http/hcm_fix.h"

#define TYPE	  "\"@type\": type.googleapis.com/envoy.extensions.filters.http."
#define GET(path) "GET " path " HTTP/1.1\r\nhost: a\r\n\r\n"

/* filter: YAML of one item of http_filters, in braces; vhost: of the virtual host, NULL: a route
 * for all, to cluster up. */
static struct env *filter_new(const char *filter, const char *vhost)
{
	static char yaml[12288];

	fix_own_filters = true;
	snprintf(yaml, sizeof(yaml),
		 "  route_config:\n    name: r\n    virtual_hosts:\n    - %s\n"
		 "  http_filters:\n  - %s\n",
		 vhost
			 ?: "{name: all, domains: ['*'], routes: [{match: {prefix: /}, "
			    "route: {cluster: up}}]}",
		 filter);
	return env_new(yaml, 0, false);
}

static struct env *filter_open(const char *filter, const char *vhost)
{
	struct env *e = filter_new(filter, vhost);

	env_connect(e);
	term.status = 200;
	term.body = "ok";
	term.at_end = true;
	return e;
}

/* The configuration is refused, and an error says so. */
static inline void refused(const char *filter, const char *vhost, const char *text)
{
	struct env *e = filter_new(filter, vhost);
	char err[1024];
	bool found = false;

	for (int i = 0; i < e->errs.n; i++) {
		weft_err_text(&e->errs.v[i], err, sizeof(err));
		found |= strstr(err, text) != NULL;
		if (!found)
			print_message("# %s\n", err);
	}
	assert_true(found);
	e->fd = -1;
	env_free(e);
}

static inline int64_t named(const char *cls, const char *name, const char *item)
{
	struct evbuffer *out = evbuffer_new();
	struct weft_scope_query q = {0};
	char full[256], *text, *at;
	int64_t v = -1;

	snprintf(full, sizeof(full), "%s%s%s.%s: ", cls, *cls ? "." : "", name, item);
	weft_scope_text(out, &q);
	evbuffer_add(out, "", 1);
	text = (char *)evbuffer_pullup(out, -1);
	at = strstr(text, full);
	if (at && (at == text || at[-1] == '\n'))
		v = atoll(at + strlen(full));
	evbuffer_free(out);
	return v;
}
