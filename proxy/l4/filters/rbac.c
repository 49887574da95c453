/* envoy.filters.network.rbac: decides once, when the connection is there (its handshake done),
 * before a byte of it is read. */
#include "proxy/policy/rbac.h"
#include "proxy/core/timer.h"
#include "proxy/core/worker.h"
#include "proxy/l4/chain.h"

#include "xds/proto/envoy/extensions/filters/network/rbac/v3/rbac.pb-c.h"
#include <ctype.h>
#include <errno.h>
#include <string.h>

typedef Envoy__Extensions__Filters__Network__Rbac__V3__RBAC rbac_msg;

#define NAMESPACE "envoy.filters.network.rbac"

struct engine {
	const struct weft_rbac *rules; /* NULL: none */
	bool shadow;
	const char *allowed, *denied; /* counters' full names */
	const char *policy_key, *result_key;
};
struct conf {
	struct engine enforced, shadow;
	int64_t delay_ms;
};
struct state {
	struct weft_timer timer; /* of a denial that waits */
	struct weft_chain *ch;
	const char *details;
};

/* ---- configuration */
/* "a", "a." and "" before a dot. */
static const char *dot(const char *s)
{
	size_t n = strlen(s);

	return n && s[n - 1] != '.' ? "." : "";
}

static void names(struct weft_arena *a, struct engine *e, const rbac_msg *m)
{
	const char *kind = e->shadow ? "shadow_" : "", *stat = m->stat_prefix ?: "",
		   *prefix = e->shadow ? m->shadow_rules_stat_prefix ?: "" : "",
		   *meta = e->shadow ? "shadow" : "enforced";

	e->allowed = weft_arena_printf(a, "%s%srbac.%s%s%sallowed", stat, dot(stat), prefix,
				       dot(prefix), kind);
	e->denied = weft_arena_printf(a, "%s%srbac.%s%s%sdenied", stat, dot(stat), prefix,
				      dot(prefix), kind);
	e->policy_key = weft_arena_printf(a, "%s%s_effective_policy_id", prefix, meta);
	e->result_key = weft_arena_printf(a, "%s%s_engine_result", prefix, meta);
}

static int prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *msg,
		   const void **ret)
{
	const rbac_msg *m = (const void *)msg;
	const struct weft_rbac_conf enforced = {m->rules, m->matcher, "rules", "matcher", NULL},
				    shadow = {m->shadow_rules, m->shadow_matcher, "shadow_rules",
					      "shadow_matcher", NULL};
	struct weft_path pe = {at, "enforcement_type", -1};
	struct conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));
	int err = weft_rbac_prepare(c, at, &enforced, &conf->enforced.rules);

	if (weft_rbac_prepare(c, at, &shadow, &conf->shadow.rules))
		err = -EINVAL;
	if (m->enforcement_type ==
	    ENVOY__EXTENSIONS__FILTERS__NETWORK__RBAC__V3__RBAC__ENFORCEMENT_TYPE__CONTINUOUS)
		err = weft_cfg_fail(c, &pe,
				    "CONTINUOUS is not supported: nothing of a connection "
				    "changes here while it lasts");
	conf->shadow.shadow = true;
	names(c->arena, &conf->enforced, m);
	names(c->arena, &conf->shadow, m);
	conf->delay_ms = weft_cfg_ms(m->delay_deny, 0);
	*ret = conf;
	return err;
}

/* ---- connections */
static const Google__Protobuf__Struct *meta_get(const void *ctx, const char *ns)
{
	return weft_info_meta_get(ctx, ns);
}

static bool allowed(struct weft_chain *ch, const struct engine *e, const struct weft_rbac_in *in,
		    struct weft_rbac_out *out)
{
	struct weft_info *info = weft_chain_info(ch);
	bool ok = weft_rbac_allowed(e->rules, in, out);
	Google__Protobuf__Struct *meta = weft_info_meta(info, NAMESPACE);

	weft_scope_global_add(ok ? e->allowed : e->denied, WEFT_COUNTER, 1);
	if (out->policy && *out->policy)
		weft_struct_set_string(info->arena, meta, e->policy_key, out->policy);
	weft_struct_set_string(info->arena, meta, e->result_key, ok ? "allowed" : "denied");
	if (out->hint_set && !e->shadow)
		weft_struct_set_bool(info->arena, weft_info_meta(info, "envoy.common"),
				     "access_log_hint", out->hint);
	return ok;
}

static void delayed(struct weft_timer *t)
{
	struct state *st = (struct state *)((char *)t - offsetof(struct state, timer));

	weft_chain_close(st->ch, 0, st->details);
}

static enum weft_flow deny(struct weft_chain *ch, const struct conf *conf, struct state *st,
			   const char *policy)
{
	char *details = weft_arena_printf(weft_chain_info(ch)->arena,
					  "rbac_access_denied_matched_policy[%s]",
					  policy && *policy ? policy : "none");

	for (char *p = details; *p; p++)
		if (isspace((unsigned char)*p))
			*p = '_';
	if (!conf->delay_ms) {
		weft_chain_close(ch, 0, details);
		return WEFT_DONE;
	}
	st->ch = ch;
	st->details = details;
	weft_timer_set(weft_timers_of(weft_chain_worker(ch)), &st->timer, (uint64_t)conf->delay_ms,
		       weft_now_ns(), delayed);
	return WEFT_WAIT;
}

static enum weft_flow opened(struct weft_chain *ch, const void *vconf, void *vstate)
{
	const struct conf *conf = vconf;
	const struct weft_info *info = weft_chain_info(ch);
	struct weft_rbac_out out;
	struct weft_rbac_in in = {
		.conn = weft_io_info(weft_chain_io(ch)),
		.remote = info->remote,
		.sni = info->requested_server_name,
		.meta = meta_get,
		.meta_ctx = info,
	};

	if (!in.remote.ip.family)
		in.remote = in.conn->remote;
	if (conf->shadow.rules)
		allowed(ch, &conf->shadow, &in, &out);
	if (conf->enforced.rules && !allowed(ch, &conf->enforced, &in, &out))
		return deny(ch, conf, vstate, out.policy);
	return WEFT_NEXT;
}

static void closed(struct weft_chain *ch, const void *conf, void *vstate)
{
	struct state *st = vstate;

	weft_timer_clear(&st->timer);
}

const struct weft_net_filter weft_net_filter_rbac = {
	.ext = {.name = NAMESPACE,
		.config = &envoy__extensions__filters__network__rbac__v3__rbac__descriptor,
		.state_size = sizeof(struct state),
		.prepare = prepare},
	.opened = opened,
	.closed = closed,
};
