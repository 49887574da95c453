/* What a ConfigSource asks for: judged before it is used, then turned into a stream. */
#include "proxy/core/arena.h"
#include "xds/cfg.h"
#include "xds/client.h"
#include "xds/source_priv.h"
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#define API(x) ENVOY__CONFIG__CORE__V3__API_CONFIG_SOURCE__API_TYPE__##x
#define CS(x)  ENVOY__CONFIG__CORE__V3__CONFIG_SOURCE__CONFIG_SOURCE_SPECIFIER_##x

enum {
	BACKOFF_MIN_MS = 500,
	BACKOFF_MAX_MS = 30000,
	BACKOFF_FACTOR = 10, /* of max_interval, where only base_interval is given */
	TOKENS = 100,
	METADATA_MAX = 16,
};
static const double FILL_RATE = 10;
static const char ads_service[] = "envoy.service.discovery.v3.AggregatedDiscoveryService";

typedef Envoy__Config__Core__V3__ApiConfigSource api_source;
typedef Envoy__Config__Core__V3__ConfigSource config_source;
typedef Envoy__Config__Core__V3__GrpcService__EnvoyGrpc envoy_grpc;

static bool is_delta(const api_source *api)
{
	return api->api_type == API(DELTA_GRPC) || api->api_type == API(AGGREGATED_DELTA_GRPC);
}

static bool is_aggregated(const api_source *api)
{
	return api->api_type == API(AGGREGATED_GRPC) || api->api_type == API(AGGREGATED_DELTA_GRPC);
}

/* ---- checks */

static void check_metadata(struct weft_cfg *c, const struct weft_path *up,
			   const Envoy__Config__Core__V3__GrpcService *g)
{
	if (g->n_initial_metadata > METADATA_MAX) {
		struct weft_path at = {up, "initial_metadata", -1};

		weft_cfg_fail(c, &at, "must have at most %d entries, has %zu", METADATA_MAX,
			      g->n_initial_metadata);
	}
	for (size_t i = 0; i < g->n_initial_metadata; i++) {
		const Envoy__Config__Core__V3__HeaderValue *h = g->initial_metadata[i];
		struct weft_path at = {up, "initial_metadata", (int)i};
		const char *key = h->key ?: "";

		if (!key[0] || key[0] == ':' ||
		    key[strspn(key, "abcdefghijklmnopqrstuvwxyz0123456789-_.")])
			weft_cfg_fail(c, &at, "key must be a header name in lower case, is \"%s\"",
				      key);
		if (!h->value || strchr(h->value, '%'))
			weft_cfg_fail(c, &at,
				      "value must be a text without commands (%%), is \"%s\"",
				      h->value ?: "");
	}
}

static void check_grpc(struct weft_cfg *c, const struct weft_path *up, const api_source *api)
{
	struct weft_path at = {up, "grpc_services", -1}, one = {up, "grpc_services", 0};
	struct weft_path envoy = {&one, "envoy_grpc", -1}, name = {&envoy, "cluster_name", -1};
	const Envoy__Config__Core__V3__GrpcService *g;

	if (api->n_grpc_services != 1) {
		weft_cfg_fail(c, &at, "must have 1 entry, has %zu", api->n_grpc_services);
		return;
	}
	g = api->grpc_services[0];
	if (g->target_specifier_case !=
	    ENVOY__CONFIG__CORE__V3__GRPC_SERVICE__TARGET_SPECIFIER_ENVOY_GRPC)
		weft_cfg_fail(c, &one, "envoy_grpc must be set; google_grpc is not supported");
	else if (!g->envoy_grpc->cluster_name || !g->envoy_grpc->cluster_name[0])
		weft_cfg_fail(c, &name, "must be set");
	check_metadata(c, &one, g);
}

static void check_limits(struct weft_cfg *c, const struct weft_path *up, const api_source *api)
{
	const Envoy__Config__Core__V3__RateLimitSettings *l = api->rate_limit_settings;
	struct weft_path at = {up, "rate_limit_settings", -1}, rate = {&at, "fill_rate", -1},
			 tokens = {&at, "max_tokens", -1};

	if (!l)
		return;
	if (l->fill_rate && !(l->fill_rate->value > 0))
		weft_cfg_fail(c, &rate, "must be above 0, is %g", l->fill_rate->value);
	if (l->max_tokens && !l->max_tokens->value)
		weft_cfg_fail(c, &tokens, "must be above 0, is 0");
}

static int check_api(struct weft_cfg *c, const struct weft_path *at, const api_source *api,
		     const struct weft_xds_type *t)
{
	struct weft_path type = {at, "api_type", -1}, version = {at, "transport_api_version", -1};
	int before = c->errs->n + c->errs->dropped;

	switch (api->api_type) {
	case API(GRPC):
	case API(DELTA_GRPC):
		if (!t)
			break; /* Envoy takes both words for its ads_config */
		if (!t->service)
			weft_cfg_fail(c, &type, "%s has no stream of its own", t->brief);
		break;
	case API(AGGREGATED_GRPC):
	case API(AGGREGATED_DELTA_GRPC):
		break;
	default:
		weft_cfg_fail(c, &type,
			      "must be GRPC, DELTA_GRPC, AGGREGATED_GRPC or "
			      "AGGREGATED_DELTA_GRPC, is %s",
			      api->api_type == API(REST) ? "REST" : "not set");
	}
	if (api->transport_api_version != ENVOY__CONFIG__CORE__V3__API_VERSION__V3)
		weft_cfg_fail(c, &version, "must be V3, is %s",
			      api->transport_api_version == ENVOY__CONFIG__CORE__V3__API_VERSION__V2
				      ? "V2"
				      : "AUTO");
	check_grpc(c, at, api);
	check_limits(c, at, api);
	return c->errs->n + c->errs->dropped > before ? -EINVAL : 0;
}

int weft_xds_ads_check(struct weft_cfg *c, const struct weft_path *at,
		       const Envoy__Config__Core__V3__ApiConfigSource *api)
{
	return check_api(c, at, api, NULL);
}

static int check_path(struct weft_cfg *c, const struct weft_path *at, const char *path)
{
	struct stat st;

	if (!path || !path[0])
		return weft_cfg_fail(c, at, "must be set");
	if (stat(path, &st))
		return weft_cfg_fail(c, at, "must be a file that can be read, is \"%s\": %s", path,
				     strerror(errno));
	return 0;
}

static int check_files(struct weft_cfg *c, const struct weft_path *at,
		       const Envoy__Config__Core__V3__PathConfigSource *p)
{
	struct weft_path path = {at, "path", -1}, dir = {at, "watched_directory", -1};
	int r = check_path(c, &path, p->path);

	if (p->watched_directory && check_path(c, &dir, p->watched_directory->path))
		r = -EINVAL;
	return r;
}

int weft_xds_source_check(struct weft_cfg *c, const struct weft_path *at,
			  const Envoy__Config__Core__V3__ConfigSource *cs,
			  const struct weft_xds_type *t, bool have_ads)
{
	struct weft_path api = {at, "api_config_source", -1}, path = {at, "path", -1},
			 ads = {at, "ads", -1}, self = {at, "self", -1},
			 pcs = {at, "path_config_source", -1},
			 version = {at, "resource_api_version", -1};
	int r = 0;

	if (cs->resource_api_version == ENVOY__CONFIG__CORE__V3__API_VERSION__V2)
		r = weft_cfg_fail(c, &version, "must be V3, is V2");
	switch (cs->config_source_specifier_case) {
	case CS(API_CONFIG_SOURCE):
		return check_api(c, &api, cs->api_config_source, t) ?: r;
	case CS(ADS):
		return have_ads
			       ? r
			       : weft_cfg_fail(c, &ads,
					       "the bootstrap has no dynamic_resources.ads_config");
	case CS(PATH):
		return check_path(c, &path, cs->path) ?: r;
	case CS(PATH_CONFIG_SOURCE):
		return check_files(c, &pcs, cs->path_config_source) ?: r;
	case CS(SELF):
		return weft_cfg_fail(c, &self,
				     "is not supported; name the source of this resource");
	default:
		return weft_cfg_fail(c, at,
				     "one of path_config_source, api_config_source and ads must "
				     "be set");
	}
}

/* ---- a stream's configuration */

static char *method_of(const api_source *api, const struct weft_xds_type *t, bool aggregated)
{
	const char *verb = is_delta(api) ? "Delta" : "Stream";
	char *s;

	if (asprintf(&s, "/%s/%s%s", aggregated ? ads_service : t->service, verb,
		     aggregated ? "AggregatedResources" : t->noun) < 0)
		abort();
	return s;
}

static void take_metadata(struct weft_xds_stream_conf *conf,
			  const Envoy__Config__Core__V3__GrpcService *g)
{
	conf->metadata = weft_xcalloc(g->n_initial_metadata + 1, sizeof(*conf->metadata));
	for (size_t i = 0; i < g->n_initial_metadata; i++) {
		const Envoy__Config__Core__V3__HeaderValue *h = g->initial_metadata[i];
		struct weft_h2_header *to = &conf->metadata[conf->n_metadata++];

		to->name = weft_xstrdup(h->key);
		to->value = weft_xstrdup(h->value);
		to->name_len = strlen(h->key);
		to->value_len = strlen(h->value);
	}
}

static void take_backoff(const struct weft_xds_sources *s, struct weft_xds_stream_conf *conf,
			 const envoy_grpc *g)
{
	const Envoy__Config__Core__V3__BackoffStrategy *b =
		g->retry_policy ? g->retry_policy->retry_back_off : NULL;
	int64_t min, max;

	conf->backoff_min_ms = s->conf.backoff_min_ms ?: BACKOFF_MIN_MS;
	conf->backoff_max_ms = s->conf.backoff_max_ms ?: BACKOFF_MAX_MS;
	if (!b)
		return;
	min = weft_cfg_ms(b->base_interval, conf->backoff_min_ms);
	min = min < 1 ? 1 : min > INT32_MAX ? INT32_MAX : min;
	max = weft_cfg_ms(b->max_interval, min * BACKOFF_FACTOR);
	max = max < min ? min : max > INT32_MAX ? INT32_MAX : max;
	conf->backoff_min_ms = (unsigned)min;
	conf->backoff_max_ms = (unsigned)max;
}

int weft_xds_source_stream_conf(const struct weft_xds_sources *s, const api_source *api,
				const struct weft_xds_type *t, bool ads,
				struct weft_xds_stream_conf *ret, char **ret_cluster)
{
	const Envoy__Config__Core__V3__RateLimitSettings *l = api->rate_limit_settings;
	const Envoy__Config__Core__V3__GrpcService *g;
	const envoy_grpc *e;
	struct weft_errs *errs = weft_xcalloc(1, sizeof(*errs));
	struct weft_cfg c = {.errs = errs};
	int r = check_api(&c, NULL, api, ads ? NULL : t);

	free(errs);
	if (r)
		return r;
	g = api->grpc_services[0];
	e = g->envoy_grpc;
	*ret = (struct weft_xds_stream_conf){
		.method = method_of(api, t, ads || is_aggregated(api)),
		.authority = weft_xstrdup(e->authority && e->authority[0] ? e->authority
									  : e->cluster_name),
		.delta = is_delta(api),
		.node_always = !is_delta(api) && !api->set_node_on_first_message_only,
		.keep = true,
		.node = s->conf.node,
		.message_max = weft_cfg_u32(e->max_receive_message_length, WEFT_XDS_MESSAGE_MAX),
		.times = s->conf.times,
	};
	if (ret->message_max > WEFT_XDS_MESSAGE_MAX)
		ret->message_max = WEFT_XDS_MESSAGE_MAX;
	if (l) {
		ret->fill_rate = l->fill_rate ? l->fill_rate->value : FILL_RATE;
		ret->max_tokens = weft_cfg_u32(l->max_tokens, TOKENS);
	}
	take_metadata(ret, g);
	take_backoff(s, ret, e);
	*ret_cluster = weft_xstrdup(e->cluster_name);
	return 0;
}
