/* SPIFFE ids of workloads: "spiffe://<trust domain>/ns/<namespace>/sa/<service account>". Pure; any
 * thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

struct x509_st;

enum { WEFT_IDENTITY_MAX = 255 }; /* longest id text accepted */

struct weft_identity {
	char text[WEFT_IDENTITY_MAX + 1]; /* as it came */
	char trust_domain[WEFT_IDENTITY_MAX + 1];
	char ns[WEFT_IDENTITY_MAX + 1], sa[WEFT_IDENTITY_MAX + 1];
};

/* The n bytes at s are an id of exactly five pieces, none empty, without NUL, control, '%', '?' or
 * '#'. 0 or -EINVAL. */
int weft_identity_parse(const char *s, size_t n, struct weft_identity *ret);
/* 0, or -E2BIG. */
int weft_identity_format(const char *trust_domain, const char *ns, const char *sa, char *dst,
			 size_t cap);

enum { WEFT_CERT_SANS_MAX = 64 }; /* URI SANs looked at; a certificate with more is refused */
/* URI SANs of cert that are ids, in order; others are skipped. Returns how many (at most max are
 * written), or -E2BIG: more than WEFT_CERT_SANS_MAX URI SANs. -EINVAL: the extension cannot be
 * decoded or is there twice. */
int weft_identity_of_cert(const struct x509_st *cert, struct weft_identity *ret, size_t max);
/* cert has a URI SAN whose bytes are exactly one of want[0..n-1], itself an id: its index; -ENOENT;
 * errors as above. */
int weft_identity_match(const struct x509_st *cert, const char *const *want, size_t n);
