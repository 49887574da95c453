/* The mesh as the node proxy and explain see it: workloads, services, policies, indexed. Immutable
 * after publish and refcounted; a change makes a new root and copies only the shards it touches
 * (1,024 a index). Pure: no I/O, no clock. */
#pragma once
#include "proxy/core/addr.h"
#include "proxy/core/err.h"
#include "proxy/core/reason.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct weft_model;  /* root */
struct weft_policy; /* compiled Authorization: authz.c */

struct weft_port_map {
	uint16_t service_port, target_port; /* target 0: named, look at the endpoint */
};
struct weft_gateway_ref {
	bool set, by_host;
	char *ns, *hostname; /* by_host */
	char *network;	     /* by address */
	struct weft_ip ip;
	uint16_t hbone_port;
};
struct weft_membership {
	char *service; /* "ns/hostname" */
	struct weft_port_map *ports;
	size_t n_ports;
};
/* A reference keeps it valid; no field ever changes. Strings are never NULL unless said. */
struct weft_workload {
	atomic_uint refs;
	char *uid, *name, *ns, *sa, *trust_domain, *network, *node, *cluster;
	char *identity; /* "spiffe://td/ns/x/sa/y" */
	char *canonical_name, *canonical_revision, *workload_name, *workload_type, *hostname;
	char *region, *zone, *subzone;
	struct weft_ip *addrs;
	size_t n_addrs;
	struct weft_membership *services;
	size_t n_services;
	char **policies; /* names "ns/name" */
	size_t n_policies;
	const struct weft_gateway_ref *waypoint; /* NULL: none */
	bool hbone, healthy, host_network;
	uint32_t capacity;
};
struct weft_service_vip {
	char *network;
	struct weft_cidr cidr;
};
struct weft_service {
	atomic_uint refs;
	char *key; /* "ns/hostname" */
	char *name, *ns, *hostname;
	struct weft_service_vip *vips;
	size_t n_vips;
	struct weft_port_map *ports;
	size_t n_ports;
	char **sans; /* SPIFFE ids */
	size_t n_sans;
	struct weft_gateway_ref waypoint;
	struct {
		struct weft_gateway_ref to;
		uint32_t weight;
	} *weighted_waypoints;
	size_t n_weighted;
	uint8_t ip_families, lb_mode, scopes[6], n_scopes;
	bool canonical, private_ns, all_health;
};

/* One batch of changes, in the order given (removals of a response after its updates). */
struct weft_change {
	enum { WEFT_SET_ADDRESS, WEFT_DEL_ADDRESS, WEFT_SET_POLICY, WEFT_DEL_POLICY } kind;
	const char *name; /* xDS name */
	const void *msg; /* Istio__Workload__Address * or Istio__Security__Authorization *; NULL for
			    DEL */
	const char *source;  /* "file:line" for explain, or NULL */
	struct weft_err err; /* out: why a SET was refused; code 0: applied */
};
struct weft_model *weft_model_empty(const char *network);
/* prev (kept) + changes → a new root with one reference. Bad changes are left out, told in their
 * err. Also for a foreign control plane's resources: unknown enum values, address sizes, ports
 * above 65535 refuse the resource. */
struct weft_model *weft_model_apply(const struct weft_model *prev, struct weft_change *c, size_t n);
struct weft_model *weft_model_ref(struct weft_model *m);
void weft_model_unref(struct weft_model *m);
struct weft_workload *weft_workload_ref(const struct weft_workload *w);
void weft_workload_unref(struct weft_workload *w);
struct weft_service *weft_service_ref(const struct weft_service *s);
void weft_service_unref(struct weft_service *s);

/* Look-ups: borrowed, valid while the model is held. */
const struct weft_workload *weft_model_workload_by_uid(const struct weft_model *m, const char *uid);
const struct weft_workload *weft_model_workload_by_ip(const struct weft_model *m,
						      const char *network,
						      const struct weft_ip *ip);
const struct weft_workload *weft_model_workload_by_pod(const struct weft_model *m, const char *ns,
						       const char *name, const char *sa);
const struct weft_service *weft_model_service(const struct weft_model *m, const char *key);
const struct weft_service *weft_model_service_by_ip(const struct weft_model *m, const char *network,
						    const struct weft_ip *ip,
						    const char *client_ns);
/* The service of a hostname as a client of client_ns sees it, or NULL. */
const struct weft_service *weft_model_service_by_host(const struct weft_model *m,
						      const char *hostname, const char *client_ns);
const struct weft_policy *weft_model_policy(const struct weft_model *m, const char *name);
const char *weft_policy_name(const struct weft_policy *p);   /* "ns/name" */
const char *weft_policy_source(const struct weft_policy *p); /* "file:line" or "" */
bool weft_policy_is_peer(
	const struct weft_policy *p); /* made of PeerAuthentication: it asks for an identity */
uint64_t weft_model_policy_generation(
	const struct weft_model
		*m); /* grows when any policy or any workload's policy list changed */
void weft_model_counts(const struct weft_model *m, size_t *ret_workloads, size_t *ret_services,
		       size_t *ret_policies);
/* Visits everything in name order; for dump. */
void weft_model_each(const struct weft_model *m, void (*w)(void *ctx, const struct weft_workload *),
		     void (*s)(void *ctx, const struct weft_service *),
		     void (*p)(void *ctx, const struct weft_policy *), void *ctx);
