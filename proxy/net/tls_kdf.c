/* TLS13-KDF for OpenSSL: HKDF-Extract and HKDF-Expand-Label (RFC 8446 §7.1) straight on the hash.
 * A handshake derives about twenty times, and each time OpenSSL 3.0's own goes by names through
 * HMAC, EVP_MAC and EVP_MD objects, which takes ten times as long as the hashing. */
#define OPENSSL_SUPPRESS_DEPRECATED /* the hashes by themselves */
#include "proxy/net/tls_provider.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/sha.h>
#include <string.h>
#include <strings.h>

enum {
	BLOCK_MAX = SHA512_CBLOCK,
	HASH_MAX = SHA384_DIGEST_LENGTH,
	LABEL_MAX = 255, /* of prefix and label, and of the context: one byte says how long */
	INFO_MAX = 4 + 2 * LABEL_MAX,
};

struct hash {
	union {
		SHA256_CTX s256;
		SHA512_CTX s512;
	};
	bool is384;
};
struct hmac { /* a key, ready to be used again and again */
	struct hash in, out;
};
struct str {
	const uint8_t *p;
	size_t n;
};
struct input {
	int mode;
	bool is384;
	struct str key, salt, prefix, label, data;
};

/* ---- HMAC */

static size_t hash_size(bool is384)
{
	return is384 ? SHA384_DIGEST_LENGTH : SHA256_DIGEST_LENGTH;
}

static void hash_init(struct hash *h, bool is384)
{
	h->is384 = is384;
	if (is384)
		SHA384_Init(&h->s512);
	else
		SHA256_Init(&h->s256);
}

static void hash_add(struct hash *h, const void *p, size_t n)
{
	if (h->is384)
		SHA384_Update(&h->s512, p, n);
	else
		SHA256_Update(&h->s256, p, n);
}

static void hash_end(struct hash *h, uint8_t *md)
{
	if (h->is384)
		SHA384_Final(md, &h->s512);
	else
		SHA256_Final(md, &h->s256);
}

static void hmac_key(struct hmac *m, bool is384, struct str key)
{
	size_t block = is384 ? SHA512_CBLOCK : SHA256_CBLOCK;
	uint8_t pad[BLOCK_MAX] = {0}, md[HASH_MAX];

	if (key.n > block) {
		hash_init(&m->in, is384);
		hash_add(&m->in, key.p, key.n);
		hash_end(&m->in, md);
		key = (struct str){md, hash_size(is384)};
	}
	if (key.n > 0)
		memcpy(pad, key.p, key.n);
	for (size_t i = 0; i < block; i++)
		pad[i] ^= 0x36;
	hash_init(&m->in, is384);
	hash_add(&m->in, pad, block);
	for (size_t i = 0; i < block; i++)
		pad[i] ^= 0x36 ^ 0x5c;
	hash_init(&m->out, is384);
	hash_add(&m->out, pad, block);
	OPENSSL_cleanse(pad, sizeof(pad));
	OPENSSL_cleanse(md, sizeof(md));
}

static void hmac_end(const struct hmac *m, struct hash *inner, uint8_t *md)
{
	struct hash outer = m->out;

	hash_end(inner, md);
	hash_add(&outer, md, hash_size(outer.is384));
	hash_end(&outer, md);
	OPENSSL_cleanse(&outer, sizeof(outer));
}

/* ---- HKDF */

static void extract(bool is384, struct str salt, struct str key, uint8_t *md)
{
	struct hmac m;
	struct hash h;

	hmac_key(&m, is384, salt);
	h = m.in;
	hash_add(&h, key.p, key.n);
	hmac_end(&m, &h, md);
	OPENSSL_cleanse(&m, sizeof(m));
	OPENSSL_cleanse(&h, sizeof(h));
}

static bool expand(const struct input *in, struct str secret, struct str data, uint8_t *out,
		   size_t n)
{
	size_t size = hash_size(in->is384), name_n = in->prefix.n + in->label.n, k = 0;
	uint8_t info[INFO_MAX], md[HASH_MAX], count = 0;
	struct hmac m;
	struct hash h;

	if (name_n > LABEL_MAX || data.n > LABEL_MAX || n == 0 || n > 255 * size)
		return false;
	info[k++] = (uint8_t)(n >> 8);
	info[k++] = (uint8_t)n;
	info[k++] = (uint8_t)name_n;
	memcpy(info + k, in->prefix.p, in->prefix.n);
	k += in->prefix.n;
	memcpy(info + k, in->label.p, in->label.n);
	k += in->label.n;
	info[k++] = (uint8_t)data.n;
	if (data.n > 0)
		memcpy(info + k, data.p, data.n);
	k += data.n;
	hmac_key(&m, in->is384, secret);
	while (n > 0) {
		size_t part = n < size ? n : size;

		h = m.in;
		if (count++ > 0)
			hash_add(&h, md, size);
		hash_add(&h, info, k);
		hash_add(&h, &count, 1);
		hmac_end(&m, &h, md);
		memcpy(out, md, part);
		out += part;
		n -= part;
	}
	OPENSSL_cleanse(&m, sizeof(m));
	OPENSSL_cleanse(&h, sizeof(h));
	OPENSSL_cleanse(md, sizeof(md));
	return true;
}

/* The next secret of the schedule: Extract(Derive-Secret(last, label, ""), new). */
static bool next_secret(const struct input *in, uint8_t *out, size_t n)
{
	static const uint8_t zeros[HASH_MAX];
	size_t size = hash_size(in->is384);
	uint8_t empty[HASH_MAX], derived[HASH_MAX];
	struct str key = in->key.p ? in->key : (struct str){zeros, size};
	struct str salt = {zeros, size};
	struct hash h;

	if (n != size)
		return false;
	if (in->salt.p) {
		hash_init(&h, in->is384);
		hash_end(&h, empty);
		if (!expand(in, in->salt, (struct str){empty, size}, derived, size))
			return false;
		salt.p = derived;
	}
	extract(in->is384, salt, key, out);
	OPENSSL_cleanse(derived, sizeof(derived));
	return true;
}

/* ---- what OpenSSL calls */

struct kdf { /* what was given before derive() */
	struct input in;
	uint8_t *own[5];
};

static struct str *slot(struct input *in, const char *name, int *ret_own)
{
	static const char *const names[] = {OSSL_KDF_PARAM_KEY, OSSL_KDF_PARAM_SALT,
					    OSSL_KDF_PARAM_PREFIX, OSSL_KDF_PARAM_LABEL,
					    OSSL_KDF_PARAM_DATA};
	struct str *const slots[] = {&in->key, &in->salt, &in->prefix, &in->label, &in->data};

	for (int i = 0; i < 5; i++) {
		if (strcmp(name, names[i]) == 0) {
			*ret_own = i;
			return slots[i];
		}
	}
	return NULL;
}

static bool digest_of(const OSSL_PARAM *p, bool *ret_384)
{
	const char *s = NULL;

	if (OSSL_PARAM_get_utf8_string_ptr(p, &s) != 1)
		return false;
	*ret_384 = strcasecmp(s, "SHA2-384") == 0 || strcasecmp(s, "SHA384") == 0 ||
		   strcasecmp(s, "SHA-384") == 0;
	return *ret_384 || strcasecmp(s, "SHA2-256") == 0 || strcasecmp(s, "SHA256") == 0 ||
	       strcasecmp(s, "SHA-256") == 0;
}

static bool mode_of(const OSSL_PARAM *p, int *ret)
{
	if (p->data_type == OSSL_PARAM_UTF8_STRING) {
		*ret = strcasecmp(p->data, "EXTRACT_ONLY") == 0	 ? EVP_KDF_HKDF_MODE_EXTRACT_ONLY
		       : strcasecmp(p->data, "EXPAND_ONLY") == 0 ? EVP_KDF_HKDF_MODE_EXPAND_ONLY
								 : -1;
		return *ret >= 0;
	}
	return OSSL_PARAM_get_int(p, ret) == 1 &&
	       (*ret == EVP_KDF_HKDF_MODE_EXTRACT_ONLY || *ret == EVP_KDF_HKDF_MODE_EXPAND_ONLY);
}

/* own: kept copies, where the parameters go before derive() does; else NULL. */
static bool take(struct input *in, const OSSL_PARAM *p, uint8_t **own)
{
	for (; p && p->key; p++) {
		struct str *s;
		int i = 0;

		if (strcmp(p->key, OSSL_KDF_PARAM_MODE) == 0) {
			if (!mode_of(p, &in->mode))
				return false;
			continue;
		}
		if (strcmp(p->key, OSSL_KDF_PARAM_DIGEST) == 0) {
			if (!digest_of(p, &in->is384))
				return false;
			continue;
		}
		s = slot(in, p->key, &i);
		if (!s)
			continue; /* as of OpenSSL's: what is not known is passed over */
		if (p->data_type != OSSL_PARAM_OCTET_STRING || !p->data)
			return false;
		*s = (struct str){p->data, p->data_size};
		if (!own)
			continue;
		OPENSSL_free(own[i]);
		own[i] = OPENSSL_malloc(p->data_size + 1);
		if (!own[i])
			return false;
		memcpy(own[i], p->data, p->data_size);
		s->p = own[i];
	}
	return true;
}

static void *kdf_new(void *provctx)
{
	struct kdf *k = OPENSSL_zalloc(sizeof(*k));

	if (k)
		k->in.mode = -1;
	return k;
}

static void kdf_reset(void *ctx)
{
	struct kdf *k = ctx;
	const size_t n[] = {k->in.key.n, k->in.salt.n, k->in.prefix.n, k->in.label.n, k->in.data.n};

	for (int i = 0; i < 5; i++) {
		if (k->own[i])
			OPENSSL_clear_free(k->own[i], n[i] + 1);
	}
	memset(k, 0, sizeof(*k));
	k->in.mode = -1;
}

static void kdf_free(void *ctx)
{
	if (ctx)
		kdf_reset(ctx);
	OPENSSL_free(ctx);
}

static int kdf_set(void *ctx, const OSSL_PARAM params[])
{
	struct kdf *k = ctx;

	return take(&k->in, params, k->own);
}

static int kdf_derive(void *ctx, unsigned char *out, size_t n, const OSSL_PARAM params[])
{
	const struct kdf *k = ctx;
	struct input in = k->in;

	if (!take(&in, params, NULL) || !in.label.p || !in.prefix.p)
		return 0;
	if (in.mode == EVP_KDF_HKDF_MODE_EXTRACT_ONLY)
		return next_secret(&in, out, n);
	return in.mode == EVP_KDF_HKDF_MODE_EXPAND_ONLY && in.key.p &&
	       expand(&in, in.key, in.data, out, n);
}

static int kdf_get(void *ctx, OSSL_PARAM params[])
{
	const struct kdf *k = ctx;
	OSSL_PARAM *p = OSSL_PARAM_locate(params, OSSL_KDF_PARAM_SIZE);

	return !p || OSSL_PARAM_set_size_t(p, hash_size(k->in.is384));
}

static const OSSL_PARAM *kdf_settable(void *ctx, void *provctx)
{
	static const OSSL_PARAM v[] = {
		OSSL_PARAM_utf8_string(OSSL_KDF_PARAM_MODE, NULL, 0),
		OSSL_PARAM_int(OSSL_KDF_PARAM_MODE, NULL),
		OSSL_PARAM_utf8_string(OSSL_KDF_PARAM_DIGEST, NULL, 0),
		OSSL_PARAM_octet_string(OSSL_KDF_PARAM_KEY, NULL, 0),
		OSSL_PARAM_octet_string(OSSL_KDF_PARAM_SALT, NULL, 0),
		OSSL_PARAM_octet_string(OSSL_KDF_PARAM_PREFIX, NULL, 0),
		OSSL_PARAM_octet_string(OSSL_KDF_PARAM_LABEL, NULL, 0),
		OSSL_PARAM_octet_string(OSSL_KDF_PARAM_DATA, NULL, 0),
		OSSL_PARAM_END,
	};

	return v;
}

static const OSSL_PARAM *kdf_gettable(void *ctx, void *provctx)
{
	static const OSSL_PARAM v[] = {OSSL_PARAM_size_t(OSSL_KDF_PARAM_SIZE, NULL),
				       OSSL_PARAM_END};

	return v;
}

#define FN(f) ((void (*)(void))(f))
const OSSL_DISPATCH weft_tls13_kdf[] = {
	{OSSL_FUNC_KDF_NEWCTX, FN(kdf_new)},
	{OSSL_FUNC_KDF_FREECTX, FN(kdf_free)},
	{OSSL_FUNC_KDF_RESET, FN(kdf_reset)},
	{OSSL_FUNC_KDF_DERIVE, FN(kdf_derive)},
	{OSSL_FUNC_KDF_SETTABLE_CTX_PARAMS, FN(kdf_settable)},
	{OSSL_FUNC_KDF_SET_CTX_PARAMS, FN(kdf_set)},
	{OSSL_FUNC_KDF_GETTABLE_CTX_PARAMS, FN(kdf_gettable)},
	{OSSL_FUNC_KDF_GET_CTX_PARAMS, FN(kdf_get)},
	{0, NULL},
};
