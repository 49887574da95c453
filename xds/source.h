/* Configuration from where a ConfigSource says: ADS, a stream for one type, state of the world or
 * delta, or a watched file. Main thread; all names of a type on a source share one subscription.
 *
 * Order. Responses are applied in the order of arrival, one after the other, and acked after they
 * were applied; names watched in one turn of the loop are asked for together, types in the order of
 * types.def (clusters, endpoints, secrets, listeners, routes). So a server that sends CDS, EDS,
 * LDS, RDS is followed in that order, and a consumer that keeps what it replaces until its
 * successor is warm (complete or timed_out of every watch of it) makes before it breaks.
 *
 * Last good. A connection that is lost, a refused or unreadable resource, an unreadable file: what
 * was accepted stays. Reconnects back off 500 ms..30 s with jitter and tell the versions held. */
#pragma once
#include "proxy/core/err.h"
#include "xds/link.h"
#include "xds/proto/envoy/config/core/v3/config_source.pb-c.h"
#include "xds/sink.h"

struct event_base;
struct weft_cfg;
struct weft_io;
struct weft_xds_sources;
struct weft_xds_watch;

struct weft_xds_sources_conf {
	const Envoy__Config__Core__V3__Node *node;	     /* outlives the sources */
	const Envoy__Config__Core__V3__ApiConfigSource *ads; /* NULL: none; outlives too */
	/* A byte stream to a cluster of the bootstrap, TCP, unix or TLS, ready or connecting; its
	 * ops are replaced. < 0 with reterr: tried again later. */
	int (*dial)(void *owner, const char *cluster, struct weft_io **ret,
		    struct weft_err *reterr);
	/* A connection ended or a file cannot be used, and why (log). May be NULL. */
	void (*lost)(void *owner, const char *source, const char *why);
	void *owner;
	struct weft_xds_times times;		 /* 0: the defaults */
	unsigned backoff_min_ms, backoff_max_ms; /* 0: 500, 30,000; a retry_policy goes first */
};
struct weft_xds_sources *weft_xds_sources_new(struct event_base *base,
					      const struct weft_xds_sources_conf *conf);
void weft_xds_sources_free(struct weft_xds_sources *s); /* watches with it; NULL is fine */

/* What weft_xds_watch would refuse; added to c->errs with the path. t NULL: of the bootstrap's
 * ads_config, given as api. have_ads: the bootstrap has one. */
int weft_xds_source_check(struct weft_cfg *c, const struct weft_path *at,
			  const Envoy__Config__Core__V3__ConfigSource *cs,
			  const struct weft_xds_type *t, bool have_ads);
int weft_xds_ads_check(struct weft_cfg *c, const struct weft_path *at,
		       const Envoy__Config__Core__V3__ApiConfigSource *api);

/* name NULL: everything the source has (LDS, CDS). cs NULL: ads. sink outlives the watch; calls
 * come from the loop only, never from inside. Several watches of one name are fine: a later one is
 * given the last good resource at once. NULL with reterr: not a source we can use (see check). */
struct weft_xds_watch *weft_xds_watch(struct weft_xds_sources *s,
				      const Envoy__Config__Core__V3__ConfigSource *cs,
				      const struct weft_xds_type *t, const char *name,
				      const struct weft_xds_sink *sink, void *owner,
				      struct weft_err *reterr);
void weft_xds_unwatch(struct weft_xds_watch *w); /* also from its own callbacks; NULL is fine */

/* Envoy's counters of a subscription. */
struct weft_xds_stat {
	uint64_t update_attempt, update_success, update_failure, update_rejected,
		init_fetch_timeout;
	uint64_t version;	   /* xxHash64 of version_text; 0: none */
	uint64_t update_time_ms;   /* since the epoch */
	const char *version_text;  /* "" none */
	bool connected;		   /* control_plane.connected_state; a file: true */
	const char *control_plane; /* control_plane.identifier; "" none */
};
struct weft_xds_stat weft_xds_watch_stat(const struct weft_xds_watch *w);
bool weft_xds_ads_connected(const struct weft_xds_sources *s);
uint64_t weft_xds_rate_limited(const struct weft_xds_sources *s); /* requests that had to wait */
