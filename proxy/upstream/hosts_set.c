/* Sets of hosts: in order of priority and locality; copies; differences. */
#include "proxy/core/arena.h"
#include "proxy/upstream/hosts_priv.h"
#include "xds/wire.h"

#include <stdlib.h>
#include <string.h>

typedef Envoy__Config__Endpoint__V3__ClusterLoadAssignment Assignment;
typedef Envoy__Config__Core__V3__Metadata Metadata;

static const char *text(const char *s)
{
	return s ? s : "";
}

static int by_place(const void *a, const void *b)
{
	const struct hosts_raw *x = a, *y = b;
	int d = (x->priority > y->priority) - (x->priority < y->priority);

	d = d ? d : strcmp(x->locality.region, y->locality.region);
	d = d ? d : strcmp(x->locality.zone, y->locality.zone);
	d = d ? d : strcmp(x->locality.sub_zone, y->locality.sub_zone);
	return d ? d : (x->order > y->order) - (x->order < y->order);
}

static bool same_place(const struct hosts_raw *a, const struct hosts_raw *b)
{
	return a->priority == b->priority && !strcmp(a->locality.region, b->locality.region) &&
	       !strcmp(a->locality.zone, b->locality.zone) &&
	       !strcmp(a->locality.sub_zone, b->locality.sub_zone);
}

static const Metadata *metadata_copy(struct weft_arena *a, const Metadata *m)
{
	size_t n = m ? protobuf_c_message_get_packed_size(&m->base) : 0;
	const Metadata *ret;
	uint8_t *bytes;

	if (!n)
		return NULL;
	bytes = weft_xcalloc(1, n);
	protobuf_c_message_pack(&m->base, bytes);
	ret = (const Metadata *)weft_wire_unpack(a, &envoy__config__core__v3__metadata__descriptor,
						 bytes, n, false, NULL);
	free(bytes);
	return ret;
}

static bool is_canary(const Metadata *m)
{
	for (size_t i = 0; m && i < m->n_filter_metadata; i++) {
		const Google__Protobuf__Struct *s = m->filter_metadata[i]->value;

		if (!s || strcmp(text(m->filter_metadata[i]->key), "envoy.lb") != 0)
			continue;
		for (size_t k = 0; k < s->n_fields; k++)
			if (!strcmp(text(s->fields[k]->key), "canary") && s->fields[k]->value)
				return s->fields[k]->value->bool_value &&
				       s->fields[k]->value->kind_case ==
					       GOOGLE__PROTOBUF__VALUE__KIND_BOOL_VALUE;
	}
	return false;
}

struct weft_hosts *hosts_set_make(struct hosts_raw *v, size_t n)
{
	struct weft_arena *a = weft_arena_new(n < 2 ? 256 : 0);
	struct weft_hosts *h = weft_arena_alloc(a, sizeof(*h));
	struct weft_endpoint_entry *e = weft_arena_alloc(a, (n + !n) * sizeof(*e));
	struct weft_locality_entry *l;
	const Metadata *last = NULL, *last_copy = NULL;
	size_t places = 0;

	atomic_init(&h->refs, 1);
	h->arena = a;
	h->overprovisioning_pct = 140;
	if (n)
		qsort(v, n, sizeof(*v), by_place);
	for (size_t i = 0; i < n; i++)
		places += !i || !same_place(&v[i], &v[i - 1]);
	l = weft_arena_alloc(a, (places + !places) * sizeof(*l));
	for (size_t i = 0; i < n; i++) {
		if (!i || !same_place(&v[i], &v[i - 1]))
			l[h->n_localities++] = (struct weft_locality_entry){
				{weft_arena_strdup(a, v[i].locality.region),
				 weft_arena_strdup(a, v[i].locality.zone),
				 weft_arena_strdup(a, v[i].locality.sub_zone)},
				v[i].locality_weight,
				v[i].priority};
		if (v[i].locality_metadata != last) {
			last = v[i].locality_metadata;
			last_copy = metadata_copy(a, last);
		}
		e[i] = (struct weft_endpoint_entry){
			.host = v[i].host,
			.weight = v[i].weight,
			.priority = v[i].priority,
			.locality = (uint32_t)h->n_localities - 1,
			.metadata = metadata_copy(a, v[i].metadata),
			.locality_metadata = last ? last_copy : NULL,
			.canary = is_canary(v[i].metadata),
		};
	}
	h->v = e;
	h->n = n;
	h->localities = l;
	h->n_priorities = n ? v[n - 1].priority + 1 : 0;
	return h;
}

static uint32_t per_million(const Envoy__Type__V3__FractionalPercent *p)
{
	uint64_t n = p ? p->numerator : 0;

	if (p && p->denominator == ENVOY__TYPE__V3__FRACTIONAL_PERCENT__DENOMINATOR_TYPE__HUNDRED)
		n *= 10000;
	else if (p && p->denominator ==
			      ENVOY__TYPE__V3__FRACTIONAL_PERCENT__DENOMINATOR_TYPE__TEN_THOUSAND)
		n *= 100;
	return n < 1000000 ? (uint32_t)n : 1000000;
}

void hosts_set_policy(struct weft_hosts *h,
		      const Envoy__Config__Endpoint__V3__ClusterLoadAssignment__Policy *m)
{
	if (!m)
		return;
	h->overprovisioning_pct = weft_cfg_u32(m->overprovisioning_factor, 140);
	h->weighted_priority_health = m->weighted_priority_health;
	h->n_drops = m->n_drop_overloads;
	h->drops = weft_arena_alloc(h->arena, (h->n_drops + 1) * sizeof(*h->drops));
	for (size_t i = 0; i < h->n_drops; i++) {
		h->drops[i].category =
			weft_arena_strdup(h->arena, text(m->drop_overloads[i]->category));
		h->drops[i].per_million = per_million(m->drop_overloads[i]->drop_percentage);
	}
}

struct hosts_raw hosts_raw_of(const struct weft_hosts *h, const struct weft_endpoint_entry *e)
{
	return (struct hosts_raw){.metadata = e->metadata,
				  .locality_metadata = e->locality_metadata,
				  .locality = h->localities[e->locality].id,
				  .weight = e->weight,
				  .priority = e->priority,
				  .locality_weight = h->localities[e->locality].weight};
}

static void policy_copy(struct weft_hosts *to, const struct weft_hosts *from)
{
	to->overprovisioning_pct = from->overprovisioning_pct;
	to->weighted_priority_health = from->weighted_priority_health;
	to->n_drops = from->n_drops;
	to->drops = weft_arena_alloc(to->arena, (to->n_drops + 1) * sizeof(*to->drops));
	for (size_t i = 0; i < to->n_drops; i++) {
		to->drops[i] = from->drops[i];
		to->drops[i].category = weft_arena_strdup(to->arena, from->drops[i].category);
	}
}

/* Their order is the other configuration's. */
static void own_first(const struct weft_cluster *to, const struct weft_host *h,
		      struct weft_sockaddr *v)
{
	size_t n = 1;

	if (!h->n_tries)
		return;
	v[0] = h->addr;
	for (size_t i = 0, met = 0; i < h->n_tries; i++)
		if (met || !weft_sockaddr_eq(&h->tries[i], &h->addr))
			v[n++] = h->tries[i];
		else
			met = 1;
	hosts_order(to, v, h->n_tries);
}

struct weft_hosts *hosts_copy(struct weft_cluster *to, const struct weft_hosts *from)
{
	struct hosts_raw *v = weft_xcalloc(from->n + 1, sizeof(*v));
	const uint32_t eds = WEFT_HOST_FAILED_EDS | WEFT_HOST_DRAINING_EDS | WEFT_HOST_DEGRADED_EDS;
	struct weft_hosts *ret;

	for (size_t i = 0; i < from->n; i++) {
		const struct weft_host *h = from->v[i].host;
		struct weft_sockaddr tries[HOST_ADDRESSES_MAX];
		const struct weft_host_conf conf = {.addr = h->addr,
						    .unix_path = h->unix_path,
						    .hostname = h->hostname,
						    .hc_hostname = h->hc_hostname,
						    .hc_addr = h->hc_addr,
						    .hc_disabled = h->hc_disabled,
						    .tries = tries,
						    .n_tries = h->n_tries};

		own_first(to, h, tries);
		v[i] = hosts_raw_of(from, &from->v[i]);
		v[i].order = i;
		v[i].host = hosts_host_make(to, &conf);
		atomic_fetch_or(&v[i].host->flags, atomic_load(&h->flags) & eds);
	}
	ret = hosts_set_make(v, from->n);
	policy_copy(ret, from);
	free(v);
	return ret;
}

struct weft_hosts *hosts_without_removed(const struct weft_hosts *from)
{
	struct hosts_raw *v = weft_xcalloc(from->n + 1, sizeof(*v));
	struct weft_hosts *ret;
	size_t n = 0;

	for (size_t i = 0; i < from->n; i++) {
		uint32_t f = atomic_load(&from->v[i].host->flags);

		if ((f & WEFT_HOST_PENDING_REMOVAL) && (f & WEFT_HOST_FAILED_ACTIVE_HC))
			continue;
		v[n] = hosts_raw_of(from, &from->v[i]);
		v[n].order = n;
		v[n].host = from->v[i].host;
		weft_host_ref(v[n++].host);
	}
	ret = hosts_set_make(v, n);
	policy_copy(ret, from);
	free(v);
	return ret;
}

static int by_pointer(const void *a, const void *b)
{
	const struct weft_host *x = *(struct weft_host *const *)a,
			       *y = *(struct weft_host *const *)b;

	return (x > y) - (x < y);
}

size_t hosts_minus(const struct weft_hosts *a, const struct weft_hosts *b,
		   struct weft_host ***ret_v)
{
	struct weft_host **have = weft_xcalloc(b ? b->n + 1 : 1, sizeof(struct weft_host *)), **v;
	size_t n = 0;

	*ret_v = NULL;
	for (size_t i = 0; b && i < b->n; i++)
		have[i] = b->v[i].host;
	if (b && b->n)
		qsort(have, b->n, sizeof(struct weft_host *), by_pointer);
	v = weft_xcalloc(a ? a->n + 1 : 1, sizeof(struct weft_host *));
	for (size_t i = 0; a && i < a->n; i++)
		if (!b || !b->n ||
		    !bsearch(&a->v[i].host, have, b->n, sizeof(struct weft_host *), by_pointer))
			v[n++] = a->v[i].host;
	free(have);
	if (n)
		*ret_v = v;
	else
		free(v);
	return n;
}

size_t hosts_names(struct weft_arena *a, const Assignment *m, const char *const **ret_names)
{
	size_t n = 0;
	const char **v;

	for (size_t i = 0; m && i < m->n_endpoints; i++)
		n += m->endpoints[i]->n_lb_endpoints;
	v = weft_arena_alloc(a, (n + 1) * sizeof(*v));
	n = 0;
	for (size_t i = 0; m && i < m->n_endpoints; i++)
		for (size_t k = 0; k < m->endpoints[i]->n_lb_endpoints; k++)
			v[n++] = weft_arena_strdup(
				a, text(m->endpoints[i]
						->lb_endpoints[k]
						->endpoint->address->socket_address->address));
	*ret_names = v;
	return n;
}
