/* TLS towards hosts: the contexts of a cluster and the secrets they are built from. */
#include "proxy/upstream/transport_priv.h"
#include "xds/tls_conf.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef Envoy__Extensions__TransportSockets__Tls__V3__Secret Secret;
struct held {
	const char *name;
	const Envoy__Config__Core__V3__ConfigSource *source;
	Secret *msg; /* ours; NULL: not there yet */
};
struct upstream_tls {
	const Envoy__Extensions__TransportSockets__Tls__V3__UpstreamTlsContext *m;
	struct held *v;
	size_t n;
	pthread_mutex_t lock; /* guards cur: the main thread changes it, workers take references */
	struct weft_tls_client *cur;
};

static const Secret *get(void *ctx, const char *name,
			 const Envoy__Config__Core__V3__ConfigSource *source)
{
	struct upstream_tls *t = ctx;

	for (size_t i = 0; i < t->n; i++)
		if (!strcmp(t->v[i].name, name))
			return t->v[i].msg;
	return NULL;
}

static int build(struct upstream_tls *t, struct weft_cfg *c, const struct weft_path *at)
{
	struct weft_tls_secrets secrets = {.get = get, .ctx = t};
	struct weft_tls_client *made = NULL, *old;
	int r = weft_tls_client_new(c, at, t->m, &secrets, &made);

	if (r < 0)
		return r == -EAGAIN ? 0 : r;
	pthread_mutex_lock(&t->lock);
	old = t->cur;
	t->cur = made;
	pthread_mutex_unlock(&t->lock);
	weft_tls_client_unref(old);
	return 0;
}

static void find_secrets(struct weft_cfg *c, struct upstream_tls *t)
{
	const Envoy__Config__Core__V3__ConfigSource *source;
	const char *name;
	size_t n = 0;

	if (!t->m->common_tls_context)
		return;
	while (weft_tls_want(t->m->common_tls_context, NULL, n, &name, &source))
		n++;
	t->v = weft_arena_alloc(c->arena, (n + 1) * sizeof(*t->v));
	for (size_t i = 0; i < n; i++) {
		size_t k = 0;

		weft_tls_want(t->m->common_tls_context, NULL, i, &name, &source);
		while (k < t->n && strcmp(t->v[k].name, name) != 0)
			k++;
		if (k < t->n)
			continue;
		t->v[t->n].name = weft_arena_strdup(c->arena, name);
		t->v[t->n++].source = source;
	}
}

struct upstream_tls *
weft_upstream_tls_new(struct weft_cfg *c, const struct weft_path *at, const struct weft_cluster *cl,
		      const Envoy__Extensions__TransportSockets__Tls__V3__UpstreamTlsContext *m)
{
	struct upstream_tls *t = weft_arena_alloc(c->arena, sizeof(*t));

	t->m = m;
	pthread_mutex_init(&t->lock, NULL);
	find_secrets(c, t);
	if (build(t, c, at) < 0) {
		weft_upstream_tls_done(t);
		return NULL;
	}
	return t;
}

void weft_upstream_tls_done(struct upstream_tls *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->n; i++)
		if (t->v[i].msg)
			protobuf_c_message_free_unpacked(&t->v[i].msg->base, NULL);
	t->n = 0;
	weft_tls_client_unref(t->cur);
	t->cur = NULL;
	pthread_mutex_destroy(&t->lock);
}

bool weft_upstream_tls_want(const struct upstream_tls *t, size_t i,
			    const Envoy__Config__Core__V3__ConfigSource **ret_source,
			    const char **ret_name)
{
	if (i >= t->n)
		return false;
	*ret_source = t->v[i].source;
	*ret_name = t->v[i].name;
	return true;
}

bool weft_upstream_tls_ready(const struct upstream_tls *t)
{
	return t->cur; /* set by this thread only */
}

static Secret *copy(const Secret *m)
{
	size_t n = protobuf_c_message_get_packed_size(&m->base);
	uint8_t *b = weft_xcalloc(1, n + 1);
	Secret *made;

	protobuf_c_message_pack(&m->base, b);
	made = (Secret *)protobuf_c_message_unpack(m->base.descriptor, NULL, n, b);
	explicit_bzero(b, n); /* it may be a key */
	free(b);
	return made;
}

int weft_upstream_tls_secret(struct upstream_tls *t, struct weft_cfg *c, const char *name,
			     const Secret *msg)
{
	struct weft_path at = {NULL, "transport_socket", -1};

	for (size_t i = 0; i < t->n; i++) {
		Secret *old = t->v[i].msg, *drop = NULL;
		int r;

		if (strcmp(t->v[i].name, name) != 0)
			continue;
		t->v[i].msg = copy(msg);
		if (!t->v[i].msg) {
			t->v[i].msg = old;
			return weft_cfg_fail(c, &at, "secret %s cannot be copied", name);
		}
		r = build(t, c, &at);
		drop = r < 0 ? t->v[i].msg : old;
		if (r < 0)
			t->v[i].msg = old;
		if (drop)
			protobuf_c_message_free_unpacked(&drop->base, NULL);
		return r;
	}
	return 0;
}

/* ---- any thread */

static const char *sni_of(const struct weft_tls_client *cl, const struct weft_tdial_want *want)
{
	struct weft_ip ip;

	if (want->tunnel)
		return NULL; /* ambient-contract §1.6 */
	if (want->how && want->how->sni)
		return want->how->sni;
	if (cl->auto_host_sni && want->host->hostname && *want->host->hostname &&
	    weft_ip_parse(want->host->hostname, &ip) < 0)
		return want->host->hostname;
	return cl->sni && *cl->sni ? cl->sni : NULL;
}

static void alpn_of(const struct weft_tls_client *cl, const struct weft_tdial_want *want,
		    struct weft_tdial *d)
{
	size_t n = 0;

	if (want->tunnel) {
		d->alpn[n++] = "h2";
	} else if (want->alpn_first) {
		d->tls.alpn = want->alpn_first;
		return;
	} else if (want->how && want->how->alpn) {
		d->alpn[n++] = want->how->alpn;
	} else if (cl->alpn && cl->alpn[0]) {
		d->tls.alpn = cl->alpn;
		return;
	} else {
		for (; want->alpn && want->alpn[n] && n < WEFT_TDIAL_ALPN; n++)
			d->alpn[n] = want->alpn[n];
	}
	d->alpn[n] = NULL;
	d->tls.alpn = n ? d->alpn : NULL;
}

int weft_upstream_tls_prepare(struct upstream_tls *t, const struct weft_tdial_want *want,
			      struct weft_tdial *d)
{
	struct weft_tls_client *cl;

	pthread_mutex_lock(&t->lock);
	cl = t->cur ? weft_tls_client_ref(t->cur) : NULL;
	pthread_mutex_unlock(&t->lock);
	if (!cl)
		return -EAGAIN;
	d->client = cl;
	d->tls.ctx = cl->ctx;
	d->tls.sni = sni_of(cl, want);
	alpn_of(cl, want, d);
	if (want->how && want->how->identity) {
		d->ids[0] = want->how->identity;
		d->ids[1] = NULL;
		d->tls.ids = d->ids;
	}
	return 0;
}

void weft_tdial_done(struct weft_tdial *d)
{
	weft_tls_client_unref(d->client);
	d->client = NULL;
}

static void certs_of(const struct upstream_tls *t,
		     void (*fn)(void *ctx, const struct weft_tls_cert *v, size_t n), void *ctx)
{
	if (t && t->cur && t->cur->n_certs) /* set by this thread only */
		fn(ctx, t->cur->certs, t->cur->n_certs);
}

void weft_transport_certs(const struct weft_transport *t,
			  void (*fn)(void *ctx, const struct weft_tls_cert *v, size_t n), void *ctx)
{
	certs_of(t->own.tls, fn, ctx);
	for (size_t i = 0; i < t->n_matches; i++)
		certs_of(t->matches[i].tls, fn, ctx);
}
