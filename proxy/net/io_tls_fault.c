#include "proxy/net/io_tls_priv.h"

#include "proxy/core/arena.h"
#include <ctype.h>
#include <openssl/err.h>
#include <stdio.h>
#include <string.h>

enum { DETAIL = 512 };

/* ---- why it failed, in Envoy's form: "TLS_error:|code:library:function:REASON...:TLS_error_end"
 */

static void add_upper(char *dst, size_t cap, const char *s)
{
	size_t n = strlen(dst);

	for (; *s && n + 1 < cap; s++)
		dst[n++] = *s == ' ' ? '_' : (char)toupper((unsigned char)*s);
	dst[n] = 0;
}

static void add_text(char *dst, size_t cap, const char *s)
{
	size_t n = strlen(dst);

	snprintf(dst + n, cap - n, "%s", s);
}

/* Of the error that is first in OpenSSL's queue, unless a verify callback said more. A peer that
 * only went away is no fault, as Envoy counts. */
static void set_fault(struct weft_tls_sess *t)
{
	int why = ERR_GET_REASON(ERR_peek_last_error());

	if (t->fault != WEFT_TLS_FAULT_NONE ||
	    (!ERR_peek_last_error() && SSL_get_verify_result(t->ssl) == X509_V_OK))
		return;
	t->fault = why == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE ? WEFT_TLS_FAULT_NO_CERT
		   : why == SSL_R_CERTIFICATE_VERIFY_FAILED	  ? WEFT_TLS_FAULT_VERIFY
								  : WEFT_TLS_FAULT_CONNECTION;
}

void weft_tls_set_detail(struct weft_tls_sess *t, const char *otherwise)
{
	char text[DETAIL] = "TLS_error:";
	long v = SSL_get_verify_result(t->ssl);
	bool any = false;
	unsigned long c;

	set_fault(t);
	while ((c = ERR_get_error()) != 0) {
		const char *lib = ERR_lib_error_string(c), *why = ERR_reason_error_string(c);
		char code[24];

		snprintf(code, sizeof(code), "|%lu:", c);
		add_text(text, sizeof(text) - 20, code);
		add_text(text, sizeof(text) - 20, lib ? lib : "");
		add_text(text, sizeof(text) - 20, "::");
		add_upper(text, sizeof(text) - 20, why ? why : "");
		any = true;
	}
	if (!any) {
		add_text(text, sizeof(text) - 20, "|");
		add_text(text, sizeof(text) - 20, otherwise);
	}
	if (t->note || v != X509_V_OK) {
		add_text(text, sizeof(text) - 20, ":");
		add_text(text, sizeof(text) - 20,
			 t->note ? t->note : X509_verify_cert_error_string(v));
	}
	add_text(text, sizeof(text), ":TLS_error_end");
	weft_io_set_detail(t->io, text);
}

void weft_tls_note(struct ssl_st *ssl, enum weft_tls_fault fault, const char *text)
{
	struct weft_tls_sess *t = weft_tls_sess_of(ssl);

	if (!t || t->note)
		return;
	t->note = weft_xstrdup(text);
	t->fault = (uint8_t)fault;
}

enum weft_tls_fault weft_tls_sess_fault(const struct weft_tls_sess *t)
{
	return (enum weft_tls_fault)t->fault;
}
