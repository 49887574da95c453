/* Where an outbound connection goes: ambient-contract §6.1 and §2.6. Pure; any thread. */
#pragma once
#include "proxy/policy/model.h"

enum weft_route_kind {
	WEFT_ROUTE_REFUSE,
	WEFT_ROUTE_PASSTHROUGH,
	WEFT_ROUTE_TCP,
	WEFT_ROUTE_HBONE
};
struct weft_route_query {
	const struct weft_workload *src; /* the source pod's workload */
	struct weft_ip src_ip;
	struct weft_sockaddr dst; /* original destination */
	uint64_t rand;		  /* weighted choice comes from this alone */
	const char *avoid_uid; /* an endpoint just found unreachable, or NULL: it is never chosen */
};
struct weft_route {
	enum weft_route_kind kind;
	enum weft_reason reason; /* when REFUSE */
	bool via_waypoint;
	struct weft_sockaddr dial; /* HBONE: endpoint:15008 (or the waypoint's); else the target */
	char authority[64];	   /* HBONE: CONNECT authority "ip:port" */
	const struct weft_service *service; /* borrowed, may be NULL; behind a waypoint: the one
					       dialled, not the waypoint's */
	const struct weft_workload
		*endpoint; /* borrowed; NULL for passthrough to an unknown address */
	/* SPIFFE ids accepted of the TLS peer: the endpoint's identity ("" has none: nothing is
	 * accepted by it), then the SANs of the service, or of the waypoint's service. Borrowed. */
	const char *id;
	char *const *sans;
	size_t n_sans;
};
void weft_route_pick(const struct weft_model *m, const struct weft_route_query *q,
		     struct weft_route *ret);
/* One endpoint of a service as a query sees it, for explain. */
struct weft_choice {
	const struct weft_workload *w;
	struct weft_sockaddr target; /* port 0: it has no such port; family 0: no address */
	const char *why_not;	     /* NULL: may be chosen */
};
/* Fills v with at most max; returns how many there are. */
size_t weft_route_choices(const struct weft_model *m, const struct weft_route_query *q,
			  const struct weft_service *s, struct weft_choice *v, size_t max);
/* Inbound HBONE by host authority: the local port for host:port at workload w (§6.2 step 5), which
 * must be one of that service's endpoints; 0: no mapping. */
uint16_t weft_route_inbound_port(const struct weft_model *m, const struct weft_workload *w,
				 const char *host, uint16_t port);
bool weft_port_is_own(uint16_t port); /* 15001, 15006, 15008: never the target of a tunnel or of
					 plaintext inbound */
