#include "agent/explain_int.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *workload_source(const struct explain *t, const struct weft_workload *w)
{
	return w ? weft_store_source(t->s, &weft_xds_type_address, w->uid) : "";
}

static const char *service_source(const struct explain *t, const struct weft_service *s)
{
	return s ? weft_store_source(t->s, &weft_xds_type_address, s->key) : "";
}

/* ---- one sentence: why, and what to do */

static const char *policy_kind(const struct weft_policy *p)
{
	return p && weft_policy_is_peer(p) ? "PeerAuthentication" : "AuthorizationPolicy";
}

static void say_policy_allow(struct explain *t, const char *who)
{
	const struct weft_policy *p = t->v.decided;

	if (p)
		snprintf(t->why, sizeof(t->why), "%s %s (%s) allows %s by rules[%d].",
			 policy_kind(p), weft_policy_name(p), weft_policy_source(p), who,
			 t->v.rule);
	else
		snprintf(t->why, sizeof(t->why),
			 "No policy of %s denies %s, and none restricts who may come.",
			 t->route.endpoint->uid, who);
}

static void say_no_allow(struct explain *t, const char *who)
{
	size_t used = (size_t)snprintf(t->why, sizeof(t->why),
				       "ALLOW policies hold for %s and none of their rules matches "
				       "%s; add one that does to ",
				       t->route.endpoint->uid, who);
	bool first = true;

	for (size_t i = 0; i < t->v.n_steps && used < sizeof(t->why) - 1; i++) {
		const struct weft_step *st = &t->steps[i];

		if (!st->policy || st->deny_action || st->dry_run)
			continue;
		used += (size_t)snprintf(t->why + used, sizeof(t->why) - used, "%s%s (%s)",
					 first ? "" : " or ", st->name,
					 weft_policy_source(st->policy));
		first = false;
	}
	if (used < sizeof(t->why) - 1)
		snprintf(t->why + used, sizeof(t->why) - used, ".");
}

static void say_denied(struct explain *t, const char *who)
{
	const struct weft_policy *p = t->v.decided;

	if (t->reason == WEFT_REASON_POLICY_UNKNOWN) {
		snprintf(t->why, sizeof(t->why),
			 "%s names a policy that is not there, and nothing is let in until it "
			 "comes; see the list of policies.",
			 t->route.endpoint->uid);
	} else if (t->reason == WEFT_REASON_POLICY_STRICT) {
		snprintf(t->why, sizeof(t->why),
			 "PeerAuthentication (%s) demands mTLS and %s has no identity: enrol it by "
			 "the label weft.io/mesh: enabled, "
			 "or set the mode PERMISSIVE.",
			 weft_policy_source(p), t->src ? t->src->uid : t->src_text);
	} else if (p) {
		snprintf(t->why, sizeof(t->why),
			 "AuthorizationPolicy %s (%s) denies %s by rules[%d]; change that rule to "
			 "let it in.",
			 weft_policy_name(p), weft_policy_source(p), who, t->v.rule);
	} else {
		say_no_allow(t, who);
	}
}

static void say_waypoint(struct explain *t)
{
	const struct weft_gateway_ref *g = t->svc     ? &t->svc->waypoint
					   : t->dst_w ? t->dst_w->waypoint
						      : NULL;
	char name[300] = "the waypoint";

	if (g && g->by_host)
		snprintf(name, sizeof(name), "waypoint %.250s", g->hostname);
	if (t->waypoint && t->allow)
		snprintf(t->why, sizeof(t->why),
			 "It goes to the waypoint, whose filters, route and endpoints are told "
			 "above; "
			 "the pods behind it see the waypoint's identity.");
	else if (t->waypoint)
		snprintf(t->why, sizeof(t->why), "%s",
			 t->reason == WEFT_REASON_POLICY_DENY
				 ? "A policy of the waypoint denies it, or none of its ALLOW "
				   "policies lets it in; the filters above say which."
				 : "The waypoint serves no such address and port; see weftctl "
				   "status "
				   "gateways.");
	else if (t->allow)
		snprintf(t->why, sizeof(t->why),
			 "It goes to %s, which decides about the rest of the way; policies of the "
			 "pods behind it are not told here.",
			 name);
	else
		snprintf(t->why, sizeof(t->why),
			 "%s has no Service, no healthy pod, or no port 15008, and traffic is not "
			 "led around it: create it, or label the "
			 "destination istio.io/use-waypoint: none.",
			 name);
}

static void say_refused(struct explain *t)
{
	char ports[120] = "";

	for (size_t i = 0, used = 0; t->svc && i < t->svc->n_ports && used < sizeof(ports) - 8; i++)
		used += (size_t)snprintf(ports + used, sizeof(ports) - used, "%s%u", i ? ", " : "",
					 t->svc->ports[i].service_port);
	if (t->reason == WEFT_REASON_NO_PORT && t->svc)
		snprintf(t->why, sizeof(t->why),
			 "Service %s (%s) has no port %u that an endpoint answers; its ports are: "
			 "%s.",
			 t->svc->key, service_source(t, t->svc), t->dst.port,
			 *ports ? ports : "none");
	else if (t->reason == WEFT_REASON_NO_ENDPOINT && t->svc)
		snprintf(t->why, sizeof(t->why),
			 "Service %s (%s) has %zu endpoints and none can be used; the list of "
			 "endpoints says why of each, and no pod "
			 "matches the selector if it is empty.",
			 t->svc->key, service_source(t, t->svc), t->all_choices);
	else if (t->reason == WEFT_REASON_ILLEGAL_PORT)
		snprintf(
			t->why, sizeof(t->why),
			"Port %u is one of the proxy's own (15001, 15006, 15008); use another one.",
			t->target.port ? t->target.port : t->dst.port);
	else
		snprintf(t->why, sizeof(t->why), "Refused: %s.", weft_reason_text(t->reason));
}

void explain_say(struct explain *t)
{
	bool mesh = t->src && t->src->hbone;
	char who[300];

	snprintf(who, sizeof(who), "%.250s", mesh ? t->src->identity : "a client without identity");
	if (t->route.via_waypoint)
		say_waypoint(t);
	else if (t->edge)
		snprintf(t->why, sizeof(t->why), "%s",
			 t->allow ? "It comes to the gateway, whose filters, route and endpoints "
				    "are told above."
			 : t->reason == WEFT_REASON_POLICY_DENY
				 ? "A policy of the gateway denies it, or none of its ALLOW "
				   "policies lets it in; the filters above say which."
				 : "No listener of the gateway takes this server name; see "
				   "weftctl status gateways.");
	else if (t->checked && t->allow)
		say_policy_allow(t, who);
	else if (t->checked)
		say_denied(t, who);
	else if (!t->allow)
		say_refused(t);
	else if (!mesh)
		snprintf(t->why, sizeof(t->why),
			 "Neither %s nor what it connects to is enrolled: plain TCP, and no policy "
			 "is asked.",
			 t->src ? t->src->uid : t->src_text);
	else if (t->route.kind == WEFT_ROUTE_TCP)
		snprintf(t->why, sizeof(t->why),
			 "%s (%s) is not enrolled: plain TCP, and no policy is asked.",
			 t->route.endpoint->uid, workload_source(t, t->route.endpoint));
	else
		snprintf(t->why, sizeof(t->why),
			 "The mesh does not know this address: plain TCP to it, and no policy is "
			 "asked.");
}

/* ---- JSON */

static json_t *text_or_null(const char *s)
{
	return s && *s ? json_string(s) : json_null();
}

static json_t *sockaddr_json(const struct weft_sockaddr *a)
{
	char text[WEFT_SOCKADDR_TEXT];

	if (a->ip.family && !a->port)
		return json_string(weft_ip_text(&a->ip, text, sizeof(text)));
	return a->ip.family ? json_string(weft_sockaddr_text(a, text, sizeof(text))) : json_null();
}

static json_t *source_json(const struct explain *t)
{
	char ip[WEFT_IP_TEXT];

	return json_pack("{s:s, s:o, s:o, s:b, s:o, s:o, s:o}", "asked", t->src_text, "address",
			 t->src_ip.family ? json_string(weft_ip_text(&t->src_ip, ip, sizeof(ip)))
					  : json_null(),
			 "workload", text_or_null(t->src ? t->src->uid : NULL), "enrolled",
			 t->src && t->src->hbone, "identity",
			 text_or_null(t->src && t->src->hbone ? t->src->identity : NULL), "node",
			 text_or_null(t->src ? t->src->node : NULL), "object",
			 text_or_null(workload_source(t, t->src)));
}

static json_t *destination_json(const struct explain *t)
{
	return json_pack(
		"{s:s, s:o, s:o, s:o, s:o}", "asked", t->dst_text, "address",
		sockaddr_json(&t->dst), "service", text_or_null(t->svc ? t->svc->key : NULL),
		"workload", text_or_null(t->dst_w ? t->dst_w->uid : NULL), "object",
		text_or_null(t->svc ? service_source(t, t->svc) : workload_source(t, t->dst_w)));
}

static json_t *endpoints_json(const struct explain *t)
{
	json_t *v = json_array();

	for (size_t i = 0; i < t->n_choices; i++) {
		const struct weft_choice *c = &t->choices[i];

		json_array_append_new(
			v, json_pack("{s:s, s:o, s:b, s:b, s:o, s:o, s:b, s:o}", "workload",
				     c->w->uid, "address", sockaddr_json(&c->target), "healthy",
				     c->w->healthy, "enrolled", c->w->hbone, "node",
				     text_or_null(c->w->node), "not_used", text_or_null(c->why_not),
				     "chosen", c->w == t->route.endpoint, "object",
				     text_or_null(workload_source(t, c->w))));
	}
	return v;
}

static json_t *path_json(const struct explain *t)
{
	static const char *const kinds[] = {"refused", "plain", "plain", "hbone"};
	json_t *ids = json_array();

	if (t->route.kind == WEFT_ROUTE_HBONE && *t->route.id)
		json_array_append_new(ids, json_string(t->route.id));
	for (size_t i = 0; i < t->route.n_sans; i++)
		json_array_append_new(ids, json_string(t->route.sans[i]));
	return json_pack(
		"{s:s, s:b, s:b, s:o, s:o, s:o, s:o}", "kind", kinds[t->route.kind], "captured",
		t->src && t->src->hbone, "waypoint", t->route.via_waypoint, "dial",
		t->route.kind == WEFT_ROUTE_REFUSE ? json_null() : sockaddr_json(&t->route.dial),
		"authority", text_or_null(t->route.authority), "endpoint",
		text_or_null(t->route.endpoint ? t->route.endpoint->uid : NULL), "identities", ids);
}

static json_t *policies_json(const struct explain *t)
{
	json_t *v = json_array();

	for (size_t i = 0; i < t->v.n_steps; i++) {
		const struct weft_step *st = &t->steps[i];

		json_array_append_new(
			v,
			json_pack("{s:s, s:s, s:o, s:o, s:b, s:b, s:o, s:b}", "kind",
				  policy_kind(st->policy), "name", st->name, "object",
				  text_or_null(st->policy ? weft_policy_source(st->policy) : NULL),
				  "action",
				  st->policy ? json_string(st->deny_action ? "DENY" : "ALLOW")
					     : json_null(),
				  "dry_run", st->dry_run, "matched", st->matched, "rule",
				  st->matched ? json_sprintf("rules[%d]", st->rule) : json_null(),
				  "decided", st->policy && st->policy == t->v.decided));
	}
	return v;
}

json_t *explain_json(const struct explain *t)
{
	json_t *o = json_pack("{s:o, s:o, s:o, s:I, s:o, s:b, s:o, s:s, s:s, s:s}", "source",
			      source_json(t), "destination", destination_json(t), "endpoints",
			      endpoints_json(t), "endpoints_total", (json_int_t)t->all_choices,
			      "path", path_json(t), "policy_asked", t->checked, "policies",
			      policies_json(t), "verdict", t->allow ? "allow" : "deny", "reason",
			      weft_reason_code(t->reason), "explanation", t->why);

	if (t->waypoint)
		json_object_set_new(o, "waypoint", t->waypoint);
	return o;
}

/* ---- text, from the JSON: nothing is told in one form only */

static const char *get(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "-";
}

static bool is(const json_t *o, const char *key)
{
	return json_is_true(json_object_get(o, key));
}

static bool has(const json_t *o, const char *key)
{
	return json_is_string(json_object_get(o, key));
}

static void path_text(FILE *f, const json_t *p)
{
	const json_t *ids = json_object_get(p, "identities"), *id;
	size_t i;

	fprintf(f, "path         ");
	if (!strcmp(get(p, "kind"), "refused")) {
		fprintf(f, "refused\n");
		return;
	}
	if (strcmp(get(p, "kind"), "hbone") != 0) {
		fprintf(f, "plain TCP to %s%s\n", get(p, "dial"),
			is(p, "captured") ? "" : ", not captured");
		return;
	}
	fprintf(f, "mTLS to %s%s, CONNECT %s\n", get(p, "dial"),
		is(p, "waypoint") ? " (the waypoint)" : "", get(p, "authority"));
	json_array_foreach(ids, i, id)
		fprintf(f, "%s%s\n", i ? "             or " : "             its identity must be ",
			json_string_value(id));
}

static void policies_text(FILE *f, const json_t *o)
{
	const json_t *v = json_object_get(o, "policies"), *p;
	size_t i;

	json_array_foreach(v, i, p)
	{
		fprintf(f, "%s%s %s (%s) ", i ? "             " : "policies     ", get(p, "kind"),
			get(p, "name"), get(p, "object"));
		if (!has(p, "action"))
			fprintf(f, "is not there: denies\n");
		else
			fprintf(f, "%s%s: %s%s%s\n", get(p, "action"),
				is(p, "dry_run") ? " (dry run)" : "",
				is(p, "matched") ? get(p, "rule") : "no rule", " matches",
				is(p, "decided") ? ", decides" : "");
	}
	if (!json_array_size(v))
		fprintf(f, "policies     %s\n",
			is(o, "policy_asked") ? "none applies" : "none asked");
}

char *explain_text(const json_t *o)
{
	const json_t *src = json_object_get(o, "source"), *dst = json_object_get(o, "destination"),
		     *e;
	char *text = NULL;
	size_t n, i;
	FILE *f = open_memstream(&text, &n);

	if (!f)
		return NULL;
	fprintf(f, "source       %s, address %s, %s (%s)\n",
		has(src, "workload") ? get(src, "workload") : get(src, "asked"),
		get(src, "address"), is(src, "enrolled") ? get(src, "identity") : "not enrolled",
		get(src, "object"));
	fprintf(f, "destination  %s, address %s (%s)\n",
		has(dst, "service")    ? get(dst, "service")
		: has(dst, "workload") ? get(dst, "workload")
				       : get(dst, "asked"),
		get(dst, "address"), get(dst, "object"));
	json_array_foreach(json_object_get(o, "endpoints"), i, e)
		fprintf(f, "%s%s %s %s, %s%s%s\n", i ? "             " : "endpoints    ",
			is(e, "chosen") ? "*" : " ", get(e, "workload"), get(e, "address"),
			is(e, "enrolled") ? "enrolled" : "not enrolled",
			has(e, "not_used") ? ", not used: " : "",
			has(e, "not_used") ? get(e, "not_used") : "");
	path_text(f, json_object_get(o, "path"));
	if (json_object_get(o, "waypoint"))
		explain_waypoint_text(f, json_object_get(o, "waypoint"));
	else
		policies_text(f, o);
	fprintf(f, "verdict      %s (%s)\n             %s\n", get(o, "verdict"), get(o, "reason"),
		get(o, "explanation"));
	fclose(f);
	return text;
}
