/* What filters ask of a stream. */
#include "proxy/http/stream_priv.h"

#include "proxy/core/worker.h"

#include <stdatomic.h>
#include <stdlib.h>

struct weft_arena *weft_stream_arena(struct weft_stream *s)
{
	return s->arena;
}

struct weft_worker *weft_stream_worker(struct weft_stream *s)
{
	return s->c->worker;
}

struct event_base *weft_stream_base(struct weft_stream *s)
{
	return s->c->worker->base;
}

struct weft_info *weft_stream_info(struct weft_stream *s)
{
	return &s->info;
}

const struct weft_io_info *weft_stream_downstream(struct weft_stream *s)
{
	return s->info.down;
}

struct weft_io *weft_stream_io(struct weft_stream *s)
{
	return s->c->session ? weft_session_io(s->c->session) : NULL;
}

struct weft_headers *weft_stream_headers(struct weft_stream *s, enum weft_dir d)
{
	return s->head[d];
}

struct weft_headers *weft_stream_trailers(struct weft_stream *s, enum weft_dir d)
{
	return s->trailers[d];
}

const struct weft_routes *weft_stream_routes(struct weft_stream *s)
{
	return s->routes;
}

struct weft_scope *weft_stream_scope(struct weft_stream *s)
{
	return s->c->conf->scope;
}

uint64_t weft_stream_random(struct weft_stream *s)
{
	if (!s->random_set) {
		s->random = weft_rand64();
		s->random_set = true;
	}
	return s->random;
}

bool weft_stream_is_grpc(const struct weft_stream *s)
{
	return s->grpc;
}

bool weft_stream_is_tls(const struct weft_stream *s)
{
	return s->info.down->tls;
}

const char *weft_stream_upgrade(const struct weft_stream *s)
{
	return s->upgrade;
}

enum { PARTS_MAX = 32 };
struct hcm_part {
	struct hcm_part *next;
	uint64_t id;
	_Alignas(16) char mem[];
};

uint64_t weft_http_filter_id(void)
{
	static _Atomic uint64_t last;

	return atomic_fetch_add(&last, 1) + 1;
}

void *weft_stream_conn_part(struct weft_stream *s, uint64_t id, size_t size, bool *ret_new)
{
	struct hcm_part **at = &s->c->parts, *p;
	unsigned n = 0;

	for (; (p = *at) && p->id != id; at = &p->next)
		if (++n == PARTS_MAX)
			break;
	*ret_new = !p || p->id != id;
	if (p)
		*at = p->next;
	if (*ret_new) {
		free(p); /* one too many: of a configuration that was not met for long */
		p = weft_xcalloc(1, sizeof(*p) + size);
		p->id = id;
	}
	p->next = s->c->parts;
	s->c->parts = p;
	return p->mem;
}

void weft_hcm_parts_free(struct hcm_conn *c)
{
	struct hcm_part *p;

	while ((p = c->parts)) {
		c->parts = p->next;
		free(p);
	}
}
