/* Inside of the store: objects → messages, a file a kind. Pure. Everything lives in the
 * translation's arena or in the objects, which outlive it. */
#pragma once
#include "agent/store.h"
#include "proxy/core/arena.h"
#include "xds/proto/authorization.pb-c.h"
#include "xds/proto/workload.pb-c.h"

enum { TR_HBONE_PORT = 15008, TR_POD_ADDRS = 4 };

struct tr_pod {
	const struct weft_object *o;
	const Weft__Kube__Pod *pod;
	struct weft_ip addrs[TR_POD_ADDRS];
	size_t n_addrs;
	/* of the arena, since o and pod are gone after the load */
	const char *sa, *node, *identity, *uid, *netns, *source; /* netns NULL: not said */
	bool enrolled;
	bool unusable; /* would be enrolled, but for an error of its object */
	bool live;     /* has a workload */
	Istio__Workload__Workload *w;
	struct tr_gateway *gw; /* its waypoint; NULL: none that is a Gateway */
};
struct tr_ip {
	struct weft_ip ip;
	struct tr_pod *pod;
};
struct tr_gateway;
struct tr_svc;
struct gw_attach;
struct gw_tls_policy;
struct tr {
	struct weft_arena *a;
	const struct weft_objects *objs;
	struct weft_errs *errs;
	int n_errors;
	struct weft_store_mesh mesh;
	const Weft__Kube__MeshConfigSpec *config; /* NULL: none */
	struct tr_pod *pods;			  /* by namespace and name, as the objects */
	size_t n_pods;
	struct tr_ip *ips; /* of live pods that have addresses of their own, sorted */
	size_t n_ips;
	struct tr_gateway *gateways; /* by namespace and name */
	size_t n_gateways;
	struct tr_svc *svcs; /* by namespace and name */
	size_t n_svcs;
	struct gw_attach *attached; /* routes, by object */
	size_t n_attached;
	struct tr_targets {
		struct tr_target *v;
		size_t n;
	} authorization, authentication; /* by what they are for */
	struct gw_tls_policy *tls;	 /* the older first */
	size_t n_tls;
	struct gw_tls_target *tls_targets;
	struct gw_host_use *hosts;	 /* of listeners, while routes are attached */
	unsigned host_kinds;		 /* kinds of routes among them */
	struct json_t *status;		 /* of Gateways and routes */
	struct weft_store_resource *out; /* heap */
	size_t n_out, cap_out;
};
/* One more error, at field name[idx] of message m of o (name NULL: m itself). */
void tr_bad(struct tr *t, const struct weft_object *o, const void *m, const char *name, int idx,
	    const struct weft_path *at, const char *fmt, ...) __attribute__((format(printf, 7, 8)));
void tr_out(struct tr *t, const struct weft_xds_type *type, const char *name,
	    const ProtobufCMessage *msg, const char *const *aliases, const char *source);
const char *tr_source(struct tr *t, const struct weft_object *o);
/* A new message of descriptor d, initialised, in the arena. */
void *tr_new(struct tr *t, const ProtobufCMessageDescriptor *d);
/* v (n elements of size bytes) grown by one element, a copy of *e. */
void *tr_add(struct tr *t, void *v, size_t *n, const void *e, size_t size);
#define TR_ADD(t, list, n, e)                                                                      \
	do {                                                                                       \
		__typeof__((list)[0]) one_ = e;                                                    \
		(list) = tr_add((t), (list), &(n), &one_, sizeof(__typeof__(one_)));               \
	} while (0)

/* ---- translate.c */
void tr_mesh(struct tr *t);
void tr_pods(struct tr *t);
void tr_pods_out(struct tr *t);
struct tr_pod *tr_pod_find(struct tr *t, const char *ns, const char *name);
struct tr_pod *tr_pod_by_ip(struct tr *t, const struct weft_ip *ip);
/* The pods of a namespace; ns NULL: all. */
struct tr_pod *tr_pods_of(struct tr *t, const char *ns, size_t *ret_n);
/* Whether every label of the selector (its entries are laid out as labels are) is on the object. */
bool tr_selects(Weft__Kube__ObjectMeta__LabelsEntry *const *selector, size_t n,
		const Weft__Kube__ObjectMeta *m);
/* ---- translate_service.c: services, memberships, manual endpoints */
void tr_services(struct tr *t);
char *tr_hostname(struct tr *t, const char *ns, const char *name);
Weft__Kube__ObjectMeta__LabelsEntry *const *tr_service_selector(const Weft__Kube__Service *s,
								size_t *ret_n);
/* ---- translate_waypoint.c */
void tr_service_waypoint(struct tr *t, struct tr_svc *v);
void tr_pod_waypoint(struct tr *t, struct tr_pod *p);
/* ---- translate_policy.c, translate_peer.c: policies; they add their names to the workloads they
 * select */
void tr_policies(struct tr *t);
void tr_peers(struct tr *t);
