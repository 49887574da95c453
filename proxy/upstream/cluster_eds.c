/* Endpoints by EDS. */
#include "proxy/core/arena.h"
#include "proxy/upstream/cluster_int.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

typedef Envoy__Config__Endpoint__V3__ClusterLoadAssignment Assignment;

static const char *service_of(const struct slot *s)
{
	const char *name = s->cluster->msg->eds_cluster_config->service_name;

	return name && *name ? name : s->cluster->name;
}

static struct eds *eds_find(struct weft_clusters *m, const char *service)
{
	struct eds *e;

	HASH_FIND(hh, m->services, service, strlen(service), e);
	return e;
}

void slot_eds_start(struct slot *s)
{
	struct weft_clusters *m = slot_manager(s);
	const char *service = service_of(s);
	struct eds *e = eds_find(m, service);
	struct slot *other = e ? LIST_FIRST(&e->slots) : NULL;
	bool fresh = !e;

	if (!e) {
		e = weft_xcalloc(1, sizeof(*e) + strlen(service) + 1);
		memcpy(e->name, service, strlen(service));
		e->source = s->cluster->msg->eds_cluster_config->eds_config;
		e->source_of = s->cluster;
		weft_cluster_ref(s->cluster);
		HASH_ADD_KEYPTR(hh, m->services, e->name, strlen(e->name), e);
	}
	s->eds = e;
	LIST_INSERT_HEAD(&e->slots, s, eds_link);
	slot_unready(s, WAIT_HOSTS);
	weft_scope_add(s->cluster->scope, WEFT_CLUSTER_update_attempt, 1);
	if (other && !(other->wait & WAIT_HOSTS)) {
		/* known already: hosts of its own, for its checks and options are other ones */
		weft_hosts_unref(s->hosts);
		s->hosts = hosts_copy(s->cluster, other->hosts);
		if (other->eds_version)
			s->eds_version = weft_xstrdup(other->eds_version);
		slot_ready(s, WAIT_HOSTS);
	}
	if (fresh && m->conf.want_endpoints)
		m->conf.want_endpoints(m->conf.owner, e->source, e->name, true);
}

void slot_eds_stop(struct slot *s)
{
	struct weft_clusters *m = slot_manager(s);
	struct eds *e = s->eds;

	if (!e)
		return;
	LIST_REMOVE(s, eds_link);
	s->eds = NULL;
	if (!LIST_EMPTY(&e->slots))
		return;
	HASH_DEL(m->services, e);
	if (m->conf.want_endpoints)
		m->conf.want_endpoints(m->conf.owner, e->source, e->name, false);
	weft_cluster_unref(e->source_of);
	free(e->version);
	free(e);
}

/* ---- endpoint_stale_after */
static void on_stale(evutil_socket_t fd, short what, void *arg)
{
	struct slot *s = arg;
	const struct hosts_want want = {.cluster = s->cluster, .old = s->hosts};
	struct weft_errs errs = {0};
	struct weft_cfg c = {.errs = &errs};
	struct weft_hosts *none;

	weft_scope_add(s->cluster->scope, WEFT_CLUSTER_assignment_stale, 1);
	s->eds->digest = 0;
	if (!hosts_make(&c, NULL, &want, NULL, &none))
		slot_changed(s, none, false);
}

static void stale_after(struct slot *s, const Assignment *m)
{
	int64_t ms = weft_cfg_ms(m->policy ? m->policy->endpoint_stale_after : NULL, 0);
	const struct timeval tv = {ms / 1000, ms % 1000 * 1000};

	if (s->stale)
		event_del(s->stale);
	if (!ms)
		return;
	weft_scope_add(s->cluster->scope, WEFT_CLUSTER_assignment_timeout_received, 1);
	if (!s->stale)
		s->stale = event_new(slot_manager(s)->conf.base, -1, 0, on_stale, s);
	if (!s->stale || event_add(s->stale, &tv))
		abort();
}

/* ---- updates */
static uint64_t digest_of(const ProtobufCMessage *m)
{
	size_t n = protobuf_c_message_get_packed_size(m);
	uint8_t *bytes = weft_xcalloc(1, n + 1);
	uint64_t d;

	protobuf_c_message_pack(m, bytes);
	d = XXH3_64bits(bytes, n);
	free(bytes);
	return d ? d : 1;
}

static void accepted(struct slot *s, const char *version)
{
	weft_scope_add(s->cluster->scope, WEFT_CLUSTER_update_success, 1);
	weft_scope_set(s->cluster->scope, WEFT_CLUSTER_version,
		       (int64_t)XXH64(version, strlen(version), 0));
	free(s->eds_version);
	s->eds_version = weft_xstrdup(version);
}

static int apply(struct eds *e, struct weft_cfg *c, const struct weft_path *at, const Assignment *m,
		 const char *version)
{
	struct slot *s, *next;
	size_t n = 0, i = 0;
	struct weft_hosts **made;
	int err = 0;

	LIST_FOREACH (s, &e->slots, eds_link)
		n++;
	made = weft_xcalloc(n, sizeof(struct weft_hosts *));
	/* all of them are made before one of them changes */
	LIST_FOREACH (s, &e->slots, eds_link) {
		const struct hosts_want want = {.cluster = s->cluster, .old = s->hosts};

		if (!err)
			err = hosts_make(c, at, &want, m, &made[i++]);
	}
	if (err) {
		LIST_FOREACH (s, &e->slots, eds_link)
			weft_scope_add(s->cluster->scope, WEFT_CLUSTER_update_failure, 1);
		for (size_t k = 0; k < n; k++)
			weft_hosts_unref(made[k]);
		free(made);
		return err;
	}
	i = 0;
	for (s = LIST_FIRST(&e->slots); s; s = next) {
		next = LIST_NEXT(s, eds_link);
		accepted(s, version);
		if (!made[i]->n)
			weft_scope_add(s->cluster->scope, WEFT_CLUSTER_update_empty, 1);
		stale_after(s, m);
		slot_changed(s, made[i++], true);
		slot_ready(s, WAIT_HOSTS);
	}
	free(made);
	return 0;
}

int weft_clusters_endpoints(struct weft_clusters *m, struct weft_cfg *c, const struct weft_path *at,
			    const char *service, const Assignment *msg, const char *version)
{
	const struct weft_path name = {at, "cluster_name", -1};
	struct eds *e = eds_find(m, service);
	uint64_t digest;
	struct slot *s;
	int err;

	if (!e)
		return 0;
	if (!msg->cluster_name || strcmp(msg->cluster_name, service) != 0)
		return weft_cfg_fail(c, &name, "must be \"%.100s\", is \"%.100s\"", service,
				     msg->cluster_name ? msg->cluster_name : "");
	digest = digest_of(&msg->base);
	if (digest == e->digest) {
		LIST_FOREACH (s, &e->slots, eds_link) {
			accepted(s, version);
			stale_after(s, msg);
			weft_scope_add(s->cluster->scope, WEFT_CLUSTER_update_no_rebuild, 1);
		}
		return 0;
	}
	err = apply(e, c, at, msg, version);
	e = eds_find(m, service);
	if (!err && e)
		e->digest = digest;
	return err;
}

void weft_clusters_endpoints_gone(struct weft_clusters *m, const char *service)
{
	struct eds *e = eds_find(m, service);
	struct slot *s, *next;

	/* endpoints that are known serve on, as in Envoy; who waits for them goes on without */
	for (s = e ? LIST_FIRST(&e->slots) : NULL; s; s = next) {
		next = LIST_NEXT(s, eds_link);
		if (!(s->wait & WAIT_HOSTS))
			continue;
		weft_scope_add(s->cluster->scope, WEFT_CLUSTER_update_failure, 1);
		slot_ready(s, WAIT_HOSTS);
	}
}
