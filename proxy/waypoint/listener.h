/* Listeners: as configured (immutable, refcounted), as managed on the main thread (sockets,
 * warming, replacement) and as workers have them (accepting, listener filters, filter chain,
 * drain). */
#pragma once
#include "proxy/core/worker.h"
#include "proxy/http/route_tables.h"
#include "proxy/l4/chain.h"
#include "proxy/net/listener.h"
#include "xds/proto/envoy/config/listener/v3/listener.pb-c.h"
#include "xds/proto/envoy/extensions/filters/listener/proxy_protocol/v3/proxy_protocol.pb-c.h"
#include "xds/tls_conf.h"

enum { LISTENER_ADDRS_MAX = 16, LISTENER_FILTERS_MAX = 16, LISTENER_CHAINS_MAX = 100000 };

enum weft_listener_stat {
#define STAT(name, kind, help)	      WEFT_LISTENER_##name,
#define STAT_AS(id, name, kind, help) WEFT_LISTENER_##id,
#include "proxy/waypoint/listener_stats.def"
#undef STAT_AS
#undef STAT
	WEFT_LISTENER_STATS
};
extern const struct weft_scope_class weft_listener_scope;

/* ---- as configured: listener_conf.c */
struct lchain {
	const char *name;
	const Envoy__Config__Listener__V3__FilterChainMatch *match; /* NULL: takes all */
	const struct weft_chain_conf *filters;
	struct weft_tls_server *tls; /* NULL: plaintext */
	unsigned handshake_ms;	     /* 0: none said */
};
enum lfilter_kind { LF_TLS_INSPECTOR, LF_HTTP_INSPECTOR, LF_ORIGINAL_DST, LF_PROXY_PROTOCOL };
struct lfilter {
	enum lfilter_kind kind;
	size_t hello_max;
	unsigned prints; /* WEFT_SNIFF_WANT_* */
	bool pp_optional, pp_v1_off, pp_v2_off;
	const Envoy__Config__Listener__V3__ListenerFilterChainMatchPredicate *disabled; /* NULL */
};
struct lmatch; /* index of chains: chain_match.c */
struct lconf {
	_Atomic unsigned refs;
	struct weft_arena *arena;
	const Envoy__Config__Listener__V3__Listener *msg;
	const char *name, *stat_name, *version;
	uint64_t updated_s;
	uint64_t hash; /* of the message */
	struct weft_scope *scope;
	struct weft_listen_conf addr[LISTENER_ADDRS_MAX];
	unsigned n_addr;
	bool bind, reuse_port, use_original_dst, continue_on_timeout, ignore_global_limit,
		bypass_overload;
	bool modify_only; /* drain_type: connections are not told of the process's end */
	unsigned filters_ms, max_accept;
	uint32_t buffer_bytes;
	const struct lfilter *filter;
	unsigned n_filter;
	const struct lchain *chain;
	size_t n_chain;
	const struct lchain *fallback; /* default_filter_chain; NULL */
	const struct lmatch *match;
	const struct weft_access_logs *logs;
	struct weft_route_deps deps;
	bool secrets_missing; /* a chain's certificate is not there yet: not to be used */
	bool from_xds;
	bool files;   /* it may name files */
	bool renewed; /* what is active, with another secret */
	struct weft_net_context context;
};
/* The message is unpacked from packed bytes into an arena of its own, so that it can be built again
 * when a secret comes. 0; -EINVAL with errors in c (whose arena is not used). marks: of the file,
 * with msg the decoded one; NULL: from bytes. */
struct lconf_in {
	const Envoy__Config__Listener__V3__Listener
		*msg; /* lives as long as what is built: in `arena` or in the bootstrap's */
	struct weft_arena *arena; /* taken; freed with the conf */
	struct weft_route_tables *routes;
	const struct weft_tls_secrets *secrets;
	const char *version;
	bool from_xds;
	const Envoy__Config__Core__V3__Node *node; /* the bootstrap's; NULL */
};
/* "socket_options" of what is at `at`. */
int lsockopts_prepare(struct weft_cfg *c, const struct weft_path *at,
		      Envoy__Config__Core__V3__SocketOption *const *v, size_t n,
		      struct weft_listen_conf *to);
int lconf_new(struct weft_cfg *c, const struct weft_path *at, const struct lconf_in *in,
	      struct lconf **ret);
void lconf_ref(struct lconf *l);
void lconf_unref(struct lconf *l);	      /* any thread: freed on the main one */
void lconf_free_on(struct weft_worker *main); /* where the last reference frees */

/* ---- chain_match.c */
struct lkey { /* what a connection is known by */
	struct weft_sockaddr dst, src, direct_src;
	const char *sni;	 /* lower case; "" */
	const char *transport;	 /* "raw_buffer" or "tls" */
	const char *const *alpn; /* NULL-terminated */
};
/* Builds the index; errors for two chains that match the same. */
int lmatch_build(struct weft_cfg *c, const struct weft_path *at, struct lconf *l);
const struct lchain *lmatch_find(const struct lconf *l, const struct lkey *k); /* NULL: none */

/* ---- listener_worker.c */
struct wlistener;
struct wlisteners; /* of a worker */
struct lsocks;	   /* sockets of a listener, shared by its successive configurations */
struct wlisteners_conf {
	struct weft_worker *worker;
	uint64_t max_connections;      /* of the process; 0: no limit */
	_Atomic uint64_t *connections; /* of the process */
	const char *overload_failed;   /* counter of those refused by it; NULL */
	unsigned drain_ms;	       /* --drain-time-s */
};
struct wlisteners *wlisteners_new(const struct wlisteners_conf *conf);
void wlisteners_free(
	struct wlisteners *ws); /* closes what is open; worker thread, or after it ended */
struct wlisteners *wlisteners_of(struct weft_worker *w);
/* Worker thread. Adds, or replaces the one of that name: connections of the old one drain. fds: one
 * an address, borrowed as long as the listener stands; -1: does not bind. */
void wlistener_set(struct wlisteners *ws, struct lconf *l, const int *fds);
void wlistener_remove(struct wlisteners *ws, const char *name);
/* drain: what is open is told to end; no new ones where stop. */
void wlisteners_drain(struct wlisteners *ws, bool stop, bool inbound_only);
void wlisteners_pause(struct wlisteners *ws, bool on); /* listeners_pause */
size_t wlisteners_open(const struct wlisteners *ws);
/* A stream that did not come from a socket of the listener (HBONE): through its chains. io is
 * taken. false: no such listener or chain: io is closed. */
bool wlistener_accept_io(struct wlisteners *ws, const char *name, struct weft_io *io);
/* wlistener_accept_io would take it: its addresses have a chain there. */
bool wlistener_takes(struct wlisteners *ws, const char *name, struct weft_io *io);
/* By destination, for use_original_dst: exact, then any address with that port; not `not`. */
struct wlistener *wlistener_by_dest(struct wlisteners *ws, const struct weft_sockaddr *dst,
				    const struct wlistener * not );

/* ---- listener_filters.c: what runs before a chain is chosen */
struct lpre; /* one accepted socket */
struct lpre_done {
	int fd;
	struct evbuffer *already; /* bytes read ahead; NULL: none */
	struct weft_sockaddr local, remote, direct_remote, direct_local;
	const char *ja3, *ja4; /* "" or NULL: none */
	const char *sni, *transport;
	const char *const *alpn;
	bool restored; /* original destination was found */
};
/* Calls done once, at once or later; ok false: the connection is to be closed (fd is the callee's
 * either way). */
struct lpre *
lpre_start(struct event_base *base, const struct lconf *l, int fd, const struct weft_sockaddr *peer,
	   void (*done)(void *owner, struct lpre *p, const struct lpre_done *d, bool ok),
	   void *owner);
void lpre_free(struct lpre *p); /* closes nothing */

/* ---- listener_log.c: what no filter chain will log */
struct llog {
	const struct weft_io_info *io;
	const char *chain; /* NULL: none was chosen */
	uint64_t start_ns;
	const char *failure, *termination, *details; /* NULL */
	bool no_chain;
};
void llog_write(const struct lconf *l, const struct llog *e);
/* Before there was an io. */
void llog_early(const struct lconf *l, const struct lpre_done *d, uint64_t start_ns, bool no_chain);
