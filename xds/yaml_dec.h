/* A document being decoded. Private to xds/. */
#pragma once
#include "xds/proto/wellknown.pb-c.h"
#include "xds/yaml_priv.h"

struct dec {
	const struct yaml_target *t;
	const struct yev *ev;
	struct weft_marks *marks;
	int aliases, depth;
};
/* Adds an error; always false, so that callers return it. */
bool yaml_fail(struct dec *d, const struct weft_path *at, const struct yev *e, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
bool yaml_wrong(struct dec *d, const struct weft_path *at, const struct yev *e, const char *want);

/* A scalar into the memory of a field. */
bool yaml_value_int(struct dec *d, const struct weft_path *at, const struct yev *e,
		    ProtobufCType type, void *dst);
bool yaml_value_float(struct dec *d, const struct weft_path *at, const struct yev *e,
		      ProtobufCType type, void *dst);
bool yaml_value_enum(struct dec *d, const struct weft_path *at, const struct yev *e,
		     const ProtobufCEnumDescriptor *desc, void *dst);
bool yaml_value_string(struct dec *d, const struct weft_path *at, const struct yev *e,
		       bool number_too, char **dst);
bool yaml_value_bytes(struct dec *d, const struct weft_path *at, const struct yev *e,
		      ProtobufCBinaryData *dst);
bool yaml_value_bool(struct dec *d, const struct weft_path *at, const struct yev *e, void *dst);
bool yaml_value_duration(struct dec *d, const struct weft_path *at, const struct yev *e,
			 Google__Protobuf__Duration *m);
