/* gRPC message framing: 5-byte prefix, no compression. Sans-I/O. */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct evbuffer;
/* Incremental parser: feed bytes, take messages. */
struct weft_grpc_in {
	struct evbuffer *buf;
	size_t max_bytes; /* a larger message is refused */
};
void weft_grpc_in_init(struct weft_grpc_in *g, size_t max_bytes);
void weft_grpc_in_done(struct weft_grpc_in *g);
void weft_grpc_in_feed(struct weft_grpc_in *g, const uint8_t *p, size_t n);
/* 1: *ret (malloc'ed, the caller frees) holds a message of *ret_n bytes; 0: need more; -EMSGSIZE;
 * -EPROTO: compressed. */
int weft_grpc_in_next(struct weft_grpc_in *g, uint8_t **ret, size_t *ret_n);
void weft_grpc_out(struct evbuffer *dst, const void *msg, size_t n); /* prefix + bytes */
/* grpc-status of an answer without one, by its HTTP status (gRPC: "HTTP to gRPC Status Code
 * Mapping", as proxies use it). */
int weft_grpc_of_http(int status);
