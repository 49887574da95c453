/* Route tables by name: fed on the main thread (RDS), used by connection managers on workers. A
 * table that is replaced goes on serving the requests that began with it. */
#pragma once
#include "proxy/http/route.h"
#include "xds/proto/envoy/config/core/v3/config_source.pb-c.h"

struct weft_worker;
struct weft_route_tables; /* main thread */
struct weft_route_table;  /* one name of one source; refcounted: whose connection managers use it */
struct weft_routes_hold;  /* a worker's reference */

struct weft_route_tables_conf {
	struct weft_worker *const *workers;
	size_t n_workers;
	/* Begins (on) or ends to want the table; answers come by weft_route_table_set/_gone. Not
	 * called again for one that is wanted already. */
	void (*want)(void *owner, struct weft_route_table *t,
		     const Envoy__Config__Core__V3__ConfigSource *cs, const char *name, bool on);
	/* Its first answer came (routes, removal or timeout): listeners that wait look again. */
	void (*ready)(void *owner, struct weft_route_table *t);
	void *owner;
};
struct weft_route_tables *weft_route_tables_new(const struct weft_route_tables_conf *conf);
/* Workers must be stopped, or have no connection left. NULL is fine. */
void weft_route_tables_free(struct weft_route_tables *ts);

/* A reference to the named table, made and wanted when new. cs NULL: ADS. */
struct weft_route_table *weft_route_table_take(struct weft_route_tables *ts,
					       const Envoy__Config__Core__V3__ConfigSource *cs,
					       const char *name);
/* One that never changes (route_config): takes the reference r. */
struct weft_route_table *weft_route_table_fixed(struct weft_routes *r);
void weft_route_table_give(struct weft_route_table *t); /* main thread; NULL is fine */
const char *weft_route_table_name(const struct weft_route_table *t);
bool weft_route_table_is_ready(const struct weft_route_table *t);

/* Compiles and publishes; on errors (in c) what was there stays. 0; -EINVAL. */
int weft_route_table_set(struct weft_route_table *t, struct weft_cfg *c, const struct weft_path *at,
			 const Envoy__Config__Route__V3__RouteConfiguration *m,
			 const char *version);
void weft_route_table_gone(struct weft_route_table *t);	     /* removed: requests get 404 */
void weft_route_table_timed_out(struct weft_route_table *t); /* nothing came in time: go on */

/* Tables that connection managers take between begin and end: what their listener waits for. */
struct weft_route_deps {
	struct weft_route_table **v; /* in the arena given */
	size_t n, cap;
	struct weft_arena *arena;
};
void weft_route_tables_note(struct weft_route_tables *ts,
			    struct weft_route_deps *d); /* NULL: end */
bool weft_route_deps_ready(const struct weft_route_deps *d);

/* For admin, in order of name. msg is NULL where nothing came yet. */
struct weft_route_table_view {
	const char *name, *version;
	const Envoy__Config__Route__V3__RouteConfiguration *msg;
	uint64_t updated_s;
	bool fixed;
};
void weft_route_tables_each(struct weft_route_tables *ts,
			    void (*fn)(void *ctx, const struct weft_route_table_view *v),
			    void *ctx);

/* ---- worker thread: what a request is routed by; NULL: nothing yet. *ret_hold (NULL: it lives as
 * long as the table) is given back when the request is over. */
const struct weft_routes *weft_route_table_get(struct weft_route_table *t, struct weft_worker *w,
					       struct weft_routes_hold **ret_hold);
void weft_routes_hold_give(struct weft_routes_hold *h); /* NULL is fine */
