/* The resource types we speak: types.def. Two of them are secrets: `tls_secret` is Envoy's, one key
 * or one set of roots; `secret` is what our agent hands to weft-proxy, key and roots of a workload
 * in one resource, which Envoy's oneof could not carry. Each has a URL of its own. */
#pragma once
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

struct weft_xds_type {
	const char *url;   /* type.googleapis.com/... */
	const char *brief; /* "cluster", "endpoint", … */
	const ProtobufCMessageDescriptor *desc;
	bool whole;		    /* LDS, CDS: state of the world without it means gone */
	const char *service, *noun; /* of its own streams; NULL: aggregated only */
};
#define XDS_TYPE(name, url, brief, desc, whole, service, noun)                                     \
	extern const struct weft_xds_type weft_xds_type_##name;
#include "xds/types.def"
#undef XDS_TYPE

enum weft_xds_index {
#define XDS_TYPE(name, url, brief, desc, whole, service, noun) WEFT_XDS_INDEX_##name,
#include "xds/types.def"
#undef XDS_TYPE
	WEFT_XDS_TYPES
};
/* In the order of types.def. */
extern const struct weft_xds_type *const weft_xds_types[WEFT_XDS_TYPES];
int weft_xds_type_index(const char *url); /* -1: none */
const struct weft_xds_type *weft_xds_type_find(const char *url);
