#include "proxy/net/io_tls_priv.h"

#include "proxy/core/arena.h"
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

/* Sessions of a client context, newest last. The mutex guards n and v: handshakes of any worker put
 * and take; no byte waits for it. */
struct cache {
	pthread_mutex_t lock;
	unsigned n, max;
	SSL_SESSION *v[];
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int ex_index;

static void cache_free(void *parent, void *p, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
	struct cache *c = p;

	if (!c)
		return;
	for (unsigned i = 0; i < c->n; i++)
		SSL_SESSION_free(c->v[i]);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

static void setup_once(void)
{
	ex_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, cache_free);
	assert(ex_index >= 0);
}

static int on_new_session(SSL *ssl, SSL_SESSION *sess)
{
	struct cache *c = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), ex_index);
	const struct weft_tls_sess *t = weft_tls_sess_of(ssl);
	SSL_SESSION *old = NULL;

	if (!c || !t || !SSL_SESSION_is_resumable(sess))
		return 0;
	pthread_mutex_lock(&c->lock);
	if (c->n == c->max) {
		old = c->v[0];
		for (unsigned i = 1; i < c->n; i++)
			c->v[i - 1] = c->v[i];
		c->n--;
	}
	c->v[c->n++] = sess;
	pthread_mutex_unlock(&c->lock);
	SSL_SESSION_free(old);
	return 1; /* the reference is ours now */
}

void weft_tls_ctx_cache(struct ssl_ctx_st *ctx, unsigned max)
{
	struct cache *c;

	pthread_once(&once, setup_once);
	if (max == 0) {
		SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
		return;
	}
	c = weft_xcalloc(1, sizeof(*c) + max * sizeof(c->v[0]));
	pthread_mutex_init(&c->lock, NULL);
	c->max = max;
	if (SSL_CTX_set_ex_data(ctx, ex_index, c) != 1)
		abort(); /* memory is out */
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(ctx, on_new_session);
}

void weft_tls_cache_use(struct weft_tls_sess *t)
{
	SSL_SESSION *s = NULL;
	struct cache *c;

	pthread_once(&once, setup_once);
	c = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(t->ssl), ex_index);
	if (!c)
		return;
	pthread_mutex_lock(&c->lock);
	if (c->n > 0) {
		s = c->v[c->n - 1];
		if (SSL_SESSION_get_protocol_version(s) >= TLS1_3_VERSION)
			c->n--; /* RFC 8446 C.4: a ticket is shown once */
		else
			SSL_SESSION_up_ref(s);
	}
	pthread_mutex_unlock(&c->lock);
	if (s)
		SSL_set_session(t->ssl, s);
	SSL_SESSION_free(s);
}

void weft_tls_ctx_setup(struct ssl_ctx_st *ctx)
{
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
				      SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_NO_AUTO_CHAIN);
	SSL_CTX_set_mode(ctx, SSL_MODE_AUTO_RETRY); /* past tickets, to the data behind them */
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
					 SSL_OP_CIPHER_SERVER_PREFERENCE);
}
