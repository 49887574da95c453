/* The built-in certificate authority: files in the state folder, shared by every agent that uses
 * the folder. Main thread. ca.pem       key and certificate that sign; 0600, made once whoever
 * comes first ca-next.pem  the successor: in everyone's roots at 7/10 of ca.pem's life, takes its
 * place at 8/10 roots.pem    every root that peers may come under; certificates added by hand are
 * kept until they expire */
#pragma once
#include "proxy/core/err.h"
#include <stdbool.h>
#include <stdint.h>

struct evp_pkey_st;
struct x509_st;
struct weft_ca;

struct weft_ca_conf {
	const char *dir;
	const char *trust_domain;    /* of the root's own name; read when a root is made */
	int64_t root_ttl_s;	     /* 0: ten years */
	int64_t (*now)(void *owner); /* unix seconds; NULL: the clock */
	void *owner;
};
enum {
	WEFT_CA_TTL_DEFAULT_S = 86400,
	WEFT_CA_TTL_MAX_S = 90 * 86400,
	WEFT_CA_BACKDATE_S = 120,
	WEFT_CA_ROOTS_MAX = 32
};

int weft_ca_open(const struct weft_ca_conf *conf, struct weft_ca **ret, struct weft_err *reterr);
void weft_ca_free(struct weft_ca *ca);
/* Reads the files again where they changed, makes and promotes the successor when it is time. 1:
 * roots or signer changed. */
int weft_ca_tick(struct weft_ca *ca, struct weft_err *reterr);
/* Certifies a key for an identity "spiffe://td/ns/x/sa/y" (anything else: -EINVAL). ttl_s is cut to
 * the signer's own life. *ret is the caller's. */
int weft_ca_sign(struct weft_ca *ca, struct evp_pkey_st *key, const char *identity, int64_t ttl_s,
		 struct x509_st **ret, struct weft_err *reterr);

struct weft_ca_cert {
	char *chain, *key; /* PEM, malloc'ed */
	int64_t not_before, not_after, issued;
};
/* A new P-256 key and its certificate. */
int weft_ca_issue(struct weft_ca *ca, const char *identity, int64_t ttl_s, struct weft_ca_cert *ret,
		  struct weft_err *reterr);
void weft_ca_cert_done(struct weft_ca_cert *c);	     /* wipes the key */
const char *weft_ca_roots(const struct weft_ca *ca); /* PEM of all roots; until the next tick */
unsigned weft_ca_n_roots(const struct weft_ca *ca);
int64_t weft_ca_not_after(const struct weft_ca *ca); /* of the signer */
int64_t weft_ca_now(const struct weft_ca *ca);
