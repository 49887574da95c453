/* A client stream on hand-made responses: wrapped resources, time to live, heartbeats, what cannot
 * be read; requests as they go out; a rate. */
#include "proxy/core/arena.h"
#include "proxy/core/worker.h"
#include "xds/link_priv.h"
#include "xds/proto/envoy/config/cluster/v3/cluster.pb-c.h"
#include "xds/stream.h"
#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { WAIT_MS = 10000 };
static const char cluster_url[] = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
static const char wrapper_url[] = "type.googleapis.com/envoy.service.discovery.v3.Resource";

struct env {
	struct event_base *base;
	struct weft_xds_stream *s;
	struct xtype *t;
	Envoy__Config__Core__V3__Node node;
	int updates, removals, completes, refused;
	char last[64], gone[64];
};

static void spin(struct env *e, unsigned ms)
{
	const struct timeval tv = {ms / 1000, (suseconds_t)(ms % 1000) * 1000};

	event_base_loopexit(e->base, &tv);
	event_base_dispatch(e->base);
}

#define UNTIL(e, cond)                                                                             \
	do {                                                                                       \
		uint64_t until_ = weft_now_ns() + (uint64_t)WAIT_MS * 1000000;                     \
		while (!(cond)) {                                                                  \
			if (weft_now_ns() > until_)                                                \
				fail_msg("line %d: not in time: %s", __LINE__, #cond);             \
			spin(e, 2);                                                                \
		}                                                                                  \
	} while (0)

static void apply(void *owner, struct weft_xds_reply *r, const struct weft_xds_resource *up,
		  size_t n_up, const char *const *gone, size_t n_gone)
{
	struct env *e = owner;

	for (size_t i = 0; i < n_up; i++) {
		e->updates++;
		snprintf(e->last, sizeof(e->last), "%s", up[i].name);
	}
	for (size_t i = 0; i < n_gone; i++) {
		e->removals++;
		snprintf(e->gone, sizeof(e->gone), "%s", gone[i]);
	}
}

static void complete(void *owner)
{
	((struct env *)owner)->completes++;
}

static void refused(void *owner, const char *name)
{
	((struct env *)owner)->refused++;
}

static const struct weft_xds_sink sink = {.apply = apply, .complete = complete};

/* A link over nothing: what is sent stays in s->out, framed. */
static int to_nobody(void *owner, struct event_base *base, const struct weft_xds_link_conf *conf,
		     struct weft_xds_link **ret, struct weft_err *reterr)
{
	*ret = weft_xds_link_make(base, conf);
	return 0;
}

static void open_stream(struct env *e, bool delta, double rate, uint32_t tokens)
{
	const struct weft_xds_stream_conf conf = {
		.method = weft_xstrdup("/x/Y"),
		.authority = weft_xstrdup("x"),
		.delta = delta,
		.keep = true,
		.node = &e->node,
		.message_max = 1 << 20,
		.backoff_min_ms = 10,
		.backoff_max_ms = 100,
		.fill_rate = rate,
		.max_tokens = tokens,
		.connect = to_nobody,
		.owner = e,
	};

	e->s = weft_xds_stream_new(e->base, &conf);
	e->t = weft_xds_stream_type(e->s, &weft_xds_type_cluster, &sink, e);
	e->t->refused = refused;
	weft_xds_stream_wild(e->t, true);
	weft_xds_stream_start(e->s);
	UNTIL(e, e->t->asked);
}

static int setup(void **st)
{
	struct env *e = weft_xcalloc(1, sizeof(*e));

	e->base = event_base_new();
	e->node = (Envoy__Config__Core__V3__Node)ENVOY__CONFIG__CORE__V3__NODE__INIT;
	e->node.id = (char *)"n";
	*st = e;
	return 0;
}

static int teardown(void **st)
{
	struct env *e = *st;

	weft_xds_stream_free(e->s);
	event_base_free(e->base);
	free(e);
	return 0;
}

/* ---- responses */

struct res {			 /* a resource; wrap: in a Resource, with ttl */
	const char *name, *stat; /* stat NULL: no body */
	unsigned ttl_ms;
	bool wrap, broken;
};

static void pack(Google__Protobuf__Any *any, const char *url, const ProtobufCMessage *m)
{
	*any = (Google__Protobuf__Any)GOOGLE__PROTOBUF__ANY__INIT;
	any->type_url = (char *)url;
	any->has_value = true;
	any->value.len = protobuf_c_message_get_packed_size(m);
	any->value.data = weft_xcalloc(1, any->value.len + 1);
	protobuf_c_message_pack(m, any->value.data);
}

static void fill(Google__Protobuf__Any *any, const struct res *r)
{
	Envoy__Config__Cluster__V3__Cluster c = ENVOY__CONFIG__CLUSTER__V3__CLUSTER__INIT;
	Envoy__Service__Discovery__V3__Resource w = ENVOY__SERVICE__DISCOVERY__V3__RESOURCE__INIT;
	Google__Protobuf__Duration ttl = GOOGLE__PROTOBUF__DURATION__INIT;
	Google__Protobuf__Any inner;

	c.name = (char *)r->name;
	c.alt_stat_name = (char *)r->stat;
	pack(&inner, cluster_url, &c.base);
	if (r->broken)
		inner.value.data[inner.value.len - 1] = 0xff;
	if (!r->wrap) {
		*any = inner;
		return;
	}
	w.name = (char *)r->name;
	w.resource = r->stat ? &inner : NULL;
	ttl.has_nanos = true;
	ttl.nanos = (int32_t)r->ttl_ms * 1000000;
	w.ttl = r->ttl_ms ? &ttl : NULL;
	pack(any, wrapper_url, &w.base);
	free(inner.value.data);
}

static int respond(struct env *e, const char *version, const struct res *v, size_t n)
{
	Envoy__Service__Discovery__V3__DiscoveryResponse m =
		ENVOY__SERVICE__DISCOVERY__V3__DISCOVERY_RESPONSE__INIT;
	Google__Protobuf__Any any[8], *pv[8];
	uint8_t *p;
	size_t len;
	int r;

	for (size_t i = 0; i < n; i++) {
		fill(&any[i], &v[i]);
		pv[i] = &any[i];
	}
	m.version_info = (char *)version;
	m.type_url = (char *)cluster_url;
	m.nonce = (char *)version;
	m.resources = pv;
	m.n_resources = n;
	len = protobuf_c_message_get_packed_size(&m.base);
	p = weft_xcalloc(1, len + 1);
	protobuf_c_message_pack(&m.base, p);
	r = weft_xds_stream_response(e->s, p, len);
	free(p);
	for (size_t i = 0; i < n; i++)
		free(any[i].value.data);
	return r;
}

#define RESPOND(e, version, ...)                                                                   \
	do {                                                                                       \
		const struct res v_[] = {__VA_ARGS__};                                             \
		assert_int_equal(respond(e, version, v_, sizeof(v_) / sizeof(v_[0])), 0);          \
	} while (0)

/* ---- tests */

static void wrapped_and_plain(void **st)
{
	struct env *e = *st;

	open_stream(e, false, 0, 0);
	RESPOND(e, "1", {.name = "plain", .stat = "x"}, {.name = "in", .stat = "x", .wrap = true});
	assert_int_equal(e->updates, 2);
	assert_int_equal(e->completes, 1);
	assert_string_equal(e->t->version, "1");
	/* the same bytes, wrapped or not, are the same resource; what is missing is gone */
	RESPOND(e, "2", {.name = "in", .stat = "x"});
	assert_int_equal(e->updates, 2);
	assert_int_equal(e->removals, 1);
	assert_string_equal(e->gone, "plain");
	assert_int_equal(respond(e, "3", NULL, 0), 0);
	assert_int_equal(e->removals, 2);
}

static void time_to_live(void **st)
{
	struct env *e = *st;
	uint64_t start;

	open_stream(e, false, 0, 0);
	start = weft_now_ns();
	RESPOND(e, "1", {.name = "a", .stat = "x", .ttl_ms = 200, .wrap = true},
		{.name = "b", .stat = "x"});
	spin(e, 100);
	assert_int_equal(e->removals, 0);
	/* a heartbeat has no body; it is there for another 400 ms */
	RESPOND(e, "1", {.name = "a", .ttl_ms = 400, .wrap = true}, {.name = "b", .stat = "x"});
	assert_int_equal(e->updates, 2);
	assert_int_equal(e->refused, 0);
	UNTIL(e, e->removals == 1);
	assert_string_equal(e->gone, "a");
	assert_true(weft_now_ns() - start > 450 * 1000000ULL);
	RESPOND(e, "2", {.name = "a", .stat = "x"}, {.name = "b", .stat = "x"}); /* anew */
	assert_int_equal(e->updates, 3);
	/* a heartbeat of what is not there, or without a time, is nothing */
	RESPOND(e, "3", {.name = "a", .stat = "x"}, {.name = "b", .stat = "x"},
		{.name = "c", .ttl_ms = 100, .wrap = true});
	assert_int_equal(e->refused, 1);
	assert_string_equal(e->t->version, "2");
}

static void unreadable(void **st)
{
	struct env *e = *st;

	open_stream(e, false, 0, 0);
	RESPOND(e, "1", {.name = "a", .stat = "x"}, {.name = "b", .stat = "x"});
	/* a is broken but named: it stays, b goes */
	RESPOND(e, "2", {.name = "a", .stat = "yy", .broken = true}, {.name = "c", .stat = "x"});
	assert_int_equal(e->refused, 1);
	assert_int_equal(e->updates, 3);
	assert_int_equal(e->removals, 1);
	assert_string_equal(e->gone, "b");
	/* one without a name may be any: nothing goes */
	RESPOND(e, "3", {.name = "", .stat = "x"});
	assert_int_equal(e->refused, 2);
	assert_int_equal(e->removals, 1);
	/* given twice: the first one counts */
	RESPOND(e, "4", {.name = "a", .stat = "x"}, {.name = "c", .stat = "1"},
		{.name = "c", .stat = "2"});
	assert_int_equal(e->refused, 3);
	assert_int_equal(e->updates, 4);
	assert_int_equal(weft_xds_stream_response(e->s, (const uint8_t *)"\x0a\xff", 2), -EINVAL);
	assert_string_equal(e->t->version, "1");
}

/* ---- requests */

static Envoy__Service__Discovery__V3__DiscoveryRequest *sent(struct env *e, struct weft_grpc_in *in)
{
	uint8_t buf[4096], *m;
	size_t len;
	ssize_t n;
	Envoy__Service__Discovery__V3__DiscoveryRequest *r;

	while ((n = evbuffer_remove(e->s->out, buf, sizeof(buf))) > 0)
		weft_grpc_in_feed(in, buf, (size_t)n);
	if (weft_grpc_in_next(in, &m, &len) != 1)
		return NULL;
	r = (Envoy__Service__Discovery__V3__DiscoveryRequest *)protobuf_c_message_unpack(
		&envoy__service__discovery__v3__discovery_request__descriptor, NULL, len, m);
	free(m);
	assert_non_null(r);
	return r;
}

/* Acks tell version and nonce; a refusal the last good version and why; and refusing the same
 * version again waits. */
static void requests(void **st)
{
	struct env *e = *st;
	Envoy__Service__Discovery__V3__DiscoveryRequest *m;
	struct weft_grpc_in in;

	weft_grpc_in_init(&in, 1 << 20);
	open_stream(e, false, 0, 0);
	m = sent(e, &in);
	assert_string_equal(m->node->id, "n");
	assert_string_equal(m->type_url, cluster_url);
	assert_null(m->version_info);
	assert_int_equal(m->n_resource_names, 0);
	protobuf_c_message_free_unpacked(&m->base, NULL);
	RESPOND(e, "1", {.name = "a", .stat = "x"});
	m = sent(e, &in);
	assert_null(m->node);
	assert_string_equal(m->version_info, "1");
	assert_string_equal(m->response_nonce, "1");
	assert_null(m->error_detail);
	protobuf_c_message_free_unpacked(&m->base, NULL);
	RESPOND(e, "2", {.name = "a", .stat = "y", .broken = true});
	m = sent(e, &in);
	assert_string_equal(m->version_info, "1");
	assert_string_equal(m->response_nonce, "2");
	assert_non_null(strstr(m->error_detail->message, "a: "));
	protobuf_c_message_free_unpacked(&m->base, NULL);
	RESPOND(e, "2", {.name = "a", .stat = "y", .broken = true});
	assert_null(sent(e, &in));
	UNTIL(e, (m = sent(e, &in)));
	assert_non_null(m->error_detail);
	protobuf_c_message_free_unpacked(&m->base, NULL);
	weft_xds_stream_want(e->t, "b"); /* everything, and b for itself */
	weft_xds_stream_want(e->t, "c");
	assert_null(sent(e, &in));
	UNTIL(e, (m = sent(e, &in)));
	assert_int_equal(m->n_resource_names, 3);
	assert_string_equal(m->resource_names[0], "*");
	protobuf_c_message_free_unpacked(&m->base, NULL);
	weft_grpc_in_done(&in);
}

static void rate_limit(void **st)
{
	struct env *e = *st;
	Envoy__Service__Discovery__V3__DiscoveryRequest *m;
	struct weft_grpc_in in;
	uint64_t start = weft_now_ns();

	weft_grpc_in_init(&in, 1 << 20);
	open_stream(e, false, 10, 2);
	protobuf_c_message_free_unpacked(&sent(e, &in)->base, NULL);
	RESPOND(e, "1", {.name = "a", .stat = "x"}); /* the second and last token */
	protobuf_c_message_free_unpacked(&sent(e, &in)->base, NULL);
	RESPOND(e, "2", {.name = "a", .stat = "y"});
	assert_null(sent(e, &in));
	assert_true(e->s->rate_limited > 0);
	UNTIL(e, (m = sent(e, &in)));
	assert_string_equal(m->response_nonce, "2");
	assert_true(weft_now_ns() - start > 90 * 1000000ULL);
	protobuf_c_message_free_unpacked(&m->base, NULL);
	weft_grpc_in_done(&in);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	const struct CMUnitTest t[] = {
		T(wrapped_and_plain), T(time_to_live), T(unreadable), T(requests), T(rate_limit),
	};

	return cmocka_run_group_tests(t, NULL, NULL);
}
