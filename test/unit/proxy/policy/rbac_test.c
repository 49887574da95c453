/* RBAC: every rule, the order of policies, matcher trees, what is refused, and the index against a
 * plain walk. */
#include "proxy/policy/rbac_priv.h"
#include "xds/yaml.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

struct fix {
	struct weft_arena *a;
	struct weft_cfg cfg;
	struct weft_errs errs;
	const struct weft_rbac *r;
	struct weft_io_info conn;
	struct weft_tls_info tls;
	struct weft_headers h;
	struct weft_rbac_in in;
	struct weft_rbac_out out;
};

static const ProtobufCMessageDescriptor *wanted;

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *v, const char *k,
					      bool *lenient, struct weft_err *e)
{
	return wanted;
}

/* A template "=x" is the path x. */
static int tmpl_prepare(struct weft_cfg *c, const struct weft_path *at, const char *text,
			const void **ret)
{
	if (text[0] != '=')
		return weft_cfg_fail(c, at, "bad template");
	*ret = weft_arena_strdup(c->arena, text + 1);
	return 0;
}

static bool tmpl_match(const void *t, const char *path, size_t n)
{
	return strlen(t) == n && !memcmp(t, path, n);
}

static const struct weft_rbac_template tmpl = {tmpl_prepare, tmpl_match};

static const Google__Protobuf__Struct *meta_get(const void *ctx, const char *ns)
{
	return weft_metadata_ns(ctx, ns);
}

static ProtobufCMessage *decode(struct fix *f, const ProtobufCMessageDescriptor *d,
				const char *yaml)
{
	struct weft_yaml_doc *docs = NULL;
	struct weft_errs errs = {0};
	size_t n = 0;
	char err[512];

	wanted = d;
	weft_yaml_decode(f->a, "t.yaml", yaml, strlen(yaml), pick, NULL, &docs, &n, &errs);
	if (errs.n)
		print_message("# %s\n", weft_err_text(&errs.v[0], err, sizeof(err)));
	assert_int_equal(errs.n, 0);
	assert_int_equal(n, 1);
	f->cfg.marks = docs[0].marks;
	return docs[0].msg;
}

static struct weft_sockaddr addr(const char *s)
{
	struct weft_sockaddr a;

	assert_int_equal(weft_sockaddr_parse(s, &a), 0);
	return a;
}

/* rules or matcher; not prepared where http is -1 */
static struct fix *fix_new(const char *rules, const char *matcher, bool http)
{
	static const char *const uris[] = {"spiffe://td/ns/a/sa/b", "spiffe://td/other", NULL},
				 *const dns[] = {"a.example", NULL};
	struct fix *f = calloc(1, sizeof(*f));
	struct weft_path at = {NULL, "f", -1};
	struct weft_rbac_conf conf = {.rules_field = "rules", .matcher_field = "matcher"};

	f->a = weft_arena_new(0);
	f->cfg = (struct weft_cfg){.arena = f->a, .errs = &f->errs};
	conf.http = http ? &tmpl : NULL;
	if (rules)
		conf.rules = (void *)decode(f, &envoy__config__rbac__v3__rbac__descriptor, rules);
	if (matcher)
		conf.matcher =
			(void *)decode(f, &xds__type__matcher__v3__matcher__descriptor, matcher);
	weft_rbac_prepare(&f->cfg, &at, &conf, &f->r);
	f->tls = (struct weft_tls_info){
		.peer_uri = uris, .peer_dns = dns, .peer_subject = "CN=a,O=x"};
	f->conn = (struct weft_io_info){.local = addr("10.0.0.9:8080"),
					.remote = addr("10.1.2.3:4000"),
					.direct_remote = addr("192.168.0.1:1"),
					.sni = "www.example.com",
					.alpn = "",
					.tls = &f->tls};
	weft_headers_init(&f->h, f->a);
	weft_headers_add(&f->h, ":method", 7, "GET", 3);
	weft_headers_add(&f->h, ":path", 5, "/admin/x?q=1", 12);
	weft_headers_add(&f->h, ":authority", 10, "svc", 3);
	weft_headers_add(&f->h, "x-role", 6, "dev", 3);
	weft_headers_add(&f->h, "x-role", 6, "ops", 3);
	f->in = (struct weft_rbac_in){.conn = &f->conn,
				      .remote = addr("172.16.5.5:9"),
				      .h = http ? &f->h : NULL,
				      .meta = meta_get};
	f->in.meta_ctx = decode(f, &envoy__config__core__v3__metadata__descriptor,
				"filter_metadata: {ns: {k: {sub: v}, n: 5}}");
	f->in.route_meta = (void *)decode(f, &envoy__config__core__v3__metadata__descriptor,
					  "filter_metadata: {route: {tier: gold}}");
	return f;
}

static void fix_free(struct fix *f)
{
	weft_arena_free(f->a);
	free(f);
}

static void fix_ok(struct fix *f)
{
	char err[512];

	if (f->errs.n)
		print_message("# %s\n", weft_err_text(&f->errs.v[0], err, sizeof(err)));
	assert_int_equal(f->errs.n, 0);
}

#define ANY_WHO	 "principals: [{any: true}]"
#define ANY_WHAT "permissions: [{any: true}]"

static void rules(void **state)
{
	static const struct {
		const char *rule;
		bool who, yes;
	} v[] = {
		{"{any: true}", false, true},
		{"{not_rule: {any: true}}", false, false},
		{"{header: {name: x-role, string_match: {exact: 'dev,ops'}}}", false, true},
		{"{header: {name: x-role, string_match: {exact: dev}}}", false, false},
		{"{header: {name: X-Role, present_match: true}}", false, true},
		{"{header: {name: x-none, string_match: {exact: a}, invert_match: true}}", false,
		 false},
		{"{header: {name: ':method', string_match: {exact: GET}}}", false, true},
		{"{url_path: {path: {exact: /admin/x}}}", false, true},
		{"{url_path: {path: {exact: '/admin/x?q=1'}}}", false, false},
		{"{url_path: {path: {prefix: /admin}}}", false, true},
		{"{url_path: {path: {safe_regex: {regex: '/a.*/x'}}}}", false, true},
		{"{uri_template: {name: t, typed_config: {'@type': type.googleapis.com/"
		 "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, "
		 "path_template: =/admin/x}}}",
		 false, true},
		{"{destination_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}", false, true},
		{"{destination_ip: {address_prefix: 10.0.0.8, prefix_len: 32}}", false, false},
		{"{destination_ip: {address_prefix: '::', prefix_len: 0}}", false, false},
		{"{destination_port: 8080}", false, true},
		{"{destination_port: 80}", false, false},
		{"{destination_port_range: {start: 8000, end: 8080}}", false, false},
		{"{destination_port_range: {start: 8080, end: 8081}}", false, true},
		{"{requested_server_name: {suffix: .example.com}}", false, true},
		{"{requested_server_name: {exact: example.com}}", false, false},
		{"{metadata: {filter: ns, path: [{key: k}, {key: sub}], value: {string_match: "
		 "{exact: v}}}}",
		 false, true},
		{"{metadata: {filter: none, path: [{key: k}], value: {present_match: true}, "
		 "invert: true}}",
		 false, true},
		{"{sourced_metadata: {metadata_matcher: {filter: route, path: [{key: tier}], "
		 "value: {string_match: {exact: gold}}}, metadata_source: ROUTE}}",
		 false, true},
		{"{sourced_metadata: {metadata_matcher: {filter: route, path: [{key: tier}], "
		 "value: {string_match: {exact: gold}}}, metadata_source: DYNAMIC}}",
		 false, false},
		{"{and_rules: {rules: [{destination_port: 8080}, {url_path: {path: {prefix: "
		 "/b}}}]}}",
		 false, false},
		{"{or_rules: {rules: [{destination_port: 1}, {url_path: {path: {prefix: "
		 "/admin}}}]}}",
		 false, true},
		{"{any: true}", true, true},
		{"{authenticated: {}}", true, true},
		{"{authenticated: {principal_name: {exact: 'spiffe://td/other'}}}", true, true},
		{"{authenticated: {principal_name: {exact: a.example}}}", true, true},
		{"{authenticated: {principal_name: {exact: 'CN=a,O=x'}}}", true, true},
		{"{authenticated: {principal_name: {exact: nobody}}}", true, false},
		{"{not_id: {authenticated: {principal_name: {exact: nobody}}}}", true, true},
		{"{source_ip: {address_prefix: 10.1.0.0, prefix_len: 16}}", true, true},
		{"{direct_remote_ip: {address_prefix: 192.168.0.1, prefix_len: 32}}", true, true},
		{"{direct_remote_ip: {address_prefix: 10.1.0.0, prefix_len: 16}}", true, false},
		{"{remote_ip: {address_prefix: 172.16.0.0, prefix_len: 12}}", true, true},
		{"{header: {name: x-role, string_match: {contains: ops}}}", true, true},
		{"{url_path: {path: {prefix: /b}}}", true, false},
		{"{and_ids: {ids: [{any: true}, {not_id: {any: true}}]}}", true, false},
		{"{or_ids: {ids: [{not_id: {any: true}}, {any: true}]}}", true, true},
		{"{metadata: {filter: ns, path: [{key: n}], value: {double_match: {exact: 5}}}}",
		 true, true},
	};

	for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++) {
		char yaml[1024];
		struct fix *f;

		snprintf(yaml, sizeof(yaml),
			 v[i].who ? "policies: {p: {" ANY_WHAT ", principals: [%s]}}"
				  : "policies: {p: {" ANY_WHO ", permissions: [%s]}}",
			 v[i].rule);
		f = fix_new(yaml, NULL, true);
		fix_ok(f);
		if (weft_rbac_allowed(f->r, &f->in, &f->out) != v[i].yes) {
			print_message("# %s\n", v[i].rule);
			fail();
		}
		if (v[i].yes)
			assert_string_equal(f->out.policy, "p");
		else
			assert_null(f->out.policy);
		fix_free(f);
	}
}

static void plaintext_is_nobody(void **state)
{
	struct fix *f = fix_new("policies: {p: {" ANY_WHAT ", principals: [{authenticated: {}}]}}",
				NULL, true);

	f->conn.tls = NULL;
	assert_false(weft_rbac_allowed(f->r, &f->in, &f->out));
	fix_free(f);
}

static void actions_and_order(void **state)
{
	static const char yaml[] = "action: %s\n"
				   "policies:\n"
				   "  zeta: {" ANY_WHAT ", " ANY_WHO "}\n"
				   "  alpha: {" ANY_WHAT ", " ANY_WHO "}\n"
				   "  Beta: {permissions: [{destination_port: 1}], " ANY_WHO "}\n";
	char text[512];
	struct fix *f;

	snprintf(text, sizeof(text), yaml, "ALLOW");
	f = fix_new(text, NULL, true);
	assert_true(weft_rbac_allowed(f->r, &f->in, &f->out));
	assert_string_equal(f->out.policy, "alpha");
	assert_string_equal(weft_rbac_policy(f->r, 0), "Beta");
	assert_null(weft_rbac_policy(f->r, 3));
	f->conn.local.port = 1;
	assert_true(weft_rbac_allowed(f->r, &f->in, &f->out));
	assert_string_equal(f->out.policy, "Beta");
	fix_free(f);
	snprintf(text, sizeof(text), yaml, "DENY");
	f = fix_new(text, NULL, true);
	assert_false(weft_rbac_allowed(f->r, &f->in, &f->out));
	assert_string_equal(f->out.policy, "alpha");
	fix_free(f);
	snprintf(text, sizeof(text), yaml, "LOG");
	f = fix_new(text, NULL, true);
	assert_true(weft_rbac_allowed(f->r, &f->in, &f->out));
	assert_true(f->out.hint_set && f->out.hint);
	fix_free(f);
	f = fix_new("action: DENY", NULL, true);
	assert_true(weft_rbac_allowed(f->r, &f->in, &f->out));
	fix_free(f);
	f = fix_new("action: ALLOW", NULL, true);
	assert_false(weft_rbac_allowed(f->r, &f->in, &f->out));
	assert_null(f->out.policy);
	fix_free(f);
	f = fix_new("action: LOG", NULL, true);
	assert_true(weft_rbac_allowed(f->r, &f->in, &f->out));
	assert_true(f->out.hint_set && !f->out.hint);
	fix_free(f);
}

/* An expression that meets its limit denies whichever way it is asked. */
static void limits(void **state)
{
	static const char *const rule[] = {
		"{url_path: {path: {safe_regex: {regex: '/(a+)+b'}}}}",
		"{not_rule: {url_path: {path: {safe_regex: {regex: '/(a+)+b'}}}}}",
	};
	char path[4096];

	memset(path, 'a', sizeof(path));
	path[0] = '/';
	memcpy(path + 1998, "cb", 2);
	for (unsigned i = 0; i < 4; i++) {
		char yaml[512];
		struct fix *f;

		snprintf(yaml, sizeof(yaml),
			 "action: %s\npolicies: {p: {permissions: [%s], " ANY_WHO "}}",
			 i & 2 ? "DENY" : "ALLOW", rule[i & 1]);
		f = fix_new(yaml, NULL, true);
		fix_ok(f);
		weft_headers_set(&f->h, ":path", 5, path, 2000);
		assert_false(weft_rbac_allowed(f->r, &f->in, &f->out));
		fix_free(f);
	}
}

static void refused(void **state)
{
	static const struct {
		const char *rules, *matcher, *err;
		bool http;
	} v[] = {
		{"policies: {p: {permissions: [{destination_ip: {address_prefix: x}}], " ANY_WHO
		 "}}",
		 NULL,
		 "f.rules.policies.p.permissions[0].destination_ip.address_prefix: must be an IP "
		 "address, is \"x\"",
		 true},
		{"policies: {p: {" ANY_WHAT ", principals: [{any: true}, {remote_ip: "
		 "{address_prefix: 10.0.0.0, prefix_len: 33}}]}}",
		 NULL,
		 "f.rules.policies.p.principals[1].remote_ip.prefix_len: must be 0..32, is 33",
		 true},
		{"policies: {p: {permissions: [{destination_port_range: {start: 5, end: "
		 "5}}], " ANY_WHO "}}",
		 NULL, "destination_port_range: must have end beyond start, is [5, 5)", true},
		{"policies: {p: {permissions: [{destination_port_range: {start: -1, end: "
		 "5}}], " ANY_WHO "}}",
		 NULL, "must lie within 0..65535", true},
		{"policies: {p: {" ANY_WHAT ", " ANY_WHO ", condition: {id: 5}}}", NULL,
		 "f.rules.policies.p.condition: is not supported", true},
		{"policies: {p: {permissions: [{header: {name: a}}], " ANY_WHO "}}", NULL,
		 "f.rules.policies.p.permissions[0].header: a connection has no headers", false},
		{"policies: {p: {permissions: [{not_rule: {and_rules: {rules: [{header: {name: "
		 "a}}]}}}], " ANY_WHO "}}",
		 NULL, "not_rule.and_rules.rules[0].header: a connection has no headers", false},
		{"policies: {p: {permissions: [{matcher: {name: my.matcher}}], " ANY_WHO "}}", NULL,
		 "permissions[0].matcher: \"my.matcher\" is not supported", true},
		{"policies: {p: {" ANY_WHAT ", principals: [{custom: {name: c}}]}}", NULL,
		 "principals[0].custom: \"c\" is not supported", true},
		{"policies: {p: {" ANY_WHAT ", principals: [{filter_state: {key: c}}]}}", NULL,
		 "principals[0].filter_state: is not supported", true},
		{"audit_logging_options: {audit_condition: ON_DENY}", NULL,
		 "f.rules.audit_logging_options: is not supported", true},
		{"policies: {p: {permissions: [{url_path: {path: {safe_regex: {regex: "
		 "'('}}}}], " ANY_WHO "}}",
		 NULL, "f.rules.policies.p.permissions[0].url_path.path.safe_regex.regex: ", true},
		{"policies: {p: {permissions: [{uri_template: {name: t, typed_config: {'@type': "
		 "type.googleapis.com/"
		 "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, "
		 "path_template: x}}}], " ANY_WHO "}}",
		 NULL, "uri_template.typed_config.path_template: bad template", true},
		{NULL,
		 "matcher_tree: {input: {name: i, typed_config: {'@type': type.googleapis.com/"
		 "envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: a}}, "
		 "exact_match_map: {map: {a: {action: {name: x, typed_config: {'@type': "
		 "type.googleapis.com/envoy.config.rbac.v3.Action, name: x}}}}}}",
		 "HttpRequestHeaderMatchInput is not for connections", false},
		{NULL,
		 "matcher_tree: {input: {name: i, typed_config: {'@type': type.googleapis.com/"
		 "envoy.type.matcher.v3.HttpRequestQueryParamMatchInput, query_param: a}}, "
		 "exact_match_map: {map: {a: {action: {name: x, typed_config: {'@type': "
		 "type.googleapis.com/envoy.config.rbac.v3.Action, name: x}}}}}}",
		 "f.matcher.matcher_tree.input.typed_config: "
		 "envoy.type.matcher.v3.HttpRequestQueryParamMatchInput is not supported as an "
		 "input",
		 true},
		{NULL,
		 "on_no_match: {action: {name: x, typed_config: {'@type': "
		 "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput}}}",
		 "f.matcher.on_no_match.action.typed_config: ", true},
	};

	for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++) {
		struct fix *f = fix_new(v[i].rules, v[i].matcher, v[i].http);
		char text[512] = "";

		if (f->errs.n)
			weft_err_text(&f->errs.v[0], text, sizeof(text));
		if (!strstr(text, v[i].err)) {
			print_message("# wanted \"%s\", got \"%s\"\n", v[i].err, text);
			fail();
		}
		fix_free(f);
	}
}

/* ---- matcher trees */
#define INPUT(type, more)                                                                          \
	"{name: i, typed_config: {'@type': type.googleapis.com/envoy." type " " more "}}"
#define NET(type) INPUT("extensions.matching.common_inputs.network.v3." type, "")
#define SSL(type) INPUT("extensions.matching.common_inputs.ssl.v3." type, "")
#define ACT(name, action)                                                                          \
	"{action: {name: action, typed_config: {'@type': type.googleapis.com/"                     \
	"envoy.config.rbac.v3.Action, name: '" name "', action: " action "}}}"
#define HDR(name) INPUT("type.matcher.v3.HttpRequestHeaderMatchInput", ", header_name: " name)
#define LIST(input, match, on)                                                                     \
	"{predicate: {single_predicate: {input: " input ", value_match: " match                    \
	"}}, on_match: " on "}"

static void matchers(void **state)
{
	static const struct {
		const char *yaml, *policy;
		bool yes;
	} v[] = {
		{"matcher_list: {matchers: [" LIST(HDR("x-role"), "{exact: 'dev,ops'}",
						   ACT("a", "ALLOW")) "]}",
		 "a", true},
		{"matcher_list: {matchers: [" LIST(HDR("x-none"), "{prefix: a}",
						   ACT("a", "ALLOW")) "]}",
		 NULL, false},
		{"matcher_list: {matchers: [" LIST(HDR("x-none"), "{prefix: a}",
						   ACT("a", "ALLOW")) "]}\n"
								      "on_no_match: " ACT("dflt",
											  "DENY"),
		 "dflt", false},
		{"matcher_list: {matchers: [" LIST(NET("DestinationIPInput"), "{exact: 10.0.0.9}",
						   ACT("d", "ALLOW")) "]}",
		 "d", true},
		{"matcher_list: {matchers: [" LIST(NET("DestinationPortInput"), "{exact: '8080'}",
						   ACT("d", "ALLOW")) "]}",
		 "d", true},
		{"matcher_list: {matchers: [" LIST(NET("SourceIPInput"), "{prefix: '172.16.'}",
						   ACT("d", "ALLOW")) "]}",
		 "d", true},
		{"matcher_list: {matchers: [" LIST(NET("SourcePortInput"), "{exact: '9'}",
						   ACT("d", "ALLOW")) "]}",
		 "d", true},
		{"matcher_list: {matchers: [" LIST(NET("DirectSourceIPInput"),
						   "{exact: 192.168.0.1}", ACT("d", "ALLOW")) "]}",
		 "d", true},
		{"matcher_list: {matchers: [" LIST(NET("ServerNameInput"), "{suffix: .com}",
						   ACT("d", "DENY")) "]}",
		 "d", false},
		{"matcher_list: {matchers: [" LIST(
			 SSL("UriSanInput"), "{exact: 'spiffe://td/ns/a/sa/b,spiffe://td/other'}",
			 ACT("d", "ALLOW")) "]}",
		 "d", true},
		{"matcher_list: {matchers: [" LIST(SSL("DnsSanInput"), "{exact: a.example}",
						   ACT("d", "ALLOW")) "]}",
		 "d", true},
		{"matcher_list: {matchers: [" LIST(SSL("SubjectInput"), "{contains: O=x}",
						   ACT("d", "LOG")) "]}",
		 "d", true},
		{"matcher_list: {matchers: [{predicate: {not_matcher: {single_predicate: {input: "
		 "" HDR("x-none") ", value_match: {exact: a}}}}, on_match: " ACT("n",
										 "ALLOW") "}]}",
		 "n", true},
		{"matcher_list: {matchers: [{predicate: {and_matcher: {predicate: "
		 "[{single_predicate: {input: " HDR(
			 "':method'") ", value_match: {exact: GET}}}, "
				      "{single_predicate: {input: " HDR(
					      "host") ", value_match: {exact: svc}}}]}}, "
						      "on_match: " ACT("and", "ALLOW") "}]}",
		 "and", true},
		{"matcher_list: {matchers: [{predicate: {or_matcher: {predicate: "
		 "[{single_predicate: {input: " HDR(
			 "':method'") ", value_match: {exact: PUT}}}, "
				      "{single_predicate: {input: " HDR(
					      "a") ", value_match: {exact: b}}}]}}, "
						   "on_match: " ACT("or", "ALLOW") "}]}",
		 NULL, false},
		{"matcher_tree: {input: " HDR("':path'") ", prefix_match_map: {map: {/: " ACT(
			 "root",
			 "DENY") ", /admin/: " ACT("adm",
						   "ALLOW") ", /admin/xyz: " ACT("far",
										 "DENY") "}}}",
		 "adm", true},
		{"matcher_tree: {input: " HDR("':method'") ", exact_match_map: {map: {GET: " ACT(
			 "get", "ALLOW") ", GE: " ACT("no", "DENY") "}}}",
		 "get", true},
		{"matcher_tree: {input: " HDR("':method'") ", exact_match_map: {map: {PUT: " ACT(
			 "get", "ALLOW") "}}}\non_no_match: " ACT("other", "ALLOW"),
		 "other", true},
		/* one that finds nothing further down goes on with the next */
		{"matcher_list: {matchers: [{predicate: {single_predicate: {input: " HDR(
			 "':method'") ", value_match: {exact: GET}}}, on_match: {matcher: "
				      "{matcher_list: {matchers: [" LIST(
					      HDR("x-none"), "{exact: a}",
					      ACT("x", "DENY")) "]}}}}, " LIST(HDR("host"),
									       "{exact: svc}",
									       ACT("second",
										   "ALLOW")) "]}",
		 "second", true},
		{"on_no_match: " ACT("only", "ALLOW"), "only", true},
		{"matcher_list: {matchers: [" LIST(HDR("host"),
						   "{safe_regex: {google_re2: {}, regex: 's.c'}}",
						   ACT("re", "ALLOW")) "]}",
		 "re", true},
	};

	for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++) {
		struct fix *f = fix_new(NULL, v[i].yaml, true);
		bool yes;

		fix_ok(f);
		yes = weft_rbac_allowed(f->r, &f->in, &f->out);
		if (yes != v[i].yes || !f->out.policy != !v[i].policy ||
		    (v[i].policy && strcmp(f->out.policy, v[i].policy))) {
			print_message("# %s: %d %s\n", v[i].yaml, yes, f->out.policy ?: "-");
			fail();
		}
		fix_free(f);
	}
}

static void log_hint_of_trees(void **state)
{
	struct fix *f = fix_new(NULL,
				"matcher_list: {matchers: [" LIST(
					HDR("host"), "{exact: none}",
					ACT("l", "LOG")) "]}\n"
							 "on_no_match: " ACT("a", "ALLOW"),
				true);

	fix_ok(f);
	assert_true(weft_rbac_allowed(f->r, &f->in, &f->out));
	assert_true(f->out.hint_set);
	assert_false(f->out.hint);
	weft_headers_set(&f->h, ":authority", 10, "none", 4);
	assert_true(weft_rbac_allowed(f->r, &f->in, &f->out));
	assert_true(f->out.hint);
	fix_free(f);
}

/* ---- the index */
static const char *const some_rules[] = {
	"{url_path: {path: {exact: /p%u}}}",
	"{url_path: {path: {prefix: /p%u}}}",
	"{destination_port: %u}",
	"{header: {name: x-u, string_match: {exact: u%u}}}",
	"{header: {name: x-v, string_match: {exact: u%u}}}",
	"{destination_ip: {address_prefix: 10.0.0.%u, prefix_len: 30}}",
	"{requested_server_name: {exact: s%u}}",
	"{not_rule: {destination_port: %u}}",
	"{and_rules: {rules: [{any: true}, {url_path: {path: {exact: /p%u}}}]}}",
	"{or_rules: {rules: [{destination_port: %u}, {url_path: {path: {suffix: p3}}}]}}",
	"{or_rules: {rules: [{destination_port: %u}, {header: {name: x-u, string_match: {exact: "
	"u1}}}]}}",
};
static const char *const some_ids[] = {
	"{any: true}",
	"{authenticated: {principal_name: {exact: 'spiffe://td/%u'}}}",
	"{remote_ip: {address_prefix: 10.9.%u.0, prefix_len: 24}}",
	"{direct_remote_ip: {address_prefix: 10.9.0.%u, prefix_len: 32}}",
	"{source_ip: {address_prefix: 10.0.0.0, prefix_len: %u}}",
	"{not_id: {authenticated: {principal_name: {exact: 'spiffe://td/%u'}}}}",
};
#define COUNT(v) (sizeof(v) / sizeof(*(v)))

static size_t rnd(size_t n)
{
	return (size_t)rand() % n;
}

/* text with its first "%u" as n; how long it is */
static int put(char *to, const char *text, size_t n)
{
	const char *at = strstr(text, "%u");

	return at ? sprintf(to, "%.*s%zu%s", (int)(at - text), text, n, at + 2)
		  : sprintf(to, "%s", text);
}

static char *random_rules(size_t n)
{
	char *s = calloc(n + 1, 512), *p = s;

	p += sprintf(p, "policies:\n");
	for (size_t i = 0; i < n; i++) {
		p += sprintf(p, "  p%03zu: {permissions: [", i);
		p += put(p, some_rules[rnd(COUNT(some_rules))], rnd(8));
		p += sprintf(p, "], principals: [");
		p += put(p, some_ids[rnd(COUNT(some_ids))], rnd(8));
		p += sprintf(p, "]}\n");
	}
	return s;
}

static const char *slow(const struct fix *f)
{
	struct rbac_view v;

	rbac_view_init(&v, f->r, &f->in);
	for (size_t i = 0; i < f->r->n; i++)
		if (rbac_eval(&f->r->v[i].root, &v) == WEFT_MATCH_YES)
			return f->r->v[i].name;
	return NULL;
}

static void random_input(struct fix *f)
{
	static char uri[32], sni[32];
	static const char *uris[2] = {uri};
	char text[32];

	snprintf(uri, sizeof(uri), "spiffe://td/%zu", rnd(9));
	snprintf(sni, sizeof(sni), "s%zu", rnd(9));
	f->tls.peer_uri = uris;
	f->conn.tls = rnd(4) ? &f->tls : NULL;
	f->conn.sni = sni;
	f->conn.local.port = (uint16_t)rnd(9);
	f->conn.local.ip.b[3] = (uint8_t)rnd(10);
	f->conn.direct_remote = addr("10.9.0.1:1");
	f->conn.direct_remote.ip.b[3] = (uint8_t)rnd(10);
	f->in.remote = addr("10.9.0.1:1");
	f->in.remote.ip.b[2] = (uint8_t)rnd(10);
	snprintf(text, sizeof(text), "/p%zu%s", rnd(9), rnd(2) ? "?a" : "");
	weft_headers_set(&f->h, ":path", 5, text, strlen(text));
	weft_headers_remove(&f->h, "x-u", 3);
	snprintf(text, sizeof(text), "u%zu", rnd(9));
	if (rnd(2))
		weft_headers_add(&f->h, "x-u", 3, text, strlen(text));
	weft_headers_remove(&f->h, "x-v", 3);
	if (rnd(2))
		weft_headers_add(&f->h, "x-v", 3, text, strlen(text));
}

static void index_against_walk(void **state)
{
	srand(7);
	for (unsigned round = 0; round < 40; round++) {
		char *yaml = random_rules(1 + rnd(60));
		struct fix *f = fix_new(yaml, NULL, true);

		fix_ok(f);
		for (unsigned i = 0; i < 100; i++) {
			const char *want;

			random_input(f);
			want = slow(f);
			assert_int_equal(weft_rbac_allowed(f->r, &f->in, &f->out), want != NULL);
			if (want)
				assert_string_equal(f->out.policy, want);
		}
		fix_free(f);
		free(yaml);
	}
}

/* How many policies a decision looks at: not a time, so that it holds on any machine. */
static void thousand_policies(void **state)
{
	char *yaml = calloc(1000, 256), *p = yaml;
	struct rbac_view v;
	struct rbac_walk w;
	struct fix *f;
	unsigned looked = 0;

	p += sprintf(p, "policies:\n");
	for (unsigned i = 0; i < 1000; i++)
		p += sprintf(p,
			     "  p%u: {permissions: [{and_rules: {rules: [{url_path: {path: "
			     "{prefix: /svc%u/}}}, {destination_port: 8080}]}}], principals: "
			     "[{authenticated: {principal_name: {exact: 'spiffe://td/%u'}}}]}\n",
			     i, i, i);
	f = fix_new(yaml, NULL, true);
	fix_ok(f);
	random_input(f);
	f->conn.tls = &f->tls;
	f->conn.local.port = 8080;
	rbac_view_init(&v, f->r, &f->in);
	rbac_walk_init(&w, f->r->index, &v);
	while (rbac_walk_next(&w) >= 0)
		looked++;
	assert_int_equal(looked, 1);
	fix_free(f);
	free(yaml);
}

/* More lists than one decision merges: all policies, in order. */
static void many_names(void **state)
{
	static char name[200][16];
	static const char *uris[201];
	char *yaml = calloc(200, 256), *p = yaml;
	struct fix *f;

	p += sprintf(p, "policies:\n");
	for (unsigned i = 0; i < 200; i++) {
		snprintf(name[i], sizeof(name[i]), "n%03u", i);
		uris[i] = name[199];
		p += sprintf(p,
			     "  p%03u: {" ANY_WHAT ", principals: [{authenticated: "
			     "{principal_name: {exact: n%03u}}}]}\n",
			     i, i);
	}
	f = fix_new(yaml, NULL, true);
	f->tls.peer_uri = uris;
	assert_true(weft_rbac_allowed(f->r, &f->in, &f->out));
	assert_string_equal(f->out.policy, "p199");
	fix_free(f);
	free(yaml);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rules),
		cmocka_unit_test(plaintext_is_nobody),
		cmocka_unit_test(actions_and_order),
		cmocka_unit_test(limits),
		cmocka_unit_test(refused),
		cmocka_unit_test(matchers),
		cmocka_unit_test(log_hint_of_trees),
		cmocka_unit_test(index_against_walk),
		cmocka_unit_test(thousand_policies),
		cmocka_unit_test(many_names),
	};
	return cmocka_run_group_tests_name("rbac", tests, NULL, NULL);
}
