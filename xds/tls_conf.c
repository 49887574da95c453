#include "xds/tls_priv.h"

#include "proxy/net/io_tls.h"
#include <assert.h>
#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { SESSIONS_MAX = 4096, KEYS_MAX = 64, SESSION_KEYS_MAX = 65536 };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int owner_index; /* of the first context, which holds the rest by it */
static int priv_index;	/* of every context, without a reference */

/* ---- a priv and its contexts */

static void on_ctx_free(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
	if (ptr)
		weft_tls_priv_unref(ptr);
}

static void setup_once(void)
{
	owner_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, on_ctx_free);
	priv_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
	assert(owner_index >= 0 && priv_index >= 0);
}

struct weft_tls_priv *weft_tls_priv_new(bool server)
{
	struct weft_arena *a = weft_arena_new(2048);
	struct weft_tls_priv *p = weft_arena_alloc(a, sizeof(*p));

	pthread_once(&once, setup_once);
	p->arena = a;
	p->server = server;
	p->depth = -1;
	p->sid_md = EVP_MD_CTX_new();
	if (!p->sid_md || EVP_DigestInit_ex(p->sid_md, EVP_sha256(), NULL) != 1)
		abort(); /* memory is out */
	atomic_init(&p->refs, 1);
	return p;
}

void weft_tls_priv_unref(struct weft_tls_priv *p)
{
	if (atomic_fetch_sub(&p->refs, 1) != 1)
		return;
	for (unsigned i = 1; i < p->n_ctxs; i++)
		SSL_CTX_free(p->ctxs[i]);
	X509_STORE_free(p->store);
	sk_X509_NAME_pop_free(p->ca_names, X509_NAME_free);
	EVP_MD_CTX_free(p->sid_md);
	if (p->ticket_keys)
		OPENSSL_cleanse(p->ticket_keys, p->n_ticket_keys * WEFT_TICKET_KEY);
	weft_arena_free(p->arena);
}

/* From here on the first context keeps what the callbacks use, and the other contexts. A session
 * that went over to another one still holds the first, where it began. */
static void tie(struct weft_tls_priv *p)
{
	unsigned n = 0;

	EVP_DigestFinal_ex(p->sid_md, p->sid, &n);
	for (unsigned i = 0; i < p->n_ctxs; i++) {
		if (SSL_CTX_set_ex_data(p->ctxs[i], priv_index, p) != 1)
			abort(); /* memory is out */
	}
	if (p->n_ctxs == 0)
		return;
	atomic_fetch_add(&p->refs, 1);
	if (SSL_CTX_set_ex_data(p->ctxs[0], owner_index, p) != 1)
		abort(); /* memory is out */
}

static void drop(struct weft_tls_priv *p)
{
	if (p->n_ctxs > 0)
		SSL_CTX_free(p->ctxs[0]);
	weft_tls_priv_unref(p);
}

/* ---- secrets */

static bool want_of(const TLS(SdsSecretConfig) * s, size_t *i, const char **ret_name,
		    const Envoy__Config__Core__V3__ConfigSource **ret_source)
{
	if (!s || (*i)-- > 0)
		return false;
	*ret_name = s->name ? s->name : "";
	*ret_source = s->sds_config;
	return true;
}

bool weft_tls_want(const TLS(CommonTlsContext) * m, const TLS(SdsSecretConfig) * ticket_keys,
		   size_t i, const char **ret_name,
		   const Envoy__Config__Core__V3__ConfigSource **ret_source)
{
	const TLS(SdsSecretConfig) *v = NULL;

	for (size_t k = 0; m && k < m->n_tls_certificate_sds_secret_configs; k++) {
		if (want_of(m->tls_certificate_sds_secret_configs[k], &i, ret_name, ret_source))
			return true;
	}
	if (m &&
	    m->validation_context_type_case ==
		    ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__COMMON_TLS_CONTEXT__VALIDATION_CONTEXT_TYPE_VALIDATION_CONTEXT_SDS_SECRET_CONFIG)
		v = m->validation_context_sds_secret_config;
	else if (
		m &&
		m->validation_context_type_case ==
			ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__COMMON_TLS_CONTEXT__VALIDATION_CONTEXT_TYPE_COMBINED_VALIDATION_CONTEXT)
		v = m->combined_validation_context->validation_context_sds_secret_config;
	return want_of(v, &i, ret_name, ret_source) ||
	       want_of(ticket_keys, &i, ret_name, ret_source);
}

const TLS(Secret) * weft_tls_secret(struct weft_tls_build *b, const struct weft_path *at,
				    const TLS(SdsSecretConfig) * s, int type_case)
{
	const TLS(Secret) *x = b->secrets && b->secrets->get
				       ? b->secrets->get(b->secrets->ctx, s->name, s->sds_config)
				       : NULL;

	if (!x && !s->sds_config) {
		weft_cfg_fail(b->c, at,
			      "there is no secret \"%s\" in static_resources.secrets, and "
			      "sds_config is not set",
			      s->name ? s->name : "");
		return NULL;
	}
	if (!x) {
		b->missing = true;
		return NULL;
	}
	if ((int)x->type_case != type_case) {
		weft_cfg_fail(b->c, at, "the secret \"%s\" is of another kind", s->name);
		return NULL;
	}
	return x;
}

/* ---- common parts */

static int common(struct weft_tls_build *b, const struct weft_path *at,
		  const TLS(CommonTlsContext) * m)
{
	int r;

	if (!m)
		return weft_cfg_fail(b->c, at, "must be set");
	r = weft_tls_certs(b, at, m);
	r |= weft_tls_validation(b, at, m);
	if (!b->missing && r == 0)
		r = weft_tls_params(b, at, m);
	return r ? -EINVAL : 0;
}

static void build_begin(struct weft_tls_build *b, struct weft_cfg *c,
			const struct weft_tls_secrets *secrets, bool server)
{
	*b = (struct weft_tls_build){.c = c, .tmp = *c, .secrets = secrets};
	b->tmp.arena = weft_arena_new(0);
	b->p = weft_tls_priv_new(server);
}

/* 0, -EAGAIN, -EINVAL; the last two drop what was made. */
static int build_end(struct weft_tls_build *b, int r)
{
	weft_arena_free(b->tmp.arena);
	tie(b->p);
	if (r == 0 && b->missing)
		r = -EAGAIN;
	if (r < 0)
		drop(b->p);
	return r;
}

/* ---- servers: tickets and resumption */

static int on_ticket(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
		     EVP_MAC_CTX *mac, int enc)
{
	const struct weft_tls_priv *p = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), priv_index);
	OSSL_PARAM params[2];
	size_t i = 0;
	uint8_t *k;

	if (enc) {
		if (RAND_bytes(iv, 16) != 1)
			return -1;
		memcpy(name, p->ticket_keys[0], 16);
	} else {
		while (i < p->n_ticket_keys && memcmp(name, p->ticket_keys[i], 16) != 0)
			i++;
		if (i == p->n_ticket_keys)
			return 0; /* not ours: a full handshake */
	}
	k = p->ticket_keys[i];
	params[0] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *)"SHA256", 0);
	params[1] = OSSL_PARAM_construct_end();
	if (EVP_MAC_init(mac, k + 16, 32, params) != 1)
		return -1;
	if (enc)
		return EVP_EncryptInit_ex(cipher, EVP_aes_256_cbc(), NULL, k + 48, iv) == 1 ? 1
											    : -1;
	if (EVP_DecryptInit_ex(cipher, EVP_aes_256_cbc(), NULL, k + 48, iv) != 1)
		return -1;
	return i == 0 ? 1 : 2; /* 2: and send one by the newest key */
}

static int ticket_keys(struct weft_tls_build *b, const struct weft_path *at,
		       const TLS(TlsSessionTicketKeys) * m)
{
	struct weft_tls_priv *p = b->p;
	int r = 0;

	if (m->n_keys == 0 || m->n_keys > KEYS_MAX)
		return weft_cfg_fail(b->c, at, "must have 1..%d keys, has %zu", KEYS_MAX,
				     m->n_keys);
	p->ticket_keys = weft_arena_alloc(p->arena, m->n_keys * sizeof(*p->ticket_keys));
	for (size_t i = 0; i < m->n_keys; i++) {
		const struct weft_path kp = {at, "keys", (int)i};
		size_t n;
		const char *k =
			weft_data_source(&b->tmp, &kp, m->keys[i], "session ticket key", &n);

		if (k && n == WEFT_TICKET_KEY)
			memcpy(p->ticket_keys[p->n_ticket_keys++], k, WEFT_TICKET_KEY);
		else
			r = k ? weft_cfg_fail(b->c, &kp, "must have %d bytes, has %zu",
					      WEFT_TICKET_KEY, n)
			      : -EINVAL;
	}
	return r;
}

static int tickets(struct weft_tls_build *b, const struct weft_path *at,
		   const TLS(DownstreamTlsContext) * m, bool *ret_off)
{
	const struct weft_path kp = {at, "session_ticket_keys", -1};
	const struct weft_path sp = {at, "session_ticket_keys_sds_secret_config", -1};
	const TLS(Secret) * x;

	switch (m->session_ticket_keys_type_case) {
	case ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__DOWNSTREAM_TLS_CONTEXT__SESSION_TICKET_KEYS_TYPE_SESSION_TICKET_KEYS:
		return ticket_keys(b, &kp, m->session_ticket_keys);
	case ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__DOWNSTREAM_TLS_CONTEXT__SESSION_TICKET_KEYS_TYPE_SESSION_TICKET_KEYS_SDS_SECRET_CONFIG:
		x = weft_tls_secret(
			b, &sp, m->session_ticket_keys_sds_secret_config,
			ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__SECRET__TYPE_SESSION_TICKET_KEYS);
		if (!x)
			return b->missing ? 0 : -EINVAL;
		return ticket_keys(b, &sp, x->session_ticket_keys);
	case ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__DOWNSTREAM_TLS_CONTEXT__SESSION_TICKET_KEYS_TYPE_DISABLE_STATELESS_SESSION_RESUMPTION:
		*ret_off = m->disable_stateless_session_resumption;
		return 0;
	default:
		return 0;
	}
}

static void resumption(struct weft_tls_priv *p, const TLS(DownstreamTlsContext) * m, SSL_CTX *ctx,
		       bool no_tickets)
{
	bool no_state = m->disable_stateful_session_resumption;
	int64_t ms = weft_cfg_ms(m->session_timeout, -1);

	SSL_CTX_set_session_id_context(ctx, p->sid, sizeof(p->sid));
	SSL_CTX_set_session_cache_mode(ctx, no_state ? SSL_SESS_CACHE_OFF : SSL_SESS_CACHE_SERVER);
	SSL_CTX_sess_set_cache_size(ctx, SESSIONS_MAX);
	if (ms >= 1000) /* 0 is the default in Envoy's TLS library */
		SSL_CTX_set_timeout(ctx, (long)(ms / 1000));
	if (no_tickets)
		SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
	SSL_CTX_set_num_tickets(ctx, no_tickets && no_state ? 0 : 1);
	if (p->n_ticket_keys > 0)
		SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, on_ticket);
	if (m->prefer_client_ciphers)
		SSL_CTX_clear_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE);
}

static int server_parts(struct weft_tls_build *b, const struct weft_path *at,
			const TLS(DownstreamTlsContext) * m, bool *ret_no_tickets)
{
	const struct weft_path cp = {at, "common_tls_context", -1};
	const struct weft_path op = {at, "ocsp_staple_policy", -1};
	int r = common(b, &cp, m->common_tls_context);

	if (r == 0)
		r = weft_tls_staple_policy(b, &op, (int)m->ocsp_staple_policy);
	r |= tickets(b, at, m, ret_no_tickets);
	b->p->full_scan = weft_cfg_bool(m->full_scan_certs_on_sni_mismatch, false);
	b->p->require_sni = weft_cfg_bool(m->require_sni, false);
	return r ? -EINVAL : 0;
}

int weft_tls_server_new(struct weft_cfg *c, const struct weft_path *at,
			const TLS(DownstreamTlsContext) * m, const struct weft_tls_secrets *secrets,
			struct weft_tls_server **ret)
{
	struct weft_tls_build b;
	struct weft_tls_server *s;
	struct weft_tls_priv *p;
	bool no_tickets = false;
	int r;

	build_begin(&b, c, secrets, true);
	p = b.p;
	r = build_end(&b, server_parts(&b, at, m, &no_tickets));
	if (r < 0)
		return r;
	s = weft_arena_alloc(p->arena, sizeof(*s));
	s->require_client_certificate = weft_cfg_bool(m->require_client_certificate, false);
	for (unsigned i = 0; i < p->n_ctxs; i++) {
		weft_tls_verify_apply(p, p->ctxs[i], s->require_client_certificate);
		resumption(p, m, p->ctxs[i], no_tickets);
	}
	if (weft_tls_staple_apply(p) || p->n_ctxs > 1 || p->require_sni) {
		weft_tls_names(p);
		SSL_CTX_set_client_hello_cb(p->ctxs[0], weft_tls_select, p);
	}
	s->ctx = p->ctxs[0];
	s->certs = p->infos;
	s->n_certs = p->n_infos;
	s->arena = p->arena;
	s->priv = p;
	atomic_init(&s->refs, 1);
	*ret = s;
	return 0;
}

/* ---- a secret by itself, before anything uses it */

static int secret_parts(struct weft_tls_build *b, const struct weft_path *at, TLS(Secret) * m)
{
	const struct weft_path cp = {at, "tls_certificate", -1};
	const struct weft_path kp = {at, "session_ticket_keys", -1};
	TLS(CommonTlsContext)
	ctx = ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__COMMON_TLS_CONTEXT__INIT;

	switch (m->type_case) {
	case ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__SECRET__TYPE_TLS_CERTIFICATE:
		return weft_tls_cert_one(b, &cp, m->tls_certificate);
	case ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__SECRET__TYPE_VALIDATION_CONTEXT:
		ctx.validation_context_type_case =
			ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__COMMON_TLS_CONTEXT__VALIDATION_CONTEXT_TYPE_VALIDATION_CONTEXT;
		ctx.validation_context = m->validation_context;
		return weft_tls_validation(b, at, &ctx);
	case ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__SECRET__TYPE_SESSION_TICKET_KEYS:
		return ticket_keys(b, &kp, m->session_ticket_keys);
	default:
		return 0; /* whoever names it says that it is of another kind */
	}
}

int weft_tls_secret_check(struct weft_cfg *c, const struct weft_path *at, const TLS(Secret) * m)
{
	struct weft_tls_build b;
	int r;

	build_begin(&b, c, NULL, true);
	weft_tls_certs_room(b.p, 1);
	/* a combined validation context may have more of it elsewhere */
	b.missing = true;
	r = build_end(&b, secret_parts(&b, at, (TLS(Secret) *)m));
	return r == -EAGAIN ? 0 : r;
}

struct weft_tls_server *weft_tls_server_ref(struct weft_tls_server *s)
{
	atomic_fetch_add(&s->refs, 1);
	return s;
}

void weft_tls_server_unref(struct weft_tls_server *s)
{
	if (s && atomic_fetch_sub(&s->refs, 1) == 1)
		drop(s->priv);
}

/* ---- clients */

static const TLS(CommonTlsContext) nothing =
	ENVOY__EXTENSIONS__TRANSPORT_SOCKETS__TLS__V3__COMMON_TLS_CONTEXT__INIT;

static int client_parts(struct weft_tls_build *b, const struct weft_path *at,
			const TLS(UpstreamTlsContext) * m)
{
	const struct weft_path cp = {at, "common_tls_context", -1};
	const struct weft_path sp = {at, "auto_sni_san_validation", -1};
	const struct weft_path kp = {at, "max_session_keys", -1};
	const TLS(CommonTlsContext) *cm = m->common_tls_context ? m->common_tls_context : &nothing;
	uint32_t keys = weft_cfg_u32(m->max_session_keys, 1);
	int r;

	b->p->auto_sni_san = m->auto_sni_san_validation;
	b->p->rsa_usage = weft_cfg_bool(m->enforce_rsa_key_usage, false);
	r = common(b, &cp, cm);
	if (keys > SESSION_KEYS_MAX)
		r |= weft_cfg_fail(b->c, &kp, "must be at most %d, is %u", SESSION_KEYS_MAX, keys);
	if (m->auto_sni_san_validation && !b->missing && !b->p->ca)
		r |= weft_cfg_fail(b->c, &sp, "needs trusted_ca, which is not set");
	if (r == 0 && b->p->n_ctxs > 0) {
		weft_tls_verify_apply(b->p, b->p->ctxs[0], false);
		weft_tls_ctx_cache(b->p->ctxs[0], keys);
		if (m->allow_renegotiation)
			SSL_CTX_clear_options(b->p->ctxs[0], SSL_OP_NO_RENEGOTIATION);
	}
	return r ? -EINVAL : 0;
}

static const char *const *alpn_names(struct weft_arena *a, const TLS(CommonTlsContext) * m)
{
	const char **v = weft_arena_alloc(a, (m->n_alpn_protocols + 1) * sizeof(*v));

	for (size_t i = 0; i < m->n_alpn_protocols; i++)
		v[i] = weft_arena_strdup(a, m->alpn_protocols[i]);
	return v;
}

int weft_tls_client_new(struct weft_cfg *c, const struct weft_path *at,
			const TLS(UpstreamTlsContext) * m, const struct weft_tls_secrets *secrets,
			struct weft_tls_client **ret)
{
	struct weft_tls_build b;
	struct weft_tls_client *s;
	struct weft_tls_priv *p;
	int r;

	build_begin(&b, c, secrets, false);
	p = b.p;
	r = build_end(&b, client_parts(&b, at, m));
	if (r < 0)
		return r;
	s = weft_arena_alloc(p->arena, sizeof(*s));
	s->ctx = p->ctxs[0];
	s->sni = weft_arena_strdup(p->arena, m->sni ? m->sni : "");
	s->auto_host_sni = m->auto_host_sni;
	s->auto_sni_san_validation = m->auto_sni_san_validation;
	s->alpn = alpn_names(p->arena, m->common_tls_context ? m->common_tls_context : &nothing);
	s->certs = p->infos;
	s->n_certs = p->n_infos;
	s->arena = p->arena;
	s->priv = p;
	atomic_init(&s->refs, 1);
	*ret = s;
	return 0;
}

struct weft_tls_client *weft_tls_client_ref(struct weft_tls_client *s)
{
	atomic_fetch_add(&s->refs, 1);
	return s;
}

void weft_tls_client_unref(struct weft_tls_client *s)
{
	if (s && atomic_fetch_sub(&s->refs, 1) == 1)
		drop(s->priv);
}
