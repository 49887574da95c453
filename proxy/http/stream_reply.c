/* Answers made here. */
#include "proxy/http/stream_priv.h"

#include "proxy/codec/grpc.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* grpc-message: what is not printable ASCII, and %, as %XX. */
static const char *grpc_message(struct weft_arena *a, const char *s, size_t n, size_t *ret_n)
{
	static const char hex[] = "0123456789ABCDEF";
	char *p = weft_arena_alloc(a, 3 * n + 1);
	size_t to = 0;

	for (size_t i = 0; i < n; i++) {
		unsigned char ch = (unsigned char)s[i];

		if (ch >= ' ' && ch <= '~' && ch != '%') {
			p[to++] = (char)ch;
			continue;
		}
		p[to++] = '%';
		p[to++] = hex[ch >> 4];
		p[to++] = hex[ch & 15];
	}
	*ret_n = to;
	return p;
}

static void make_grpc(struct weft_stream *s, struct weft_headers *h, struct weft_local_text *t,
		      int grpc_status)
{
	char text[12];
	size_t n;
	const char *m;

	weft_headers_set_id(h, WEFT_H_STATUS, "200", 3);
	weft_headers_set_id(h, WEFT_H_CONTENT_TYPE, "application/grpc", 16);
	if (!weft_headers_get(h, WEFT_H_GRPC_STATUS)) {
		snprintf(text, sizeof(text), "%d",
			 grpc_status >= 0 ? grpc_status : weft_grpc_of_http(t->status));
		weft_headers_set_id(h, WEFT_H_GRPC_STATUS, text, strlen(text));
	}
	if (t->n && t->body[t->n - 1] == '\n')
		t->n--; /* of a JSON line; a header has none */
	if (t->n && !s->is_head) {
		m = grpc_message(s->arena, t->body, t->n, &n);
		weft_headers_set_id(h, WEFT_H_GRPC_MESSAGE, m, n);
	}
	weft_headers_remove_id(h, WEFT_H_CONTENT_LENGTH);
	t->n = 0;
}

static void make_plain(struct weft_headers *h, const struct weft_local_text *t, bool custom)
{
	char text[24];

	if (!t->n) {
		weft_headers_remove_id(h, WEFT_H_CONTENT_LENGTH);
		weft_headers_remove_id(h, WEFT_H_CONTENT_TYPE);
		return;
	}
	snprintf(text, sizeof(text), "%zu", t->n);
	weft_headers_set_id(h, WEFT_H_CONTENT_LENGTH, text, strlen(text));
	if (!custom)
		weft_headers_set_id(h, WEFT_H_CONTENT_TYPE, t->content_type,
				    strlen(t->content_type));
}

static struct weft_headers *make_head(struct weft_stream *s, const struct weft_reply *a,
				      struct weft_local_text *t)
{
	struct weft_headers *h = weft_arena_alloc(s->arena, sizeof(*h));
	const char *type;
	char text[12];

	weft_headers_init(h, s->arena);
	snprintf(text, sizeof(text), "%d", a->status);
	weft_headers_add_id(h, WEFT_H_STATUS, text, strlen(text));
	if (a->edit)
		a->edit(a->ctx, h);
	type = weft_headers_value(h, WEFT_H_CONTENT_TYPE);
	*t = (struct weft_local_text){
		.status = a->status,
		.body = a->body ?: "",
		.n = a->body_n,
		.content_type = a->content_type ?: "text/plain",
	};
	weft_local_reply_rewrite(s->c->conf->replies, &s->info, s->head[WEFT_REQUEST], h, t);
	if (s->grpc)
		make_grpc(s, h, t, a->has_grpc_status ? a->grpc_status : -1);
	else
		make_plain(h, t, type != weft_headers_value(h, WEFT_H_CONTENT_TYPE));
	return h;
}

/* The first filter an answer made here goes through: all of them, also those the request never came
 * to; from inside a response filter those outside of it. */
static int outer_of(struct weft_stream *s)
{
	if (!s->chain) /* refused before its filters were chosen: they see the answer */
		weft_stream_choose_chain(s, s->c->conf->chain);
	if (s->cur[WEFT_RESPONSE] >= 0)
		return s->cur[WEFT_RESPONSE] - 1;
	if (s->answering) /* in a response filter that waited */
		for (unsigned i = 0; i < s->chain->n; i++)
			if (s->slot[i].hold[WEFT_RESPONSE] &&
			    s->slot[i].hold[WEFT_RESPONSE]->waiting)
				return (int)i - 1;
	s->reached = (int16_t)(s->chain->n - 1);
	return stream_first(s, WEFT_RESPONSE);
}

/* After what is said to be malformed nothing more is read from an HTTP/1 connection. */
static void end_after(struct weft_stream *s)
{
	struct hcm_conn *c = s->c;

	if (s->info.protocol == WEFT_HTTP_2 || !c->session || c->drain == HCM_CLOSING ||
	    c->conf->session[HCM_H1].h1.stream_error_on_invalid)
		return;
	c->drain = HCM_CLOSING;
	weft_session_drain(c->session, 0);
}

enum weft_flow weft_stream_answer(struct weft_stream *s, const struct weft_reply *a)
{
	struct weft_local_text t;
	struct evbuffer *b = NULL;
	uint16_t epoch;
	int i;

	if (s->over || s->tx_end)
		return WEFT_DONE;
	if (s->tx_head) {
		weft_stream_cut(s, WEFT_RESET_LOCAL, a->details);
		return WEFT_DONE;
	}
	stream_enter(s);
	if (a->status == 400)
		end_after(s);
	if (a->details)
		s->info.details = weft_arena_strdup(s->arena, a->details);
	i = outer_of(s);
	s->local = s->answering = true;
	s->epoch[WEFT_REQUEST]++;
	epoch = ++s->epoch[WEFT_RESPONSE];
	weft_stream_drop_holds(s, WEFT_REQUEST);
	weft_stream_drop_holds(s, WEFT_RESPONSE);
	s->head[WEFT_RESPONSE] = make_head(s, a, &t);
	s->trailers[WEFT_RESPONSE] = NULL;
	s->resp_end = true;
	s->resp_head_end = !t.n || s->is_head;
	if (!s->resp_head_end) {
		b = evbuffer_new();
		if (!b)
			abort();
		evbuffer_add(b, t.body, t.n);
	}
	weft_stream_run_headers(s, WEFT_RESPONSE, i);
	if (b && !stream_dead(s, WEFT_RESPONSE, epoch))
		weft_stream_run_data(s, WEFT_RESPONSE, i, b, true);
	if (b)
		evbuffer_free(b);
	weft_stream_leave(s);
	return WEFT_DONE;
}

enum weft_flow weft_stream_reply(struct weft_stream *s, int status, const char *details,
				 const char *body, void (*edit)(void *ctx, struct weft_headers *h),
				 void *ctx)
{
	struct weft_reply a = {
		.status = status,
		.details = details,
		.body = body,
		.body_n = body ? strlen(body) : 0,
		.edit = edit,
		.ctx = ctx,
	};

	return weft_stream_answer(s, &a);
}
