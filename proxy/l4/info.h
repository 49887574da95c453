/* What is known of a connection or request when it ends: access logs, RBAC and response headers
 * read it. Times are CLOCK_MONOTONIC ns, 0: did not happen. Strings live as long as the stream or
 * connection. */
#pragma once
#include "proxy/core/arena.h"
#include "proxy/net/io.h"
#include "proxy/policy/match.h"
#include "proxy/session/session.h"
#include "xds/proto/envoy/config/core/v3/base.pb-c.h"
#include "xds/proto/wellknown.pb-c.h"

enum weft_flag {
#define FLAG(short_name, long_name, help) WEFT_FLAG_##short_name,
#include "proxy/l4/flags.def"
#undef FLAG
	WEFT_FLAG_COUNT
};
const char *weft_flag_short(enum weft_flag f);
const char *weft_flag_long(enum weft_flag f);

struct weft_cluster;
struct weft_host;
struct weft_meta { /* dynamic metadata of a namespace; newest first */
	struct weft_meta *next;
	const char *ns;
	Google__Protobuf__Struct *s; /* in the arena */
};
struct weft_info {
	struct weft_arena *arena;
	const struct weft_io_info *down; /* the client's connection; outlives this */
	uint64_t start_wall_ns;		 /* CLOCK_REALTIME */
	uint64_t start_ns, head_rx_ns, last_rx_ns, up_first_tx_ns, up_last_tx_ns, up_first_rx_ns,
		up_last_rx_ns, first_tx_ns, last_tx_ns, end_ns;
	uint64_t flags;			 /* 1 << enum weft_flag */
	uint64_t flag_order;		 /* one byte each, the first lowest: enum weft_flag + 1 */
	enum weft_http protocol;	 /* 0: TCP */
	int status;			 /* sent to the client; 0: none */
	bool health_check;		 /* of Envoy's kind: access logs may leave it out */
	const char *details;		 /* response code details, NULL: none; no spaces */
	const char *termination_details; /* connection_termination_details; NULL */
	uint64_t rx_bytes, tx_bytes;	 /* bodies */
	uint64_t rx_head_bytes, tx_head_bytes; /* names and values */
	uint64_t rx_head_wire, tx_head_wire;   /* of head and trailers, as they were sent */
	uint64_t up_rx_head_bytes, up_tx_head_bytes, up_rx_head_wire, up_tx_head_wire;
	uint64_t up_rx_wire, up_tx_wire, down_rx_wire, down_tx_wire;
	const char *route_name, *vhost_name, *filter_chain_name, *listener_name;
	const char *vcluster_name; /* NULL: none matched */
	const char *requested_server_name;
	struct weft_sockaddr remote;   /* after x-forwarded-for; down->remote otherwise */
	struct weft_cluster *cluster;  /* referenced; NULL */
	struct weft_host *host;	       /* of the last attempt, referenced; NULL */
	struct weft_sockaddr up_local; /* our address on the upstream connection */
	struct weft_sockaddr up_remote;
	const struct weft_tls_info *up_tls; /* NULL; copied into the arena */
	const Envoy__Config__Core__V3__Metadata *up_metadata, *route_metadata, *vhost_metadata,
		*listener_metadata; /* NULL; of the endpoint: in the arena */
	uint64_t up_conn_id;
	uint64_t up_cx_ns, up_connected_ns,
		up_hs_ns;		  /* of its connection: dialled, there, TLS too */
	uint64_t up_want_ns, up_ready_ns; /* of the last attempt: a connection was asked for, was
					     there */
	const char *up_failure;		  /* transport failure reason; NULL */
	const char *down_failure;	  /* of the client's connection; NULL */
	const char *up_protocol;	  /* "HTTP/1.1" … NULL */
	unsigned attempts;
	unsigned internal_redirects;
	const char *request_id; /* NULL */
	const char *trace_id;	/* NULL */
	struct weft_meta *meta;
};
/* A copy that outlives the io; tls false: without what the handshake showed. */
/* The upstream connection that is there now. */
void weft_info_upstream(struct weft_info *info, const struct weft_io_info *io);
const struct weft_io_info *weft_info_keep(struct weft_arena *a, const struct weft_io_info *i,
					  bool tls);
const struct weft_tls_info *weft_info_keep_tls(struct weft_arena *a, const struct weft_tls_info *t);
static inline void weft_info_flag(struct weft_info *i, enum weft_flag f)
{
	unsigned n = (unsigned)__builtin_popcountll(i->flags);

	if (i->flags >> f & 1)
		return;
	i->flags |= 1ull << f;
	if (n < sizeof(i->flag_order))
		i->flag_order |= (uint64_t)(f + 1) << (8 * n);
}
/* The struct of ns, made when absent; keys are set by the caller, in the arena. Get: NULL when
 * absent. */
Google__Protobuf__Struct *weft_info_meta(struct weft_info *i, const char *ns);
const Google__Protobuf__Struct *weft_info_meta_get(const struct weft_info *i, const char *ns);
void weft_struct_set_string(struct weft_arena *a, Google__Protobuf__Struct *s, const char *key,
			    const char *value);
void weft_struct_set_number(struct weft_arena *a, Google__Protobuf__Struct *s, const char *key,
			    double value);
void weft_struct_set_bool(struct weft_arena *a, Google__Protobuf__Struct *s, const char *key,
			  bool value);
void weft_struct_set(struct weft_arena *a, Google__Protobuf__Struct *s, const char *key,
		     const Google__Protobuf__Value *v); /* v is kept */
