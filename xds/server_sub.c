/* What one stream asked for of one type. */
#include "proxy/core/arena.h"
#include "xds/server_priv.h"
#include <errno.h>

static struct xname *name_find(struct xname *set, const char *name)
{
	struct xname *n;

	HASH_FIND(hh, set, name, strlen(name), n);
	return n;
}

static struct xname *name_put(struct xname **set, const char *name)
{
	size_t len = strlen(name);
	struct xname *n = weft_xcalloc(1, sizeof(*n) + len + 1);

	memcpy(n->name, name, len + 1);
	HASH_ADD_KEYPTR(hh, *set, n->name, len, n);
	return n;
}

static void set_free(struct xname **set)
{
	struct xname *n, *tmp;

	HASH_ITER (hh, *set, n, tmp) {
		HASH_DEL(*set, n);
		free(n->version);
		free(n);
	}
}

void weft_xds_sub_open(struct xsub *sub, const struct xtable *t)
{
	sub->subscribed = sub->first = true;
	sub->sent_seq = sub->gone_seq = t->seq; /* a wildcard goes back to 0 */
	TAILQ_INIT(&sub->due);
}

void weft_xds_sub_done(struct xsub *sub)
{
	set_free(&sub->names);
	set_free(&sub->known);
}

int weft_xds_sub_add(struct xsub *sub, const struct xtable *t, const char *name)
{
	struct xname *n;

	if (!strcmp(name, "*")) {
		if (!sub->wildcard) {
			sub->sent_seq = 0;
			sub->gone_seq = t->seq;
		}
		sub->wildcard = true;
		return 0;
	}
	n = name_find(sub->names, name);
	if (!n) {
		if (HASH_COUNT(sub->names) >= WEFT_XDS_NAMES_MAX)
			return -E2BIG;
		n = name_put(&sub->names, name);
	}
	if (!n->due)
		TAILQ_INSERT_TAIL(&sub->due, n, list);
	n->due = true;
	return 0;
}

void weft_xds_sub_del(struct xsub *sub, const char *name)
{
	struct xname *n;

	if (!strcmp(name, "*")) {
		sub->wildcard = false;
		return;
	}
	n = name_find(sub->names, name);
	if (!n)
		return;
	if (n->due)
		TAILQ_REMOVE(&sub->due, n, list);
	HASH_DEL(sub->names, n);
	free(n);
}

int weft_xds_sub_set(struct xsub *sub, const struct xtable *t, char *const *names, size_t n,
		     uint64_t stamp)
{
	struct xname *x, *tmp;
	bool wild = !n && !sub->named;

	sub->named |= n > 0;
	for (size_t i = 0; i < n; i++) {
		if (!strcmp(names[i], "*")) {
			wild = true;
			continue;
		}
		x = name_find(sub->names, names[i]);
		if (!x && weft_xds_sub_add(sub, t, names[i]))
			return -E2BIG;
		x = x ?: name_find(sub->names, names[i]);
		x->stamp = stamp;
	}
	if (wild)
		(void)weft_xds_sub_add(sub, t, "*");
	else
		sub->wildcard = false;
	HASH_ITER (hh, sub->names, x, tmp)
		if (x->stamp != stamp)
			weft_xds_sub_del(sub, x->name);
	return 0;
}

void weft_xds_sub_known(struct xsub *sub, const char *name, const char *version)
{
	struct xname *n = name_find(sub->known, name);

	if (!n)
		n = name_put(&sub->known, name);
	free(n->version);
	n->version = weft_xstrdup(version);
}

bool weft_xds_sub_has(const struct xsub *sub, const struct xres *r)
{
	if (sub->wildcard || name_find(sub->names, r->name))
		return true;
	for (size_t i = 0; sub->names && r->aliases && r->aliases[i]; i++)
		if (name_find(sub->names, r->aliases[i]))
			return true;
	return false;
}
