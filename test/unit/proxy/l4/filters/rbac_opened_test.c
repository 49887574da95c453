/* The network RBAC filter on connections: shadow rules that only count, denials at once and late.
 */
#include "proxy/core/scope.h"
#include "proxy/core/worker.h"
#include "proxy/http/hcm.h"
#include "proxy/l4/chain.h"
#include "xds/yaml.h"
#include <event2/buffer.h>
#include <event2/event.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define TYPE "'@type': type.googleapis.com/envoy."
#define ACT(name, what)                                                                            \
	"{action: {name: a, typed_config: {" TYPE "config.rbac.v3.Action, name: " name             \
	", action: " what "}}}"
/* A socket pair has no port: what is not port 1 decides. */
#define BY_PORT(other)                                                                             \
	"{matcher_tree: {input: {name: i, typed_config: {" TYPE                                    \
	"extensions.matching.common_inputs.network.v3.DestinationPortInput}}, exact_match_map: "   \
	"{map: {'1': " ACT("one", "ALLOW") "}}}, on_no_match: " ACT("rest", other) "}"

static struct weft_worker *w;
static struct weft_arena *arena;
static struct weft_errs errs;
static struct weft_net_context net;
static struct weft_chain *chain;
static int fd;
static char got[4096];
static size_t n_got;
static bool ended;

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *v, const char *k,
					      bool *lenient, struct weft_err *e)
{
	return &envoy__config__listener__v3__filter__descriptor;
}

static Envoy__Config__Listener__V3__Filter *filter(struct weft_cfg *c, const char *yaml)
{
	struct weft_yaml_doc *docs = NULL;
	size_t n = 0;

	if (weft_yaml_decode(arena, "t", yaml, strlen(yaml), pick, NULL, &docs, &n, &errs) ||
	    weft_cfg_check(c, NULL, docs[0].msg))
		fail_msg("%s: %s", errs.v[0].path, errs.v[0].msg);
	return (void *)docs[0].msg;
}

static void on_closed(void *owner, struct weft_chain *ch)
{
	chain = NULL;
}

static const struct weft_io_ops no_ops;

static void turn(void)
{
	ssize_t r;

	for (int i = 0; i < 10; i++)
		event_base_loop(w->base, EVLOOP_NONBLOCK);
	while (!ended && (r = read(fd, got + n_got, sizeof(got) - 1 - n_got)) >= 0) {
		ended = r == 0;
		n_got += (size_t)r;
	}
	got[n_got] = '\0';
}

static void open_with(const char *rbac)
{
	static const char hcm[] =
		"{name: h, typed_config: {" TYPE "extensions.filters.network."
		"http_connection_manager.v3.HttpConnectionManager, stat_prefix: t, route_config: "
		"{name: r, virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, "
		"direct_response: {status: 200}}]}]}, http_filters: [{name: router, typed_config: "
		"{" TYPE "extensions.filters.http.router.v3.Router}}]}}";
	struct weft_path at = {NULL, "filters", -1};
	struct weft_cfg c = {.errs = &errs, .context = &net, .file = true};
	struct weft_chain_start start = {.listener_name = "l", .closed = on_closed};
	Envoy__Config__Listener__V3__Filter *f[2];
	const struct weft_chain_conf *conf;
	char yaml[1500];
	int pair[2];

	weft_http_register();
	w = weft_worker_new(0, NULL);
	arena = c.arena = weft_arena_new(0);
	memset(&errs, 0, sizeof(errs));
	snprintf(yaml, sizeof(yaml),
		 "{name: rbac, typed_config: {" TYPE
		 "extensions.filters.network.rbac.v3.RBAC, stat_prefix: n, %s}}",
		 rbac);
	f[0] = filter(&c, yaml);
	f[1] = filter(&c, hcm);
	if (weft_chain_prepare(&c, &at, f, 2, &conf))
		fail_msg("%s: %s", errs.v[0].path, errs.v[0].msg);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	fd = pair[1];
	n_got = 0;
	ended = false;
	start.worker = w;
	start.conf = conf;
	start.io = weft_io_new(w->base, pair[0], NULL, NULL, &no_ops, NULL);
	chain = weft_chain_new(&start);
	assert_true(write(fd, "GET / HTTP/1.1\r\nhost: h\r\n\r\n", 27) == 27);
	turn();
}

static void shut(void)
{
	close(fd);
	ended = true;
	for (int i = 0; i < 2000 && chain; i++) {
		turn();
		usleep(500);
	}
	assert_null(chain);
	weft_worker_free(w);
	weft_arena_free(arena);
}

static long long number(const char *name)
{
	struct evbuffer *out = evbuffer_new();
	struct weft_scope_query q = {0};
	char key[100], *text, *at;
	long long v;

	snprintf(key, sizeof(key), "\n%s: ", name);
	evbuffer_add(out, "\n", 1);
	weft_scope_text(out, &q);
	evbuffer_add(out, "", 1);
	text = (char *)evbuffer_pullup(out, -1);
	at = strstr(text, key);
	v = at ? atoll(at + strlen(key)) : 0;
	evbuffer_free(out);
	return v;
}

static void shadows(void **state)
{
	open_with("shadow_rules_stat_prefix: sh, shadow_matcher: " BY_PORT("DENY"));
	assert_non_null(strstr(got, "200 OK"));
	assert_int_equal(number("n.rbac.sh.shadow_denied"), 1);
	shut();
	open_with("shadow_rules_stat_prefix: sh, shadow_matcher: " BY_PORT("ALLOW"));
	assert_int_equal(number("n.rbac.sh.shadow_denied"), 1);
	assert_int_equal(number("n.rbac.sh.shadow_allowed"), 1);
	shut();
}

static void denials(void **state)
{
	open_with("enforcement_type: ONE_TIME_ON_FIRST_BYTE, matcher: " BY_PORT("DENY"));
	for (int i = 0; i < 2000 && !ended; i++)
		turn();
	assert_true(ended);
	assert_string_equal(got, "");
	assert_int_equal(number("n.rbac.denied"), 1);
	shut();
	open_with("delay_deny: 1s, matcher: " BY_PORT("DENY"));
	for (int i = 0; i < 20; i++)
		turn();
	assert_false(ended); /* counted, and held */
	assert_int_equal(number("n.rbac.denied"), 2);
	for (int i = 0; i < 20000 && !ended; i++) {
		turn();
		usleep(500);
	}
	assert_true(ended);
	assert_string_equal(got, "");
	shut();
	open_with("delay_deny: 1s, matcher: " BY_PORT("ALLOW"));
	assert_non_null(strstr(got, "200 OK"));
	shut();
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(shadows), cmocka_unit_test(denials)};

	return cmocka_run_group_tests_name("net_rbac_opened", tests, NULL, NULL);
}
