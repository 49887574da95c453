/* JSON web tokens (RFC 7519) signed as RFC 7515 says, and sets of keys (RFC 7517). Pure; the clock
 * is the caller's. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	WEFT_JWT_BYTES_MAX = 64 << 10, /* of a token */
	WEFT_JWT_DEPTH_MAX = 32,       /* of its JSON */
	WEFT_JWKS_BYTES_MAX = 1 << 20,
	WEFT_JWKS_KEYS_MAX = 256,
};
enum weft_jwt_status {
#define JWT_STATUS(id, text) WEFT_JWT_##id,
#include "proxy/http/jwt_status.def"
#undef JWT_STATUS
	WEFT_JWT_STATUSES
};
const char *weft_jwt_text(enum weft_jwt_status s);
int weft_jwt_code(enum weft_jwt_status s); /* the number that failed_status_in_metadata tells */

struct weft_jwt_alg;
struct weft_jwt { /* parsed, not yet believed */
	const struct weft_jwt_alg *alg;
	const char *kid, *iss, *sub; /* "" where absent */
	const json_t *aud;	     /* NULL, a string or an array of strings */
	bool has_exp, has_nbf, has_iat;
	uint64_t exp, nbf, iat; /* s */
	json_t *header, *payload;
	char *text;	       /* the token */
	size_t signed_n;       /* of it, header and payload */
	const char *payload64; /* in text, not terminated */
	size_t payload64_n;
	uint8_t *sig;
	size_t sig_n;
};
/* *ret is the caller's on OK. */
enum weft_jwt_status weft_jwt_parse(const char *text, size_t n, struct weft_jwt **ret);
void weft_jwt_free(struct weft_jwt *t); /* NULL is fine */
/* exp and nbf; skew in s. */
enum weft_jwt_status weft_jwt_check_time(const struct weft_jwt *t, uint64_t now_s, uint64_t skew_s);

/* Immutable, refcounted; any thread. */
struct weft_jwks;
enum weft_jwt_status weft_jwks_parse(const char *text, size_t n, struct weft_jwks **ret);
struct weft_jwks *weft_jwks_ref(struct weft_jwks *k);
void weft_jwks_unref(struct weft_jwks *k); /* NULL is fine */
/* The signature alone. */
enum weft_jwt_status weft_jwt_verify(const struct weft_jwt *t, const struct weft_jwks *k);

/* base64url without padding (RFC 4648 §5); -1: not that. Malloc'ed, NUL-terminated. */
int weft_base64url_decode(const char *s, size_t n, uint8_t **ret, size_t *ret_n);
