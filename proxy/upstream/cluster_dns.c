/* Endpoints by DNS: the names of a cluster's assignment, and what they are known to stand for. */
#include "proxy/core/arena.h"
#include "proxy/upstream/cluster_int.h"

#include <stdlib.h>
#include <string.h>

struct slot_dns {
	struct weft_dns *dns;
	struct dns_name *names;
	size_t n, n_known;
};

static bool same(const struct dns_name *d, const struct weft_ip *ips, size_t n)
{
	if (d->n != n)
		return false;
	for (size_t i = 0; i < n; i++)
		if (!weft_ip_eq(&d->ips[i], &ips[i]))
			return false;
	return true;
}

static void resolved(struct slot *s)
{
	const struct hosts_want want = {.cluster = s->cluster,
					.old = s->hosts,
					.names = s->dns->names,
					.n_names = s->dns->n};
	struct weft_errs errs = {0};
	struct weft_cfg c = {.errs = &errs};
	struct weft_hosts *hosts;

	/* it was made of names before without an error, and addresses bring none */
	if (!hosts_make(&c, NULL, &want, s->cluster->msg->load_assignment, &hosts))
		slot_changed(s, hosts, false);
}

static void on_answer(void *owner, size_t i, int err, const struct weft_ip *ips, size_t n_ips)
{
	struct slot *s = owner;
	struct dns_name *d = &s->dns->names[i];
	bool changed = !err && !same(d, ips, n_ips);

	if (s->retired)
		return;
	if (!d->known)
		s->dns->n_known++;
	d->known = true;
	if (changed) {
		free(d->ips);
		d->ips = weft_xcalloc(n_ips + 1, sizeof(*d->ips));
		memcpy(d->ips, ips, n_ips * sizeof(*ips));
		d->n = n_ips;
		/* while it warms the last name's answer makes the set */
		if (!(s->wait & WAIT_HOSTS) || s->dns->n_known == s->dns->n)
			resolved(s);
	} else if (!err && !(s->wait & WAIT_HOSTS)) {
		weft_scope_add(s->cluster->scope, WEFT_CLUSTER_update_no_rebuild, 1);
	}
	if (s->dns->n_known < s->dns->n)
		return;
	if ((s->wait & WAIT_HOSTS) && !changed)
		resolved(s);
	slot_ready(s, WAIT_HOSTS);
}

void slot_dns_start(struct slot *s)
{
	struct slot_dns *d = weft_xcalloc(1, sizeof(*d));
	const char *const *names;

	d->n = hosts_names(s->cluster->arena, s->cluster->msg->load_assignment, &names);
	d->names = weft_xcalloc(d->n + 1, sizeof(*d->names));
	s->dns = d;
	if (!d->n)
		return;
	slot_unready(s, WAIT_HOSTS);
	d->dns = weft_dns_start(slot_manager(s)->conf.base, s->cluster, names, d->n, on_answer, s);
	/* no resolver can be had: as if no name could be resolved */
	if (!d->dns)
		slot_ready(s, WAIT_HOSTS);
}

void slot_dns_stop(struct slot *s)
{
	if (!s->dns)
		return;
	weft_dns_stop(s->dns->dns);
	for (size_t i = 0; i < s->dns->n; i++)
		free(s->dns->names[i].ips);
	free(s->dns->names);
	free(s->dns);
	s->dns = NULL;
}
