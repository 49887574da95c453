/* Calls to services that the test answers itself: these two stand before those of the archive. */
#pragma once
#include "proxy/upstream/pool.h"
#include "test/unit/proxy/http/filters/filter_fix.h"

#include <event2/buffer.h>

enum { CALLS = 32 };
struct weft_call {
	struct weft_call_conf conf;
	struct weft_arena *a;
	struct weft_headers h;
	struct evbuffer *body;
	bool over; /* answered or cancelled */
};
static struct weft_call calls[CALLS]; /* of the last environment, in order */
static unsigned n_calls;
static bool no_cluster;

struct weft_call *weft_call_start(struct weft_worker *w, const struct weft_call_conf *conf)
{
	struct weft_call *c = &calls[n_calls];

	if (no_cluster)
		return NULL;
	assert_true(n_calls < CALLS);
	n_calls++;
	c->conf = *conf;
	c->over = false;
	c->a = weft_arena_new(0);
	c->body = evbuffer_new();
	weft_headers_init(&c->h, c->a);
	for (uint32_t i = 0; i < conf->headers->n; i++) {
		const struct weft_header *f = &conf->headers->v[i];

		weft_headers_add(&c->h, f->name, f->name_len, f->value, f->value_len);
	}
	if (conf->body)
		evbuffer_add_buffer(c->body, conf->body);
	return c;
}

void weft_call_cancel(struct weft_call *c)
{
	if (c)
		c->over = true;
}

static void calls_clear(void)
{
	while (n_calls) {
		struct weft_call *c = &calls[--n_calls];

		weft_arena_free(c->a);
		evbuffer_free(c->body);
	}
}

/* Of the last call; "" none. */
static const char *asked(const char *header)
{
	const struct weft_header *f;

	assert_true(n_calls);
	f = weft_headers_find(&calls[n_calls - 1].h, header, strlen(header));
	return f ? f->value : "";
}

/* Answers the last call. heads: "name: value\n" lines; trailers: NULL, or as they. */
static void lines_of(struct weft_headers *h, struct weft_arena *a, const char *text)
{
	weft_headers_init(h, a);
	while (text && *text) {
		size_t n = strcspn(text, "\n"), name_n = strcspn(text + 1, ":") + 1;
		const char *v = text + name_n + 1 + (text[name_n + 1] == ' ');

		weft_headers_add(h, weft_arena_strndup(a, text, name_n), name_n, v,
				 (size_t)(text + n - v));
		text += n + (text[n] == '\n');
	}
}

static void call_answer(struct env *e, int status, const char *heads, const void *body,
			size_t body_n, const char *trailers)
{
	struct weft_call *c = &calls[n_calls - 1];
	struct weft_headers h, t;
	struct weft_call_result r = {.status = status, .headers = status ? &h : NULL, .detail = ""};

	assert_true(n_calls && !c->over);
	c->over = true;
	lines_of(&h, c->a, heads);
	lines_of(&t, c->a, trailers);
	r.body = evbuffer_new();
	evbuffer_add(r.body, body, body_n);
	r.trailers = trailers ? &t : NULL;
	c->conf.done(c->conf.owner, &r);
	evbuffer_free(r.body);
	turn(e, 0);
}

/* A string of dynamic metadata of the request that the terminal filter holds; NULL: none. */
static inline const char *meta_string(const char *ns, const char *key)
{
	const Google__Protobuf__Struct *s;

	assert_non_null(term.s);
	s = weft_info_meta_get(weft_stream_info(term.s), ns);
	for (size_t i = 0; s && i < s->n_fields; i++)
		if (!strcmp(s->fields[i]->key, key))
			return s->fields[i]->value->string_value;
	return NULL;
}

/* The held request is answered. */
static inline void term_answer(struct env *e)
{
	assert_non_null(term.s);
	answer(term.s, 200, "ok", true);
	turn(e, 0);
	assert_true(has(e, "HTTP/1.1 200"));
	e->n = 0;
}
