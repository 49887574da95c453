#include "proxy/core/arena.h"
#include "proxy/node/node_priv.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *identity_text(const struct weft_npod_conf *c)
{
	size_t cap = strlen(c->trust_domain) + strlen(c->ns) + strlen(c->sa) + 24;
	char *s = weft_xcalloc(1, cap);

	snprintf(s, cap, "spiffe://%s/ns/%s/sa/%s", c->trust_domain, c->ns, c->sa);
	return s;
}

struct weft_npod *weft_npod_new(const struct weft_npod_conf *c, int home)
{
	struct weft_npod *p = weft_xcalloc(1, sizeof(*p));

	atomic_init(&p->refs, 1);
	p->uid = weft_xstrdup(c->uid);
	p->name = weft_xstrdup(c->name);
	p->ns = weft_xstrdup(c->ns);
	p->sa = weft_xstrdup(c->sa);
	p->trust_domain = weft_xstrdup(c->trust_domain);
	p->workload_uid = weft_xstrdup(c->workload_uid);
	p->network = weft_xstrdup(c->network);
	p->identity = identity_text(c);
	assert(c->n_addrs <= sizeof(p->addrs) / sizeof(p->addrs[0]));
	memcpy(p->addrs, c->addrs, c->n_addrs * sizeof(c->addrs[0]));
	p->n_addrs = c->n_addrs;
	p->home = home;
	return p;
}

bool weft_npod_same(const struct weft_npod *p, const struct weft_npod_conf *c)
{
	if (strcmp(p->uid, c->uid) != 0 || strcmp(p->name, c->name) != 0 ||
	    strcmp(p->ns, c->ns) != 0 || strcmp(p->sa, c->sa) != 0 ||
	    strcmp(p->trust_domain, c->trust_domain) != 0 ||
	    strcmp(p->workload_uid, c->workload_uid) != 0 || strcmp(p->network, c->network) != 0 ||
	    p->n_addrs != c->n_addrs)
		return false;
	for (size_t i = 0; i < c->n_addrs; i++)
		if (!weft_ip_eq(&p->addrs[i], &c->addrs[i]))
			return false;
	return true;
}

struct weft_npod *weft_npod_ref(struct weft_npod *p)
{
	atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
	return p;
}

void weft_npod_unref(struct weft_npod *p)
{
	if (!p || atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) != 1)
		return;
	free(p->uid);
	free(p->name);
	free(p->ns);
	free(p->sa);
	free(p->trust_domain);
	free(p->workload_uid);
	free(p->network);
	free(p->identity);
	free(p);
}
