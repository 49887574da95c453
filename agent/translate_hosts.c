/* Hostnames of listeners and routes: which take which, and whether two kinds of route want the same
 * one. */
#include "agent/gateway.h"
#include "xds/names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "*.example.com" takes every name below it, but not example.com. */
static bool within(const char *wild, const char *host)
{
	size_t n = strlen(wild + 1), len = strlen(host);

	return wild[0] == '*' && len > n && !strcmp(host + len - n, wild + 1);
}

const char *gw_host_meet(const char *a, const char *b)
{
	if (!strcmp(a, b) || within(a, b))
		return b;
	return within(b, a) ? a : NULL;
}

const char *gw_host_wider(struct tr *t, const char *host)
{
	const char *dot = strchr(!strncmp(host, "*.", 2) ? host + 2 : host, '.');

	if (!strcmp(host, "*"))
		return NULL;
	return dot ? weft_arena_printf(t->a, "*%s", dot) : "*";
}

/* ---- one hostname for HTTPRoutes and for GRPCRoutes is a conflict */

enum { OF_HTTP = 1, OF_GRPC = 2, BELOW = 2 }; /* kinds at the hostname; shifted: at one below it */
struct gw_host_use {
	const char *key;
	unsigned kinds;
	UT_hash_handle hh;
};

static struct gw_host_use *use_of(struct tr *t, const struct gw_attach *a, const char *host,
				  bool make)
{
	const char *key = weft_arena_printf(t->a, "%s|%d|%s", a->g->scope, a->listener, host);
	size_t n = strlen(key);
	struct gw_host_use *u;

	HASH_FIND(hh, t->hosts, key, n, u);
	if (u || !make)
		return u;
	u = weft_arena_alloc(t->a, sizeof(*u));
	*u = (struct gw_host_use){.key = key};
	HASH_ADD_KEYPTR(hh, t->hosts, u->key, n, u);
	return u;
}

static unsigned kind_of(const struct weft_object *o)
{
	return o->kind->id == WEFT_KIND_GRPC_ROUTE ? OF_GRPC : OF_HTTP;
}

bool gw_hosts_clash(struct tr *t, const struct gw_attach *a)
{
	const unsigned other = kind_of(a->o) == OF_GRPC ? OF_HTTP : OF_GRPC;

	if (!(t->host_kinds & other))
		return false;
	for (size_t i = 0; i < a->n_hostnames; i++)
		for (const char *h = a->hostnames[i]; h; h = gw_host_wider(t, h)) {
			const struct gw_host_use *u = use_of(t, a, h, false);
			unsigned at = other | (h == a->hostnames[i] ? other << BELOW : 0);

			if (u && (u->kinds & at))
				return true;
		}
	return false;
}

void gw_hosts_note(struct tr *t, const struct gw_attach *a)
{
	const unsigned kind = kind_of(a->o);

	t->host_kinds |= kind;
	for (size_t i = 0; i < a->n_hostnames; i++)
		for (const char *h = a->hostnames[i]; h; h = gw_host_wider(t, h))
			use_of(t, a, h, true)->kinds |= h == a->hostnames[i] ? kind : kind << BELOW;
}

void gw_hosts_done(struct tr *t)
{
	HASH_CLEAR(hh, t->hosts);
}
