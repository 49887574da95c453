/* The resource types we speak: URL, descriptor. types.def: XDS_TYPE(NAME, "url", descriptor). */
#pragma once
#include <protobuf-c/protobuf-c.h>

struct weft_xds_type {
	const char *url;   /* type.googleapis.com/... */
	const char *brief; /* "address", "authorization", "secret" */
	const ProtobufCMessageDescriptor *desc;
};
#define XDS_TYPE(name, url, brief, desc) extern const struct weft_xds_type weft_xds_type_##name;
#include "xds/types.def"
#undef XDS_TYPE
const struct weft_xds_type *weft_xds_type_find(const char *url);
