/* The manager of clusters and its parts: cluster*.c, hosts.c. */
#pragma once
#include "proxy/upstream/cluster_priv.h"
#include "proxy/upstream/outlier.h"

#include <event2/event.h>
#include <sys/queue.h>

unsigned weft_cluster_hash(const void *p, size_t n); /* seeded */
#undef HASH_FUNCTION
#define HASH_FUNCTION(key, n, ret) ((ret) = weft_cluster_hash(key, n))
#define uthash_fatal(msg)	   abort()
#include <uthash.h>

enum {
	CLUSTER_PRIORITIES_MAX = 128,
	CLUSTER_HOSTS_MAX = 1000000,
	CLUSTER_ARENA = 1888,
	ORIGINAL_DST_MAX = 10000, /* hosts of a cluster and worker */
};
struct weft_original_dst_conf {
	const char *header; /* lower case; NULL: the connection's own destination */
	uint16_t port;	    /* 0: as it is */
};

/* ---- cluster_conf.c: a message into a cluster that nobody uses yet. NULL with errors in c->errs.
 */
struct weft_cluster *cluster_make(struct weft_cfg *c, const struct weft_path *at,
				  const Envoy__Config__Cluster__V3__Cluster *m,
				  const uint8_t *packed, size_t n_packed);
/* A BindConfig; what is wrong with it in c->errs. */
void cluster_bind(struct weft_cfg *c, const struct weft_path *at,
		  const Envoy__Config__Core__V3__BindConfig *m, struct weft_bind *ret);
/* cluster_http.c: HttpProtocolOptions and the deprecated fields. */
int cluster_http(struct weft_cfg *c, const struct weft_path *at, struct weft_cluster *cl);

/* ---- hosts.c */
struct dns_name {
	struct weft_ip *ips;
	size_t n;
	bool known;
};
struct hosts_want {
	struct weft_cluster *cluster;
	struct weft_hosts *old; /* whose hosts are kept where they are the same; NULL */
	/* Of DNS: addresses for the i-th endpoint that has a name, counted over the assignment. */
	const struct dns_name *names;
	size_t n_names;
};
/* 0; -EINVAL with errors. A NULL assignment is an empty one. */
int hosts_make(struct weft_cfg *c, const struct weft_path *at, const struct hosts_want *want,
	       const Envoy__Config__Endpoint__V3__ClusterLoadAssignment *m,
	       struct weft_hosts **ret);
/* The same endpoints with hosts of their own, for another configuration of the cluster. */
struct weft_hosts *hosts_copy(struct weft_cluster *to, const struct weft_hosts *from);
/* Hosts of a that are not in b; *ret_v malloc'ed, not referenced. */
size_t hosts_minus(const struct weft_hosts *a, const struct weft_hosts *b,
		   struct weft_host ***ret_v);
/* Without those that left the assignment and failed their check since. */
struct weft_hosts *hosts_without_removed(const struct weft_hosts *from);
/* The names to resolve, in order of endpoints. */
size_t hosts_names(struct weft_arena *a,
		   const Envoy__Config__Endpoint__V3__ClusterLoadAssignment *m,
		   const char *const **ret_names);

/* ---- cluster_worker.c: what a worker holds */
struct cluster_update { /* main thread → worker; freed there */
	char *name;
	struct weft_cluster *cluster;	/* referenced; NULL: removed */
	struct weft_balancer *balancer; /* referenced */
	struct weft_host **gone;	/* referenced; left the set */
	size_t n_gone;
	struct weft_host *failed; /* referenced; its connections drain; NULL */
	bool drain;		  /* all connections of before */
};
void cluster_update_send(struct weft_worker *w, const struct cluster_update *u); /* copies u */
void cluster_workers_init(struct weft_worker *w);
void cluster_workers_done(struct weft_worker *w); /* the worker's thread has ended */

/* ---- cluster.c */
/* One configuration of a cluster with its hosts: the active or the warming one. */
enum { WAIT_HOSTS = 1, WAIT_SECRETS = 2, WAIT_HEALTH = 4, WAIT_START = 8 };
struct managed;
struct slot {
	struct managed *of;
	struct weft_cluster *cluster;
	struct weft_hosts *hosts;
	struct weft_balancer *balancer;
	char *version, *eds_version;
	uint64_t updated_s;
	unsigned wait; /* what it warms for */
	bool active, started;
	bool retired; /* replaced or removed: in the manager's grave until the loop is back */
	LIST_ENTRY(slot) grave_link;
	uint64_t pushed_ns; /* of the last update that went to workers; 0: none */
	bool dirty;	    /* waits in the manager's list for the end of its merge window */
	TAILQ_ENTRY(slot) dirty_link;
	struct eds *eds;
	LIST_ENTRY(slot) eds_link;
	struct slot_dns *dns;
	LIST_ENTRY(slot) secret_link; /* wants secrets */
	bool secrets;
	struct weft_health *health;
	struct weft_outlier *outlier;
	struct event *stale;
};
struct managed {
	UT_hash_handle hh;
	struct slot *active, *warming;
	uint64_t digest; /* of the newest message */
	bool from_xds;
	char name[];
};
LIST_HEAD(slot_list, slot);
TAILQ_HEAD(slot_queue, slot);
struct eds { /* a service whose endpoints somebody wants */
	UT_hash_handle hh;
	struct slot_list slots;
	const Envoy__Config__Core__V3__ConfigSource *source; /* of the slot that asked */
	struct weft_cluster *source_of;			     /* referenced */
	uint64_t digest;				     /* of the last assignment; 0: none */
	char *version;
	char name[];
};
struct look { /* worker → main thread: outlier detection */
	struct look *next;
	struct weft_cluster *cluster;
	struct weft_host *host;
};
struct weft_clusters {
	struct weft_clusters_conf conf;
	struct weft_bind bind; /* of clusters without one */
	struct managed *all;
	struct eds *services;
	size_t n_warming, n_replacing; /* replacing: warming, and one of the name serves */
	struct slot_queue dirty;
	struct slot_list secret_slots, grave;
	struct event *reap;
	struct event *tick; /* for dirty */
	int look_fd;
	struct event *look_event;
	_Atomic(struct look *) looks;
};

/* cluster_slot.c: a slot's life. */
struct slot *slot_new(struct weft_clusters *m, struct managed *of, struct weft_cluster *c,
		      struct weft_hosts *hosts, const char *version); /* takes c and hosts */
void slot_start(struct slot *s);				      /* may activate it */
void slot_free(struct slot *s);					      /* NULL is fine */
/* The slot's hosts or their health changed. hosts is taken; NULL: the same. merge: may wait for the
 * end of update_merge_window. */
void slot_changed(struct slot *s, struct weft_hosts *hosts, bool merge);
void slot_push(struct slot *s);			/* what it has now goes to the workers */
void slot_ready(struct slot *s, unsigned what); /* warmed in this respect; may activate s */
void slot_unready(struct slot *s, unsigned what);
struct weft_clusters *slot_manager(const struct slot *s);
/* cluster_eds.c */
void slot_eds_start(struct slot *s);
void slot_eds_stop(struct slot *s);
/* cluster_dns.c */
void slot_dns_start(struct slot *s);
void slot_dns_stop(struct slot *s);
/* cluster.c: the slot becomes the active one of its name. */
void managed_activate(struct slot *s);
