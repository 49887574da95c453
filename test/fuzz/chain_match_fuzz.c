/* A Listener's filter chain matches from a server, then a connection: two bytes of length, the
 * message, and what the connection is known by. */
#include "proxy/waypoint/listener.h"
#include "xds/wire.h"
#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { CHAINS_MAX = 64, KEY = 44 };

static void find(const struct lconf *l, const uint8_t *p, size_t n)
{
	uint8_t k[KEY] = {0};
	char sni[256] = "";
	const char *alpn[] = {k[0] & 1 ? "h2" : "http/1.1", NULL};
	struct lkey key = {.sni = sni, .transport = "tls", .alpn = alpn};
	const struct lchain *c;

	memcpy(k, p, n < KEY ? n : KEY);
	if (n > KEY)
		memcpy(sni, p + KEY, n - KEY < 255 ? n - KEY : 255);
	key.dst.ip.family = k[0] & 2 ? 4 : 6;
	key.src.ip.family = key.direct_src.ip.family = k[0] & 4 ? 4 : 6;
	memcpy(key.dst.ip.b, k + 4, key.dst.ip.family == 4 ? 4 : 16);
	memcpy(key.src.ip.b, k + 20, key.src.ip.family == 4 ? 4 : 16);
	key.direct_src.ip = key.src.ip;
	memcpy(&key.dst.port, k + 36, 2);
	memcpy(&key.src.port, k + 38, 2);
	c = lmatch_find(l, &key);
	assert(!c || (c >= l->chain && c < l->chain + l->n_chain));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct lchain chains[CHAINS_MAX] = {0};
	struct weft_errs errs = {0};
	struct weft_cfg c = {.errs = &errs};
	struct lconf l = {.chain = chains};
	const Envoy__Config__Listener__V3__Listener *m;
	size_t len, i;

	if (n < 2)
		return 0;
	len = (size_t)data[0] << 8 | data[1];
	if (len > n - 2)
		return 0;
	c.arena = weft_arena_new(0);
	m = (const void *)weft_wire_unpack(c.arena,
					   &envoy__config__listener__v3__listener__descriptor,
					   data + 2, len, true, NULL);
	if (m && m->n_filter_chains <= CHAINS_MAX && !weft_cfg_check(&c, NULL, &m->base)) {
		for (i = 0; i < m->n_filter_chains; i++) {
			chains[i].name = "";
			chains[i].match = m->filter_chains[i]->filter_chain_match;
		}
		l.n_chain = m->n_filter_chains;
		i = (size_t)lmatch_build(&c, NULL, &l);
		assert((i != 0) == (errs.n > 0));
		if (!i)
			find(&l, data + 2 + len, n - 2 - len);
	}
	weft_arena_free(c.arena);
	return 0;
}
