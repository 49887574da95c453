/* admin.sock: what the agent knows, as JSON; pods added and removed. GET unless said otherwise. */
#include "agent/agent.h"
#include "agent/explain.h"
#include "agent/podsock.h"
#include "proxy/core/arena.h"
#include "proxy/core/log.h"
#include "proxy/core/version.h"
#include "proxy/core/worker.h"
#include "proxy/net/http_admin.h"
#include "xds/proto/workload.pb-c.h"
#include "xds/yaml.h"
#include <errno.h>
#include <event2/event.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static json_t *str(const char *s)
{
	json_t *j = json_string(s ? s : "");

	return j ? j : json_string("(not UTF-8)");
}

/* ---- pieces */

static json_t *pod_json(const struct weft_pod *pod)
{
	static const char *const states[] = {"pending", "captured", "failed"};
	json_t *j = json_object(), *addrs = json_array(), *listeners = json_array();
	char text[WEFT_IP_TEXT];
	size_t i;
	int k;

	for (i = 0; i < pod->n_addrs; i++)
		json_array_append_new(addrs, str(weft_ip_text(&pod->addrs[i], text, sizeof(text))));
	for (k = 1; k <= WEFT_POD_LISTENERS; k++)
		if (pod->listeners[k - 1] >= 0)
			json_array_append_new(listeners, str(weft_podsock_name(k)));
	json_object_set_new(j, "uid", str(pod->uid));
	json_object_set_new(j, "namespace", str(pod->ns));
	json_object_set_new(j, "name", str(pod->name));
	json_object_set_new(j, "service_account", str(pod->sa));
	json_object_set_new(j, "trust_domain", str(pod->trust_domain));
	json_object_set_new(j, "netns", str(pod->netns_path));
	json_object_set_new(j, "cookie", json_integer((json_int_t)pod->cookie));
	json_object_set_new(j, "addresses", addrs);
	json_object_set_new(j, "listeners", listeners);
	json_object_set_new(j, "state", str(states[pod->state]));
	if (pod->err.code)
		json_object_set_new(j, "error", str(pod->err.msg));
	return j;
}

static json_t *pods_json(struct weft_agent *a)
{
	json_t *all = json_array();
	const struct weft_pod *pod;

	for (pod = weft_pods_first(a->pods); pod; pod = pod->next)
		json_array_append_new(all, pod_json(pod));
	return all;
}

static void bad_file(void *ctx, const char *name, int n_errors, const char *text)
{
	json_array_append_new(ctx, json_pack("{s:o,s:i,s:o}", "file", str(name), "errors", n_errors,
					     "text", str(text)));
}

/* Every message that holds now: files not in use, then objects left out. */
static json_t *errors_json(struct weft_agent *a)
{
	char text[sizeof(struct weft_err) + 8];
	json_t *all = json_array();
	int i;

	weft_source_file_each_bad(a->source, bad_file, all);
	for (i = 0; i < a->errs.n; i++)
		json_array_append_new(
			all, json_pack("{s:o}", "text",
				       str(weft_err_text(&a->errs.v[i], text, sizeof(text)))));
	return all;
}

static json_t *config_json(struct weft_agent *a)
{
	struct weft_source_file_stat st;

	weft_source_file_stat(a->source, &st);
	return json_pack("{s:o,s:i,s:i,s:i,s:I,s:b,s:I,s:o}", "folder", str(a->opt->config),
			 "files", (int)st.files, "bad_files", (int)st.bad_files, "objects",
			 (int)st.objects, "reloads", (json_int_t)st.reloads, "folder_gone",
			 (int)st.folder_gone, "errors_since_start", (json_int_t)a->config_errors,
			 "errors", errors_json(a));
}

static json_t *counters_json(struct weft_agent *a)
{
	struct weft_bpf_counters c = {0};

	if (weft_bpf_counters(a->bpf, &c) < 0)
		return json_null();
#define N(f) #f, (json_int_t)c.f
	return json_pack(
		"{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}",
		N(captured), N(passed), N(denied_full), N(denied_storage), N(inbound_steered),
		N(inbound_dropped), N(selfc), N(orphans), N(tuples), N(selfc_entries), N(exempt),
		N(denied_family), N(tuple_lost), N(selfc_lost), N(accepted), N(reclaimed),
		N(inbound_closed), N(inbound_lost), N(load_missing));
#undef N
}

static json_t *ca_json(struct weft_agent *a)
{
	return json_pack("{s:I,s:i,s:s}", "not_after", (json_int_t)weft_ca_not_after(a->ca),
			 "roots", (int)weft_ca_n_roots(a->ca), "roots_pem", weft_ca_roots(a->ca));
}

static json_t *xds_json(struct weft_agent *a)
{
	json_t *j = json_pack("{s:i,s:I,s:o}", "clients", (int)weft_xds_server_clients(a->xds),
			      "refused", (json_int_t)a->nacks, "last_refused", str(a->last_nack));

	json_object_set_new(
		j, "addresses",
		json_integer((json_int_t)weft_xds_server_count(a->xds, &weft_xds_type_address)));
	json_object_set_new(j, "policies",
			    json_integer((json_int_t)weft_xds_server_count(
				    a->xds, &weft_xds_type_authorization)));
	json_object_set_new(
		j, "secrets",
		json_integer((json_int_t)weft_xds_server_count(a->xds, &weft_xds_type_secret)));
	return j;
}

static json_t *status_json(struct weft_agent *a)
{
	const struct weft_store_mesh *mesh = weft_store_mesh(a->store);
	json_t *j =
		json_pack("{s:s,s:i,s:o,s:o,s:I}", "version", WEFT_VERSION, "pid", (int)getpid(),
			  "node", str(a->opt->node), "instance", str(a->opt->instance), "uptime_ms",
			  (json_int_t)((weft_now_ns() - a->start_ns) / 1000000));

	json_object_set_new(j, "synced", json_boolean(a->synced));
	json_object_set_new(j, "mesh",
			    json_pack("{s:o,s:o,s:o,s:o,s:o}", "trust_domain",
				      str(mesh->trust_domain), "root_namespace",
				      str(mesh->root_namespace), "network", str(mesh->network),
				      "cluster_domain", str(mesh->cluster_domain), "source",
				      str(mesh->source)));
	json_object_set_new(j, "config", config_json(a));
	json_object_set_new(j, "xds", xds_json(a));
	json_object_set_new(j, "proxy",
			    json_pack("{s:b,s:i}", "connected",
				      (int)weft_broker_proxy_connected(a->broker), "pid",
				      (int)weft_broker_proxy_pid(a->broker)));
	json_object_set_new(j, "pods", pods_json(a));
	json_object_set_new(j, "certificates", weft_certs_json(a->certs));
	json_object_set_new(j, "ca", ca_json(a));
	json_object_set_new(j, "counters", counters_json(a));
	return j;
}

/* ---- dump */

static bool of_kind(const struct weft_store_resource *r, const char *what)
{
	const Istio__Workload__Address *addr = (const Istio__Workload__Address *)r->msg;

	if (!*what)
		return true;
	if (r->type == &weft_xds_type_authorization)
		return !strcmp(what, "policies");
	if (r->type != &weft_xds_type_address)
		return false;
	if (addr->type_case == ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE)
		return !strcmp(what, "services");
	return !strcmp(what, "workloads");
}

static int dump_resources(struct weft_agent *a, const char *what, struct evbuffer *out,
			  const char **ret_type)
{
	const struct weft_store_resource *v;
	size_t n = weft_store_resources(a->store, &v), i;
	json_t *all = json_array();

	for (i = 0; i < n; i++) {
		char *text;
		json_t *m;

		if (!v[i].msg || !of_kind(&v[i], what))
			continue;
		text = weft_yaml_encode(v[i].msg, true);
		m = text ? json_loads(text, 0, NULL) : NULL;
		free(text);
		json_array_append_new(all,
				      json_pack("{s:s,s:o,s:o,s:o}", "type", v[i].type->brief,
						"name", str(v[i].name), "source", str(v[i].source),
						"resource", m ? m : json_null()));
	}
	return weft_http_json(out, ret_type, all);
}

static int dump_config(struct weft_agent *a, struct evbuffer *out, const char **ret_type)
{
	const struct weft_objects *set = weft_source_file_set(a->source);
	json_t *all = json_array();
	size_t i;

	for (i = 0; set && i < set->n; i++) {
		const struct weft_object *o = &set->v[i];
		char *text = weft_yaml_encode(o->msg, true);
		json_t *m = text ? json_loads(text, 0, NULL) : NULL;

		free(text);
		json_array_append_new(all, json_pack("{s:s,s:o,s:o,s:o,s:i,s:o}", "kind",
						     o->kind->kind, "namespace", str(o->ns), "name",
						     str(o->name), "file", str(o->file), "line",
						     o->line, "object", m ? m : json_null()));
	}
	return weft_http_json(out, ret_type, all);
}

/* ---- requests */

static int on_dump(struct weft_agent *a, const struct weft_http_req *r, struct evbuffer *out,
		   const char **ret_type)
{
	char what[32] = "";

	if (weft_http_query(r->query, "what", what, sizeof(what)) == -E2BIG)
		what[0] = '?';
	if (!strcmp(what, "certs"))
		return weft_http_json(out, ret_type,
				      json_pack("{s:o,s:o}", "certificates",
						weft_certs_json(a->certs), "ca", ca_json(a)));
	if (!strcmp(what, "config"))
		return dump_config(a, out, ret_type);
	if (!*what || !strcmp(what, "workloads") || !strcmp(what, "services") ||
	    !strcmp(what, "policies"))
		return dump_resources(a, what, out, ret_type);
	evbuffer_add_printf(out, "what: must be workloads, services, policies, certs or config\n");
	return 400;
}

/* What is not given stays as it is. */
static bool query_text(const char *query, const char *key, char *dst, size_t cap)
{
	char *text = weft_xcalloc(1, cap);
	int r = weft_http_query(query, key, text, cap);

	if (!r)
		memcpy(dst, text, cap);
	free(text);
	return !r || r == -ENOENT;
}

static int on_explain(struct weft_agent *a, const struct weft_http_req *r, struct evbuffer *out,
		      const char **ret_type)
{
	char src[512], dst[512], method[32] = "GET", path[2048] = "/", headers[4096] = "";
	char *text = NULL;
	struct weft_explain_http http = {src, dst, method, path, headers};
	struct weft_err e = {0};
	json_t *j = NULL;
	int x;

	if (weft_http_query(r->query, "src", src, sizeof(src)) < 0 ||
	    weft_http_query(r->query, "dst", dst, sizeof(dst)) < 0) {
		evbuffer_add_printf(out, "src and dst: must be given\n");
		return 400;
	}
	if (!query_text(r->query, "method", method, sizeof(method)) ||
	    !query_text(r->query, "path", path, sizeof(path)) ||
	    !query_text(r->query, "headers", headers, sizeof(headers))) {
		evbuffer_add_printf(out, "method, path or headers: too long, or no text\n");
		return 400;
	}
	x = weft_explain_request(a->store, &http, &j, &text, &e);
	if (x < 0) {
		evbuffer_add_printf(out, "%s\n", e.msg);
		return x == -ENOENT ? 404 : 400;
	}
	json_object_set_new(j, "text", str(text));
	free(text);
	return weft_http_json(out, ret_type, j);
}

static int reply_text(struct evbuffer *out, const char **ret_type, int status, char *text)
{
	if (text)
		evbuffer_add(out, text, strlen(text));
	if (status == 200)
		*ret_type = "application/json";
	free(text);
	return status;
}

static int on_pod_add(struct weft_agent *a, const struct weft_http_req *r, struct evbuffer *out,
		      const char **ret_type)
{
	char *text = NULL;
	int status = weft_podfile_add(a, r->body, r->body_n, &text);

	return reply_text(out, ret_type, status, text);
}

static int on_pod_remove(struct weft_agent *a, const struct weft_http_req *r, struct evbuffer *out,
			 const char **ret_type)
{
	char pod[600], *text = NULL;
	int status;

	if (weft_http_query(r->query, "pod", pod, sizeof(pod)) < 0) {
		evbuffer_add_printf(out, "pod: must be given, as NAMESPACE/NAME\n");
		return 400;
	}
	status = weft_podfile_remove(a, pod, &text);
	return reply_text(out, ret_type, status, text);
}

static int on_unenroll(struct weft_agent *a, const struct weft_http_req *r, struct evbuffer *out,
		       const char **ret_type)
{
	const struct timeval soon = {.tv_usec = 50000}; /* the answer goes out first */
	json_t *pods = pods_json(a);
	size_t n = json_array_size(pods);

	(void)r;
	json_decref(pods);
	weft_log(WEFT_LOG_WARN, "unenroll: every pod is released, the agent ends");
	weft_agent_release(a);
	a->unenroll = true;
	event_base_loopexit(a->base, &soon);
	return weft_http_json(out, ret_type, json_pack("{s:i}", "released", (int)n));
}

#define GET_JSON(name, expr)                                                                       \
	static int name(struct weft_agent *a, const struct weft_http_req *r, struct evbuffer *out, \
			const char **ret_type)                                                     \
	{                                                                                          \
		(void)r;                                                                           \
		return weft_http_json(out, ret_type, expr);                                        \
	}
GET_JSON(on_status, status_json(a))
GET_JSON(on_pods, pods_json(a))
GET_JSON(on_errors, errors_json(a))
GET_JSON(on_counters, counters_json(a))
GET_JSON(on_certs, weft_certs_json(a->certs))
GET_JSON(on_gateways, json_deep_copy(weft_store_status(a->store)))
GET_JSON(on_health, json_pack("{s:b}", "synced", (int)a->synced))

static const struct {
	const char *path, *method;
	int (*fn)(struct weft_agent *a, const struct weft_http_req *r, struct evbuffer *out,
		  const char **ret_type);
} requests[] = {
	{"/status", "GET", on_status},
	{"/pods", "GET", on_pods},
	{"/dump", "GET", on_dump},
	{"/explain", "GET", on_explain},
	{"/config/errors", "GET", on_errors},
	{"/counters", "GET", on_counters},
	{"/certs", "GET", on_certs},
	{"/gateways", "GET", on_gateways},
	{"/healthz", "GET", on_health},
	{"/pods/add", "POST", on_pod_add},
	{"/pods/remove", "POST", on_pod_remove},
	{"/unenroll", "POST", on_unenroll},
};

static int handle(void *owner, const struct weft_http_req *r, struct evbuffer *out,
		  const char **ret_type)
{
	size_t i;

	for (i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		if (strcmp(requests[i].path, r->path))
			continue;
		if (!strcmp(requests[i].method, r->method))
			return requests[i].fn(owner, r, out, ret_type);
		evbuffer_add_printf(out, "%s: must be asked by %s\n", r->path, requests[i].method);
		return 405;
	}
	evbuffer_add_printf(out, "%s: not known here\n", r->path);
	return 404;
}

int weft_agent_admin_open(struct weft_agent *a, struct weft_err *reterr)
{
	int fd = weft_agent_listen(a, "admin.sock", geteuid(), reterr);

	if (fd < 0)
		return fd;
	a->admin = weft_http_admin_new(a->base, fd, handle, a);
	return a->admin ? 0 : weft_fail(reterr, NULL, EIO, "admin socket");
}
