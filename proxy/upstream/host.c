#include "proxy/upstream/host.h"

#include "proxy/core/arena.h"
#include "proxy/core/worker.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { HOST_ARENA = 496 };
static const uint32_t not_healthy = WEFT_HOST_FAILED_ACTIVE_HC | WEFT_HOST_FAILED_OUTLIER |
				    WEFT_HOST_FAILED_EDS | WEFT_HOST_PENDING_ACTIVE_HC |
				    WEFT_HOST_DRAINING_EDS | WEFT_HOST_EXCLUDED_IMMEDIATE_HC;
static const uint32_t degraded = WEFT_HOST_DEGRADED_ACTIVE_HC | WEFT_HOST_DEGRADED_EDS;

struct weft_host *weft_host_new(const struct weft_host_conf *c)
{
	struct weft_arena *a = weft_arena_new(HOST_ARENA);
	struct weft_host *h = weft_arena_alloc(a, sizeof(*h));
	char text[WEFT_SOCKADDR_TEXT];

	h->arena = a;
	atomic_init(&h->refs, 1);
	h->addr = c->addr;
	if (c->unix_path)
		h->unix_path = weft_arena_strdup(a, c->unix_path);
	h->text = h->unix_path
			  ? h->unix_path
			  : weft_arena_strdup(a, weft_sockaddr_text(&c->addr, text, sizeof(text)));
	h->hostname = c->hostname && *c->hostname ? weft_arena_strdup(a, c->hostname) : "";
	h->hc_hostname =
		c->hc_hostname && *c->hc_hostname ? weft_arena_strdup(a, c->hc_hostname) : "";
	h->hc_addr = c->hc_addr.ip.family ? c->hc_addr : c->addr;
	h->hc_disabled = c->hc_disabled;
	pthread_mutex_init(&h->tries_lock, NULL);
	if (c->n_tries > 1) {
		struct weft_sockaddr *v = weft_arena_alloc(a, c->n_tries * sizeof(*v));

		memcpy(v, c->tries, c->n_tries * sizeof(*v));
		h->tries = v;
		h->n_tries = c->n_tries;
	}
	h->hash = XXH64(h->text, strlen(h->text), 0);
	atomic_init(&h->made_ns, weft_now_ns());
	return h;
}

static bool same_text(const char *have, const char *want)
{
	return !strcmp(have ? have : "", want ? want : "");
}

/* In whatever order: answers of DNS come in another one each time. */
static bool same_tries(const struct weft_host *h, const struct weft_host_conf *c)
{
	size_t n = c->n_tries > 1 ? c->n_tries : 0;

	if (h->n_tries != n)
		return false;
	for (size_t i = 0; i < n; i++) {
		size_t k = 0;

		while (k < n && !weft_sockaddr_eq(&h->tries[i], &c->tries[k]))
			k++;
		if (k == n)
			return false;
	}
	return true;
}

bool weft_host_is(const struct weft_host *h, const struct weft_host_conf *c)
{
	const struct weft_sockaddr *hc = c->hc_addr.ip.family ? &c->hc_addr : &c->addr;

	if (!same_text(h->unix_path, c->unix_path) || !same_text(h->hostname, c->hostname) ||
	    !same_text(h->hc_hostname, c->hc_hostname) || h->hc_disabled != c->hc_disabled)
		return false;
	return weft_sockaddr_eq(&h->addr, &c->addr) && weft_sockaddr_eq(&h->hc_addr, hc) &&
	       (c->logical || same_tries(h, c));
}

void weft_host_tries_set(struct weft_host *h, const struct weft_host_conf *c)
{
	struct weft_sockaddr *v = NULL, *old = h->tries_own;

	if (same_tries(h, c))
		return;
	if (c->n_tries > 1) {
		v = weft_xcalloc(c->n_tries, sizeof(*v));
		memcpy(v, c->tries, c->n_tries * sizeof(*v));
	}
	pthread_mutex_lock(&h->tries_lock);
	h->tries = h->tries_own = v;
	h->n_tries = v ? c->n_tries : 0;
	pthread_mutex_unlock(&h->tries_lock);
	free(old);
}

size_t weft_host_tries(struct weft_host *h, struct weft_sockaddr *v, size_t max)
{
	size_t n;

	pthread_mutex_lock(&h->tries_lock);
	n = h->n_tries < max ? h->n_tries : max;
	if (n)
		memcpy(v, h->tries, n * sizeof(*v));
	pthread_mutex_unlock(&h->tries_lock);
	return n;
}

void weft_host_ref(struct weft_host *h)
{
	atomic_fetch_add_explicit(&h->refs, 1, memory_order_relaxed);
}

void weft_host_unref(struct weft_host *h)
{
	if (!h || atomic_fetch_sub_explicit(&h->refs, 1, memory_order_acq_rel) != 1)
		return;
	free(h->tries_own);
	pthread_mutex_destroy(&h->tries_lock);
	weft_arena_free(h->arena);
}

bool weft_host_healthy(const struct weft_host *h)
{
	return !(atomic_load_explicit(&h->flags, memory_order_relaxed) & (not_healthy | degraded));
}

bool weft_host_degraded(const struct weft_host *h)
{
	uint32_t f = atomic_load_explicit(&h->flags, memory_order_relaxed);

	return !(f & not_healthy) && (f & degraded);
}

void weft_hosts_ref(struct weft_hosts *h)
{
	atomic_fetch_add_explicit(&h->refs, 1, memory_order_relaxed);
}

void weft_hosts_unref(struct weft_hosts *h)
{
	if (!h || atomic_fetch_sub_explicit(&h->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t i = 0; i < h->n; i++)
		weft_host_unref(h->v[i].host);
	weft_arena_free(h->arena);
}
