/* jwt_authn, option by option: what each lets through, keeps off, or leaves behind. */
#include "test/unit/proxy/http/filters/call_fix.h"
#include "test/unit/proxy/http/filters/jwt_fix.h"

#include "proxy/http/route.h"

#define NS "envoy.filters.http.jwt_authn"
#define JWT(provider, requires, more)                                                              \
	"{name: jwt, typed_config: {" TYPE "jwt_authn.v3.JwtAuthentication, providers: {p: "       \
	"{issuer: me, " provider "}, q: {issuer: you, " KEYS                                       \
	"}}, rules: [{match: {prefix: /}, requires: {"                                             \
		requires                                                                           \
	"}}]" more "}}"
#define ONE(provider) JWT(KEYS provider, "provider_name: p", "")
#define ROUTES                                                                                     \
	"{name: all, domains: ['*'], routes: [{match: {prefix: /, headers: [{name: x-sub, "        \
	"present_match: true}]}, name: new, route: {cluster: up}}, {match: {prefix: /}, name: "    \
	"old, route: {cluster: up}}]}"

static struct env *open_with(const char *filter)
{
	struct env *e;

	calls_clear();
	e = filter_open(filter, ROUTES);
	term.body = NULL;
	return e;
}

static void shut(struct env *e)
{
	env_free(e);
	calls_clear();
}

/* A request with this payload, NULL without a token; want: of its answer. */
static void try(struct env *e, const char *payload, const char *want)
{
	get(e, "/", payload ? token(payload, SECRET) : NULL, NULL);
	assert_true(has(e, want));
}

static const char *claims(const char *more, long exp)
{
	static char text[512];

	snprintf(text, sizeof(text), "{\"iss\":\"me\"%s", more);
	if (exp)
		snprintf(text + strlen(text), 64, ",\"exp\":%ld", (long)time(NULL) + exp);
	strcat(text, "}");
	return text;
}

static void audiences(void **state)
{
	struct env *e = open_with(ONE(", audiences: ['https://svc/', b]"));

	try(e, "{\"iss\":\"me\",\"aud\":\"svc\"}", "200 OK");
	try(e, "{\"iss\":\"me\",\"aud\":[\"x\",\"b\"]}", "200 OK");
	try(e, "{\"iss\":\"me\",\"aud\":\"x\"}", "403 Forbidden");
	try(e, "{\"iss\":\"me\"}", "Audiences in Jwt are not allowed");
	shut(e);
	e = open_with(JWT(KEYS ", audiences: [a]",
			  "provider_and_audiences: {provider_name: p, audiences: [c]}", ""));
	try(e, "{\"iss\":\"me\",\"aud\":\"c\"}", "200 OK");
	try(e, "{\"iss\":\"me\",\"aud\":\"a\"}", "403 Forbidden");
	shut(e);
}

/* A request with a token between two texts. */
static void with(struct env *e, const char *before, const char *after, const char *want)
{
	char text[4096];

	e->n = 0;
	snprintf(text, sizeof(text), "GET %s%s%s\r\n\r\n", before,
		 token("{\"iss\":\"me\"}", SECRET), after);
	say(e, text);
	assert_true(has(e, want));
}

static void places(void **state)
{
	struct env *e = open_with(ONE(", from_headers: [{name: X-Token, value_prefix: 'T '}], "
				      "from_params: [tok], from_cookies: [ck]"));

	with(e, "/ HTTP/1.1\r\nhost: a\r\nx-token: T ", "", "200 OK");
	assert_null(strstr(term.last_headers, "x-token"));
	with(e, "/ HTTP/1.1\r\nhost: a\r\nx-token: U ", "", "Jwt is missing");
	with(e, "/?a=1&tok=", " HTTP/1.1\r\nhost: a", "200 OK");
	assert_non_null(strstr(term.last_headers, ":path=/?a=1\n"));
	with(e, "/ HTTP/1.1\r\nhost: a\r\ncookie: b=c; ck=", "", "200 OK");
	/* not where it would be without these */
	with(e, "/ HTTP/1.1\r\nhost: a\r\nauthorization: Bearer ", "", "Jwt is missing");
	with(e, "/?access_token=", " HTTP/1.1\r\nhost: a", "Jwt is missing");
	shut(e);
}

static void goes_on(void **state)
{
	struct env *e = open_with(ONE(", forward: true, forward_payload_header: x-p, "
				      "pad_forward_payload_header: true"));

	/* 12 bytes, 13, 14: no padding, two, one */
	try(e, "{\"iss\":\"me\"}", "200 OK");
	assert_non_null(strstr(term.last_headers, "x-p=eyJpc3MiOiJtZSJ9\n"));
	assert_non_null(strstr(term.last_headers, "authorization=Bearer eyJ"));
	try(e, "{\"iss\":\"me\" }", "200 OK");
	assert_non_null(strstr(term.last_headers, "x-p=eyJpc3MiOiJtZSIgfQ==\n"));
	try(e, "{\"iss\":\"me\"  }", "200 OK");
	assert_non_null(strstr(term.last_headers, "x-p=eyJpc3MiOiJtZSIgIH0=\n"));
	shut(e);
	e = open_with(ONE(", forward_payload_header: x-p"));
	try(e, "{\"iss\":\"me\" }", "200 OK");
	assert_non_null(strstr(term.last_headers, "x-p=eyJpc3MiOiJtZSIgfQ\n"));
	assert_null(strstr(term.last_headers, "authorization"));
	shut(e);
}

/* A member of the struct that stands at key in the filter's metadata; NULL: none. */
static const Google__Protobuf__Value *meta(const char *key, const char *member)
{
	const Google__Protobuf__Struct *s = weft_info_meta_get(weft_stream_info(term.s), NS);

	for (size_t i = 0; s && i < s->n_fields; i++)
		if (!strcmp(s->fields[i]->key, key)) {
			s = s->fields[i]->value->struct_value;
			for (size_t k = 0; k < s->n_fields; k++)
				if (!strcmp(s->fields[k]->key, member))
					return s->fields[k]->value;
			return NULL;
		}
	return NULL;
}

static void metadata(void **state)
{
	static const char scoped[] = "{\"iss\":\"me\",\"scope\":\"read  write\",\"n\":7}";
	struct env *e = open_with(
		JWT(KEYS ", payload_in_metadata: pay, header_in_metadata: hd, "
			 "failed_status_in_metadata: bad",
		    "requires_any: {requirements: [{provider_name: p}, {allow_missing_or_failed: "
		    "{}}]}",
		    ""));

	term.status = 0;
	get(e, "/", token(scoped, SECRET), NULL);
	assert_string_equal(meta("pay", "scope")->string_value, "read  write");
	assert_true(meta("pay", "n")->number_value == 7);
	assert_string_equal(meta("hd", "alg")->string_value, "HS256");
	assert_null(meta("bad", "code"));
	term_answer(e);
	get(e, "/", token(scoped, "another"), NULL);
	assert_null(meta("pay", "scope"));
	assert_string_equal(meta("bad", "message")->string_value, "Jwt verification fails");
	assert_true(meta("bad", "code")->number_value > 0);
	term_answer(e);
	shut(e);
	e = open_with(ONE(", payload_in_metadata: pay, normalize_payload_in_metadata: "
			  "{space_delimited_claims: [scope]}"));
	term.status = 0;
	get(e, "/", token(scoped, SECRET), NULL);
	assert_int_equal(meta("pay", "scope")->list_value->n_values, 2);
	assert_string_equal(meta("pay", "scope")->list_value->values[1]->string_value, "write");
	assert_null(meta("hd", "alg"));
	shut(e);
}

static void times(void **state)
{
	struct env *e = open_with(ONE("")); /* a minute of skew */

	try(e, claims("", -30), "200 OK");
	try(e, claims("", -90), "Jwt is expired");
	try(e, claims("", 0), "200 OK");
	shut(e);
	e = open_with(ONE(", clock_skew_seconds: 1"));
	try(e, claims("", -30), "Jwt is expired");
	shut(e);
	e = open_with(ONE(", require_expiration: true"));
	try(e, claims("", 0), "401 Unauthorized");
	try(e, claims("", 90), "200 OK");
	shut(e);
	e = open_with(ONE(", max_lifetime: 100s"));
	try(e, claims("", 90), "200 OK");
	try(e, claims("", 200), "401 Unauthorized");
	try(e, claims("", 0), "401 Unauthorized");
	shut(e);
}

static void subjects(void **state)
{
	struct env *e = open_with(ONE(", subjects: {prefix: al}"));

	try(e, claims(",\"sub\":\"alice\"", 0), "200 OK");
	try(e, claims(",\"sub\":\"bob\"", 0), "401 Unauthorized");
	try(e, claims("", 0), "401 Unauthorized");
	shut(e);
}

static int64_t counter(const char *name)
{
	struct weft_scope *s = weft_scope_get(&weft_http_scope_class, "t");
	int64_t v = weft_scope_value_named(s, name);

	weft_scope_unref(s);
	return v > 0 ? v : 0;
}

/* A token beyond jwt_max_token_size is looked at anew each time. */
static void tokens_kept(void **state)
{
	char big[200];
	struct env *e = open_with(ONE(", jwt_cache_config: {jwt_cache_size: 9, jwt_max_token_size: "
				      "150}"));
	int64_t was = counter("jwt_authn.jwt_cache_hit");

	snprintf(big, sizeof(big), ",\"sub\":\"%0100d\"", 1);
	for (int i = 0; i < 3; i++)
		try(e, claims(",\"sub\":\"x\"", 0), "200 OK");
	assert_int_equal(counter("jwt_authn.jwt_cache_hit"), was + 2);
	for (int i = 0; i < 3; i++)
		try(e, claims(big, 0), "200 OK");
	assert_int_equal(counter("jwt_authn.jwt_cache_hit"), was + 2);
	shut(e);
}

#define SUB ", claim_to_headers: [{header_name: x-sub, claim_name: sub}]"
static void route_is_found_again(void **state)
{
	static const char *const conf[] = {ONE(SUB), ONE(SUB ", clear_route_cache: true")};

	for (int on = 0; on < 2; on++) {
		struct env *e = open_with(conf[on]);

		term.status = 0;
		get(e, "/", token(claims(",\"sub\":\"x\"", 0), SECRET), NULL);
		assert_non_null(strstr(term.last_headers, "x-sub=x\n"));
		/* without, no filter looked before: the first that does finds it by what is there
		 */
		assert_string_equal(weft_stream_route(term.s)->name, on ? "new" : "old");
		term_answer(e);
		shut(e);
	}
}

static void refusals_say_nothing(void **state)
{
	struct env *e = open_with(JWT(KEYS, "provider_name: p", ", strip_failure_response: true"));

	try(e, NULL, "401 Unauthorized");
	assert_null(strstr(e->got, "www-authenticate"));
	assert_null(strstr(e->got, "missing"));
	shut(e);
}

static void preflights(void **state)
{
	static const char ask[] = "OPTIONS / HTTP/1.1\r\nhost: a\r\norigin: http://b\r\n"
				  "access-control-request-method: PUT\r\n\r\n";
	struct env *e = open_with(JWT(KEYS, "provider_name: p", ", bypass_cors_preflight: true"));

	say(e, ask);
	assert_true(has(e, "200 OK"));
	e->n = 0;
	say(e, "OPTIONS / HTTP/1.1\r\nhost: a\r\norigin: http://b\r\n\r\n");
	assert_true(has(e, "401 "));
	shut(e);
	e = open_with(ONE(""));
	say(e, ask);
	assert_true(has(e, "401 "));
	shut(e);
}

#define ANY(x) "requires_any: {requirements: [{provider_name: p}, {" x ": {}}]}"
static void bypasses(void **state)
{
	struct env *e = open_with(JWT(KEYS, ANY("allow_missing"), ""));

	try(e, NULL, "200 OK");
	try(e, "{\"iss\":\"me\"}", "200 OK");
	get(e, "/", token("{\"iss\":\"me\"}", "another"), NULL);
	assert_true(has(e, "401 "));
	shut(e);
	e = open_with(JWT(KEYS, ANY("allow_missing_or_failed"), ""));
	try(e, NULL, "200 OK");
	get(e, "/", token("{\"iss\":\"me\"}", "another"), NULL);
	assert_true(has(e, "200 OK"));
	shut(e);
}

/* ---- keys of a server */
#define KEY_SET "{\"keys\":[{\"kty\":\"oct\",\"k\":\"MDEyMzQ1Njc4OWFiY2RlZg\"}]}"
#define REMOTE(more)                                                                               \
	JWT("remote_jwks: {http_uri: {uri: 'https://keys.example/set', cluster: k, timeout: "      \
	    "1s}" more "}",                                                                        \
	    "provider_name: p", "")

/* Waits until so many calls were made; a second call may come any time later. */
static void calls_are(struct env *e, unsigned n)
{
	for (int i = 0; i < 1000 && n_calls < n; i++)
		turn(e, 2);
	assert_int_equal(n_calls, n);
}

static void keys(struct env *e)
{
	call_answer(e, 200, NULL, KEY_SET, strlen(KEY_SET), NULL);
}

static void keys_grow_old(void **state)
{
	struct env *e = open_with(REMOTE(", cache_duration: 0.05s"));

	get(e, "/", token("{\"iss\":\"me\"}", SECRET), NULL);
	calls_are(e, 1);
	assert_string_equal(asked(":authority"), "keys.example");
	assert_string_equal(asked(":path"), "/set");
	assert_int_equal(e->n, 0);
	keys(e);
	assert_true(has(e, "200 OK"));
	turn(e, 60);
	assert_int_equal(n_calls, 1); /* nobody asks before a request does */
	get(e, "/", token("{\"iss\":\"me\"}", SECRET), NULL);
	calls_are(e, 2);
	keys(e);
	assert_true(has(e, "200 OK"));
	shut(e);
	e = open_with(REMOTE("")); /* ten minutes */
	get(e, "/", token("{\"iss\":\"me\"}", SECRET), NULL);
	calls_are(e, 1);
	keys(e);
	turn(e, 60);
	get(e, "/", token("{\"iss\":\"me\"}", SECRET), NULL);
	assert_true(has(e, "200 OK"));
	assert_int_equal(n_calls, 1);
	shut(e);
}

/* With async_fetch they come again by themselves; after a failure, after failed_refetch_duration.
 */
static void keys_come_by_themselves(void **state)
{
	struct env *e = open_with(REMOTE(", cache_duration: 0.1s, async_fetch: "
					 "{failed_refetch_duration: 0.02s}"));

	get(e, "/", token("{\"iss\":\"me\"}", SECRET), NULL);
	calls_are(e, 1);
	keys(e);
	assert_true(has(e, "200 OK"));
	calls_are(e, 2);
	call_answer(e, 404, NULL, "", 0, NULL);
	calls_are(e, 3);
	keys(e);
	assert_int_equal(counter("jwt_authn.jwks_fetch_failed"), 1);
	shut(e);
	/* a failure waits as long as it is told to */
	e = open_with(REMOTE(", async_fetch: {failed_refetch_duration: 1000s}"));
	get(e, "/", token("{\"iss\":\"me\"}", SECRET), NULL);
	calls_are(e, 1);
	call_answer(e, 404, NULL, "", 0, NULL);
	assert_true(has(e, "Jwks remote fetch is failed"));
	turn(e, 60);
	assert_int_equal(n_calls, 1);
	shut(e);
}

static void keys_are_tried_again(void **state)
{
	struct env *e = open_with(REMOTE(", retry_policy: {num_retries: 2, retry_back_off: "
					 "{base_interval: 0.005s}}"));

	get(e, "/", token("{\"iss\":\"me\"}", SECRET), NULL);
	calls_are(e, 1);
	call_answer(e, 503, NULL, "", 0, NULL);
	calls_are(e, 2);
	call_answer(e, 0, NULL, "", 0, NULL);
	calls_are(e, 3);
	assert_int_equal(e->n, 0);
	keys(e);
	assert_true(has(e, "200 OK"));
	shut(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(audiences),
		cmocka_unit_test(places),
		cmocka_unit_test(goes_on),
		cmocka_unit_test(metadata),
		cmocka_unit_test(times),
		cmocka_unit_test(subjects),
		cmocka_unit_test(tokens_kept),
		cmocka_unit_test(route_is_found_again),
		cmocka_unit_test(refusals_say_nothing),
		cmocka_unit_test(preflights),
		cmocka_unit_test(bypasses),
		cmocka_unit_test(keys_grow_old),
		cmocka_unit_test(keys_come_by_themselves),
		cmocka_unit_test(keys_are_tried_again),
	};
	return cmocka_run_group_tests_name("jwt_options", tests, NULL, NULL);
}
