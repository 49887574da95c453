/* weft-waypoint, between its parts. Main thread, but where said. */
#pragma once
#include "proxy/http/route_tables.h"
#include "proxy/upstream/cluster.h"
#include "proxy/waypoint/listener.h"
#include "xds/proto/envoy/config/bootstrap/v3/bootstrap.pb-c.h"
#include "xds/source.h"

struct weft_log_sink;
struct weft_http_admin;

/* ---- options.c */
enum waypoint_mode { MODE_SERVE, MODE_VALIDATE };
struct waypoint_options {
	const char *config_path, *config_yaml;
	enum waypoint_mode mode;
	unsigned concurrency; /* 0: one a CPU */
	const char *node_id, *node_cluster, *node_zone;
	const char *admin_path; /* unix socket; NULL: of the bootstrap, or none */
	const char *admin_address_file;
	const char *admin_token_file; /* what a TCP admin asks for; NULL: there is none */
	unsigned drain_s;	      /* 600 */
	bool drain_immediate;
	const char *user;
	bool no_seccomp;
	int log_level;
	bool log_json;
	bool output_json; /* of --mode validate */
	bool low_ports;	  /* keep CAP_NET_BIND_SERVICE after the seal */
};
/* 0: go on; 1: help or version was printed; -EINVAL: told on stderr. */
int waypoint_options(int argc, char **argv, struct waypoint_options *ret);

/* ---- bootstrap.c */
struct weft_yaml_doc;
struct bootstrap {
	struct weft_arena *arena;
	const char *name;		 /* of the file, for messages */
	const struct weft_yaml_doc *doc; /* NULL: merged of two, no places */
	const Envoy__Config__Bootstrap__V3__Bootstrap *msg;
	const struct weft_marks *marks;
	uint64_t max_connections;    /* 0: no limit */
	const char *overload_failed; /* counts connections refused by it, where overload_manager
					says it */
	struct overload *overload;   /* overload.h; NULL: none */
	int bad;		     /* errors of the file's form, first in errs */
};
/* Reads and checks. On errors: *errs has all that were found, with places. warns and notes may be
 * NULL. */
int bootstrap_load(const struct waypoint_options *opt, struct bootstrap *ret,
		   struct weft_errs *errs, struct weft_errs *warns, struct weft_errs *notes);
void bootstrap_place(const struct bootstrap *b, struct weft_errs *errs);
void bootstrap_free(struct bootstrap *b);

/* ---- secrets.c: static ones and those of SDS */
struct secrets;
struct secrets_conf {
	struct event_base *base; /* NULL: files are not watched */
	struct weft_xds_sources *sources;
	/* It came or changed; the clusters and listeners that use it look again. */
	void (*changed)(void *owner, const char *name);
	void *owner;
};
struct secrets *secrets_new(const struct secrets_conf *conf);
void secrets_free(struct secrets *s);
int secrets_add_static(struct secrets *s, struct weft_cfg *c, const struct weft_path *at,
		       const Envoy__Extensions__TransportSockets__Tls__V3__Secret *m);
void secrets_want(struct secrets *s, const Envoy__Config__Core__V3__ConfigSource *cs,
		  const char *name, bool on);
struct weft_tls_secrets secrets_lookup(struct secrets *s);
const Envoy__Extensions__TransportSockets__Tls__V3__Secret *secrets_get(struct secrets *s,
									const char *name);
void secrets_each(struct secrets *s,
		  void (*fn)(void *ctx, const char *name, const char *version, bool is_static,
			     uint64_t updated_s,
			     const Envoy__Extensions__TransportSockets__Tls__V3__Secret *m),
		  void *ctx);

/* ---- listeners.c */
struct listeners;
struct waypoint;
struct listeners_conf {
	struct weft_worker *main, *const *workers;
	size_t n_workers;
	struct weft_route_tables *routes;
	struct secrets *secrets;
	const Envoy__Config__Core__V3__Node *node; /* NULL */
	bool dry;				   /* nothing is bound and no worker is told */
	/* The first configuration of it serves; or it left. */
	void (*live)(void *owner, const char *name, bool on);
	void *owner;
};
struct listeners *listeners_new(const struct listeners_conf *conf);
void listeners_free(struct listeners *m); /* workers are stopped */
/* arena: m lives there; taken in any case. 1: changed, 0: the same, -EINVAL: errors in c. */
int listeners_set(struct listeners *m, struct weft_cfg *c, const struct weft_path *at,
		  const Envoy__Config__Listener__V3__Listener *msg, struct weft_arena *arena,
		  const char *version, bool from_xds);
int listeners_remove(struct listeners *m, const char *name); /* -ENOENT, -EPERM: static */
void listeners_look(struct listeners *m); /* something a warming one waits for came */
void listeners_secret(struct listeners *m,
		      const char *name); /* it changed: those that use it are built anew */
size_t listeners_count(const struct listeners *m, size_t *ret_warming);
void listeners_start(struct listeners *m); /* before it, listeners are kept warming */
/* What comes waits in the backlog while off; those that bypass overload go on. */
void listeners_pause(struct listeners *m, bool on);
void listeners_stop_accepting(struct listeners *m, bool inbound_only, bool stop);
struct listener_view {
	const struct lconf *active, *warming; /* either may be NULL */
	const struct weft_sockaddr *bound;    /* actual addresses */
	unsigned n_bound;
};
void listeners_each(struct listeners *m, void (*fn)(void *ctx, const struct listener_view *v),
		    void *ctx);

/* ---- feeds.c: LDS, CDS, EDS, RDS and SDS into the managers */
struct feeds;
struct feeds *feeds_new(struct waypoint *w);
int feeds_start_clusters(struct waypoint *w, struct weft_err *reterr);
int feeds_start_listeners(struct waypoint *w, struct weft_err *reterr); /* once clusters are warm */
/* Callbacks of the managers; owner: struct waypoint. */
void feeds_want_endpoints(void *owner, const Envoy__Config__Core__V3__ConfigSource *cs,
			  const char *service, bool on);
/* A file of this machine: what it says may name other files. */
bool feeds_local(const Envoy__Config__Core__V3__ConfigSource *cs);
/* Within a sink's apply: the resource is not used, and why; all errors are logged. */
void feeds_reject(struct weft_xds_reply *r, const char *kind, const struct weft_xds_resource *up,
		  struct weft_errs *errs);
void feeds_want_routes(void *owner, struct weft_route_table *table,
		       const Envoy__Config__Core__V3__ConfigSource *cs, const char *name, bool on);
bool feeds_clusters_ready(const struct feeds *f);
void feeds_free(struct feeds *f);
/* Everything that was there at start is live, or timed out. */
bool feeds_ready(const struct feeds *f);

/* ---- stats_conf.c; m NULL: all is told. 0, -EINVAL: errors in c */
int waypoint_stats_conf(struct weft_cfg *c, const Envoy__Config__Metrics__V3__StatsConfig *m);

/* ---- overload.c; NULL is fine */
struct overload;
void overload_start(struct overload *o, struct weft_worker *main, struct listeners *listeners);
void overload_stop(struct overload *o);

enum waypoint_state { WAYPOINT_PRE_INIT, WAYPOINT_INIT, WAYPOINT_LIVE, WAYPOINT_DRAINING };
struct waypoint {
	struct waypoint_options opt;
	struct bootstrap boot;
	struct weft_worker *main, **workers;
	size_t n_workers;
	struct weft_clusters *clusters;
	struct weft_route_tables *routes;
	struct secrets *secrets;
	struct listeners *listeners;
	struct weft_xds_sources *sources;
	struct feeds *feeds;
	struct waypoint_admin *admin;
	_Atomic uint64_t connections;
	enum waypoint_state state;
	bool health_failed; /* /healthcheck/fail */
	uint64_t start_ns, start_wall_s;
	bool started; /* listeners were opened */
	bool draining, drain_inbound;
	struct event *drain_end, *flush;
	bool looking;
	struct weft_worker **all_workers; /* workers, then main */
	struct weft_log_sink *ejections;  /* outlier_detection.event_log_path; NULL */
};
/* Static parts of the bootstrap into the managers. Errors in errs. */
int waypoint_build(struct waypoint *w, struct weft_errs *errs, struct weft_errs *warns);
void waypoint_free(struct waypoint *w);
/* Access logs, and the log of ejections: opened again by path. */
void waypoint_logs_reopen(struct waypoint *w);
void waypoint_quit(struct waypoint *w);
void waypoint_look(struct waypoint *w); /* opens listeners once clusters are there */
/* What parts of the bootstrap say of each other: -EINVAL: what Envoy refuses as well (a static
 * route to a cluster that is not there) is in errs; unused clusters and the like in warns. */
int waypoint_semantics(struct waypoint *w, struct weft_errs *errs, struct weft_errs *warns);
/* Clusters of one name; 0, -EINVAL. */
int waypoint_duplicates(struct weft_cfg *c,
			const Envoy__Config__Bootstrap__V3__Bootstrap__StaticResources *r);

/* ---- ending.c, sealing.c */
struct ending;
struct ending *waypoint_signals(struct waypoint *w);
void waypoint_signals_end(struct ending *e);
int waypoint_seal(struct waypoint *w, struct weft_err *reterr); /* before threads start */

/* ---- validate.c: --mode validate; the exit code */
int waypoint_validate(struct waypoint *w);
void waypoint_errs_once(struct weft_errs *e);
/* Of what follows the first n, which the file's form caused, what is only their consequence goes:
 * "must be a list" needs no "must have an item" beside it. */
void waypoint_errs_caused(struct weft_errs *e, int n);

/* ---- admin.c */
struct waypoint_admin *
waypoint_admin_new(struct waypoint *w, struct weft_err *reterr); /* NULL with code 0: none wanted */
/* What it would refuse; opens nothing. 0, -EINVAL. */
int waypoint_admin_check(struct waypoint *w, struct weft_errs *errs, struct weft_errs *warns);
void waypoint_admin_free(struct waypoint_admin *a);
/* With what /healthcheck/fail and draining make of it. */
enum waypoint_state waypoint_state(const struct waypoint *w);
/* ---- admin_stats.c: the process's own numbers, and intervals of histograms */
void waypoint_stats_start(struct waypoint *w);
uint64_t waypoint_rss(void);
int64_t waypoint_cert_days(struct waypoint *w); /* of the certificate that ends first */
const char *waypoint_level(void);		/* of the log, as Envoy names it */
