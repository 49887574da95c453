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
