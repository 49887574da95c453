/* HTTP and gRPC checks. */
#include "proxy/codec/grpc.h"
#include "proxy/upstream/health_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { GRPC_MAX = 64 << 10, SERVING = 1, FIELD_1 = 1 << 3, FIELD_1_BYTES = FIELD_1 | 2 };

static bool in(const struct hc_range *v, size_t n, int status)
{
	for (size_t i = 0; i < n; i++)
		if (status >= v[i].from && status < v[i].to)
			return true;
	return false;
}

static bool flagged(const struct weft_headers *h, const char *name)
{
	return weft_headers_find(h, name, 0);
}

/* ---- answers */

/* The exchange is over as far as the check goes. */
static void leave(struct check *c)
{
	c->x = NULL; /* its end, if it is still to come, is of no interest */
	if (!c->h->conf->reuse)
		weft_check_close(c);
}

static void http_result(struct check *c)
{
	const struct weft_hc_conf *k = c->h->conf;

	if (!in(k->expected, k->n_expected, c->status)) {
		bool again = in(k->retriable, k->n_retriable, c->status);

		if (c->immediate_fail)
			atomic_fetch_or(&c->host->flags, WEFT_HOST_EXCLUDED_IMMEDIATE_HC);
		weft_check_failed(c, again ? HC_RETRIABLE : HC_ACTIVE);
	} else if (k->service_name && !c->service_ok) {
		weft_check_failed(c, HC_ACTIVE);
	} else {
		weft_check_succeeded(c, c->degraded);
	}
}

/* grpc.health.v1.HealthCheckResponse: status is field 1; others are skipped. -1: broken. */
static int serving_status(const uint8_t *p, size_t n)
{
	int status = 0;

	for (size_t i = 0; i < n;) {
		uint64_t key = 0, v = 0;
		unsigned shift;

		for (shift = 0; i < n && shift < 64; shift += 7) {
			key |= (uint64_t)(p[i] & 0x7f) << shift;
			if (!(p[i++] & 0x80))
				break;
		}
		if ((key & 7) != 0 && (key & 7) != 2)
			return -1;
		for (shift = 0; i < n && shift < 64; shift += 7) {
			v |= (uint64_t)(p[i] & 0x7f) << shift;
			if (!(p[i++] & 0x80))
				break;
		}
		if ((key & 7) == 2) {
			if (v > n - i)
				return -1;
			i += v;
		} else if (key == FIELD_1) {
			status = v > INT32_MAX ? -1 : (int)v;
		}
	}
	return status;
}

static bool grpc_serves(struct check *c)
{
	struct weft_grpc_in g;
	uint8_t *msg = NULL;
	size_t n, len = evbuffer_get_length(c->body);
	bool ok;

	weft_grpc_in_init(&g, GRPC_MAX);
	weft_grpc_in_feed(&g, evbuffer_pullup(c->body, -1), len);
	ok = weft_grpc_in_next(&g, &msg, &n) == 1 && serving_status(msg, n) == SERVING;
	free(msg);
	weft_grpc_in_done(&g);
	return ok;
}

static void grpc_result(struct check *c)
{
	bool ok = c->status == 200 && c->grpc_status == 0 && c->body && grpc_serves(c);

	if (ok)
		weft_check_succeeded(c, false);
	else
		weft_check_failed(c, HC_ACTIVE);
}

static void result(struct check *c)
{
	leave(c);
	if (c->h->conf->kind == HC_GRPC)
		grpc_result(c);
	else
		http_result(c);
}

static void take_grpc_status(struct check *c, const struct weft_headers *h)
{
	const struct weft_header *f = weft_headers_get(h, WEFT_H_GRPC_STATUS);

	if (f)
		c->grpc_status = !strcmp(f->value, "0") ? 0 : 1;
}

static void x_headers(struct weft_exchange *x, struct weft_headers *h, bool end)
{
	struct check *c = weft_exchange_user(x);
	const struct weft_hc_conf *k = c->h->conf;

	if (c->x != x)
		return;
	c->status = weft_headers_status(h);
	c->degraded = flagged(h, "x-envoy-degraded");
	c->immediate_fail = flagged(h, "x-envoy-immediate-health-check-fail");
	take_grpc_status(c, h);
	if (k->service_name) {
		const char *v =
			weft_headers_value(h, WEFT_H_X_ENVOY_UPSTREAM_HEALTHCHECKED_CLUSTER);

		weft_scope_add(c->h->cl->scope, WEFT_CLUSTER_health_check_verify_cluster, 1);
		c->service_ok = weft_strmatch(k->service_name, v, strlen(v)) == WEFT_MATCH_YES;
	}
	if (end)
		result(c);
}

static void x_data(struct weft_exchange *x, struct evbuffer *b, bool end)
{
	struct check *c = weft_exchange_user(x);

	if (c->x != x)
		return;
	if (c->h->conf->kind == HC_GRPC) {
		if (!c->body)
			c->body = evbuffer_new();
		evbuffer_add_buffer(c->body, b);
		if (evbuffer_get_length(c->body) > GRPC_MAX) {
			weft_check_close(c);
			weft_check_failed(c, HC_ACTIVE);
			return;
		}
	}
	if (end)
		result(c);
}

static void x_trailers(struct weft_exchange *x, struct weft_headers *h)
{
	struct check *c = weft_exchange_user(x);

	if (c->x != x)
		return;
	take_grpc_status(c, h);
	result(c);
}

static void x_reset(struct weft_exchange *x, enum weft_reset why)
{
	struct check *c = weft_exchange_user(x);

	if (c->x != x)
		return;
	weft_check_close(c);
	weft_check_failed(c, HC_NETWORK);
}

static void x_none(struct weft_exchange *x)
{
}

static const struct weft_exchange_ops x_ops = {
	.headers = x_headers,
	.data = x_data,
	.trailers = x_trailers,
	.writable = x_none,
	.reset = x_reset,
	.done = x_none,
};

/* ---- requests */

static void add_header(struct weft_headers *h, const struct hc_header *a)
{
	bool there = weft_headers_find(h, a->name, a->name_n);

	switch (a->action) {
	case ENVOY__CONFIG__CORE__V3__HEADER_VALUE_OPTION__HEADER_APPEND_ACTION__APPEND_IF_EXISTS_OR_ADD:
		weft_headers_add(h, a->name, a->name_n, a->value, a->value_n);
		return;
	case ENVOY__CONFIG__CORE__V3__HEADER_VALUE_OPTION__HEADER_APPEND_ACTION__ADD_IF_ABSENT:
		if (!there)
			weft_headers_add(h, a->name, a->name_n, a->value, a->value_n);
		return;
	case ENVOY__CONFIG__CORE__V3__HEADER_VALUE_OPTION__HEADER_APPEND_ACTION__OVERWRITE_IF_EXISTS:
		if (!there)
			return;
		break;
	default:
		break;
	}
	weft_headers_set(h, a->name, a->name_n, a->value, a->value_n);
}

static void put(struct weft_headers *h, enum weft_hid id, const char *v)
{
	weft_headers_add_id(h, id, v, strlen(v));
}

static void request(struct check *c, struct weft_headers *h)
{
	const struct weft_hc_conf *k = c->h->conf;
	const char *host = *k->host		   ? k->host
			   : *c->host->hc_hostname ? c->host->hc_hostname
						   : c->h->cl->name;
	bool tls = weft_io_info(weft_session_io(c->session))->tls;

	put(h, WEFT_H_METHOD, k->method);
	put(h, WEFT_H_PATH, k->path);
	put(h, WEFT_H_SCHEME, tls ? "https" : "http");
	put(h, WEFT_H_AUTHORITY, host);
	put(h, WEFT_H_USER_AGENT, "Envoy/HC"); /* what peers' rules for checks look for */
	if (k->kind == HC_GRPC) {
		put(h, WEFT_H_CONTENT_TYPE, "application/grpc");
		put(h, WEFT_H_TE, "trailers");
	}
	for (size_t i = 0; i < k->n_add; i++)
		add_header(h, &k->add[i]);
	for (size_t i = 0; i < k->n_remove; i++)
		weft_headers_remove(h, k->remove[i], strlen(k->remove[i]));
}

static void send_grpc(struct check *c)
{
	const char *service = c->h->conf->service;
	size_t n = strlen(service), at = 0;
	uint8_t *msg = weft_xcalloc(1, n + 12);
	struct evbuffer *b = evbuffer_new();

	if (n) {
		msg[at++] = FIELD_1_BYTES;
		for (size_t v = n; v || at == 1; v >>= 7)
			msg[at++] = (uint8_t)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
		memcpy(msg + at, service, n);
		at += n;
	}
	weft_grpc_out(b, msg, at);
	weft_exchange_send_data(c->x, b, true);
	evbuffer_free(b);
	free(msg);
}

static void begin(struct check *c)
{
	struct weft_headers h;
	bool grpc = c->h->conf->kind == HC_GRPC;

	/* The arena of the exchange before is let go of only now: its session may still have had
	 * it. */
	weft_arena_free(c->arena);
	c->arena = weft_arena_new(0);
	c->status = 0;
	c->grpc_status = -1;
	c->degraded = c->immediate_fail = c->service_ok = false;
	if (c->body)
		evbuffer_drain(c->body, evbuffer_get_length(c->body));
	weft_headers_init(&h, c->arena);
	request(c, &h);
	if (weft_exchange_open(c->session, &x_ops, c, c->arena, &h, grpc, &c->x) < 0) {
		weft_check_close(c);
		weft_check_failed(c, HC_NETWORK);
		return;
	}
	if (grpc)
		send_grpc(c);
}

/* ---- connections */

static void on_goaway(struct weft_session *s)
{
	struct check *c = weft_session_owner(s);

	if (!c->x)
		weft_check_close(c);
}

static void on_session_closed(struct weft_session *s, enum weft_io_end why, int err)
{
	struct check *c = weft_session_owner(s);

	weft_check_close(c);
	if (c->active)
		weft_check_failed(c, HC_NETWORK);
}

static const struct weft_session_ops s_ops = {.goaway = on_goaway, .closed = on_session_closed};

static void on_ready(struct weft_io *io)
{
	struct check *c = weft_io_owner(io);
	const struct weft_cluster *cl = c->h->cl;

	c->io = NULL;
	c->session =
		weft_session_new(io, c->h->conf->h2 ? &cl->session_h2 : &cl->session_h1, &s_ops, c);
	begin(c);
}

static void on_readable(struct weft_io *io)
{
}

static void on_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	struct check *c = weft_io_owner(io);

	weft_check_close(c);
	if (c->active)
		weft_check_failed(c, HC_NETWORK);
}

static const struct weft_io_ops io_ops = {
	.ready = on_ready,
	.readable = on_readable,
	.closed = on_closed,
};

void weft_check_http(struct check *c)
{
	static const char *const h1[] = {"http/1.1", NULL}, *const h2[] = {"h2", NULL};

	if (c->session && weft_session_room(c->session)) {
		begin(c);
		return;
	}
	weft_check_close(c);
	if (weft_check_dial(c, c->h->conf->h2 ? h2 : h1, &io_ops) < 0) {
		c->io = NULL;
		weft_check_failed(c, HC_NETWORK);
	}
}
