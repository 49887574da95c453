/* Between jwt_authn*.c: the filter's configuration, remote key sets, and one request's evaluation.
 */
#pragma once
#include "proxy/http/filter.h"
#include "proxy/http/jwt.h"
#include "proxy/http/route.h"
#include "proxy/policy/match.h"
#include "xds/proto/envoy/extensions/filters/http/jwt_authn/v3/config.pb-c.h"

#include <sys/queue.h>

typedef Envoy__Extensions__Filters__Http__JwtAuthn__V3__JwtAuthentication jwt_msg;
typedef Envoy__Extensions__Filters__Http__JwtAuthn__V3__JwtProvider jwt_provider_msg;
typedef Envoy__Extensions__Filters__Http__JwtAuthn__V3__JwtRequirement jwt_requirement_msg;
typedef Envoy__Extensions__Filters__Http__JwtAuthn__V3__RemoteJwks jwt_remote_msg;

#define JWT_NAMESPACE "envoy.filters.http.jwt_authn"
enum {
	JWT_DEPTH_MAX = 32,  /* of requirements */
	JWT_TOKENS_MAX = 16, /* of one request and requirement */
	JWT_SKEW_S = 60,
	JWT_CACHE_SIZE = 100,	/* tokens, where a cache is configured without a size */
	JWT_CACHE_TOKEN = 4096, /* bytes of a token in it, likewise */
	JWT_CACHE_MAX = 65536,
	JWT_RETRIES_MAX = 10,
};

/* ---- jwt_authn_remote.c: key sets that are fetched. One object a provider, shared by all workers:
 * whichever worker misses a set asks for it, once for all its requests that wait, and gives what it
 * got to all. */
struct jwt_remote;
struct jwt_remote *jwt_remote_new(struct weft_cfg *c, const struct weft_path *at,
				  const jwt_remote_msg *m);
void jwt_remote_drop(struct jwt_remote *r); /* its configuration is gone */
/* The set, referenced; NULL: none, or too old. */
struct weft_jwks *jwt_remote_get(struct jwt_remote *r);
struct jwt_wait {
	TAILQ_ENTRY(jwt_wait) link;
	struct jwt_fetch *fetch; /* NULL: not waiting */
	bool told;		 /* is about to be */
	void (*done)(struct jwt_wait *w, bool ok);
};
/* done() follows, never before it returns. scope: where fetches are counted; prefix of their
 * counters ("jwt_authn."). */
void jwt_remote_wait(struct weft_worker *w, struct jwt_remote *r, struct weft_scope *scope,
		     const char *prefix, struct jwt_wait *wait);
void jwt_wait_cancel(struct jwt_wait *wait); /* also where it does not wait */

/* ---- configuration */
struct jwt_location {
	enum { JWT_IN_HEADER, JWT_IN_PARAM, JWT_IN_COOKIE } kind;
	const char *name, *prefix; /* prefix: of a header's value; "" none */
	size_t name_n, prefix_n;
	const char *issuer; /* "" any */
};
struct jwt_names { /* strings, sorted */
	const char **v;
	size_t n;
};
struct jwt_claim {
	const char *claim, *header;
};
struct jwt_life; /* tells caches of workers that the configuration is gone */
struct jwt_provider {
	const char *name, *issuer;
	struct jwt_names audiences;
	const struct jwt_location *locations;
	size_t n_locations;
	struct jwt_remote *remote; /* NULL: local */
	struct weft_jwks *local;   /* NULL: none of its keys is any good */
	bool forward, pad, clear_route, require_exp;
	const char *payload_header, *payload_meta, *header_meta, *failed_meta; /* NULL */
	const struct jwt_claim *claims;
	size_t n_claims;
	struct jwt_names spaced; /* claims that become lists */
	bool has_subjects;
	struct weft_strmatch subjects;
	uint64_t skew_s;
	int64_t max_life_s; /* -1: any */
	uint32_t cache_size, cache_token;
	struct jwt_life *life;
};
enum jwt_req_kind {
	JWT_REQ_ALLOW, /* nothing is required */
	JWT_REQ_PROVIDER,
	JWT_REQ_ANY,
	JWT_REQ_ALL,
	JWT_REQ_MISSING,
	JWT_REQ_FAILED, /* missing or failed */
};
struct jwt_req {
	enum jwt_req_kind kind;
	const struct jwt_provider *const *providers; /* PROVIDER: one; MISSING, FAILED: siblings */
	size_t n_providers;
	bool own_audiences;
	struct jwt_names audiences;
	const struct jwt_req *v;
	size_t n;
};
struct jwt_named {
	const char *name;
	struct jwt_req req;
};
struct jwt_conf {
	struct jwt_provider *providers; /* by name */
	size_t n_providers;
	struct weft_routes *routes;   /* one for each rule, its name is the rule's position; NULL */
	const struct jwt_req **rules; /* NULL: nothing is required */
	size_t n_rules;
	const struct jwt_named *map; /* by name */
	size_t n_map;
	const char *map_names; /* of all, for a message */
	bool bypass_cors, strip;
	const char *prefix; /* of counters: "jwt_authn." */
};
struct jwt_route_conf {
	bool disabled;
	const char *requirement; /* NULL: none */
};
int jwt_prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *m,
		const void **ret);
int jwt_prepare_route(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *m,
		      const void **ret);
bool jwt_names_has(const struct jwt_names *l, const char *s);
/* "https://a/" and "a" are one audience. */
const char *jwt_audience(const char *s, size_t *ret_n);

/* ---- jwt_authn_eval.c: one requirement of one request. */
struct jwt_effect { /* what a good token does to the request; done when all is decided */
	struct jwt_effect *next;
	enum { JWT_ADD, JWT_REMOVE_HEADER, JWT_REMOVE_PARAM, JWT_META, JWT_CLEAR_ROUTE } kind;
	const char *name, *value;
	size_t value_n;
	const Google__Protobuf__Value *meta;
};
struct jwt_failed { /* a fetch that this request saw fail */
	struct jwt_failed *next;
	const struct jwt_remote *remote;
};
struct jwt_eval {
	struct weft_stream *s;
	const struct jwt_conf *conf;
	struct weft_headers *h;
	struct jwt_failed *failed;
	struct jwt_effect *first, **last;
	struct jwt_remote *pending; /* its keys are needed first */
	struct weft_scope *scope;
	uint64_t now_s;
};
enum { JWT_PENDING = -1 };
/* An enum weft_jwt_status, or JWT_PENDING. */
int jwt_eval(struct jwt_eval *e, const struct jwt_req *r);
void jwt_effects(struct jwt_eval *e, bool ok);
/* Headers that only a good token may set are taken from the request. */
void jwt_sanitize(const struct jwt_req *r, struct weft_headers *h);

/* ---- jwt_authn_meta.c */
Google__Protobuf__Value *jwt_value(struct weft_arena *a, const json_t *j);
const Google__Protobuf__Value *jwt_payload(struct weft_arena *a, const struct jwt_provider *p,
					   const json_t *payload);

/* ---- jwt_authn_cache.c: tokens found good, of one worker and provider. */
const struct weft_jwt *jwt_cache_get(struct weft_worker *w, const struct jwt_provider *p,
				     const char *token, size_t n, const struct weft_jwks *keys);
/* Takes t; it stays readable until the next put. */
void jwt_cache_put(struct weft_worker *w, const struct jwt_provider *p, struct weft_jwt *t,
		   struct weft_jwks *keys);
struct jwt_life *jwt_life_new(void);
void jwt_life_end(struct jwt_life *l);
