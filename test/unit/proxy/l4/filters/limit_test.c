/* Token buckets, and the configurations of the filters that limit connections and of tcp_proxy:
 * what is taken and what is refused, with the field's path. */
#include "proxy/core/bucket.h"
#include "proxy/l4/chain_conf.h"
#include "xds/yaml.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void bucket(void **state)
{
	struct weft_bucket b;
	uint64_t t = 5000000000, s = 1000000000;
	unsigned i;

	weft_bucket_init(&b, 10, 5, s, t); /* 5 a second, 10 wait */
	assert_int_equal(weft_bucket_left(&b, t), 10);
	for (i = 0; i < 10; i++)
		assert_true(weft_bucket_take(&b, 1, t));
	assert_false(weft_bucket_take(&b, 1, t));
	assert_int_equal(weft_bucket_left(&b, t), 0);
	assert_int_equal(weft_bucket_wait_ns(&b, t), s / 5);
	assert_false(weft_bucket_take(&b, 1, t + s / 5 - 1000));
	assert_true(weft_bucket_take(&b, 1, t + s / 5));
	assert_false(weft_bucket_take(&b, 1, t + s / 5));
	/* long quiet: no more than what fits */
	t += 1000 * s;
	assert_int_equal(weft_bucket_left(&b, t), 10);
	assert_false(weft_bucket_take(&b, 11, t));
	assert_true(weft_bucket_take(&b, 10, t));
	assert_false(weft_bucket_take(&b, 1, t));
	/* over a long time: what comes is what is taken */
	for (i = 0; i < 100000; i++, t += s / 1000)
		weft_bucket_take(&b, 1, t);
	assert_in_range(weft_bucket_left(&b, t), 0, 1);
}

static void many_a_second(void **state)
{
	struct weft_bucket b;
	uint64_t t = 1000000000000000ull, taken = 0;
	unsigned i;

	weft_bucket_init(&b, 1000, 1000000, 1000000000, t);
	assert_true(weft_bucket_take(&b, 1000, t));
	for (i = 0; i < 10000; i++) {
		t += 500;
		taken += weft_bucket_take(&b, 1, t);
	}
	assert_in_range(taken, 4990, 5001);
}

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *v, const char *k,
					      bool *lenient, struct weft_err *err)
{
	return &envoy__config__listener__v3__filter__descriptor;
}

static int prepare(struct weft_arena *a, struct weft_errs *errs, const char *type, const char *conf)
{
	struct weft_cfg c = {.arena = a, .errs = errs, .file = true};
	struct weft_path at = {NULL, "filters", -1};
	struct weft_yaml_doc *docs = NULL;
	Envoy__Config__Listener__V3__Filter *v;
	const struct weft_chain_conf *ret;
	char yaml[2048];
	size_t n = 0;
	int r;

	snprintf(yaml, sizeof(yaml),
		 "name: f\ntyped_config:\n  '@type': type.googleapis.com/"
		 "envoy.extensions.filters.network.%s\n%s",
		 type, conf);
	weft_yaml_decode(a, "t.yaml", yaml, strlen(yaml), pick, NULL, &docs, &n, errs);
	if (errs->n)
		fail_msg("%s: %s", yaml, errs->v[0].msg);
	c.marks = docs[0].marks;
	v = (void *)docs[0].msg;
	r = weft_chain_prepare(&c, &at, &v, 1, &ret);
	/* that it cannot be last is the one complaint of a good one */
	if (!strstr(type, "TcpProxy") && errs->n == 1 && strstr(errs->v[0].msg, "ends the chain"))
		return 0;
	return r;
}

#define LIMIT "connection_limit.v3.ConnectionLimit"
#define RATE  "local_ratelimit.v3.LocalRateLimit"
#define PROXY "tcp_proxy.v3.TcpProxy"

static void configurations(void **state)
{
	static const struct {
		const char *type, *conf, *path, *why; /* path NULL: it is good */
	} t[] = {
		{LIMIT, "  stat_prefix: x\n  max_connections: 1\n  delay: 1s\n", NULL, NULL},
		{LIMIT, "  stat_prefix: x\n", "filters[0].typed_config.max_connections",
		 "must be set"},
		{RATE,
		 "  stat_prefix: x\n  share_key: k\n  token_bucket: {max_tokens: 1, fill_interval: "
		 "1s}\n",
		 NULL, NULL},
		{RATE, "  stat_prefix: x\n", "filters[0].typed_config.token_bucket", "must be set"},
		{RATE, "  stat_prefix: x\n  token_bucket: {max_tokens: 1, fill_interval: 0.01s}\n",
		 "filters[0].typed_config.token_bucket.fill_interval", "at least 50 ms, is 10 ms"},
		{PROXY, "  stat_prefix: x\n  cluster: c\n", NULL, NULL},
		{PROXY,
		 "  stat_prefix: x\n  weighted_clusters: {clusters: [{name: a, weight: 1}, {name: "
		 "b, "
		 "weight: 2}]}\n  hash_policy: [{source_ip: {}}]\n  max_connect_attempts: 3\n  "
		 "backoff_options: {base_interval: 1s}\n",
		 NULL, NULL},
		{PROXY,
		 "  stat_prefix: x\n  cluster: c\n  hash_policy: [{filter_state: {key: k}}]\n",
		 "filters[0].typed_config.hash_policy[0]", "must be source_ip"},
		{PROXY,
		 "  stat_prefix: x\n  cluster: c\n  backoff_options: {base_interval: 2s, "
		 "max_interval: 1s}\n",
		 "filters[0].typed_config.backoff_options.max_interval", "2000 ms), is 1000 ms"},
		{PROXY,
		 "  stat_prefix: x\n  cluster: c\n  tunneling_config: {hostname: '%NOPE%'}\n",
		 "filters[0].typed_config.tunneling_config.hostname", "not a command operator"},
		{PROXY,
		 "  stat_prefix: x\n  cluster: c\n  tunneling_config: {hostname: a, post_path: "
		 "/x}\n",
		 "filters[0].typed_config.tunneling_config.post_path", "use_post"},
		{PROXY,
		 "  stat_prefix: x\n  cluster: c\n  tunneling_config: {hostname: a, "
		 "headers_to_add: "
		 "[{header: {key: ':path', value: x}}]}\n",
		 "filters[0].typed_config.tunneling_config.headers_to_add[0].header.key",
		 "not a header"},
		{PROXY,
		 "  stat_prefix: x\n  cluster: c\n  flush_access_log_on_connected: true\n  "
		 "access_log_options: {}\n",
		 "filters[0].typed_config.flush_access_log_on_connected", "access_log_options"},
	};
	size_t i;

	for (i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct weft_arena *a = weft_arena_new(0);
		struct weft_errs errs = {0};
		int r = prepare(a, &errs, t[i].type, t[i].conf);

		if ((r == 0) != !t[i].path)
			fail_msg("%s: %d, %s", t[i].conf, r, errs.v[0].msg);
		if (t[i].path) {
			assert_string_equal(errs.v[0].path, t[i].path);
			if (!strstr(errs.v[0].msg, t[i].why))
				fail_msg("%s: \"%s\"", t[i].conf, errs.v[0].msg);
		}
		weft_arena_free(a);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bucket),
		cmocka_unit_test(many_a_second),
		cmocka_unit_test(configurations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
