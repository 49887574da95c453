/* Request mirroring: copies of whole requests, whose answers nobody waits for. */
#include "proxy/http/filters/router_priv.h"

#include "proxy/core/worker.h"
#include <string.h>

enum { ANSWER_MAX = 16 << 20, TIMEOUT_MS = 15000 };

bool router_mirrors(const struct router *r)
{
	return r->route->n_mirrors > 0;
}

static void done(void *owner, const struct weft_call_result *res)
{
}

static void shadow_host(struct weft_headers *h)
{
	const struct weft_header *f = weft_headers_get(h, WEFT_H_AUTHORITY);
	const char *colon;
	size_t n;

	if (!f)
		return;
	colon = memrchr(f->value, ':', f->value_len);
	if (colon && memchr(colon, ']', f->value_len - (size_t)(colon - f->value)))
		colon = NULL;
	n = colon ? (size_t)(colon - f->value) : f->value_len;
	{
		const char *s = weft_arena_printf(h->arena, "%.*s-shadow%s", (int)n, f->value,
						  colon ? colon : "");

		weft_headers_set_id(h, WEFT_H_AUTHORITY, s, strlen(s));
	}
}

void router_mirror_send(struct router *r)
{
	size_t i;

	if (!r->req_end || (r->body_expected && !r->keep))
		return;
	for (i = 0; i < r->route->n_mirrors; i++) {
		const struct weft_mirror *m = &r->route->mirrors[i];
		const struct weft_header *f;
		struct weft_headers h;
		struct evbuffer *body = NULL;
		struct weft_call_conf call = {.cluster = m->cluster,
					      .headers = &h,
					      .timeout_ms = r->timeout_ms ? (unsigned)r->timeout_ms
									  : TIMEOUT_MS,
					      .body_max = ANSWER_MAX,
					      .done = done};

		if (!weft_fraction_hit(m->fraction, weft_rand64()))
			continue;
		if (m->cluster_header) {
			f = weft_headers_find(r->req, m->cluster_header, 0);
			call.cluster = f && f->value_len ? f->value : NULL;
		}
		if (!call.cluster)
			continue;
		weft_headers_init(&h, weft_stream_arena(r->s));
		weft_headers_copy(&h, r->req);
		weft_headers_set_id(&h, WEFT_H_X_ENVOY_INTERNAL, "true", 4);
		if (m->append_shadow)
			shadow_host(&h);
		if (r->keep && evbuffer_get_length(r->keep)) {
			body = evbuffer_new();
			if (evbuffer_add_buffer_reference(body, r->keep))
				evbuffer_drain(body, evbuffer_get_length(body));
			call.body = body;
		}
		(void)weft_call_start(weft_stream_worker(r->s), &call);
		if (body)
			evbuffer_free(body);
	}
	if (r->keep && !r->retry_on && !r->route->internal_redirect) {
		evbuffer_free(r->keep);
		r->keep = NULL;
	}
}
