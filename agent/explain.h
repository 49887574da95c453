/* Why a connection would go through, or not: the decisions of proxy/policy over the store's model,
 * told step by step. Pure. */
#pragma once
#include "agent/store.h"
#include "proxy/core/err.h"

struct json_t;

/* src: "ns/pod" or an address. dst: "ns/pod:port", "ns/service:port", "hostname:port",
 * "1.2.3.4:port", "[::1]:port". *ret: a new JSON object (the caller's), *ret_text (may be NULL):
 * the same for people, malloc'ed. The object's "verdict" is "allow" or "deny", "reason" a code of
 * docs/reasons.md. -EINVAL: src or dst not understood.  -ENOENT: names nothing that exists. */
int weft_explain(const struct weft_store *s, const char *src, const char *dst, struct json_t **ret,
		 char **ret_text, struct weft_err *reterr);
/* The same for a request, where a waypoint is on the way: its filters, policies, route and
 * endpoints. weft_explain asks for "GET /". */
struct weft_explain_http {
	const char *src, *dst;
	const char *method, *path; /* path with its query */
	const char *headers;	   /* "name: value" lines, or NULL */
};
int weft_explain_request(const struct weft_store *s, const struct weft_explain_http *http,
			 struct json_t **ret, char **ret_text, struct weft_err *reterr);
