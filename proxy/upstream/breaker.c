#include "proxy/upstream/breaker.h"

static unsigned stat_of(enum weft_priority p, unsigned of_default)
{
	return p == WEFT_PRIORITY_HIGH
		       ? of_default + (WEFT_CLUSTER_circuit_breakers_high_cx_open -
				       WEFT_CLUSTER_circuit_breakers_default_cx_open)
		       : of_default;
}

static uint32_t limit(const struct weft_breaker *b)
{
	uint32_t open, n;

	if (b->budget_pct < 0)
		return b->max_retries;
	open = b->requests + b->pending;
	n = (uint32_t)(b->budget_pct * open / 100.0);
	return n > b->budget_min ? n : b->budget_min;
}

static void told(struct weft_cluster *c, enum weft_priority p, uint32_t used)
{
	const struct weft_breaker *b = &c->breaker[p];
	uint32_t max = limit(b);

	weft_scope_set(c->scope, stat_of(p, WEFT_CLUSTER_circuit_breakers_default_rq_retry_open),
		       used >= max);
	if (b->track_remaining)
		weft_scope_set(c->scope,
			       stat_of(p, WEFT_CLUSTER_circuit_breakers_default_remaining_retries),
			       max > used ? max - used : 0);
}

bool weft_breaker_retry_take(struct weft_cluster *c, enum weft_priority p)
{
	struct weft_breaker *b = &c->breaker[p];
	uint32_t used = ++b->retries;

	if (used > limit(b)) {
		told(c, p, --b->retries);
		return false;
	}
	told(c, p, used);
	return true;
}

void weft_breaker_retry_give(struct weft_cluster *c, enum weft_priority p)
{
	told(c, p, --c->breaker[p].retries);
}
