/* What the process may still do once its own sockets stand: listeners of the bootstrap are bound
 * and access logs open by then. */
#include "proxy/core/log.h"
#include "proxy/core/seal.h"
#include "proxy/waypoint/waypoint.h"

#include <netinet/in.h>
#include <unistd.h>

/* Sanitizers make calls that the filter refuses. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = true };
#else
enum { SANITIZED = false };
#endif

struct wants {
	bool low_ports, net_admin;
};

static void look(void *ctx, const struct listener_view *v)
{
	const struct lconf *l = v->warming ? v->warming : v->active;
	struct wants *w = ctx;
	unsigned i;

	for (i = 0; i < l->n_addr; i++) {
		w->net_admin |= l->addr[i].transparent;
		w->low_ports |= l->bind && !l->addr[i].unix_path && l->addr[i].addr.port &&
				l->addr[i].addr.port < IPPORT_RESERVED;
	}
}

int waypoint_seal(struct waypoint *w, struct weft_err *reterr)
{
	bool root = !geteuid();
	struct weft_seal_conf conf = {.no_seccomp = w->opt.no_seccomp || SANITIZED, .files = true};
	struct wants wants = {.low_ports = w->opt.low_ports};
	int err;

	/* an address may come back by a change of its listener's configuration */
	listeners_each(w->listeners, look, &wants);
	conf.low_ports = wants.low_ports;
	conf.net_admin = wants.net_admin;
	if (w->opt.user && root) {
		err = weft_user_lookup(w->opt.user, &conf.uid, &conf.gid, reterr);
		if (err)
			return err;
	} else {
		conf.keep_root = true;
		if (root)
			weft_log(WEFT_LOG_WARN,
				 "runs as root: --user USER would take that away once its sockets "
				 "stand");
	}
	return weft_seal(&conf, reterr);
}
