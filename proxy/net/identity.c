#include "proxy/net/identity.h"

#include <errno.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

static bool id_char(unsigned char c)
{
	return c > 0x20 && c < 0x7f && c != '%' && c != '?' && c != '#' && c != '\\' && c != '"';
}

/* One piece up to the next '/' or the end; moves *s on. */
static int piece(const char **s, const char *end, char *dst)
{
	const char *p = *s, *q = memchr(p, '/', (size_t)(end - p));
	size_t n = (size_t)((q ? q : end) - p);

	if (n == 0)
		return -EINVAL;
	memcpy(dst, p, n);
	dst[n] = 0;
	*s = q ? q + 1 : NULL;
	return 0;
}

int weft_identity_parse(const char *s, size_t n, struct weft_identity *ret)
{
	static const char scheme[] = "spiffe://";
	char word[WEFT_IDENTITY_MAX + 1];
	const char *p = s + sizeof(scheme) - 1, *end = s + n;

	if (n > WEFT_IDENTITY_MAX || n < sizeof(scheme) ||
	    memcmp(s, scheme, sizeof(scheme) - 1) != 0)
		return -EINVAL;
	for (size_t i = 0; i < n; i++) {
		if (!id_char((unsigned char)s[i]))
			return -EINVAL;
	}
	if (piece(&p, end, ret->trust_domain) < 0 || !p)
		return -EINVAL;
	if (piece(&p, end, word) < 0 || !p || strcmp(word, "ns") != 0)
		return -EINVAL;
	if (piece(&p, end, ret->ns) < 0 || !p)
		return -EINVAL;
	if (piece(&p, end, word) < 0 || !p || strcmp(word, "sa") != 0)
		return -EINVAL;
	if (piece(&p, end, ret->sa) < 0 || p)
		return -EINVAL;
	memcpy(ret->text, s, n);
	ret->text[n] = 0;
	return 0;
}

int weft_identity_format(const char *trust_domain, const char *ns, const char *sa, char *dst,
			 size_t cap)
{
	int n = snprintf(dst, cap, "spiffe://%s/ns/%s/sa/%s", trust_domain, ns, sa);

	return n < 0 || (size_t)n >= cap || n > WEFT_IDENTITY_MAX ? -E2BIG : 0;
}

/* fn returns < 0 to go on, else the walk ends with its value. */
static int each_uri(const struct x509_st *cert, int (*fn)(void *ctx, const char *s, size_t n),
		    void *ctx)
{
	int crit = 0, ret = -ENOENT, uris = 0;
	GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, &crit, NULL);

	if (!names)
		return crit == -1 ? -ENOENT : -EINVAL; /* -2: twice; >= 0: cannot be decoded */
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *g = sk_GENERAL_NAME_value(names, i);
		const ASN1_IA5STRING *u;

		if (g->type != GEN_URI)
			continue;
		if (++uris > WEFT_CERT_SANS_MAX) {
			ret = -E2BIG;
			break;
		}
		u = g->d.uniformResourceIdentifier;
		/* the length is ASN.1's: a NUL inside is a byte like any other, and no id has it */
		if (ret < 0 && ASN1_STRING_length(u) > 0)
			ret = fn(ctx, (const char *)ASN1_STRING_get0_data(u),
				 (size_t)ASN1_STRING_length(u));
	}
	GENERAL_NAMES_free(names);
	return ret;
}

struct collect {
	struct weft_identity *v;
	size_t n, max;
};

static int collect_uri(void *ctx, const char *s, size_t n)
{
	struct collect *c = ctx;
	struct weft_identity id;

	if (weft_identity_parse(s, n, &id) == 0) {
		if (c->n < c->max)
			c->v[c->n] = id;
		c->n++;
	}
	return -ENOENT;
}

int weft_identity_of_cert(const struct x509_st *cert, struct weft_identity *ret, size_t max)
{
	struct collect c = {ret, 0, max};
	int r = each_uri(cert, collect_uri, &c);

	return r == -ENOENT ? (int)c.n : r;
}

struct match {
	const char *const *want;
	size_t n;
};

static int match_uri(void *ctx, const char *s, size_t n)
{
	const struct match *m = ctx;
	struct weft_identity id;

	if (weft_identity_parse(s, n, &id) < 0)
		return -ENOENT;
	for (size_t i = 0; i < m->n; i++) {
		if (strlen(m->want[i]) == n && memcmp(m->want[i], s, n) == 0)
			return (int)i;
	}
	return -ENOENT;
}

int weft_identity_match(const struct x509_st *cert, const char *const *want, size_t n)
{
	struct match m = {want, n};

	return each_uri(cert, match_uri, &m);
}
