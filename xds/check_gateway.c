/* Checks of GatewayClass, Gateway, ReferenceGrant, BackendTLSPolicy, Secret and ConfigMap, each
 * object by itself. */
#include "xds/check_priv.h"
#include "xds/proto/gateway.pb-c.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>

enum { LISTENERS_MAX = 64, CERTS_MAX = 64, ADDRESSES_MAX = 16 };

void check_refused(struct check *c, const struct weft_path *up, const void *m, const char *field,
		   const char *name, const char *why)
{
	check_bad(c, check_at(c, m, field, -1), &(struct weft_path){up, name, -1},
		  "is not supported: %s", why);
}

void check_required(struct check *c, const struct weft_path *up, const void *m, const char *field,
		    const char *name, const char *value)
{
	if (!value || !*value)
		check_bad(c, check_at(c, m, value ? field : NULL, -1),
			  &(struct weft_path){up, name, -1}, "required, but missing");
}

void check_number(struct check *c, const struct weft_path *up, const void *m, const char *field,
		  const char *name, long v, long min, long max)
{
	if (v < min || v > max)
		check_bad(c, check_at(c, m, field, -1), &(struct weft_path){up, name, -1},
			  "must be %ld..%ld, is %ld", min, max, v);
}

bool check_hostname(const char *s, bool wild)
{
	struct weft_ip ip;

	if (wild && !strncmp(s, "*.", 2))
		s += 2;
	return check_dns_name(s) && weft_ip_parse(s, &ip) < 0;
}

int64_t weft_gateway_duration(const char *s)
{
	int64_t ms = 0;
	int parts = 0;

	while (*s) {
		int64_t v = 0;
		int digits = 0;

		for (; isdigit((unsigned char)*s); s++, digits++)
			v = v * 10 + (*s - '0');
		if (!digits || digits > 5 || ++parts > 4)
			return -1;
		if (!strncmp(s, "ms", 2)) {
			s += 2;
		} else if (*s == 's' || *s == 'm' || *s == 'h') {
			v *= *s == 's' ? 1000 : *s == 'm' ? 60000 : 3600000;
			s++;
		} else {
			return -1;
		}
		ms += v;
	}
	return parts ? ms : -1;
}

/* ---- GatewayClass */

void check_gateway_class(struct check *c)
{
	const Weft__Kube__GatewayClassSpec *s = ((const Weft__Kube__GatewayClass *)c->o->msg)->spec;
	const struct weft_path up = {NULL, "spec", -1};

	check_meta(c, false);
	check_required(c, &up, s, "controller_name", "controllerName", s->controller_name);
	if (s->parameters_ref)
		check_refused(c, &up, s, "parameters_ref", "parametersRef",
			      "a class has no parameters");
}

/* ---- Gateway */

static const char *const operators[] = {"In", "NotIn", "Exists", "DoesNotExist", NULL};

static void check_selector(struct check *c, const struct weft_path *up,
			   const Weft__Kube__LabelSelector *s)
{
	for (size_t i = 0; i < s->n_match_expressions; i++) {
		const Weft__Kube__LabelSelector__Requirement *r = s->match_expressions[i];
		const struct weft_path at = {up, "matchExpressions", (int)i};
		bool sets = r->operator_ &&
			    (!strcmp(r->operator_, "In") || !strcmp(r->operator_, "NotIn"));

		check_required(c, &at, r, "key", "key", r->key);
		check_required(c, &at, r, "operator", "operator", r->operator_);
		check_one_of(c, &(struct weft_path){&at, "operator", -1},
			     check_at(c, r, "operator", -1), r->operator_, operators);
		if (sets != (r->n_values > 0))
			check_bad(c, check_at(c, r, "values", -1),
				  &(struct weft_path){&at, "values", -1}, "%s",
				  sets ? "required with In and NotIn"
				       : "cannot stand with Exists and DoesNotExist");
	}
}

static void check_allowed(struct check *c, const struct weft_path *up,
			  const Weft__Kube__AllowedRoutes *a)
{
	static const char *const sources[] = {"All", "Same", "Selector", NULL};
	static const char *const kinds[] = {"HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute", NULL};
	const struct weft_path at = {up, "allowedRoutes", -1}, ns = {&at, "namespaces", -1};
	const struct weft_path from = {&ns, "from", -1}, sel = {&ns, "selector", -1};
	const Weft__Kube__RouteNamespaces *n = a->namespaces;

	if (n) {
		check_one_of(c, &from, check_at(c, n, "from", -1), n->from, sources);
		if ((n->from && !strcmp(n->from, "Selector")) != (n->selector != NULL))
			check_bad(c, check_at(c, n, "from", -1), &sel,
				  "goes with from: Selector, and with nothing else");
		if (n->selector)
			check_selector(c, &sel, n->selector);
	}
	for (size_t i = 0; i < a->n_kinds; i++) {
		const struct weft_path k = {&at, "kinds", (int)i}, kind = {&k, "kind", -1};

		check_required(c, &k, a->kinds[i], "kind", "kind", a->kinds[i]->kind);
		check_one_of(c, &kind, check_at(c, a->kinds[i], "kind", -1), a->kinds[i]->kind,
			     kinds);
	}
}

static void check_listener_tls(struct check *c, const struct weft_path *up,
			       const Weft__Kube__GatewayListener *l)
{
	static const char *const modes[] = {"Terminate", "Passthrough", NULL};
	const struct weft_path at = {up, "tls", -1}, mode = {&at, "mode", -1};
	const struct weft_path refs = {&at, "certificateRefs", -1};
	const Weft__Kube__ListenerTls *t = l->tls;
	bool pass = t->mode && !strcmp(t->mode, "Passthrough");

	check_one_of(c, &mode, check_at(c, t, "mode", -1), t->mode, modes);
	if (pass && l->protocol && !strcmp(l->protocol, "HTTPS"))
		check_bad(c, check_at(c, t, "mode", -1), &mode,
			  "of an HTTPS listener must be Terminate; protocol TLS passes through");
	if (!pass && !t->n_certificate_refs)
		check_bad(c, check_at(c, t, NULL, -1), &refs, "required, but missing");
	if (t->n_certificate_refs > CERTS_MAX)
		check_bad(c, check_at(c, t, "certificate_refs", -1), &refs,
			  "must have at most %d, has %zu", CERTS_MAX, t->n_certificate_refs);
	for (size_t i = 0; i < t->n_certificate_refs; i++) {
		const Weft__Kube__SecretRef *r = t->certificate_refs[i];
		const struct weft_path p = {&at, "certificateRefs", (int)i};

		check_required(c, &p, r, "name", "name", r->name);
		if ((r->kind && strcmp(r->kind, "Secret") != 0) || (r->group && *r->group))
			check_bad(c, check_at(c, r, "kind", -1), &p,
				  "must be a Secret of group \"\", is %.40s of \"%.60s\"",
				  r->kind ? r->kind : "Secret", r->group ? r->group : "");
	}
	if (t->frontend_validation)
		check_refused(c, &at, t, "frontend_validation", "frontendValidation",
			      "clients' certificates are not asked for");
	for (size_t i = 0; i < t->n_options; i++)
		check_bad(c, check_at(c, t->options[i], NULL, -1),
			  &(struct weft_path){&(struct weft_path){&at, "options", -1},
					      t->options[i]->key, -1},
			  "is not a known option");
}

static void check_listener(struct check *c, const struct weft_path *at,
			   const Weft__Kube__GatewayListener *l)
{
	static const char *const protocols[] = {"HTTP", "HTTPS", "TLS", "TCP", "HBONE", NULL};
	const char *p = l->protocol ? l->protocol : "";
	bool tls = !strcmp(p, "HTTPS") || !strcmp(p, "TLS");

	check_required(c, at, l, "name", "name", l->name);
	if (l->name && *l->name && !check_dns_name(l->name))
		check_bad(c, check_at(c, l, "name", -1), &(struct weft_path){at, "name", -1},
			  "must be a DNS name, is \"%.64s\"", l->name);
	check_required(c, at, l, "protocol", "protocol", l->protocol);
	check_one_of(c, &(struct weft_path){at, "protocol", -1}, check_at(c, l, "protocol", -1),
		     l->protocol, protocols);
	check_number(c, at, l, "port", "port", l->port, 1, 65535);
	if (l->hostname && *l->hostname && !check_hostname(l->hostname, true))
		check_bad(c, check_at(c, l, "hostname", -1),
			  &(struct weft_path){at, "hostname", -1},
			  "must be a DNS name, or *. and one, is \"%.80s\"", l->hostname);
	if (l->hostname && *l->hostname && (!strcmp(p, "TCP") || !strcmp(p, "HBONE")))
		check_bad(c, check_at(c, l, "hostname", -1),
			  &(struct weft_path){at, "hostname", -1}, "cannot be known of protocol %s",
			  p);
	if (tls && !l->tls)
		check_bad(c, check_at(c, l, NULL, -1), &(struct weft_path){at, "tls", -1},
			  "required with protocol %s", p);
	if (!tls && l->tls && strcmp(p, "HBONE") != 0)
		check_bad(c, check_at(c, l, "tls", -1), &(struct weft_path){at, "tls", -1},
			  "cannot stand with protocol %.20s", p);
	if (tls && l->tls)
		check_listener_tls(c, at, l);
	if (l->allowed_routes)
		check_allowed(c, at, l->allowed_routes);
}

static void check_same_listeners(struct check *c, const struct weft_path *up,
				 const Weft__Kube__GatewaySpec *s)
{
	for (size_t i = 0; i < s->n_listeners; i++)
		for (size_t k = 0; k < i; k++) {
			const Weft__Kube__GatewayListener *a = s->listeners[k],
							  *b = s->listeners[i];
			const struct weft_path at = {up, "listeners", (int)i};

			if (a->name && b->name && !strcmp(a->name, b->name))
				check_bad(c, check_at(c, b, "name", -1),
					  &(struct weft_path){&at, "name", -1},
					  "\"%.40s\" is given twice; first at %d:%d", b->name,
					  check_at(c, a, "name", -1).line,
					  check_at(c, a, "name", -1).col);
			if (a->port == b->port && a->protocol && b->protocol &&
			    !strcmp(a->protocol, b->protocol) &&
			    !strcmp(a->hostname ? a->hostname : "", b->hostname ? b->hostname : ""))
				check_bad(c, check_at(c, b, NULL, -1), &at,
					  "port, protocol and hostname are those of listener "
					  "\"%.40s\"",
					  a->name ? a->name : "");
		}
}

static void check_gateway_addresses(struct check *c, const struct weft_path *up,
				    Weft__Kube__GatewayAddress *const *v, size_t n)
{
	static const char *const types[] = {"IPAddress", "Hostname", NULL};

	if (n > ADDRESSES_MAX)
		check_bad(c, check_at(c, v[ADDRESSES_MAX], NULL, -1),
			  &(struct weft_path){up, "addresses", -1}, "must have at most %d, has %zu",
			  ADDRESSES_MAX, n);
	for (size_t i = 0; i < n; i++) {
		const struct weft_path at = {up, "addresses", (int)i}, value = {&at, "value", -1};
		struct weft_ip ip;
		bool host = v[i]->type && !strcmp(v[i]->type, "Hostname");

		check_one_of(c, &(struct weft_path){&at, "type", -1}, check_at(c, v[i], "type", -1),
			     v[i]->type, types);
		check_required(c, &at, v[i], "value", "value", v[i]->value);
		if (v[i]->value && *v[i]->value &&
		    (host ? !check_hostname(v[i]->value, false) : weft_ip_parse(v[i]->value, &ip)))
			check_bad(c, check_at(c, v[i], "value", -1), &value,
				  "must be %s, is \"%.64s\"", host ? "a DNS name" : "an IP address",
				  v[i]->value);
	}
}

void check_gateway(struct check *c)
{
	static const char *const traffic[] = {"service", "workload", "all", "none", NULL};
	static const char key[] = "istio.io/waypoint-for";
	const Weft__Kube__Gateway *g = (const Weft__Kube__Gateway *)c->o->msg;
	const struct weft_path up = {NULL, "spec", -1}, status = {NULL, "status", -1};
	const struct weft_path meta = {NULL, "metadata", -1}, labels = {&meta, "labels", -1};
	const Weft__Kube__GatewaySpec *s = g->spec;

	check_meta(c, true);
	check_one_of(c, &(struct weft_path){&labels, key, -1},
		     check_at(c, c->o->meta, "labels", -1), weft_meta_label(c->o->meta, key),
		     traffic);
	check_required(c, &up, s, "gateway_class_name", "gatewayClassName", s->gateway_class_name);
	if (!s->n_listeners)
		check_bad(c, check_at(c, s, NULL, -1), &(struct weft_path){&up, "listeners", -1},
			  "required, but missing");
	if (s->n_listeners > LISTENERS_MAX)
		check_bad(c, check_at(c, s, "listeners", -1),
			  &(struct weft_path){&up, "listeners", -1},
			  "must have at most %d, has %zu", LISTENERS_MAX, s->n_listeners);
	for (size_t i = 0; i < s->n_listeners; i++)
		check_listener(c, &(struct weft_path){&up, "listeners", (int)i}, s->listeners[i]);
	check_same_listeners(c, &up, s);
	check_gateway_addresses(c, &up, s->addresses, s->n_addresses);
	if (g->status)
		check_gateway_addresses(c, &status, g->status->addresses, g->status->n_addresses);
	if (s->infrastructure && s->infrastructure->parameters_ref)
		check_refused(c, &(struct weft_path){&up, "infrastructure", -1}, s->infrastructure,
			      "parameters_ref", "parametersRef",
			      "nothing is deployed for a Gateway");
	if (s->allowed_listeners)
		check_refused(c, &up, s, "allowed_listeners", "allowedListeners",
			      "there are no ListenerSets");
	if (s->tls)
		check_refused(c, &up, s, "tls", "tls",
			      "clients' certificates are not asked for, none is shown to backends");
	if (s->backendtls)
		check_refused(c, &up, s, "backendTLS", "backendTLS",
			      "no certificate is shown to backends");
	if (s->default_scope && strcmp(s->default_scope, "None") != 0)
		check_refused(c, &up, s, "default_scope", "defaultScope",
			      "routes name their Gateways");
}

/* ---- ReferenceGrant */

void check_reference_grant(struct check *c)
{
	const Weft__Kube__ReferenceGrantSpec *s =
		((const Weft__Kube__ReferenceGrant *)c->o->msg)->spec;
	const struct weft_path up = {NULL, "spec", -1};

	check_meta(c, false);
	if (!s->n_from)
		check_bad(c, check_at(c, s, NULL, -1), &(struct weft_path){&up, "from", -1},
			  "required, but missing");
	if (!s->n_to)
		check_bad(c, check_at(c, s, NULL, -1), &(struct weft_path){&up, "to", -1},
			  "required, but missing");
	for (size_t i = 0; i < s->n_from; i++) {
		const struct weft_path at = {&up, "from", (int)i};

		check_required(c, &at, s->from[i], "kind", "kind", s->from[i]->kind);
		check_required(c, &at, s->from[i], "namespace", "namespace",
			       s->from[i]->namespace_);
	}
	for (size_t i = 0; i < s->n_to; i++)
		check_required(c, &(struct weft_path){&up, "to", (int)i}, s->to[i], "kind", "kind",
			       s->to[i]->kind);
}

/* ---- BackendTLSPolicy */

static void check_tls_sans(struct check *c, const struct weft_path *up,
			   const Weft__Kube__BackendTlsValidation *v)
{
	static const char *const types[] = {"Hostname", "URI", NULL};

	for (size_t i = 0; i < v->n_subject_alt_names; i++) {
		const Weft__Kube__BackendTlsSan *s = v->subject_alt_names[i];
		const struct weft_path at = {up, "subjectAltNames", (int)i};
		bool uri = s->type && !strcmp(s->type, "URI");

		check_required(c, &at, s, "type", "type", s->type);
		check_one_of(c, &(struct weft_path){&at, "type", -1}, check_at(c, s, "type", -1),
			     s->type, types);
		check_required(c, &at, s, uri ? "uri" : "hostname", uri ? "uri" : "hostname",
			       uri ? s->uri : s->hostname);
		if (uri ? s->hostname != NULL : s->uri != NULL)
			check_bad(c, check_at(c, s, NULL, -1), &at,
				  "has a value of the other type");
	}
}

void check_backend_tls_policy(struct check *c)
{
	static const char *const known[] = {"System", NULL};
	const Weft__Kube__BackendTlsPolicySpec *s =
		((const Weft__Kube__BackendTlsPolicy *)c->o->msg)->spec;
	const Weft__Kube__BackendTlsValidation *v = s->validation;
	const struct weft_path up = {NULL, "spec", -1}, at = {&up, "validation", -1};

	check_meta(c, false);
	if (!s->n_target_refs)
		check_bad(c, check_at(c, s, NULL, -1), &(struct weft_path){&up, "targetRefs", -1},
			  "required, but missing");
	for (size_t i = 0; i < s->n_target_refs; i++) {
		const Weft__Kube__BackendTlsTarget *t = s->target_refs[i];
		const struct weft_path p = {&up, "targetRefs", (int)i};

		check_required(c, &p, t, "name", "name", t->name);
		if (!t->kind || strcmp(t->kind, "Service") != 0 || (t->group && *t->group))
			check_bad(c, check_at(c, t, "kind", -1), &p,
				  "must be a Service of group \"\", is %.40s of \"%.60s\"",
				  t->kind ? t->kind : "nothing", t->group ? t->group : "");
	}
	for (size_t i = 0; i < s->n_options; i++)
		check_bad(c, check_at(c, s->options[i], NULL, -1),
			  &(struct weft_path){&(struct weft_path){&up, "options", -1},
					      s->options[i]->key, -1},
			  "is not a known option");
	if (!v) {
		check_bad(c, check_at(c, s, NULL, -1), &at, "required, but missing");
		return;
	}
	check_required(c, &at, v, "hostname", "hostname", v->hostname);
	if (v->hostname && *v->hostname && !check_hostname(v->hostname, false))
		check_bad(c, check_at(c, v, "hostname", -1),
			  &(struct weft_path){&at, "hostname", -1},
			  "must be a DNS name, is \"%.80s\"", v->hostname);
	check_one_of(c, &(struct weft_path){&at, "wellKnownCACertificates", -1},
		     check_at(c, v, "wellKnownCACertificates", -1), v->wellknowncacertificates,
		     known);
	if ((v->n_ca_certificate_refs > 0) == (v->wellknowncacertificates != NULL))
		check_bad(c, check_at(c, v, NULL, -1), &at,
			  "must have one of caCertificateRefs, wellKnownCACertificates");
	for (size_t i = 0; i < v->n_ca_certificate_refs; i++) {
		const Weft__Kube__LocalRef *r = v->ca_certificate_refs[i];
		const struct weft_path p = {&at, "caCertificateRefs", (int)i};

		check_required(c, &p, r, "name", "name", r->name);
		if (!r->kind || strcmp(r->kind, "ConfigMap") != 0 || (r->group && *r->group))
			check_bad(c, check_at(c, r, "kind", -1), &p,
				  "must be a ConfigMap of group \"\", is %.40s of \"%.60s\"",
				  r->kind ? r->kind : "nothing", r->group ? r->group : "");
	}
	check_tls_sans(c, &at, v);
}

/* ---- core kinds: of no interest until something names them */

void check_secret(struct check *c)
{
}

void check_config_map(struct check *c)
{
}
