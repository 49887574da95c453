/* A stream running through its filters, both ways. Every callback may end or change the stream:
 * after each one the direction's epoch is looked at. */
#include "proxy/http/stream_priv.h"

#include <stdlib.h>

static int step(enum weft_dir d)
{
	return d == WEFT_REQUEST ? 1 : -1;
}

static bool in_chain(const struct weft_stream *s, int i)
{
	return i >= 0 && i < (int)s->chain->n;
}

/* The next filter from i on that wants the call, or that holds this direction; -1: none. */
static int next_of(const struct weft_stream *s, enum weft_dir d, enum http_call k, int i)
{
	for (; in_chain(s, i); i += step(d)) {
		if (!s->holds[d]) {
			uint8_t at = s->chain->next[d][k][i];

			if (at == HTTP_NONE)
				return -1;
			i = at;
		}
		if (s->slot[i].hold[d] && s->slot[i].hold[d]->waiting)
			return i;
		if (s->slot[i].off || (d == WEFT_RESPONSE && s->chain->v[i].f->terminal))
			continue;
		if (k == HTTP_HEADERS ? s->chain->v[i].f->headers != NULL
		    : k == HTTP_DATA  ? s->chain->v[i].f->data != NULL
				      : s->chain->v[i].f->trailers != NULL)
			return i;
	}
	return -1;
}

static struct hold *hold_of(struct weft_stream *s, enum weft_dir d, int i)
{
	struct hold *h = s->slot[i].hold[d];

	if (!h)
		h = s->slot[i].hold[d] = weft_arena_alloc(s->arena, sizeof(*h));
	if (!h->b && !(h->b = evbuffer_new()))
		abort();
	return h;
}

static struct hold *hold_begin(struct weft_stream *s, enum weft_dir d, int i)
{
	struct hold *h = hold_of(s, d, i);

	h->waiting = true;
	s->holds[d]++;
	return h;
}

static void hold_end(struct weft_stream *s, enum weft_dir d, struct hold *h)
{
	h->waiting = false;
	s->holds[d]--;
	if (h->paused) {
		h->paused = false;
		weft_stream_unpause_dir(s, d);
	}
}

void weft_stream_drop_holds(struct weft_stream *s, enum weft_dir d)
{
	if (!s->slot)
		return;
	for (unsigned i = 0; i < s->chain->n; i++) {
		struct hold *h = s->slot[i].hold[d];

		if (!h)
			continue;
		if (h->waiting)
			hold_end(s, d, h);
		if (h->b)
			evbuffer_free(h->b);
		s->slot[i].hold[d] = NULL;
	}
}

/* Notes who is asked, for what it may do meanwhile; true: WAIT, and not resumed already. */
static bool waits(struct weft_stream *s, enum weft_dir d, int i, enum weft_flow r)
{
	bool early = s->slot[i].early & 1u << d;

	s->slot[i].early &= (uint8_t) ~(1u << d);
	return r == WEFT_WAIT && !early;
}

static void *state_of(const struct weft_stream *s, int i)
{
	return s->state + s->chain->v[i].state;
}

/* ---- headers */

static void headers_through(struct weft_stream *s, enum weft_dir d)
{
	if (d == WEFT_REQUEST)
		s->reached = (int16_t)(s->chain->n - 1);
	else
		weft_stream_send_headers(s);
}

void weft_stream_run_headers(struct weft_stream *s, enum weft_dir d, int i)
{
	uint16_t epoch = s->epoch[d];

	while ((i = next_of(s, d, HTTP_HEADERS, i)) >= 0) {
		const struct http_item *it = &s->chain->v[i];
		int16_t was = s->cur[d];
		enum weft_flow r = WEFT_NEXT;

		if (d == WEFT_REQUEST && s->reached < i)
			s->reached = (int16_t)i;
		s->cur[d] = (int16_t)i;
		if (it->f->headers)
			r = it->f->headers(s, s->slot[i].conf, state_of(s, i), d, s->head[d],
					   d == WEFT_REQUEST ? s->head_end : s->resp_head_end);
		s->cur[d] = was;
		if (stream_dead(s, d, epoch) || r == WEFT_DONE)
			return;
		if (waits(s, d, i, r)) {
			hold_begin(s, d, i)->headers = true;
			return;
		}
		i += step(d);
	}
	headers_through(s, d);
}

/* ---- bytes that a waiting filter keeps */

static size_t high_of(const struct weft_stream *s)
{
	struct weft_io *io = s->c->session ? weft_session_io(s->c->session) : NULL;

	return io ? weft_io_high(io) : 1 << 20;
}

static void too_large(struct weft_stream *s, enum weft_dir d)
{
	if (d == WEFT_REQUEST) {
		hcm_count(s->c, WEFT_HTTP_downstream_rq_too_large);
		weft_stream_reply(s, 413, "request_payload_too_large", "Payload Too Large", NULL,
				  NULL);
		return;
	}
	hcm_count(s->c, WEFT_HTTP_rs_too_large);
	weft_stream_reply(s, 500, "response_payload_too_large", "Internal Server Error", NULL,
			  NULL);
}

static void release(struct weft_stream *s, enum weft_dir d, int i);

/* The filter that asked for the whole body is given it. */
static void give_whole(struct weft_stream *s, enum weft_dir d, int i, struct hold *h)
{
	const struct http_item *it = &s->chain->v[i];
	const void *conf = s->slot[i].conf;
	uint16_t epoch = s->epoch[d];
	enum weft_flow r = WEFT_NEXT;
	int16_t was = s->cur[d];
	bool wait;

	s->cur[d] = (int16_t)i;
	s->limit_by[d] = -1;
	h->end_told = h->end && !h->trailers;
	if (it->f->data)
		r = it->f->data(s, conf, state_of(s, i), d, h->b, h->end_told);
	if (stream_dead(s, d, epoch) || r == WEFT_DONE)
		goto out;
	wait = waits(s, d, i, r);
	if (wait && h->trailers) {
		h->trailers_told = true;
		r = it->f->trailers ? it->f->trailers(s, conf, state_of(s, i), d, s->trailers[d])
				    : WEFT_NEXT;
		if (stream_dead(s, d, epoch) || r == WEFT_DONE)
			goto out;
		wait = waits(s, d, i, r);
	}
	s->cur[d] = was;
	h->seen = evbuffer_get_length(h->b);
	if (!wait)
		release(s, d, i);
	return;
out:
	s->cur[d] = was;
}

static void keep(struct weft_stream *s, enum weft_dir d, int i, struct evbuffer *b, bool end)
{
	struct hold *h = hold_of(s, d, i);
	bool mine = s->limit_by[d] == i;
	size_t n;

	evbuffer_add_buffer(h->b, b);
	h->end |= end;
	n = evbuffer_get_length(h->b);
	if (mine && s->limit_fill[d] && (n >= s->limit[d] || end))
		give_whole(s, d, i, h);
	else if (mine && n > s->limit[d])
		too_large(s, d);
	else if (mine && end)
		give_whole(s, d, i, h);
	else if (!mine && n > high_of(s) && !h->paused) {
		h->paused = true;
		weft_stream_pause_dir(s, d);
	}
}

/* ---- data */

static void data_through(struct weft_stream *s, enum weft_dir d, struct evbuffer *b, bool end)
{
	if (d == WEFT_RESPONSE)
		weft_stream_send_data(s, b, end);
	else
		evbuffer_drain(b, evbuffer_get_length(b));
}

void weft_stream_run_data(struct weft_stream *s, enum weft_dir d, int i, struct evbuffer *b,
			  bool end)
{
	uint16_t epoch = s->epoch[d];

	while ((i = next_of(s, d, HTTP_DATA, i)) >= 0) {
		const struct http_item *it = &s->chain->v[i];
		int16_t was = s->cur[d];
		enum weft_flow r;
		struct hold *h;

		if (s->slot[i].hold[d] && s->slot[i].hold[d]->waiting) {
			keep(s, d, i, b, end);
			return;
		}
		s->cur[d] = (int16_t)i;
		r = it->f->data(s, s->slot[i].conf, state_of(s, i), d, b, end);
		s->cur[d] = was;
		if (stream_dead(s, d, epoch) || r == WEFT_DONE)
			return;
		if (waits(s, d, i, r)) {
			h = hold_begin(s, d, i);
			h->end_told = end;
			h->seen = evbuffer_get_length(b);
			if (s->limit_by[d] == i && end)
				s->limit_by[d] = -1; /* it has seen all there is */
			keep(s, d, i, b, end);
			return;
		}
		i += step(d);
	}
	data_through(s, d, b, end);
}

/* ---- trailers */

void weft_stream_run_trailers(struct weft_stream *s, enum weft_dir d, int i)
{
	uint16_t epoch = s->epoch[d];

	while ((i = next_of(s, d, HTTP_TRAILERS, i)) >= 0) {
		const struct http_item *it = &s->chain->v[i];
		struct hold *h = s->slot[i].hold[d];
		int16_t was = s->cur[d];
		enum weft_flow r;

		if (h && h->waiting) {
			h->trailers = true;
			h->end = true;
			if (s->limit_by[d] == i)
				give_whole(s, d, i, h);
			return;
		}
		s->cur[d] = (int16_t)i;
		r = it->f->trailers(s, s->slot[i].conf, state_of(s, i), d, s->trailers[d]);
		s->cur[d] = was;
		if (stream_dead(s, d, epoch) || r == WEFT_DONE)
			return;
		if (waits(s, d, i, r)) {
			h = hold_begin(s, d, i);
			h->trailers = h->trailers_told = true;
			return;
		}
		i += step(d);
	}
	if (d == WEFT_RESPONSE)
		weft_stream_send_trailers(s);
}

/* ---- on from where it waited */

static void give_held(struct weft_stream *s, enum weft_dir d, int i, const struct hold *h)
{
	struct evbuffer *seen = evbuffer_new(), *rest = h->b;
	uint16_t epoch = s->epoch[d];
	bool end = h->end && !h->trailers, all;

	if (!seen)
		abort();
	evbuffer_remove_buffer(rest, seen, h->seen);
	all = !evbuffer_get_length(rest);
	if (evbuffer_get_length(seen) || (end && h->end_told))
		weft_stream_run_data(s, d, i + step(d), seen, end && h->end_told && all);
	if (!stream_dead(s, d, epoch) && (!all || (end && !h->end_told)))
		weft_stream_run_data(s, d, i, rest, end);
	evbuffer_free(seen);
	evbuffer_free(rest);
}

static void release(struct weft_stream *s, enum weft_dir d, int i)
{
	struct hold *h = s->slot[i].hold[d], was = *h;
	uint16_t epoch = s->epoch[d];

	if (s->limit_by[d] == i)
		s->limit_by[d] = -1;
	hold_end(s, d, h);
	*h = (struct hold){0};
	if (was.headers)
		weft_stream_run_headers(s, d, i + step(d));
	if (stream_dead(s, d, epoch)) {
		evbuffer_free(was.b);
		return;
	}
	give_held(s, d, i, &was);
	if (stream_dead(s, d, epoch) || !was.trailers)
		return;
	weft_stream_run_trailers(s, d, was.trailers_told ? i + step(d) : i);
}

/* Of a filter by its state; -1: there is none now. */
static int index_of(const struct weft_stream *s, const void *state)
{
	for (int i = 0; s->slot && i < (int)s->chain->n; i++)
		if (state_of(s, i) == state)
			return i;
	return -1;
}

void weft_stream_resume(struct weft_stream *s, const void *state, enum weft_dir d)
{
	int i = index_of(s, state);

	if (s->over || i < 0)
		return;
	if (s->cur[d] == i) {
		s->slot[i].early |= (uint8_t)(1u << d);
		return;
	}
	if (!s->slot[i].hold[d] || !s->slot[i].hold[d]->waiting)
		return;
	stream_enter(s);
	weft_stream_touch(s);
	release(s, d, i);
	weft_stream_leave(s);
}

void weft_stream_inject(struct weft_stream *s, const void *state, enum weft_dir d,
			struct evbuffer *b, bool end)
{
	int i = index_of(s, state);

	if (s->over || i < 0)
		return;
	stream_enter(s);
	weft_stream_touch(s);
	weft_stream_run_data(s, d, i + step(d), b, end);
	weft_stream_leave(s);
}

struct evbuffer *weft_stream_buffered(struct weft_stream *s, enum weft_dir d)
{
	if (!s->slot || !s->holds[d])
		return NULL;
	if (s->cur[d] >= 0 && s->slot[s->cur[d]].hold[d] && s->slot[s->cur[d]].hold[d]->waiting)
		return s->slot[s->cur[d]].hold[d]->b;
	for (unsigned i = s->chain->n; i-- > 0;)
		if (s->slot[i].hold[d] && s->slot[i].hold[d]->waiting)
			return s->slot[i].hold[d]->b;
	return NULL;
}

static void limit(struct weft_stream *s, enum weft_dir d, size_t max, bool fill)
{
	s->limit[d] = max;
	s->limit_fill[d] = fill;
	s->limit_by[d] = s->cur[d] >= 0 ? s->cur[d] : s->reached;
}

void weft_stream_buffer_limit(struct weft_stream *s, enum weft_dir d, size_t max)
{
	limit(s, d, max, false);
}

void weft_stream_buffer_fill(struct weft_stream *s, enum weft_dir d, size_t max)
{
	limit(s, d, max, true);
}
