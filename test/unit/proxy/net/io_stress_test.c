/* Many pairs at once, plain and TLS, that pause, flush in pieces, half-close in either order and
 * are cut; every byte that arrives is the right one, and an orderly end means all of them. */
#include "proxy/core/worker.h"
#include "proxy/net/io_tls.h"
#include "test/unit/proxy/net/certs.h"
#include "test/unit/proxy/net/io_fix.h"

#include <openssl/ssl.h>

enum { PAIRS = 48, ROUNDS = 3, BYTES = 300000 };

struct end {
	struct weft_io *io;
	struct end *other;
	uint32_t rnd;
	size_t sent, got, want;
	bool paused, cut, over;
};

static struct end ends[PAIRS][2];
static int n_over;

static uint32_t next(struct end *e)
{
	e->rnd = e->rnd * 1664525u + 1013904223u;
	return e->rnd >> 8;
}

static uint8_t byte_at(const struct end *from, size_t i)
{
	return (uint8_t)((i * 2654435761u >> 11) ^ (uintptr_t)(from - &ends[0][0]));
}

static void over(struct end *e)
{
	if (!e->over)
		n_over++;
	e->over = true;
	e->io = NULL;
}

static void push(struct end *e)
{
	uint8_t b[9000];
	int pieces = 0;

	while (e->sent < e->want && !weft_io_full(e->io) && pieces++ < 20) {
		size_t n = 1 + next(e) % sizeof(b);

		n = n < e->want - e->sent ? n : e->want - e->sent;
		for (size_t i = 0; i < n; i++)
			b[i] = byte_at(e, e->sent + i);
		evbuffer_add(weft_io_out(e->io), b, n);
		e->sent += n;
		weft_io_flush(e->io);
	}
	if (e->sent == e->want)
		weft_io_shutdown(e->io);
	if (e->sent == e->want || !weft_io_full(e->io))
		weft_io_kick(e->io);
}

static void take(struct end *e, size_t max)
{
	struct evbuffer *in = weft_io_in(e->io);
	uint8_t b[4096];
	int n;

	while (max > 0 && (n = evbuffer_remove(in, b, max < sizeof(b) ? max : sizeof(b))) > 0) {
		for (int i = 0; i < n; i++) {
			if (b[i] != byte_at(e->other, e->got + (size_t)i))
				fail_msg("wrong byte at %zu", e->got + (size_t)i);
		}
		e->got += (size_t)n;
		max -= (size_t)n;
	}
}

static void on_readable(struct weft_io *io)
{
	struct end *e = weft_io_owner(io);
	uint32_t r = next(e) % 64;

	if (r == 0 && e->cut) {
		weft_io_reset(io);
		over(e);
		return;
	}
	if (r == 1 && e->cut) {
		weft_io_free(io);
		over(e);
		return;
	}
	take(e, r < 8 ? 1000 : SIZE_MAX);
	if (r < 8) /* what is left may be all that comes: look again */
		weft_io_kick(io);
	if (r > 56 && !e->paused) {
		e->paused = true;
		weft_io_pause(io);
		weft_io_kick(io);
		return;
	}
	if (!weft_io_eof(io))
		return;
	take(e, SIZE_MAX);
	if (!e->other->cut)
		assert_int_equal(e->got, e->other->want);
	if (e->sent == e->want) {
		weft_io_close_after_flush(io, next(e) % 2 ? 2000 : 0);
		over(e);
	}
}

static void on_turn(struct weft_io *io)
{
	struct end *e = weft_io_owner(io);

	if (e->paused) {
		e->paused = false;
		weft_io_resume(io);
	}
	take(e, SIZE_MAX);
	if (e->sent < e->want)
		push(e);
	if (e->sent == e->want && weft_io_eof(io) && !evbuffer_get_length(weft_io_in(io))) {
		weft_io_close_after_flush(io, 2000);
		over(e);
	}
}

static void on_ready(struct weft_io *io)
{
	push(weft_io_owner(io));
}

static void on_drained(struct weft_io *io)
{
	weft_io_kick(io);
}

static void on_closed(struct weft_io *io, enum weft_io_end why, int err)
{
	struct end *e = weft_io_owner(io);

	if (!e->cut && !e->other->cut)
		fail_msg("cut without a cause: %d %s %s", why, strerror(err), weft_io_detail(io));
	weft_io_free(io);
	over(e);
}

static const struct weft_io_ops ops = {.ready = on_ready,
				       .readable = on_readable,
				       .writable = on_ready,
				       .drained = on_drained,
				       .turn = on_turn,
				       .closed = on_closed};

static void start(struct event_base *base, int i, uint32_t seed, const struct weft_io_tls *c,
		  const struct weft_io_tls *s)
{
	struct weft_sockaddr at;
	struct end *a = &ends[i][0], *b = &ends[i][1];
	struct weft_dial d = {.tls = i % 2 ? c : NULL};
	int l = fix_listen(&at), fd;

	memset(ends[i], 0, sizeof(ends[i]));
	for (int k = 0; k < 2; k++) {
		ends[i][k].rnd = seed * 977 + (uint32_t)(i * 2 + k);
		ends[i][k].other = &ends[i][!k];
		ends[i][k].cut = i % 5 == 0;
		ends[i][k].want = next(&ends[i][k]) % BYTES;
	}
	d.to = at;
	assert_int_equal(weft_io_dial(base, &d, &ops, a, &a->io), 0);
	fd = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	close(l);
	b->io = weft_io_new(base, fd, i % 2 ? s : NULL, NULL, &ops, b);
	weft_io_set_high(a->io, 1 + next(a) % 100000);
	weft_io_set_high(b->io, 1 + next(b) % 100000);
	if (i % 2 == 0)
		weft_io_kick(b->io); /* ready as it is */
}

static void test_stress(void **state)
{
	struct event_base *base = event_base_new();
	struct test_cert ca = test_cert_new(NULL, NULL, 0, NULL, -10, 1000);
	struct test_cert leaf = test_cert_new(&ca, NULL, 0, NULL, -10, 1000);
	SSL_CTX *cc = SSL_CTX_new(TLS_client_method()), *sc = SSL_CTX_new(TLS_server_method());
	struct weft_io_tls c = {.ctx = cc}, s = {.ctx = sc};

	signal(SIGPIPE, SIG_IGN);
	weft_tls_ctx_setup(cc);
	weft_tls_ctx_setup(sc);
	SSL_CTX_use_certificate(sc, leaf.x);
	SSL_CTX_use_PrivateKey(sc, leaf.key);
	for (uint32_t round = 0; round < ROUNDS; round++) {
		n_over = 0;
		for (int i = 0; i < PAIRS; i++)
			start(base, i, round + 1, &c, &s);
		RUN_UNTIL(base, n_over == 2 * PAIRS);
	}
	run_a_while(base, 100); /* what lingers */
	SSL_CTX_free(cc);
	SSL_CTX_free(sc);
	test_cert_free(&ca);
	test_cert_free(&leaf);
	event_base_free(base);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_stress)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
