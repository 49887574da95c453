/* The root of a model, for model.c and model_apply.c. */
#pragma once
#include "proxy/policy/model_priv.h"

/* The first three hold their items; the others borrow what one of those holds in the same root, so
 * that copying a shard is a memcpy. Endpoints and policy sets hold small arrays of borrowed
 * pointers. */
enum weft_root_index {
	ROOT_UID,	   /* uid → workload */
	ROOT_SERVICE,	   /* "ns/hostname" → service */
	ROOT_POLICY,	   /* "ns/name" → policy */
	ROOT_IP,	   /* network, ip → workload */
	ROOT_POD,	   /* ns, name → workload */
	ROOT_HOST,	   /* ns, hostname → workload */
	ROOT_VIP,	   /* network, ip → service */
	ROOT_SERVICE_HOST, /* hostname → service */
	ROOT_ENDPOINTS,	   /* "ns/hostname" → weft_endpoints */
	ROOT_POLICY_SET,   /* ns, "" for the mesh → weft_policy_set */
	WEFT_ROOT_INDEXES
};
struct weft_model {
	atomic_uint refs;
	char *network; /* interned: the one this node is on */
	struct weft_index *idx[WEFT_ROOT_INDEXES];
	struct weft_cidr_index *cidrs;
	size_t n_workloads, n_services, n_policies;
	size_t n_cidr_services;
	uint64_t policy_generation;
};
extern const struct weft_index_ops weft_root_ops[WEFT_ROOT_INDEXES];

uint64_t weft_hash_text(const char *s);
uint64_t weft_hash_ip(const char *network, const struct weft_ip *ip);
uint64_t weft_hash_pair(const char *a, const char *b);
