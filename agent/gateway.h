/* Inside of the store: Gateways, routes and policies of waypoints → Envoy's messages. */
#pragma once
#include "agent/envoy.h"
#include "agent/translate.h"
#include "xds/proto/gateway.pb-c.h"
#include <jansson.h>

enum gw_class { GW_OTHER, GW_WAYPOINT, GW_EDGE };
enum { GW_ADDRS = 16, GW_TRAFFIC_SERVICE = 1, GW_TRAFFIC_WORKLOAD = 2 };

struct gw_listener {
	const Weft__Kube__GatewayListener *l;
	unsigned attached;	/* routes */
	const char *conflict;	/* the reason of its condition Conflicted; NULL: none */
	bool bad_kinds;		/* it names a kind of route that its protocol does not carry */
	const char *unresolved; /* why a reference of it is not good; NULL: all are */
	const char *reason;
};
struct tr_gateway {
	const struct weft_object *o;
	const Weft__Kube__GatewaySpec *spec;
	const char *ns, *name; /* of the arena */
	const char *scope;     /* "ns/name": of its resources */
	const char *identity, *sa;
	enum gw_class class;
	int traffic;
	struct weft_ip addrs[GW_ADDRS];
	size_t n_addrs;
	const char *hostname; /* of an address of type Hostname; NULL */
	struct gw_listener *listeners;
	size_t n_listeners;
	bool l7; /* it carries a policy that only it can enforce, for all it serves */
};

/* Who is behind a service. */
struct tr_member {
	Istio__Workload__Workload *w;
	const Istio__Workload__PortList *ports;
};
struct tr_svc {
	const struct weft_object *o;
	const Weft__Kube__ServiceSpec *spec;
	Istio__Workload__Service *s;
	const char *key;	/* "ns/hostname" */
	struct tr_gateway *gw;	/* its waypoint; NULL: none that is a Gateway */
	struct tr_gateway *gw2; /* the canary */
	struct tr_member *members;
	size_t n_members;
	bool l7;
	bool *tcp_taken; /* of each port: an older TCPRoute has it; NULL: none */
};

/* ---- translate_gateway.c */
void tr_gateways(struct tr *t);
struct tr_gateway *tr_gateway_find(struct tr *t, const char *ns, const char *name);
/* Whether a listener lets objects of that namespace in. */
bool gw_allows_ns(struct tr *t, const struct tr_gateway *g, const Weft__Kube__GatewayListener *l,
		  const char *ns);
/* The waypoint serves objects of that namespace. */
bool gw_serves_ns(struct tr *t, const struct tr_gateway *g, const char *ns);
/* Everything of waypoints and gateways, when services and pods are known. */
void tr_gateways_out(struct tr *t);
struct tr_svc *tr_svc_find(struct tr *t, const char *ns, const char *name);
/* By its host name in the cluster. */
struct tr_svc *tr_svc_by_host(struct tr *t, const char *host);
bool tr_label_selects(const Weft__Kube__LabelSelector *s, const Weft__Kube__ObjectMeta *m);
/* A ReferenceGrant of ns lets `kind` of group in from_ns refer to to_kind/name there. */
bool gw_granted(struct tr *t, const char *group, const char *kind, const char *from_ns,
		const char *to_kind, const char *ns, const char *name);

/* ---- translate_waypoint_out.c: what a waypoint gets */
void gw_waypoint_out(struct tr *t, struct tr_gateway *g);
void *gw_hcm_new(struct tr *t, const struct tr_gateway *g, const char *name);
/* ---- translate_edge.c: what a gateway gets */
void gw_edge_out(struct tr *t, struct tr_gateway *g);

/* ---- translate_cluster.c */
struct gw_cluster_name;
struct gw_clusters { /* that a Gateway's resources name */
	struct tr *t;
	struct tr_gateway *g;
	struct gw_cluster_name *names;
};
void gw_clusters_done(struct gw_clusters *c);
/* The name of the cluster of a service's port, whose resources are made at its first use. NULL: the
 * service has no such port. */
const char *gw_cluster(struct gw_clusters *c, struct tr_svc *s, uint32_t port);
/* Of one workload's port, by its address (traffic to workloads). */
const char *gw_cluster_workload(struct gw_clusters *c, Istio__Workload__Workload *w, uint32_t port);
/* Of a name outside the mesh. */
const char *gw_cluster_dns(struct gw_clusters *c, const char *host, uint32_t port, bool tls);
const Istio__Workload__Port *gw_port(const struct tr_svc *s, uint32_t port);
bool gw_is_http(const Istio__Workload__Port *p);
/* Where a port of the service leads at one of its members; 0: nowhere. */
uint32_t gw_member_port(const struct tr_member *m, const Istio__Workload__Port *p);
void gw_tls(struct tr *t, const struct tr_gateway *g, void *common, const char *alpn);
void gw_out(struct tr *t, const struct tr_gateway *g, const struct weft_xds_type *type,
	    const char *name, const void *m, const char *source);

/* One more name that the peer's certificate may have; type of a SubjectAltNameMatcher. */
void gw_san_is(struct weft_arena *a, void *validation, const char *type, const char *value);

/* ---- translate_backend_tls.c */
struct gw_tls_policy;
void tr_backend_tls(struct tr *t);
/* The policy that holds for a Service's port; NULL: none. g is noted as one that uses it. */
struct gw_tls_policy *gw_backend_tls_of(struct tr *t, const struct tr_gateway *g,
					const struct tr_svc *s, uint32_t port);
/* False: nothing may be sent, for its certificates are not there. */
bool gw_backend_tls_usable(const struct gw_tls_policy *p);
void gw_backend_tls_put(struct tr *t, void *cluster, const struct gw_tls_policy *p);
/* When all clusters are made. */
void tr_backend_tls_status(struct tr *t);

/* ---- translate_route.c: routes → Envoy's, in the order of precedence */
struct gw_route {
	void *route; /* Envoy's Route */
	const struct weft_object *o;
	int host; /* 0: the hostname of the virtual host itself; then wider ones */
	int path_rank, path_len, method, headers, queries, rule, match;
};
struct gw_routes {
	struct gw_clusters *clusters;
	struct gw_route *v;
	size_t n;
	bool cors; /* a filter of that kind is needed */
	int port;  /* of the listener, for redirects; 0 */
	int host;  /* of the routes that are added */
};
/* Adds the routes of an HTTPRoute or GRPCRoute. */
void gw_routes_add(struct gw_routes *r, const struct weft_object *o);
/* What every route to a cluster has unless it says otherwise: no timeout, and another try where no
 * byte was answered yet. */
void gw_route_defaults(struct tr *t, void *action);
void gw_cors_filter(struct tr *t, void *hcm);
/* By creationTimestamp, then by "namespace/name"; as strcmp. */
int gw_older(const struct weft_object *a, const struct weft_object *b);
/* One of them takes every request, so that what comes after is never reached. */
bool gw_routes_all(const struct gw_routes *r);
/* Without slashes at its end. */
char *gw_prefix(struct tr *t, const char *path);
/* ---- translate_filters.c; to: a Route or a ClusterWeight; path: of the match, or NULL */
void gw_modifiers(struct tr *t, void *to, Weft__Kube__RouteFilter *const *v, size_t n);
void gw_redirect(struct gw_routes *x, void *route, const Weft__Kube__RedirectFilter *f,
		 const Weft__Kube__PathMatch *path);
void gw_rewrite(struct tr *t, void *action, const Weft__Kube__RewriteFilter *f,
		const Weft__Kube__PathMatch *path);
void gw_mirror(struct gw_routes *x, void *action, const struct weft_object *o,
	       const Weft__Kube__MirrorFilter *f);
void gw_cors(struct gw_routes *x, void *route, const Weft__Kube__CorsFilter *f);
/* Into virtual_hosts[].routes of vhost. */
void gw_routes_put(struct gw_routes *r, void *vhost);
/* One of TCPRoute, TLSRoute: cluster or weighted_clusters of a TcpProxy; false: no backend that can
 * be used. */
bool gw_stream_backends(struct gw_clusters *c, const struct weft_object *o, void *tcp_proxy);
/* NULL: usable; else the reason of ResolvedRefs. */
const char *gw_backend_bad(struct tr *t, const struct weft_object *o, const char *ns,
			   const char *name, int port, struct tr_svc **ret);

/* ---- translate_attach.c: which routes are whose, and their conditions */
struct gw_attach {
	const struct weft_object *o;
	const Weft__Kube__ParentRef *ref;
	struct tr_gateway *g; /* a Gateway's; NULL: a Service's */
	struct tr_svc *s;
	const char **hostnames; /* met with the listener's; of a Gateway */
	size_t n_hostnames;
	int listener;  /* of g */
	uint32_t port; /* of s; 0: all */
	size_t seq;    /* in the order of attachment */
};
void tr_attach(struct tr *t);
/* Those of a Gateway or a Service, together. */
const struct gw_attach *gw_attached(const struct tr *t, const void *owner, size_t *ret_n);
/* Listeners that cannot stand beside each other. */
void gw_conflicts(struct tr_gateway *g);
/* Routes of kind attached to a service's port, the older first. */
size_t gw_attached_service(struct tr *t, const struct tr_svc *s, uint32_t port,
			   enum weft_kind_id kind, const struct weft_object ***ret);
void tr_status(struct tr *t);
/* One more of a list of conditions; message may be NULL. */
void gw_condition(json_t *list, const char *type, bool is, const char *reason, const char *message);

/* ---- translate_rbac.c, translate_jwt.c: http_filters of an HttpConnectionManager, or filters of a
 * chain; s NULL: what holds for the whole Gateway only */
void gw_policy_filters(struct tr *t, struct tr_gateway *g, struct tr_svc *s, void *hcm,
		       struct gw_clusters *c);
void gw_policy_filters_tcp(struct tr *t, struct tr_gateway *g, struct tr_svc *s, void *chain);
void gw_jwt_filter(struct tr *t, struct tr_gateway *g, struct tr_svc *s, void *hcm,
		   struct gw_clusters *c);
void gw_custom_filters(struct tr *t, struct tr_gateway *g, struct tr_svc *s, void *hcm,
		       struct gw_clusters *c);
bool gw_custom_tcp(struct tr *t, struct tr_gateway *g, struct tr_svc *s);
/* Of action CUSTOM, and enforced. */
bool gw_is_custom(const struct weft_object *o);
/* An RBAC of the rules of all policies that ask this provider. */
void *gw_custom_rules(struct tr *t, const struct tr_gateway *g, const struct tr_svc *s,
		      const char *provider);
/* Marks services and Gateways with policies that only a waypoint can enforce. */
void tr_policies_l7(struct tr *t);

/* ---- translate_targets.c */
struct gw_policies {
	const struct weft_object **v;
	size_t n;
};
void tr_targets(struct tr *t);
/* Those of t->authorization or t->authentication that hold for g and s (NULL: only what holds for
 * the whole Gateway), in the folder's order. */
struct gw_policies gw_policies_of(struct tr *t, const struct tr_targets *x,
				  const struct tr_gateway *g, const struct tr_svc *s);

/* ---- translate_regex.c: why the route cannot be used; NULL: it can */
const char *gw_route_bad(struct tr *t, const struct weft_object *o);

/* ---- translate_hosts.c */
/* What both take: the narrower of the two; NULL: nothing. */
const char *gw_host_meet(const char *a, const char *b);
/* "a.b.c" → "*.b.c" → "*.c" → "*" → NULL */
const char *gw_host_wider(struct tr *t, const char *host);
/* Whether routes of the other kind are attached to the listener for one of the hostnames. */
bool gw_hosts_clash(struct tr *t, const struct gw_attach *a);
void gw_hosts_note(struct tr *t, const struct gw_attach *a);
void gw_hosts_done(struct tr *t);

/* ---- translate_require.c: destinations that take only their waypoint */
void tr_require_waypoint(struct tr *t);
/* By MeshConfig.requireWaypoint; l7: of tr_svc, tr_gateway. */
bool tr_requires_waypoint(const struct tr *t, bool l7);
