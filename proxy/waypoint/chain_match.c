/* Which filter chain takes a connection: Envoy's filter_chain_match. One criterion after the other,
 * the most specific value of each; a value that matched is not reconsidered. */
#include "proxy/waypoint/listener.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <xxhash.h>

enum level {
	L_PORT,
	L_DST,
	L_NAME,
	L_TRANSPORT,
	L_ALPN,
	L_DIRECT,
	L_TYPE,
	L_SRC,
	L_SRC_PORT,
	LEVELS
};
enum { KEY_MAX = 260, PLENS = 2 * 130, MATCHES_MAX = 4000000 };

struct edge {
	const void *key;
	size_t n;
	uint64_t hash;
	struct mnode *to;
	const struct lchain *chain; /* at the last level */
};
struct mnode {
	struct edge *v; /* open addressing */
	size_t n, cap;
	uint16_t *len; /* of prefixes that stand here, longest first: family << 8 | bits */
	size_t n_len;
};
struct lmatch {
	struct mnode *root;
};

static struct edge *find(const struct mnode *m, const void *key, size_t n)
{
	uint64_t h = XXH3_64bits(key, n);
	size_t i;

	if (!m->cap)
		return NULL;
	for (i = h & (m->cap - 1); m->v[i].key; i = (i + 1) & (m->cap - 1))
		if (m->v[i].hash == h && m->v[i].n == n && !memcmp(m->v[i].key, key, n))
			return &m->v[i];
	return NULL;
}

static struct edge *put(struct weft_arena *a, struct mnode *m, const void *key, size_t n)
{
	struct edge *e = find(m, key, n);
	size_t i;

	if (e)
		return e;
	if (2 * (m->n + 1) > m->cap) {
		struct mnode old = *m;

		m->cap = old.cap ? old.cap * 2 : 4;
		m->v = weft_arena_alloc(a, m->cap * sizeof(*m->v));
		for (i = 0; i < old.cap; i++) {
			size_t k = old.v[i].hash & (m->cap - 1);

			if (!old.v[i].key)
				continue;
			while (m->v[k].key)
				k = (k + 1) & (m->cap - 1);
			m->v[k] = old.v[i];
		}
	}
	m->n++;
	{
		uint64_t h = XXH3_64bits(key, n);

		i = h & (m->cap - 1);
		while (m->v[i].key)
			i = (i + 1) & (m->cap - 1);
		m->v[i] = (struct edge){weft_arena_memdup(a, key, n), n, h, NULL, NULL};
	}
	return &m->v[i];
}

/* ---- keys of prefixes: family, bits, address */
struct prefix {
	uint8_t family, bits, b[16];
};

static void len_note(struct weft_arena *a, struct mnode *m, const struct prefix *p)
{
	uint16_t want = (uint16_t)((p->family << 8) | p->bits);
	uint16_t *v;
	size_t i;

	for (i = 0; i < m->n_len; i++)
		if (m->len[i] == want)
			return;
	if (!m->len)
		m->len = weft_arena_alloc(a, PLENS * sizeof(uint16_t));
	v = m->len;
	for (i = m->n_len; i > 0 && (v[i - 1] & 0xff) < (want & 0xff); i--)
		v[i] = v[i - 1];
	v[i] = want;
	m->n_len++;
}

static const struct edge *longest(const struct mnode *m, const struct weft_sockaddr *s)
{
	const uint16_t *v = m->len;
	struct prefix p;
	size_t i;

	for (i = 0; i < m->n_len; i++) {
		struct weft_cidr c;
		const struct edge *e;

		memset(&p, 0, sizeof(p));
		p.family = (uint8_t)(v[i] >> 8);
		p.bits = (uint8_t)(v[i] & 0xff);
		if (p.family && p.family != s->ip.family)
			continue;
		if (p.family) {
			if (weft_cidr_make(&s->ip, p.bits, &c))
				continue;
			memcpy(p.b, c.ip.b, 16);
		}
		e = find(m, &p, sizeof(p));
		if (e)
			return e;
	}
	return NULL;
}

/* ---- building: the product of all values of a match */
struct build {
	struct weft_cfg *c;
	const struct weft_path *at; /* of the chain */
	const struct lchain *chain;
	const Envoy__Config__Listener__V3__FilterChainMatch *m;
	struct weft_arena *a;
	bool clash;
	size_t *left; /* of MATCHES_MAX */
};

static int grow(struct build *b, struct mnode *m, enum level l);

static int step(struct build *b, struct mnode *m, enum level l, const void *key, size_t n)
{
	struct edge *e = put(b->a, m, key, n);

	if (!*b->left) /* a product of long lists */
		return -E2BIG;
	--*b->left;
	if (l + 1 == LEVELS) {
		if (e->chain && !b->clash) {
			b->clash = true;
			return weft_cfg_fail(
				b->c, b->at,
				"matches the same connections as the filter chain \"%s\" before it",
				e->chain->name);
		}
		if (!e->chain)
			e->chain = b->chain;
		return 0;
	}
	if (!e->to)
		e->to = weft_arena_alloc(b->a, sizeof(*e->to));
	return grow(b, e->to, l + 1);
}

static int step_prefix(struct build *b, struct mnode *m, enum level l,
		       const Envoy__Config__Core__V3__CidrRange *r, const char *field, int idx)
{
	struct weft_path pi = {b->at, field, idx};
	struct prefix p;
	struct weft_cidr c;
	struct weft_ip ip;

	memset(&p, 0, sizeof(p));
	if (r) {
		uint32_t bits = weft_cfg_u32(r->prefix_len, 0);

		if (weft_ip_parse(r->address_prefix, &ip))
			return weft_cfg_fail(b->c, &pi,
					     "address_prefix must be an IP address, is \"%.60s\"",
					     r->address_prefix);
		if (weft_cidr_make(&ip, bits, &c))
			return weft_cfg_fail(b->c, &pi, "prefix_len must be 0..%d, is %u",
					     ip.family == 4 ? 32 : 128, bits);
		p.family = c.ip.family;
		p.bits = c.len;
		memcpy(p.b, c.ip.b, 16);
	}
	len_note(b->a, m, &p);
	return step(b, m, l, &p, sizeof(p));
}

static int step_name(struct build *b, struct mnode *m, const char *name, int idx)
{
	struct weft_path pi = {b->at, "server_names", idx};
	char low[KEY_MAX];
	size_t n = strlen(name), i;

	if (n >= KEY_MAX)
		return weft_cfg_fail(b->c, &pi, "must be shorter than %d, is %zu", KEY_MAX, n);
	for (i = 0; i <= n; i++)
		low[i] = (char)tolower((unsigned char)name[i]);
	if (!strcmp(low, "*"))
		return weft_cfg_fail(b->c, &pi, "must not be \"*\": leave server_names out");
	if (low[0] == '*' && low[1] == '.') /* kept as ".suffix" */
		return step(b, m, L_NAME, low + 1, n - 1);
	if (strchr(low, '*'))
		return weft_cfg_fail(b->c, &pi, "may have '*' as its first label only, is \"%s\"",
				     name);
	return step(b, m, L_NAME, low, n);
}

static int each_prefix(struct build *b, struct mnode *m, enum level l,
		       Envoy__Config__Core__V3__CidrRange *const *v, size_t n, const char *field)
{
	size_t i;
	int err = 0;

	if (!n)
		return step_prefix(b, m, l, NULL, field, 0);
	for (i = 0; i < n; i++)
		err |= step_prefix(b, m, l, v[i], field, (int)i);
	return err;
}

static int grow(struct build *b, struct mnode *m, enum level l)
{
	const Envoy__Config__Listener__V3__FilterChainMatch *f = b->m;
	uint16_t port;
	uint8_t type;
	size_t i;
	int err = 0;

	switch (l) {
	case L_PORT:
		port = (uint16_t)(f ? weft_cfg_u32(f->destination_port, 0) : 0);
		return step(b, m, l, &port, sizeof(port));
	case L_DST:
		return each_prefix(b, m, l, f ? f->prefix_ranges : NULL, f ? f->n_prefix_ranges : 0,
				   "prefix_ranges");
	case L_NAME:
		if (!f || !f->n_server_names)
			return step(b, m, l, "", 0);
		for (i = 0; i < f->n_server_names; i++)
			err |= step_name(b, m, f->server_names[i], (int)i);
		return err;
	case L_TRANSPORT:
		return step(b, m, l, f && f->transport_protocol ? f->transport_protocol : "",
			    f && f->transport_protocol ? strlen(f->transport_protocol) : 0);
	case L_ALPN:
		if (!f || !f->n_application_protocols)
			return step(b, m, l, "", 0);
		for (i = 0; i < f->n_application_protocols; i++)
			err |= step(b, m, l, f->application_protocols[i],
				    strlen(f->application_protocols[i]));
		return err;
	case L_DIRECT:
		return each_prefix(b, m, l, f ? f->direct_source_prefix_ranges : NULL,
				   f ? f->n_direct_source_prefix_ranges : 0,
				   "direct_source_prefix_ranges");
	case L_TYPE:
		type = (uint8_t)(f ? f->source_type : 0);
		return step(b, m, l, &type, 1);
	case L_SRC:
		return each_prefix(b, m, l, f ? f->source_prefix_ranges : NULL,
				   f ? f->n_source_prefix_ranges : 0, "source_prefix_ranges");
	default:
		port = 0;
		if (!f || !f->n_source_ports)
			return step(b, m, l, &port, sizeof(port));
		for (i = 0; i < f->n_source_ports; i++) {
			port = (uint16_t)f->source_ports[i];
			err |= step(b, m, l, &port, sizeof(port));
		}
		return err;
	}
}

int lmatch_build(struct weft_cfg *c, const struct weft_path *at, struct lconf *l)
{
	struct lmatch *m = weft_arena_alloc(c->arena, sizeof(*m));
	size_t i, left = MATCHES_MAX;
	int err = 0;

	m->root = weft_arena_alloc(c->arena, sizeof(*m->root));
	for (i = 0; i < l->n_chain && left; i++) {
		struct weft_path pc = {at, "filter_chains", (int)i},
				 pm = {&pc, "filter_chain_match", -1};
		struct build b = {c, &pm, &l->chain[i], l->chain[i].match, c->arena, false, &left};

		err |= grow(&b, m->root, L_PORT);
		if (!left)
			err = weft_cfg_fail(c, &pm,
					    "makes, with those before it, more than %d "
					    "combinations of criteria",
					    MATCHES_MAX);
	}
	l->match = m;
	return err;
}

/* ---- finding */
static const struct edge *by_name(const struct mnode *m, const char *sni)
{
	const struct edge *e;
	const char *dot;

	if (*sni) {
		e = find(m, sni, strlen(sni));
		if (e)
			return e;
		for (dot = strchr(sni, '.'); dot && dot[1]; dot = strchr(dot + 1, '.')) {
			e = find(m, dot, strlen(dot));
			if (e)
				return e;
		}
	}
	return find(m, "", 0);
}

static const struct edge *by_alpn(const struct mnode *m, const char *const *alpn)
{
	const struct edge *e;

	for (; alpn && *alpn; alpn++) {
		e = find(m, *alpn, strlen(*alpn));
		if (e)
			return e;
	}
	return find(m, "", 0);
}

static const struct edge *by_port(const struct mnode *m, uint16_t port)
{
	static const uint16_t any;
	const struct edge *e = port ? find(m, &port, sizeof(port)) : NULL;

	return e ? e : find(m, &any, sizeof(any));
}

static const struct edge *by_type(const struct mnode *m, const struct lkey *k)
{
	static const uint8_t any = 0;
	bool local = weft_ip_is_loopback(&k->src.ip) || weft_ip_eq(&k->src.ip, &k->dst.ip) ||
		     !k->src.ip.family;
	uint8_t type = local ? 1 : 2;
	const struct edge *e = find(m, &type, 1);

	return e ? e : find(m, &any, 1);
}

const struct lchain *lmatch_find(const struct lconf *l, const struct lkey *k)
{
	const struct mnode *m = l->match->root;
	const struct edge *e = NULL;
	enum level at;

	for (at = L_PORT; at < LEVELS; at++) {
		switch (at) {
		case L_PORT:
			e = by_port(m, k->dst.port);
			break;
		case L_DST:
			e = longest(m, &k->dst);
			break;
		case L_NAME:
			e = by_name(m, k->sni ? k->sni : "");
			break;
		case L_TRANSPORT:
			e = find(m, k->transport, strlen(k->transport));
			if (!e)
				e = find(m, "", 0);
			break;
		case L_ALPN:
			e = by_alpn(m, k->alpn);
			break;
		case L_DIRECT:
			e = longest(m, &k->direct_src);
			break;
		case L_TYPE:
			e = by_type(m, k);
			break;
		case L_SRC:
			e = longest(m, &k->src);
			break;
		default:
			e = by_port(m, k->src.port);
		}
		if (!e)
			return l->fallback;
		m = e->to;
	}
	return e->chain;
}
