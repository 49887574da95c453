/* The HTTP connection manager, between its files: what is configured, a connection, what a worker
 * keeps. */
#pragma once
#include "proxy/core/timer.h"
#include "proxy/http/filter.h"
#include "proxy/http/local_reply.h"
#include "proxy/http/mutations.h"
#include "proxy/http/path.h"
#include "proxy/http/route.h"
#include "proxy/http/route_tables.h"
#include "proxy/http/stats.h"
#include "proxy/http/xfcc.h"
#include "proxy/http/xff.h"
#include "proxy/l4/als.h"
#include "proxy/l4/chain.h"
#include "proxy/session/session.h"
#include "xds/proto/envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.pb-c.h"

typedef Envoy__Extensions__Filters__Network__HttpConnectionManager__V3__HttpConnectionManager
	hcm_msg;

enum { WEFT_HTTP_FILTERS_MAX = 64, WEFT_SPARE_ARENAS = 64, WEFT_STREAM_ARENA = 8192 };

/* ---- filters of a stream, as configured (filter.c) */
enum http_call { HTTP_HEADERS, HTTP_DATA, HTTP_TRAILERS, HTTP_CALLS };
struct http_item {
	const struct weft_http_filter *f;
	const void *conf;
	const char *name;
	uint32_t state; /* offset */
	bool disabled;	/* unless the route says otherwise */
};
struct http_chain {
	const struct http_item *v;
	unsigned n;
	size_t state_bytes;
	bool per_route; /* a filter here can be configured by routes */
	/* By direction and call: the next filter that wants it, from position i on and itself
	 * included; NONE. Requests count up, responses down. */
	uint8_t next[WEFT_DIRS][HTTP_CALLS][WEFT_HTTP_FILTERS_MAX];
};
enum { HTTP_NONE = 0xff };
typedef Envoy__Extensions__Filters__Network__HttpConnectionManager__V3__HttpFilter http_filter_msg;
int weft_http_chain_prepare(struct weft_cfg *c, const struct weft_path *at,
			    http_filter_msg *const *v, size_t n, const struct http_chain **ret);

/* ---- configuration (hcm_conf*.c) */
struct hcm_upgrade {
	const char *type; /* "websocket", "CONNECT" */
	size_t n;
	bool enabled;
	const struct http_chain *chain;
};
enum hcm_codec { HCM_AUTO, HCM_H1, HCM_H2, HCM_CODECS };
struct hcm_times { /* ms; 0: none */
	uint64_t idle, max_connection, stream_idle, request, max_stream, drain, delayed_close,
		flush, log_interval;
};
enum hcm_late { HCM_LATE_HEADERS, HCM_LATE_REQUEST, HCM_LATE_IDLE };
struct weft_hcm_conf {
	struct weft_scope *scope;
	struct weft_route_table *routes;
	const struct http_chain *chain;
	const struct hcm_upgrade *upgrades;
	size_t n_upgrades;
	struct weft_session_conf session[HCM_CODECS];
	enum hcm_codec codec;
	struct hcm_times ms;
	uint32_t max_requests; /* of a connection; 0: any */
	const struct weft_access_logs *logs;
	const struct weft_local_reply *replies; /* NULL: as they are */
	struct weft_path_conf path;
	struct weft_xff_conf xff;
	struct weft_xfcc_conf xfcc;
	const char *server_name, *via;
	const char *user_agent, *node; /* NULL: not added */
	size_t server_name_n;
	const char *set_scheme;			      /* NULL: as it came */
	const struct weft_proxy_status *proxy_status; /* NULL: none is told */
	const struct weft_mutations *early; /* made before anything else is read off a request */
	size_t n_early;
	uint8_t server_header; /* ServerHeaderTransformation */
	uint8_t underscores;   /* HeadersWithUnderscoresAction */
	uint8_t strip_port;    /* 0, HCM_PORT_* */
	uint8_t late;	       /* enum hcm_late: which timeout a head that does not end meets */
	bool strip_dot;
	bool tracing; /* logs tell the trace id that came */
	bool proxy_100, generate_id, preserve_id, id_in_response, pack_trace_reason;
	bool modify_only;		       /* drain_type of its listener */
	bool append_overload, bypass_overload; /* append_local_overload; of its listener */
	bool safe_max_duration, log_new, log_tunnel, proxy_protocol_state;
};
enum { HCM_PORT_KEEP, HCM_PORT_MATCHING, HCM_PORT_ANY };
int weft_hcm_prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *m,
		     const void **ret);
/* hcm_conf_proto.c: what a session is told. */
int weft_hcm_prepare_session(struct weft_cfg *c, const struct weft_path *at, const hcm_msg *m,
			     struct weft_hcm_conf *conf);

/* ---- what a worker keeps (hcm.c) */
struct hcm_worker {
	struct weft_timers *timers;
	struct weft_arena *spare[WEFT_SPARE_ARENAS];
	unsigned n_spare;
	uint64_t wall_offset_ns; /* wall clock less the monotonic one, of this second */
	uint64_t date_until_ns;	 /* monotonic: `date` is true before */
	char date[32];
};
struct weft_arena *weft_hcm_arena_take(struct hcm_worker *w);
void weft_hcm_arena_give(struct hcm_worker *w, struct weft_arena *a);
/* "Sat, 21 Nov 2026 10:04:39 GMT"; 29 bytes. Keeps wall_offset_ns true too. */
const char *weft_hcm_date(struct hcm_worker *w, uint64_t now_ns);

/* ---- a connection (hcm.c) */
enum hcm_drain { HCM_OPEN, HCM_DRAINING, HCM_CLOSING };
struct hcm_part; /* what a filter keeps of a connection: stream_api.c */
struct hcm_conn {
	struct weft_chain *ch;
	const struct weft_hcm_conf *conf;
	struct hcm_worker *w;
	struct weft_worker *worker;
	struct weft_session *session; /* NULL: gone */
	TAILQ_HEAD(, weft_stream) streams;
	struct hcm_part *parts; /* used last: first */
	struct weft_timer idle, life, drain_timer;
	uint64_t n_requests;
	uint8_t drain; /* enum hcm_drain */
	bool counted : 1, remote_end : 1, soft : 1, ended : 1;
	bool had_active : 1; /* a request was cut by the end of the connection */
	uint8_t version;     /* counted as */
};
void weft_hcm_drain_begin(struct hcm_conn *c);
void weft_hcm_parts_free(struct hcm_conn *c);
/* A stream left: the connection may have waited for it. */
void weft_hcm_stream_left(struct hcm_conn *c);
static inline void hcm_count(struct hcm_conn *c, enum weft_http_stat i)
{
	weft_scope_add(c->conf->scope, i, 1);
}

/* ---- requests as they come (hcm_request.c): changes the head as configuration wants. false: it
 * was answered. */
bool weft_hcm_request(struct weft_stream *s);
/* hcm_overload.c. true: the request was refused; the connection is to end with this answer. */
bool weft_hcm_overloaded(struct weft_stream *s);
bool weft_hcm_no_keepalive(struct hcm_conn *c);
/* Response heads (hcm_response.c), after filters. */
void weft_hcm_response(struct weft_stream *s, struct weft_headers *h);
/* What the session writes into answers to bytes that are no request. */
const char *weft_hcm_error_fields(struct weft_arena *a, const struct weft_hcm_conf *conf);
void weft_hcm_via(const struct weft_hcm_conf *conf, struct weft_headers *h);
/* request_id.c */
void weft_request_id_set(struct weft_stream *s, bool edge);
/* trace_context.c: the trace id of the request's own context, or NULL; in the arena. */
const char *weft_trace_id_of(const struct weft_headers *h, struct weft_arena *a);
