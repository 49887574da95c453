/* The outer messages of a response, read by hand: their resources may be larger together than one
 * message should be, and what did not change is not unpacked. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct xspan {
	const uint8_t *p;
	size_t n;
};
struct xspans {
	struct xspan *v;
	size_t n;
};
struct xresponse { /* fields of a DiscoveryResponse or a DeltaDiscoveryResponse, unread */
	struct xspan version, type_url, nonce, control_plane;
	struct xspans up, gone;
};
struct xitem { /* of a Resource */
	struct xspan name, version, any, ttl;
};
/* False: not such a message, or a text in it has a NUL. v.v are malloc'ed. */
bool weft_xds_split(struct xspan s, bool delta, struct xresponse *ret);
bool weft_xds_split_item(struct xspan s, struct xitem *ret);
bool weft_xds_split_any(struct xspan s, struct xspan *ret_url, struct xspan *ret_value);
/* The bytes of a message's field 1, a string: the name in every Envoy resource. */
bool weft_xds_split_name(struct xspan s, struct xspan *ret);
