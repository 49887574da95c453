/* An HTTP/2 session on foreign bytes. First byte: bit 0 server role, bit 1 answers with a body, bit
 * 2 resets every third stream, bit 3 holds stream credit, bits 4..7 how many bytes are fed at a
 * time. */
#include "proxy/codec/h2.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { CAP = 16384 + 9 };
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static uint8_t mode;
static int open_streams;

static void on_headers(struct weft_h2_stream *s, const struct weft_h2_headers *h, bool end)
{
	for (size_t i = 0; i < h->n; i++)
		assert(h->v[i].name[h->v[i].name_len] == '\0' &&
		       h->v[i].value[h->v[i].value_len] == '\0');
	if (mode & 1) {
		open_streams++;
		weft_h2_stream_set_user(s, &mode);
		(void)weft_h2_respond(s, 200, NULL, 0, mode & 2);
	}
	if ((mode & 4) && weft_h2_stream_id(s) % 3 == 0)
		weft_h2_reset(s, WEFT_H2_CANCEL);
}

static void on_data(struct weft_h2_stream *s, const uint8_t *p, size_t n)
{
	volatile uint8_t sum = 0;

	assert(weft_h2_stream_user(s) == &mode);
	for (size_t i = 0; i < n; i++)
		sum ^= p[i];
	if (!(mode & 8))
		weft_h2_consume(s, n);
}

static void on_trailers(struct weft_h2_stream *s, const struct weft_h2_headers *h)
{
	assert(weft_h2_stream_user(s) == &mode);
}

static void on_end(struct weft_h2_stream *s)
{
	assert(weft_h2_stream_user(s) == &mode);
	weft_h2_resume(s);
}

static void on_closed(struct weft_h2_stream *s, uint32_t code)
{
	assert(weft_h2_stream_user(s) == &mode);
	open_streams--;
}

static ssize_t on_pull(struct weft_h2_stream *s, uint8_t *dst, size_t max, bool *ret_end)
{
	static uint8_t calls;
	size_t n = max < 700 ? max : 700;

	if (++calls % 4 == 0)
		return 0;
	*ret_end = calls % 5 == 0;
	memset(dst, 'x', n);
	return (ssize_t)n;
}

static const struct weft_h2_ops ops = {
	.headers = on_headers,
	.data = on_data,
	.trailers = on_trailers,
	.end = on_end,
	.closed = on_closed,
	.pull = on_pull,
};

static void drain(struct weft_h2 *h)
{
	uint8_t *buf = malloc(CAP);

	assert(buf);
	for (int i = 0; i < 20 && weft_h2_send(h, buf, CAP) > 0; i++)
		;
	free(buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const struct weft_h2_header connect[] = {{":method", "CONNECT", 7, 7},
							{":authority", "h:1", 10, 3}};
	struct weft_h2_conf conf = {.max_streams = 10, .conn_window = 1 << 20};
	struct weft_h2 *h;
	size_t step;

	if (!n)
		return 0;
	mode = data[0];
	open_streams = 0;
	conf.server = mode & 1;
	step = mode >> 4 ? mode >> 4 : n;
	h = weft_h2_new(&conf, &ops, NULL);
	if (!conf.server)
		for (int i = 0; i < 4; i++)
			open_streams += weft_h2_request(h, connect, 2, mode & 2, &mode) != NULL;
	drain(h);
	for (size_t off = 1; off < n; off += step) {
		if (weft_h2_recv(h, data + off, step < n - off ? step : n - off))
			break;
		drain(h);
	}
	drain(h);
	weft_h2_free(h);
	assert(open_streams == 0);
	return 0;
}
