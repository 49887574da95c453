/* What a cluster tells its connections of HTTP/1 names and of TCP keepalive. */
#include "build.h"

#include "proxy/upstream/cluster_int.h"

static struct weft_cluster *made(struct bed *b, const char *more)
{
	static int n;
	char yaml[2048], name[32];

	snprintf(name, sizeof(name), "c%d", n++);
	snprintf(yaml, sizeof(yaml), "name: %s\ntype: STATIC\n%s", name, more);
	assert_int_equal(bed_set(b, true, yaml), 1);
	return weft_clusters_find(b->m, name);
}

#define FORMAT(x)                                                                                  \
	"typed_extension_protocol_options: "                                                       \
	"{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: "                                \
	"{\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, " \
	"explicit_http_config: {http_protocol_options: {header_key_format: {" x "}}}}}\n"
#define PRESERVE(x)                                                                                \
	FORMAT("stateful_formatter: {name: p, typed_config: {\"@type\": "                          \
	       "type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3."     \
	       "PreserveCaseFormatterConfig" x "}}")

static void names_and_reasons_of_answers(void **state)
{
	struct bed *b = bed_new(NULL);
	const struct weft_h1_options *o = &made(b, "")->session_h1.h1;

	assert_false(o->preserve_case || o->preserve_reason || o->proper_rest || o->proper_case);
	o = &made(b, FORMAT("proper_case_words: {}"))->session_h1.h1;
	assert_true(o->proper_case && !o->preserve_case);
	o = &made(b, PRESERVE(""))->session_h1.h1;
	assert_true(o->preserve_case && !o->preserve_reason && !o->proper_rest);
	o = &made(b, PRESERVE(", forward_reason_phrase: true"))->session_h1.h1;
	assert_true(o->preserve_case && o->preserve_reason && !o->proper_rest);
	o = &made(b, PRESERVE(", formatter_type_on_envoy_headers: PROPER_CASE"))->session_h1.h1;
	assert_true(o->preserve_case && !o->preserve_reason && o->proper_rest);
	bed_free(b);
}

static void tcp_keepalive(void **state)
{
	struct bed *b = bed_new(NULL);
	const struct weft_cluster_priv *p = made(b, "")->priv;

	assert_int_equal(p->keep_probes, 0);
	p = made(b, "upstream_connection_options: {tcp_keepalive: {}}\n")->priv;
	assert_int_equal(p->keep_probes, 9);
	assert_int_equal(p->keep_idle_s, 7200);
	assert_int_equal(p->keep_interval_s, 75);
	p = made(b, "upstream_connection_options: {tcp_keepalive: {keepalive_probes: 3, "
		    "keepalive_time: 4, keepalive_interval: 5}}\n")
		    ->priv;
	assert_int_equal(p->keep_probes, 3);
	assert_int_equal(p->keep_idle_s, 4);
	assert_int_equal(p->keep_interval_s, 5);
	bed_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_and_reasons_of_answers),
		cmocka_unit_test(tcp_keepalive),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
