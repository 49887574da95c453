/* States of a connection's one direction: heads, bodies by length, by chunks, until close. */
#include "proxy/codec/h1.h"
#include "proxy/codec/h1_priv.h"
#include "proxy/core/arena.h"
#include <stdlib.h>

enum state {
	START,	 /* before a head; p->buf may have a part of it */
	LENGTH,	 /* p->left bytes of body follow */
	CLOSE,	 /* body until the connection ends */
	SIZE,	 /* digits of a chunk's size */
	EXT,	 /* behind them */
	SIZE_LF, /* the CR was seen */
	DATA,	 /* p->left bytes of a chunk follow */
	DATA_CR,
	DATA_LF,
	TRAILERS, /* p->buf may have a part of them */
	OPAQUE,
	FAILED,
};

enum { FIRST_BUF = 512 };

static const struct {
	const char *text;
	int status;
} errors[WEFT_H1_ERRORS] = {
	[WEFT_H1_OK] = {"", 200},
	[WEFT_H1_E_CODEC] = {"http1.codec_error", 400},
	[WEFT_H1_E_METHOD] = {"http1.codec_error", 400},
	[WEFT_H1_E_VERSION] = {"low_version", 426},
	[WEFT_H1_E_URL] = {"http1.invalid_url", 400},
	[WEFT_H1_E_PATH] = {"absolute_path_rejected", 404},
	[WEFT_H1_E_SCHEME] = {"http1.invalid_scheme", 400},
	[WEFT_H1_E_CHARACTERS] = {"http1.invalid_characters", 400},
	[WEFT_H1_E_TOO_LARGE] = {"http1.headers_too_large", 431},
	[WEFT_H1_E_TOO_MANY] = {"http1.too_many_headers", 431},
	[WEFT_H1_E_HOST_MISSING] = {"missing_host_header", 400},
	[WEFT_H1_E_HOST] = {"http.invalid_authority", 400},
	[WEFT_H1_E_LENGTH] = {"http1.codec_error", 400},
	[WEFT_H1_E_LENGTH_CHUNKED] = {"http1.content_length_and_chunked_not_allowed", 400},
	[WEFT_H1_E_CODING] = {"http1.invalid_transfer_encoding", 501},
	[WEFT_H1_E_BODY] = {"http1.body_disallowed", 400},
	[WEFT_H1_E_CODING_FORBIDDEN] = {"http1.transfer_encoding_not_allowed", 400},
	[WEFT_H1_E_LENGTH_FORBIDDEN] = {"http1.content_length_not_allowed", 400},
	[WEFT_H1_E_CHUNK] = {"http1.codec_error", 400},
	[WEFT_H1_E_TRAILER] = {"http1.codec_error", 400},
	[WEFT_H1_E_UNASKED] = {"http1.codec_error", 400},
	[WEFT_H1_E_EOF] = {"http1.codec_error", 400},
};

const char *weft_h1_error_text(enum weft_h1_error e)
{
	return errors[e].text;
}

int weft_h1_error_status(enum weft_h1_error e)
{
	return errors[e].status;
}

void weft_h1_event_done(struct weft_h1_event *ev)
{
	free(ev->v);
	*ev = (struct weft_h1_event){0};
}

void weft_h1_init(struct weft_h1 *p, const struct weft_h1_conf *conf)
{
	*p = (struct weft_h1){.conf = conf};
}

void weft_h1_done(struct weft_h1 *p)
{
	free(p->buf);
	p->buf = NULL;
}

static void drop_buf(struct weft_h1 *p)
{
	free(p->buf);
	p->buf = NULL;
	p->len = p->cap = p->line = p->lines = 0;
	p->told = false;
}

static size_t fail(struct weft_h1 *p, struct weft_h1_event *ev, enum weft_h1_error e)
{
	p->state = FAILED;
	p->error = (uint8_t)e;
	ev->type = WEFT_H1_FAIL;
	ev->error = e;
	ev->end = false;
	return 0;
}

static void message_done(struct weft_h1 *p)
{
	p->state = START;
	p->empty = 0;
	p->ext_total = 0;
	p->waiting = false;
}

static uint32_t max_bytes(const struct weft_h1 *p)
{
	return p->conf->max_head_bytes ?: WEFT_H1_HEAD_BYTES;
}

static void append(struct weft_h1 *p, const char *in, size_t n)
{
	size_t need = p->len + n;

	if (need > p->cap) {
		p->cap = p->cap ?: FIRST_BUF;
		while (p->cap < need)
			p->cap *= 2;
		p->buf = weft_xrealloc(p->buf, p->cap);
	}
	memcpy(p->buf + p->len, in, n);
	p->len += (uint32_t)n;
}

/* Keeps in up to the empty line that ends a block; returns the bytes kept, minus an error. Each
 * line is looked at when it is whole, so that a bad one need not wait for the rest. */
static ssize_t collect(struct weft_h1 *p, const char *in, size_t n, bool *ret_whole)
{
	uint32_t head = p->state == START; /* has a start line */
	size_t used = 0;

	*ret_whole = false;
	while (used < n && !*ret_whole) {
		const char *lf = memchr(in + used, '\n', n - used);
		size_t take = lf ? (size_t)(lf + 1 - in) - used : n - used;
		int r;

		if (take > max_bytes(p) - p->len)
			return -WEFT_H1_E_TOO_LARGE;
		append(p, in + used, take);
		used += take;
		if (!lf)
			break;
		*ret_whole = p->len - p->line == 2 && p->buf[p->line] == '\r';
		if (*ret_whole)
			break;
		r = weft_h1_check_line(p, head && !p->lines, p->lines - head);
		if (r)
			return r;
		p->line = p->len;
		p->lines++;
	}
	return (ssize_t)used;
}

typedef ssize_t block_parser(struct weft_h1 *p, const char *s, const char *end,
			     struct weft_h1_event *ev);

/* A block in one piece is parsed where it stands; else it is put together first. *ret_n: bytes
 * taken. 1: parsed; 0: need more; < 0: minus an error. */
static int block(struct weft_h1 *p, const char *in, size_t n, struct weft_h1_event *ev,
		 block_parser *parse, size_t *ret_n)
{
	size_t seen = n < max_bytes(p) ? n : max_bytes(p);
	ssize_t r;
	bool whole;

	if (!p->len) {
		r = parse(p, in, in + seen, ev);
		*ret_n = r > 0 ? (size_t)r : 0;
		if (r)
			return r < 0 ? (int)r : 1;
	}
	r = collect(p, in, n, &whole);
	if (r < 0)
		return (int)r;
	*ret_n = (size_t)r;
	if (!whole)
		return 0;
	r = parse(p, p->buf, p->buf + p->len, ev);
	if (r < 0)
		return (int)r;
	if (r != (ssize_t)p->len)
		return -WEFT_H1_E_CODEC;
	p->told = true;
	return 1;
}

static void request_body(struct weft_h1 *p, struct weft_h1_event *ev)
{
	const struct weft_h1_head *h = &ev->head;

	p->digits = 0;
	p->left = 0;
	if (h->chunked) {
		p->state = SIZE;
	} else if (h->content_length > 0) {
		p->state = LENGTH;
		p->left = (uint64_t)h->content_length;
	} else {
		message_done(p);
		ev->end = true;
	}
}

/* RFC 9112 §6.3 */
static void response_body(struct weft_h1 *p, struct weft_h1_event *ev)
{
	struct weft_h1_head *h = &ev->head;

	h->connect = p->asked == WEFT_H1_ASKED_CONNECT && h->status / 100 == 2;
	if (h->interim)
		return;
	if (h->upgrade || h->connect) {
		p->state = OPAQUE;
		return;
	}
	if (p->asked == WEFT_H1_ASKED_HEAD || h->status == 204 || h->status == 304) {
		message_done(p);
		ev->end = true;
		return;
	}
	h->until_close = !h->chunked && h->content_length < 0;
	if (h->until_close) {
		h->keep_alive = false;
		p->state = CLOSE;
		return;
	}
	request_body(p, ev);
}

/* CRLFs before a request; returns how many bytes, or n if that is all there is. */
static int empty_lines(struct weft_h1 *p, const char *in, size_t n, size_t *ret_n)
{
	size_t i = 0;

	while (i < n && (p->empty % 2 || in[i] == '\r')) {
		if (in[i] != (p->empty % 2 ? '\n' : '\r') || ++p->empty > 2 * WEFT_H1_EMPTY_LINES)
			return -WEFT_H1_E_CODEC;
		i++;
	}
	*ret_n = i;
	return 0;
}

static size_t on_start(struct weft_h1 *p, const char *in, size_t n, struct weft_h1_event *ev)
{
	size_t skipped = 0, took = 0;
	int r = 0;

	if (p->conf->response && !p->waiting)
		return fail(p, ev, WEFT_H1_E_UNASKED);
	if (!p->len && !p->conf->response)
		r = empty_lines(p, in, n, &skipped);
	if (r)
		return fail(p, ev, (enum weft_h1_error) - r);
	if (skipped == n)
		return n;
	r = block(p, in + skipped, n - skipped, ev, weft_h1_parse_head, &took);
	if (r < 0)
		return fail(p, ev, (enum weft_h1_error) - r);
	if (!r)
		return skipped + took;
	if (ev->head.status == 101 && p->asked != WEFT_H1_ASKED_UPGRADE)
		return fail(p, ev, WEFT_H1_E_UNASKED);
	ev->type = WEFT_H1_HEAD;
	if (p->conf->response)
		response_body(p, ev);
	else
		request_body(p, ev);
	return skipped + took;
}

static size_t on_body(struct weft_h1 *p, const char *in, size_t n, struct weft_h1_event *ev)
{
	size_t take = p->state == CLOSE || n < p->left ? n : (size_t)p->left;

	take = take < UINT32_MAX ? take : UINT32_MAX;
	if (!take)
		return 0;
	ev->type = WEFT_H1_BODY;
	ev->body = (struct weft_h1_slice){in, (uint32_t)take};
	if (p->state == CLOSE)
		return take;
	p->left -= take;
	if (p->left)
		return take;
	if (p->state == DATA) {
		p->state = DATA_CR;
	} else {
		message_done(p);
		ev->end = true;
	}
	return take;
}

static size_t on_trailers(struct weft_h1 *p, const char *in, size_t n, struct weft_h1_event *ev)
{
	size_t took = 0;
	int r = block(p, in, n, ev, weft_h1_parse_trailers, &took);

	if (r < 0)
		return fail(p, ev, (enum weft_h1_error) - r);
	if (!r)
		return took;
	ev->type = ev->head.n ? WEFT_H1_TRAILERS : WEFT_H1_END;
	ev->end = true;
	message_done(p);
	return took;
}

static int digit_of(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = weft_h1_lower(c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool size_digit(struct weft_h1 *p, char c)
{
	int d = digit_of(c);

	if (d >= 0) {
		if (p->digits++ == WEFT_H1_CHUNK_DIGITS || p->left >> 58)
			return false;
		p->left = p->left << 4 | (uint64_t)d;
		return true;
	}
	if (!p->digits)
		return false;
	p->ext = 0;
	p->state = c == '\r' ? SIZE_LF : EXT;
	return c == '\r' || c == ';';
}

static bool ext_byte(struct weft_h1 *p, char c)
{
	if (c == '\r') {
		p->state = SIZE_LF;
		return true;
	}
	return weft_h1_is_value(c) &&
	       ++p->ext <= (p->conf->max_chunk_ext ?: WEFT_H1_CHUNK_EXT_BYTES) &&
	       ++p->ext_total <= WEFT_H1_CHUNK_EXT_TOTAL;
}

/* One byte of chunk framing. */
static bool chunk_byte(struct weft_h1 *p, char c)
{
	switch (p->state) {
	case SIZE:
		return size_digit(p, c);
	case EXT:
		return ext_byte(p, c);
	case SIZE_LF:
		p->state = p->left ? DATA : TRAILERS;
		return c == '\n';
	case DATA_CR:
		p->state = DATA_LF;
		return c == '\r';
	default: /* DATA_LF */
		p->state = SIZE;
		p->digits = 0;
		p->left = 0;
		return c == '\n';
	}
}

static size_t on_chunked(struct weft_h1 *p, const char *in, size_t n, struct weft_h1_event *ev)
{
	size_t i = 0;

	for (; i < n && p->state != DATA && p->state != TRAILERS; i++)
		if (!chunk_byte(p, in[i]))
			return fail(p, ev, WEFT_H1_E_CHUNK);
	if (i == n)
		return n;
	return i + (p->state == DATA ? on_body(p, in + i, n - i, ev)
				     : on_trailers(p, in + i, n - i, ev));
}

size_t weft_h1_feed(struct weft_h1 *p, const char *in, size_t n, struct weft_h1_event *ev)
{
	if (p->told)
		drop_buf(p);
	ev->type = WEFT_H1_MORE;
	ev->error = WEFT_H1_OK;
	ev->end = false;
	if (!n && p->state != OPAQUE && p->state != FAILED)
		return 0;
	switch (p->state) {
	case START:
		return on_start(p, in, n, ev);
	case LENGTH:
	case CLOSE:
	case DATA:
		return on_body(p, in, n, ev);
	case TRAILERS:
		return on_trailers(p, in, n, ev);
	case OPAQUE:
		ev->type = WEFT_H1_OPAQUE;
		return 0;
	case FAILED:
		return fail(p, ev, (enum weft_h1_error)p->error);
	default:
		return on_chunked(p, in, n, ev);
	}
}

/* A message cut off: the rule it broke already, if any, tells more. */
static enum weft_h1_error cut_off(struct weft_h1 *p, struct weft_h1_event *ev)
{
	ssize_t r = 0;

	if (p->state == FAILED)
		return (enum weft_h1_error)p->error;
	if (p->len && !p->told && p->state == START)
		r = weft_h1_parse_head(p, p->buf, p->buf + p->len, ev);
	else if (p->len && !p->told)
		r = weft_h1_parse_trailers(p, p->buf, p->buf + p->len, ev);
	return r < 0 ? (enum weft_h1_error) - r : WEFT_H1_E_EOF;
}

void weft_h1_eof(struct weft_h1 *p, struct weft_h1_event *ev)
{
	bool mid = p->len && !p->told;

	ev->type = WEFT_H1_MORE;
	ev->error = WEFT_H1_OK;
	ev->end = false;
	if (p->state == CLOSE) {
		ev->type = WEFT_H1_END;
		ev->end = true;
		message_done(p);
	} else if (p->state == OPAQUE) {
		ev->type = WEFT_H1_OPAQUE;
	} else if (p->state != START || mid || p->waiting || p->empty % 2) {
		(void)fail(p, ev, cut_off(p, ev));
	}
}

void weft_h1_tunnel(struct weft_h1 *p)
{
	if (p->state != FAILED)
		p->state = OPAQUE;
}

void weft_h1_expect(struct weft_h1 *p, enum weft_h1_asked asked)
{
	p->asked = (uint8_t)asked;
	p->waiting = true;
}

bool weft_h1_idle(const struct weft_h1 *p)
{
	return p->state == START && (!p->len || p->told) && !p->empty && !p->waiting;
}
