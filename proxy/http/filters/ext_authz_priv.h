/* Between ext_authz*.c. */
#pragma once
#include "proxy/http/filter.h"
#include "proxy/http/header_ops.h"
#include "proxy/http/mutation_rules.h"
#include "proxy/http/route.h"
#include "proxy/policy/match.h"
#include "proxy/upstream/pool.h"
#include "xds/proto/envoy/extensions/filters/http/ext_authz/v3/ext_authz.pb-c.h"
#include "xds/proto/envoy/service/auth/v3/external_auth.pb-c.h"

typedef Envoy__Extensions__Filters__Http__ExtAuthz__V3__ExtAuthz authz_msg;
typedef Envoy__Extensions__Filters__Http__ExtAuthz__V3__ExtAuthzPerRoute authz_route_msg;
typedef Envoy__Extensions__Filters__Http__ExtAuthz__V3__CheckSettings authz_check_msg;
typedef Envoy__Extensions__Filters__Http__ExtAuthz__V3__HttpService authz_http_msg;
typedef Envoy__Extensions__Filters__Http__ExtAuthz__V3__BufferSettings authz_buffer_msg;
typedef Envoy__Config__Core__V3__GrpcService authz_grpc_msg;

#define AUTHZ_NAMESPACE "envoy.filters.http.ext_authz"
enum {
	AUTHZ_TIMEOUT_MS = 200,
	AUTHZ_ANSWER_MAX = 4 << 20, /* bytes of an answer */
	AUTHZ_BODY_MAX = 64 << 20,  /* of a request, sent to the service */
	AUTHZ_MUTATIONS_MAX = 1000, /* header changes of one answer; more: an error */
};

/* ---- configuration */
struct authz_matchers {
	const struct weft_strmatch *v;
	size_t n;
	bool set; /* the list is there, empty or not */
};
struct authz_service {
	bool grpc;
	const char *cluster, *authority, *scheme, *path_prefix;
	unsigned timeout_ms; /* 0: none */
	size_t answer_max;
	struct weft_hdrops add; /* headers_to_add, initial_metadata */
	/* HTTP */
	struct authz_matchers allowed, upstream, append, client, client_ok, meta;
};
struct authz_body {
	uint32_t max; /* 0: no body is sent */
	bool partial, bytes;
};
struct authz_conf {
	const struct authz_service *service;
	struct authz_body body;
	bool allow_on_failure, failure_header, clear_route, deny_at_disable;
	bool peer_cert, tls_session, raw_headers, validate, charge, take_meta;
	int status_on_error;
	uint32_t enabled;	  /* per million */
	uint32_t denied_body_max; /* 0: any */
	const struct weft_metamatch *enabled_meta;
	const struct weft_mutation_rules *rules; /* of request headers; NULL: any */
	struct authz_matchers allowed, disallowed;
	char **meta_ns, **route_meta_ns;
	size_t n_meta_ns, n_route_meta_ns;
	const char *prefix; /* of counters: "ext_authz." */
};
struct authz_pair {
	const char *key, *value;
};
struct authz_route_conf {
	bool disabled, no_body;
	const struct authz_pair *v;
	size_t n;
	const struct authz_service *service; /* NULL: the filter's */
	const struct authz_body *body;	     /* NULL: the filter's */
};
int authz_prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *m,
		  const void **ret);
int authz_prepare_route(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *m,
			const void **ret);
/* A limit of an expression: not matched where that lets more through (allow), matched where it
 * takes away. */
bool authz_match(const struct authz_matchers *m, const char *s, size_t n, bool on_limit);

/* ---- requests */
struct authz_change {
	const char *name, *value;
	size_t name_n, value_n;
	enum {
		AUTHZ_SET,
		AUTHZ_ADD,
		AUTHZ_ADD_ABSENT,
		AUTHZ_SET_EXISTING,
		AUTHZ_APPEND, /* joined by a comma, where it is there already */
		AUTHZ_REMOVE,
	} how;
};
struct authz_changes {
	struct authz_change *v;
	size_t n, cap;
};
enum authz_verdict { AUTHZ_OK, AUTHZ_DENIED, AUTHZ_ERROR };
struct authz_answer { /* in the stream's arena */
	enum authz_verdict verdict;
	int status; /* 0: the configured one */
	const char *body;
	size_t body_n;
	struct authz_changes request, response; /* response: of the answer, or of the local reply */
	const struct authz_pair *query_set;
	size_t n_query_set;
	char *const *query_remove;
	size_t n_query_remove;
	const Google__Protobuf__Struct *meta;
	bool invalid;  /* a change that no header may carry */
	bool rejected; /* one that the rules make an error */
	const struct weft_mutation_rules *rules;
};
struct authz_state {
	struct weft_stream *s;
	const struct authz_conf *conf;
	const struct authz_service *service;
	struct authz_body body;
	struct weft_call *call;
	const struct authz_answer *answer; /* when allowed: response headers wait in it */
	uint64_t start_ns;
	bool started, done, buffering;
	bool whole; /* the body that is asked with */
};
/* ext_authz_check.c: asks. False: it cannot be asked. done: as of a weft_call. */
bool authz_ask(struct authz_state *st, struct evbuffer *body,
	       void (*done)(void *owner, const struct weft_call_result *r));
/* ext_authz_answer.c */
const struct authz_answer *authz_read(const struct authz_state *st,
				      const struct weft_call_result *r);
void authz_apply(const struct authz_changes *c, struct weft_headers *h);
void authz_query(const struct authz_answer *a, struct weft_headers *h);
