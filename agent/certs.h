/* The certificates of this node's identities: issued, renewed at half life, published as xDS
 * secrets. Main thread. */
#pragma once
#include "agent/ca.h"
#include <stddef.h>

struct event_base;
struct json_t;
struct weft_certs;
struct weft_xds_server;

struct weft_certs *weft_certs_new(struct event_base *base, struct weft_ca *ca,
				  struct weft_xds_server *xds);
void weft_certs_free(struct weft_certs *c);
void weft_certs_ttl(struct weft_certs *c,
		    int64_t ttl_s); /* of certificates issued from now on; 0: 24 h */
/* The identities wanted now: new ones are issued and published at once, others withdrawn. scope "":
 * for this node's proxy; else for a waypoint, which gets Envoy's secrets: its identity's name holds
 * the certificate, ROOTCA whom it trusts. Strings are copied. */
struct weft_cert_want {
	const char *id, *scope;
};
void weft_certs_want(struct weft_certs *c, const struct weft_cert_want *v, size_t n);
/* [{identity, not_before, not_after, renews, serial, error}], no keys; a new reference. */
struct json_t *weft_certs_json(const struct weft_certs *c);
