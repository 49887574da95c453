/* HTTP/1 of foreign bytes, whole and cut: the same events. Of what is accepted llhttp must take the
 * head too, with the same fields and framing. Byte 0: direction and options; byte 1: where to cut.
 */
#include "proxy/codec/h1.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include <llhttp/llhttp.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { SPANS_MAX = 2 * WEFT_H1_HEADERS + 8 };

struct digest {
	uint64_t h;
	enum weft_h1_error error;
};

struct spans {
	struct weft_h1_slice v[SPANS_MAX];
	size_t n;
	bool done;
};

static void mix(struct digest *d, const void *p, size_t n)
{
	const uint8_t *s = p;

	for (size_t i = 0; i < n; i++)
		d->h = (d->h ^ s[i]) * 0x100000001b3ULL;
}

static int on_span(llhttp_t *l, const char *s, size_t n)
{
	struct spans *x = l->data;

	assert(x->n < SPANS_MAX);
	x->v[x->n++] = (struct weft_h1_slice){s, (uint32_t)n};
	return 0;
}

static int on_head(llhttp_t *l)
{
	((struct spans *)l->data)->done = true;
	return HPE_PAUSED;
}

static void trim(struct weft_h1_slice *s)
{
	while (s->n && (s->p[s->n - 1] == ' ' || s->p[s->n - 1] == '\t'))
		s->n--;
}

/* A second opinion. Its tables of methods and of URL characters differ from ours. */
static void second_opinion(const struct weft_h1_conf *conf, const struct weft_h1_head *h)
{
	struct spans x = {0};
	llhttp_settings_t s;
	llhttp_errno_t e;
	llhttp_t l;

	llhttp_settings_init(&s);
	s.on_header_field = s.on_header_value = on_span;
	s.on_headers_complete = on_head;
	llhttp_init(&l, conf->response ? HTTP_RESPONSE : HTTP_REQUEST, &s);
	l.data = &x;
	e = llhttp_execute(&l, h->block, h->block_len);
	if (e == HPE_INVALID_METHOD || e == HPE_INVALID_URL)
		return;
	assert(x.done);
	assert(x.n == 2 * h->n);
	for (uint32_t i = 0; i < h->n; i++) {
		trim(&x.v[2 * i + 1]);
		assert(x.v[2 * i].n == h->v[i].name_len);
		assert(!memcmp(x.v[2 * i].p, h->v[i].name, h->v[i].name_len));
		assert(x.v[2 * i + 1].n == h->v[i].value_len);
		assert(!h->v[i].value_len ||
		       !memcmp(x.v[2 * i + 1].p, h->v[i].value, h->v[i].value_len));
	}
	assert(!!(l.flags & F_CHUNKED) == h->chunked);
	assert(!!(l.flags & F_CONTENT_LENGTH) == (h->content_length >= 0));
	assert(h->content_length < 0 || l.content_length == (uint64_t)h->content_length);
	assert(l.http_minor == h->minor);
}

static void take(struct digest *d, const struct weft_h1_conf *conf, const struct weft_h1_event *ev)
{
	if (ev->type == WEFT_H1_BODY)
		mix(d, ev->body.p, ev->body.n);
	if (ev->type == WEFT_H1_HEAD || ev->type == WEFT_H1_TRAILERS) {
		mix(d, ev->head.block, ev->head.block_len);
		assert(ev->head.n <= WEFT_H1_HEADERS);
		for (uint32_t i = 0; i < ev->head.n; i++) {
			assert(weft_h1_name_ok(ev->head.v[i].name, ev->head.v[i].name_len));
			assert(weft_h1_value_ok(ev->head.v[i].value, ev->head.v[i].value_len));
		}
	}
	if (ev->type == WEFT_H1_HEAD)
		second_opinion(conf, &ev->head);
	if (ev->type != WEFT_H1_MORE && ev->type != WEFT_H1_BODY)
		mix(d, &ev->type, sizeof(ev->type));
	if (ev->end)
		mix(d, "end", 3);
	d->error = ev->error;
}

static struct digest run(const struct weft_h1_conf *conf, const char *in, size_t n, size_t cut)
{
	struct digest d = {.h = 1};
	struct weft_h1_event ev = {0};
	struct weft_h1 p;
	size_t at = 0;

	weft_h1_init(&p, conf);
	while (at < n) {
		size_t got, len = cut && cut < n - at ? cut : n - at;

		if (conf->response && weft_h1_idle(&p))
			weft_h1_expect(&p, WEFT_H1_ASKED_OTHER);
		got = weft_h1_feed(&p, in + at, len, &ev);
		assert(got <= len);
		take(&d, conf, &ev);
		if (ev.type == WEFT_H1_FAIL || ev.type == WEFT_H1_OPAQUE)
			goto out;
		assert(got);
		at += got;
	}
	weft_h1_eof(&p, &ev);
	take(&d, conf, &ev);
out:
	weft_h1_done(&p);
	weft_h1_event_done(&ev);
	return d;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct weft_h1_conf conf;
	struct digest whole, cut;

	if (n < 2)
		return 0;
	conf = (struct weft_h1_conf){
		.response = data[0] & 1,
		.http10 = data[0] & 2,
		.any_method = data[0] & 4,
		.asterisk = data[0] & 8,
	};
	whole = run(&conf, (const char *)data + 2, n - 2, 0);
	cut = run(&conf, (const char *)data + 2, n - 2, data[1] % 64 + 1);
	assert(whole.error == cut.error && whole.h == cut.h);
	return 0;
}
