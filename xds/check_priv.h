/* What the parts of the checks share. Private to xds/. */
#pragma once
#include "proxy/core/addr.h"
#include "xds/check.h"
#include <stddef.h>

/* Checks of one object. */
struct check {
	const struct weft_object *o;
	struct weft_errs *errs, *notes;
	int *n_errors;
};
/* The place of field name[idx] of message m (idx -1: none; name NULL: m itself). */
struct weft_mark check_at(const struct check *c, const void *m, const char *field, int idx);
void check_bad(struct check *c, struct weft_mark k, const struct weft_path *at, const char *fmt,
	       ...) __attribute__((format(printf, 4, 5)));
void check_note(struct check *c, struct weft_mark k, const struct weft_path *at, const char *fmt,
		...) __attribute__((format(printf, 4, 5)));

bool check_dns_label(const char *s); /* RFC 1123 label, at most 63 */
bool check_dns_name(const char *s);  /* labels joined by dots, at most 253 */
bool check_label_key(const char *s); /* [prefix/]name as Kubernetes has it */
bool check_label_value(const char *s);
bool check_trust_domain(const char *s);
/* A whole decimal number 1..65535, or 0. */
int check_port_text(const char *s);

/* A string that must be one of v (NULL ends); s NULL is fine. Tells an error and a suggestion
 * otherwise. */
void check_one_of(struct check *c, const struct weft_path *at, struct weft_mark k, const char *s,
		  const char *const *v);

/* metadata of every kind. label: the name must be one DNS label. */
void check_meta(struct check *c, bool label);
/* One function a kind, by the table in check.c. */
void check_namespace(struct check *c);
void check_node(struct check *c);
void check_service_account(struct check *c);
void check_pod(struct check *c);
void check_service(struct check *c);
void check_endpoint_slice(struct check *c);
void check_authorization_policy(struct check *c);
void check_peer_authentication(struct check *c);
void check_mesh_config(struct check *c);
void check_secret(struct check *c);
void check_config_map(struct check *c);
void check_request_authentication(struct check *c);
void check_gateway_class(struct check *c);
void check_gateway(struct check *c);
void check_http_route(struct check *c);
void check_grpc_route(struct check *c);
void check_tcp_route(struct check *c);
void check_tls_route(struct check *c);
void check_reference_grant(struct check *c);
void check_backend_tls_policy(struct check *c);

/* ---- check_policy.c */
void check_policy_targets(struct check *c, const struct weft_path *up,
			  const Weft__Kube__WorkloadSelector *selector,
			  Weft__Kube__PolicyTargetReference *target_ref,
			  Weft__Kube__PolicyTargetReference *const *target_refs, size_t n);
/* ---- check_gateway.c: what routes use too. name: of the field as written, field: in the proto. */
void check_refused(struct check *c, const struct weft_path *up, const void *m, const char *field,
		   const char *name, const char *why);
void check_required(struct check *c, const struct weft_path *up, const void *m, const char *field,
		    const char *name, const char *value);
void check_number(struct check *c, const struct weft_path *up, const void *m, const char *field,
		  const char *name, long v, long min, long max);
/* "web.example.com", or "*.example.com" where wild. */
bool check_hostname(const char *s, bool wild);
