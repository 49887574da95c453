/* A document being decoded. Private to xds/. */
#pragma once
#include "xds/proto/wellknown.pb-c.h"
#include "xds/yaml_priv.h"

enum { FOUND_MAX = 256 };
struct found {
	const ProtobufCMessageDescriptor *desc;
	const ProtobufCFieldDescriptor *f;
};
struct dec {
	const struct yaml_target *t;
	const struct yev *ev;
	struct weft_marks *marks;
	bool envoy; /* read as Envoy reads its files: null is no value, yes is true, any case of
		       names */
	int aliases, depth;
	int errors_before; /* of this document */
	struct found found[FOUND_MAX];
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
bool yaml_value_string(struct dec *d, const struct weft_path *at, const struct yev *e, bool int_too,
		       bool float_too, char **dst);
bool yaml_value_bytes(struct dec *d, const struct weft_path *at, const struct yev *e,
		      ProtobufCBinaryData *dst);
bool yaml_value_bool(struct dec *d, const struct weft_path *at, const struct yev *e, void *dst);
bool yaml_value_duration(struct dec *d, const struct weft_path *at, const struct yev *e,
			 Google__Protobuf__Duration *m);
/* Whether it could be written as a text. */
bool yaml_duration_fits(struct dec *d, const struct weft_path *at, const struct yev *e,
			const Google__Protobuf__Duration *m);
bool yaml_value_time(struct dec *d, const struct weft_path *at, const struct yev *e,
		     Google__Protobuf__Timestamp *m);

/* What an Any needs of the decoder. */
ProtobufCMessage *yaml_message_new(struct dec *d, const ProtobufCMessageDescriptor *desc);
const struct yev *yaml_node(struct dec *d, const struct weft_path *at, uint32_t i);
/* The node at i as the whole of m. */
bool yaml_decode_into(struct dec *d, const struct weft_path *at, uint32_t i, ProtobufCMessage *m);
/* The fields of m from a mapping that names a type too. */
void yaml_decode_typed(struct dec *d, const struct weft_path *at, const struct yev *e,
		       ProtobufCMessage *m);
bool yaml_decode_any(struct dec *d, const struct weft_path *at, const struct yev *e,
		     Google__Protobuf__Any *any);
