/* Lists of header changes as configuration has them: adds with command operators, removals first.
 * Immutable. */
#pragma once
#include "proxy/l4/als.h"
#include "proxy/session/headers.h"
#include "xds/proto/envoy/config/core/v3/base.pb-c.h"

struct weft_hdrop;
struct weft_hdrops {
	const struct weft_hdrop *add;
	size_t n_add;
	const char *const *del;
	size_t n_del;
};
/* at_add and at_del: the two fields' paths (their last piece without index). */
int weft_hdrops_prepare(struct weft_cfg *c, const struct weft_path *at_add,
			Envoy__Config__Core__V3__HeaderValueOption *const *add, size_t n_add,
			struct weft_hdrops *ret);
int weft_hdrops_prepare_del(struct weft_cfg *c, const struct weft_path *at_del, char *const *del,
			    size_t n_del, struct weft_hdrops *ret);
/* How one field is added: Envoy's HeaderAppendAction. */
void weft_hdrop_put(struct weft_headers *h, const char *name, size_t name_n, const char *value,
		    size_t value_n,
		    Envoy__Config__Core__V3__HeaderValueOption__HeaderAppendAction how);
/* One by itself. */
int weft_hdrop_prepare(struct weft_cfg *c, const struct weft_path *at,
		       const Envoy__Config__Core__V3__HeaderValueOption *m,
		       const struct weft_hdrop **ret);
void weft_hdrop_apply(const struct weft_hdrop *o, const struct weft_format_in *in,
		      struct weft_headers *h);
void weft_hdrops_apply(const struct weft_hdrops *o, const struct weft_format_in *in,
		       struct weft_headers *h);
