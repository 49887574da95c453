/* What is written to an HTTP/1 connection. A head goes in one piece into space of the io's buffer.
 */
#include "proxy/session/session_priv.h"

#include <errno.h>
#include <event2/buffer.h>
#include <string.h>

enum {
	FIELDS_STACK = 64,
	EXTRA = 4, /* framing and connection fields that are ours */
	LINE = 64, /* method, version, status, reason and line ends */
};

static const struct weft_h1_header CHUNKED = {"transfer-encoding", "chunked", 17, 7};
static const struct weft_h1_header NO_LENGTH = {"content-length", "0", 14, 1};
static const struct weft_h1_header CLOSE = {"connection", "close", 10, 5};
static const struct weft_h1_header KEEP = {"connection", "keep-alive", 10, 10};
static const struct weft_h1_header UPGRADE = {"connection", "upgrade", 10, 7};

struct fields {
	struct weft_h1_header stack[FIELDS_STACK + EXTRA], *v;
	size_t n, bytes;
	const char *length;		  /* content-length's value; NULL: none */
	bool close;			  /* the owner wants the connection closed */
	const struct weft_headers *spelt; /* NULL: names go as they are */
};

static void add(struct fields *f, const struct weft_h1_header *h)
{
	f->v[f->n] = *h;
	if (f->spelt)
		f->v[f->n].name = weft_headers_spelling(f->spelt, h->name, h->name_len) ?: h->name;
	f->n++;
	f->bytes += h->name_len + h->value_len + 4;
}

static bool says_close(const struct weft_header *f)
{
	return f->value_len == 5 && !strncasecmp(f->value, "close", 5);
}

/* All that travels; fields of the connection are dropped. */
static void collect(struct weft_exchange *x, const struct weft_headers *h, struct fields *f,
		    bool upgrade)
{
	f->v = f->stack;
	f->spelt = h->spelling ? h : NULL;
	f->n = f->bytes = 0;
	f->length = NULL;
	f->close = false;
	if (h->n > FIELDS_STACK)
		f->v = weft_arena_alloc(x->arena, (h->n + EXTRA) * sizeof(*f->v));
	for (uint32_t i = 0; i < h->n; i++) {
		const struct weft_header *e = &h->v[i];
		struct weft_h1_header one = {e->name, e->value, e->name_len, e->value_len};

		switch (e->id) {
		case WEFT_H_METHOD ... WEFT_H_PROTOCOL:
		case WEFT_H_HOST:
		case WEFT_H_KEEP_ALIVE:
		case WEFT_H_PROXY_CONNECTION:
		case WEFT_H_TRANSFER_ENCODING:
			continue;
		case WEFT_H_CONNECTION:
			f->close |= says_close(e);
			continue;
		case WEFT_H_UPGRADE:
			if (!upgrade)
				continue;
			break;
		case WEFT_H_CONTENT_LENGTH:
			f->length = e->value;
			continue;
		default:
			break;
		}
		add(f, &one);
	}
}

static int write_head(struct weft_exchange *x, struct weft_h1_out *o, const struct fields *f)
{
	struct weft_session *s = x->s;
	struct evbuffer *out = weft_io_out(s->io);
	struct evbuffer_iovec vec;
	size_t bound = f->bytes + o->target.n + o->reason.n + LINE;
	ssize_t n;

	o->v = f->v;
	o->n = f->n;
	o->name_case = s->conf->h1.proper_case && !f->spelt ? WEFT_H1_PROPER_CASE : WEFT_H1_AS_IS;
	if (evbuffer_reserve_space(out, (ev_ssize_t)bound, &vec, 1) != 1)
		return -ENOMEM;
	n = weft_h1_head_write(o, vec.iov_base, vec.iov_len);
	if (n < 0 || (size_t)n > vec.iov_len)
		return -EINVAL;
	vec.iov_len = (size_t)n;
	evbuffer_commit_space(out, &vec, 1);
	x->wire.tx += (uint64_t)n;
	x->wire.tx_head += (uint32_t)f->bytes;
	weft_io_flush(s->io);
	return 0;
}

/* Digits only: what the owner says frames the message. -1: it is none. */
static int64_t length_of(const char *s)
{
	int64_t n = 0;

	if (!*s)
		return -1;
	for (; *s; s++) {
		if (*s < '0' || *s > '9' || n > INT64_MAX / 10 - 1)
			return -1;
		n = 10 * n + (*s - '0');
	}
	return n;
}

static int add_length(struct weft_exchange *x, struct fields *f)
{
	struct weft_h1_header one = {"content-length", f->length, 14, (uint32_t)strlen(f->length)};

	x->tx_left = length_of(f->length);
	if (x->tx_left < 0)
		return -EINVAL;
	add(f, &one);
	return 0;
}

static bool needs_no_length(const char *method)
{
	static const char *const bodiless[] = {"GET", "HEAD", "DELETE", "TRACE", "CONNECT"};

	for (size_t i = 0; i < sizeof(bodiless) / sizeof(bodiless[0]); i++)
		if (!strcmp(method, bodiless[i]))
			return true;
	return false;
}

static int request_framing(struct weft_exchange *x, const char *method, bool body, struct fields *f)
{
	if (x->connect || x->upgrade)
		return 0;
	if (f->length)
		return add_length(x, f);
	if (body) {
		x->tx_chunked = true;
		add(f, &CHUNKED);
	} else if (!needs_no_length(method)) {
		add(f, &NO_LENGTH);
	}
	return 0;
}

static struct weft_h1_slice target_of(struct weft_exchange *x, const struct weft_headers *h)
{
	const char *path = weft_headers_value(h, WEFT_H_PATH);
	const char *authority = weft_headers_value(h, WEFT_H_AUTHORITY);
	const char *scheme = weft_headers_value(h, WEFT_H_SCHEME);
	struct weft_header *f;

	if (x->connect) {
		path = authority;
	} else if (x->s->conf->h1.send_fully_qualified_url && path[0] == '/') {
		path = weft_arena_printf(x->arena, "%s://%s%s", *scheme ? scheme : "http",
					 authority, path);
	} else {
		f = weft_headers_get(h, WEFT_H_PATH);
		return f ? (struct weft_h1_slice){f->value, f->value_len}
			 : (struct weft_h1_slice){"/", 1};
	}
	return (struct weft_h1_slice){path, (uint32_t)strlen(path)};
}

static void add_host(struct weft_exchange *x, const struct weft_headers *h, struct fields *f)
{
	const struct weft_header *e =
		weft_headers_get(h, WEFT_H_AUTHORITY) ?: weft_headers_get(h, WEFT_H_HOST);
	struct weft_h1_header one = {"host", e ? e->value : "", 4, e ? e->value_len : 0};

	add(f, &one);
}

int weft_h1_send_request(struct weft_exchange *x, const struct weft_headers *h, bool body)
{
	const struct weft_header *m = weft_headers_get(h, WEFT_H_METHOD);
	struct weft_h1_out o = {.minor = 1};
	struct fields f;
	int r;

	if (!m)
		return -EINVAL;
	x->connect = !strcmp(m->value, "CONNECT");
	x->upgrade = !x->connect && weft_headers_get(h, WEFT_H_UPGRADE);
	x->head = !strcmp(m->value, "HEAD");
	o.method = (struct weft_h1_slice){m->value, m->value_len};
	o.target = target_of(x, h);
	collect(x, h, &f, x->upgrade);
	/* Host goes first: the fields move up by one */
	memmove(f.v + 1, f.v, f.n * sizeof(*f.v));
	r = (int)f.n;
	f.n = 0;
	add_host(x, h, &f);
	f.n = (size_t)r + 1;
	r = request_framing(x, m->value, body, &f);
	if (r)
		return r;
	if (x->upgrade)
		add(&f, &UPGRADE);
	else if (f.close)
		add(&f, &CLOSE);
	x->s->h1.reuse &= !f.close;
	x->tx_head = true;
	return write_head(x, &o, &f);
}

/* Sets how the answer's body is framed. */
static int response_framing(struct weft_exchange *x, int status, bool end, struct fields *f)
{
	bool bodiless = status == 204 || status == 304 || status < 200;

	if (x->opaque)
		return 0;
	x->tx_no_body = x->head || bodiless;
	if (f->length && status != 204 && status >= 200) {
		int r = add_length(x, f);

		if (x->tx_no_body)
			x->tx_left = -1;
		return r;
	}
	if (bodiless)
		return 0;
	if (end) {
		if (!x->head)
			add(f, &NO_LENGTH);
	} else if (x->req_10) {
		x->tx_until_close = true;
		x->s->h1.reuse = false;
	} else {
		x->tx_chunked = !x->head;
		add(f, &CHUNKED);
	}
	return 0;
}

static void response_connection(struct weft_exchange *x, struct fields *f)
{
	struct weft_session *s = x->s;

	if (f->close || s->draining)
		s->h1.reuse = false;
	if (x->opaque)
		return;
	if (!s->h1.reuse)
		add(f, &CLOSE);
	else if (x->req_10)
		add(f, &KEEP);
}

int weft_h1_send_response(struct weft_exchange *x, const struct weft_headers *h, bool end)
{
	struct weft_h1_out o = {.minor = x->req_10 ? 0 : 1, .status = weft_headers_status(h)};
	bool taken = (x->upgrade && o.status == 101) || (x->connect && o.status / 100 == 2);
	const char *reason = weft_headers_reason(h);
	struct fields f;
	int r;

	if (o.status < 200 && !taken)
		return -EINVAL;
	if (reason)
		o.reason = (struct weft_h1_slice){reason, (uint32_t)strlen(reason)};
	collect(x, h, &f, taken && x->upgrade);
	x->opaque = taken;
	r = response_framing(x, o.status, end, &f);
	if (r)
		return r;
	if (taken && x->upgrade)
		add(&f, &UPGRADE);
	else
		response_connection(x, &f);
	x->tx_head = true;
	return write_head(x, &o, &f);
}

int weft_h1_send_interim(struct weft_exchange *x, const struct weft_headers *h)
{
	struct weft_h1_out o = {.minor = 1, .status = weft_headers_status(h)};
	struct fields f;

	if (o.status < 100 || o.status == 101 || o.status > 199)
		return -EINVAL;
	if (x->req_10)
		return 0;
	collect(x, h, &f, false);
	return write_head(x, &o, &f);
}

/* Small bodies are copied behind their head: one piece to write, and the reader keeps its chunk. */
static void move_bytes(struct evbuffer *out, struct evbuffer *b, size_t n)
{
	struct evbuffer_iovec vec;

	if (n > WEFT_SESSION_SMALL || evbuffer_reserve_space(out, (ev_ssize_t)n, &vec, 1) != 1) {
		evbuffer_add_buffer(out, b);
		return;
	}
	vec.iov_len = n;
	evbuffer_remove(b, vec.iov_base, n);
	evbuffer_commit_space(out, &vec, 1);
}

static void add_chunk(struct evbuffer *out, struct evbuffer *b, size_t n)
{
	char head[WEFT_H1_CHUNK_HEAD_MAX];

	evbuffer_add(out, head, weft_h1_chunk_head(head, n));
	move_bytes(out, b, n);
	evbuffer_add(out, "\r\n", 2);
}

/* More or less than the content-length the owner gave would shift all that follows. */
static bool fits(struct weft_exchange *x, size_t n, bool end)
{
	if (x->tx_left < 0)
		return true;
	x->tx_left -= (int64_t)n;
	return x->tx_left >= 0 && !(end && x->tx_left);
}

int weft_h1_send_body(struct weft_exchange *x, struct evbuffer *b, bool end)
{
	struct weft_io *io = x->s->io;
	struct evbuffer *out = weft_io_out(io);
	size_t n = evbuffer_get_length(b), had = evbuffer_get_length(out);

	if (x->tx_no_body) {
		evbuffer_drain(b, n);
		return 1;
	}
	if (!x->opaque && !fits(x, n, end)) {
		evbuffer_drain(b, n);
		return -EPROTO;
	}
	if (n && x->tx_chunked)
		add_chunk(out, b, n);
	else if (n)
		move_bytes(out, b, n);
	if (end && x->tx_chunked)
		evbuffer_add(out, "0\r\n\r\n", 5);
	x->wire.tx += evbuffer_get_length(out) - had;
	weft_io_flush(io);
	return !weft_io_full(io);
}

int weft_h1_send_last(struct weft_exchange *x, const struct weft_headers *trailers)
{
	struct evbuffer *out = weft_io_out(x->s->io);
	struct evbuffer_iovec vec;
	struct fields f;
	ssize_t n;

	if (x->tx_no_body || x->opaque)
		return 0;
	if (!x->tx_chunked)
		return x->tx_left > 0 ? -EPROTO : 0;
	collect(x, trailers, &f, false);
	if (!x->s->conf->h1.enable_trailers)
		f.n = f.bytes = 0;
	if (evbuffer_reserve_space(out, (ev_ssize_t)f.bytes + LINE, &vec, 1) != 1)
		return -ENOMEM;
	n = weft_h1_last_chunk_write(f.v, f.n,
				     x->s->conf->h1.proper_case && !f.spelt ? WEFT_H1_PROPER_CASE
									    : WEFT_H1_AS_IS,
				     vec.iov_base, vec.iov_len);
	if (n < 0)
		return -EINVAL;
	vec.iov_len = (size_t)n;
	evbuffer_commit_space(out, &vec, 1);
	x->wire.tx += (uint64_t)n;
	x->wire.tx_head += (uint32_t)f.bytes;
	weft_io_flush(x->s->io);
	return 0;
}

void weft_h1_send_error(struct weft_session *s, int status, const char *body, bool keep)
{
	evbuffer_add_printf(
		weft_io_out(s->io), "HTTP/1.1 %d %s\r\ncontent-length: %zu\r\n%s%s%s\r\n%s", status,
		weft_h1_reason(status), strlen(body), *body ? "content-type: text/plain\r\n" : "",
		keep ? "" : "connection: close\r\n", s->conf->h1.error_fields ?: "", body);
	weft_io_flush(s->io);
}
