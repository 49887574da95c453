/* Longest-prefix map from CIDR to pointer. Immutable once built: weft_lpm_get may run on any
 * thread. */
#pragma once
#include "proxy/core/addr.h"

struct weft_lpm;
struct weft_lpm *weft_lpm_new(void);
void weft_lpm_free(struct weft_lpm *t); /* values are the caller's */
int weft_lpm_set(struct weft_lpm *t, const struct weft_cidr *c,
		 void *value); /* -EEXIST: c is there already */
void *weft_lpm_get(const struct weft_lpm *t, const struct weft_ip *ip); /* longest match or NULL */
