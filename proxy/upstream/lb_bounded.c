/* Consistent hashing with bounded loads: Mirrokni et al., arXiv:1608.01350; who is next where a
 * host is full comes from a shuffle that the hash seeds, so that a key has the same order of hosts
 * in every proxy. Numbers by the Mersenne Twister of C++'s std::mt19937, as Envoy's. */
#include "proxy/upstream/lb_util.h"

#include <math.h>
#include <stdlib.h>

enum { MT_N = 624, MT_M = 397 };
struct mt {
	uint32_t v[MT_N];
	unsigned at;
};

static void mt_seed(struct mt *m, uint32_t seed)
{
	m->v[0] = seed;
	for (uint32_t i = 1; i < MT_N; i++)
		m->v[i] = 1812433253u * (m->v[i - 1] ^ m->v[i - 1] >> 30) + i;
	m->at = MT_N;
}

static void mt_turn(struct mt *m)
{
	for (unsigned i = 0; i < MT_N; i++) {
		uint32_t y = (m->v[i] & 0x80000000u) | (m->v[(i + 1) % MT_N] & 0x7fffffffu);

		m->v[i] = m->v[(i + MT_M) % MT_N] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
	}
	m->at = 0;
}

static uint32_t mt_next(struct mt *m)
{
	uint32_t y;

	if (m->at == MT_N)
		mt_turn(m);
	y = m->v[m->at++];
	y ^= y >> 11;
	y ^= y << 7 & 0x9d2c5680u;
	y ^= y << 15 & 0xefc60000u;
	return y ^ y >> 18;
}

/* 0..n-1, each as likely. */
static uint32_t mt_below(struct mt *m, uint32_t n)
{
	uint32_t width = (uint32_t)(((uint64_t)UINT32_MAX + 1) / n), x;

	if (n == 1) {
		mt_next(m);
		return 0;
	}
	do
		x = mt_next(m) / width;
	while (x >= n);
	return x;
}

struct load {
	const struct weft_lb_list *l;
	double total; /* of weights */
	uint32_t slots;
};

static double overload(const struct load *k, size_t i)
{
	double mine = ceil(k->slots * (k->l->weights[i] / k->total));

	return atomic_load_explicit(&k->l->v[i]->host->rq_active, memory_order_relaxed) /
	       (mine < 1 ? 1 : mine);
}

static size_t other(const struct load *k, size_t at, double least, uint64_t hash)
{
	uint32_t *order = weft_xcalloc(k->l->n, sizeof(*order)), n = (uint32_t)k->l->n;
	struct mt m;
	size_t best = at;

	mt_seed(&m, (uint32_t)hash);
	for (uint32_t i = 0; i < n; i++)
		order[i] = i;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t j = i + mt_below(&m, n - i), to = order[j];
		double now;

		order[j] = order[i];
		order[i] = to;
		if (to == at)
			continue;
		now = overload(k, to);
		if (now < least) {
			least = now;
			best = to;
		}
		if (now <= 1)
			break;
	}
	free(order);
	return best;
}

size_t weft_lb_bounded(const struct weft_lb_list *l, uint32_t factor, size_t at, uint64_t hash)
{
	struct load k = {.l = l};
	uint64_t active = 0;
	double mine;

	if (l->n < 2)
		return at;
	for (size_t i = 0; i < l->n; i++) {
		active += atomic_load_explicit(&l->v[i]->host->rq_active, memory_order_relaxed);
		k.total += l->weights[i];
	}
	k.slots = (uint32_t)(((active + 1) * factor + 99) / 100);
	mine = overload(&k, at);
	return mine <= 1 ? at : other(&k, at, mine, hash);
}
