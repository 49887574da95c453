/* The ADS client on foreign responses: each behind two bytes of length. The sink refuses names that
 * start with r. */
#include "xds/client.c"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void fuzz_apply(void *owner, struct weft_xds_client *c, const struct weft_xds_resource *up,
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

static const struct weft_xds_sink fuzz_sink = {.apply = fuzz_apply};

/* Every name is held with a version between responses; the text of a NACK is one string that fits.
 */
static void check(const struct weft_xds_client *c)
{
	for (size_t i = 0; i < c->n_types; i++) {
		struct xheld *h, *tmp;

		HASH_ITER (hh, c->types[i].held, h, tmp)
			assert(h->version && h->name[0]);
	}
	assert(c->nack_n < sizeof(c->nack) && strlen(c->nack) == c->nack_n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const struct weft_xds_client_conf conf = {
		.path = "/nowhere", .node_id = "n", .node_name = "n"};
	static struct event_base *base;
	struct weft_xds_client *c;
	int sv[2];

	if (!base)
		base = event_base_new();
	assert(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sv));
	c = weft_xds_client_new(base, &conf);
	weft_xds_subscribe(c, &weft_xds_type_address, &fuzz_sink, NULL);
	weft_xds_subscribe(c, &weft_xds_type_authorization, &fuzz_sink, NULL);
	c->link = weft_xds_link_new(
		base, sv[0],
		&(struct weft_xds_link_conf){.ops = &h2_ops, .down = on_down, .owner = c});
	start_stream(c);
	while (n > 2) {
		size_t len = (size_t)data[0] << 8 | data[1];

		len = len < n - 2 ? len : n - 2;
		(void)weft_xds_client_response(c, data + 2, len);
		check(c);
		data += 2 + len;
		n -= 2 + len;
	}
	(void)weft_xds_ready(c);
	weft_xds_client_free(c);
	close(sv[1]);
	return 0;
}
