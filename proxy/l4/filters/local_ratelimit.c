/* envoy.filters.network.local_ratelimit: how many connections may begin. */
#include "proxy/core/bucket.h"
#include "proxy/core/worker.h"
#include "proxy/l4/chain.h"
#include "xds/proto/envoy/extensions/filters/network/local_ratelimit/v3/local_rate_limit.pb-c.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FILL_MS_MIN = 50 };

static const struct weft_scope_item items[] = {
	{"rate_limited", WEFT_COUNTER, "connections closed because there was no token"},
};
static const struct weft_scope_class limit_class = {.prefix = "local_rate_limit",
						    .tag = "envoy_local_network_ratelimit_prefix",
						    .v = items,
						    .n = sizeof(items) / sizeof(*items)};

/* Filters with the same share_key and numbers have one. Main thread, but for the bucket itself. */
struct shared {
	struct shared *next;
	unsigned refs;
	char *key; /* NULL: of one filter alone */
	uint32_t max, tokens;
	uint64_t interval_ms;
	struct weft_bucket bucket;
};
struct conf {
	struct shared *bucket;
	struct weft_scope *scope;
	bool on;
};
static struct shared *all;

static struct shared *shared_get(const char *key, uint32_t max, uint32_t tokens, uint64_t ms)
{
	struct shared *s;

	for (s = *key ? all : NULL; s; s = s->next)
		if (s->key && !strcmp(s->key, key) && s->max == max && s->tokens == tokens &&
		    s->interval_ms == ms)
			break;
	if (!s) {
		s = weft_xcalloc(1, sizeof(*s));
		s->key = *key ? weft_xstrdup(key) : NULL;
		s->max = max;
		s->tokens = tokens;
		s->interval_ms = ms;
		weft_bucket_init(&s->bucket, max, tokens, ms * 1000000, weft_now_ns());
		s->next = all;
		all = s;
	}
	s->refs++;
	return s;
}

static void conf_done(void *arg)
{
	struct conf *conf = arg;
	struct shared *s = conf->bucket, **at;

	weft_scope_unref(conf->scope);
	if (--s->refs)
		return;
	for (at = &all; *at != s; at = &(*at)->next)
		;
	*at = s->next;
	free(s->key);
	free(s);
}

static int prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *msg,
		   const void **ret)
{
	const Envoy__Extensions__Filters__Network__LocalRatelimit__V3__LocalRateLimit *m =
		(const void *)msg;
	const Envoy__Type__V3__TokenBucket *b = m->token_bucket;
	struct weft_path pb = {at, "token_bucket", -1}, pf = {&pb, "fill_interval", -1};
	struct conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));
	int64_t ms = b ? weft_cfg_ms(b->fill_interval, 0) : 0;

	if (!b)
		return weft_cfg_fail(c, &pb, "must be set");
	if (ms < FILL_MS_MIN)
		return weft_cfg_fail(c, &pf, "must be at least %d ms, is %lld ms", FILL_MS_MIN,
				     (long long)ms);
	conf->on = !m->runtime_enabled || weft_cfg_bool(m->runtime_enabled->default_value, true);
	conf->scope = weft_scope_get(&limit_class, m->stat_prefix ?: "");
	conf->bucket = shared_get(m->share_key ?: "", b->max_tokens,
				  weft_cfg_u32(b->tokens_per_fill, 1), (uint64_t)ms);
	weft_arena_cleanup(c->arena, conf_done, conf);
	*ret = conf;
	return 0;
}

static enum weft_flow opened(struct weft_chain *ch, const void *arg, void *state)
{
	const struct conf *conf = arg;

	if (!conf->on || weft_bucket_take(&conf->bucket->bucket, 1, weft_now_ns()))
		return WEFT_NEXT;
	weft_scope_add(conf->scope, 0, 1);
	weft_info_flag(weft_chain_info(ch), WEFT_FLAG_URX);
	weft_chain_close(ch, 0, "local_ratelimit_close");
	return WEFT_DONE;
}

const struct weft_net_filter weft_net_filter_local_ratelimit = {
	.ext = {.name = "envoy.filters.network.local_ratelimit",
		.config =
			&envoy__extensions__filters__network__local_ratelimit__v3__local_rate_limit__descriptor,
		.prepare = prepare},
	.opened = opened,
};
