#include "xds/client.h"
#include "proxy/core/arena.h"
#include "proxy/core/worker.h"
#include "xds/client_priv.h"
#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { STREAM_WINDOW = 1 << 20, ANSWER_MS = 10000 };
static const char ads_path[] =
	"/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

static void tell(struct weft_xds_client *c, bool up)
{
	if (c->connected == up)
		return;
	c->connected = up;
	for (size_t i = 0; i < c->n_types; i++)
		if (c->types[i].sink->connected)
			c->types[i].sink->connected(c->types[i].owner, up);
}

/* Doubles, with up to a quarter off so that many clients do not come together. */
static void dial_later(struct weft_xds_client *c)
{
	unsigned ms = c->backoff_ms - (unsigned)(weft_rand64() % (c->backoff_ms / 4 + 1));
	struct timeval tv = {ms / 1000, (suseconds_t)(ms % 1000) * 1000};

	c->backoff_ms *= 2;
	if (c->backoff_ms > WEFT_XDS_BACKOFF_MAX_MS)
		c->backoff_ms = WEFT_XDS_BACKOFF_MAX_MS;
	event_add(c->ev_dial, &tv);
}

static void lost(struct weft_xds_client *c, const char *why)
{
	struct weft_xds_link *l = c->link;

	c->link = NULL;
	weft_xds_link_free(l);
	c->s = NULL;
	weft_grpc_in_done(&c->in);
	evbuffer_drain(c->out, evbuffer_get_length(c->out));
	event_del(c->ev_answer);
	if (c->heard)
		c->backoff_ms = WEFT_XDS_BACKOFF_MIN_MS;
	c->heard = c->broken = false;
	dial_later(c);
	tell(c, false);
	if (c->conf.lost)
		c->conf.lost(c->conf.owner, why);
}

static void on_down(void *owner, const char *why)
{
	lost(owner, why);
}

/* ---- HTTP/2 */

static void drop_for_status(struct weft_xds_client *c, const struct weft_h2_headers *h)
{
	const char *status = weft_h2_headers_get(h, "grpc-status");
	const char *message = weft_h2_headers_get(h, "grpc-message");

	snprintf(c->why, sizeof(c->why), "the server ended the stream: grpc-status %.8s %.256s",
		 status ?: "unknown", message ?: "");
	weft_xds_link_drop(c->link, c->why);
}

static void on_headers(struct weft_h2_stream *s, const struct weft_h2_headers *h, bool end)
{
	struct weft_xds_client *c = weft_h2_stream_user(s);
	const char *status = weft_h2_headers_get(h, ":status");
	const char *type = weft_h2_headers_get(h, "content-type");

	if (!status || strcmp(status, "200") || !type || strncmp(type, "application/grpc", 16))
		weft_xds_link_drop(c->link, "the server does not speak gRPC here");
	else if (end)
		drop_for_status(c, h);
	else
		tell(c, true);
	event_del(c->ev_answer);
}

static void on_trailers(struct weft_h2_stream *s, const struct weft_h2_headers *h)
{
	drop_for_status(weft_h2_stream_user(s), h);
}

static void on_answer_late(evutil_socket_t fd, short what, void *arg)
{
	struct weft_xds_client *c = arg;

	weft_xds_link_drop(c->link, "no answer to the stream in time");
}

static void on_data(struct weft_h2_stream *s, const uint8_t *p, size_t n)
{
	struct weft_xds_client *c = weft_h2_stream_user(s);
	uint8_t *m;
	size_t len;
	int r;

	weft_h2_consume(s, n);
	if (c->broken)
		return;
	weft_grpc_in_feed(&c->in, p, n);
	while ((r = weft_grpc_in_next(&c->in, &m, &len)) == 1) {
		c->heard = true;
		r = weft_xds_client_response(c, m, len);
		free(m);
		if (r)
			break;
	}
	c->broken = r != 0;
	if (r)
		weft_xds_link_drop(c->link, r == -EMSGSIZE ? "a response is too large"
							   : "a response cannot be read");
}

static void on_end(struct weft_h2_stream *s)
{
	struct weft_xds_client *c = weft_h2_stream_user(s);

	weft_xds_link_drop(c->link, "the server ended the stream");
}

static void on_stream_closed(struct weft_h2_stream *s, uint32_t code)
{
	struct weft_xds_client *c = weft_h2_stream_user(s);

	c->s = NULL;
	if (c->link) /* else it is being freed */
		weft_xds_link_drop(c->link, "the stream was closed");
}

static ssize_t on_pull(struct weft_h2_stream *s, uint8_t *dst, size_t max, bool *ret_end)
{
	struct weft_xds_client *c = weft_h2_stream_user(s);

	return evbuffer_remove(c->out, dst, max);
}

static void on_settings(struct weft_h2 *h)
{
	struct weft_xds_client *c = weft_h2_owner(h);

	weft_xds_link_up(c->link);
}

static const struct weft_h2_ops h2_ops = {
	.headers = on_headers,
	.data = on_data,
	.trailers = on_trailers,
	.end = on_end,
	.closed = on_stream_closed,
	.pull = on_pull,
	.settings = on_settings,
};

/* ---- connecting */

static struct weft_h2_header header(const char *name, const char *value)
{
	return (struct weft_h2_header){name, value, strlen(name), strlen(value)};
}

static int dial(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd, err;

	if (strlen(path) >= sizeof(a.sun_path))
		return -ENAMETOOLONG;
	strcpy(a.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&a, sizeof(a))) { /* unix: at once or not at all */
		err = -errno;
		close(fd);
		return err;
	}
	return fd;
}

static void start_stream(struct weft_xds_client *c)
{
	const struct weft_h2_header h[] = {
		header(":method", "POST"),
		header(":scheme", "http"),
		header(":path", ads_path),
		header(":authority", "localhost"),
		header("content-type", "application/grpc"),
		header("te", "trailers"),
	};
	const struct timeval tv = {ANSWER_MS / 1000, 0};
	event_add(c->ev_answer, &tv);
	weft_grpc_in_init(&c->in, WEFT_XDS_MESSAGE_MAX);
	c->s = weft_h2_request(weft_xds_link_h2(c->link), h, sizeof(h) / sizeof(h[0]), true, c);
	if (!c->s) {
		weft_xds_link_drop(c->link, "no stream could be opened");
		return;
	}
	for (size_t i = 0; i < c->n_types; i++)
		weft_xds_client_open_type(c, &c->types[i]);
}

static void on_dial(evutil_socket_t fd, short what, void *arg)
{
	struct weft_xds_client *c = arg;
	const struct weft_xds_link_conf conf = {
		.h2 = {.stream_window = STREAM_WINDOW},
		.ops = &h2_ops,
		.times = c->conf.times,
		.down = on_down,
		.owner = c,
	};
	char why[128];
	int sock = dial(c->conf.path);

	if (sock < 0) {
		snprintf(why, sizeof(why), "connect: %s", strerror(-sock));
		dial_later(c);
		if (c->conf.lost)
			c->conf.lost(c->conf.owner, why);
		return;
	}
	c->link = weft_xds_link_new(c->base, sock, &conf);
	start_stream(c);
}

/* ---- the client */

struct weft_xds_client *weft_xds_client_new(struct event_base *base,
					    const struct weft_xds_client_conf *conf)
{
	struct weft_xds_client *c = weft_xcalloc(1, sizeof(*c));

	c->base = base;
	c->conf = *conf;
	c->conf.path = weft_xstrdup(conf->path);
	c->conf.node_id = weft_xstrdup(conf->node_id);
	c->conf.node_name = weft_xstrdup(conf->node_name);
	c->backoff_ms = WEFT_XDS_BACKOFF_MIN_MS;
	c->out = evbuffer_new();
	c->ev_dial = event_new(base, -1, 0, on_dial, c);
	c->ev_answer = event_new(base, -1, 0, on_answer_late, c);
	if (!c->out || !c->ev_dial || !c->ev_answer)
		abort();
	return c;
}

int weft_xds_subscribe(struct weft_xds_client *c, const struct weft_xds_type *t,
		       const struct weft_xds_sink *sink, void *owner)
{
	if (c->n_types == CLIENT_TYPES_MAX)
		return -ENOSPC;
	for (size_t i = 0; i < c->n_types; i++)
		if (c->types[i].type == t)
			return -EEXIST;
	c->types[c->n_types++] = (struct xtype){.type = t, .sink = sink, .owner = owner};
	return 0;
}

void weft_xds_client_start(struct weft_xds_client *c)
{
	event_active(c->ev_dial, EV_TIMEOUT, 1);
}

void weft_xds_client_free(struct weft_xds_client *c)
{
	struct weft_xds_link *l;

	if (!c)
		return;
	l = c->link;
	c->link = NULL;
	weft_xds_link_free(l);
	weft_grpc_in_done(&c->in);
	for (size_t i = 0; i < c->n_types; i++)
		weft_xds_held_free(&c->types[i]);
	event_free(c->ev_dial);
	event_free(c->ev_answer);
	evbuffer_free(c->out);
	free((char *)c->conf.path);
	free((char *)c->conf.node_id);
	free((char *)c->conf.node_name);
	free(c);
}

bool weft_xds_ready(const struct weft_xds_client *c)
{
	for (size_t i = 0; i < c->n_types; i++)
		if (!c->types[i].ready)
			return false;
	return true;
}

bool weft_xds_connected(const struct weft_xds_client *c)
{
	return c->connected;
}
