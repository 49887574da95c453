/* A small HTTP/1.1 server for admin, metrics and readiness: request line + headers <= 8 KiB, body
 * <= 1 MiB, one request a connection, then close; 10 s for all of it. Not for user traffic. One
 * thread. */
#pragma once
#include "proxy/core/err.h"
#include <event2/buffer.h>
#include <stdbool.h>

struct event_base;
struct weft_http_admin;
struct weft_http_req {
	const char *method, *path; /* path is percent-decoded, without the query */
	const char *query; /* "a=b&c=d", never NULL, still encoded: read with weft_http_query */
	const char *body;
	size_t body_n;
	bool allowed; /* it has the token, or none is asked for */
};
/* Fills out and *ret_type (static string, default text/plain); returns the HTTP status. */
typedef int weft_http_handler(void *owner, const struct weft_http_req *r, struct evbuffer *out,
			      const char **ret_type);
/* Takes fd: listening, TCP or unix. It is closed by free. */
struct weft_http_admin *weft_http_admin_new(struct event_base *base, int fd, weft_http_handler *h,
					    void *owner);
void weft_http_admin_free(struct weft_http_admin *a);
/* From now on a request is `allowed` only with "Authorization: Bearer TOKEN", compared in constant
 * time; the handler answers 401 to the others. */
void weft_http_admin_token(struct weft_http_admin *a, const char *token);
/* Decoded value of key in q, the first one; 0, -ENOENT, -E2BIG, -EINVAL (bad %XX). */
int weft_http_query(const char *q, const char *key, char *dst, size_t cap);
/* Blocking client for weftctl and tests: request over a unix socket. Returns the status or -errno;
 * *ret_body malloc'ed. */
int weft_http_unix(const char *socket_path, const char *method, const char *target,
		   const char *body, size_t body_n, unsigned timeout_ms, char **ret_body,
		   size_t *ret_n, struct weft_err *reterr);
/* A handler's JSON answer: takes j (jansson); NULL: memory was out, 500. */
struct json_t;
int weft_http_json(struct evbuffer *out, const char **ret_type, struct json_t *j);
