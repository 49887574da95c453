/* Kubernetes objects → the resources of the mesh: istio.workload.Address and
 * istio.security.Authorization, and what this node needs (pods, identities). Pure: no I/O, no
 * clock. One thread. ambient-contract §2.3, §2.5, §3. docs/policy.md. */
#pragma once
#include "agent/pods.h"
#include "proxy/core/err.h"
#include "proxy/policy/model.h"
#include "xds/check.h"
#include "xds/type.h"
#include <stdbool.h>
#include <stddef.h>

struct json_t;
struct weft_store;

struct weft_store *weft_store_new(void);
void weft_store_free(struct weft_store *s);

/* Translates the whole set of objects anew and replaces the previous result; objs are read during
 * the call only. What only shows when objects meet, or what the mesh cannot do (a locality mode
 * without a locality, two pods on one address), is told in errs with where "file:line:col" and the
 * field's path; such an object, or such a part of it, is left out in the direction that lets less
 * through, and the others count. Returns the number of errors, also of those beyond errs' capacity.
 */
int weft_store_load(struct weft_store *s, const struct weft_objects *objs, struct weft_errs *errs);

struct weft_store_resource {
	const struct weft_xds_type *type;
	const char *name;
	const ProtobufCMessage *msg; /* NULL: removed by the last load */
	const char *const *aliases;  /* NULL-terminated, or NULL */
	const char *source;	     /* "file:line" of the object it comes from */
	const char *scope; /* "": of node proxies; else "ns/name" of the Gateway whose it is */
};
/* Everything there is after the last load, sorted by type and name. Valid until the next load. */
size_t weft_store_resources(const struct weft_store *s, const struct weft_store_resource **ret);
/* What the last load added or changed, then what it removed: publish exactly these. Valid until the
 * next load. */
size_t weft_store_changes(const struct weft_store *s, const struct weft_store_resource **ret);

/* The mesh-wide settings in force: the one MeshConfig, or the defaults. Strings live until the next
 * load. */
struct weft_store_mesh {
	const char *trust_domain;   /* "cluster.local" */
	const char *root_namespace; /* "istio-system" */
	const char *network;	    /* "" */
	const char *cluster_domain; /* "cluster.local" */
	const char *source;	    /* "file:line", or "" for the defaults */
};
const struct weft_store_mesh *weft_store_mesh(const struct weft_store *s);

/* The enrolled pods of a node: what weft_pods_add wants, and the identity it needs. Valid until the
 * next load. A pod without the annotation weft.io/netns has netns_path NULL. */
struct weft_store_pod {
	struct weft_pod_conf conf;
	const char *identity; /* "spiffe://..." */
	const char *source;   /* "file:line" */
};
size_t weft_store_pods(struct weft_store *s, const char *node, const struct weft_store_pod **ret);
/* Not among those, though its object is there and asks for it: left out for an error, such as
 * another pod's address. Captured before, it must stay so. */
bool weft_store_pod_unusable(const struct weft_store *s, const char *node, const char *uid);
/* The distinct identities of those pods, sorted. */
size_t weft_store_identities(struct weft_store *s, const char *node, const char *const **ret);

/* Waypoints and gateways: their scopes, the identity each has, and the secrets that its listeners
 * want besides. Valid until the next load. */
struct weft_store_gateway {
	const char *scope, *ns, *name, *identity, *source;
	bool waypoint; /* of that class, not an edge gateway */
};
size_t weft_store_gateways(const struct weft_store *s, const struct weft_store_gateway **ret);
/* Conditions of Gateways and routes, an array; borrowed until the next load. */
const struct json_t *weft_store_status(const struct weft_store *s);

/* The model built from exactly these resources, as a proxy would hold it; borrowed until the next
 * load. */
const struct weft_model *weft_store_model(const struct weft_store *s);
/* "file:line" of a resource by its xDS name, or "" . */
const char *weft_store_source(const struct weft_store *s, const struct weft_xds_type *t,
			      const char *name);
