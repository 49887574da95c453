/* A connection manager over a socketpair whose other end is raw bytes, with filters that do as they
 * are told and write a log. Filter N is an XffConfig whose xff_num_trusted_hops is N; the terminal
 * one is a UuidRequestIdConfig. */
#pragma once
#include "proxy/core/worker.h"
#include "proxy/http/filter.h"
#include "proxy/http/hcm.h"
#include "proxy/http/route_tables.h"
#include "proxy/http/stats.h"
#include "proxy/l4/chain.h"
#include "xds/proto/envoy/extensions/http/header_formatters/preserve_case/v3/preserve_case.pb-c.h"
#include "xds/proto/envoy/extensions/http/original_ip_detection/xff/v3/xff.pb-c.h"
#include "xds/proto/envoy/extensions/request_id/uuid/v3/uuid.pb-c.h"
#include "xds/yaml.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { FILTERS = 8, GOT = 1 << 20 };
struct plan {
	enum weft_flow headers[2], data[2], trailers[2];
	size_t limit, fill; /* of the request; 0: none */
	size_t resp_limit;
	int reply, reply_in; /* status; in headers() of a direction */
	const char *suffix;  /* added to every piece of body */
	bool resume_inside, quiet, clear_route;
	int closed;
	struct weft_stream *s;
	void *state;
	const void *conf;
};
static struct plan plan[FILTERS];
struct terminal {
	int status; /* 0: answer later */
	const char *body;
	bool echo, trailers, at_end, restart;
	int closed;
	unsigned full_told;
	bool full;
	struct weft_stream *s;
	char last_headers[4096];
};
static struct terminal term;
static char events[1 << 16];

static void note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void note(const char *fmt, ...)
{
	size_t n = strlen(events);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(events + n, sizeof(events) - n, fmt, ap);
	va_end(ap);
}

struct fstate {
	unsigned n;
	char dirty[64];
};

static struct plan *plan_of(const void *conf, unsigned *ret)
{
	const Envoy__Extensions__Http__OriginalIpDetection__Xff__V3__XffConfig *m = conf;

	*ret = m->xff_num_trusted_hops;
	return &plan[m->xff_num_trusted_hops];
}

static void tag(struct weft_headers *h, unsigned n)
{
	char v[8];

	snprintf(v, sizeof(v), "%u", n);
	weft_headers_append(h, weft_hid_of("forwarded", 9), v, strlen(v));
}

static enum weft_flow f_headers(struct weft_stream *s, const void *conf, void *state,
				enum weft_dir d, struct weft_headers *h, bool end)
{
	struct fstate *st = state;
	unsigned n;
	struct plan *p = plan_of(conf, &n);

	for (unsigned i = 0; i < sizeof(st->dirty) && !st->n; i++)
		assert_int_equal(st->dirty[i], 0);
	st->n = n + 1;
	memset(st->dirty, 0xee, sizeof(st->dirty));
	p->s = s;
	p->state = state;
	p->conf = conf;
	if (!p->quiet)
		note("%c%u%s ", d ? 'h' : 'H', n, end ? "." : "");
	tag(h, n);
	if (p->limit && !d && !end) {
		weft_stream_buffer_limit(s, d, p->limit);
		return WEFT_WAIT;
	}
	if (p->fill && !d && !end) {
		weft_stream_buffer_fill(s, d, p->fill);
		return WEFT_WAIT;
	}
	if (p->resp_limit && d && !end) {
		weft_stream_buffer_limit(s, d, p->resp_limit);
		return WEFT_WAIT;
	}
	if (p->reply && p->reply_in == (int)d)
		return weft_stream_reply(s, p->reply, "told_to", "no", NULL, NULL);
	if (p->resume_inside) {
		weft_stream_resume(s, state, d);
		return WEFT_WAIT;
	}
	return p->headers[d];
}

static enum weft_flow f_data(struct weft_stream *s, const void *conf, void *state, enum weft_dir d,
			     struct evbuffer *b, bool end)
{
	unsigned n;
	struct plan *p = plan_of(conf, &n);

	assert_int_equal(((struct fstate *)state)->n, n + 1);
	if (!p->quiet)
		note("%c%u:%zu%s ", d ? 'd' : 'D', n, evbuffer_get_length(b), end ? "." : "");
	if (p->suffix)
		evbuffer_add(b, p->suffix, strlen(p->suffix));
	return p->data[d];
}

static enum weft_flow f_trailers(struct weft_stream *s, const void *conf, void *state,
				 enum weft_dir d, struct weft_headers *h)
{
	unsigned n;
	struct plan *p = plan_of(conf, &n);

	note("%c%u ", d ? 't' : 'T', n);
	return p->trailers[d];
}

static void f_closed(struct weft_stream *s, const void *conf, void *state)
{
	unsigned n;
	struct plan *p = plan_of(conf, &n);

	p->closed++;
	if (!p->quiet)
		note("C%u ", n);
}

static const struct weft_http_filter fake_filter = {
	.ext = {.name = "test.filter",
		.config =
			&envoy__extensions__http__original_ip_detection__xff__v3__xff_config__descriptor,
		.per_route =
			&envoy__extensions__http__original_ip_detection__xff__v3__xff_config__descriptor,
		.state_size = sizeof(struct fstate)},
	.headers = f_headers,
	.data = f_data,
	.trailers = f_trailers,
	.closed = f_closed,
};

/* One that looks at everything and does nothing: a PreserveCaseFormatterConfig. */
static enum weft_flow n_headers(struct weft_stream *s, const void *conf, void *state,
				enum weft_dir d, struct weft_headers *h, bool end)
{
	return WEFT_NEXT;
}

static enum weft_flow n_data(struct weft_stream *s, const void *conf, void *state, enum weft_dir d,
			     struct evbuffer *b, bool end)
{
	return WEFT_NEXT;
}

static const struct weft_http_filter idle_filter = {
	.ext = {.name = "test.idle",
		.config =
			&envoy__extensions__http__header_formatters__preserve_case__v3__preserve_case_formatter_config__descriptor},
	.headers = n_headers,
	.data = n_data,
};
static unsigned idle_filters; /* how many before the others */
static bool fix_own_filters;  /* `more` begins http_filters itself, and fake_filter is not there */

/* ---- the one that answers */

static void answer(struct weft_stream *s, int status, const char *body, bool end)
{
	struct weft_headers *h = weft_arena_alloc(weft_stream_arena(s), sizeof(*h));
	struct evbuffer *b = evbuffer_new();
	char text[8];

	weft_headers_init(h, weft_stream_arena(s));
	snprintf(text, sizeof(text), "%d", status);
	weft_headers_add_id(h, WEFT_H_STATUS, text, 3);
	weft_stream_respond_headers(s, h, end && !body);
	if (body) {
		evbuffer_add(b, body, strlen(body));
		weft_stream_respond_data(s, b, end);
	}
	evbuffer_free(b);
}

static void answer_all(struct weft_stream *s)
{
	struct weft_headers *t;

	answer(s, term.status, term.body, !term.trailers);
	if (!term.trailers)
		return;
	t = weft_arena_alloc(weft_stream_arena(s), sizeof(*t));
	weft_headers_init(t, weft_stream_arena(s));
	weft_headers_add(t, "x-sum", 5, "1", 1);
	weft_stream_respond_trailers(s, t);
}

static void on_full(void *ctx, bool full)
{
	term.full_told++;
	term.full = full;
}

static enum weft_flow t_headers(struct weft_stream *s, const void *conf, void *state,
				enum weft_dir d, struct weft_headers *h, bool end)
{
	size_t n = 0;

	assert_int_equal(d, WEFT_REQUEST);
	note("HT%s ", end ? "." : "");
	term.s = s;
	term.last_headers[0] = '\0';
	for (uint32_t i = 0; i < h->n && n < sizeof(term.last_headers) - 512; i++)
		n += (size_t)snprintf(term.last_headers + n, 512, "%.200s=%.300s\n", h->v[i].name,
				      h->v[i].value);
	weft_stream_on_writable(s, on_full, NULL);
	if (term.restart) {
		term.restart = false;
		weft_headers_set_id(h, WEFT_H_PATH, "/again", 6);
		assert_int_equal(weft_stream_restart(s), 0);
		return WEFT_DONE;
	}
	if (term.echo)
		answer(s, term.status, end ? term.body : NULL, end);
	else if (term.status && (end || !term.at_end))
		answer_all(s);
	return WEFT_NEXT;
}

static enum weft_flow t_data(struct weft_stream *s, const void *conf, void *state, enum weft_dir d,
			     struct evbuffer *b, bool end)
{
	note("DT:%zu%s ", evbuffer_get_length(b), end ? "." : "");
	if (term.echo)
		weft_stream_respond_data(s, b, end);
	else
		evbuffer_drain(b, evbuffer_get_length(b));
	if (end && term.at_end && term.status)
		answer_all(s);
	return WEFT_NEXT;
}

static enum weft_flow t_trailers(struct weft_stream *s, const void *conf, void *state,
				 enum weft_dir d, struct weft_headers *h)
{
	note("TT ");
	if (term.at_end && term.status)
		answer_all(s);
	return WEFT_NEXT;
}

static void t_closed(struct weft_stream *s, const void *conf, void *state)
{
	term.closed++;
	term.s = NULL;
	note("CT ");
}

static const struct weft_http_filter fake_terminal = {
	.ext = {.name = "test.terminal",
		.config =
			&envoy__extensions__request_id__uuid__v3__uuid_request_id_config__descriptor,
		.state_size = 8},
	.headers = t_headers,
	.data = t_data,
	.trailers = t_trailers,
	.closed = t_closed,
	.terminal = true,
};

/* ---- a connection */

struct env {
	struct weft_worker *w;
	struct weft_arena *a;
	struct weft_cfg cfg;
	struct weft_errs errs;
	struct weft_net_context ctx;
	const struct weft_chain_conf *conf;
	struct weft_chain *ch;
	int fd;
	bool closed;
	char got[GOT];
	size_t n;
};

static const ProtobufCMessageDescriptor *pick_filter(void *ctx, const char *v, const char *k,
						     bool *lenient, struct weft_err *e)
{
	return &envoy__config__listener__v3__filter__descriptor;
}

static const char ROUTES[] = "  route_config:\n"
			     "    name: r\n"
			     "    virtual_hosts:\n"
			     "    - name: all\n"
			     "      domains: ['*']\n"
			     "      routes:\n"
			     "      - match: {prefix: /}\n"
			     "        non_forwarding_action: {}\n";

__attribute__((unused)) static const char *fix_cluster, *fix_node; /* of the bootstrap */

/* more: YAML of the connection manager, indented by two; filters: how many fake ones. */
static struct env *env_new(const char *more, unsigned filters, bool routes)
{
	struct env *e = calloc(1, sizeof(*e));
	struct weft_yaml_doc *docs = NULL;
	struct weft_path at = {NULL, "filters", -1};
	char yaml[32768], err[512];
	Envoy__Config__Listener__V3__Filter *f;
	size_t n = 0, len;

	signal(SIGPIPE, SIG_IGN);
	memset(plan, 0, sizeof(plan));
	memset(&term, 0, sizeof(term));
	events[0] = '\0';
	weft_http_register();
	if (!fix_own_filters)
		weft_http_filter_register(&fake_filter);
	weft_http_filter_register(&fake_terminal);
	weft_http_filter_register(&idle_filter);
	len = (size_t)snprintf(yaml, sizeof(yaml),
			       "name: hcm\ntyped_config:\n  \"@type\": type.googleapis.com/"
			       "envoy.extensions.filters.network.http_connection_manager.v3."
			       "HttpConnectionManager\n"
			       "  stat_prefix: t\n%s%s%s",
			       routes ? ROUTES : "", more ?: "",
			       fix_own_filters ? "" : "  http_filters:\n");
	for (unsigned i = 0; i < idle_filters; i++)
		len += (size_t)snprintf(yaml + len, sizeof(yaml) - len,
					"  - name: n%u\n    typed_config: {\"@type\": "
					"type.googleapis.com/envoy.extensions.http."
					"header_formatters.preserve_case.v3."
					"PreserveCaseFormatterConfig}\n",
					i);
	for (unsigned i = 0; i < filters; i++)
		len += (size_t)snprintf(yaml + len, sizeof(yaml) - len,
					"  - name: f%u\n    typed_config: {\"@type\": "
					"type.googleapis.com/envoy.extensions.http."
					"original_ip_detection.xff.v3.XffConfig, "
					"xff_num_trusted_hops: %u}\n",
					i, i);
	snprintf(yaml + len, sizeof(yaml) - len,
		 "  - name: t\n    typed_config: {\"@type\": type.googleapis.com/envoy.extensions."
		 "request_id.uuid.v3.UuidRequestIdConfig}\n");
	e->ctx.cluster = fix_cluster;
	e->ctx.node = fix_node;
	e->w = weft_worker_new(0, NULL);
	e->a = weft_arena_new(0);
	e->cfg = (struct weft_cfg){.arena = e->a, .errs = &e->errs, .context = &e->ctx};
	weft_yaml_decode(e->a, "t.yaml", yaml, strlen(yaml), pick_filter, NULL, &docs, &n,
			 &e->errs);
	if (e->errs.n)
		print_message("# %s\n", weft_err_text(&e->errs.v[0], err, sizeof(err)));
	assert_int_equal(e->errs.n, 0);
	assert_int_equal(n, 1);
	e->cfg.marks = docs[0].marks;
	f = (void *)docs[0].msg;
	weft_chain_prepare(&e->cfg, &at, &f, 1, &e->conf);
	return e;
}

static void env_ok(struct env *e)
{
	char err[512];

	if (e->errs.n)
		print_message("# %s\n", weft_err_text(&e->errs.v[0], err, sizeof(err)));
	assert_int_equal(e->errs.n, 0);
}

static void chain_closed(void *owner, struct weft_chain *ch)
{
	struct env *e = owner;

	e->closed = true;
	e->ch = NULL;
}

static void nothing(struct weft_io *io)
{
}
static void io_closed(struct weft_io *io, enum weft_io_end why, int err)
{
}
static const struct weft_io_ops no_ops = {
	.readable = nothing, .writable = nothing, .closed = io_closed};

/* Of connections that begin: NULL, plain. */
static const struct weft_tls_info *fix_tls;

__attribute__((unused)) static bool fix_unix; /* nobody has an address */

static void env_connect(struct env *e)
{
	struct weft_chain_start start = {.worker = e->w,
					 .conf = e->conf,
					 .listener_name = "l",
					 .closed = chain_closed,
					 .owner = e};
	int fd[2];

	env_ok(e);
	if (e->fd)
		close(e->fd);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
	e->fd = fd[1];
	e->closed = false;
	e->n = 0;
	start.io = weft_io_new(e->w->base, fd[0], NULL, NULL, &no_ops, NULL);
	weft_io_info_edit(start.io)->remote.ip.family = 4;
	memcpy(weft_io_info_edit(start.io)->remote.ip.b, "\x0a\x01\x02\x03", 4);
	weft_io_info_edit(start.io)->local.ip.family = 4;
	memcpy(weft_io_info_edit(start.io)->local.ip.b, "\x0a\x01\x02\x04", 4);
	weft_io_info_edit(start.io)->local.port = 8080;
	weft_io_info_edit(start.io)->tls = fix_tls;
	if (fix_tls)
		weft_io_info_edit(start.io)->sni = "name.example";
	if (fix_unix)
		weft_io_info_edit(start.io)->remote.ip.family =
			weft_io_info_edit(start.io)->local.ip.family = 0;
	e->ch = weft_chain_new(&start);
}

__attribute__((unused)) static struct env *env_open(const char *more, unsigned filters)
{
	struct env *e = env_new(more, filters, true);

	env_connect(e);
	return e;
}

static void drain_fd(struct env *e)
{
	ssize_t r;

	while (e->n < GOT - 1 && (r = read(e->fd, e->got + e->n, GOT - 1 - e->n)) > 0)
		e->n += (size_t)r;
	e->got[e->n] = '\0';
}

/* Turns of the loop until nothing is due at once; ms: at least so long. */
static void turn(struct env *e, unsigned ms)
{
	uint64_t until = weft_now_ns() + ms * 1000000ull;

	do {
		for (int i = 0; i < 20; i++) {
			event_base_loop(e->w->base, EVLOOP_NONBLOCK);
			if (e->fd >= 0)
				drain_fd(e);
		}
		if (ms)
			usleep(500);
	} while (weft_now_ns() < until);
}

static void say(struct env *e, const char *text)
{
	size_t n = strlen(text);

	while (n) {
		ssize_t r = write(e->fd, text, n);

		if (r < 0 && errno != EAGAIN)
			break;
		if (r > 0) {
			text += r;
			n -= (size_t)r;
		}
		turn(e, 0);
	}
	turn(e, 0);
}

__attribute__((unused)) static bool has(const struct env *e, const char *text)
{
	bool there = strstr(e->got, text);

	if (!there)
		print_message("# \"%s\" is not in:\n%s\n# events: %s\n", text, e->got, events);
	return there;
}

__attribute__((unused)) static int64_t stat_of(enum weft_http_stat i)
{
	struct weft_scope *s = weft_scope_get(&weft_http_scope_class, "t");
	int64_t v = weft_scope_value(s, i);

	weft_scope_unref(s);
	return v;
}

static void env_free(struct env *e)
{
	if (e->fd > 0)
		close(e->fd);
	e->fd = -1;
	for (int i = 0; i < 2000 && e->ch; i++)
		turn(e, 1);
	assert_null(e->ch);
	turn(e, 2); /* sockets that linger see the end */
	weft_worker_free(e->w);
	weft_arena_free(e->a);
	free(e);
}

struct bad {
	const char *yaml, *err;
};
/* Each configuration behind head is refused, and its first error says so. */
__attribute__((unused)) static void refuse_each(const char *head, const struct bad *v, size_t n)
{
	fix_own_filters = true;
	for (size_t i = 0; i < n; i++) {
		char more[4096], text[1024] = "";
		struct env *e;

		snprintf(more, sizeof(more), "%s%s", head, v[i].yaml);
		e = env_new(more, 0, true);
		if (e->errs.n)
			weft_err_text(&e->errs.v[0], text, sizeof(text));
		if (!strstr(text, v[i].err)) {
			print_message("# wanted \"%s\", got \"%s\"\n", v[i].err, text);
			fail();
		}
		env_free(e);
	}
}
