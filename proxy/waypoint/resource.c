/* --mode validate of files that hold resources: what path_config_source names. */
#include "proxy/waypoint/resource.h"

#include "xds/proto/envoy/config/bootstrap/v3/bootstrap.pb-c.h"
#include "xds/proto/envoy/service/discovery/v3/discovery.pb-c.h"
#include "xds/wire.h"
#include "xds/yaml.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef Envoy__Service__Discovery__V3__DiscoveryResponse response_msg;

static char *slurp(const char *path, size_t max, size_t *ret_n)
{
	FILE *f = fopen(path, "re");
	char *text = f ? weft_xcalloc(1, max + 1) : NULL;

	if (!f)
		return NULL;
	*ret_n = fread(text, 1, max, f);
	fclose(f);
	return text;
}

/* At the beginning of a line, or in what begins as JSON. */
static bool has_key(const char *text, const char *key)
{
	size_t n = strlen(key);
	const char *p, *before, *after;

	for (p = strstr(text, key); p; p = strstr(p + 1, key)) {
		bool quoted = p > text && (p[-1] == '"' || p[-1] == '\'') && p[n] == p[-1];

		before = p - quoted;
		after = p + n + quoted;
		after += strspn(after, " \t");
		if (*after == ':' &&
		    (before == text || before[-1] == '\n' || (quoted && *text == '{')))
			return true;
	}
	return false;
}

bool waypoint_is_resources(const char *path)
{
	enum { HEAD = 64 << 10 };
	struct stat st;
	size_t n;
	/* what comes by a pipe can be read once, and so is a bootstrap */
	char *text = path && !stat(path, &st) && S_ISREG(st.st_mode) ? slurp(path, HEAD, &n) : NULL;
	bool yes = text && (has_key(text, "resources") || has_key(text, "@type")) &&
		   !has_key(text, "static_resources") && !has_key(text, "dynamic_resources") &&
		   !has_key(text, "staticResources") && !has_key(text, "dynamicResources");

	free(text);
	return yes;
}

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *api_version, const char *kind,
					      bool *ret_lenient, struct weft_err *reterr)
{
	return ctx;
}

static int one(struct waypoint *w, struct weft_cfg *c, const struct weft_path *at,
	       const ProtobufCMessage *m)
{
	struct weft_routes *routes;
	int err = 0;

	if (weft_cfg_check(c, at, m))
		return -EINVAL;
	if (m->descriptor == &envoy__config__cluster__v3__cluster__descriptor)
		err = weft_clusters_set(w->clusters, c, at, (const void *)m, "", true);
	else if (m->descriptor == &envoy__config__listener__v3__listener__descriptor)
		err = listeners_set(w->listeners, c, at, (const void *)m, weft_arena_new(0), "",
				    true);
	else if (m->descriptor == &envoy__config__route__v3__route_configuration__descriptor)
		err = weft_routes_new(c, at, (const void *)m, &routes);
	else if (m->descriptor ==
		 &envoy__extensions__transport_sockets__tls__v3__secret__descriptor)
		err = secrets_add_static(w->secrets, c, at, (const void *)m);
	else if (m->descriptor != &envoy__config__endpoint__v3__cluster_load_assignment__descriptor)
		err = weft_cfg_fail(c, at, "%s is not a kind of resource that is watched",
				    m->descriptor->name);
	return err < 0 ? err : 0;
}

static int each(struct waypoint *w, struct weft_cfg *c, const response_msg *r)
{
	size_t i;
	int err = 0;

	for (i = 0; i < r->n_resources; i++) {
		struct weft_path p = {NULL, "resources", (int)i}, pr = {&p, "resource", -1},
				 *at = &p;
		const ProtobufCMessage *m = weft_cfg_any(c, &p, r->resources[i], NULL);

		if (m && m->descriptor == &envoy__service__discovery__v3__resource__descriptor) {
			const Envoy__Service__Discovery__V3__Resource *in = (const void *)m;

			at = &pr;
			m = in->resource ? weft_cfg_any(c, at, in->resource, NULL) : NULL;
			if (!in->resource)
				err |= weft_cfg_fail(c, at, "must be set");
		}
		err |= m ? one(w, c, at, m) : -EINVAL;
	}
	return err;
}

int waypoint_resources_validate(struct waypoint *w, struct weft_errs *errs, struct weft_errs *warns)
{
	struct bootstrap *b = &w->boot;
	struct weft_cfg c = {.errs = errs, .warns = warns, .file = true};
	struct weft_yaml_doc *docs = NULL;
	size_t n, n_docs = 0;
	char *text = slurp(w->opt.config_path, WEFT_YAML_BYTES_MAX, &n);
	Envoy__Config__Bootstrap__V3__Bootstrap *empty;
	bool single = text && !has_key(text, "resources");
	int err;

	b->name = w->opt.config_path;
	b->arena = c.arena = weft_arena_new(64 << 10);
	w->main = weft_worker_new(-1, w);
	empty = weft_arena_alloc(b->arena, sizeof(*empty));
	weft_message_init(&envoy__config__bootstrap__v3__bootstrap__descriptor, empty);
	b->msg = empty;
	err = waypoint_build(w, errs, warns);
	err |= text ? weft_yaml_decode_partial(
			      b->arena, b->name, text, n, pick,
			      (void *)(single ? &google__protobuf__any__descriptor
					      : &envoy__service__discovery__v3__discovery_response__descriptor),
			      &docs, &n_docs, errs)
		    : weft_cfg_fail(&c, NULL, "cannot be read");
	b->bad = errs->n;
	if (n_docs == 1) {
		b->doc = &docs[0];
		b->marks = c.marks = docs[0].marks;
		if (single) {
			const ProtobufCMessage *m =
				weft_cfg_any(&c, NULL, (const void *)docs[0].msg, NULL);

			err |= m ? one(w, &c, NULL, m) : -EINVAL;
		} else {
			err |= each(w, &c, (const void *)docs[0].msg);
		}
	} else if (!err) {
		err = weft_cfg_fail(&c, NULL, "must have one document, has %zu", n_docs);
	}
	waypoint_errs_caused(errs, b->bad);
	bootstrap_place(b, errs);
	bootstrap_place(b, warns);
	waypoint_errs_once(errs);
	waypoint_errs_once(warns);
	free(text);
	return err;
}
