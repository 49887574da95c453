/* Network filters of one connection and, last of them, what ends it: tcp_proxy or the HTTP
 * connection manager. A filter is one file under filters/, one NET_FILTER(name) line in
 * filters.def. The chain keeps the rules (nothing after the end, buffers while a filter waits,
 * back-pressure), counts, and logs the connection. */
#pragma once
#include "proxy/core/flow.h"
#include "proxy/core/scope.h"
#include "proxy/l4/info.h"
#include "xds/ext.h"
#include "xds/proto/envoy/config/listener/v3/listener_components.pb-c.h"

struct weft_chain;
struct weft_worker;
struct weft_net_filter {
	struct weft_ext ext;
	/* The connection is ready (handshake done). NULL: NEXT. WAIT: weft_chain_resume later (an
	 * hour at most). DONE: it closed the chain. */
	enum weft_flow (*opened)(struct weft_chain *ch, const void *conf, void *state);
	/* Bytes from the client, before later filters see them; end: FIN. WAIT: asked again with
	 * more bytes, or when resumed; what it leaves in b is there again. NEXT: content, the later
	 * filters get b. A filter that has this holds the later ones until the client speaks. Not
	 * called on a terminal filter. NULL: NEXT. */
	enum weft_flow (*data)(struct weft_chain *ch, const void *conf, void *state,
			       struct evbuffer *b, bool end);
	/* Last call. NULL: nothing. */
	void (*closed)(struct weft_chain *ch, const void *conf, void *state);
	/* Terminal filters only (must be last; exactly one): takes the io over. From now on its ops
	 * are the filter's; it ends by weft_chain_close. WEFT_DONE always. */
	enum weft_flow (*take)(struct weft_chain *ch, const void *conf, void *state,
			       struct weft_io *io);
	/* Terminal: the connection ended before take(), by an earlier filter or the client; for
	 * its log. No state, and no other call. NULL: nothing. */
	void (*refused)(struct weft_chain *ch, const void *conf);
	/* Terminal: the listener drains: end what can be ended in order (Connection: close,
	 * GOAWAY). NULL: nothing. */
	void (*drain)(struct weft_chain *ch, const void *conf, void *state);
};
/* The chain as configured: immutable, in the listener's arena. */
struct weft_chain_conf;
struct weft_net_context { /* what filters' prepare gets beside the message: a pointer to it is
			     weft_cfg.context */
	const char *listener_name;
	bool internal; /* traffic_direction INBOUND/OUTBOUND: stats */
	void *routes;  /* RDS subscriptions of the process: struct weft_route_tables (http) */
	const char *cluster, *node; /* of the bootstrap's node: add_user_agent; NULL */
	bool bypass_overload;	    /* bypass_overload_manager */
	bool modify_only;	    /* drain_type */
	const char *http_prefix;    /* stat_prefix of the connection manager that is prepared */
};
/* filters[]: envoy.config.listener.v3.Filter. Checks: names, one terminal, last. */
int weft_chain_prepare(struct weft_cfg *c, const struct weft_path *at,
		       Envoy__Config__Listener__V3__Filter *const *v, size_t n,
		       const struct weft_chain_conf **ret);
struct weft_chain_start {
	struct weft_worker *worker;
	const struct weft_chain_conf *conf; /* kept alive by `hold` */
	struct weft_io *io;		    /* taken */
	const char *listener_name, *filter_chain_name;
	const Envoy__Config__Core__V3__Metadata *listener_metadata; /* NULL */
	const struct weft_access_logs *logs;			    /* the listener's; NULL */
	/* Last call: the connection is over and the chain is freed after it. */
	void (*closed)(void *owner, struct weft_chain *ch);
	void *owner;
};
struct weft_chain *
weft_chain_new(const struct weft_chain_start *start); /* runs opened() from the loop or at once */
void weft_chain_drain(struct weft_chain *ch);
struct weft_io *weft_chain_io(struct weft_chain *ch);
struct weft_info *weft_chain_info(struct weft_chain *ch);
struct weft_worker *weft_chain_worker(struct weft_chain *ch);
struct weft_arena *weft_chain_arena(struct weft_chain *ch); /* of the connection */
void weft_chain_resume(struct weft_chain *ch); /* also from inside the call that says WAIT */
bool weft_chain_draining(const struct weft_chain *ch);
/* The terminal filter gave the io to another owner (a session), who frees it. */
void weft_chain_forget_io(struct weft_chain *ch);
/* Ends the connection: flush_ms 0: at once; else what waits is written first. details: static or in
 * the arena; NULL. */
void weft_chain_close(struct weft_chain *ch, unsigned flush_ms, const char *details);

#define NET_FILTER(name) extern const struct weft_net_filter weft_net_filter_##name;
#include "proxy/l4/filters/filters.def"
#undef NET_FILTER
/* Filters of this folder, and those higher layers add (the HTTP connection manager), before any
 * configuration is read. */
void weft_net_filter_register(const struct weft_net_filter *f);
const struct weft_net_filter *weft_net_filter_find(const ProtobufCMessageDescriptor *config);
