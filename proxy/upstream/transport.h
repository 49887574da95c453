/* How bytes reach a host: transport_socket (plain, TLS, PROXY protocol before either), chosen by
 * transport_socket_matches; bind address, keep-alive and socket options. Immutable but for secrets:
 * a new one serves connections made from then on. How it is made is in cluster_priv.h. */
#pragma once
#include "proxy/net/io.h"
#include "proxy/net/race.h"
#include "proxy/upstream/cluster_priv.h"
#include "proxy/upstream/pool.h"

struct weft_tls_client;
struct weft_tsocket; /* one transport socket of a cluster */

/* ---- any thread */
/* That of the first match with the endpoint's envoy.transport_socket_match metadata, else the
 * cluster's. md may be NULL. */
const struct weft_tsocket *weft_transport_pick(const struct weft_transport *t,
					       const Envoy__Config__Core__V3__Metadata *md);
/* The same by a Struct of criteria (health checks). */
const struct weft_tsocket *weft_transport_pick_criteria(const struct weft_transport *t,
							const Google__Protobuf__Struct *criteria);
/* Certificates in use, of each TLS context; v holds during the call. Main thread. */
struct weft_tls_cert;
void weft_transport_certs(const struct weft_transport *t,
			  void (*fn)(void *ctx, const struct weft_tls_cert *v, size_t n),
			  void *ctx);
bool weft_tsocket_tls(const struct weft_tsocket *s);
/* Connections of two clients may not be shared: the PROXY header names them. */
bool weft_tsocket_per_client(const struct weft_tsocket *s);

enum { WEFT_TDIAL_ALPN = 4, WEFT_TDIAL_PREAMBLE = 536 };
struct weft_tdial { /* on the caller's stack */
	struct weft_dial dial;
	struct weft_io_tls tls;
	const char *ids[2];
	const char *alpn[WEFT_TDIAL_ALPN + 1];
	uint8_t preamble[WEFT_TDIAL_PREAMBLE];
	struct weft_tls_client *client; /* referenced; NULL: plain */
};
/* Everything weft_io_dial needs for `to` (a host's address, or another one of it). alpn: what is
 * offered unless the transport's own list says otherwise; NULL: nothing. 0; -EAGAIN: a secret is
 * missing; -EINVAL: how has no addresses for the PROXY header. Free by weft_tdial_done after the
 * dial. */
struct weft_tdial_want {
	const struct weft_tsocket *socket;
	const struct weft_host *host;
	const struct weft_sockaddr *to; /* NULL: the host's */
	const struct weft_take *how;	/* sni, alpn, source, dest, identity */
	const char *const *alpn;	/* NULL-terminated */
	const char *const *alpn_first;	/* whatever is configured; NULL */
	bool tunnel; /* to an HBONE peer: TLS is required, no SNI, ALPN h2, no PROXY header */
};
int weft_transport_prepare(const struct weft_transport *t, const struct weft_tdial_want *want,
			   struct weft_tdial *ret);
void weft_tdial_done(struct weft_tdial *d);
/* Of a host of several addresses: where to, and from which address. 0: it has one alone. */
size_t weft_transport_tries(const struct weft_transport *t, struct weft_host *h,
			    struct weft_race_try v[WEFT_RACE_MAX]);
/* After the handshake: the peer's leaf has `san` as DNS name or address (auto_san_validation). */
bool weft_transport_san_ok(const struct weft_tls_info *tls, const char *san);
struct weft_headers;
/* auto_sni, auto_san_validation: fills how->sni and how->san from the request's authority (or the
 * header that is configured instead); buf holds the name. */
enum { WEFT_NAME_BYTES = 256 };
void weft_transport_names(const struct weft_cluster *c, const struct weft_headers *h,
			  char buf[WEFT_NAME_BYTES], struct weft_take *how);
