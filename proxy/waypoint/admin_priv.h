/* Admin, between its files. Main thread. */
#pragma once
#include "proxy/net/http_admin.h"
#include "proxy/waypoint/waypoint.h"

struct areq { /* one request */
	struct waypoint *w;
	struct weft_arena *arena; /* of the request */
	const struct weft_http_req *http;
	struct evbuffer *out;
	const char **ret_type;
};
/* Decoded value of a parameter, in the arena; "" where it has none; NULL: it is not there. */
const char *areq_param(const struct areq *r, const char *key);
int areq_text(const struct areq *r, int status, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
int areq_json(const struct areq *r, const ProtobufCMessage *m);

/* A message with nothing set; in the arena. */
void *admin_new(struct weft_arena *a, const ProtobufCMessageDescriptor *d);
/* One more element of a repeated message field. */
void admin_push(struct weft_arena *a, void *field, size_t *n, void *m);
Google__Protobuf__Timestamp *admin_time(struct weft_arena *a, uint64_t unix_s);
Envoy__Config__Core__V3__Address *admin_address(struct weft_arena *a, const struct weft_sockaddr *s,
						const char *unix_path);
const char *admin_address_text(const struct weft_sockaddr *s, const char *unix_path, char *dst,
			       size_t cap);

/* admin_redact.c: a copy of m without what must not be shown. */
ProtobufCMessage *admin_redact(struct weft_arena *a, const ProtobufCMessage *m);
/* Only what the paths name ("cluster.name,last_updated"), also in Anys; false: a path names no
 * field of m's. */
bool admin_mask(struct weft_arena *a, ProtobufCMessage *m, const char *paths);

/* Handlers: fill out, return the status. */
int admin_config_dump(struct areq *r); /* admin_dump.c */
int admin_clusters(struct areq *r);    /* admin_clusters.c */
int admin_listeners(struct areq *r);   /* admin_info.c, and those below */
int admin_certs(struct areq *r);
int admin_server_info(struct areq *r);
int admin_memory(struct areq *r);
int admin_init_dump(struct areq *r);
int admin_stats(struct areq *r); /* admin_stats.c, and those below */
int admin_prometheus(struct areq *r);
int admin_logging(struct areq *r); /* admin_do.c, and those below */
int admin_drain(struct areq *r);
int admin_fail(struct areq *r);
int admin_ok(struct areq *r);
int admin_quit(struct areq *r);
int admin_reset(struct areq *r);
int admin_reopen(struct areq *r);
