#include "proxy/http/xfcc.h"

#include <event2/buffer.h>
#include <stdlib.h>
#include <string.h>

typedef Envoy__Extensions__Filters__Network__HttpConnectionManager__V3__HttpConnectionManager msg_t;

#define MODE(x)                                                                                    \
	ENVOY__EXTENSIONS__FILTERS__NETWORK__HTTP_CONNECTION_MANAGER__V3__HTTP_CONNECTION_MANAGER__FORWARD_CLIENT_CERT_DETAILS__##x

int weft_xfcc_prepare(struct weft_cfg *c, const struct weft_path *at, const msg_t *m,
		      struct weft_xfcc_conf *conf)
{
	conf->mode = (uint8_t)m->forward_client_cert_details;
	if (!m->set_current_client_cert_details)
		return 0;
	conf->subject = weft_cfg_bool(m->set_current_client_cert_details->subject, false);
	conf->cert = m->set_current_client_cert_details->cert;
	conf->dns = m->set_current_client_cert_details->dns;
	conf->uri = m->set_current_client_cert_details->uri;
	conf->chain = m->set_current_client_cert_details->chain;
	return 0;
}

static void sep(struct evbuffer *b)
{
	if (evbuffer_get_length(b))
		evbuffer_add(b, ";", 1);
}

static void put(struct evbuffer *b, const char *key, const char *value)
{
	sep(b);
	evbuffer_add(b, key, strlen(key));
	evbuffer_add(b, value, strlen(value));
}

static void put_quoted(struct evbuffer *b, const char *key, const char *value)
{
	put(b, key, "\"");
	for (const char *s = value; *s; s++) {
		if (*s == '"' || *s == '\\')
			evbuffer_add(b, "\\", 1);
		evbuffer_add(b, s, 1);
	}
	evbuffer_add(b, "\"", 1);
}

static void put_list(struct evbuffer *b, const char *key, const char *const *v)
{
	for (; v && *v; v++)
		put(b, key, *v);
}

static void describe(const struct weft_xfcc_conf *conf, const struct weft_tls_info *tls,
		     const char *pem, const char *chain, struct evbuffer *b)
{
	put_list(b, "By=", tls->local_uri);
	if (tls->peer_sha256 && *tls->peer_sha256)
		put(b, "Hash=", tls->peer_sha256);
	if (pem && *pem)
		put_quoted(b, "Cert=", pem);
	if (chain && *chain)
		put_quoted(b, "Chain=", chain);
	if (conf->subject)
		put_quoted(b, "Subject=", tls->peer_subject ?: "");
	if (conf->uri && tls->peer_uri && *tls->peer_uri)
		put_list(b, "URI=", tls->peer_uri);
	else if (conf->uri)
		put(b, "URI=", "");
	if (conf->dns)
		put_list(b, "DNS=", tls->peer_dns);
}

void weft_xfcc_apply(const struct weft_xfcc_conf *conf, const struct weft_tls_info *tls,
		     const char *(*pem)(void *ctx, bool chain), void *ctx, struct weft_headers *h)
{
	struct evbuffer *b;
	const char *was;
	size_t n, was_n = 0;
	char *text;

	if (conf->mode == MODE(ALWAYS_FORWARD_ONLY))
		return;
	if (conf->mode == MODE(SANITIZE) || !tls || !tls->peer_presented) {
		weft_headers_remove_id(h, WEFT_H_X_FORWARDED_CLIENT_CERT);
		return;
	}
	if (conf->mode == MODE(FORWARD_ONLY))
		return;
	b = evbuffer_new();
	if (!b)
		abort();
	describe(conf, tls, conf->cert ? pem(ctx, false) : NULL,
		 conf->chain ? pem(ctx, true) : NULL, b);
	n = evbuffer_get_length(b);
	text = weft_arena_alloc(h->arena, n + 1);
	evbuffer_remove(b, text, n);
	evbuffer_free(b);
	was = weft_headers_joined(h, "x-forwarded-client-cert", 23, &was_n);
	if (was && was != weft_headers_value(h, WEFT_H_X_FORWARDED_CLIENT_CERT))
		weft_headers_set_id(h, WEFT_H_X_FORWARDED_CLIENT_CERT, was, was_n);
	if (conf->mode == MODE(APPEND_FORWARD))
		weft_headers_append(h, WEFT_H_X_FORWARDED_CLIENT_CERT, text, n);
	else
		weft_headers_set_id(h, WEFT_H_X_FORWARDED_CLIENT_CERT, text, n);
}
