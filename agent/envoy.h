/* Envoy's messages put together by the names of their fields, as one would write them in YAML.
 * Everything lives in the arena. A name that the message does not have is a mistake of the caller:
 * abort. */
#pragma once
#include "proxy/core/arena.h"
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

void *eb_new(struct weft_arena *a, const ProtobufCMessageDescriptor *d);
/* The message at path ("address.socket_address") below m, made where it is not there. A repeated
 * field gets a new element, also in the middle of a path. */
void *eb_in(struct weft_arena *a, void *m, const char *path);
/* Sets the field at path. A repeated field gets one more. Strings are copied; NULL does nothing. An
 * enum may be given by its value's name. */
void eb_str(struct weft_arena *a, void *m, const char *path, const char *s);
void eb_strf(struct weft_arena *a, void *m, const char *path, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/* Numbers of every kind, bools, enums, and the wrapper messages around them. */
void eb_num(struct weft_arena *a, void *m, const char *path, int64_t v);
void eb_ms(struct weft_arena *a, void *m, const char *path, int64_t ms); /* a Duration */
/* v packed into the Any at path; v is a message of any type. */
void eb_any(struct weft_arena *a, void *m, const char *path, const void *v);
/* m has name and typed_config: a filter, a transport socket, an extension. */
void eb_typed(struct weft_arena *a, void *m, const char *name, const void *v);
/* One entry of a map<string, message>; the value. */
void *eb_entry(struct weft_arena *a, void *m, const char *path, const char *key);
/* A string in a google.protobuf.Struct. */
void eb_struct(struct weft_arena *a, void *m, const char *path, const char *key, const char *value);
/* metadata.filter_metadata[filter][key] = value, of a field metadata of m. */
void eb_meta(struct weft_arena *a, void *m, const char *filter, const char *key, const char *value);
/* The text as a regular expression that matches just it. */
char *eb_quote(struct weft_arena *a, const char *s);
