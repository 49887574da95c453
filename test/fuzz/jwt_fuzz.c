/* Tokens and key sets: the first byte says which the rest is; a token is checked against keys of
 * every kind. */
#include "proxy/http/jwt.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static const char keys[] = "{\"keys\":[{\"kty\":\"oct\",\"k\":\"MDEyMzQ1Njc4OWFiY2RlZg\"},"
			   "{\"kty\":\"OKP\",\"crv\":\"Ed25519\","
			   "\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"},"
			   "{\"kty\":\"EC\",\"crv\":\"P-256\","
			   "\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","
			   "\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}]}";

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static struct weft_jwks *known;
	struct weft_jwks *k = NULL;
	struct weft_jwt *t = NULL;

	if (!known && weft_jwks_parse(keys, sizeof(keys) - 1, &known))
		abort();
	if (!n)
		return 0;
	if (*p & 1) {
		if (!weft_jwks_parse((const char *)p + 1, n - 1, &k))
			weft_jwks_unref(k);
		return 0;
	}
	if (weft_jwt_parse((const char *)p + 1, n - 1, &t))
		return 0;
	weft_jwt_check_time(t, 1700000000, 60);
	/* no key of the set is known to a fuzzer that does not hold the secret */
	weft_jwt_verify(t, known);
	weft_jwt_free(t);
	return 0;
}
