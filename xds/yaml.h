/* YAML and JSON <-> protobuf-c message, by descriptor reflection, with line:col. libyaml events;
 * alias limit. Pure. */
#pragma once
#include "proxy/core/arena.h"
#include "proxy/core/err.h"
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

/* Where each decoded message or scalar stood, for later semantic checks. Opaque; in the arena. */
struct weft_marks;
struct weft_mark {
	int line, col;
}; /* from 1; 0: not known */

struct weft_yaml_doc {
	const ProtobufCMessageDescriptor *type;
	ProtobufCMessage *msg; /* in the arena */
	struct weft_marks *marks;
	const char *file;
	int line, end_line; /* first and last line of the document */
};
/* Picks the descriptor of a document by its head fields. Return NULL after weft_fail for kinds
 * refused; set *ret_lenient where unknown fields are skipped (core Kubernetes kinds).
 * api_version/kind may be "" when absent. NULL without an error skips the document; reterr->where
 * holds its place on entry. */
typedef const ProtobufCMessageDescriptor *weft_yaml_pick(void *ctx, const char *api_version,
							 const char *kind, bool *ret_lenient,
							 struct weft_err *reterr);
enum { WEFT_YAML_DEPTH_MAX = 64, WEFT_YAML_ALIAS_MAX = 100, WEFT_YAML_BYTES_MAX = 16 << 20 };
/* Decodes every document of text. Field names: the proto's snake_case and its lowerCamelCase.
 * Kubernetes forms: IntOrString as string, Duration "5s", bytes as base64. Documents with an error
 * are left out; the others are returned. Returns the number of errors found (also beyond errs'
 * capacity). */
int weft_yaml_decode(struct weft_arena *a, const char *file, const char *text, size_t n,
		     weft_yaml_pick *pick, void *ctx, struct weft_yaml_doc **ret_docs,
		     size_t *ret_n, struct weft_errs *errs);
/* The same, but documents with errors are given too, without what could not be read: to look for
 * more errors, never to be used. */
int weft_yaml_decode_partial(struct weft_arena *a, const char *file, const char *text, size_t n,
			     weft_yaml_pick *pick, void *ctx, struct weft_yaml_doc **ret_docs,
			     size_t *ret_n, struct weft_errs *errs);
/* The mark of field (name, index or -1) of message m; falls back to m's own, then the document's.
 */
struct weft_mark weft_marks_get(const struct weft_marks *k, const void *m, const char *field,
				int idx);
/* When no error of the document is told any more: the marks of a large one go back to the heap. */
void weft_marks_drop(struct weft_marks *k);
/* The mark of what an error's path names, from message root down ("listeners[0].filters[1].x"),
 * also into Anys and maps; of the deepest part that is there. */
struct weft_mark weft_marks_locate(const struct weft_marks *k, const ProtobufCMessage *root,
				   const char *path);
/* Message → YAML or JSON text (one document), default-valued unset fields left out. Deterministic.
 * Malloc'ed. */
char *weft_yaml_encode(const ProtobufCMessage *m, bool json);
/* A map of proto3: a list of entries with key and value. */
bool weft_yaml_is_map(const ProtobufCFieldDescriptor *f);
