#include "proxy/http/retry.h"

#include "xds/proto/envoy/extensions/retry/host/omit_canary_hosts/v3/omit_canary_hosts.pb-c.h"
#include "xds/proto/envoy/extensions/retry/host/omit_host_metadata/v3/omit_host_metadata_config.pb-c.h"
#include "xds/proto/envoy/extensions/retry/host/previous_hosts/v3/previous_hosts.pb-c.h"
#include "xds/proto/envoy/extensions/retry/priority/previous_priorities/v3/previous_priorities_config.pb-c.h"
#include <errno.h>
#include <string.h>

static const struct {
	const char *name;
	uint32_t bit;
} words[] = {
	{"5xx", WEFT_RETRY_5XX},
	{"gateway-error", WEFT_RETRY_GATEWAY_ERROR},
	{"reset", WEFT_RETRY_RESET},
	{"reset-before-request", WEFT_RETRY_RESET_BEFORE_REQUEST},
	{"connect-failure", WEFT_RETRY_CONNECT_FAILURE},
	{"envoy-ratelimited", WEFT_RETRY_RATELIMITED},
	{"retriable-4xx", WEFT_RETRY_RETRIABLE_4XX},
	{"refused-stream", WEFT_RETRY_REFUSED_STREAM},
	{"retriable-status-codes", WEFT_RETRY_STATUS_CODES},
	{"retriable-headers", WEFT_RETRY_HEADERS},
	{"http3-post-connect-failure", 0}, /* there is no HTTP/3 to fail */
	{"cancelled", WEFT_RETRY_GRPC_CANCELLED},
	{"deadline-exceeded", WEFT_RETRY_GRPC_DEADLINE},
	{"internal", WEFT_RETRY_GRPC_INTERNAL},
	{"resource-exhausted", WEFT_RETRY_GRPC_EXHAUSTED},
	{"unavailable", WEFT_RETRY_GRPC_UNAVAILABLE},
};

static uint32_t parse(const char *s, size_t n, bool http, bool grpc, const char **ret_unknown,
		      size_t *ret_unknown_n)
{
	const char *end = s + n;
	uint32_t bits = 0;

	while (s < end) {
		const char *comma = memchr(s, ',', (size_t)(end - s)),
			   *next = comma ? comma + 1 : end;
		size_t i, len;

		if (!comma)
			comma = end;
		while (s < comma && *s == ' ')
			s++;
		while (comma > s && comma[-1] == ' ')
			comma--;
		len = (size_t)(comma - s);
		for (i = 0; i < sizeof(words) / sizeof(*words); i++) {
			bool is_grpc = words[i].bit >= WEFT_RETRY_GRPC_CANCELLED;

			if (strlen(words[i].name) == len && !memcmp(words[i].name, s, len) &&
			    (is_grpc ? grpc : http))
				break;
		}
		if (i < sizeof(words) / sizeof(*words)) {
			bits |= words[i].bit;
		} else if (len && ret_unknown && !*ret_unknown) {
			*ret_unknown = s;
			*ret_unknown_n = len;
		}
		s = next;
	}
	return bits;
}

uint32_t weft_retry_on_parse(const char *s, size_t n, const char **ret_unknown,
			     size_t *ret_unknown_n)
{
	return parse(s, n, true, false, ret_unknown, ret_unknown_n);
}

uint32_t weft_retry_grpc_on_parse(const char *s, size_t n)
{
	return parse(s, n, false, true, NULL, NULL);
}

static int predicates(struct weft_cfg *c, const struct weft_path *at,
		      const Envoy__Config__Route__V3__RetryPolicy *m, struct weft_retry_policy *to)
{
	size_t i;
	int err = 0;

	for (i = 0; i < m->n_retry_host_predicate; i++) {
		struct weft_path p = {at, "retry_host_predicate", (int)i},
				 pt = {&p, "typed_config", -1};
		const ProtobufCMessage *any;

		if (!m->retry_host_predicate[i]->typed_config) {
			err = weft_cfg_fail(c, &p, "typed_config must be set");
			continue;
		}
		any = weft_cfg_any(c, &pt, m->retry_host_predicate[i]->typed_config, NULL);
		if (!any)
			err = -EINVAL;
		else if (
			any->descriptor ==
			&envoy__extensions__retry__host__previous_hosts__v3__previous_hosts_predicate__descriptor)
			to->not_previous_hosts = true;
		else if (
			any->descriptor ==
			&envoy__extensions__retry__host__omit_canary_hosts__v3__omit_canary_hosts_predicate__descriptor)
			to->not_canary = true;
		else if (
			any->descriptor ==
			&envoy__extensions__retry__host__omit_host_metadata__v3__omit_host_metadata_config__descriptor)
			to->not_metadata =
				((const Envoy__Extensions__Retry__Host__OmitHostMetadata__V3__OmitHostMetadataConfig
					  *)any)
					->metadata_match;
		else
			err = weft_cfg_fail(c, &pt, "%s is not a host predicate that is supported",
					    any->descriptor->name);
	}
	if (m->retry_priority) {
		struct weft_path p = {at, "retry_priority", -1}, pt = {&p, "typed_config", -1};
		const Envoy__Extensions__Retry__Priority__PreviousPriorities__V3__PreviousPrioritiesConfig
			*pp;

		if (!m->retry_priority->typed_config)
			return weft_cfg_fail(c, &p, "typed_config must be set");
		pp = (const void *)weft_cfg_any(
			c, &pt, m->retry_priority->typed_config,
			&envoy__extensions__retry__priority__previous_priorities__v3__previous_priorities_config__descriptor);
		if (!pp)
			return -EINVAL;
		to->previous_priorities = true;
		to->priority_every = (uint32_t)pp->update_frequency;
	}
	return err;
}

static int backoff(struct weft_cfg *c, const struct weft_path *at,
		   const Envoy__Config__Route__V3__RetryPolicy *m, struct weft_retry_policy *to)
{
	struct weft_path pb = {at, "retry_back_off", -1}, px = {&pb, "max_interval", -1};
	size_t i;

	to->base_ms = 25;
	to->max_ms = 250;
	if (m->retry_back_off) {
		to->base_ms = (uint64_t)weft_cfg_ms(m->retry_back_off->base_interval, 25);
		if (!to->base_ms)
			to->base_ms = 1;
		to->max_ms = (uint64_t)weft_cfg_ms(m->retry_back_off->max_interval,
						   (int64_t)to->base_ms * 10);
		if (to->max_ms < to->base_ms)
			return weft_cfg_fail(
				c, &px, "must be at least base_interval (%llu ms), is %llu ms",
				(unsigned long long)to->base_ms, (unsigned long long)to->max_ms);
	}
	if (m->rate_limited_retry_back_off) {
		const Envoy__Config__Route__V3__RetryPolicy__RateLimitedRetryBackOff *r =
			m->rate_limited_retry_back_off;
		struct weft_retry_reset *v =
			weft_arena_alloc(c->arena, (r->n_reset_headers + 1) * sizeof(*v));

		for (i = 0; i < r->n_reset_headers; i++) {
			char *low = weft_arena_strdup(c->arena, r->reset_headers[i]->name);
			char *p;

			for (p = low; *p; p++)
				*p = *p >= 'A' && *p <= 'Z' ? (char)(*p + 32) : *p;
			v[i].name = low;
			v[i].name_n = strlen(low);
			v[i].unix_time =
				r->reset_headers[i]->format ==
				ENVOY__CONFIG__ROUTE__V3__RETRY_POLICY__RESET_HEADER_FORMAT__UNIX_TIMESTAMP;
		}
		to->resets = v;
		to->n_resets = r->n_reset_headers;
		to->resets_max_ms = (uint64_t)weft_cfg_ms(r->max_interval, 300000);
	}
	return 0;
}

int weft_retry_prepare(struct weft_cfg *c, const struct weft_path *at,
		       const Envoy__Config__Route__V3__RetryPolicy *m,
		       const struct weft_retry_policy **ret)
{
	struct weft_retry_policy *to = weft_arena_alloc(c->arena, sizeof(*to));
	struct weft_path pon = {at, "retry_on", -1}, ph = {at, "retriable_headers", -1},
			 prh = {at, "retriable_request_headers", -1},
			 pm = {at, "host_selection_retry_max_attempts", -1};
	const char *unknown = NULL;
	size_t unknown_n = 0;
	int err = 0;

	if (m->retry_on)
		to->on = parse(m->retry_on, strlen(m->retry_on), true, true, &unknown, &unknown_n);
	if (unknown)
		err = weft_cfg_fail(c, &pon,
				    "has a word that is none of Envoy's conditions: \"%.*s\"",
				    (int)unknown_n, unknown);
	to->retries = weft_cfg_u32(m->num_retries, 1);
	to->per_try_ms = weft_cfg_ms(m->per_try_timeout, 0);
	to->per_try_idle_ms = weft_cfg_ms(m->per_try_idle_timeout, 0);
	to->codes = weft_arena_memdup(c->arena, m->retriable_status_codes,
				      m->n_retriable_status_codes * sizeof(uint32_t));
	to->n_codes = m->n_retriable_status_codes;
	err |= weft_hdrmatches_prepare(c, &ph, m->retriable_headers, m->n_retriable_headers,
				       &to->headers);
	to->n_headers = m->n_retriable_headers;
	err |= weft_hdrmatches_prepare(c, &prh, m->retriable_request_headers,
				       m->n_retriable_request_headers, &to->request_headers);
	to->n_request_headers = m->n_retriable_request_headers;
	to->host_attempts = m->host_selection_retry_max_attempts > 0
				    ? (uint32_t)m->host_selection_retry_max_attempts
				    : 1;
	if (m->host_selection_retry_max_attempts < 0 || m->host_selection_retry_max_attempts > 1000)
		err = weft_cfg_fail(c, &pm, "must be 0..1000, is %lld",
				    (long long)m->host_selection_retry_max_attempts);
	err |= backoff(c, at, m, to);
	err |= predicates(c, at, m, to);
	*ret = to;
	return err ? -EINVAL : 0;
}
