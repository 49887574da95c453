/* Checks of configuration messages: rules, classes, Anys, places. With a coverage of its own. */
#define CFG_COVERAGE "test/unit/xds/cfg_coverage.def"
#include "xds/cfg_kind.c"

#include "xds/proto/envoy/config/bootstrap/v3/bootstrap.pb-c.h"
#include "xds/proto/envoy/config/core/v3/extension.pb-c.h"
#include "xds/proto/envoy/config/route/v3/route.pb-c.h"
#include "xds/proto/envoy/extensions/filters/http/buffer/v3/buffer.pb-c.h"
#include "xds/wire.h"
#include "xds/yaml.h"
#include <errno.h>
#include <regex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define T	  "type.googleapis.com/"
#define BUFFER	  T "envoy.extensions.filters.http.buffer.v3.Buffer"
#define HCM	  T "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
#define BOOTSTRAP "envoy.config.bootstrap.v3.Bootstrap"

/* Any descriptor that the registry reaches, by its full name. */
static const ProtobufCMessageDescriptor *search(const ProtobufCMessageDescriptor *d,
						const char *name, int depth)
{
	const ProtobufCMessageDescriptor *found = NULL;

	if (!strcmp(d->name, name))
		return d;
	for (unsigned i = 0; i < d->n_fields && !found && depth < 9; i++)
		if (d->fields[i].type == PROTOBUF_C_TYPE_MESSAGE)
			found = search(d->fields[i].descriptor, name, depth + 1);
	return found;
}

static const ProtobufCMessageDescriptor *desc_of(const char *name)
{
	const ProtobufCMessageDescriptor *d, *found = NULL;

	for (size_t i = 0; (d = weft_cfg_types(i, NULL)); i++)
		if (!strcmp(d->name, name))
			return d;
	for (size_t i = 0; !found && (d = weft_cfg_types(i, NULL)); i++)
		if (!strncmp(d->name, "envoy.", 6))
			found = search(d, name, 0);
	if (!found)
		fail_msg("%s is not reached", name);
	return found;
}

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *api_version, const char *kind,
					      bool *ret_lenient, struct weft_err *e)
{
	return ctx;
}

struct doc {
	struct weft_arena *a;
	struct weft_yaml_doc doc;
	struct weft_errs errs, warns, notes;
	struct weft_cfg cfg;
	bool decoded;
};

static void doc_init(struct doc *d, const char *type, const char *text)
{
	struct weft_yaml_doc *docs;
	size_t n;

	memset(d, 0, sizeof(*d));
	d->a = weft_arena_new(0);
	d->decoded = weft_yaml_decode(d->a, "f.yaml", text, strlen(text), pick,
				      (void *)desc_of(type), &docs, &n, &d->errs) == 0;
	if (d->decoded) {
		assert_int_equal(n, 1);
		d->doc = docs[0];
		d->cfg = (struct weft_cfg){.arena = d->a,
					   .errs = &d->errs,
					   .warns = &d->warns,
					   .notes = &d->notes,
					   .marks = d->doc.marks};
	}
}

static void say(FILE *f, const char *what, const struct weft_errs *e)
{
	char text[700];

	for (int i = 0; i < e->n; i++)
		fprintf(f, "%s%s\n", what, weft_err_text(&e->v[i], text, sizeof(text)));
}

/* All that is found in text, a line each; "" when it is fine. */
static char *found(const char *type, const char *text)
{
	char *out = NULL;
	struct doc d;
	size_t n;
	FILE *f = open_memstream(&out, &n);

	doc_init(&d, type, text);
	if (d.decoded) {
		int r = weft_cfg_check(&d.cfg, NULL, d.doc.msg);

		assert_int_equal(r, d.errs.n ? -EINVAL : 0);
		weft_cfg_place_errs(&d.doc, &d.errs);
		weft_cfg_place_errs(&d.doc, &d.warns);
		weft_cfg_place_errs(&d.doc, &d.notes);
	}
	say(f, "", &d.errs);
	say(f, "warning: ", &d.warns);
	say(f, "note: ", &d.notes);
	fclose(f);
	weft_arena_free(d.a);
	return out;
}

static void expect(const char *type, const char *text, const char *want)
{
	char *got = found(type, text);

	if (strcmp(got, want) != 0)
		fprintf(stderr, "found:\n%swanted:\n%s", got, want); /* cmocka cuts it */
	assert_string_equal(got, want);
	free(got);
}

static void test_values(void **state)
{
	Google__Protobuf__Duration d = {.seconds = 1, .nanos = 500000001};
	Google__Protobuf__UInt32Value u = {.value = 7};
	Google__Protobuf__BoolValue b = {.value = 0};

	assert_int_equal(weft_cfg_ms(NULL, 5), 5);
	assert_int_equal(weft_cfg_ms(&d, 5), 1501);
	d = (Google__Protobuf__Duration){.seconds = INT64_MAX};
	assert_true(weft_cfg_ms(&d, 5) > 0);
	assert_int_equal(weft_cfg_u32(&u, 1), 7);
	assert_int_equal(weft_cfg_u32(NULL, 1), 1);
	assert_false(weft_cfg_bool(&b, true));
	assert_true(weft_cfg_bool(NULL, true));
}

static void test_types(void **state)
{
	const char *name, *before = "";

	assert_ptr_equal(weft_cfg_type(BUFFER),
			 &envoy__extensions__filters__http__buffer__v3__buffer__descriptor);
	assert_null(weft_cfg_type("envoy.extensions.filters.http.buffer.v3.Buffer"));
	assert_null(weft_cfg_type(T "envoy.Nothing"));
	assert_null(weft_cfg_type(""));
	assert_null(weft_cfg_type(NULL));
	assert_string_equal(weft_cfg_type_near(T "envoy.extensions.filters.http.buffer.v2.Bufferr"),
			    BUFFER + strlen(T));
	assert_null(weft_cfg_type_near("x/y"));
	for (size_t i = 0; weft_cfg_types(i, &name); i++) {
		char url[200];

		assert_true(strcmp(before, name) < 0);
		assert_string_equal(weft_cfg_types(i, NULL)->name, name);
		snprintf(url, sizeof(url), T "%s", name);
		assert_ptr_equal(weft_cfg_type(url), weft_cfg_types(i, NULL));
		before = name;
	}
}

static void test_numbers(void **state)
{
	expect("envoy.config.core.v3.SocketAddress", "{address: a, port_value: 65535}", "");
	expect("envoy.config.core.v3.SocketAddress", "{address: a, port_value: 65536}",
	       "f.yaml:1:26: port_value: must be at most 65535, is 65536\n");
	expect("envoy.config.core.v3.SocketAddress", "{address: a}",
	       "f.yaml:1:1: one of port_value, named_port is required\n");
	expect("envoy.config.route.v3.DirectResponseAction", "{status: 99}",
	       "f.yaml:1:10: status: must be 200..599, is 99\n");
	expect("envoy.config.route.v3.DirectResponseAction", "{}",
	       "f.yaml:1:1: status: must be 200..599, is 0\n");
	expect("envoy.config.cluster.v3.OutlierDetection", "{enforcing_success_rate: 101}",
	       "f.yaml:1:26: enforcing_success_rate: must be at most 100, is 101\n");
	expect("envoy.config.cluster.v3.OutlierDetection", "{enforcing_success_rate: null}", "");
	expect("envoy.config.cluster.v3.Cluster.PreconnectPolicy",
	       "{per_upstream_preconnect_ratio: 3.5}",
	       "f.yaml:1:33: per_upstream_preconnect_ratio: must be 1..3, is 3.5\n");
	expect("envoy.config.cluster.v3.Cluster.PreconnectPolicy",
	       "{per_upstream_preconnect_ratio: NaN}",
	       "f.yaml:1:33: per_upstream_preconnect_ratio: must be 1..3, is nan\n");
	expect("envoy.config.metrics.v3.HistogramBucketSettings",
	       "{match: {prefix: a}, buckets: [1, 0]}",
	       "f.yaml:1:35: buckets[1]: must be above 0, is 0\n");
	expect("envoy.config.metrics.v3.HistogramBucketSettings",
	       "{match: {prefix: a}, buckets: [1, 2, 1]}",
	       "f.yaml:1:31: buckets: 1 is given twice\n");
}

static void test_durations(void **state)
{
	expect("envoy.config.cluster.v3.Cluster", "{name: c, connect_timeout: 0s}",
	       "f.yaml:1:28: connect_timeout: must be above 0s, is 0s\n");
	expect("envoy.config.cluster.v3.Cluster", "{name: c, connect_timeout: -1.5s}",
	       "f.yaml:1:28: connect_timeout: must not be negative, is -1.5s\n");
	expect("envoy.config.cluster.v3.Cluster", "{name: c, connect_timeout: 0.25s}", "");
}

static void test_enums(void **state)
{
	expect("envoy.config.cluster.v3.Cluster", "{name: c, lb_policy: MAGLEV, type: 3}", "");
	expect("envoy.config.cluster.v3.Cluster", "{name: c, lb_policy: 77}",
	       "f.yaml:1:22: lb_policy: 77 is not a value of LbPolicy\n");
	expect("envoy.config.cluster.v3.Cluster", "{name: c, lb_policy: MAGLEF}",
	       "f.yaml:1:22: lb_policy: must be one of ROUND_ROBIN, LEAST_REQUEST, RING_HASH, "
	       "RANDOM, MAGLEV, CLUSTER_PROVIDED, LOAD_BALANCING_POLICY_CONFIG; is \"MAGLEF\"; "
	       "did you mean MAGLEV?\n");
	expect("envoy.config.core.v3.HealthCheck.HttpHealthCheck", "{path: /, method: CONNECT}",
	       "f.yaml:1:19: method: must not be CONNECT\n");
}

static void test_texts(void **state)
{
	char *got;

	expect("envoy.config.cluster.v3.Cluster", "{}", "f.yaml:1:1: name: must not be empty\n");
	expect("envoy.config.core.v3.HeaderValue", "{key: \"a b\", value: \"x\\ty\"}",
	       "f.yaml:1:7: key: must be a header name, is \"a b\"\n");
	expect("envoy.config.core.v3.HeaderValue", "{key: x-a, value: \"a\\r\\nb: c\"}",
	       "f.yaml:1:19: value: must be without control characters, is \"a\\x0d\\x0ab: c\"\n");
	expect("envoy.config.core.v3.HeaderValue", "{key: \":path\", value: x}", "");
	expect("envoy.config.core.v3.HeaderValueOption", "{}", "f.yaml:1:1: header: is required\n");
	expect("envoy.config.core.v3.SchemeHeaderTransformation", "{scheme_to_overwrite: ftp}",
	       "f.yaml:1:23: scheme_to_overwrite: must be one of http https; is \"ftp\"\n");
	expect("envoy.config.core.v3.DataSource", "{inline_string: \"\"}", "");
	expect("envoy.config.core.v3.DataSource", "{filename: \"\"}",
	       "f.yaml:1:12: filename: must not be empty\n");
	got = found("envoy.config.core.v3.DataSource", "{}");
	assert_non_null(strstr(got, "one of filename, inline_bytes, inline_string"));
	free(got);
	expect("envoy.config.route.v3.RouteConfiguration", "{internal_only_headers: [a, b c]}",
	       "f.yaml:1:29: internal_only_headers[1]: must be a header name, is \"b c\"\n");
	expect("envoy.config.route.v3.VirtualHost", "{name: v}",
	       "f.yaml:1:1: domains: must have at least 1 item, has 0\n");
	expect("envoy.config.route.v3.RouteMatch", "{path_separated_prefix: /a/}",
	       "f.yaml:1:25: path_separated_prefix: must match ^[^?#]+[^?#/]$, is \"/a/\"\n");
	expect("envoy.config.route.v3.RouteMatch", "{path_separated_prefix: /a/b}", "");
	expect("envoy.config.core.v3.Metadata", "{filter_metadata: {\"\": {}}}",
	       "f.yaml:1:19: filter_metadata.\"\": must not be empty\n");
}

static void test_classes(void **state)
{
	expect(BOOTSTRAP, "{stats_flush_interval: 5s, hds_config: {}}",
	       "f.yaml:1:40: hds_config: is not supported\n"
	       "note: f.yaml:1:24: stats_flush_interval: has no effect: nothing is flushed\n");
	expect(BOOTSTRAP, "{flags_path: \"\"}", ""); /* the default is no wish */
	expect("envoy.config.core.v3.BindConfig",
	       "{source_address: {address: a, port_value: 0}, "
	       "additional_source_addresses: [{address: b, port_value: 0}]}",
	       "warning: f.yaml:1:76: additional_source_addresses: is deprecated; use "
	       "extra_source_addresses\n");
	expect("envoy.config.listener.v3.FilterChain", "{use_proxy_proto: true}",
	       "warning: f.yaml:1:19: use_proxy_proto: is deprecated; use the listener filter "
	       "envoy.filters.listener.proxy_protocol\n");
}

static const char nested[] = "static_resources:\n"
			     "  listeners:\n"
			     "  - name: l\n"
			     "    address: {pipe: {path: /x, mode: 511}}\n"
			     "    filter_chains:\n"
			     "    - filters:\n"
			     "      - name: h\n"
			     "        typed_config:\n"
			     "          \"@type\": " HCM "\n"
			     "          stat_prefix: \"\"\n"
			     "          stream_idle_timeout: -1s\n"
			     "          route_config:\n"
			     "            virtual_hosts:\n"
			     "            - name: v\n"
			     "              domains: [\"*\"]\n"
			     "              typed_per_filter_config:\n"
			     "                envoy.filters.http.buffer:\n"
			     "                  \"@type\": " BUFFER "PerRoute\n"
			     "                  buffer:\n"
			     "                    max_request_bytes: 0\n"
			     "              routes:\n"
			     "              - match: {prefix: /}\n"
			     "                direct_response:\n"
			     "                  status: 700\n"
			     "          http_filters:\n"
			     "          - name: none\n"
			     "            typed_config: {\"@type\": " T "envoy.x.v3.None, x: 1}\n"
			     "          - name: optional\n"
			     "            typed_config: {\"@type\": " T "envoy.x.v3.None, x: 1}\n"
			     "            is_optional: true\n"
			     "          - name: typed\n"
			     "            typed_config:\n"
			     "              \"@type\": " T "xds.type.v3.TypedStruct\n"
			     "              type_url: " BUFFER "\n"
			     "              value: {max_request_bytes: 0}\n"
			     "          - name: missing\n"
			     "            typed_config: {\"@type\": " T
			     "udpa.type.v1.TypedStruct, type_url: " BUFFER "}\n";
#define CHAIN "static_resources.listeners[0].filter_chains[0].filters[0].typed_config"

static void test_nested(void **state)
{
	expect(BOOTSTRAP, nested,
	       "f.yaml:4:28: static_resources.listeners[0].address.pipe.path: is not supported\n"
	       "f.yaml:4:38: static_resources.listeners[0].address.pipe.mode: is not supported\n"
	       "f.yaml:10:24: " CHAIN ".stat_prefix: must not be empty\n"
	       "f.yaml:24:27: " CHAIN ".route_config.virtual_hosts[0].routes[0].direct_response."
	       "status: must be 200..599, is 700\n"
	       "f.yaml:20:40: " CHAIN ".route_config.virtual_hosts[0].typed_per_filter_config."
	       "envoy.filters.http.buffer.buffer.max_request_bytes: must be at least 1, is 0\n"
	       "f.yaml:27:27: " CHAIN ".http_filters[0].typed_config: type " T "envoy.x.v3.None is "
	       "not supported\n"
	       "f.yaml:35:42: " CHAIN ".http_filters[2].typed_config.max_request_bytes: must be at "
	       "least 1, is 0\n"
	       "f.yaml:37:27: " CHAIN ".http_filters[3].typed_config.max_request_bytes: is "
	       "required\n"
	       "f.yaml:11:32: " CHAIN ".stream_idle_timeout: must not be negative, is -1s\n");
}

/* The same bytes from a server: no marks, every Any decoded once. */
static void test_wire(void **state)
{
	struct weft_arena *b = weft_arena_new(0);
	struct weft_cfg cfg = {.arena = b};
	struct weft_errs errs = {0};
	const ProtobufCMessage *m, *one;
	Google__Protobuf__Any *any;
	char text[700];
	struct doc d;

	doc_init(&d, BOOTSTRAP, nested);
	assert_true(d.decoded);
	any = weft_cfg_any_new(b, d.doc.msg);
	cfg.errs = &errs;
	m = weft_cfg_any(&cfg, NULL, any, NULL);
	assert_non_null(m);
	assert_ptr_equal(m, weft_cfg_any(&cfg, NULL, any, m->descriptor));
	one = weft_cfg_any(&cfg, NULL, any,
			   &envoy__config__route__v3__route_configuration__descriptor);
	assert_null(one);
	assert_string_equal(errs.v[0].msg, "must be of type envoy.config.route.v3."
					   "RouteConfiguration, is " BOOTSTRAP);
	errs.n = 0;
	assert_int_equal(weft_cfg_check(&cfg, NULL, m), -EINVAL);
	assert_int_equal(weft_cfg_check(&d.cfg, NULL, d.doc.msg), -EINVAL);
	assert_int_equal(errs.n, d.errs.n);
	for (int i = 0; i < errs.n; i++)
		assert_string_equal(weft_err_text(&errs.v[i], text, sizeof(text)),
				    weft_err_text(&d.errs.v[i], (char[700]){0}, 700));
	weft_arena_free(d.a);
	weft_arena_free(b);
}

static void any_fails(const char *url, const char *bytes, size_t n, const char *want)
{
	Google__Protobuf__Any any = {
		.base = PROTOBUF_C_MESSAGE_INIT(&google__protobuf__any__descriptor),
		.type_url = (char *)url,
		.has_value = true,
		.value = {.data = (uint8_t *)bytes, .len = n}};
	struct weft_arena *a = weft_arena_new(0);
	struct weft_errs errs = {0};
	struct weft_cfg cfg = {.arena = a, .errs = &errs};
	struct weft_path at = {NULL, "x", -1};
	char text[700];

	assert_null(weft_cfg_any(&cfg, &at, &any, NULL));
	assert_int_equal(errs.n, 1);
	assert_string_equal(weft_err_text(&errs.v[0], text, sizeof(text)), want);
	weft_arena_free(a);
}

static void test_bad_any(void **state)
{
	any_fails(NULL, "", 0, "x: has no @type");
	any_fails("", "", 0, "x: has no @type");
	any_fails(T "envoy.None", "", 0, "x: type " T "envoy.None is not supported");
	any_fails(T "a.b.RouteConfigration", "", 0,
		  "x: type " T "a.b.RouteConfigration is not supported; did you mean "
		  "envoy.config.route.v3.RouteConfiguration?");
	any_fails(BUFFER, "\x0a", 1, "x.max_request_bytes: the bytes end inside a varint");
	any_fails(BUFFER, "\x0a\x02\x08\x05\xf8\x07\x01", 7, "x.#127: unknown field");
	any_fails(T "xds.type.v3.TypedStruct", "\x0a\x03x/y", 5, "x: type x/y is not supported");
}

/* A TypedStruct as bytes. */
static void test_typed_struct(void **state)
{
	static const char text[] = "{\"@type\": " T "google.protobuf.Struct, value: "
				   "{maxRequestBytes: 7}}";
	struct weft_arena *b = weft_arena_new(0);
	struct weft_errs errs = {0};
	struct weft_cfg cfg = {.arena = b, .errs = &errs};
	const Envoy__Extensions__Filters__Http__Buffer__V3__Buffer *m;
	Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;
	const Google__Protobuf__Any *in;
	uint8_t bytes[512];
	struct doc d;
	size_t n = 0;

	doc_init(&d, "google.protobuf.Any", text);
	assert_true(d.decoded);
	in = (const Google__Protobuf__Any *)d.doc.msg;
	bytes[n++] = 0x0a;
	bytes[n++] = (uint8_t)strlen(BUFFER);
	memcpy(bytes + n, BUFFER, strlen(BUFFER));
	n += strlen(BUFFER);
	bytes[n++] = 0x12;
	bytes[n++] = (uint8_t)in->value.len;
	memcpy(bytes + n, in->value.data, in->value.len);
	n += in->value.len;
	any.type_url = (char *)T "udpa.type.v1.TypedStruct";
	any.value = (ProtobufCBinaryData){n, bytes};
	m = (const void *)weft_cfg_any(
		&cfg, NULL, &any,
		&envoy__extensions__filters__http__buffer__v3__buffer__descriptor);
	assert_non_null(m);
	assert_int_equal(m->max_request_bytes->value, 7);
	weft_arena_free(d.a);
	weft_arena_free(b);
}

static void test_deep_any(void **state)
{
	struct weft_arena *b = weft_arena_new(0);
	struct weft_errs errs = {0};
	struct weft_cfg cfg = {.arena = b, .errs = &errs};
	Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;
	Google__Protobuf__Any *in = &any;

	any.type_url = (char *)BUFFER;
	for (int i = 0; i < 40; i++)
		in = weft_cfg_any_new(b, &in->base);
	assert_int_equal(weft_cfg_check(&cfg, NULL, &in->base), -EINVAL);
	assert_int_equal(errs.n, 1);
	assert_string_equal(errs.v[0].msg, "messages of type Any are nested deeper than 16 levels");
	weft_arena_free(b);
}

static void locate(const struct doc *d, const char *path, int line, int col)
{
	struct weft_mark at = weft_marks_locate(d->doc.marks, d->doc.msg, path);

	if (at.line != line || at.col != col)
		fail_msg("%s: %d:%d", path, at.line, at.col);
}

static void test_places(void **state)
{
	struct doc d;

	doc_init(&d, BOOTSTRAP, nested);
	locate(&d, "", 1, 1);
	locate(&d, "static_resources", 2, 3);
	locate(&d, "staticResources.listeners[0].name", 3, 11);
	locate(&d, "static_resources.listeners[1].name", 3, 3);
	locate(&d, "static_resources.listeners[x", 2, 3);
	locate(&d, CHAIN ".stat_prefix", 10, 24);
	locate(&d, CHAIN ".nothing.at.all", 9, 11);
	locate(&d, CHAIN ".route_config.virtual_hosts[0].domains[0]", 15, 25);
	locate(&d, CHAIN ".route_config.virtual_hosts[0].typed_per_filter_config", 17, 17);
	locate(&d, CHAIN ".route_config.virtual_hosts[0].typed_per_filter_config.x.buffer", 17, 17);
	locate(&d,
	       CHAIN ".route_config.virtual_hosts[0].typed_per_filter_config."
		     "envoy.filters.http.buffer.buffer",
	       20, 21);
	locate(&d, CHAIN ".http_filters[2].typed_config.max_request_bytes", 35, 42);
	weft_arena_free(d.a);
}

/* Every rule names what is there, and every expression compiles. */
static void test_rules(void **state)
{
	regex_t re;

	for (size_t i = 0; i < RULES; i++) {
		const struct cfg_rule *r = &rules[i];

		if (i)
			assert_true(strcmp(rules[i - 1].message, r->message) <= 0);
		if (r->kind != RULE_PATTERN)
			continue;
		assert_int_equal(regcomp(&re, r->text, REG_EXTENDED | REG_NOSUB), 0);
		regfree(&re);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),	     cmocka_unit_test(test_types),
		cmocka_unit_test(test_numbers),	     cmocka_unit_test(test_durations),
		cmocka_unit_test(test_enums),	     cmocka_unit_test(test_texts),
		cmocka_unit_test(test_classes),	     cmocka_unit_test(test_nested),
		cmocka_unit_test(test_wire),	     cmocka_unit_test(test_bad_any),
		cmocka_unit_test(test_typed_struct), cmocka_unit_test(test_deep_any),
		cmocka_unit_test(test_places),	     cmocka_unit_test(test_rules),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
