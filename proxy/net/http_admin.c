#include "proxy/net/http_admin.h"

#include "proxy/core/arena.h"
#include "proxy/net/conn.h"
#include "proxy/net/http_parse.h"

#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <jansson.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	HEAD_MAX = WEFT_HTTP_HEAD_MAX,
	BODY_MAX = 1 << 20,
	CONNS_MAX = 256, /* beyond it, the oldest ends */
	ACCEPTS = 16,	 /* a turn of the loop */
	REQUEST_MS = 10000,
	PAUSE_US = 100000, /* after accept found no descriptor or memory */
};

struct client {
	TAILQ_ENTRY(client) link;
	struct weft_http_admin *admin;
	struct weft_conn *conn;
	struct event *deadline;
	char *head; /* NULL until all of it is there; req points into it */
	struct weft_http_head req;
};

struct weft_http_admin {
	struct event_base *base;
	int fd;
	weft_http_handler *handler;
	void *owner;
	struct event *ev_accept, *ev_pause;
	int conns;
	TAILQ_HEAD(, client) clients;
	bool has_token;
	uint8_t token[SHA256_DIGEST_LENGTH];
};

static void client_free(struct client *c)
{
	struct weft_http_admin *a = c->admin;

	TAILQ_REMOVE(&a->clients, c, link);
	a->conns--;
	event_free(c->deadline);
	weft_conn_free(c->conn);
	free(c->head);
	free(c);
}

static const char *status_text(int status)
{
	static const struct {
		int status;
		const char *text;
	} known[] = {
		{200, "OK"},
		{202, "Accepted"},
		{204, "No Content"},
		{400, "Bad Request"},
		{401, "Unauthorized"},
		{403, "Forbidden"},
		{404, "Not Found"},
		{405, "Method Not Allowed"},
		{408, "Request Timeout"},
		{409, "Conflict"},
		{413, "Content Too Large"},
		{422, "Unprocessable Content"},
		{431, "Request Header Fields Too Large"},
		{500, "Internal Server Error"},
		{501, "Not Implemented"},
		{503, "Service Unavailable"},
		{505, "HTTP Version Not Supported"},
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (known[i].status == status)
			return known[i].text;
	return "Answer";
}

static void answer(struct client *c, int status, const char *type, struct evbuffer *body)
{
	struct evbuffer *out = weft_conn_out(c->conn);
	bool head_only = c->head && !strcmp(c->req.method, "HEAD");

	evbuffer_add_printf(out,
			    "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
			    "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
			    "%sConnection: close\r\n\r\n",
			    status, status_text(status), type, evbuffer_get_length(body),
			    status == 401 ? "WWW-Authenticate: Bearer\r\n" : "");
	if (!head_only)
		evbuffer_add_buffer(out, body);
	weft_conn_close_after_flush(c->conn);
}

static void refuse(struct client *c, int status)
{
	struct evbuffer *body = evbuffer_new();

	evbuffer_add_printf(body, "%d %s\n", status, status_text(status));
	answer(c, status, "text/plain; charset=utf-8", body);
	evbuffer_free(body);
}

/* In constant time, whatever the lengths. */
static bool is_allowed(const struct weft_http_admin *a, const char *bearer)
{
	uint8_t got[SHA256_DIGEST_LENGTH];

	if (!a->has_token)
		return true;
	SHA256((const uint8_t *)(bearer ? bearer : ""), bearer ? strlen(bearer) : 0, got);
	return !CRYPTO_memcmp(got, a->token, sizeof(got)) && bearer;
}

static void run_handler(struct client *c, struct evbuffer *in)
{
	struct evbuffer *out = evbuffer_new();
	const char *type = "text/plain; charset=utf-8";
	struct weft_http_req r = {
		.method = c->req.method,
		.path = c->req.path,
		.query = c->req.query,
		.body = "",
		.body_n = c->req.content_length,
		.allowed = is_allowed(c->admin, c->req.bearer),
	};
	int status;

	if (r.body_n)
		r.body = (const char *)evbuffer_pullup(in, (ev_ssize_t)r.body_n);
	status = c->admin->handler(c->admin->owner, &r, out, &type);
	assert(status >= 200 && status <= 599);
	answer(c, status, type, out);
	evbuffer_free(out);
}

/* Takes the head out of the input when all of it is there. 1 taken, 0 wait, else the HTTP status to
 * refuse with. */
static int take_head(struct client *c, struct evbuffer *in)
{
	struct evbuffer_ptr end = evbuffer_search(in, "\r\n\r\n", 4, NULL);
	size_t n;
	int status;

	if (end.pos < 0)
		return evbuffer_get_length(in) > HEAD_MAX ? 431 : 0;
	n = (size_t)end.pos + 4;
	if (n > HEAD_MAX)
		return 431;
	c->head = weft_xcalloc(1, n + 1);
	evbuffer_remove(in, c->head, n);
	status = weft_http_head_parse(c->head, n, &c->req);
	if (status) {
		free(c->head);
		c->head = NULL;
		return status;
	}
	return c->req.content_length > BODY_MAX ? 413 : 1;
}

static void on_readable(struct weft_conn *conn)
{
	struct client *c = weft_conn_owner(conn);
	struct evbuffer *in = weft_conn_in(conn);

	if (!c->head) {
		int got = take_head(c, in);

		if (!got)
			return;
		if (got > 1) {
			refuse(c, got);
			return;
		}
		if (c->req.expect_continue && evbuffer_get_length(in) < c->req.content_length) {
			evbuffer_add_printf(weft_conn_out(conn), "HTTP/1.1 100 Continue\r\n\r\n");
			weft_conn_flush(conn);
		}
	}
	if (evbuffer_get_length(in) >= c->req.content_length)
		run_handler(c, in); /* what may follow is not read: one request a connection */
}

static void on_closed(struct weft_conn *conn, int err)
{
	client_free(weft_conn_owner(conn));
}

static const struct weft_conn_ops client_ops = {.readable = on_readable, .closed = on_closed};

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
	client_free(arg);
}

static void client_new(struct weft_http_admin *a, int fd)
{
	const struct timeval tv = {.tv_sec = REQUEST_MS / 1000};
	struct client *c = weft_xcalloc(1, sizeof(*c));

	c->admin = a;
	c->conn = weft_conn_new(a->base, fd, &client_ops, c, 0);
	c->deadline = evtimer_new(a->base, on_deadline, c);
	if (!c->deadline || event_add(c->deadline, &tv))
		abort(); /* memory is out */
	TAILQ_INSERT_TAIL(&a->clients, c, link);
	a->conns++;
}

static void on_accept(evutil_socket_t fd, short what, void *arg)
{
	const struct timeval pause = {.tv_usec = PAUSE_US};
	struct weft_http_admin *a = arg;

	for (int i = 0; i < ACCEPTS; i++) {
		int got = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (got >= 0) {
			/* the oldest had its time: idle connections keep no probe out */
			if (a->conns >= CONNS_MAX)
				client_free(TAILQ_FIRST(&a->clients));
			client_new(a, got);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			/* the listener stays readable: without a pause the loop would spin */
			event_del(a->ev_accept);
			event_add(a->ev_pause, &pause);
		}
		if (errno != ECONNABORTED && errno != EINTR)
			return;
	}
}

static void on_pause(evutil_socket_t fd, short what, void *arg)
{
	struct weft_http_admin *a = arg;

	event_add(a->ev_accept, NULL);
}

struct weft_http_admin *weft_http_admin_new(struct event_base *base, int fd, weft_http_handler *h,
					    void *owner)
{
	struct weft_http_admin *a = weft_xcalloc(1, sizeof(*a));

	evutil_make_socket_nonblocking(fd);
	a->base = base;
	a->fd = fd;
	a->handler = h;
	a->owner = owner;
	TAILQ_INIT(&a->clients);
	a->ev_accept = event_new(base, fd, EV_READ | EV_PERSIST, on_accept, a);
	a->ev_pause = evtimer_new(base, on_pause, a);
	if (!a->ev_accept || !a->ev_pause || event_add(a->ev_accept, NULL))
		abort(); /* memory is out */
	return a;
}

void weft_http_admin_token(struct weft_http_admin *a, const char *token)
{
	SHA256((const uint8_t *)token, strlen(token), a->token);
	a->has_token = true;
}

void weft_http_admin_free(struct weft_http_admin *a)
{
	struct client *c;

	if (!a)
		return;
	while ((c = TAILQ_FIRST(&a->clients)))
		/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): it takes itself off the list */
		client_free(c);
	event_free(a->ev_accept);
	event_free(a->ev_pause);
	close(a->fd);
	free(a);
}

int weft_http_json(struct evbuffer *out, const char **ret_type, struct json_t *j)
{
	char *text = j ? json_dumps(j, JSON_INDENT(2)) : NULL;

	json_decref(j);
	if (!text)
		return 500;
	evbuffer_add(out, text, strlen(text));
	evbuffer_add(out, "\n", 1);
	free(text);
	*ret_type = "application/json";
	return 200;
}
