/* Who the client is, as Envoy 1.36 finds it: the table was read off its answers, on a machine whose
 * address is 192.0.2.2, to a client on 127.0.0.1. */
#include "proxy/http/xff.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct weft_cidr inside[] = {{{4, {10}}, 8}, {{4, {127}}, 8}},
			      trusted[] = {{{4, {127, 0, 0, 1}}, 32}, {{4, {10}}, 8}};
#define SELF .self = {4, {192, 0, 2, 2}}
#define INT  .internal = inside, .n_internal = 2
static const struct weft_xff_detect d_plain = {.hops = 0};
static const struct weft_xff_conf plain = {SELF, .detect = &d_plain, .n_detect = 1};
static const struct weft_xff_conf remote = {SELF, .use_remote = true};
static const struct weft_xff_conf remote1 = {SELF, .use_remote = true, .hops = 1};
static const struct weft_xff_conf remote2 = {SELF, .use_remote = true, .hops = 2, INT};
static const struct weft_xff_detect d_noremote_i = {.hops = 0};
static const struct weft_xff_conf noremote_i = {SELF, INT, .detect = &d_noremote_i, .n_detect = 1};
static const struct weft_xff_conf remote_i = {SELF, .use_remote = true, INT};
static const struct weft_xff_detect d_hops1 = {.hops = 1};
static const struct weft_xff_conf hops1 = {SELF, .hops = 1, INT, .detect = &d_hops1, .n_detect = 1};
static const struct weft_xff_conf skip = {SELF, .use_remote = true, .skip_append = true};
static const struct weft_xff_conf port = {SELF, .use_remote = true, .append_port = true};
static const struct weft_xff_conf mapped = {SELF, .use_remote = true, .mapped = true};
static const struct weft_xff_detect d_det1 = {.hops = 1};
static const struct weft_xff_conf det1 = {SELF, .detect = &d_det1, .n_detect = 1};
static const struct weft_xff_detect d_det_app = {.append = true};
static const struct weft_xff_conf det_app = {SELF, .detect = &d_det_app, .n_detect = 1};
static const struct weft_xff_detect d_det_cidr = {.trusted = trusted, .n = 2};
static const struct weft_xff_conf det_cidr = {SELF, .detect = &d_det_cidr, .n_detect = 1};
static const struct weft_xff_detect d_det_cidr2 = {.trusted = trusted + 1, .n = 1};
static const struct weft_xff_conf det_cidr2 = {SELF, .detect = &d_det_cidr2, .n_detect = 1};
static const struct {
	const struct weft_xff_conf *conf;
	const char *xff[2], *proto, *port;			/* as it came */
	const char *want_xff, *want_proto, *want_port, *remote; /* as it goes on */
	bool internal;
} cases[] = {
#include "test/unit/proxy/http/xff_cases.def"
};

static const char *joined(struct weft_headers *h, const char *name)
{
	return weft_headers_joined(h, name, strlen(name), NULL);
}

static void same(size_t i, const char *what, const char *got, const char *want)
{
	if (!got != !want || (got && strcmp(got, want) != 0))
		fail_msg("case %zu, %s: \"%s\", not \"%s\"", i, what, got ?: "(none)",
			 want ?: "(none)");
}

static void as_envoy(void **state)
{
	struct weft_io_info io = {.local = {{4, {127, 0, 0, 1}}, 8080},
				  .remote = {{4, {127, 0, 0, 1}}, 5000}};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct weft_arena *a = weft_arena_new(0);
		struct weft_xff_found found;
		struct weft_headers h;
		char text[WEFT_IP_TEXT];

		weft_headers_init(&h, a);
		for (unsigned j = 0; j < 2 && cases[i].xff[j]; j++)
			weft_headers_add(&h, "x-forwarded-for", 15, cases[i].xff[j],
					 strlen(cases[i].xff[j]));
		if (cases[i].proto)
			weft_headers_add(&h, "x-forwarded-proto", 17, cases[i].proto,
					 strlen(cases[i].proto));
		if (cases[i].port)
			weft_headers_add(&h, "x-forwarded-port", 16, cases[i].port,
					 strlen(cases[i].port));
		weft_xff_apply(cases[i].conf, &io, &h, &found);
		same(i, "x-forwarded-for", joined(&h, "x-forwarded-for"), cases[i].want_xff);
		same(i, "x-forwarded-proto", joined(&h, "x-forwarded-proto"), cases[i].want_proto);
		same(i, "x-forwarded-port", joined(&h, "x-forwarded-port"), cases[i].want_port);
		same(i, "remote", weft_ip_text(&found.remote.ip, text, sizeof(text)),
		     cases[i].remote);
		assert_int_equal(found.internal, cases[i].internal);
		weft_arena_free(a);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(as_envoy)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
