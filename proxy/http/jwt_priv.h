/* Between jwt.c and jwks.c. */
#pragma once
#include "proxy/http/jwt.h"
#include <openssl/evp.h>

enum jwt_kty { JWT_RSA, JWT_EC, JWT_OKP, JWT_OCT };
struct weft_jwt_alg {
	const char *name;
	enum jwt_kty kty;
	const char *md; /* NULL: the key's own */
	bool pss;
	unsigned ec_bytes; /* of r and of s */
};
const struct weft_jwt_alg *jwt_alg_find(const char *name);
/* JSON whose nesting is bounded before it is read; NULL: bad. */
json_t *jwt_json(const char *s, size_t n);
