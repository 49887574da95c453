/* Parts of the CA: certificates (ca.c) and files (ca_file.c). */
#pragma once
#include "agent/ca.h"
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <sys/stat.h>

struct weft_ca_signer {
	EVP_PKEY *key;
	X509 *cert;
};
struct weft_ca {
	struct weft_ca_conf conf;
	char *dir, *trust_domain;
	struct weft_ca_signer now, next; /* next may be empty */
	X509 *extra[WEFT_CA_ROOTS_MAX];	 /* of roots.pem */
	unsigned n_extra;
	struct stat st[3]; /* of the files when they were read */
	char *roots;	   /* PEM */
	unsigned n_roots;
};

void weft_ca_signer_done(struct weft_ca_signer *s);
/* A self-signed root. */
int weft_ca_root_make(const struct weft_ca *ca, struct weft_ca_signer *ret,
		      struct weft_err *reterr);
int64_t weft_ca_time(const ASN1_TIME *t);		    /* unix seconds; 0: unreadable */
int weft_ca_ssl(struct weft_err *reterr, const char *what); /* -EIO with OpenSSL's reason */

enum weft_ca_file { WEFT_CA_NOW, WEFT_CA_NEXT, WEFT_CA_ROOTS };
/* Loads the signers and roots; makes ca.pem when it is missing. */
int weft_ca_files_load(struct weft_ca *ca, struct weft_err *reterr);
bool weft_ca_files_changed(const struct weft_ca *ca);
int weft_ca_next_make(struct weft_ca *ca, struct weft_err *reterr); /* loses a race quietly */
int weft_ca_next_promote(struct weft_ca *ca, struct weft_err *reterr);
