#include "agent/certs.h"
#include "agent/envoy.h"
#include "proxy/core/arena.h"
#include "proxy/core/log.h"
#include "xds/proto/envoy/extensions/transport_sockets/tls/v3/secret.pb-c.h"
#include "xds/proto/secret.pb-c.h"
#include "xds/server.h"
#include <errno.h>
#include <event2/event.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { TICK_S = 1, RETRY_FIRST_S = 1, RETRY_MAX_S = 150 };

struct entry {
	char *id, *scope;
	struct weft_ca_cert cert; /* chain NULL: none yet */
	int64_t retry_at, wait_s; /* after a failure */
	struct weft_err err;
	unsigned issued;
	bool wanted;
	struct entry *next;
};
struct weft_certs {
	struct weft_ca *ca;
	struct weft_xds_server *xds;
	int64_t ttl_s;
	struct entry *first;
	struct event *tick;
	struct weft_err ca_err;
};

static const char root_name[] = "ROOTCA";

/* A waypoint's: two secrets, as Envoy's oneof wants. */
static void publish_waypoint(struct weft_certs *c, const struct entry *e)
{
	typedef Envoy__Extensions__TransportSockets__Tls__V3__Secret Secret;
	struct weft_arena *a = weft_arena_new(0);
	Secret *s = eb_new(a, &envoy__extensions__transport_sockets__tls__v3__secret__descriptor);

	eb_str(a, s, "name", e->id);
	eb_str(a, s, "tls_certificate.certificate_chain.inline_bytes", e->cert.chain);
	eb_str(a, s, "tls_certificate.private_key.inline_bytes", e->cert.key);
	weft_xds_publish_to(c->xds, e->scope, &weft_xds_type_tls_secret, e->id, &s->base, NULL);
	s = eb_new(a, &envoy__extensions__transport_sockets__tls__v3__secret__descriptor);
	eb_str(a, s, "name", root_name);
	eb_str(a, s, "validation_context.trusted_ca.inline_bytes", weft_ca_roots(c->ca));
	weft_xds_publish_to(c->xds, e->scope, &weft_xds_type_tls_secret, root_name, &s->base, NULL);
	weft_arena_free(a);
}

static void withdraw(struct weft_certs *c, const struct entry *e)
{
	if (!*e->scope) {
		weft_xds_publish(c->xds, &weft_xds_type_secret, e->id, NULL, NULL);
		return;
	}
	weft_xds_publish_to(c->xds, e->scope, &weft_xds_type_tls_secret, e->id, NULL, NULL);
	weft_xds_publish_to(c->xds, e->scope, &weft_xds_type_tls_secret, root_name, NULL, NULL);
}

static void publish(struct weft_certs *c, const struct entry *e)
{
	Envoy__Tls__DataSource chain = ENVOY__TLS__DATA_SOURCE__INIT, key = chain, roots = chain;
	Envoy__Tls__TlsCertificate cert = ENVOY__TLS__TLS_CERTIFICATE__INIT;
	Envoy__Tls__CertificateValidationContext trust =
		ENVOY__TLS__CERTIFICATE_VALIDATION_CONTEXT__INIT;
	Envoy__Tls__Secret s = ENVOY__TLS__SECRET__INIT;

	if (*e->scope) {
		publish_waypoint(c, e);
		return;
	}
	chain.specifier_case = key.specifier_case = roots.specifier_case =
		ENVOY__TLS__DATA_SOURCE__SPECIFIER_INLINE_BYTES;
	chain.inline_bytes.data = (uint8_t *)e->cert.chain;
	chain.inline_bytes.len = strlen(e->cert.chain);
	key.inline_bytes.data = (uint8_t *)e->cert.key;
	key.inline_bytes.len = strlen(e->cert.key);
	roots.inline_bytes.data = (uint8_t *)weft_ca_roots(c->ca);
	roots.inline_bytes.len = strlen(weft_ca_roots(c->ca));
	cert.certificate_chain = &chain;
	cert.private_key = &key;
	trust.trusted_ca = &roots;
	s.name = e->id;
	s.tls_certificate = &cert;
	s.validation_context = &trust;
	weft_xds_publish(c->xds, &weft_xds_type_secret, e->id, &s.base, NULL);
}

static int64_t renew_at(const struct entry *e)
{
	return e->cert.issued + (e->cert.not_after - e->cert.issued) / 2;
}

/* The one before stays in use when this fails. */
static void issue(struct weft_certs *c, struct entry *e)
{
	int64_t now = weft_ca_now(c->ca);
	struct weft_ca_cert fresh = {0};
	struct weft_err why = {0};

	if (weft_ca_issue(c->ca, e->id, c->ttl_s, &fresh, &why) < 0) {
		if (!e->err.code)
			weft_log_err(WEFT_LOG_ERROR, &why, e->id);
		e->err = why;
		e->wait_s = e->wait_s ? e->wait_s * 2 : RETRY_FIRST_S;
		if (e->wait_s > RETRY_MAX_S)
			e->wait_s = RETRY_MAX_S;
		e->retry_at = now + e->wait_s;
		return;
	}
	weft_ca_cert_done(&e->cert);
	e->cert = fresh;
	e->err.code = 0;
	e->wait_s = 0;
	e->issued++;
	publish(c, e);
}

static void entry_free(struct entry *e)
{
	weft_ca_cert_done(&e->cert);
	free(e->id);
	free(e->scope);
	free(e);
}

static struct entry *find(struct weft_certs *c, const struct weft_cert_want *w)
{
	struct entry *e = c->first;

	while (e && (strcmp(e->id, w->id) != 0 || strcmp(e->scope, w->scope) != 0))
		e = e->next;
	return e;
}

void weft_certs_want(struct weft_certs *c, const struct weft_cert_want *v, size_t n)
{
	struct entry **at = &c->first, *e;
	size_t i;

	for (e = c->first; e; e = e->next)
		e->wanted = false;
	for (i = 0; i < n; i++) {
		e = find(c, &v[i]);
		if (!e) {
			e = weft_xcalloc(1, sizeof(*e));
			e->id = weft_xstrdup(v[i].id);
			e->scope = weft_xstrdup(v[i].scope);
			e->next = c->first;
			c->first = e;
			issue(c, e);
		}
		e->wanted = true;
	}
	while ((e = *at)) {
		if (e->wanted) {
			at = &e->next;
			continue;
		}
		*at = e->next;
		withdraw(c, e);
		entry_free(e);
	}
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct weft_certs *c = arg;
	struct weft_err why = {0};
	int64_t now = weft_ca_now(c->ca);
	struct entry *e;
	int r = weft_ca_tick(c->ca, &why);

	(void)fd;
	(void)what;
	if (r < 0 && strcmp(why.msg, c->ca_err.msg))
		weft_log_err(WEFT_LOG_ERROR, &why, "certificate authority");
	c->ca_err = why;
	if (r == 1)
		weft_log(WEFT_LOG_INFO, "roots changed: %u are trusted", weft_ca_n_roots(c->ca));
	for (e = c->first; e; e = e->next) {
		if (e->err.code ? now >= e->retry_at : !e->cert.chain || now >= renew_at(e))
			issue(c, e);
		else if (r == 1 && e->cert.chain)
			publish(c, e);
	}
}

struct weft_certs *weft_certs_new(struct event_base *base, struct weft_ca *ca,
				  struct weft_xds_server *xds)
{
	const struct timeval tv = {.tv_sec = TICK_S};
	struct weft_certs *c = weft_xcalloc(1, sizeof(*c));

	c->ca = ca;
	c->xds = xds;
	c->ttl_s = WEFT_CA_TTL_DEFAULT_S;
	c->tick = event_new(base, -1, EV_PERSIST, on_tick, c);
	if (!c->tick)
		abort(); /* memory is out */
	event_add(c->tick, &tv);
	return c;
}

void weft_certs_free(struct weft_certs *c)
{
	struct entry *e;

	if (!c)
		return;
	while ((e = c->first)) {
		c->first = e->next;
		entry_free(e);
	}
	event_free(c->tick);
	free(c);
}

void weft_certs_ttl(struct weft_certs *c, int64_t ttl_s)
{
	int64_t ttl = ttl_s ? ttl_s : WEFT_CA_TTL_DEFAULT_S;
	bool changed = ttl != c->ttl_s;
	struct entry *e;

	c->ttl_s = ttl;
	/* those that live longer than is wanted now are made anew */
	for (e = c->first; changed && e; e = e->next)
		if (e->cert.chain && e->cert.not_after - e->cert.issued > ttl)
			issue(c, e);
}

struct json_t *weft_certs_json(const struct weft_certs *c)
{
	json_t *all = json_array();
	const struct entry *e;

	for (e = c->first; e; e = e->next) {
		json_t *j = json_pack("{s:s}", "identity", e->id);

		if (*e->scope)
			json_object_set_new(j, "gateway", json_string(e->scope));

		if (e->cert.chain) {
			json_object_set_new(j, "not_before", json_integer(e->cert.not_before));
			json_object_set_new(j, "not_after", json_integer(e->cert.not_after));
			json_object_set_new(j, "renews", json_integer(renew_at(e)));
			json_object_set_new(j, "age_s",
					    json_integer(weft_ca_now(c->ca) - e->cert.issued));
			json_object_set_new(j, "issued", json_integer(e->issued));
		}
		if (e->err.code)
			json_object_set_new(j, "error", json_string(e->err.msg));
		json_array_append_new(all, j);
	}
	return all;
}
