/* Routes: domains, every kind of match, rewrites, redirects, header options, hashes, weights, and
 * the tree of paths against a plain walk. */
#include "test/unit/proxy/http/route_fix.h"

/* ---- domains */
static const char *vhost(const char *host)
{
	const struct weft_route *r;

	request(host, "/", NULL);
	r = find();
	return r ? weft_vhost_name(r->vhost) : "none";
}

#define V(name, domains)                                                                           \
	"{name: " name ", domains: [" domains "], routes: [" R("r", "prefix: /") "]},"

static void domains(void **state)
{
	assert_int_equal(load("{name: t, virtual_hosts: [" V("exact", "a.com, 'b.com:80'")
				      V("long", "'*.x.a.com'") V("suffix", "'*.a.com', '*-b.com'")
					      V("prefix", "'p.*'") V("prefix2", "'p.q.*'")
						      V("any", "'*'") "]}"),
			 0);
	assert_string_equal(vhost("a.com"), "exact");
	assert_string_equal(vhost("A.CoM"), "exact");
	assert_string_equal(vhost("b.com:80"), "exact");
	assert_string_equal(vhost("b.com"), "any");
	assert_string_equal(vhost("y.x.a.com"), "long");
	assert_string_equal(vhost("x.a.com"), "suffix");
	assert_string_equal(vhost(".a.com"), "any"); /* the star stands for something */
	assert_string_equal(vhost("q-b.com"), "suffix");
	assert_string_equal(vhost("p.com"), "prefix");
	assert_string_equal(vhost("p.q.com"), "prefix2");
	assert_string_equal(vhost("p.a.com"), "suffix"); /* before prefixes */
	assert_string_equal(vhost("other"), "any");
	assert_string_equal(vhost(""), "any");
	assert_string_equal(vhost(NULL), "any");
}

static void ports_and_header(void **state)
{
	assert_int_equal(load("{name: t, ignore_port_in_host_matching: true, virtual_hosts: [" V(
				 "a", "a.com") V("six", "'[::1]'") "]}"),
			 0);
	assert_string_equal(vhost("a.com:8080"), "a");
	assert_string_equal(vhost("a.com"), "a");
	assert_string_equal(vhost("a.com:x"), "none");
	assert_string_equal(vhost("[::1]:80"), "six");
	assert_int_equal(
		load("{name: t, vhost_header: x-v, virtual_hosts: [" V("a", "a") V("b", "b") "]}"),
		0);
	request("a", "/", "x-v", "b", NULL);
	assert_string_equal(weft_vhost_name(find()->vhost), "b");
}

static void domains_refused(void **state)
{
	static const struct {
		const char *v, *path, *why;
	} t[] = {
		{V("a", "a") V("b", "A"), "virtual_hosts[1].domains[0]", "stands already"},
		{V("a", "'a*b'"), "virtual_hosts[0].domains[0]", "'*'"},
		{V("a", "'*', '*'"), "virtual_hosts[0].domains[1]", "stands already"},
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
		char text[1024];

		fresh(NULL);
		snprintf(text, sizeof(text), "{name: t, virtual_hosts: [%s]}", t[i].v);
		assert_int_not_equal(load(text), 0);
		assert_non_null(strstr(errs.v[0].msg, t[i].why));
		assert_string_equal(errs.v[0].path, t[i].path);
	}
}

/* ---- matches */
static void paths(void **state)
{
	table(R("exact", "path: /a/b") R("nocase", "path: /N, case_sensitive: false")
		      R("sep", "path_separated_prefix: /s")
			      R("regex", "safe_regex: {regex: '/r/[0-9]+'}")
				      R("deep", "prefix: /a/b/c") R("short", "prefix: /a"));
	assert_string_equal(GOES("/a/b"), "exact");
	assert_string_equal(GOES("/a/b?x=1"), "exact");
	assert_string_equal(GOES("/a/b#f"), "exact");
	assert_string_equal(GOES("/a/b/c/d"), "deep");
	assert_string_equal(GOES("/a/b/x"), "short");
	assert_string_equal(GOES("/a"), "short");
	assert_string_equal(GOES("/ab"), "short");
	assert_string_equal(GOES("/A"), "none");
	assert_string_equal(GOES("/n"), "nocase");
	assert_string_equal(GOES("/s"), "sep");
	assert_string_equal(GOES("/s/x"), "sep");
	assert_string_equal(GOES("/s?x"), "sep");
	assert_string_equal(GOES("/sx"), "none");
	assert_string_equal(GOES("/r/12?x"), "regex");
	assert_string_equal(GOES("/r/12/"), "none");
	assert_string_equal(GOES("*"), "none");
}

static void first_of_all(void **state)
{
	table(R("hdr", "prefix: /, headers: [{name: x, string_match: {exact: '1'}}]")
		      R("q", "prefix: /p, query_parameters: [{name: k, string_match: {prefix: v}}]")
			      R("grpc", "prefix: /, grpc: {}") R("long", "prefix: /p/q")
				      R("rest", "prefix: /"));
	assert_string_equal(GOES("/p/q", "x", "1"), "hdr");
	assert_string_equal(GOES("/p/q?k=vv", "x", "2"), "q");
	assert_string_equal(GOES("/p/q?k=u"), "long");
	assert_string_equal(GOES("/p", "content-type", "application/grpc+proto"), "grpc");
	assert_string_equal(GOES("/p", "content-type", "application/grpc-web"), "rest");
}

static void connects(void **state)
{
	table(R("get", "prefix: /") R("connect", "connect_matcher: {}"));
	request("h:80", NULL, ":method", "CONNECT", NULL);
	assert_string_equal(name_found(), "connect");
	assert_string_equal(GOES("/"), "get");
}

static void fractions(void **state)
{
	table(R("some", "prefix: /, runtime_fraction: {default_value: {numerator: 25}}")
		      R("rest", "prefix: /"));
	in.random = 249999;
	assert_string_equal(GOES("/"), "some");
	in.random = 250000;
	assert_string_equal(GOES("/"), "rest");
}

static void tls_contexts(void **state)
{
	struct weft_tls_info tls = {.peer_presented = true};

	table(R("ok", "prefix: /, tls_context: {presented: true, validated: true}") R(
		"shown", "prefix: /, tls_context: {presented: true}") R("rest", "prefix: /"));
	assert_string_equal(GOES("/"), "rest");
	down.tls = &tls;
	assert_string_equal(GOES("/"), "shown");
	tls.peer_verified = true;
	assert_string_equal(GOES("/"), "ok");
	down.tls = NULL;
	table(R("none", "prefix: /, tls_context: {presented: false}") R("rest", "prefix: /"));
	assert_string_equal(GOES("/"), "none"); /* plain connections show nothing */
}

static void wants_tls(void **state)
{
	bool redirect;

	assert_int_equal(load("{name: t, virtual_hosts: [{name: v, domains: ['*'], require_tls: "
			      "ALL, routes: [" R("r", "prefix: /") "]}]}"),
			 0);
	request("h", "/", NULL);
	assert_null(weft_routes_find(routes, &in, &redirect));
	assert_true(redirect);
	in.tls = true;
	assert_non_null(weft_routes_find(routes, &in, &redirect));
	assert_false(redirect);
}

/* ---- the tree against a walk */
static const char letters[] = "ab/";

static size_t random_path(char *p, size_t max)
{
	size_t n = 1 + (unsigned)rand() % max, i;

	p[0] = '/';
	for (i = 1; i < n; i++)
		p[i] = letters[(unsigned)rand() % 3];
	p[n] = '\0';
	return n;
}

struct plain {
	enum route_path kind;
	char path[16];
	bool nocase;
};

static bool plain_fits(const struct plain *p, const char *s, size_t n)
{
	size_t k = strlen(p->path);

	if (n < k || (p->nocase ? strncasecmp(s, p->path, k) : strncmp(s, p->path, k)))
		return false;
	return p->kind == PATH_PREFIX || n == k || (p->kind == PATH_SEPARATED && s[k] == '/');
}

static void tree_as_walk(void **state)
{
	static const char *const fields[] = {"prefix", "path", "path_separated_prefix"};
	unsigned hits = 0, total = 0;

	srand(11);
	for (int round = 0; round < 250; round++) {
		struct plain v[40];
		int n = 1 + rand() % 40;
		char *text = NULL;
		size_t size;
		FILE *f = open_memstream(&text, &size);

		fresh(NULL);
		for (int i = 0; i < n; i++) {
			v[i].kind = (enum route_path)(rand() % 3);
			v[i].nocase = rand() % 4 == 0 && v[i].kind != PATH_SEPARATED;
			do
				random_path(v[i].path, 9);
			while (v[i].kind == PATH_SEPARATED &&
			       (v[i].path[strlen(v[i].path) - 1] == '/'));
			fprintf(f, "{name: r%d, match: {%s: %s%s}, " TO "},", i, fields[v[i].kind],
				v[i].path, v[i].nocase ? ", case_sensitive: false" : "");
		}
		fclose(f);
		table(text);
		free(text);
		for (int i = 0; i < 400; i++, total++) {
			char path[32], want[16] = "none";
			size_t len = random_path(path, 14);
			int k;

			for (size_t c = 0; c < len; c++)
				if (rand() % 16 == 0 && path[c] >= 'a')
					path[c] = (char)(path[c] - 32);
			for (k = 0; k < n && !plain_fits(&v[k], path, len); k++)
				;
			if (k < n)
				snprintf(want, sizeof(want), "r%d", k);
			hits += k < n;
			assert_string_equal(GOES(path), want);
		}
	}
	print_message("# %u of %u paths had a route\n", hits, total);
	assert_true(hits > total / 10 && hits < total);
}

/* Prefixes nested beyond what one way down may meet: still right. */
static void nested(void **state)
{
	char *text = NULL, path[256] = "/", name[16];
	size_t size;
	FILE *f = open_memstream(&text, &size);

	for (int i = 99; i >= 0; i--) {
		memset(path + 1, 'x', (size_t)i);
		path[i + 1] = '\0';
		fprintf(f, "{name: r%d, match: {prefix: %s}, " TO "},", i, path);
	}
	fclose(f);
	table(text);
	free(text);
	for (int i = 0; i < 120; i++) {
		memset(path + 1, 'x', (size_t)i);
		path[i + 1] = '\0';
		snprintf(name, sizeof(name), "r%d", i < 99 ? i : 99);
		assert_string_equal(GOES(path), name);
	}
}

/* ---- what routes do */
static const char *after(const char *field)
{
	struct weft_format_in fin = {.info = &info, .req = &req};
	const struct weft_weighted *w = NULL;
	const struct weft_route *r = find();
	const struct weft_header *h;

	assert_non_null(r);
	(void)weft_route_cluster(r, &in, &w);
	weft_route_request(r, w, &fin, &req);
	h = weft_headers_find(&req, field, 0);
	return h ? h->value : "(none)";
}

#define PATH_AFTER(route, path)                                                                    \
	(fresh(NULL), table(route), request("h", path, (const char *)NULL), after(":path"))

static void path_rewrites(void **state)
{
#define PR(m, a) "{match: {" m "}, route: {cluster: c, " a "}}"
	assert_string_equal(PATH_AFTER(PR("prefix: /a", "prefix_rewrite: /b"), "/a/x?q"), "/b/x?q");
	assert_string_equal(PATH_AFTER(PR("prefix: /a", "prefix_rewrite: /b"), "/ax#f"), "/bx#f");
	assert_string_equal(PATH_AFTER(PR("prefix: /a/", "prefix_rewrite: /"), "/a/x"), "/x");
	assert_string_equal(PATH_AFTER(PR("path: /a", "prefix_rewrite: /b"), "/a?q"), "/b?q");
	assert_string_equal(
		PATH_AFTER(PR("path_separated_prefix: /a", "prefix_rewrite: /b"), "/a/x"), "/b/x");
	assert_string_equal(PATH_AFTER(PR("prefix: /", "regex_rewrite: {pattern: {regex: "
						       "'^/v([0-9])/(.*)$'}, substitution: "
						       "'/\\\\2/\\\\1'}"),
				       "/v1/x?q"),
			    "/\\2/\\1?q"); /* an escaped backslash, then a digit of text */
	assert_string_equal(
		PATH_AFTER("{match: {prefix: /}, route: {cluster: c, regex_rewrite: {pattern: "
			   "{regex: \"^/v([0-9])/(.*)$\"}, substitution: '/\\2/\\1'}}}",
			   "/v1/x?q"),
		"/x/1?q");
	request("h", "/v1/x", NULL);
	(void)after(":path");
	assert_string_equal(weft_headers_value(&req, WEFT_H_X_ENVOY_ORIGINAL_PATH), "/v1/x");
}

static void host_rewrites(void **state)
{
	table(PR("prefix: /lit", "host_rewrite_literal: new") "," PR(
		"prefix: /hdr",
		"host_rewrite_header: x-h") "," PR("prefix: /re",
						   "host_rewrite_path_regex: "
						   "{pattern: {regex: '^/re/(.+)$'}, "
						   "substitution: '\\1'}, "
						   "append_x_forwarded_host: true"));
	request("old", "/lit", NULL);
	assert_string_equal(after(":authority"), "new");
	request("old", "/hdr", "x-h", "byhdr", NULL);
	assert_string_equal(after(":authority"), "byhdr");
	request("old", "/hdr", NULL);
	assert_string_equal(after(":authority"), "old");
	request("old", "/re/site", NULL);
	assert_string_equal(after(":authority"), "site");
	assert_string_equal(weft_headers_value(&req, WEFT_H_X_FORWARDED_HOST), "old");
}

static const char *location(const char *action, const char *host, const char *path, bool tls)
{
	char text[512];
	const char *to = NULL;

	fresh(NULL);
	snprintf(text, sizeof(text), "{match: {prefix: /a}, redirect: {%s}}", action);
	table(text);
	request(host, path, ":scheme", tls ? "https" : "http", NULL);
	in.tls = tls;
	(void)weft_route_redirect(find(), &in, arena, &to);
	return to;
}

static void redirects(void **state)
{
	assert_string_equal(location("https_redirect: true", "h:80", "/a?q", false),
			    "https://h/a?q");
	assert_string_equal(location("https_redirect: true", "h:8080", "/a", false),
			    "https://h:8080/a");
	assert_string_equal(location("scheme_redirect: http", "h:443", "/a", true), "http://h/a");
	assert_string_equal(location("host_redirect: n", "h:80", "/a", false), "http://n/a");
	assert_string_equal(location("port_redirect: 81", "h:80", "/a", false), "http://h:81/a");
	assert_string_equal(location("port_redirect: 81", "[::1]:80", "/a", false),
			    "http://[::1]:81/a");
	assert_string_equal(location("port_redirect: 81", "[::1]", "/a", false),
			    "http://[::1]:81/a");
	assert_string_equal(location("path_redirect: /n", "h", "/a?q=1", false), "http://h/n?q=1");
	assert_string_equal(location("path_redirect: '/n?z'", "h", "/a?q=1", false),
			    "http://h/n?z");
	assert_string_equal(location("prefix_rewrite: /n", "h", "/a/b?q", false), "http://h/n/b?q");
	assert_string_equal(location("strip_query: true, prefix_rewrite: /n", "h", "/a/b?q", false),
			    "http://h/n/b");
	assert_int_equal(find()->action, WEFT_ROUTE_REDIRECT);
}

/* ---- header options */
static const char order[] =
	"{name: t, most_specific_header_mutations_wins: %s, request_headers_to_add: [{header: "
	"{key: x, value: table}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}], virtual_hosts: "
	"[{name: v, domains: ['*'], request_headers_to_add: [{header: {key: x, value: vhost}, "
	"append_action: OVERWRITE_IF_EXISTS_OR_ADD}], routes: [{match: {prefix: /}, "
	"request_headers_to_add: [{header: {key: x, value: route}, append_action: "
	"OVERWRITE_IF_EXISTS_OR_ADD}, {header: {key: y, value: '%%REQ(z)%%'}}, {header: {key: e, "
	"value: ''}, keep_empty_value: true}, {header: {key: n, value: ''}}], "
	"request_headers_to_remove: [gone], route: {cluster: c}}]}]}";

static void header_order(void **state)
{
	char text[2048];

	snprintf(text, sizeof(text), order, "false");
	assert_int_equal(load(text), 0);
	request("h", "/", "x", "own", "z", "zz", "gone", "1", NULL);
	assert_string_equal(after("x"), "table");
	assert_string_equal(weft_headers_find(&req, "y", 0)->value, "zz");
	assert_non_null(weft_headers_find(&req, "e", 0));
	assert_null(weft_headers_find(&req, "n", 0));
	assert_null(weft_headers_find(&req, "gone", 0));
	fresh(NULL);
	snprintf(text, sizeof(text), order, "true");
	assert_int_equal(load(text), 0);
	request("h", "/", NULL);
	assert_string_equal(after("x"), "route");
}

/* ---- weights and hashes */
static void weights(void **state)
{
	const struct weft_weighted *w;
	unsigned n[3] = {0};

	table("{match: {prefix: /}, route: {weighted_clusters: {clusters: [{name: a, weight: 1}, "
	      "{name: z, weight: 0}, {name: b, weight: 3}]}}}");
	request("h", "/", NULL);
	for (in.random = 0; in.random < 400; in.random++) {
		const char *c = weft_route_cluster(find(), &in, &w);

		assert_non_null(w);
		n[*c == 'a' ? 0 : *c == 'b' ? 1 : 2]++;
	}
	assert_int_equal(n[0], 100);
	assert_int_equal(n[1], 300);
	fresh(NULL);
	table("{match: {prefix: /}, route: {cluster_header: x-c}}");
	request("h", "/", NULL);
	assert_null(weft_route_cluster(find(), &in, &w));
	request("h", "/", "x-c", "there", NULL);
	assert_string_equal(weft_route_cluster(find(), &in, &w), "there");
}

static void weights_refused(void **state)
{
	assert_int_not_equal(
		load("{name: t, virtual_hosts: [{name: v, domains: ['*'], routes: [{match: "
		     "{prefix: /}, route: {weighted_clusters: {clusters: [{name: a, weight: "
		     "0}]}}}]}]}"),
		0);
	assert_non_null(strstr(errs.v[0].path, "weighted_clusters"));
}

static void hashes(void **state)
{
	uint64_t a, b;
	const char *set = NULL;

	table("{match: {prefix: /}, route: {cluster: c, hash_policy: [{header: {header_name: k}, "
	      "terminal: true}, {query_parameter: {name: q}}, {cookie: {name: s, ttl: 60s, path: "
	      "/p}}]}}");
	request("h", "/", "k", "1", NULL);
	assert_true(weft_route_hash(find(), &in, arena, &a, &set));
	assert_null(set);
	request("h", "/?q=zz", "k", "1", NULL); /* terminal: the query has no say */
	assert_true(weft_route_hash(find(), &in, arena, &b, &set));
	assert_int_equal(a, b);
	request("h", "/?q=zz", "cookie", "s=abc", NULL);
	assert_true(weft_route_hash(find(), &in, arena, &a, &set));
	request("h", "/?q=zy", "cookie", "s=abc", NULL);
	assert_true(weft_route_hash(find(), &in, arena, &b, &set));
	assert_int_not_equal(a, b);
	request("h", "/", NULL);
	set = NULL;
	assert_true(weft_route_hash(find(), &in, arena, &a, &set));
	assert_non_null(set);
	assert_memory_equal(set, "s=\"", 3);
	assert_non_null(strstr(set, "; Max-Age=60; Path=/p"));
}

/* ---- what the configuration is told */
static void unreachable_routes(void **state)
{
	table(R("all", "prefix: /a") R("never", "prefix: /a/b") R("other", "path: /b")
		      R("never", "path: /b"));
	assert_int_equal(warns.n, 2);
	assert_string_equal(warns.v[0].path, "virtual_hosts[0].routes[1]");
	assert_non_null(strstr(warns.v[0].msg, "routes[0]"));
	fresh(NULL);
	table(R("some", "prefix: /a, headers: [{name: x}]") R("r", "prefix: /a/b")
		      R("e", "path: /c") R("p", "prefix: /c") R("s", "path_separated_prefix: /d")
			      R("q", "prefix: /d"));
	assert_int_equal(warns.n, 0);
}

static void explained(void **state)
{
	struct evbuffer *out = evbuffer_new();
	char *text;

	table(R("one", "prefix: /x") R("two", "prefix: /, headers: [{name: need}]")
		      R("three", "path: /y"));
	request("h", "/y", NULL);
	weft_routes_explain(routes, &in, out);
	evbuffer_add(out, "", 1);
	text = (char *)evbuffer_pullup(out, -1);
	assert_non_null(strstr(text, "routes[0] one: no: path"));
	assert_non_null(strstr(text, "routes[1] two: no: header need"));
	assert_non_null(strstr(text, "routes[2] three: taken"));
	evbuffer_free(out);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, fresh, gone)
	const struct CMUnitTest tests[] = {T(domains),
					   T(ports_and_header),
					   T(domains_refused),
					   T(paths),
					   T(first_of_all),
					   T(connects),
					   T(fractions),
					   T(tls_contexts),
					   T(wants_tls),
					   T(tree_as_walk),
					   T(nested),
					   T(path_rewrites),
					   T(host_rewrites),
					   T(redirects),
					   T(header_order),
					   T(weights),
					   T(weights_refused),
					   T(hashes),
					   T(unreachable_routes),
					   T(explained)};

	return cmocka_run_group_tests_name("route", tests, NULL, NULL);
}
