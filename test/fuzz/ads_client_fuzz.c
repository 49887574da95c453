/* The xDS client on foreign responses: a byte whose lowest bits choose delta and by name, then
 * responses, each behind two bytes of length. The sink refuses names that start with r. */
#include "xds/stream.c"

#include <assert.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void fuzz_apply(void *owner, struct weft_xds_reply *c, const struct weft_xds_resource *up,
		       size_t n_up, const char *const *removed, size_t n_removed)
{
	struct weft_err err = {0};

	weft_fail(&err, NULL, EINVAL, "must not be");
	for (size_t i = 0; i < n_up; i++) {
		assert(up[i].name[0] && up[i].msg->descriptor && up[i].version);
		if (up[i].name[0] == 'r')
			weft_xds_reject(c, up[i].name, &err);
	}
	for (size_t i = 0; i < n_removed; i++)
		assert(strlen(removed[i]) < 70000);
}

static void fuzz_complete(void *owner)
{
}

static const struct weft_xds_sink fuzz_sink = {.apply = fuzz_apply, .complete = fuzz_complete};

/* Between responses a name is held with a version or asked for. */
static void check(const struct weft_xds_stream *s)
{
	struct xtype *t;

	TAILQ_FOREACH (t, &s->types, link) {
		struct xheld *h, *tmp;

		HASH_ITER (hh, t->held, h, tmp)
			assert((h->version || h->wanted) && h->name[0]);
	}
}

static int no_connect(void *owner, struct event_base *base, const struct weft_xds_link_conf *conf,
		      struct weft_xds_link **ret, struct weft_err *reterr)
{
	return weft_fail(reterr, NULL, ECONNREFUSED, "nobody is there");
}

static void subscribe(struct weft_xds_stream *s, const struct weft_xds_type *type, bool by_name)
{
	struct xtype *t = weft_xds_stream_type(s, type, &fuzz_sink, NULL);

	weft_xds_stream_wild(t, !by_name);
	if (!by_name)
		return;
	weft_xds_stream_want(t, "a");
	weft_xds_stream_want(t, "r");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const Envoy__Config__Core__V3__Node node = ENVOY__CONFIG__CORE__V3__NODE__INIT;
	static struct event_base *base;
	struct weft_xds_stream_conf conf = {.node = &node,
					    .message_max = 1 << 20,
					    .keep = true,
					    .backoff_min_ms = 1000,
					    .backoff_max_ms = 1000,
					    .connect = no_connect};
	struct weft_xds_stream *s;
	int sv[2];

	if (!base)
		base = event_base_new();
	if (!n)
		return 0;
	conf.delta = *data & 1;
	conf.method = weft_xstrdup("/x/y");
	conf.authority = weft_xstrdup("x");
	assert(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sv));
	s = weft_xds_stream_new(base, &conf);
	for (int i = 0; i < WEFT_XDS_TYPES; i++)
		subscribe(s, weft_xds_types[i], *data & 2);
	s->link = weft_xds_link_new(
		base, sv[0],
		&(struct weft_xds_link_conf){.ops = &h2_ops, .down = on_down, .owner = s});
	start_stream(s);
	for (data++, n--; n > 2;) {
		size_t len = (size_t)data[0] << 8 | data[1];

		len = len < n - 2 ? len : n - 2;
		(void)weft_xds_stream_response(s, data + 2, len);
		check(s);
		data += 2 + len;
		n -= 2 + len;
	}
	weft_xds_stream_free(s);
	close(sv[1]);
	return 0;
}
