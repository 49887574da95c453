#include "proxy/codec/grpc.h"
#include <errno.h>
#include <event2/buffer.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void round_trip(void **st)
{
	struct evbuffer *b = evbuffer_new();
	uint8_t big[70000], *all, *m;
	struct weft_grpc_in g;
	size_t len, n;

	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (uint8_t)(i * 7);
	weft_grpc_out(b, "abc", 3);
	weft_grpc_out(b, NULL, 0);
	weft_grpc_out(b, big, sizeof(big));
	len = evbuffer_get_length(b);
	assert_int_equal(len, 15 + 3 + sizeof(big));
	all = evbuffer_pullup(b, -1);

	weft_grpc_in_init(&g, sizeof(big));
	for (size_t i = 0, got = 0; i < len; i++) { /* a byte at a time */
		weft_grpc_in_feed(&g, all + i, 1);
		while (weft_grpc_in_next(&g, &m, &n) == 1) {
			static const size_t want[] = {3, 0, sizeof(big)};

			assert_int_equal(n, want[got++]);
			if (n)
				assert_memory_equal(m, n == 3 ? (const void *)"abc" : big, n);
			free(m);
		}
		assert_int_equal(got, i < 7 ? 0 : i < 12 ? 1 : i < len - 1 ? 2 : 3);
	}
	weft_grpc_in_feed(&g, all, len); /* all at once */
	for (int i = 0; i < 3; i++) {
		assert_int_equal(weft_grpc_in_next(&g, &m, &n), 1);
		free(m);
	}
	assert_int_equal(weft_grpc_in_next(&g, &m, &n), 0);
	weft_grpc_in_done(&g);
	weft_grpc_in_done(&g);
	evbuffer_free(b);
}

static int one(const void *p, size_t n, size_t max)
{
	struct weft_grpc_in g;
	uint8_t *m;
	size_t got;
	int r;

	weft_grpc_in_init(&g, max);
	weft_grpc_in_feed(&g, p, n);
	r = weft_grpc_in_next(&g, &m, &got);
	if (r == 1)
		free(m);
	else
		assert_int_equal(weft_grpc_in_next(&g, &m, &got), r); /* stays so */
	weft_grpc_in_done(&g);
	return r;
}

static void refused(void **st)
{
	assert_int_equal(one("\0\0\0\0\4abcd", 9, 4), 1);
	assert_int_equal(one("\0\0\0\0\5", 5, 4), -EMSGSIZE);
	assert_int_equal(one("\0\xff\xff\xff\xff", 5, 200 << 20), -EMSGSIZE);
	assert_int_equal(one("\1\0\0\0\4abcd", 9, 4), -EPROTO);
	assert_int_equal(one("\2\0\0\0\4abcd", 9, 4), -EPROTO);
	assert_int_equal(one("\0\0\0\0\4abc", 8, 4), 0);
	assert_int_equal(one("\0\0\0\0", 4, 4), 0);
	assert_int_equal(one("", 0, 4), 0);
}

int main(void)
{
	const struct CMUnitTest t[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(refused),
	};

	return cmocka_run_group_tests(t, NULL, NULL);
}
