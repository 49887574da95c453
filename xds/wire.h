/* Foreign protobuf bytes are walked by descriptor before protobuf-c unpacks them: depth, NUL,
 * UTF-8, sizes. Pure. */
#pragma once
#include "proxy/core/arena.h"
#include "proxy/core/err.h"
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

enum { WEFT_WIRE_DEPTH_MAX = 64, WEFT_WIRE_FIELD_MAX = 64 << 20 };
/* Checks that p[0..n) is a d. strict: unknown fields and unknown enum values are errors too. Errors
 * name the field path. -EINVAL, -E2BIG (depth, size), -EILSEQ (UTF-8, NUL). */
int weft_wire_check(const ProtobufCMessageDescriptor *d, const uint8_t *p, size_t n, bool strict,
		    struct weft_err *reterr);
/* check, then unpack into the arena (never freed singly). NULL on error. */
ProtobufCMessage *weft_wire_unpack(struct weft_arena *a, const ProtobufCMessageDescriptor *d,
				   const uint8_t *p, size_t n, bool strict,
				   struct weft_err *reterr);
ProtobufCAllocator weft_wire_allocator(struct weft_arena *a);
/* As protobuf_c_message_init, also for messages made without init functions. m: sizeof_message
 * bytes. */
void weft_message_init(const ProtobufCMessageDescriptor *d, void *m);
size_t weft_value_sizeof(ProtobufCType t); /* of one element in memory, bytes */
