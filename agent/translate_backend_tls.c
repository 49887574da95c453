/* BackendTLSPolicy: of applications that speak TLS themselves. Which holds for a Service's port,
 * what its cluster gets, and what its status says. */
#include "agent/gateway.h"
#include "xds/names.h"

#include "xds/proto/envoy/extensions/transport_sockets/tls/v3/tls.pb-c.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A policy, in the order of age; and the Gateways that asked for it. */
struct gw_tls_policy {
	const struct weft_object *o;
	const Weft__Kube__BackendTlsPolicySpec *spec;
	const char *ca; /* NULL: a ConfigMap is missing */
	const struct tr_gateway **users;
	size_t n_users;
};
/* What a policy is for: "ns/service", or "ns/service/port's name". The older has it. */
struct gw_tls_target {
	const char *key;
	struct gw_tls_policy *policy;
	UT_hash_handle hh;
};

/* The ca.crt of each ConfigMap, one after the other; NULL: one is missing. */
static const char *ca_of(struct tr *t, const struct weft_object *o,
			 const Weft__Kube__BackendTlsValidation *v)
{
	const char *all = "";

	for (size_t i = 0; i < v->n_ca_certificate_refs; i++) {
		const struct weft_object *m = weft_objects_find(
			t->objs, WEFT_KIND_CONFIG_MAP, o->ns, v->ca_certificate_refs[i]->name);
		const Weft__Kube__ConfigMap *c = m ? (const Weft__Kube__ConfigMap *)m->msg : NULL;
		const char *ca = NULL;

		for (size_t k = 0; c && k < c->n_data; k++)
			if (!strcmp(c->data[k]->key, "ca.crt"))
				ca = c->data[k]->value;
		if (!ca)
			return NULL;
		all = weft_arena_printf(t->a, "%s%s\n", all, ca);
	}
	return all;
}

static const char *key_of(struct tr *t, const struct weft_object *o,
			  const Weft__Kube__BackendTlsTarget *r)
{
	bool port = r->section_name && *r->section_name;

	return weft_arena_printf(t->a, "%s/%s%s%s", o->ns, r->name, port ? "/" : "",
				 port ? r->section_name : "");
}

static struct gw_tls_target *target(struct tr *t, const char *key)
{
	struct gw_tls_target *x;

	HASH_FIND(hh, t->tls_targets, key, strlen(key), x);
	return x;
}

static int age_order(const void *pa, const void *pb)
{
	const struct gw_tls_policy *a = pa, *b = pb;

	return gw_older(a->o, b->o);
}

void tr_backend_tls(struct tr *t)
{
	size_t n;
	const struct weft_object *v = weft_objects_of(t->objs, WEFT_KIND_BACKEND_TLS_POLICY, &n);

	t->tls = weft_arena_alloc(t->a, (n ? n : 1) * sizeof(*t->tls));
	t->n_tls = n;
	for (size_t i = 0; i < n; i++) {
		const Weft__Kube__BackendTlsPolicySpec *p =
			((const Weft__Kube__BackendTlsPolicy *)v[i].msg)->spec;

		t->tls[i] = (struct gw_tls_policy){
			.o = &v[i], .spec = p, .ca = ca_of(t, &v[i], p->validation)};
		if (!t->tls[i].ca)
			tr_bad(t, &v[i], p->validation, "ca_certificate_refs", -1, NULL,
			       "there is no ConfigMap of that name with ca.crt; nothing is sent to "
			       "the Service");
	}
	if (n)
		qsort(t->tls, n, sizeof(*t->tls), age_order);
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < t->tls[i].spec->n_target_refs; k++) {
			const char *key = key_of(t, t->tls[i].o, t->tls[i].spec->target_refs[k]);
			struct gw_tls_target *x = target(t, key);

			if (x)
				continue;
			x = weft_arena_alloc(t->a, sizeof(*x));
			*x = (struct gw_tls_target){.key = key, .policy = &t->tls[i]};
			HASH_ADD_KEYPTR(hh, t->tls_targets, x->key, strlen(x->key), x);
		}
}

/* ---- what clusters get */

static const char *port_name(const struct tr_svc *s, uint32_t port)
{
	for (size_t i = 0; i < s->spec->n_ports; i++)
		if ((uint32_t)s->spec->ports[i]->port == port && s->spec->ports[i]->name)
			return s->spec->ports[i]->name;
	return "";
}

struct gw_tls_policy *gw_backend_tls_of(struct tr *t, const struct tr_gateway *g,
					const struct tr_svc *s, uint32_t port)
{
	const char *name = port_name(s, port);
	struct gw_tls_target *x = NULL;
	struct gw_tls_policy *p;

	if (!t->n_tls)
		return NULL;
	if (*name)
		x = target(t, weft_arena_printf(t->a, "%s/%s/%s", s->o->ns, s->o->name, name));
	/* the port's own before the whole Service's */
	if (!x)
		x = target(t, weft_arena_printf(t->a, "%s/%s", s->o->ns, s->o->name));
	if (!x)
		return NULL;
	p = x->policy;
	if (!p->n_users || p->users[p->n_users - 1] != g)
		TR_ADD(t, p->users, p->n_users, g);
	return p;
}

bool gw_backend_tls_usable(const struct gw_tls_policy *p)
{
	return p->ca;
}

void gw_backend_tls_put(struct tr *t, void *cluster, const struct gw_tls_policy *p)
{
	struct weft_arena *a = t->a;
	const Weft__Kube__BackendTlsValidation *v = p->spec->validation;
	void *tls = eb_new(
		a,
		&envoy__extensions__transport_sockets__tls__v3__upstream_tls_context__descriptor);
	void *valid = eb_in(a, tls, "common_tls_context.validation_context");

	eb_str(a, tls, "sni", v->hostname);
	if (v->n_ca_certificate_refs && p->ca)
		eb_str(a, valid, "trusted_ca.inline_bytes", p->ca);
	else
		eb_in(a, valid, "system_root_certs");
	for (size_t i = 0; i < v->n_subject_alt_names; i++)
		gw_san_is(a, valid, v->subject_alt_names[i]->uri ? "URI" : "DNS",
			  v->subject_alt_names[i]->uri ? v->subject_alt_names[i]->uri
						       : v->subject_alt_names[i]->hostname);
	if (!v->n_subject_alt_names)
		gw_san_is(a, valid, "DNS", v->hostname);
	eb_typed(a, eb_in(a, cluster, "transport_socket"), "envoy.transport_sockets.tls", tls);
}

/* ---- status */

/* Why the policy does not hold for one of its targets: the reason, and text. NULL: it does. */
static const char *target_bad(struct tr *t, const struct gw_tls_policy *p,
			      const Weft__Kube__BackendTlsTarget *r, char *text, size_t cap)
{
	const struct tr_svc *s = tr_svc_find(t, p->o->ns, r->name);
	const struct gw_tls_target *x = target(t, key_of(t, p->o, r));
	bool found = !r->section_name || !*r->section_name;

	if (!s) {
		snprintf(text, cap, "there is no such Service");
		return "TargetNotFound";
	}
	for (size_t i = 0; i < s->spec->n_ports && !found; i++)
		found = s->spec->ports[i]->name &&
			!strcmp(s->spec->ports[i]->name, r->section_name);
	if (!found) {
		snprintf(text, cap, "the Service has no port of that name");
		return "TargetNotFound";
	}
	if (x && x->policy != p) {
		snprintf(text, cap, "the older BackendTLSPolicy %.100s has this target",
			 x->policy->o->name);
		return "Conflicted";
	}
	return NULL;
}

static json_t *ancestor_json(const struct gw_tls_policy *p, json_t *ref, const char *reason,
			     const char *text)
{
	json_t *list = json_array();

	if (!reason && !p->ca) {
		reason = "NoValidCACertificate";
		text = "a ConfigMap is missing or has no ca.crt; nothing is sent to the Service";
	}
	gw_condition(list, "Accepted", !reason, reason ? reason : "Accepted", text);
	gw_condition(list, "ResolvedRefs", p->ca,
		     p->ca ? "ResolvedRefs" : "InvalidCACertificateRef",
		     p->ca ? NULL : "there is no ConfigMap of that name with ca.crt");
	return json_pack("{s:o,s:s,s:o}", "ancestorRef", ref, "controllerName", "weft.io/gateway",
			 "conditions", list);
}

/* An ancestor is a Gateway that uses the policy; a target for which it does not hold is told as an
 * ancestor too, since nothing else would tell it. */
void tr_backend_tls_status(struct tr *t)
{
	for (size_t i = 0; i < t->n_tls; i++) {
		const struct gw_tls_policy *p = &t->tls[i];
		json_t *ancestors = json_array();
		char text[200];

		for (size_t k = 0; k < p->n_users; k++)
			json_array_append_new(
				ancestors,
				ancestor_json(p,
					      json_pack("{s:s,s:s,s:s}", "kind", "Gateway",
							"namespace", p->users[k]->ns, "name",
							p->users[k]->name),
					      NULL, NULL));
		for (size_t k = 0; k < p->spec->n_target_refs; k++) {
			const Weft__Kube__BackendTlsTarget *r = p->spec->target_refs[k];
			const char *bad = target_bad(t, p, r, text, sizeof(text));
			json_t *ref;

			if (!bad)
				continue;
			ref = json_pack("{s:s,s:s,s:s}", "kind", "Service", "namespace", p->o->ns,
					"name", r->name);
			if (r->section_name && *r->section_name)
				json_object_set_new(ref, "sectionName",
						    json_string(r->section_name));
			json_array_append_new(ancestors, ancestor_json(p, ref, bad, text));
		}
		json_array_append_new(t->status,
				      json_pack("{s:s,s:s,s:s,s:s,s:o}", "kind", p->o->kind->kind,
						"namespace", p->o->ns, "name", p->o->name, "source",
						tr_source(t, p->o), "ancestors", ancestors));
	}
	HASH_CLEAR(hh, t->tls_targets);
}
