/* What the network RBAC filter refuses, and under which names it counts. */
#include "proxy/l4/chain.h"
#include "xds/proto/envoy/extensions/filters/network/rbac/v3/rbac.pb-c.h"
#include "xds/yaml.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *v, const char *k,
					      bool *lenient, struct weft_err *e)
{
	return &envoy__extensions__filters__network__rbac__v3__rbac__descriptor;
}

static void prepared(const char *yaml, char *text, size_t cap)
{
	struct weft_arena *a = weft_arena_new(0);
	struct weft_errs errs = {0};
	struct weft_cfg c = {.arena = a, .errs = &errs};
	struct weft_path at = {NULL, "f", -1};
	struct weft_yaml_doc *docs = NULL;
	const void *conf;
	size_t n = 0;

	weft_yaml_decode(a, "t.yaml", yaml, strlen(yaml), pick, NULL, &docs, &n, &errs);
	assert_int_equal(errs.n, 0);
	assert_int_equal(n, 1);
	c.marks = docs[0].marks;
	weft_net_filter_rbac.ext.prepare(&c, &at, docs[0].msg, &conf);
	text[0] = '\0';
	if (errs.n)
		weft_err_text(&errs.v[0], text, cap);
	weft_arena_free(a);
}

static void refused(void **state)
{
	static const struct {
		const char *yaml, *err;
	} v[] = {
		{"stat_prefix: a\nrules: {}\nshadow_rules: {}\ndelay_deny: 1s\n", ""},
		{"stat_prefix: a\nenforcement_type: CONTINUOUS\n",
		 "f.enforcement_type: CONTINUOUS is not supported"},
		{"stat_prefix: a\nrules: {policies: {p: {permissions: [{header: {name: h}}], "
		 "principals: [{any: true}]}}}\n",
		 "f.rules.policies.p.permissions[0].header: a connection has no headers"},
		{"stat_prefix: a\nshadow_rules: {policies: {p: {permissions: [{any: true}], "
		 "principals: [{not_id: {header: {name: h}}}]}}}\n",
		 "f.shadow_rules.policies.p.principals[0].not_id.header: a connection has no"},
	};
	char text[512];

	for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++) {
		prepared(v[i].yaml, text, sizeof(text));
		if (!strstr(text, v[i].err) || (!*v[i].err && *text)) {
			print_message("# wanted \"%s\", got \"%s\"\n", v[i].err, text);
			fail();
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refused),
	};
	return cmocka_run_group_tests_name("net_rbac", tests, NULL, NULL);
}
