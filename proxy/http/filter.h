/* HTTP filters: the interface. A filter is one file under filters/, one HTTP_FILTER(name) line in
 * filters.def, its message under xds/proto and a test. Most allocate nothing. docs/add-a-filter.md
 * walks through one. */
#pragma once
#include "proxy/core/flow.h"
#include "proxy/l4/info.h"
#include "proxy/session/headers.h"
#include "xds/ext.h"

struct weft_stream;
struct weft_worker;
struct weft_route;

/* Request callbacks run in the order of configuration, response ones in reverse; the router is the
 * last filter. NULL means WEFT_NEXT. `conf` is the route's override where there is one
 * (typed_per_filter_config), else the chain's. The chain keeps the rules: headers once, at most one
 * end a direction, nothing after WEFT_DONE or a local reply. */
struct weft_http_filter {
	struct weft_ext ext;
	enum weft_flow (*headers)(struct weft_stream *s, const void *conf, void *state,
				  enum weft_dir d, struct weft_headers *h, bool end);
	/* b holds the bytes that arrived now; change, drain or leave them. While an earlier WAIT
	 * holds this filter, the chain keeps bytes and gives them here on resume. */
	enum weft_flow (*data)(struct weft_stream *s, const void *conf, void *state,
			       enum weft_dir d, struct evbuffer *b, bool end);
	enum weft_flow (*trailers)(struct weft_stream *s, const void *conf, void *state,
				   enum weft_dir d, struct weft_headers *h);
	/* Last call, however the stream ended: cancel what you wait for. Only for filters whose
	 * headers() ran. */
	void (*closed)(struct weft_stream *s, const void *conf, void *state);
	/* The answer is complete or cut, before the access log is written. NULL: nothing. */
	void (*log)(struct weft_stream *s, const void *conf, void *state);
	bool terminal; /* router, health_check in non-pass-through never is: only the router */
};

/* ---- what a filter may ask of the stream; worker thread, inside its callbacks or later until
 * closed() */
void weft_stream_resume(struct weft_stream *s, const void *state,
			enum weft_dir d); /* after WEFT_WAIT; runs on from there */
/* Answers here: the local reply is mapped (local_reply_config), runs all response filters, also of
 * filters the request never came to (their state is zeroed), and is sent; one made inside a
 * response filter runs those outside of it. body may be NULL; details without spaces
 * ("rbac_access_denied_matched_policy[p]"); edit (may be NULL) may add headers before it is sent.
 * gRPC requests get a gRPC status. Returns WEFT_DONE. */
enum weft_flow weft_stream_reply(struct weft_stream *s, int status, const char *details,
				 const char *body, void (*edit)(void *ctx, struct weft_headers *h),
				 void *ctx);
/* The same with more to say: a body with any bytes, its type, a gRPC status of its own. Read only
 * during the call. */
struct weft_reply {
	int status;
	const char *details, *body;
	size_t body_n;
	const char *content_type; /* NULL: text/plain */
	bool has_grpc_status;	  /* else from status */
	int grpc_status;
	void (*edit)(void *ctx, struct weft_headers *h);
	void *ctx;
};
enum weft_flow weft_stream_answer(struct weft_stream *s, const struct weft_reply *r);
/* For a filter that wants a whole body: called in headers(), which then says WAIT. Its data() is
 * called when the body is complete, with all of it (then trailers(), where there are some and
 * data() said WAIT); NEXT lets headers and body go on. Beyond max bytes: 413, for a response 500.
 */
void weft_stream_buffer_limit(struct weft_stream *s, enum weft_dir d, size_t max);
/* The same, but beyond max bytes data() is called with what is there and end false. */
void weft_stream_buffer_fill(struct weft_stream *s, enum weft_dir d, size_t max);
struct evbuffer *
weft_stream_buffered(struct weft_stream *s,
		     enum weft_dir d); /* what is held for the filter that waits; NULL */
/* For a filter that keeps bytes itself: its data() takes them out of b and says DONE; later they (b
 * is drained) go on behind it. Trailers wait by WAIT of trailers() until resumed. */
void weft_stream_inject(struct weft_stream *s, const void *state, enum weft_dir d,
			struct evbuffer *b, bool end);
struct weft_arena *weft_stream_arena(struct weft_stream *s);
struct weft_worker *weft_stream_worker(struct weft_stream *s);
struct event_base *weft_stream_base(struct weft_stream *s);
struct weft_info *weft_stream_info(struct weft_stream *s);
const struct weft_io_info *weft_stream_downstream(struct weft_stream *s);
struct weft_io *weft_stream_io(struct weft_stream *s); /* the client's connection; NULL: gone */
struct weft_headers *weft_stream_headers(struct weft_stream *s,
					 enum weft_dir d); /* NULL: not there yet */
struct weft_headers *weft_stream_trailers(struct weft_stream *s, enum weft_dir d);
/* The route, found when first asked; NULL: none matches. Stays until cleared. */
const struct weft_route *weft_stream_route(struct weft_stream *s);
void weft_stream_clear_route(struct weft_stream *s); /* headers changed: look again when asked */
/* weft_stream_route() is NULL because the virtual host wants TLS: redirect to https. */
bool weft_stream_tls_redirect(struct weft_stream *s);
/* The table that routes come from, NULL: not there; lives as long as the stream. */
const struct weft_routes *weft_stream_routes(struct weft_stream *s);
/* The route's (or virtual host's) own configuration for this filter, or NULL; most need not ask:
 * conf is it already. */
const void *weft_stream_route_conf(struct weft_stream *s, const void *state);
/* Those of all levels, the most specific (weighted entry, route, virtual host, table) first; how
 * many. */
enum { WEFT_ROUTE_LEVELS = 4 };
size_t weft_stream_route_confs(struct weft_stream *s, const void *state,
			       const void *ret[WEFT_ROUTE_LEVELS]);
/* The chain's own, whatever routes say. */
const void *weft_stream_chain_conf(struct weft_stream *s, const void *state);
struct weft_scope *weft_stream_scope(struct weft_stream *s); /* http.PREFIX. */
/* What a filter keeps of the connection: zeroed, made when first asked for, by a number that no
 * other configuration has (weft_http_filter_id). *ret_new: it was made. A connection keeps the 32
 * used last. */
void *weft_stream_conn_part(struct weft_stream *s, uint64_t id, size_t size, bool *ret_new);
uint64_t weft_http_filter_id(void);		    /* any thread */
uint64_t weft_stream_random(struct weft_stream *s); /* the same for all of one stream: fractions */
bool weft_stream_is_grpc(const struct weft_stream *s);
void weft_stream_cut(struct weft_stream *s, enum weft_reset why,
		     const char *details); /* ends it without an answer */
/* Back-pressure on the client by the filter that produces or sends too much. Counted. */
void weft_stream_pause(struct weft_stream *s, enum weft_dir d);
void weft_stream_unpause(struct weft_stream *s, enum weft_dir d);

/* ---- the terminal filter (router) answers with these; each runs the response filters and then the
 * session */
void weft_stream_respond_informational(struct weft_stream *s, struct weft_headers *h);
void weft_stream_respond_headers(struct weft_stream *s, struct weft_headers *h,
				 bool end); /* h in the stream's arena */
void weft_stream_respond_data(struct weft_stream *s, struct evbuffer *b,
			      bool end); /* b is drained */
void weft_stream_respond_trailers(struct weft_stream *s, struct weft_headers *h);
/* Bytes towards the client went over / below the high mark: set by the terminal filter to pause its
 * upstream. */
void weft_stream_on_writable(struct weft_stream *s, void (*fn)(void *ctx, bool full), void *ctx);
bool weft_stream_response_full(const struct weft_stream *s);
/* Internal redirect: the same stream begins again with changed request headers, from the first
 * filter. -1: not possible. */
int weft_stream_restart(struct weft_stream *s);
/* The same for a request whose whole body the terminal filter kept: drained on success. */
int weft_stream_restart_body(struct weft_stream *s, struct evbuffer *body);
/* The scheme of the connection itself is TLS. */
bool weft_stream_is_tls(const struct weft_stream *s);
/* The protocol asked for by an upgrade ("websocket"), "CONNECT", or NULL. */
const char *weft_stream_upgrade(const struct weft_stream *s);

/* For a filter's prepare: its numbers under http.PREFIX. ("" where that is not known); lives as
 * long as c->arena. */
struct weft_scope;
struct weft_scope_class;
struct weft_scope *weft_http_filter_scope(struct weft_cfg *c, const struct weft_scope_class *cls);

#define HTTP_FILTER(name) extern const struct weft_http_filter weft_http_filter_##name;
#include "proxy/http/filters/filters.def"
#undef HTTP_FILTER
/* Filters of higher layers and of tests, before any configuration is read. */
void weft_http_filter_register(const struct weft_http_filter *f);
const struct weft_http_filter *weft_http_filter_find(const ProtobufCMessageDescriptor *config);
/* By per-route type: the filter whose per_route it is; NULL. */
const struct weft_http_filter *weft_http_filter_by_name(const char *canonical_name);
