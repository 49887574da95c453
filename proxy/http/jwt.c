/* Tokens: three parts, their JSON, their times. */
#include "proxy/http/jwt.h"
#include "proxy/core/arena.h"
#include "proxy/http/jwt_priv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *text;
} texts[] = {
#define JWT_STATUS(id, text) {text},
#include "proxy/http/jwt_status.def"
#undef JWT_STATUS
};

const char *weft_jwt_text(enum weft_jwt_status s)
{
	return texts[s].text;
}

int weft_jwt_code(enum weft_jwt_status s)
{
	/* sentences on single keys stand before the fetch; they are never told here */
	return s == WEFT_JWT_JWKS_FETCH ? 40 : (int)s;
}

/* alg "none" is not here and never will be. */
static const struct weft_jwt_alg algs[] = {
	{"RS256", JWT_RSA, "SHA256", false, 0}, {"RS384", JWT_RSA, "SHA384", false, 0},
	{"RS512", JWT_RSA, "SHA512", false, 0}, {"PS256", JWT_RSA, "SHA256", true, 0},
	{"PS384", JWT_RSA, "SHA384", true, 0},	{"PS512", JWT_RSA, "SHA512", true, 0},
	{"ES256", JWT_EC, "SHA256", false, 32}, {"ES384", JWT_EC, "SHA384", false, 48},
	{"ES512", JWT_EC, "SHA512", false, 66}, {"EdDSA", JWT_OKP, NULL, false, 0},
	{"HS256", JWT_OCT, "SHA256", false, 0}, {"HS384", JWT_OCT, "SHA384", false, 0},
	{"HS512", JWT_OCT, "SHA512", false, 0},
};

const struct weft_jwt_alg *jwt_alg_find(const char *name)
{
	for (size_t i = 0; i < sizeof(algs) / sizeof(*algs); i++)
		if (!strcmp(algs[i].name, name))
			return &algs[i];
	return NULL;
}

/* ---- base64url */
static int sextet(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '-' ? 62 : c == '_' ? 63 : -1;
}

int weft_base64url_decode(const char *s, size_t n, uint8_t **ret, size_t *ret_n)
{
	uint8_t *out = weft_xcalloc(1, n / 4 * 3 + 4);
	uint32_t bits = 0;
	size_t at = 0;

	for (size_t i = 0; i < n; i++) {
		int v = sextet(s[i]);

		if (v < 0)
			goto bad;
		bits = bits << 6 | (uint32_t)v;
		if (i % 4)
			out[at++] = (uint8_t)(bits >> (6 - 2 * (i % 4)));
	}
	if (n % 4 == 1) /* one letter says nothing */
		goto bad;
	*ret = out;
	*ret_n = at;
	return 0;
bad:
	free(out);
	return -1;
}

/* ---- JSON */
json_t *jwt_json(const char *s, size_t n)
{
	unsigned depth = 0;
	bool text = false;

	for (size_t i = 0; i < n; i++) {
		if (text && s[i] == '\\')
			i++;
		else if (s[i] == '"')
			text = !text;
		else if (!text && (s[i] == '{' || s[i] == '[') && ++depth > WEFT_JWT_DEPTH_MAX)
			return NULL;
		else if (!text && (s[i] == '}' || s[i] == ']') && depth)
			depth--;
	}
	/* numbers as they are in Envoy's Struct: doubles */
	return json_loadb(s, n, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, NULL);
}

static json_t *part(const char *s, size_t n, enum weft_jwt_status bad64,
		    enum weft_jwt_status bad_json, enum weft_jwt_status *ret)
{
	uint8_t *raw;
	size_t raw_n;
	json_t *j;

	if (weft_base64url_decode(s, n, &raw, &raw_n)) {
		*ret = bad64;
		return NULL;
	}
	j = jwt_json((const char *)raw, raw_n);
	free(raw);
	*ret = bad_json;
	if (json_is_object(j))
		return j;
	json_decref(j);
	return NULL;
}

static bool string_of(const json_t *o, const char *key, const char **ret)
{
	const json_t *v = json_object_get(o, key);

	*ret = json_string_value(v) ?: "";
	return !v || json_is_string(v);
}

static enum weft_jwt_status time_of(const json_t *o, const char *key, enum weft_jwt_status type,
				    uint64_t *ret, bool *ret_has)
{
	const json_t *v = json_object_get(o, key);
	double d;

	*ret_has = v != NULL;
	if (!v)
		return WEFT_JWT_OK;
	if (!json_is_number(v))
		return type;
	d = json_number_value(v);
	if (!(d >= 0 && d < 18446744073709551616.0))
		return type + 1; /* the range follows the type */
	*ret = (uint64_t)d;
	return WEFT_JWT_OK;
}

static bool audiences_ok(const json_t *aud)
{
	size_t i;
	json_t *v;

	if (!aud || json_is_string(aud))
		return true;
	if (!json_is_array(aud))
		return false;
	json_array_foreach((json_t *)aud, i, v) if (!json_is_string(v)) return false;
	return true;
}

static enum weft_jwt_status read_header(struct weft_jwt *t)
{
	const json_t *alg = json_object_get(t->header, "alg");

	if (!json_is_string(alg))
		return WEFT_JWT_HEADER_ALG;
	t->alg = jwt_alg_find(json_string_value(alg));
	if (!t->alg)
		return WEFT_JWT_ALG_NOT_SUPPORTED;
	/* RFC 7515 §4.1.11: what must be understood and is not */
	if (json_object_get(t->header, "crit"))
		return WEFT_JWT_ALG_NOT_SUPPORTED;
	return string_of(t->header, "kid", &t->kid) ? WEFT_JWT_OK : WEFT_JWT_HEADER_KID;
}

static enum weft_jwt_status read_payload(struct weft_jwt *t)
{
	enum weft_jwt_status st;
	const char *jti;

	if (!string_of(t->payload, "iss", &t->iss))
		return WEFT_JWT_PAYLOAD_ISS;
	if (!string_of(t->payload, "sub", &t->sub))
		return WEFT_JWT_PAYLOAD_SUB;
	st = time_of(t->payload, "iat", WEFT_JWT_IAT_TYPE, &t->iat, &t->has_iat);
	if (!st)
		st = time_of(t->payload, "nbf", WEFT_JWT_NBF_TYPE, &t->nbf, &t->has_nbf);
	if (!st)
		st = time_of(t->payload, "exp", WEFT_JWT_EXP_TYPE, &t->exp, &t->has_exp);
	if (st)
		return st;
	if (!string_of(t->payload, "jti", &jti))
		return WEFT_JWT_PAYLOAD_JTI;
	t->aud = json_object_get(t->payload, "aud");
	return audiences_ok(t->aud) ? WEFT_JWT_OK : WEFT_JWT_PAYLOAD_AUD;
}

static enum weft_jwt_status parse(struct weft_jwt *t, size_t n)
{
	const char *one = memchr(t->text, '.', n), *two, *end = t->text + n;
	enum weft_jwt_status st;

	two = one ? memchr(one + 1, '.', (size_t)(end - one - 1)) : NULL;
	if (!two || memchr(two + 1, '.', (size_t)(end - two - 1)))
		return WEFT_JWT_BAD_FORMAT;
	if (one == t->text || two == one + 1 || two + 1 == end)
		return WEFT_JWT_BAD_FORMAT;
	t->header = part(t->text, (size_t)(one - t->text), WEFT_JWT_HEADER_BASE64,
			 WEFT_JWT_HEADER_JSON, &st);
	if (!t->header)
		return st;
	st = read_header(t);
	if (st)
		return st;
	t->payload64 = one + 1;
	t->payload64_n = (size_t)(two - one - 1);
	t->signed_n = (size_t)(two - t->text);
	t->payload = part(t->payload64, t->payload64_n, WEFT_JWT_PAYLOAD_BASE64,
			  WEFT_JWT_PAYLOAD_JSON, &st);
	if (!t->payload)
		return st;
	st = read_payload(t);
	if (st)
		return st;
	if (weft_base64url_decode(two + 1, (size_t)(end - two - 1), &t->sig, &t->sig_n))
		return WEFT_JWT_SIGNATURE_BASE64;
	return WEFT_JWT_OK;
}

enum weft_jwt_status weft_jwt_parse(const char *text, size_t n, struct weft_jwt **ret)
{
	enum weft_jwt_status st;
	struct weft_jwt *t;

	if (n > WEFT_JWT_BYTES_MAX)
		return WEFT_JWT_BAD_FORMAT;
	t = weft_xcalloc(1, sizeof(*t));
	t->text = weft_xcalloc(1, n + 1);
	memcpy(t->text, text, n);
	st = parse(t, n);
	if (st)
		weft_jwt_free(t);
	else
		*ret = t;
	return st;
}

void weft_jwt_free(struct weft_jwt *t)
{
	if (!t)
		return;
	json_decref(t->header);
	json_decref(t->payload);
	free(t->text);
	free(t->sig);
	free(t);
}

enum weft_jwt_status weft_jwt_check_time(const struct weft_jwt *t, uint64_t now_s, uint64_t skew_s)
{
	if (t->has_nbf && t->nbf > now_s && t->nbf - now_s > skew_s)
		return WEFT_JWT_NOT_YET_VALID;
	if (t->has_exp && t->exp < now_s && now_s - t->exp > skew_s)
		return WEFT_JWT_EXPIRED;
	return WEFT_JWT_OK;
}
