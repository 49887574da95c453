/* envoy.extensions.transport_sockets.tls.v3: from messages to contexts that weft_io runs TLS with.
 * What is built is immutable and may be used by sessions on any thread; when a secret changes the
 * caller builds anew and lets go of the old one (sessions hold the SSL_CTX they began with). */
#pragma once
#include "xds/cfg.h"
#include "xds/proto/envoy/extensions/transport_sockets/tls/v3/tls.pb-c.h"
#include <stdatomic.h>

struct ssl_ctx_st;
struct weft_io_tls;

/* Secrets by name: what SDS delivered, or static_resources.secrets where source is NULL. NULL: not
 * there (yet). What is returned is read only during the call of the builder. */
struct weft_tls_secrets {
	const Envoy__Extensions__TransportSockets__Tls__V3__Secret *(*get)(
		void *ctx, const char *name, const Envoy__Config__Core__V3__ConfigSource *source);
	void *ctx;
};
/* The i-th secret that a context names; false: there are no more. *ret_source: NULL for a static
 * one. Downstream: ticket_keys is m->session_ticket_keys_sds_secret_config or NULL. */
bool weft_tls_want(const Envoy__Extensions__TransportSockets__Tls__V3__CommonTlsContext *m,
		   const Envoy__Extensions__TransportSockets__Tls__V3__SdsSecretConfig *ticket_keys,
		   size_t i, const char **ret_name,
		   const Envoy__Config__Core__V3__ConfigSource **ret_source);

/* What a secret holds loads and fits together: before it takes the place of a good one. 0, or
 * -EINVAL with errors in c. */
int weft_tls_secret_check(struct weft_cfg *c, const struct weft_path *at,
			  const Envoy__Extensions__TransportSockets__Tls__V3__Secret *m);

/* A certificate in use, for /certs. */
struct weft_tls_cert {
	const char *path; /* "<inline>" where it came without a file */
	const char *serial;
	const char *const *dns, *const *uri, *const *ip; /* NULL-terminated */
	int64_t not_before, not_after;			 /* unix s */
	bool ca;
};
/* Days until expiration as Envoy counts them: whole ones, 0 when it is past. */
uint32_t weft_tls_cert_days(const struct weft_tls_cert *c, int64_t now);

struct weft_tls_server {
	struct ssl_ctx_st *ctx; /* of the first certificate; chooses the others by SNI itself */
	const struct weft_tls_cert *certs; /* CAs too */
	size_t n_certs;
	bool require_client_certificate;
	atomic_uint refs;
	struct weft_arena *arena;
	struct weft_tls_priv *priv;
};
/* 0: *ret is a reference; -EAGAIN: a secret is missing (no error was added); -EINVAL: errors are in
 * c. Checks that keys fit, dates are only told. secrets may be NULL. */
int weft_tls_server_new(struct weft_cfg *c, const struct weft_path *at,
			const Envoy__Extensions__TransportSockets__Tls__V3__DownstreamTlsContext *m,
			const struct weft_tls_secrets *secrets, struct weft_tls_server **ret);
struct weft_tls_server *weft_tls_server_ref(struct weft_tls_server *s);
void weft_tls_server_unref(struct weft_tls_server *s); /* any thread; NULL ok */

struct weft_tls_client {
	struct ssl_ctx_st *ctx;
	const char *sni;	      /* "" none */
	bool auto_host_sni;	      /* the host's name instead */
	bool auto_sni_san_validation; /* the leaf must have the SNI as DNS SAN or address: checked
					 in the handshake by the context, by what was sent */
	const char *const *alpn;      /* NULL-terminated; empty: the configuration has none */
	const struct weft_tls_cert *certs;
	size_t n_certs;
	atomic_uint refs;
	struct weft_arena *arena;
	struct weft_tls_priv *priv;
};
int weft_tls_client_new(struct weft_cfg *c, const struct weft_path *at,
			const Envoy__Extensions__TransportSockets__Tls__V3__UpstreamTlsContext *m,
			const struct weft_tls_secrets *secrets, struct weft_tls_client **ret);
struct weft_tls_client *weft_tls_client_ref(struct weft_tls_client *s);
void weft_tls_client_unref(struct weft_tls_client *s);

/* A DataSource's bytes, NUL-terminated, in c->arena. NULL: an error was added (what: "certificate
 * chain"). Files only where c->file; at most WEFT_DATA_SOURCE_MAX. */
enum { WEFT_DATA_SOURCE_MAX = 4 << 20 };
const char *weft_data_source(struct weft_cfg *c, const struct weft_path *at,
			     const Envoy__Config__Core__V3__DataSource *d, const char *what,
			     size_t *ret_n);
