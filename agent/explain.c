#include "agent/explain_int.h"

#include "proxy/core/arena.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_BYTES = 512 };

/* ---- who is meant */

static const struct weft_ip *addr_like(const struct weft_workload *w, uint8_t family)
{
	for (size_t i = 0; i < w->n_addrs; i++)
		if (w->addrs[i].family == family)
			return &w->addrs[i];
	return w->n_addrs ? &w->addrs[0] : NULL;
}

/* "ns/name" in two; false: not of that form */
static bool split(const char *s, char *ns, char *name)
{
	const char *slash = strchr(s, '/');

	if (!slash || slash == s || !slash[1] || strchr(slash + 1, '/') ||
	    strlen(s) >= NAME_MAX_BYTES)
		return false;
	snprintf(ns, NAME_MAX_BYTES, "%.*s", (int)(slash - s), s);
	snprintf(name, NAME_MAX_BYTES, "%s", slash + 1);
	return true;
}

static int source_find(struct explain *t, struct weft_err *e)
{
	char ns[NAME_MAX_BYTES], name[NAME_MAX_BYTES];

	if (!weft_ip_parse(t->src_text, &t->src_ip)) {
		t->src =
			weft_model_workload_by_ip(t->m, weft_store_mesh(t->s)->network, &t->src_ip);
		return 0;
	}
	if (!split(t->src_text, ns, name))
		return weft_fail(e, NULL, EINVAL,
				 "source: must be namespace/pod or an address, is \"%.100s\"",
				 t->src_text);
	t->src = weft_model_workload_by_pod(t->m, ns, name, NULL);
	if (!t->src)
		return weft_fail(e, NULL, ENOENT,
				 "source: there is no pod %.60s/%.60s with an address", ns, name);
	return 0;
}

/* A name as the source's resolver would complete it. */
static const struct weft_service *host_find(const struct explain *t, const char *host)
{
	const char *domain = weft_store_mesh(t->s)->cluster_domain, *ns = t->src ? t->src->ns : "";
	const struct weft_service *s = weft_model_service_by_host(t->m, host, ns);
	char full[NAME_MAX_BYTES];

	if (!s && *ns && !strchr(host, '.') &&
	    snprintf(full, sizeof(full), "%s.%s.svc.%s", host, ns, domain) < NAME_MAX_BYTES)
		s = weft_model_service_by_host(t->m, full, ns);
	if (!s && snprintf(full, sizeof(full), "%s.svc.%s", host, domain) < NAME_MAX_BYTES)
		s = weft_model_service_by_host(t->m, full, ns);
	if (!s && snprintf(full, sizeof(full), "%s.%s", host, domain) < NAME_MAX_BYTES)
		s = weft_model_service_by_host(t->m, full, ns);
	return s;
}

/* The address that is dialled for a service: a VIP, or what DNS says of one without: an endpoint's.
 */
static int service_dial(struct explain *t, const struct weft_service *s, struct weft_err *e)
{
	const char *network = weft_store_mesh(t->s)->network;
	uint8_t family = t->src && t->src->n_addrs ? t->src->addrs[0].family : t->src_ip.family;
	struct weft_route_query q = {
		.src = t->src, .src_ip = t->src_ip, .dst = {{.family = family}, t->dst.port}};
	const struct weft_ip *any = NULL;

	for (size_t i = 0; i < s->n_vips; i++) {
		const struct weft_service_vip *v = &s->vips[i];

		if (strcmp(v->network, network) != 0 ||
		    v->cidr.len != weft_ip_bytes(&v->cidr.ip) * 8)
			continue;
		if (!any || (any->family != family && v->cidr.ip.family == family))
			any = &v->cidr.ip;
	}
	t->svc = s;
	if (any) {
		t->dst.ip = *any;
		return 0;
	}
	t->all_choices = weft_route_choices(t->m, &q, s, t->choices, EXPLAIN_CHOICES);
	for (size_t i = 0; i < t->all_choices && i < EXPLAIN_CHOICES; i++) {
		const struct weft_ip *ip = addr_like(t->choices[i].w, family);

		if (ip && t->choices[i].w->healthy) {
			t->dst = (struct weft_sockaddr){*ip, t->choices[i].target.port
								     ? t->choices[i].target.port
								     : t->dst.port};
			t->svc = NULL; /* from here on it is the pod that is dialled */
			t->all_choices = 0;
			return 0;
		}
	}
	return weft_fail(
		e, NULL, ENOENT,
		"destination: %.120s has no address, and no endpoint that could stand for it",
		s->key);
}

static int name_find(struct explain *t, const char *host, struct weft_err *e)
{
	char ns[NAME_MAX_BYTES], name[NAME_MAX_BYTES], full[4 * NAME_MAX_BYTES];
	const struct weft_service *s = NULL;
	const struct weft_workload *w;
	const struct weft_ip *ip;

	if (!split(host, ns, name)) {
		s = strchr(host, '/') ? NULL : host_find(t, host);
		if (s)
			return service_dial(t, s, e);
		return weft_fail(e, NULL, ENOENT,
				 "destination: there is no service with host name \"%.100s\"",
				 host);
	}
	snprintf(full, sizeof(full), "%s/%s.%s.svc.%s", ns, name, ns,
		 weft_store_mesh(t->s)->cluster_domain);
	s = weft_model_service(t->m, full);
	if (s)
		return service_dial(t, s, e);
	w = weft_model_workload_by_pod(t->m, ns, name, NULL);
	ip = w ? addr_like(w,
			   t->src && t->src->n_addrs ? t->src->addrs[0].family : t->src_ip.family)
	       : NULL;
	if (!ip)
		return weft_fail(
			e, NULL, ENOENT,
			"destination: there is no service and no pod %.60s/%.60s with an address",
			ns, name);
	t->dst.ip = *ip;
	t->dst_w = w;
	return 0;
}

static int destination_find(struct explain *t, struct weft_err *e)
{
	const char *colon = strrchr(t->dst_text, ':');
	const char *network = weft_store_mesh(t->s)->network;
	char host[NAME_MAX_BYTES], *end;
	unsigned long port;
	int err;

	if (!weft_sockaddr_parse(t->dst_text, &t->dst)) {
		t->svc = weft_model_service_by_ip(t->m, network, &t->dst.ip,
						  t->src ? t->src->ns : "");
		t->dst_w = weft_model_workload_by_ip(t->m, network, &t->dst.ip);
		return 0;
	}
	port = colon ? strtoul(colon + 1, &end, 10) : 0;
	if (!colon || colon == t->dst_text || colon[1] < '0' || colon[1] > '9' || *end ||
	    port < 1 || port > 65535 || colon - t->dst_text >= NAME_MAX_BYTES)
		return weft_fail(e, NULL, EINVAL,
				 "destination: must be namespace/name, a host name or an address, "
				 "then :port 1..65535, is \"%.100s\"",
				 t->dst_text);
	snprintf(host, sizeof(host), "%.*s", (int)(colon - t->dst_text), t->dst_text);
	t->dst.port = (uint16_t)port;
	err = name_find(t, host, e);
	if (!err && !t->dst_w)
		t->dst_w = weft_model_workload_by_ip(t->m, network, &t->dst.ip);
	return err;
}

/* ---- what happens */

static void check_at(struct explain *t, const struct weft_workload *w, const char *peer)
{
	struct weft_authz_query q = {.src = t->src_ip, .dst = t->target, .peer = peer};

	t->checked = true;
	weft_authz_check(t->m, w, &q, &t->v, t->steps, WEFT_STEPS_MAX);
	t->allow = t->v.allow;
	t->reason = t->v.reason;
}

/* Not captured: the kernel's own way. At an enrolled pod it arrives as plaintext, without identity.
 */
static void plain_source(struct explain *t)
{
	const struct weft_workload *w = t->dst_w;

	t->route.kind = WEFT_ROUTE_PASSTHROUGH;
	t->route.dial = t->target = t->dst;
	t->allow = true;
	for (size_t i = 0; t->svc && i < t->n_choices; i++) {
		if (t->choices[i].why_not)
			continue;
		w = t->choices[i].w;
		t->target = t->choices[i].target;
		break;
	}
	t->route.endpoint = w;
	if (!w || !w->hbone)
		return;
	if (weft_port_is_own(t->target.port)) {
		t->allow = false;
		t->reason = WEFT_REASON_ILLEGAL_PORT;
		return;
	}
	check_at(t, w, NULL);
}

static void mesh_source(struct explain *t, const struct weft_route_query *q)
{
	weft_route_pick(t->m, q, &t->route);
	t->allow = t->route.kind != WEFT_ROUTE_REFUSE;
	t->reason = t->route.reason;
	t->target = t->route.dial;
	if (t->route.kind != WEFT_ROUTE_HBONE)
		return;
	weft_sockaddr_parse(t->route.authority, &t->target);
	if (!t->route.via_waypoint)
		check_at(t, t->route.endpoint, *t->src->identity ? t->src->identity : NULL);
}

static void decide(struct explain *t)
{
	struct weft_route_query q = {.src = t->src, .dst = t->dst};
	const struct weft_ip *own = t->src ? addr_like(t->src, t->dst.ip.family) : NULL;
	/* an address that is no pod's still has neighbours: everything is as far */
	struct weft_workload nobody = {.ns = "",
				       .region = "",
				       .zone = "",
				       .subzone = "",
				       .node = "",
				       .cluster = "",
				       .network = ""};

	if (own && !t->src_ip.family)
		t->src_ip = *own;
	q.src_ip = t->src_ip;
	if (!q.src)
		q.src = &nobody;
	if (t->svc) {
		t->all_choices = weft_route_choices(t->m, &q, t->svc, t->choices, EXPLAIN_CHOICES);
		t->n_choices = t->all_choices < EXPLAIN_CHOICES ? t->all_choices : EXPLAIN_CHOICES;
	}
	if (t->src && t->src->hbone)
		mesh_source(t, &q);
	else
		plain_source(t);
}

int weft_explain_request(const struct weft_store *s, const struct weft_explain_http *http,
			 struct json_t **ret, char **ret_text, struct weft_err *reterr)
{
	struct explain *t = weft_xcalloc(1, sizeof(*t));
	int err;

	*t = (struct explain){.s = s,
			      .m = weft_store_model(s),
			      .src_text = http->src,
			      .dst_text = http->dst,
			      .reason = WEFT_REASON_OK};
	t->v.rule = -1;
	err = source_find(t, reterr);
	if (!err)
		err = destination_find(t, reterr);
	if (!err) {
		decide(t);
		t->waypoint = explain_waypoint(t, http);
		explain_say(t);
		*ret = explain_json(t);
		if (!*ret)
			err = weft_fail(reterr, NULL, ENOMEM,
					"the explanation cannot be written as JSON");
		else if (ret_text)
			*ret_text = explain_text(*ret);
	}
	free(t);
	return err;
}

int weft_explain(const struct weft_store *s, const char *src, const char *dst, struct json_t **ret,
		 char **ret_text, struct weft_err *reterr)
{
	const struct weft_explain_http http = {
		.src = src, .dst = dst, .method = "GET", .path = "/"};

	return weft_explain_request(s, &http, ret, ret_text, reterr);
}
