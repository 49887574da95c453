#include "proxy/node/state.h"

#include "proxy/core/arena.h"
#include "proxy/core/log.h"
#include "xds/proto/secret.pb-c.h"

#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct weft_state {
	struct weft_node *node;
	struct weft_xds_client *client;
	char *path, *node_name, *network;
	struct weft_model *model;
	struct weft_secrets *secrets;
	struct event *publish;
	uint64_t published_ns, policy_generation;
	bool model_dirty, started, was_up;
	bool addresses_complete, policies_complete; /* each has come in full once */
	char **changed; /* identities whose secret changed since the last publish */
	size_t n_changed;
	uint64_t rejected;
	char last_reject[512];
	struct weft_stat_family *messages, *bytes, *ends, *rejects;
};

/* ---- towards workers */

struct update {
	struct weft_node *node;
	struct weft_model *model; /* NULL: as it was */
	bool policies;
	struct weft_secrets *secrets; /* NULL: as they were */
	size_t n_changed;
	char *changed[];
};

static void on_model_free(struct weft_worker *w, void *arg)
{
	weft_model_unref(arg);
}

static void on_secrets_free(struct weft_worker *w, void *arg)
{
	weft_secrets_unref(arg);
}

/* Between two events of the worker: the pointers change, then what lives is looked at again. What
 * goes is freed by the main thread, whose time is cheaper. */
static void on_update(struct weft_worker *w, void *arg)
{
	struct update *u = arg;
	struct weft_wstate *ws = w->owner;

	if (u->secrets) {
		if (ws->secrets)
			weft_worker_post(u->node->main, on_secrets_free, ws->secrets);
		ws->secrets = u->secrets;
	}
	if (u->model) {
		if (ws->model)
			weft_worker_post(u->node->main, on_model_free, ws->model);
		ws->model = u->model;
		if (ws->stock) /* else the worker ends */
			weft_model_changed(ws, u->policies);
	}
	for (size_t i = 0; i < u->n_changed; i++) {
		if (ws->stock)
			weft_secret_changed(ws, u->changed[i]);
		free(u->changed[i]);
	}
	free(u);
}

/* A part of the first state would be wrong: without all policies it allows, without all addresses
 * it takes the mesh's own for strangers and dials them in plaintext. Until then workers know no
 * workload, and connections wait for theirs. */
static bool model_whole(const struct weft_state *s)
{
	return s->addresses_complete && s->policies_complete;
}

static void post_update(struct weft_state *s, struct weft_worker *w, bool model, bool policies)
{
	struct update *u = weft_xcalloc(1, sizeof(*u) + s->n_changed * sizeof(u->changed[0]));

	u->node = s->node;
	if (model) {
		u->model = weft_model_ref(s->model);
		u->policies = policies;
	}
	if (s->n_changed)
		u->secrets = weft_secrets_ref(s->secrets);
	for (size_t i = 0; i < s->n_changed; i++)
		u->changed[u->n_changed++] = weft_xstrdup(s->changed[i]);
	weft_worker_post(w, on_update, u);
}

void weft_state_publish(struct weft_state *s)
{
	uint64_t generation = weft_model_policy_generation(s->model);
	bool model = s->model_dirty && model_whole(s);

	event_del(s->publish);
	if (model || s->n_changed) {
		for (unsigned i = 0; i < s->node->n_ws; i++)
			post_update(s, s->node->ws[i].w, model, generation != s->policy_generation);
		if (model) {
			s->policy_generation = generation;
			s->model_dirty = false;
		}
		while (s->n_changed)
			free(s->changed[--s->n_changed]);
		s->published_ns = weft_now_ns();
	}
}

static void on_publish(evutil_socket_t fd, short what, void *arg)
{
	weft_state_publish(arg);
}

/* The first change after a pause goes out at the end of this turn; those that follow it closely are
 * joined. */
static void publish_later(struct weft_state *s)
{
	uint64_t since_ms = (weft_now_ns() - s->published_ns) / 1000000;
	unsigned ms =
		since_ms >= WEFT_PUBLISH_JOIN_MS ? 0 : WEFT_PUBLISH_JOIN_MS - (unsigned)since_ms;
	struct timeval tv = {0, ms * 1000};

	if (!event_pending(s->publish, EV_TIMEOUT, NULL))
		event_add(s->publish, &tv);
}

/* ---- from xDS */

static void count(struct weft_state *s, const char *url, const struct weft_xds_resource *up,
		  size_t n_up)
{
	const char *labels[] = {url};
	struct weft_stat *m = weft_stat_get(s->messages, labels);
	struct weft_stat *b = weft_stat_get(s->bytes, labels);

	weft_stat_add(m, 1);
	for (size_t i = 0; i < n_up; i++)
		weft_stat_add(b, (int64_t)up[i].n);
	weft_stat_unref(m);
	weft_stat_unref(b);
}

static void reject(struct weft_state *s, struct weft_xds_reply *c, const char *name,
		   const struct weft_err *why, const char *url)
{
	const char *labels[] = {url};
	struct weft_stat *r = weft_stat_get(s->rejects, labels);
	char text[480];

	weft_stat_add(r, 1);
	weft_stat_unref(r);
	s->rejected++;
	weft_err_text(why, text, sizeof(text));
	snprintf(s->last_reject, sizeof(s->last_reject), "%s", text);
	weft_log(WEFT_LOG_ERROR, "xds: refused resource=\"%s\": %s", name, text);
	weft_xds_reject(c, name, why);
}

static void apply_changes(struct weft_state *s, struct weft_xds_reply *c,
			  const struct weft_xds_type *type, const struct weft_xds_resource *up,
			  size_t n_up, const char *const *removed, size_t n_removed)
{
	bool address = type == &weft_xds_type_address;
	struct weft_change *ch = weft_xcalloc(n_up + n_removed + 1, sizeof(*ch));
	struct weft_model *next;
	size_t n = 0;

	count(s, type->url, up, n_up);
	for (size_t i = 0; i < n_up; i++) {
		ch[n].kind = address ? WEFT_SET_ADDRESS : WEFT_SET_POLICY;
		ch[n].name = up[i].name;
		ch[n++].msg = up[i].msg;
	}
	for (size_t i = 0; i < n_removed; i++) {
		ch[n].kind = address ? WEFT_DEL_ADDRESS : WEFT_DEL_POLICY;
		ch[n++].name = removed[i];
	}
	if (n) {
		next = weft_model_apply(s->model, ch, n);
		for (size_t i = 0; i < n_up; i++)
			if (ch[i].err.code)
				reject(s, c, up[i].name, &ch[i].err, type->url);
		weft_model_unref(s->model);
		s->model = next;
		s->model_dirty = true;
		publish_later(s);
	}
	free(ch);
}

static void apply_address(void *owner, struct weft_xds_reply *c, const struct weft_xds_resource *up,
			  size_t n_up, const char *const *removed, size_t n_removed)
{
	apply_changes(owner, c, &weft_xds_type_address, up, n_up, removed, n_removed);
}

static void apply_policy(void *owner, struct weft_xds_reply *c, const struct weft_xds_resource *up,
			 size_t n_up, const char *const *removed, size_t n_removed)
{
	apply_changes(owner, c, &weft_xds_type_authorization, up, n_up, removed, n_removed);
}

static void secrets_swap(struct weft_state *s, struct weft_secrets *next, const char *identity)
{
	weft_secrets_unref(s->secrets);
	s->secrets = next;
	s->changed = weft_xrealloc(s->changed, (s->n_changed + 1) * sizeof(*s->changed));
	s->changed[s->n_changed++] = weft_xstrdup(identity);
	publish_later(s);
}

static void apply_secret(void *owner, struct weft_xds_reply *c, const struct weft_xds_resource *up,
			 size_t n_up, const char *const *removed, size_t n_removed)
{
	struct weft_state *s = owner;

	count(s, weft_xds_type_secret.url, up, n_up);
	for (size_t i = 0; i < n_up; i++) {
		struct weft_secret *new = NULL;
		struct weft_err why = {0};

		if (weft_secret_make(up[i].name, (const Envoy__Tls__Secret *)up[i].msg, &new,
				     &why)) {
			reject(s, c, up[i].name, &why, weft_xds_type_secret.url);
			continue;
		}
		weft_log(WEFT_LOG_INFO, "certificate identity=%s serial=%lu", new->identity,
			 (unsigned long)new->serial);
		secrets_swap(s, weft_secrets_with(s->secrets, new), up[i].name);
	}
	for (size_t i = 0; i < n_removed; i++)
		if (weft_secrets_find(s->secrets, removed[i]))
			secrets_swap(s, weft_secrets_without(s->secrets, removed[i]), removed[i]);
}

static void told_connected(void *owner, bool up)
{
	struct weft_state *s = owner;
	const char *labels[] = {"Reconnect"};
	struct weft_stat *n;

	if (!up && s->was_up) {
		n = weft_stat_get(s->ends, labels);
		weft_stat_add(n, 1);
		weft_stat_unref(n);
	}
	if (up != s->was_up)
		weft_log(up ? WEFT_LOG_INFO : WEFT_LOG_WARN,
			 up ? "xds: connected" : "xds: no connection; the last state is kept");
	s->was_up = up;
}

static void told_addresses_complete(void *owner)
{
	struct weft_state *s = owner;

	s->addresses_complete = true;
	publish_later(s);
}

static void told_policies_complete(void *owner)
{
	struct weft_state *s = owner;

	s->policies_complete = true;
	publish_later(s);
}

static const struct weft_xds_sink address_sink = {
	.apply = apply_address, .connected = told_connected, .complete = told_addresses_complete};
static const struct weft_xds_sink policy_sink = {.apply = apply_policy,
						 .complete = told_policies_complete};
static const struct weft_xds_sink secret_sink = {.apply = apply_secret};

static struct weft_stat_family *family(const char *name, const char *help,
				       const char *const *labels)
{
	return weft_stat_family_new(name, help, WEFT_STAT_COUNTER, labels);
}

struct weft_state *weft_state_new(struct weft_node *n, const char *xds_path)
{
	static const char *const url[] = {"url", NULL}, *const reason[] = {"reason", NULL};
	struct weft_state *s = weft_xcalloc(1, sizeof(*s));

	s->node = n;
	s->path = weft_xstrdup(xds_path);
	s->model = weft_model_empty("");
	s->secrets = weft_secrets_new();
	s->publish = evtimer_new(n->main->base, on_publish, s);
	if (!s->publish)
		abort(); /* memory is out */
	s->messages = family("istio_xds_message", "Responses received from the xDS server", url);
	s->bytes = family("istio_xds_message_bytes", "Bytes of resources received", url);
	s->ends = family("istio_xds_connection_terminations", "Ends of the xDS stream", reason);
	s->rejects = family("weft_xds_rejected", "Resources refused", url);
	return s;
}

void weft_state_welcome(struct weft_state *s, const char *node, const char *network)
{
	struct weft_xds_client_conf conf = {.path = s->path};
	char id[640];

	if (s->started) {
		if (strcmp(s->node_name, node) != 0 || strcmp(s->network, network) != 0)
			weft_log(WEFT_LOG_ERROR,
				 "the agent now says node=%s network=\"%s\", was node=%s "
				 "network=\"%s\": restart the proxy",
				 node, network, s->node_name, s->network);
		return;
	}
	s->started = true;
	s->node_name = weft_xstrdup(node);
	s->network = weft_xstrdup(network);
	weft_model_unref(s->model);
	s->model = weft_model_empty(network);
	s->model_dirty = true;
	publish_later(s);
	snprintf(id, sizeof(id),
		 "ztunnel~1.1.1.1~weft-proxy-%s.weft-system~weft-system.svc.cluster.local", node);
	conf.node_id = id;
	conf.node_name = s->node_name;
	s->client = weft_xds_client_new(s->node->main->base, &conf);
	weft_xds_subscribe(s->client, &weft_xds_type_authorization, &policy_sink, s);
	weft_xds_subscribe(s->client, &weft_xds_type_secret, &secret_sink, s);
	weft_xds_subscribe(s->client, &weft_xds_type_address, &address_sink, s);
	weft_xds_client_start(s->client);
}

void weft_state_free(struct weft_state *s)
{
	if (!s)
		return;
	if (s->client)
		weft_xds_client_free(s->client);
	event_free(s->publish);
	weft_model_unref(s->model);
	weft_secrets_unref(s->secrets);
	while (s->n_changed)
		free(s->changed[--s->n_changed]);
	free(s->changed);
	free(s->path);
	free(s->node_name);
	free(s->network);
	free(s);
}

const struct weft_model *weft_state_model(const struct weft_state *s)
{
	return s->model;
}

const struct weft_secrets *weft_state_secrets(const struct weft_state *s)
{
	return s->secrets;
}

bool weft_state_ready(const struct weft_state *s)
{
	return s->client && weft_xds_ready(s->client) && !s->model_dirty && !s->n_changed;
}

bool weft_state_connected(const struct weft_state *s)
{
	return s->client && weft_xds_connected(s->client);
}

uint64_t weft_state_rejected(const struct weft_state *s)
{
	return s->rejected;
}

const char *weft_state_last_reject(const struct weft_state *s)
{
	return s->last_reject;
}
