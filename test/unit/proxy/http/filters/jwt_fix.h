/* Tokens with a symmetric key, and requests that bear them. */
#pragma once
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <time.h>

/* the key is "0123456789abcdef" */
#define KEYS                                                                                       \
	"local_jwks: {inline_string: '{\"keys\":[{\"kty\":\"oct\",\"k\":"                          \
	"\"MDEyMzQ1Njc4OWFiY2RlZg\"}]}'}"
#define FILTER                                                                                     \
	"  http_filters:\n"                                                                        \
	"  - name: jwt\n"                                                                          \
	"    typed_config:\n"                                                                      \
	"      \"@type\": type.googleapis.com/"                                                    \
	"envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication\n"
#define SECRET "0123456789abcdef"

static inline void b64(char *to, const void *p, size_t n)
{
	size_t at = (size_t)EVP_EncodeBlock((uint8_t *)to, p, (int)n);

	while (at && to[at - 1] == '=')
		to[--at] = '\0';
	for (; *to; to++)
		*to = *to == '+' ? '-' : *to == '/' ? '_' : *to;
}

static inline const char *token(const char *payload, const char *secret)
{
	static char out[2048];
	uint8_t sig[64];
	unsigned n;

	b64(out, "{\"alg\":\"HS256\"}", 15);
	strcat(out, ".");
	b64(out + strlen(out), payload, strlen(payload));
	HMAC(EVP_sha256(), secret, (int)strlen(secret), (uint8_t *)out, strlen(out), sig, &n);
	strcat(out, ".");
	b64(out + strlen(out), sig, n);
	return out;
}

static inline void get(struct env *e, const char *path, const char *bearer, const char *more)
{
	char text[4096];

	e->n = 0;
	snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\nhost: a\r\n%s%s%s%s\r\n", path,
		 bearer ? "authorization: Bearer " : "", bearer ?: "", bearer ? "\r\n" : "",
		 more ?: "");
	say(e, text);
}
