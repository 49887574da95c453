#include "proxy/session/session_priv.h"

#include <assert.h>
#include <event2/buffer.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { SPARE_BUFFERS = 8 };

/* What a thread keeps between requests. */
struct pool {
	struct weft_exchanges spare;
	unsigned n_spare, n_buffers;
	struct evbuffer *buffers[SPARE_BUFFERS];
	struct weft_h1_event ev;
};

static __thread struct pool *my_pool;
static pthread_key_t pool_key;
static pthread_once_t pool_once = PTHREAD_ONCE_INIT;

static void pool_free(void *arg)
{
	struct pool *p = arg;
	struct weft_exchange *x;

	while ((x = TAILQ_FIRST(&p->spare))) {
		TAILQ_REMOVE(&p->spare, x, link);
		free(x);
	}
	while (p->n_buffers)
		evbuffer_free(p->buffers[--p->n_buffers]);
	weft_h1_event_done(&p->ev);
	free(p);
	my_pool = NULL;
}

static void make_key(void)
{
	if (pthread_key_create(&pool_key, pool_free))
		abort();
}

static struct pool *pool_get(void)
{
	struct pool *p = my_pool;

	if (p)
		return p;
	p = weft_xcalloc(1, sizeof(*p));
	TAILQ_INIT(&p->spare);
	pthread_once(&pool_once, make_key);
	pthread_setspecific(pool_key, p);
	my_pool = p;
	return p;
}

struct weft_h1_event *weft_session_h1_event(void)
{
	return &pool_get()->ev;
}

struct evbuffer *weft_session_buffer(void)
{
	struct pool *p = pool_get();
	struct evbuffer *b = p->n_buffers ? p->buffers[--p->n_buffers] : evbuffer_new();

	if (!b)
		abort();
	return b;
}

void weft_session_buffer_give(struct evbuffer *b)
{
	struct pool *p = pool_get();

	if (p->n_buffers == SPARE_BUFFERS) {
		evbuffer_free(b);
		return;
	}
	evbuffer_drain(b, evbuffer_get_length(b));
	p->buffers[p->n_buffers++] = b;
}

struct weft_exchange *weft_exchange_new(struct weft_session *s)
{
	struct pool *p = pool_get();
	struct weft_exchange *x = TAILQ_FIRST(&p->spare);

	if (x) {
		TAILQ_REMOVE(&p->spare, x, link);
		p->n_spare--;
		memset(x, 0, sizeof(*x));
	} else {
		x = weft_xcalloc(1, sizeof(*x));
	}
	x->s = s;
	x->detail = "";
	x->tx_left = -1;
	x->id = ++s->total;
	TAILQ_INSERT_TAIL(&s->open, x, link);
	s->n_open++;
	return x;
}

void weft_exchange_recycle(struct weft_exchange *x)
{
	struct pool *p = pool_get();

	if (p->n_spare == WEFT_SESSION_SPARE_EXCHANGES) {
		free(x);
		return;
	}
	TAILQ_INSERT_HEAD(&p->spare, x, link);
	p->n_spare++;
}

void weft_exchange_bury(struct weft_exchange *x)
{
	struct weft_session *s = x->s;

	assert(s->depth);
	if (x->gone)
		return;
	x->gone = true;
	TAILQ_REMOVE(&s->open, x, link);
	s->n_open--;
	TAILQ_INSERT_TAIL(&s->grave, x, link);
	if (s->proto)
		s->proto->left(x);
}

void weft_exchange_tell_reset(struct weft_exchange *x, enum weft_reset why)
{
	if (x->gone)
		return;
	weft_exchange_bury(x);
	if (x->ops && x->ops->reset)
		x->ops->reset(x, why);
}

void weft_exchange_tell_done(struct weft_exchange *x)
{
	if (x->gone)
		return;
	weft_exchange_bury(x);
	if (x->ops->done)
		x->ops->done(x);
}

void weft_exchange_finish(struct weft_exchange *x)
{
	if (x->finished || x->gone)
		return;
	x->finished = true;
	if (!x->s->looping)
		weft_io_kick(x->s->io);
}

int weft_exchange_open(struct weft_session *s, const struct weft_exchange_ops *ops, void *user,
		       struct weft_arena *a, const struct weft_headers *h, bool body,
		       struct weft_exchange **ret)
{
	struct weft_exchange *x;
	int r;

	if (weft_session_over(s) || s->draining || s->went_away || weft_io_eof(s->io))
		return -EPIPE;
	if (!s->proto->room(s))
		return -EAGAIN;
	weft_session_hold(s);
	x = weft_exchange_new(s);
	x->ops = ops;
	x->user = user;
	x->arena = a;
	r = s->proto->open(x, h, body);
	if (r)
		weft_exchange_bury(x);
	else
		*ret = x;
	weft_session_release(s);
	return r;
}

void *weft_exchange_user(const struct weft_exchange *x)
{
	return x->user;
}

struct weft_session *weft_exchange_session(const struct weft_exchange *x)
{
	return x->s;
}

const char *weft_exchange_detail(const struct weft_exchange *x)
{
	return x->detail;
}

uint64_t weft_exchange_id(const struct weft_exchange *x)
{
	return x->id;
}

enum weft_http weft_exchange_version(const struct weft_exchange *x)
{
	return x->req_10 ? WEFT_HTTP_10 : x->s->version;
}

void weft_exchange_set_user(struct weft_exchange *x, const struct weft_exchange_ops *ops,
			    void *user)
{
	x->ops = ops;
	x->user = user;
}

void weft_exchange_bytes(const struct weft_exchange *x, uint64_t *ret_rx, uint64_t *ret_tx)
{
	struct weft_h2_bytes now = x->wire;

	if (x->st)
		weft_h2_stream_bytes(x->st, &now);
	*ret_rx = now.rx;
	*ret_tx = now.tx;
}

void weft_exchange_head_bytes(const struct weft_exchange *x, uint64_t *ret_rx, uint64_t *ret_tx)
{
	struct weft_h2_bytes now = x->wire;

	if (x->st)
		weft_h2_stream_bytes(x->st, &now);
	*ret_rx = now.rx_head;
	*ret_tx = now.tx_head;
}

static bool cannot_send(const struct weft_exchange *x)
{
	return x->gone || x->tx_end || x->cut || weft_session_over(x->s);
}

int weft_exchange_send_headers(struct weft_exchange *x, const struct weft_headers *h, bool end)
{
	int r;

	if (cannot_send(x) || x->tx_head || !x->s->conf->server)
		return -EPIPE;
	weft_session_hold(x->s);
	r = x->s->proto->send_headers(x, h, end);
	weft_session_release(x->s);
	return r;
}

int weft_exchange_send_informational(struct weft_exchange *x, const struct weft_headers *h)
{
	int r;

	if (cannot_send(x) || x->tx_head || !x->s->conf->server)
		return -EPIPE;
	weft_session_hold(x->s);
	r = x->s->proto->send_informational(x, h);
	weft_session_release(x->s);
	return r;
}

int weft_exchange_send_data(struct weft_exchange *x, struct evbuffer *b, bool end)
{
	int r;

	if (cannot_send(x) || !x->tx_head) {
		evbuffer_drain(b, evbuffer_get_length(b));
		return x->gone || x->cut || weft_session_over(x->s) ? -EPIPE : -EINVAL;
	}
	weft_session_hold(x->s);
	r = x->s->proto->send_data(x, b, end);
	x->blocked = !r;
	weft_session_release(x->s);
	return r;
}

int weft_exchange_send_trailers(struct weft_exchange *x, const struct weft_headers *h)
{
	int r;

	if (cannot_send(x) || !x->tx_head)
		return -EPIPE;
	weft_session_hold(x->s);
	r = x->s->proto->send_trailers(x, h);
	weft_session_release(x->s);
	return r;
}

void weft_exchange_reset(struct weft_exchange *x, enum weft_reset why)
{
	struct weft_session *s = x->s;

	if (x->gone)
		return;
	weft_session_hold(s);
	if (!weft_session_over(s))
		s->proto->reset(x, why);
	weft_exchange_bury(x);
	weft_session_release(s);
}

void weft_exchange_pause(struct weft_exchange *x)
{
	if (x->paused++ || x->gone || weft_session_over(x->s))
		return;
	x->s->proto->pause(x);
}

void weft_exchange_resume(struct weft_exchange *x)
{
	assert(x->paused);
	if (--x->paused || x->gone || weft_session_over(x->s))
		return;
	x->s->proto->resume(x);
}
