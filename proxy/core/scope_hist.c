#include "proxy/core/arena.h"
#include "proxy/core/scope_priv.h"

#include <math.h>
#include <stdlib.h>

const double scope_quantiles[SCOPE_QUANTILES] = {0, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 100};

const double scope_buckets[SCOPE_BOUNDS] = {0.5,   1,	   5,	   10,	    25,	    50,	   100,
					    250,   500,	   1000,   2500,    5000,   10000, 30000,
					    60000, 300000, 600000, 1800000, 3600000};

struct hist *hist_new(void)
{
	return weft_xcalloc(1, sizeof(struct hist));
}

static struct hist_group *group_at(const struct hist *h, unsigned decade, unsigned group)
{
	struct hist_decade *d = atomic_load_explicit(&h->decades[decade], memory_order_acquire);

	return d ? atomic_load_explicit(&d->groups[group], memory_order_acquire) : NULL;
}

void hist_free(struct hist *h)
{
	if (!h)
		return;
	for (unsigned d = 0; d < HIST_DECADES; d++) {
		for (unsigned g = 0; g < HIST_GROUPS; g++)
			free(group_at(h, d, g));
		free(atomic_load(&h->decades[d]));
	}
	free(h);
}

size_t hist_bytes(const struct hist *h)
{
	size_t n = sizeof(*h);

	for (unsigned d = 0; d < HIST_DECADES; d++) {
		n += atomic_load(&h->decades[d]) ? sizeof(struct hist_decade) : 0;
		for (unsigned g = 0; g < HIST_GROUPS; g++)
			n += group_at(h, d, g) ? sizeof(struct hist_group) : 0;
	}
	return n;
}

/* Two threads may make the same part: the first one put in place stays. */
static struct hist_group *group_make(struct hist *h, unsigned decade, unsigned group)
{
	struct hist_decade *d = atomic_load_explicit(&h->decades[decade], memory_order_acquire);
	struct hist_group *g, *seen = NULL;

	if (!d) {
		struct hist_decade *was = NULL;

		d = weft_xcalloc(1, sizeof(*d));
		if (!atomic_compare_exchange_strong(&h->decades[decade], &was, d)) {
			free(d);
			d = was;
		}
	}
	g = atomic_load_explicit(&d->groups[group], memory_order_acquire);
	if (g)
		return g;
	g = weft_xcalloc(1, sizeof(*g));
	if (!atomic_compare_exchange_strong(&d->groups[group], &seen, g)) {
		free(g);
		g = seen;
	}
	return g;
}

void hist_record(struct hist *h, uint64_t v)
{
	unsigned decade = 0, bin;

	atomic_fetch_add_explicit(&h->sum, v, memory_order_relaxed);
	if (!v) {
		atomic_fetch_add_explicit(&h->zero, 1, memory_order_relaxed);
		return;
	}
	if (v < 10) {
		bin = (unsigned)(v * 10 - 10);
	} else {
		for (decade = 1; v >= 100 && decade < HIST_DECADES - 1; decade++)
			v /= 10;
		bin = (unsigned)((v < 99 ? v : 99) - 10);
	}
	atomic_fetch_add_explicit(&group_make(h, decade, bin / HIST_GROUP)->now[bin % HIST_GROUP],
				  1, memory_order_relaxed);
}

void hist_flush(struct hist *h)
{
	uint64_t z = atomic_load_explicit(&h->zero, memory_order_relaxed);

	h->zero_last = z - h->zero_mark;
	h->zero_mark = z;
	for (unsigned d = 0; d < HIST_DECADES; d++) {
		if (!atomic_load_explicit(&h->decades[d], memory_order_acquire))
			continue;
		for (unsigned k = 0; k < HIST_GROUPS; k++) {
			struct hist_group *g = group_at(h, d, k);

			for (unsigned i = 0; g && i < HIST_GROUP; i++) {
				uint64_t now =
					atomic_load_explicit(&g->now[i], memory_order_relaxed);

				g->last[i] = now - g->mark[i];
				g->mark[i] = now;
			}
		}
	}
}

void hist_reset(struct hist *h)
{
	atomic_store(&h->zero, 0);
	atomic_store(&h->sum, 0);
	h->zero_mark = h->zero_last = 0;
	for (unsigned d = 0; d < HIST_DECADES; d++)
		for (unsigned k = 0; k < HIST_GROUPS; k++) {
			struct hist_group *g = group_at(h, d, k);

			for (unsigned i = 0; g && i < HIST_GROUP; i++) {
				atomic_store(&g->now[i], 0);
				g->mark[i] = g->last[i] = 0;
			}
		}
}

/* The bins in order: the zero bin (width 0), then upwards. */
struct walk {
	const struct hist *h;
	bool interval;
	int bin; /* -1: zero */
	double low, width;
	uint64_t n;
};

static bool walk_next(struct walk *w)
{
	for (;;) {
		struct hist_group *g;
		unsigned bin = (unsigned)++w->bin, decade;

		if (!bin) {
			w->low = w->width = 0;
			w->n = w->interval
				       ? w->h->zero_last
				       : atomic_load_explicit(&w->h->zero, memory_order_relaxed);
			if (w->n)
				return true;
			continue;
		}
		decade = --bin / HIST_BINS;
		if (decade >= HIST_DECADES)
			return false;
		g = group_at(w->h, decade, bin % HIST_BINS / HIST_GROUP);
		if (!g) {
			/* on to the last bin of this group */
			w->bin += HIST_GROUP - 1 - (int)(bin % HIST_GROUP);
			continue;
		}
		w->n = w->interval ? g->last[bin % HIST_GROUP]
				   : atomic_load_explicit(&g->now[bin % HIST_GROUP],
							  memory_order_relaxed);
		if (!w->n)
			continue;
		w->width = pow(10, (int)decade - 1);
		w->low = (bin % HIST_BINS + 10) * w->width;
		return true;
	}
}

static uint64_t count(const struct hist *h, bool interval)
{
	struct walk w = {.h = h, .interval = interval, .bin = -1};
	uint64_t n = 0;

	while (walk_next(&w))
		n += w.n;
	return n;
}

uint64_t hist_count(const struct hist *h)
{
	return count(h, false);
}

void hist_quantiles(const struct hist *h, bool interval, double ret[SCOPE_QUANTILES])
{
	struct walk w = {.h = h, .interval = interval, .bin = -1};
	double total = (double)count(h, interval), below = 0;
	unsigned q = 0;

	for (unsigned i = 0; i < SCOPE_QUANTILES; i++)
		ret[i] = NAN;
	while (q < SCOPE_QUANTILES && walk_next(&w)) {
		for (; q < SCOPE_QUANTILES; q++) {
			double want = scope_quantiles[q] / 100 * total;

			if (want > below + (double)w.n)
				break;
			ret[q] = w.low + (want - below) / (double)w.n * w.width;
		}
		below += (double)w.n;
	}
}

void hist_bins(const struct hist *h, bool interval,
	       void (*fn)(void *ctx, double low, double width, uint64_t n), void *ctx)
{
	struct walk w = {.h = h, .interval = interval, .bin = -1};

	while (walk_next(&w))
		fn(ctx, w.low, w.width, w.n);
}

uint64_t hist_below(const struct hist *h, bool interval, double le)
{
	struct walk w = {.h = h, .interval = interval, .bin = -1};
	uint64_t n = 0;

	/* values are integers: below 100 a bin holds one, above from low to low + width - 1 */
	while (walk_next(&w) && w.low + (w.width > 1 ? w.width - 1 : 0) <= le)
		n += w.n;
	return n;
}
