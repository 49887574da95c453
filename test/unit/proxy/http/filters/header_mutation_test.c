/* header_mutation: order, levels of routes, query parameters, and what is refused. */
#include "test/unit/proxy/http/filters/filter_fix.h"

#define HM(body) "{name: hm, typed_config: {" TYPE "header_mutation.v3.HeaderMutation, " body "}}"
#define ROUTE(body)                                                                                \
	"{name: all, domains: ['*'], typed_per_filter_config: {hm: {" TYPE                         \
	"header_mutation.v3.HeaderMutationPerRoute, mutations: {response_mutations: [{append: "    \
	"{header: {key: x-l, value: vhost}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}]}}}, "     \
	"routes: [{match: {prefix: /}, route: {cluster: up}, typed_per_filter_config: {hm: {" TYPE \
	"header_mutation.v3.HeaderMutationPerRoute, mutations: {" body "}}}}]}"
#define LEVEL                                                                                      \
	"response_mutations: [{append: {header: {key: x-l, value: route}, append_action: "         \
	"OVERWRITE_IF_EXISTS_OR_ADD}}]"

static void in_order(void **state)
{
	struct env *e = filter_open(
		HM("mutations: {request_mutations: [{remove: X-A}, "
		   "{append: {header: {key: x-a, value: '%REQ(x-b)%'}}}, "
		   "{remove_on_match: {key_matcher: {prefix: x-b}}}, "
		   "{append: {header: {key: x-c, value: new}, append_action: ADD_IF_ABSENT}}, "
		   "{append: {header: {key: x-d, value: new}, append_action: "
		   "OVERWRITE_IF_EXISTS}}, "
		   "{append: {header: {key: x-none, value: '%REQ(x-nothing)%'}}}], "
		   "response_mutations: [{append: {header: {key: x-code, value: "
		   "'%RESPONSE_CODE%'}}}]}"),
		NULL);

	say(e, "GET / HTTP/1.1\r\nhost: a\r\nx-a: 1\r\nx-b: 2\r\nx-bb: 3\r\nx-c: old\r\n\r\n");
	assert_non_null(strstr(term.last_headers, "x-a=2\n"));
	assert_null(strstr(term.last_headers, "x-a=1\n"));
	assert_null(strstr(term.last_headers, "x-b"));
	assert_non_null(strstr(term.last_headers, "x-c=old\n"));
	assert_null(strstr(term.last_headers, "x-d"));
	assert_null(strstr(term.last_headers, "x-none"));
	assert_true(has(e, "x-code: 200\r\n"));
	env_free(e);
}

static void levels(void **state)
{
	struct env *e = filter_open(HM("most_specific_header_mutations_wins: true"), ROUTE(LEVEL));

	say(e, GET("/"));
	assert_true(has(e, "x-l: route\r\n"));
	env_free(e);
	e = filter_open(HM("most_specific_header_mutations_wins: false"), ROUTE(LEVEL));
	say(e, GET("/"));
	assert_true(has(e, "x-l: vhost\r\n"));
	env_free(e);
}

static void trailers(void **state)
{
	struct env *e = filter_open(
		HM("mutations: {request_trailers_mutations: [{append: {header: {key: x-rt, value: "
		   "a}}}], response_trailers_mutations: [{remove: x-sum}, {append: {header: {key: "
		   "x-new, value: b}}}]}"),
		NULL);

	term.trailers = true;
	say(e, "GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\n\r\n");
	assert_null(strstr(e->got, "x-sum"));
	env_free(e);
}

static void path_is(struct env *e, const char *ask, const char *want)
{
	char req[512];

	snprintf(req, sizeof(req), "GET %s HTTP/1.1\r\nhost: a\r\n\r\n", ask);
	say(e, req);
	snprintf(req, sizeof(req), ":path=%s\n", want);
	if (!strstr(term.last_headers, req))
		print_message("# %s in %s\n", req, term.last_headers);
	assert_non_null(strstr(term.last_headers, req));
}

static void query(void **state)
{
	struct env *e = filter_open(
		HM("mutations: {query_parameter_mutations: [{append: {record: {key: q, value: "
		   "'%REQ(x-v)%1'}}}, {remove: gone}, {append: {record: {key: z, value: new}, "
		   "action: OVERWRITE_IF_EXISTS}}, {append: {record: {key: a, value: dflt}, "
		   "action: "
		   "ADD_IF_ABSENT}}]}"),
		NULL);

	path_is(e, "/", "/?a=dflt&q=1");
	path_is(e, "/p?gone=1&z=0&a=2&gone&z=3", "/p?a=2&q=1&z=new");
	path_is(e, "/?%7A=0&b=%20%26&y", "/?a=dflt&b=%20%26&q=1&y=&z=new");
	path_is(e, "/?b=%zz&c=%4", "/?a=dflt&b=%zz&c=%4&q=1");
	env_free(e);
}

/* What an operator gives cannot break the request line. */
static void query_stays_a_line(void **state)
{
	struct env *e = filter_open(
		HM("mutations: {query_parameter_mutations: [{append: {record: {key: q, value: "
		   "'%REQ(x-v)%'}}}]}"),
		NULL);

	say(e, "GET /x HTTP/1.1\r\nhost: a\r\nx-v: a b HTTP/1.1\r\n\r\n");
	assert_non_null(strstr(term.last_headers, ":path=/x\n"));
	env_free(e);
}

static void bad(void **state)
{
	refused(HM("mutations: {request_mutations: [{remove: ':path'}]}"), NULL,
		"must be a header that requests and answers can be without");
	refused(HM("mutations: {request_mutations: [{append: {header: {key: ':path', value: "
		   "x}}}]}"),
		NULL, "must not be a pseudo header or host");
	refused(HM("mutations: {response_mutations: [{append: {header: {key: x, value: "
		   "'%NOTHING%'}}}]}"),
		NULL, "response_mutations[0].append.header.value");
	refused(HM("mutations: {query_parameter_mutations: [{append: {record: {key: x, value: "
		   "1}}}]}"),
		NULL, "must be a string");
	refused(HM("mutations: {query_parameter_mutations: [{}]}"), NULL,
		"must have one of append and remove");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(in_order),	      cmocka_unit_test(levels),
		cmocka_unit_test(trailers),	      cmocka_unit_test(query),
		cmocka_unit_test(query_stays_a_line), cmocka_unit_test(bad),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
