/* The filter of docs/add-a-filter.md, whole, and its test. It counts the bytes of a request's body,
 * answers 413 beyond a limit, and tells the answer how many there were. Its message is one that no
 * HTTP filter has: xff_num_trusted_hops stands for max_bytes, skip_xff_append for tell. */
#include "test/unit/proxy/http/hcm_fix.h"

typedef Envoy__Extensions__Http__OriginalIpDetection__Xff__V3__XffConfig msg_t;

struct conf { /* the message, made ready: immutable, for all threads */
	uint32_t max_bytes;
	bool tell;
};
struct state { /* of one stream, zeroed */
	uint64_t seen;
};

static int prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *m,
		   const void **ret)
{
	const msg_t *msg = (const msg_t *)m;
	struct conf *conf = weft_arena_alloc(c->arena, sizeof(*conf));
	struct weft_path p = {at, "xff_num_trusted_hops", -1};

	conf->max_bytes = msg->xff_num_trusted_hops;
	conf->tell = weft_cfg_bool(msg->skip_xff_append, false);
	*ret = conf;
	if (!conf->max_bytes)
		return weft_cfg_fail(c, &p, "must be greater than 0, is 0");
	return 0;
}

static enum weft_flow headers(struct weft_stream *s, const void *vconf, void *vstate,
			      enum weft_dir d, struct weft_headers *h, bool end)
{
	const struct conf *conf = vconf;
	struct state *st = vstate;
	char text[24];

	if (d == WEFT_RESPONSE && conf->tell) {
		snprintf(text, sizeof(text), "%llu", (unsigned long long)st->seen);
		weft_headers_set(h, "x-request-bytes", 15, text, strlen(text));
	}
	return WEFT_NEXT;
}

static enum weft_flow data(struct weft_stream *s, const void *vconf, void *vstate, enum weft_dir d,
			   struct evbuffer *b, bool end)
{
	const struct conf *conf = vconf;
	struct state *st = vstate;

	if (d == WEFT_RESPONSE)
		return WEFT_NEXT;
	st->seen += evbuffer_get_length(b);
	if (st->seen <= conf->max_bytes)
		return WEFT_NEXT;
	weft_scope_add_named(weft_stream_scope(s), "example.too_large", 1);
	return weft_stream_reply(s, 413, "example_too_large", "too much", NULL, NULL);
}

static const struct weft_http_filter example = {
	.ext =
		{
			.name = "test.example",
			.config =
				&envoy__extensions__http__original_ip_detection__xff__v3__xff_config__descriptor,
			.per_route =
				&envoy__extensions__http__original_ip_detection__xff__v3__xff_config__descriptor,
			.state_size = sizeof(struct state),
			.prepare = prepare,
			.prepare_route = prepare,
		},
	.headers = headers,
	.data = data,
};

/* ---- its test */

#define FILTER                                                                                     \
	"  http_filters:\n  - name: ex\n    typed_config: {\"@type\": type.googleapis.com/"        \
	"envoy.extensions.http.original_ip_detection.xff.v3.XffConfig, xff_num_trusted_hops: %s, " \
	"skip_xff_append: true}\n"

static struct env *with(const char *max_bytes, bool ok)
{
	char text[512];
	struct env *e;

	weft_http_filter_register(&example); /* a real one stands in filters.def */
	snprintf(text, sizeof(text), FILTER, max_bytes);
	fix_own_filters = true;
	e = env_new(text, 0, true);
	if (ok)
		env_connect(e);
	return e;
}

static void counts(void **state)
{
	struct env *e = with("10", true);

	term.status = 200;
	term.at_end = true;
	say(e, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n0123456789");
	assert_true(has(e, "200 OK"));
	assert_true(has(e, "x-request-bytes: 10\r\n"));
	env_free(e);
}

static void refuses(void **state)
{
	struct env *e = with("9", true);

	term.status = 200;
	term.at_end = true;
	say(e, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n0123456789");
	assert_true(has(e, "413 Payload Too Large"));
	assert_true(has(e, "\r\n\r\ntoo much"));
	assert_int_equal(term.closed, 1);
	env_free(e);
}

static void zero_is_no_limit_to_have(void **state)
{
	struct env *e = with("0", false);
	char text[512];

	assert_int_equal(e->errs.n, 1);
	assert_string_equal(weft_err_text(&e->errs.v[0], text, sizeof(text)),
			    "filters[0].typed_config.http_filters[0].typed_config."
			    "xff_num_trusted_hops: must be greater than 0, is 0");
	weft_worker_free(e->w);
	weft_arena_free(e->a);
	free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counts),
		cmocka_unit_test(refuses),
		cmocka_unit_test(zero_is_no_limit_to_have),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
