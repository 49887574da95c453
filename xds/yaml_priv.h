/* What the parts of the YAML decoder share. Private to xds/. */
#pragma once
#include "xds/yaml.h"
#include <stddef.h>
#include <stdint.h>

/* One event of a document, kept in an array: no tree, but a node can be skipped or (aliases) read
 * again. */
enum yev_type { YEV_SCALAR, YEV_LIST, YEV_MAP, YEV_END, YEV_ALIAS };
struct yev {
	uint8_t type;
	bool plain; /* unquoted: may be a number, a boolean or null */
	int line, col;
	uint32_t next;	 /* index after the whole node */
	uint32_t target; /* of an alias */
	const char *v;	 /* scalar, NUL-terminated */
	size_t n;
};
struct yaml_events {
	struct yev *v;
	size_t n, cap;
	int line, end_line;
};

struct yaml_reader;
struct yaml_reader *yaml_reader_new(const char *file, const char *text, size_t n);
void yaml_reader_free(struct yaml_reader *r);
/* The next document's events; strings live in a. 1, 0 at the end of the file, or -errno: nothing
 * more can be read. */
int yaml_reader_next(struct yaml_reader *r, struct weft_arena *a, struct yaml_events *ev,
		     struct weft_err *reterr);
void yaml_err_place(struct weft_err *e, const char *file, int line, int col);

enum yaml_sort { YAML_STRING, YAML_NULL, YAML_BOOL, YAML_YESNO, YAML_INT, YAML_FLOAT };
enum yaml_sort yaml_scalar_sort(const struct yev *e);
/* A value for a message: quoted, cut and with control bytes escaped. Returns dst. */
const char *yaml_scalar_show(const struct yev *e, char *dst, size_t cap);
int yaml_scalar_u64(const char *s, bool *ret_negative,
		    uint64_t *ret); /* decimal or 0x; -EINVAL, -ERANGE */
int yaml_base64_decode(const char *s, size_t n, uint8_t *dst,
		       size_t *ret_n);				/* dst: at least n bytes */
void yaml_base64_encode(const uint8_t *p, size_t n, char *dst); /* dst: 4 * (n + 2) / 3 + 1 */
int yaml_duration_parse(const char *s, int64_t *ret_seconds,
			int32_t *ret_nanos); /* "1h30m", "5s", "1.5s" */
void yaml_duration_text(int64_t seconds, int32_t nanos, char *dst, size_t cap);
/* RFC 3339, years 1 to 9999. */
int yaml_time_parse(const char *s, int64_t *ret_seconds, int32_t *ret_nanos);
void yaml_time_text(int64_t seconds, int32_t nanos, char *dst, size_t cap);

/* Field names. kube: as Kubernetes writes them (podIPs), for messages of package weft.kube. */
enum { YAML_NAME_MAX = 64 };
const char *yaml_field_name(const ProtobufCMessageDescriptor *d, const ProtobufCFieldDescriptor *f,
			    char dst[YAML_NAME_MAX]);
const ProtobufCFieldDescriptor *yaml_field_find(const ProtobufCMessageDescriptor *d,
						const char *key);
bool yaml_is_map(const ProtobufCFieldDescriptor *f);
bool yaml_is_kube(const ProtobufCMessageDescriptor *d);
bool yaml_is_envoy(const ProtobufCMessageDescriptor *d); /* written in snake_case, as Envoy does */
/* Messages with a form of their own: those of google.protobuf but Empty. */
enum yaml_form {
	YAML_PLAIN,
	YAML_DURATION,
	YAML_TIMESTAMP,
	YAML_WRAPPER,
	YAML_STRUCT,
	YAML_VALUE,
	YAML_VALUES,
	YAML_ANY
};
enum yaml_form yaml_form_of(const ProtobufCMessageDescriptor *d);
size_t yaml_sizeof(ProtobufCType t); /* of one element in memory */

/* Marks, filled while decoding. */
struct weft_marks *yaml_marks_new(struct weft_arena *a, struct weft_mark doc);
void yaml_marks_message(struct weft_marks *k, const ProtobufCMessage *m, struct weft_mark at);
void yaml_marks_field(struct weft_marks *k, const ProtobufCMessage *m, unsigned field,
		      struct weft_mark at);
void yaml_marks_elements(struct weft_marks *k, const ProtobufCMessage *m, unsigned field,
			 const struct weft_mark *v, size_t n);
/* What an Any holds, decoded. */
void yaml_marks_set_any(struct weft_marks *k, const ProtobufCMessage *any,
			const ProtobufCMessage *inner);
const ProtobufCMessage *yaml_marks_any(const struct weft_marks *k, const void *any);
/* All that from knows of Anys. */
void yaml_marks_join(struct weft_marks *k, const struct weft_marks *from);

/* Decodes the node at index 0. NULL: errors were added; *n_errors grows by as many. */
struct yaml_target {
	struct weft_arena *a;
	const char *file;
	const ProtobufCMessageDescriptor *desc;
	bool lenient;
	struct weft_errs *errs;
	int *n_errors;
};
ProtobufCMessage *yaml_decode_root(const struct yaml_target *t, const struct yaml_events *ev,
				   struct weft_marks **ret_marks);

/* Fields of strict kinds that are accepted without effect, with the reason. NULL: none such. */
const char *yaml_without_effect(const char *message, const char *field);
