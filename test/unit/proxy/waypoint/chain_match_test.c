/* filter_chain_match: each criterion, what is refused, and the index against a plain reading of
 * Envoy's rules on random configurations and connections. */
#include "proxy/waypoint/listener.h"
#include "xds/yaml.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef Envoy__Config__Listener__V3__FilterChainMatch match_msg;

enum { CHAINS = 12 };
static struct weft_arena *arena;
static struct weft_errs errs;
static struct lchain chains[CHAINS], fallback = {.name = "fallback"};
static struct lconf conf;
static char names[CHAINS][8];

static int fresh(void **state)
{
	if (arena)
		weft_arena_free(arena);
	arena = weft_arena_new(0);
	memset(&conf, 0, sizeof(conf));
	memset(chains, 0, sizeof(chains));
	memset(&errs, 0, sizeof(errs));
	conf.chain = chains;
	conf.fallback = &fallback;
	return 0;
}

static int gone(void **state)
{
	weft_arena_free(arena);
	arena = NULL;
	return 0;
}

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *v, const char *k,
					      bool *lenient, struct weft_err *e)
{
	return ctx;
}

static void add(const char *yaml)
{
	struct weft_yaml_doc *docs = NULL;
	size_t n = 0, i = conf.n_chain++;

	assert_true(i < CHAINS);
	snprintf(names[i], sizeof(names[i]), "c%zu", i);
	chains[i].name = names[i];
	if (!yaml)
		return;
	assert_int_equal(
		weft_yaml_decode(
			arena, "t", yaml, strlen(yaml), pick,
			(void *)&envoy__config__listener__v3__filter_chain_match__descriptor, &docs,
			&n, &errs),
		0);
	chains[i].match = (const match_msg *)docs[0].msg;
}

static int build(void)
{
	struct weft_cfg c = {.arena = arena, .errs = &errs};

	return lmatch_build(&c, NULL, &conf);
}

static struct weft_sockaddr addr(const char *s)
{
	struct weft_sockaddr a;

	assert_int_equal(weft_sockaddr_parse(s, &a), 0);
	return a;
}

static const char *found(const char *dst, const char *src, const char *sni, const char *transport,
			 const char *alpn)
{
	const char *list[2] = {alpn, NULL};
	struct lkey k = {addr(dst), addr(src), addr(src), sni, transport, list};
	const struct lchain *c = lmatch_find(&conf, &k);

	return c ? c->name : "none";
}

static void criteria(void **state)
{
	add(NULL);
	add("destination_port: 80");
	add("prefix_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]");
	add("prefix_ranges: [{address_prefix: 10.1.0.0, prefix_len: 16}]");
	add("server_names: [a.example, '*.b.example']");
	add("{server_names: [a.example], transport_protocol: tls}");
	add("application_protocols: [h2, h2c]");
	add("source_type: EXTERNAL");
	add("source_prefix_ranges: [{address_prefix: 192.168.0.0, prefix_len: 16}]");
	add("source_ports: [77]");
	assert_int_equal(build(), 0);
#define RAW "raw_buffer"
	assert_string_equal(found("1.1.1.1:80", "127.0.0.1:1", "", RAW, NULL), "c1");
	assert_string_equal(found("10.2.0.1:1", "127.0.0.1:1", "", RAW, NULL), "c2");
	assert_string_equal(found("10.1.0.1:1", "127.0.0.1:1", "", RAW, NULL), "c3");
	assert_string_equal(found("1.1.1.1:1", "127.0.0.1:1", "a.example", RAW, NULL), "c4");
	assert_string_equal(found("1.1.1.1:1", "127.0.0.1:1", "a.example", "tls", NULL), "c5");
	assert_string_equal(found("1.1.1.1:1", "127.0.0.1:1", "x.y.b.example", RAW, NULL), "c4");
	assert_string_equal(found("1.1.1.1:1", "127.0.0.1:1", "b.example", RAW, NULL), "c0");
	assert_string_equal(found("1.1.1.1:1", "127.0.0.1:1", "", RAW, "h2c"), "c6");
	assert_string_equal(found("1.1.1.1:1", "9.9.9.9:1", "", RAW, NULL), "c7");
	assert_string_equal(found("1.1.1.1:1", "1.1.1.1:1", "", RAW, NULL), "c0");
	/* EXTERNAL took it: what follows is that branch's alone */
	assert_string_equal(found("1.1.1.1:1", "192.168.3.4:1", "", RAW, NULL), "c7");
	assert_string_equal(found("1.1.1.1:1", "127.0.0.1:77", "", RAW, NULL), "c9");
	/* a port that matched is not reconsidered */
	assert_string_equal(found("10.1.0.1:80", "127.0.0.1:77", "", RAW, NULL), "c1");
}

static void falls_back(void **state)
{
	add("{destination_port: 80, server_names: [a]}");
	add("server_names: [b]");
	assert_int_equal(build(), 0);
	assert_string_equal(found("1.1.1.1:80", "2.2.2.2:1", "b", RAW, NULL), "fallback");
	assert_string_equal(found("1.1.1.1:81", "2.2.2.2:1", "b", RAW, NULL), "c1");
	assert_string_equal(found("1.1.1.1:81", "2.2.2.2:1", "", RAW, NULL), "fallback");
	conf.fallback = NULL;
	assert_string_equal(found("1.1.1.1:81", "2.2.2.2:1", "", RAW, NULL), "none");
}

static void refused(const char *const *m, const char *want)
{
	for (; *m; m++)
		add(*m);
	assert_int_not_equal(build(), 0);
	assert_int_equal(errs.n, 1);
	if (!strstr(errs.v[0].msg, want))
		fail_msg("\"%s\": %s", want, errs.v[0].msg);
	fresh(NULL);
}

static void refusals(void **state)
{
	char many[20000] = "{server_names: [", *p = many + strlen(many);
	int i;

	refused((const char *const[]){"server_names: [a]", "server_names: [b, A]", NULL},
		"filter chain \"c0\"");
	refused((const char *const[]){"server_names: ['*']", NULL}, "must not be \"*\"");
	refused((const char *const[]){"server_names: ['a.*.b']", NULL}, "first label");
	refused((const char *const[]){"prefix_ranges: [{address_prefix: x}]", NULL}, "IP address");
	refused((const char *const[]){"prefix_ranges: [{address_prefix: 1.1.1.1, prefix_len: 33}]",
				      NULL},
		"0..32");
	for (i = 0; i < 1000; i++)
		p += sprintf(p, "n%d,", i);
	p += sprintf(p, "x], application_protocols: [");
	for (i = 0; i < 1000; i++)
		p += sprintf(p, "p%d,", i);
	p += sprintf(p, "x], source_ports: [1,2,3,4,5,6,7,8,9]}");
	refused((const char *const[]){many, NULL}, "combinations");
}

/* ---- against a plain reading of the rules: criteria in order, in each the best value that any
 * chain still there has, and only the chains that have it go on */
static const char *const ips[] = {"10.1.2.3", "10.1.9.9", "10.7.0.1", "127.0.0.1", "fd00::1"};
static const struct {
	const char *ip;
	unsigned len;
} nets[] = {{"10.0.0.0", 8}, {"10.1.0.0", 16}, {"10.1.2.3", 32}, {"fd00::", 8}};
static const char *const snis[] = {"", "a.ex", "b.ex", "x.a.ex", "ex"};
static const char *const patterns[] = {"a.ex", "*.a.ex", "*.ex", "b.ex"};
static const char *const alpns[] = {"h2", "http/1.1"};

static bool in_net(const Envoy__Config__Core__V3__CidrRange *r, const struct weft_sockaddr *s)
{
	struct weft_cidr c;
	struct weft_ip ip;

	assert_int_equal(weft_ip_parse(r->address_prefix, &ip), 0);
	assert_int_equal(weft_cidr_make(&ip, r->prefix_len->value, &c), 0);
	return c.ip.family == s->ip.family && weft_cidr_has(&c, &s->ip);
}

static int net_score(Envoy__Config__Core__V3__CidrRange *const *v, size_t n,
		     const struct weft_sockaddr *s)
{
	int best = n ? -1 : 0;

	for (size_t i = 0; i < n; i++)
		if (in_net(v[i], s) && (int)v[i]->prefix_len->value + 1 > best)
			best = (int)v[i]->prefix_len->value + 1;
	return best;
}

/* How well chain m fits in criterion c; -1: not. */
static int score(const match_msg *m, int c, const struct lkey *k)
{
	bool local;
	int best = -1;
	size_t i;

	switch (c) {
	case 0:
		return !m->destination_port			   ? 0
		       : m->destination_port->value == k->dst.port ? 1
								   : -1;
	case 1:
		return net_score(m->prefix_ranges, m->n_prefix_ranges, &k->dst);
	case 2:
		if (!m->n_server_names)
			return 0;
		for (i = 0; i < m->n_server_names; i++) {
			const char *p = m->server_names[i];
			size_t n = strlen(k->sni), w = strlen(p) - 1;

			if (!strcmp(p, k->sni))
				best = 1000;
			else if (*p == '*' && n > w && !strcmp(k->sni + n - w, p + 1) &&
				 (int)w > best)
				best = (int)w;
		}
		return best;
	case 3:
		return !m->transport_protocol || !*m->transport_protocol ? 0
		       : !strcmp(m->transport_protocol, k->transport)	 ? 1
									 : -1;
	case 4: /* the client's order decides */
		if (!m->n_application_protocols)
			return 0;
		for (i = 0; i < m->n_application_protocols; i++)
			for (int a = 0; k->alpn[a]; a++)
				if (!strcmp(k->alpn[a], m->application_protocols[i]) &&
				    100 - a > best)
					best = 100 - a;
		return best;
	case 5:
		return net_score(m->direct_source_prefix_ranges, m->n_direct_source_prefix_ranges,
				 &k->direct_src);
	case 6:
		local = weft_ip_is_loopback(&k->src.ip) || weft_ip_eq(&k->src.ip, &k->dst.ip);
		return !m->source_type ? 0 : (m->source_type == 1) == local ? 1 : -1;
	case 7:
		return net_score(m->source_prefix_ranges, m->n_source_prefix_ranges, &k->src);
	default:
		if (!m->n_source_ports)
			return 0;
		for (i = 0; i < m->n_source_ports; i++)
			if (m->source_ports[i] == k->src.port)
				return 1;
		return -1;
	}
}

static const char *oracle(const struct lkey *k)
{
	bool in[CHAINS];
	size_t i;
	int c;

	for (i = 0; i < conf.n_chain; i++)
		in[i] = true;
	for (c = 0; c < 9; c++) {
		int best = -1;

		for (i = 0; i < conf.n_chain; i++)
			if (in[i] && score(chains[i].match, c, k) > best)
				best = score(chains[i].match, c, k);
		if (best < 0)
			return "fallback";
		for (i = 0; i < conf.n_chain; i++)
			in[i] = in[i] && score(chains[i].match, c, k) == best;
	}
	for (i = 0; i < conf.n_chain; i++)
		if (in[i])
			return chains[i].name;
	return "fallback";
}

#define PICK(v) (v)[(unsigned)rand() % (sizeof(v) / sizeof(*(v)))]

static size_t nets_text(char *p, const char *field)
{
	size_t a = (unsigned)rand() % 4;

	return (size_t)sprintf(p, "%s: [{address_prefix: '%s', prefix_len: %u}],", field,
			       nets[a].ip, nets[a].len);
}

static void random_chain(void)
{
	char text[1024] = "{", *p = text + 1;

	if (rand() % 4 == 0)
		p += sprintf(p, "destination_port: %d,", 80 + rand() % 2);
	if (rand() % 3 == 0)
		p += nets_text(p, "prefix_ranges");
	if (rand() % 2)
		p += sprintf(p, "server_names: ['%s'],", PICK(patterns));
	if (rand() % 4 == 0)
		p += sprintf(p, "transport_protocol: %s,", rand() % 2 ? "tls" : "raw_buffer");
	if (rand() % 4 == 0)
		p += sprintf(p, "application_protocols: [%s],", PICK(alpns));
	if (rand() % 4 == 0)
		p += nets_text(p, "direct_source_prefix_ranges");
	if (rand() % 4 == 0)
		p += sprintf(p, "source_type: %s,",
			     rand() % 2 ? "EXTERNAL" : "SAME_IP_OR_LOOPBACK");
	if (rand() % 4 == 0)
		p += nets_text(p, "source_prefix_ranges");
	if (rand() % 4 == 0)
		p += sprintf(p, "source_ports: [%d, %d],", 1 + rand() % 3, 4 + rand() % 3);
	strcpy(p, "}");
	add(text);
}

static struct weft_sockaddr random_addr(unsigned port)
{
	struct weft_sockaddr a;

	assert_int_equal(weft_ip_parse(PICK(ips), &a.ip), 0);
	a.port = (uint16_t)port;
	return a;
}

static void as_the_rules_say(void **state)
{
	static const char *const lists[][3] = {
		{NULL}, {"h2", NULL}, {"http/1.1", "h2", NULL}, {"x", NULL}};
	unsigned hits = 0;

	srand(7);
	for (int round = 0; round < 2000; round++) {
		fresh(NULL);
		for (int i = 1 + rand() % (CHAINS - 1); i > 0; i--)
			random_chain();
		if (build()) /* two of them match the same */
			continue;
		for (int i = 0; i < 60; i++) {
			struct lkey k = {random_addr(79 + (unsigned)rand() % 4),
					 random_addr(1 + (unsigned)rand() % 7),
					 random_addr(5),
					 PICK(snis),
					 rand() % 2 ? "tls" : "raw_buffer",
					 lists[(unsigned)rand() % 4]};
			const struct lchain *c = lmatch_find(&conf, &k);
			const char *want = oracle(&k);

			assert_non_null(c);
			assert_string_equal(c->name, want);
			hits += c != &fallback;
		}
	}
	print_message("# %u of the connections had a chain\n", hits);
	assert_true(hits > 5000);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, fresh, gone)
	const struct CMUnitTest tests[] = {T(criteria), T(falls_back), T(refusals),
					   T(as_the_rules_say)};

	return cmocka_run_group_tests_name("chain_match", tests, NULL, NULL);
}
