/* Inside of proxy/policy only: the parts of a model that no user needs to see. */
#pragma once
#include "proxy/policy/index.h"
#include "proxy/policy/intern.h"
#include "proxy/policy/model.h"
#include "xds/proto/authorization.pb-c.h"
#include "xds/proto/workload.pb-c.h"

/* ---- decode.c: message → part with one reference; every check of docs/policy.md. name: the xDS
 * name it must carry. */
int weft_workload_decode(const Istio__Workload__Workload *m, const char *name,
			 struct weft_workload **ret, struct weft_err *reterr);
int weft_service_decode(const Istio__Workload__Service *m, const char *name,
			struct weft_service **ret, struct weft_err *reterr);
/* len NULL: a whole address. A v4-mapped range is turned into v4. */
int weft_cidr_decode(const ProtobufCBinaryData *b, const uint32_t *len, struct weft_cidr *ret,
		     const struct weft_path *at, struct weft_err *reterr);

/* ---- policy.c */
struct weft_text_match {
	uint8_t kind; /* Istio__Security__StringMatch__MatchTypeCase */
	uint32_t len;
	const char *s;
};
struct weft_sa_match {
	const char *ns, *sa;
};
/* One list of a Match; n 0: says nothing. */
struct weft_texts {
	const struct weft_text_match *v;
	uint32_t n;
};
struct weft_cidrs {
	const struct weft_cidr *v;
	uint32_t n;
};
struct weft_ports {
	const uint16_t *v;
	uint32_t n;
};
struct weft_sas {
	const struct weft_sa_match *v;
	uint32_t n;
};
/* [0]: one of them must hold; [1]: none of them may. */
struct weft_match {
	struct weft_texts namespaces[2], principals[2];
	struct weft_cidrs src[2], dst[2];
	struct weft_ports ports[2];
	struct weft_sas sas[2];
};
struct weft_clause {
	const struct weft_match *v;
	uint32_t n;
};
struct weft_rule {
	const struct weft_clause *v;
	uint32_t n;
};
struct weft_policy {
	atomic_uint refs;
	char *name, *ns, *source;   /* interned; name "ns/name" */
	bool deny, dry_run, strict; /* strict: made of PeerAuthentication */
	enum { WEFT_SCOPE_GLOBAL, WEFT_SCOPE_NS, WEFT_SCOPE_SELECTOR } scope;
	struct weft_arena *arena; /* rules and all below */
	const struct weft_rule *rules;
	uint32_t n_rules;
};
int weft_policy_decode(const Istio__Security__Authorization *m, const char *name,
		       const char *source, struct weft_policy **ret, struct weft_err *reterr);
struct weft_policy *weft_policy_ref(const struct weft_policy *p);
void weft_policy_unref(struct weft_policy *p);

/* ---- model.c */
/* Workloads that name a service, healthy or not, in no order. The service itself may not be known
 * yet. */
struct weft_endpoint {
	const struct weft_workload *w;
	const struct weft_membership *m;
};
struct weft_endpoints {
	atomic_uint refs;
	char *service; /* interned */
	uint32_t n, cap;
	uint64_t *sums; /* running sums of capacity, or NULL: all are 1 */
	bool dirty;	/* sums are to be made anew */
	struct weft_endpoint *v;
};
const struct weft_endpoints *weft_model_endpoints(const struct weft_model *m, const char *service);
/* Policies that hold for a whole namespace, or for the mesh (ns ""); sorted by name. */
struct weft_policy_set {
	atomic_uint refs;
	char *ns; /* interned */
	uint32_t n;
	const struct weft_policy *v[];
};
const struct weft_policy_set *weft_model_policy_set(const struct weft_model *m, const char *ns);
const char *weft_model_network(const struct weft_model *m);
const struct weft_workload *weft_model_workload_by_host(const struct weft_model *m, const char *ns,
							const char *hostname);
bool weft_service_has_vip(const struct weft_service *s, const char *network,
			  const struct weft_ip *ip);

/* ---- cidr_index.c: services by CIDR VIP; immutable, counted. */
struct weft_cidr_index;
/* services: those with at least one CIDR VIP, borrowed. NULL when n is 0. */
struct weft_cidr_index *weft_cidr_index_new(const struct weft_service *const *services, size_t n);
struct weft_cidr_index *weft_cidr_index_ref(struct weft_cidr_index *x);
void weft_cidr_index_unref(struct weft_cidr_index *x);
const struct weft_service *weft_cidr_index_get(const struct weft_cidr_index *x, const char *network,
					       const struct weft_ip *ip, const char *client_ns);
