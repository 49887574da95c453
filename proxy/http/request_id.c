/* x-request-id: a random UUID (RFC 9562, version 4). */
#include "proxy/http/stream_priv.h"

#include "proxy/core/worker.h"
#include <string.h>

enum { UUID_LEN = 36, UUID_VERSION_AT = 14 };

static void make_uuid(char *to)
{
	static const char hex[] = "0123456789abcdef";
	uint64_t r[2] = {weft_rand64(), weft_rand64()};
	unsigned char b[16];

	memcpy(b, r, sizeof(b));
	b[6] = (b[6] & 0x0f) | 0x40;
	b[8] = (b[8] & 0x3f) | 0x80;
	for (unsigned i = 0; i < sizeof(b); i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*to++ = '-';
		*to++ = hex[b[i] >> 4];
		*to++ = hex[b[i] & 15];
	}
	*to = '\0';
}

/* One from outside that is kept must not claim to be traced. */
static void clear_trace_reason(struct weft_stream *s, struct weft_header *h)
{
	char *own;

	if (h->value_len != UUID_LEN || h->value[UUID_VERSION_AT] == '4' ||
	    !memchr("9ab", h->value[UUID_VERSION_AT], 3))
		return;
	own = weft_arena_strndup(s->arena, h->value, UUID_LEN);
	own[UUID_VERSION_AT] = '4';
	h->value = own;
}

void weft_request_id_set(struct weft_stream *s, bool edge)
{
	const struct weft_hcm_conf *conf = s->c->conf;
	struct weft_header *h = weft_headers_get(s->head[WEFT_REQUEST], WEFT_H_X_REQUEST_ID);
	char *id;

	if (conf->generate_id && (!h || !h->value_len || (edge && !conf->preserve_id))) {
		id = weft_arena_alloc(s->arena, UUID_LEN + 1);
		make_uuid(id);
		if (h) {
			h->value = id;
			h->value_len = UUID_LEN;
		} else {
			weft_headers_add_ref(s->head[WEFT_REQUEST], WEFT_H_X_REQUEST_ID,
					     "x-request-id", 12, id, UUID_LEN);
		}
		s->info.request_id = id;
		return;
	}
	if (!h)
		return;
	if (conf->generate_id && edge && conf->pack_trace_reason)
		clear_trace_reason(s, h);
	s->info.request_id = h->value;
}
