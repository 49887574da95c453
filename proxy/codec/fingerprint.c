/* JA3 and JA4: what a ClientHello offers, as a short text. Values of RFC 8701 (GREASE) are left
 * out, but not from JA3's groups: as Envoy does. */
#include "proxy/codec/sniff.h"
#include "proxy/codec/sniff_priv.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	EXT_GROUPS = 10,
	EXT_POINT_FORMATS = 11,
	EXT_SIGNATURES = 13,
	EXT_VERSIONS = 43,
	JA4_HASH = 6, /* bytes */
	TEXT_FIRST = 4096,
};

/* A text that grows; the hello's length bounds it. */
struct text {
	char *p;
	size_t n, cap;
};

static void text_add(struct text *t, const char *s, size_t n)
{
	if (n > t->cap - t->n) {
		t->cap = (t->cap + n) * 2;
		t->p = realloc(t->p, t->cap);
		if (!t->p)
			abort();
	}
	memcpy(t->p + t->n, s, n);
	t->n += n;
}

static struct text text_new(void)
{
	struct text t = {malloc(TEXT_FIRST), 0, TEXT_FIRST};

	if (!t.p)
		abort();
	return t;
}

static void text_number(struct text *t, uint32_t v, bool hex, char separator)
{
	char one[8];
	int n = snprintf(one, sizeof(one), hex ? "%04x" : "%u", (unsigned)v & 0xffff);

	if (separator)
		text_add(t, &separator, 1);
	text_add(t, one, (size_t)n);
}

static void hash_hex(const struct text *t, const EVP_MD *md, size_t bytes, char *dst)
{
	uint8_t d[EVP_MAX_MD_SIZE];
	unsigned n = sizeof(d);

	if (EVP_Digest(t->p, t->n, d, &n, md, NULL) != 1)
		abort();
	for (size_t i = 0; i < bytes; i++)
		snprintf(dst + 2 * i, 3, "%02x", d[i]);
}

/* Next extension; false: no more. */
static bool next(struct span *all, uint32_t *ret_type, struct span *ret)
{
	*ret_type = span_int(all, 2);
	*ret = span_vector(all, 2);
	return !all->bad;
}

static bool find(const struct hello_parts *h, uint32_t want, struct span *ret)
{
	struct span all = h->extensions;
	uint32_t type;

	while (all.n && next(&all, &type, ret))
		if (type == want)
			return true;
	return false;
}

/* ---- JA3: version,ciphers,extensions,groups,point formats */
static void ja3_list(struct text *t, struct span list, size_t width, bool grease)
{
	bool any = false;

	while (list.n >= width) {
		uint32_t v = span_int(&list, width);

		if (!grease && sniff_grease(v))
			continue;
		text_number(t, v, false, any ? '-' : 0);
		any = true;
	}
}

void weft_sniff_ja3(const struct hello_parts *h, char *ret)
{
	struct text t = text_new();
	struct span all = h->extensions, ext;
	bool any = false;
	uint32_t type;

	text_number(&t, h->version, false, 0);
	text_add(&t, ",", 1);
	ja3_list(&t, h->ciphers, 2, false);
	text_add(&t, ",", 1);
	while (all.n && next(&all, &type, &ext)) {
		if (sniff_grease(type))
			continue;
		text_number(&t, type, false, any ? '-' : 0);
		any = true;
	}
	text_add(&t, ",", 1);
	if (find(h, EXT_GROUPS, &ext)) {
		(void)span_int(&ext, 2);
		ja3_list(&t, ext, 2, true);
	}
	text_add(&t, ",", 1);
	if (find(h, EXT_POINT_FORMATS, &ext)) {
		(void)span_int(&ext, 1);
		ja3_list(&t, ext, 1, true);
	}
	hash_hex(&t, EVP_md5(), WEFT_SNIFF_JA3 / 2, ret);
	free(t.p);
}

/* ---- JA4: t, version, SNI, counts, ALPN; hash of the ciphers; hash of extensions and signatures
 */
struct numbers { /* of 16 bits; a vector has no more bytes than that */
	uint16_t *v;
	size_t n;
};

static int by_number(const void *a, const void *b)
{
	return *(const uint16_t *)a - *(const uint16_t *)b;
}

static struct numbers numbers_of(struct span list, bool extensions)
{
	struct numbers x = {malloc(list.n + 1), 0};
	struct span ext;
	uint32_t v;

	if (!x.v)
		abort();
	while (list.n >= 2) {
		if (!extensions)
			v = span_int(&list, 2);
		else if (!next(&list, &v, &ext))
			break;
		if (!sniff_grease(v))
			x.v[x.n++] = (uint16_t)v;
	}
	return x;
}

static void ja4_hash(const struct text *t, char *dst)
{
	if (t->n)
		hash_hex(t, EVP_sha256(), JA4_HASH, dst);
	else
		memset(dst, '0', 2 * (size_t)JA4_HASH);
}

/* The highest of supported_versions; without that, the old field. */
static const char *ja4_version(const struct hello_parts *h)
{
	struct span ext, list;
	uint32_t v, highest = 0;

	if (find(h, EXT_VERSIONS, &ext)) {
		list = span_vector(&ext, 1);
		while (list.n >= 2) {
			v = span_int(&list, 2);
			if (!sniff_grease(v) && v > highest)
				highest = v;
		}
	}
	switch (highest ? highest : h->version) {
	case 0x0304:
		return "13";
	case 0x0303:
		return "12";
	case 0x0302:
		return "11";
	case 0x0301:
		return "10";
	default:
		return "00";
	}
}

static bool alnum(uint8_t c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* First and last character of the first protocol. */
static void ja4_alpn(const struct hello_parts *h, char dst[8])
{
	struct span ext, name;

	strcpy(dst, "00");
	if (!find(h, SNIFF_EXT_ALPN, &ext))
		return;
	(void)span_int(&ext, 2);
	name = span_vector(&ext, 1);
	if (ext.bad || !name.n)
		return;
	if (alnum(name.p[0]) && alnum(name.p[name.n - 1]))
		snprintf(dst, 8, "%c%c", name.p[0], name.p[name.n - 1]);
	else
		snprintf(dst, 8, "%02x%02x", name.p[0], name.p[name.n - 1]);
}

static void ja4_extensions(struct text *t, const struct hello_parts *h, const struct numbers *x)
{
	struct span ext;
	bool any = false;

	for (size_t i = 0; i < x->n; i++) {
		if (x->v[i] == SNIFF_EXT_SERVER_NAME || x->v[i] == SNIFF_EXT_ALPN)
			continue;
		text_number(t, x->v[i], true, any ? ',' : 0);
		any = true;
	}
	if (!any || !find(h, EXT_SIGNATURES, &ext))
		return;
	(void)span_int(&ext, 2);
	for (char between = '_'; ext.n >= 2; between = ',')
		text_number(t, span_int(&ext, 2), true, between);
}

static unsigned two_digits(size_t n)
{
	return n < 99 ? (unsigned)n : 99;
}

void weft_sniff_ja4(const struct hello_parts *h, char *ret)
{
	struct numbers ciphers = numbers_of(h->ciphers, false),
		       extensions = numbers_of(h->extensions, true);
	struct text c = text_new(), e = text_new();
	char alpn[8], c_hash[2 * JA4_HASH + 1] = "", e_hash[2 * JA4_HASH + 1] = "";
	struct span ext;

	qsort(ciphers.v, ciphers.n, sizeof(*ciphers.v), by_number);
	qsort(extensions.v, extensions.n, sizeof(*extensions.v), by_number);
	for (size_t i = 0; i < ciphers.n; i++)
		text_number(&c, ciphers.v[i], true, i ? ',' : 0);
	ja4_extensions(&e, h, &extensions);
	ja4_hash(&c, c_hash);
	ja4_hash(&e, e_hash);
	ja4_alpn(h, alpn);
	snprintf(ret, WEFT_SNIFF_JA4 + 1, "t%s%c%02u%02u%.4s_%.12s_%.12s", ja4_version(h),
		 find(h, SNIFF_EXT_SERVER_NAME, &ext) ? 'd' : 'i', two_digits(ciphers.n),
		 two_digits(extensions.n), alpn, c_hash, e_hash);
	free(ciphers.v);
	free(extensions.v);
	free(c.p);
	free(e.p);
}
