/* weft-proxy: carries the traffic of this node's pods. Order of start: options; what needs
 * privilege (log file, listeners, limits); the seal; then threads, and only then the first byte
 * from anyone. */
#include "proxy/core/seal.h"
#include "proxy/core/version.h"
#include "proxy/node/admin.h"
#include "proxy/node/drain.h"
#include "proxy/node/metrics.h"
#include "proxy/node/podtab.h"
#include "proxy/node/reserve.h"
#include "proxy/node/state.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { NOFILE_WANTED = 1 << 20, EXPIRE_EVERY_S = 60, EXPIRE_IDLE_MS = 600000 };

struct proxy {
	struct weft_options opt;
	struct weft_node node;
	struct weft_admin admin;
	struct weft_drain *drain;
	int fd_metrics, fd_ready, fd_admin;
	struct weft_http_admin *http[3];
	struct event *signals[2], *expire;
	unsigned signals_seen;
};

static int open_parts(struct proxy *p, struct weft_err *reterr)
{
	struct weft_seal_conf seal = {.no_seccomp = p->opt.no_seccomp};
	struct rlimit rl;
	int err = 0;

	seal.uid = geteuid();
	seal.gid = getegid();
	if (seal.uid == 0)
		err = weft_user_lookup(p->opt.user, &seal.uid, &seal.gid, reterr);
	if (!err && p->opt.access_log)
		err = weft_log_sink_open(p->opt.access_log, &p->node.access_log, reterr);
	p->node.access_format = p->opt.access_format;
	p->fd_metrics = p->fd_ready = -1;
	if (!err && p->opt.metrics.ip.family)
		err = p->fd_metrics = weft_metrics_listen(&p->opt.metrics, reterr);
	if (err >= 0 && p->opt.ready.ip.family)
		err = p->fd_ready = weft_metrics_listen(&p->opt.ready, reterr);
	if (err >= 0)
		err = p->fd_admin = weft_admin_listen(p->opt.run_dir, seal.uid, seal.gid, reterr);
	if (err < 0)
		return err;
	if (!getrlimit(RLIMIT_NOFILE, &rl)) {
		struct rlimit more = {NOFILE_WANTED, NOFILE_WANTED};

		/* as high as we may: root may raise the hard limit too */
		if (rl.rlim_max >= NOFILE_WANTED)
			more.rlim_max = rl.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &more)) {
			rl.rlim_cur = rl.rlim_max;
			(void)setrlimit(RLIMIT_NOFILE, &rl);
		}
	}
	return weft_seal(&seal, reterr);
}

static unsigned cpus(void)
{
	cpu_set_t set;
	int n = sched_getaffinity(0, sizeof(set), &set) ? 1 : CPU_COUNT(&set);

	return n < 1 ? 1 : n > 256 ? 256 : (unsigned)n;
}

static int want(void *owner, const struct weft_npod *p, enum weft_sock_kind k, unsigned count)
{
	struct weft_node *n = owner;

	return weft_podtab_want(n->podtab, p, k, count);
}

static void on_welcome(void *owner, const char *node, const char *network, const char *trust_domain)
{
	struct weft_node *n = owner;

	weft_state_welcome(n->state, node, network);
	if (n->phase == WEFT_PHASE_START)
		n->phase = WEFT_PHASE_RUN;
}

static void on_signal(evutil_socket_t sig, short what, void *arg)
{
	struct proxy *p = arg;

	weft_log(WEFT_LOG_INFO, "signal=%s", sig == SIGTERM ? "SIGTERM" : "SIGINT");
	if (p->signals_seen++ >= 2)
		weft_worker_stop(p->node.main);
	weft_drain_start(p->drain);
}

static void quit(void *owner)
{
	struct proxy *p = owner;

	weft_drain_start(p->drain);
}

static void on_drained(void *owner)
{
	struct proxy *p = owner;

	weft_worker_stop(p->node.main);
}

static void on_expire(evutil_socket_t fd, short what, void *arg)
{
	weft_stat_expire(EXPIRE_IDLE_MS);
}

static void make_main_parts(struct proxy *p)
{
	struct weft_node *n = &p->node;
	struct rlimit rl = {.rlim_cur = 1024};
	char broker[4096], xds[4096];
	struct weft_reserve_conf reserve = {
		.min = p->opt.stock_min, .max = p->opt.stock_max, .want = want, .owner = n};
	struct weft_podtab_conf pods = {
		.path = broker, .version = WEFT_VERSION, .welcome = on_welcome, .owner = n};
	static const struct timeval expire = {EXPIRE_EVERY_S, 0};
	struct event_base *base = n->main->base;

	/* a quarter of all descriptors may wait; the rest is for connections, two each */
	(void)getrlimit(RLIMIT_NOFILE, &rl);
	reserve.total = (unsigned)(rl.rlim_cur / 4);
	reserve.fd_tight = (int)(rl.rlim_cur - rl.rlim_cur / 8);
	snprintf(broker, sizeof(broker), "%s/broker.sock", p->opt.run_dir);
	snprintf(xds, sizeof(xds), "%s/xds.sock", p->opt.run_dir);
	n->reserve = weft_reserve_new(n, &reserve);
	n->state = weft_state_new(n, xds);
	n->podtab = weft_podtab_new(n, &pods);
	p->drain = weft_drain_new(n, on_drained, p);
	p->admin = (struct weft_admin){n, &p->opt, quit, p};
	if (p->fd_metrics >= 0)
		p->http[0] = weft_http_admin_new(base, p->fd_metrics, weft_metrics_handler, n);
	if (p->fd_ready >= 0)
		p->http[1] = weft_http_admin_new(base, p->fd_ready, weft_ready_handler, n);
	p->http[2] = weft_http_admin_new(base, p->fd_admin, weft_admin_handler, &p->admin);
	p->signals[0] = evsignal_new(base, SIGTERM, on_signal, p);
	p->signals[1] = evsignal_new(base, SIGINT, on_signal, p);
	p->expire = event_new(base, -1, EV_PERSIST, on_expire, p);
	if (!p->signals[0] || !p->signals[1] || !p->expire)
		abort(); /* memory is out */
	event_add(p->signals[0], NULL);
	event_add(p->signals[1], NULL);
	event_add(p->expire, &expire);
}

static void free_main_parts(struct proxy *p)
{
	struct weft_node *n = &p->node;

	for (int i = 0; i < 3; i++)
		weft_http_admin_free(p->http[i]);
	weft_drain_free(p->drain);
	weft_podtab_free(n->podtab);
	weft_state_free(n->state);
	weft_reserve_free(n->reserve);
	n->podtab = NULL;
	n->state = NULL;
	n->reserve = NULL;
	event_free(p->signals[0]);
	event_free(p->signals[1]);
	event_free(p->expire);
}

static int run(struct proxy *p, struct weft_err *reterr)
{
	struct weft_node *n = &p->node;
	int err;

	n->conf = p->opt.conf;
	if (!n->conf.workers)
		n->conf.workers = cpus();
	n->stock_min = p->opt.stock_min;
	n->stock_max = p->opt.stock_max;
	err = weft_node_init(n, reterr);
	if (err)
		return err;
	weft_metrics_setup();
	make_main_parts(p);
	err = weft_node_start(n, reterr);
	if (err)
		return err;
	weft_log(WEFT_LOG_INFO, "weft-proxy " WEFT_VERSION " workers=%u run_dir=%s uid=%u", n->n_ws,
		 p->opt.run_dir, (unsigned)geteuid());
	weft_podtab_start(n->podtab);
	err = weft_worker_run(n->main);
	if (err)
		return weft_fail(reterr, NULL, -err, "the event loop failed");
	weft_node_stop(n);
	free_main_parts(p);
	weft_node_done(n);
	weft_log_sink_free(n->access_log);
	weft_log(WEFT_LOG_INFO, "weft-proxy ended");
	return 0;
}

int main(int argc, char **argv)
{
	static struct proxy p;
	struct weft_err err = {0};
	int rc = weft_options_parse(argc, argv, &p.opt);

	if (rc)
		return rc < 0 ? 2 : 0;
	weft_log_setup("weft-proxy", p.opt.log_level, p.opt.log_json);
	signal(SIGPIPE, SIG_IGN);
	rc = open_parts(&p, &err);
	if (!rc)
		rc = run(&p, &err);
	if (rc) {
		weft_log_err(WEFT_LOG_ERROR, &err, "cannot start");
		return 1;
	}
	return 0;
}
