/* When another attempt is made, after how long, and on which hosts. */
#include "proxy/http/filters/router_priv.h"
#include "proxy/upstream/breaker.h"

#include "proxy/core/worker.h"
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CODES_MAX = 64 };

/* "503, 504" */
static void codes_init(struct router *r)
{
	const char *v = weft_headers_value(r->req, WEFT_H_X_ENVOY_RETRIABLE_STATUS_CODES);
	uint32_t *codes;
	size_t n = 0;

	if (!*v)
		return;
	codes = weft_arena_alloc(weft_stream_arena(r->s), CODES_MAX * sizeof(*codes));
	while (*v && n < CODES_MAX) {
		char *end;
		unsigned long c = strtoul(v, &end, 10);

		if (end == v)
			break;
		codes[n++] = (uint32_t)c;
		v = end;
		while (*v == ',' || *v == ' ')
			v++;
	}
	r->codes = codes;
	r->n_codes = n;
}

/* x-envoy-retriable-header-names: "a, b": presence matters. */
static void names_init(struct router *r)
{
	const char *v = weft_headers_value(r->req, WEFT_H_X_ENVOY_RETRIABLE_HEADER_NAMES);
	struct weft_arena *a = weft_stream_arena(r->s);
	struct weft_hdrmatch *m;
	size_t n = 0;

	if (!*v)
		return;
	m = weft_arena_alloc(a, CODES_MAX * sizeof(*m));
	while (*v && n < CODES_MAX) {
		size_t len = strcspn(v, ", "), i;
		char *low = weft_arena_strndup(a, v, len);

		for (i = 0; i < len; i++)
			low[i] = low[i] >= 'A' && low[i] <= 'Z' ? (char)(low[i] + 32) : low[i];
		if (len) {
			m[n].name = low;
			m[n].name_n = len;
			m[n].id = weft_hid_of(low, len);
			m[n++].kind = WEFT_HM_PRESENT;
		}
		v += len;
		v += strspn(v, ", ");
	}
	r->hdr_names = m;
	r->n_hdr_names = n;
}

void router_retry_init(struct router *r)
{
	const struct weft_retry_policy *p = r->policy;
	const struct weft_header *h;
	char *end;

	if (p) {
		r->retry_on = p->on;
		r->retries_left = p->retries;
		if (p->n_request_headers) {
			size_t i;

			for (i = 0; i < p->n_request_headers; i++)
				if (weft_hdrmatch(&p->request_headers[i], r->req) == WEFT_MATCH_YES)
					break;
			if (i == p->n_request_headers)
				r->retry_on = 0;
		}
	}
	h = weft_headers_get(r->req, WEFT_H_X_ENVOY_RETRY_ON);
	if (h)
		r->retry_on |= weft_retry_on_parse(h->value, h->value_len, NULL, NULL);
	h = weft_headers_get(r->req, WEFT_H_X_ENVOY_RETRY_GRPC_ON);
	if (h)
		r->retry_on |= weft_retry_grpc_on_parse(h->value, h->value_len);
	if (r->retry_on && !p)
		r->retries_left = 1;
	h = weft_headers_get(r->req, WEFT_H_X_ENVOY_MAX_RETRIES);
	if (r->retry_on && h && h->value_len) {
		unsigned long n = strtoul(h->value, &end, 10);

		if (!*end && n <= UINT32_MAX)
			r->retries_left = (uint32_t)n;
	}
	codes_init(r);
	names_init(r);
	if (r->n_codes)
		r->retry_on |= WEFT_RETRY_STATUS_CODES;
	if (r->n_hdr_names)
		r->retry_on |= WEFT_RETRY_HEADERS;
	weft_headers_remove_id(r->req, WEFT_H_X_ENVOY_RETRY_ON);
	weft_headers_remove_id(r->req, WEFT_H_X_ENVOY_RETRY_GRPC_ON);
	weft_headers_remove_id(r->req, WEFT_H_X_ENVOY_MAX_RETRIES);
	weft_headers_remove_id(r->req, WEFT_H_X_ENVOY_RETRIABLE_STATUS_CODES);
	weft_headers_remove_id(r->req, WEFT_H_X_ENVOY_RETRIABLE_HEADER_NAMES);
}

bool router_retry_reset(struct router *r, enum weft_reset why)
{
	uint32_t on = r->retry_on;

	if (!on || why == WEFT_RESET_OVERFLOW)
		return false;
	if (on & (WEFT_RETRY_5XX | WEFT_RETRY_GATEWAY_ERROR | WEFT_RETRY_RESET))
		return true;
	switch (why) {
	case WEFT_RESET_CONNECT:
	case WEFT_RESET_TIMEOUT:
		return on & (WEFT_RETRY_CONNECT_FAILURE | WEFT_RETRY_RESET_BEFORE_REQUEST);
	case WEFT_RESET_REFUSED:
		return on & (WEFT_RETRY_REFUSED_STREAM | WEFT_RETRY_RESET_BEFORE_REQUEST);
	default:
		return (on & WEFT_RETRY_RESET_BEFORE_REQUEST) && !r->sent_ns;
	}
}

static bool grpc_wants(const struct router *r, const struct weft_headers *h)
{
	const char *v = weft_headers_value(h, WEFT_H_GRPC_STATUS);

	switch (*v ? strtol(v, NULL, 10) : 0) {
	case 1:
		return r->retry_on & WEFT_RETRY_GRPC_CANCELLED;
	case 4:
		return r->retry_on & WEFT_RETRY_GRPC_DEADLINE;
	case 8:
		return r->retry_on & WEFT_RETRY_GRPC_EXHAUSTED;
	case 13:
		return r->retry_on & WEFT_RETRY_GRPC_INTERNAL;
	case 14:
		return r->retry_on & WEFT_RETRY_GRPC_UNAVAILABLE;
	default:
		return false;
	}
}

bool router_retry_headers(struct router *r, const struct weft_headers *h)
{
	uint32_t on = r->retry_on;
	int status = weft_headers_status(h);
	size_t i;

	if (!on)
		return false;
	if (weft_headers_get(h, WEFT_H_X_ENVOY_RATELIMITED))
		return on & WEFT_RETRY_RATELIMITED;
	if ((on & WEFT_RETRY_5XX) && status >= 500 && status < 600)
		return true;
	if ((on & WEFT_RETRY_GATEWAY_ERROR) && status >= 502 && status <= 504)
		return true;
	if ((on & WEFT_RETRY_RETRIABLE_4XX) && status == 409)
		return true;
	if (on & WEFT_RETRY_STATUS_CODES) {
		for (i = 0; r->policy && i < r->policy->n_codes; i++)
			if (r->policy->codes[i] == (uint32_t)status)
				return true;
		for (i = 0; i < r->n_codes; i++)
			if (r->codes[i] == (uint32_t)status)
				return true;
	}
	if (on & WEFT_RETRY_HEADERS) {
		for (i = 0; r->policy && i < r->policy->n_headers; i++)
			if (weft_hdrmatch(&r->policy->headers[i], h) == WEFT_MATCH_YES)
				return true;
		for (i = 0; i < r->n_hdr_names; i++)
			if (weft_hdrmatch(&r->hdr_names[i], h) == WEFT_MATCH_YES)
				return true;
	}
	return grpc_wants(r, h);
}

/* From a header of the answer that says when to come again; 0: none. */
static uint64_t reset_ms(const struct router *r, const struct weft_headers *h)
{
	size_t i;

	for (i = 0; h && r->policy && i < r->policy->n_resets; i++) {
		const struct weft_retry_reset *s = &r->policy->resets[i];
		const struct weft_header *f = weft_headers_find(h, s->name, s->name_n);
		unsigned long long n, now;
		char *end;

		if (!f || f->value[0] < '0' || f->value[0] > '9')
			continue;
		n = strtoull(f->value, &end, 10);
		if (*end)
			continue;
		if (s->unix_time) {
			now = (unsigned long long)time(NULL);
			n = n > now ? n - now : 0;
		}
		if (!n || n > r->policy->resets_max_ms / 1000)
			continue;
		return n * 1000;
	}
	return 0;
}

static void on_backoff(struct weft_timer *t)
{
	struct router *r = (struct router *)((char *)t - offsetof(struct router, backoff));

	router_attempt(r);
}

bool router_retry(struct router *r, const struct weft_headers *h)
{
	struct weft_cluster *c = r->wc->cluster;
	const struct weft_retry_policy *p = r->policy;
	uint64_t base = p ? p->base_ms : 25, max = p ? p->max_ms : 250, ms;
	uint32_t tries = r->tries < 32 ? r->tries : 32;
	struct evbuffer *again = NULL;

	router_retry_done(r, false);
	if (!r->retries_left) {
		weft_scope_add(c->scope, WEFT_CLUSTER_upstream_rq_retry_limit_exceeded, 1);
		router_stat(r, WEFT_ROUTE_STAT_upstream_rq_retry_limit_exceeded);
		weft_info_flag(weft_stream_info(r->s), WEFT_FLAG_URX);
		return false;
	}
	if (r->body_expected && !r->keep) /* its body is gone */
		return false;
	if (!weft_breaker_retry_take(c, r->route->priority)) {
		weft_scope_add(c->scope, WEFT_CLUSTER_upstream_rq_retry_overflow, 1);
		router_stat(r, WEFT_ROUTE_STAT_upstream_rq_retry_overflow);
		weft_info_flag(weft_stream_info(r->s), WEFT_FLAG_UO);
		return false;
	}
	if (r->keep) {
		again = evbuffer_new();
		if (!again || evbuffer_add_buffer_reference(again, r->keep)) {
			if (again)
				evbuffer_free(again);
			weft_breaker_retry_give(c, r->route->priority);
			return false;
		}
	}
	r->retrying = true;
	r->retries_left--;
	weft_scope_add(c->scope, WEFT_CLUSTER_upstream_rq_retry, 1);
	router_stat(r, WEFT_ROUTE_STAT_upstream_rq_retry);
	if (r->route->include_timeout_retry)
		weft_headers_set(r->req, "x-envoy-is-timeout-retry", 24,
				 r->timeout_retry ? "true" : "false", r->timeout_retry ? 4 : 5);
	r->timeout_retry = false;
	if (r->hedging)
		router_hedge_aside(r);
	else
		router_free_attempt(r, true);
	if (again) {
		if (r->out)
			evbuffer_free(r->out);
		r->out = again;
	}
	r->sent_ns = 0;
	ms = reset_ms(r, h);
	if (ms) {
		weft_scope_add(c->scope, WEFT_CLUSTER_upstream_rq_retry_backoff_ratelimited, 1);
		ms += weft_rand64() % (ms / 2 + 1);
	} else {
		/* base may be of any size */
		uint64_t window = base > max >> tries ? max : base * ((1ull << tries) - 1);

		weft_scope_add(c->scope, WEFT_CLUSTER_upstream_rq_retry_backoff_exponential, 1);
		ms = weft_rand64() % ((window < max ? window : max) + 1);
	}
	weft_timer_set(weft_timers_of(weft_stream_worker(r->s)), &r->backoff, ms ? ms : 1,
		       router_now(r), on_backoff);
	return true;
}

void router_retry_done(struct router *r, bool success)
{
	if (!r->retrying)
		return;
	r->retrying = false;
	weft_breaker_retry_give(r->wc->cluster, r->route->priority);
	if (!success)
		return;
	weft_scope_add(r->wc->cluster->scope, WEFT_CLUSTER_upstream_rq_retry_success, 1);
	router_stat(r, WEFT_ROUTE_STAT_upstream_rq_retry_success);
}

/* Every key of want stands with an equal value in have. */
static bool metadata_has(const Envoy__Config__Core__V3__Metadata *have,
			 const Envoy__Config__Core__V3__Metadata *want)
{
	size_t i, k;

	for (i = 0; i < want->n_filter_metadata; i++) {
		const Google__Protobuf__Struct *w = want->filter_metadata[i]->value;
		const Google__Protobuf__Struct *s =
			weft_metadata_ns(have, want->filter_metadata[i]->key);

		for (k = 0; w && k < w->n_fields; k++) {
			const Google__Protobuf__Value *v = weft_struct_get(s, w->fields[k]->key);

			if (!v || !weft_value_equal(v, w->fields[k]->value))
				return false;
		}
	}
	return true;
}

bool router_host_ok(void *owner, const struct weft_endpoint_entry *e)
{
	const struct router *r = owner;
	unsigned i;

	if (r->policy->not_canary && e->canary)
		return false;
	if (r->policy->not_metadata && r->policy->not_metadata->n_filter_metadata &&
	    metadata_has(e->metadata, r->policy->not_metadata))
		return false;
	for (i = 0; r->policy->not_previous_hosts && i < r->n_tried; i++)
		if (r->tried[i] == e->host)
			return false;
	return true;
}

/* Priorities that were tried get nothing, the others what they can take, the first ones first; when
 * all were tried it starts over. */
void router_priorities(void *owner, uint32_t *pct, const uint32_t *there, size_t n)
{
	struct router *r = owner;
	uint32_t sum = 0, left = 100;
	size_t i, first = n;

	if (r->policy->priority_every > 1 && (r->tries - 1) % r->policy->priority_every)
		return;
	for (i = 0; i < n; i++)
		if (i >= 64 || !(r->tried_priorities >> i & 1))
			sum += there[i];
	if (!sum) {
		r->tried_priorities = 0;
		return;
	}
	if (sum > 100)
		sum = 100;
	for (i = 0; i < n; i++) {
		bool tried = i < 64 && r->tried_priorities >> i & 1;
		uint32_t give = tried ? 0 : there[i] * 100 / sum;

		pct[i] = give < left ? give : left;
		left -= pct[i];
		if (pct[i] && first == n)
			first = i;
	}
	if (first < n)
		pct[first] += left;
}
