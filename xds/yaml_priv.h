/* What the parts of the YAML decoder share. Private to xds/. */
#pragma once
#include "xds/yaml.h"
#include <stddef.h>
#include <stdint.h>

/* One event of a document, kept in an array: no tree, but a node can be skipped or (aliases) read
 * again. */
enum yev_type { YEV_SCALAR, YEV_LIST, YEV_MAP, YEV_END, YEV_ALIAS };
struct yev {
	const char *v; /* scalar, NUL-terminated */
	union {
		uint32_t n;	 /* its length */
		uint32_t target; /* of an alias */
	};
	uint32_t next; /* index after the whole node */
	int line;
	unsigned col : 28;
	unsigned type : 3;
	bool plain : 1; /* unquoted: may be a number, a boolean or null */
};
struct yaml_events {
	struct yev *v;
	size_t n, cap;
	int line, end_line;
};

/* Keys and short values come again and again in a document: one copy of each is enough. */
enum { YAML_KEPT_MAX = 1024, YAML_KEPT_LEN_MAX = 32, YAML_EVENTS_MAX = 2000000 };
struct yaml_keeper {
	struct weft_arena *a;
	struct yaml_kept {
		const char *s;
		size_t n;
	} v[YAML_KEPT_MAX];
};
/* s[n] is 0. */
const char *yaml_keep(struct yaml_keeper *k, const char *s, size_t n);

/* A file that is one well-formed JSON value in ASCII, some times faster than by way of YAML, which
 * it is too. False: it is not, and ev holds nothing. */
bool yaml_json_read(struct weft_arena *a, const char *text, size_t n, struct yaml_events *ev);

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

/* Marks, filled while decoding. */
struct weft_marks *yaml_marks_new(struct weft_arena *a, struct weft_mark doc);
void yaml_marks_message(struct weft_marks *k, const ProtobufCMessage *m, struct weft_mark at);
void yaml_marks_field(struct weft_marks *k, const ProtobufCMessage *m, unsigned field,
		      struct weft_mark at);
/* The same for the first mark of a field of a message that was looked up once. */
struct marks_entry;
struct marks_entry *yaml_marks_open(struct weft_marks *k, const ProtobufCMessage *m);
void yaml_marks_add(struct weft_marks *k, struct marks_entry *e, unsigned field,
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
	bool partial; /* what could be read is returned, errors or not */
	struct weft_errs *errs;
	int *n_errors;
};
ProtobufCMessage *yaml_decode_root(const struct yaml_target *t, const struct yaml_events *ev,
				   struct weft_marks **ret_marks);

/* Fields of strict kinds that are accepted without effect, with the reason. NULL: none such. */
const char *yaml_without_effect(const char *message, const char *field);
