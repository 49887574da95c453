/* ns a message: HTTP/1 head parsing by the codec, by llhttp alone (bare slices, no guard), and
 * writing of a head. `codec [ROUNDS]`. */
#include "proxy/codec/h1.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <llhttp/llhttp.h>

static const char request[] = "GET /api/v1/items?id=12345 HTTP/1.1\r\n"
			      "Host: service.example.com\r\n"
			      "User-Agent: curl/8.5.0-bench\r\n"
			      "Accept: application/json\r\n"
			      "X-Request-Id: 7b2e1c9a-44d1-4e0b-9d53-0f6c1\r\n"
			      "Cookie: a=b; c=d\r\n"
			      "Accept-Encoding: gzip\r\n\r\n";
static const char response[] = "HTTP/1.1 200 OK\r\n"
			       "content-type: application/json\r\n"
			       "content-length: 5\r\n"
			       "date: Sat, 01 Jan 2000 00:00:00 GMT\r\n"
			       "server: nginx/1.22.1\r\n"
			       "x-envoy-upstream-service-time: 3\r\n\r\nhello";

static double now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void parse_request(struct weft_h1 *p, struct weft_h1_event *ev)
{
	size_t n = weft_h1_feed(p, request, sizeof(request) - 1, ev);

	assert(n == sizeof(request) - 1 && ev->type == WEFT_H1_HEAD && ev->end);
}

static void parse_pieces(struct weft_h1 *p, struct weft_h1_event *ev)
{
	size_t half = sizeof(request) / 2;

	(void)weft_h1_feed(p, request, half, ev);
	assert(ev->type == WEFT_H1_MORE);
	(void)weft_h1_feed(p, request + half, sizeof(request) - 1 - half, ev);
	assert(ev->type == WEFT_H1_HEAD && ev->end);
}

static void parse_moved(struct weft_h1 *p, struct weft_h1_event *ev)
{
	char mem[sizeof(request)];

	parse_request(p, ev);
	weft_h1_head_move(&ev->head, mem, true);
	assert(ev->head.v[0].name[0] == 'h');
}

static void parse_response(struct weft_h1 *p, struct weft_h1_event *ev)
{
	size_t n;

	weft_h1_expect(p, WEFT_H1_ASKED_OTHER);
	n = weft_h1_feed(p, response, sizeof(response) - 1, ev);
	assert(ev->type == WEFT_H1_HEAD);
	(void)weft_h1_feed(p, response + n, sizeof(response) - 1 - n, ev);
	assert(ev->type == WEFT_H1_BODY && ev->end);
}

static void write_head(struct weft_h1 *p, struct weft_h1_event *ev)
{
	char mem[512];
	const struct weft_h1_out o = {
		.method = ev->head.method,
		.target = ev->head.target,
		.minor = 1,
		.v = ev->head.v,
		.n = ev->head.n,
	};

	assert(weft_h1_head_write(&o, mem, sizeof(mem)) > 0);
}

static struct weft_h1_slice spans[64];
static size_t n_spans;

static int on_span(llhttp_t *l, const char *s, size_t n)
{
	spans[n_spans++ % 64] = (struct weft_h1_slice){s, (uint32_t)n};
	return 0;
}

static int on_complete(llhttp_t *l)
{
	return HPE_PAUSED;
}

static llhttp_t other;

static void parse_llhttp(struct weft_h1 *p, struct weft_h1_event *ev)
{
	n_spans = 0;
	if (llhttp_execute(&other, request, sizeof(request) - 1) != HPE_PAUSED)
		abort();
	llhttp_resume(&other);
}

static void measure(const char *what, bool is_response, int rounds,
		    void (*f)(struct weft_h1 *p, struct weft_h1_event *ev))
{
	const struct weft_h1_conf conf = {.response = is_response};
	struct weft_h1_event ev = {0};
	struct weft_h1 p;
	double best = 1e18;

	weft_h1_init(&p, &conf);
	if (!is_response)
		parse_request(&p, &ev);
	for (int turn = 0; turn < 5; turn++) {
		double from = now_ns(), ns;

		for (int i = 0; i < rounds; i++)
			f(&p, &ev);
		ns = (now_ns() - from) / rounds;
		best = ns < best ? ns : best;
	}
	printf("%-36s %7.0f ns\n", what, best);
	weft_h1_event_done(&ev);
	weft_h1_done(&p);
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 500000;
	llhttp_settings_t s;

	llhttp_settings_init(&s);
	s.on_url = s.on_header_field = s.on_header_value = on_span;
	s.on_message_complete = on_complete;
	llhttp_init(&other, HTTP_REQUEST, &s);
	rounds = rounds > 0 ? rounds : 1;
	printf("request %zu bytes, 6 fields; response %zu bytes, 5 fields; parser %zu bytes\n",
	       sizeof(request) - 1, sizeof(response) - 1, sizeof(struct weft_h1));
	measure("request", false, rounds, parse_request);
	measure("request in two pieces", false, rounds, parse_pieces);
	measure("request, block copied, names lower", false, rounds, parse_moved);
	measure("response with its body", true, rounds, parse_response);
	measure("write a request head", false, rounds, write_head);
	measure("llhttp alone, request, no guards", false, rounds, parse_llhttp);
	return 0;
}
