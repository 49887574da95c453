/* The JWT filter in a connection manager, with keys that stand in its configuration. */
#include "test/unit/proxy/http/hcm_fix.h"

#include "test/unit/proxy/http/filters/jwt_fix.h"

#define PROVIDER                                                                                   \
	"      providers:\n"                                                                       \
	"        p: {issuer: me, " KEYS ", forward_payload_header: x-payload, claim_to_headers: "  \
	"[{header_name: x-sub, claim_name: sub}], jwt_cache_config: {jwt_cache_size: 2}}\n"
#define RULES "      rules: [{match: {prefix: /}, requires: {provider_name: p}}]\n"

static struct env *open_with(const char *more)
{
	struct env *e;

	fix_own_filters = true;
	e = env_new(more, 0, true);
	env_connect(e);
	term.status = 200;
	return e;
}

static void verdicts(void **state)
{
	struct env *e = open_with(FILTER PROVIDER RULES);

	get(e, "/a?b=c", NULL, NULL);
	assert_true(has(e, "HTTP/1.1 401 Unauthorized\r\n"));
	assert_true(has(e, "www-authenticate: Bearer realm=\"http://a/a?b=c\"\r\n"));
	assert_true(has(e, "Jwt is missing"));
	get(e, "/", token("{\"iss\":\"me\"}", "another secret"), NULL);
	assert_true(
		has(e, "www-authenticate: Bearer realm=\"http://a/\", error=\"invalid_token\""));
	assert_true(has(e, "Jwt verification fails"));
	get(e, "/", token("{\"iss\":\"you\"}", "0123456789abcdef"), NULL);
	assert_true(has(e, "Jwt issuer is not configured"));
	get(e, "/", token("{\"iss\":\"me\",\"exp\":1}", "0123456789abcdef"), NULL);
	assert_true(has(e, "Jwt is expired"));
	for (int i = 0; i < 5; i++) { /* more than the cache holds, and again */
		char payload[64];

		snprintf(payload, sizeof(payload), "{\"iss\":\"me\",\"sub\":\"s%d\"}", i % 3);
		get(e, "/", token(payload, "0123456789abcdef"),
		    "x-sub: forged\r\nx-payload: f\r\n");
		assert_true(has(e, "HTTP/1.1 200 OK"));
		snprintf(payload, sizeof(payload), "x-sub=s%d\n", i % 3);
		assert_non_null(strstr(term.last_headers, payload));
		assert_null(strstr(term.last_headers, "forged"));
		assert_null(strstr(term.last_headers, "authorization="));
		assert_non_null(strstr(term.last_headers, "x-payload=eyJ"));
	}
	env_free(e);
}

static void parameter_is_taken_out(void **state)
{
	struct env *e = open_with(FILTER PROVIDER RULES);
	char path[2048];

	snprintf(path, sizeof(path), "/x?a=1&access_token=%s&b=2",
		 token("{\"iss\":\"me\"}", "0123456789abcdef"));
	get(e, path, NULL, NULL);
	assert_true(has(e, "HTTP/1.1 200 OK"));
	assert_non_null(strstr(term.last_headers, ":path=/x?a=1&b=2\n"));
	snprintf(path, sizeof(path), "/x?access_token=%s",
		 token("{\"iss\":\"me\"}", "0123456789abcdef"));
	get(e, path, NULL, NULL);
	assert_non_null(strstr(term.last_headers, ":path=/x\n"));
	env_free(e);
}

/* Nothing listens, no cluster is there: whoever needs the keys is refused, after a wait. */
static void keys_out_of_reach(void **state)
{
	struct env *e = open_with(
		FILTER "      providers: {p: {issuer: me, remote_jwks: {http_uri: {uri: http://k/, "
		       "cluster: none, timeout: 1s}}}}\n" RULES);

	get(e, "/", token("{\"iss\":\"me\"}", "0123456789abcdef"), NULL);
	turn(e, 20);
	assert_true(has(e, "HTTP/1.1 401"));
	assert_true(has(e, "Jwks remote fetch is failed"));
	env_free(e);
}

static void client_leaves_while_keys_are_fetched(void **state)
{
	struct env *e = open_with(
		FILTER "      providers: {p: {issuer: me, remote_jwks: {http_uri: {uri: http://k/, "
		       "cluster: none, timeout: 1s}, retry_policy: {num_retries: 3, "
		       "retry_back_off: {base_interval: 10s}}}}}\n" RULES);
	char text[2048];

	snprintf(text, sizeof(text),
		 "GET / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer %s\r\n\r\n",
		 token("{\"iss\":\"me\"}", "0123456789abcdef"));
	assert_true(write(e->fd, text, strlen(text)) > 0);
	event_base_loop(e->w->base, EVLOOP_NONBLOCK);
	env_free(e);
}

static void refused(void **state)
{
	static const struct bad v[] = {
		{PROVIDER "      rules: [{match: {prefix: /}, requires: {provider_name: q}}]\n",
		 "rules[0].requires.provider_name: must name one of providers, is \"q\""},
		{PROVIDER
		 "      rules: [{match: {prefix: /}, requires: {requires_any: "
		 "{requirements: [{provider_name: p}, {requires_all: {requirements: "
		 "[{provider_name: p}, {provider_and_audiences: {provider_name: z}}]}}]}}}]\n",
		 "rules[0].requires.requires_any.requirements[1].requires_all.requirements[1]."
		 "provider_and_audiences.provider_name: must name one of providers, is \"z\""},
		{PROVIDER "      rules: [{match: {prefix: /}, requirement_name: r}]\n",
		 "rules[0].requirement_name: must name one of requirement_map, is \"r\""},
		{PROVIDER
		 "      rules: [{match: {prefix: /}}, {match: {safe_regex: {regex: '('}}}]\n",
		 "rules[1].match.safe_regex.regex: "},
		{PROVIDER "      filter_state_rules: {name: a}\n",
		 "filter_state_rules: is not supported"},
		{"      providers: {p: {issuer: a}}\n",
		 "providers.p: must have remote_jwks or local_jwks"},
		{"      providers: {p: {remote_jwks: {http_uri: {uri: 'ftp://x/', cluster: c, "
		 "timeout: 1s}}}}\n",
		 "providers.p.remote_jwks.http_uri.uri: must begin with http:// or https://"},
		{"      providers: {p: {remote_jwks: {http_uri: {uri: 'http:///x', cluster: c, "
		 "timeout: 1s}}}}\n",
		 "providers.p.remote_jwks.http_uri.uri: must name a host"},
		{"      providers: {p: {remote_jwks: {http_uri: {uri: 'http://x', cluster: c, "
		 "timeout: 1s}, retry_policy: {num_retries: 100}}}}\n",
		 "retry_policy.num_retries: must be at most 10, is 100"},
		{"      providers: {p: {" KEYS ", claim_to_headers: [{header_name: ':path', "
		 "claim_name: a}]}}\n",
		 "providers.p.claim_to_headers[0].header_name: must be the name of a header that "
		 "may be set, is \":path\""},
		{"      providers: {p: {" KEYS ", jwt_cache_config: {jwt_cache_size: 100000}}}\n",
		 "jwt_cache_config.jwt_cache_size: must be at most 65536, is 100000"},
	};

	refuse_each(FILTER, v, sizeof(v) / sizeof(*v));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(verdicts),
		cmocka_unit_test(parameter_is_taken_out),
		cmocka_unit_test(keys_out_of_reach),
		cmocka_unit_test(client_leaves_while_keys_are_fetched),
		cmocka_unit_test(refused),
	};
	return cmocka_run_group_tests_name("jwt_authn", tests, NULL, NULL);
}
