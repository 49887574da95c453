/* Order of start and end, configuration changes, signals. */
#include "agent/agent.h"
#include "proxy/core/arena.h"
#include "proxy/core/log.h"
#include "proxy/core/worker.h"
#include "proxy/net/http_admin.h"
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- folders and sockets */

static int make_dirs(const char *path, mode_t mode, struct weft_err *reterr)
{
	char p[PATH_MAX], *c;

	if (snprintf(p, sizeof(p), "%s", path) >= (int)sizeof(p))
		return weft_fail(reterr, NULL, ENAMETOOLONG, "%s: too long", path);
	for (c = p + 1;; c++) {
		char was = *c;

		if (was && was != '/')
			continue;
		*c = 0;
		if (mkdir(p, was ? 0755 : mode) < 0 && errno != EEXIST)
			return weft_fail(reterr, NULL, errno, "%s: %s", p, strerror(errno));
		*c = was;
		if (!was)
			return 0;
	}
}

/* Who may write there may put another CA, or one more root, in its place. */
static int check_private(const char *path, struct weft_err *reterr)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return weft_fail(reterr, NULL, errno, "%s: %s", path, strerror(errno));
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022))
		return weft_fail(reterr, NULL, EPERM,
				 "%s: must be a folder that only uid %u may write, is uid %u's, "
				 "mode %03o",
				 path, geteuid(), st.st_uid, st.st_mode & 07777);
	return 0;
}

/* Two agents with one run folder would take each other's sockets away. Held until the process ends.
 */
static int lock_run_dir(const struct weft_agent *a, struct weft_err *reterr)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%.4000s/agent.lock", a->opt->run_dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return weft_fail(reterr, NULL, errno, "%s: %s", path, strerror(errno));
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		close(fd);
		return weft_fail(reterr, NULL, EBUSY, "%s: another agent runs with this --run-dir",
				 path);
	}
	return 0;
}

static int run_dirs(const struct weft_agent *a, struct weft_err *reterr)
{
	char proxy[PATH_MAX];
	int r = make_dirs(a->opt->run_dir, 0755, reterr);

	snprintf(proxy, sizeof(proxy), "%.4000s/proxy", a->opt->run_dir);
	if (r >= 0)
		r = make_dirs(proxy, 0750, reterr);
	if (r >= 0 && lchown(proxy, a->opt->proxy_uid, a->opt->proxy_gid) < 0)
		r = weft_fail(reterr, NULL, errno, "%s: %s", proxy, strerror(errno));
	if (r >= 0)
		r = make_dirs(a->opt->state_dir, 0700, reterr);
	if (r >= 0)
		r = check_private(a->opt->state_dir, reterr);
	return r < 0 ? r : lock_run_dir(a, reterr);
}

int weft_agent_listen(const struct weft_agent *a, const char *name, uid_t owner,
		      struct weft_err *reterr)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	mode_t old;
	int fd, r;

	if (snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/%s", a->opt->run_dir, name) >=
	    (int)sizeof(sun.sun_path))
		return weft_fail(reterr, NULL, ENAMETOOLONG, "--run-dir %s: too long",
				 a->opt->run_dir);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return weft_fail(reterr, NULL, errno, "socket: %s", strerror(errno));
	unlink(sun.sun_path); /* ours: the lock is held */
	old = umask(0177);
	r = bind(fd, (struct sockaddr *)&sun, sizeof(sun));
	umask(old);
	if (r < 0 || lchown(sun.sun_path, owner, (gid_t)-1) < 0 || listen(fd, 64) < 0) {
		r = weft_fail(reterr, NULL, errno, "%s: %s", sun.sun_path, strerror(errno));
		close(fd);
		return r;
	}
	return fd;
}

/* ---- configuration */

static void publish_certs(struct weft_agent *a)
{
	const struct weft_store_gateway *g;
	const char *const *ids;
	size_t n_ids = weft_store_identities(a->store, a->opt->node, &ids);
	size_t n = weft_store_gateways(a->store, &g);
	struct weft_cert_want *v = weft_xcalloc(n_ids + n + 1, sizeof(*v));

	for (size_t i = 0; i < n_ids; i++)
		v[i] = (struct weft_cert_want){ids[i], ""};
	for (size_t i = 0; i < n; i++)
		v[n_ids + i] = (struct weft_cert_want){g[i].identity, g[i].scope};
	weft_certs_want(a->certs, v, n_ids + n);
	free(v);
}

static void publish(struct weft_agent *a)
{
	const struct weft_store_resource *v;
	size_t n = weft_store_changes(a->store, &v), i;

	weft_xds_server_begin(a->xds);
	for (i = 0; i < n; i++)
		weft_xds_publish_to(a->xds, v[i].scope, v[i].type, v[i].name, v[i].msg,
				    v[i].aliases);
	if (a->certs)
		publish_certs(a);
	weft_xds_server_end(a->xds);
}

static bool told_before(const struct weft_errs *errs, const struct weft_err *e)
{
	int i;

	for (i = 0; i < errs->n; i++)
		if (!strcmp(errs->v[i].msg, e->msg) && !strcmp(errs->v[i].where, e->where))
			return true;
	return false;
}

static int64_t ttl_of(const struct weft_objects *set)
{
	size_t n;
	const struct weft_object *o = weft_objects_of(set, WEFT_KIND_MESH_CONFIG, &n);
	const Weft__Kube__MeshConfig *m = n ? (const Weft__Kube__MeshConfig *)o->msg : NULL;

	return m && m->spec && m->spec->cert_ttl ? m->spec->cert_ttl->seconds : 0;
}

static void on_objects(void *owner, struct weft_objects *set)
{
	struct weft_agent *a = owner;
	struct weft_errs *errs = weft_xcalloc(1, sizeof(*errs));
	int i;

	a->n_errs = weft_store_load(a->store, set, errs);
	for (i = 0; i < errs->n; i++) {
		if (told_before(&a->errs, &errs->v[i]))
			continue;
		a->config_errors++;
		weft_log_err(WEFT_LOG_WARN, &errs->v[i], "config");
	}
	a->errs = *errs;
	free(errs);
	if (a->certs)
		weft_certs_ttl(a->certs, ttl_of(set));
	publish(a);
	weft_agent_sync(a);
}

static void on_told(void *owner, enum weft_log_level level, const char *text)
{
	struct weft_agent *a = owner;

	if (level <= WEFT_LOG_ERROR)
		a->config_errors++;
	weft_log(level, "config: %s", text);
}

/* ---- xDS */

static bool on_allow(void *owner, pid_t pid, uid_t uid)
{
	const struct weft_agent *a = owner;

	(void)pid;
	return uid == a->opt->proxy_uid || uid == a->opt->waypoint_uid || uid == 0;
}

/* "waypoint~IP~GATEWAY.NAMESPACE~DOMAIN" → "NAMESPACE/GATEWAY"; false: another role. */
static bool waypoint_scope(const char *id, char scope[WEFT_XDS_SCOPE_MAX])
{
	const char *name, *dot, *end;

	if (strncmp(id, "waypoint~", 9) != 0)
		return false;
	name = strchr(id + 9, '~');
	end = name ? strchr(name + 1, '~') : NULL;
	dot = end ? memchr(name + 1, '.', (size_t)(end - name - 1)) : NULL;
	if (dot)
		snprintf(scope, WEFT_XDS_SCOPE_MAX, "%.*s/%.*s", (int)(end - dot - 1), dot + 1,
			 (int)(dot - name - 1), name + 1);
	else
		snprintf(scope, WEFT_XDS_SCOPE_MAX, "/");
	return true;
}

/* A waypoint sees its Gateway's resources and keys, and nothing of the node's; the node's proxy
 * cannot say it is one. */
static int on_admit(void *owner, const struct weft_xds_peer *p, char ret_scope[WEFT_XDS_SCOPE_MAX],
		    struct weft_err *reterr)
{
	const struct weft_agent *a = owner;
	const struct weft_store_gateway *g;
	size_t n = weft_store_gateways(a->store, &g);

	if (!waypoint_scope(p->node->id, ret_scope)) {
		*ret_scope = '\0';
		return p->uid == a->opt->proxy_uid || p->uid == 0
			       ? 0
			       : weft_fail(
					 reterr, NULL, EPERM,
					 "uid %u is not the node proxy's; a waypoint's node.id is "
					 "waypoint~IP~GATEWAY.NAMESPACE~DOMAIN",
					 p->uid);
	}
	if (p->uid != a->opt->waypoint_uid && p->uid != 0)
		return weft_fail(reterr, NULL, EPERM, "uid %u is not a waypoint's", p->uid);
	for (size_t i = 0; i < n; i++)
		if (!strcmp(g[i].scope, ret_scope))
			return 0;
	return weft_fail(reterr, NULL, ENOENT,
			 "node.id \"%.100s\": there is no Gateway %.120s of a class of weft's",
			 p->node->id, ret_scope);
}

static void on_nack(void *owner, const char *node, const struct weft_xds_type *t, const char *text)
{
	struct weft_agent *a = owner;

	a->nacks++;
	snprintf(a->last_nack, sizeof(a->last_nack), "%s: %s", t->brief, text);
	weft_log(WEFT_LOG_ERROR, "xds: refused by %s: %s", node, a->last_nack);
}

/* ---- signals */

static void on_signal(evutil_socket_t sig, short what, void *arg)
{
	struct weft_agent *a = arg;

	(void)what;
	if (sig == SIGHUP) {
		weft_log(WEFT_LOG_INFO, "SIGHUP: reading %s again", a->opt->config);
		weft_source_file_rescan(a->source);
		weft_agent_sync(a);
		return;
	}
	a->signalled = true;
	event_base_loopbreak(a->base);
}

static void on_settled(void *owner)
{
	weft_agent_sync(owner);
}

/* ---- start and end */

static int open_parts(struct weft_agent *a, struct weft_err *reterr)
{
	const struct weft_agent_options *o = a->opt;
	struct weft_bpf_conf bpf = {o->pin_dir, o->cgroup, o->half_open_max};
	struct weft_xds_server_conf xds = {
		.allow = on_allow, .admit = on_admit, .nacked = on_nack, .owner = a};
	char keep[PATH_MAX];
	struct weft_source_file_conf source = {.dir = o->config,
					       .keep_dir = keep,
					       .changed = on_objects,
					       .told = on_told,
					       .owner = a};
	int r = weft_bpf_open(&bpf, &a->bpf, reterr);

	if (r < 0)
		return r;
	a->pods = weft_pods_new(a->bpf);
	a->store = weft_store_new();
	a->xds = weft_xds_server_new(a->base, &xds);
	snprintf(keep, sizeof(keep), "%.3700s/last-%s-%s", o->state_dir, o->node, o->instance);
	return weft_source_file_open(a->base, &source, &a->source, reterr);
}

static int open_identity(struct weft_agent *a, struct weft_err *reterr)
{
	const struct weft_store_mesh *mesh = weft_store_mesh(a->store);
	struct weft_ca_conf ca = {.dir = a->opt->state_dir,
				  .trust_domain = mesh->trust_domain,
				  .root_ttl_s = a->opt->root_ttl_s};
	int r = weft_ca_open(&ca, &a->ca, reterr);

	if (r < 0)
		return r;
	a->certs = weft_certs_new(a->base, a->ca, a->xds);
	weft_certs_ttl(a->certs, ttl_of(weft_source_file_set(a->source)));
	publish(a);
	return 0;
}

static int open_sockets(struct weft_agent *a, struct weft_err *reterr)
{
	const struct weft_store_mesh *mesh = weft_store_mesh(a->store);
	const struct weft_agent_options *o = a->opt;
	char path[PATH_MAX];
	struct weft_broker_conf broker = {.path = path,
					  .proxy_uid = o->proxy_uid,
					  .node = o->node,
					  .network = mesh->network,
					  .trust_domain = mesh->trust_domain,
					  .cgroup2 = o->cgroup,
					  .instance = o->instance,
					  .move_cgroup = o->move_cgroup,
					  .adopt_wait_ms = o->adopt_wait_ms,
					  .settled = on_settled,
					  .owner = a};
	int fd, r;

	snprintf(path, sizeof(path), "%.4000s/broker.sock", o->run_dir);
	r = weft_broker_new(a->base, &broker, a->pods, a->bpf, &a->broker, reterr);
	if (r < 0)
		return r;
	fd = weft_agent_listen(a, "xds.sock", o->proxy_uid, reterr);
	if (fd < 0)
		return fd;
	r = weft_xds_server_listen(a->xds, fd, reterr);
	if (r < 0)
		return r;
	fd = weft_agent_listen(a, "waypoint.sock", o->waypoint_uid, reterr);
	if (fd < 0)
		return fd;
	r = weft_xds_server_listen(a->xds, fd, reterr);
	return r < 0 ? r : weft_agent_admin_open(a, reterr);
}

int weft_agent_start(struct weft_agent *a, struct weft_err *reterr)
{
	static const int sigs[3] = {SIGTERM, SIGINT, SIGHUP};
	int r, i;

	a->start_ns = weft_now_ns();
	a->base = event_base_new();
	if (!a->base)
		return weft_fail(reterr, NULL, EIO, "event loop cannot be made");
	signal(SIGPIPE, SIG_IGN);
	r = run_dirs(a, reterr);
	if (r < 0 || (r = open_parts(a, reterr)) < 0 || (r = open_identity(a, reterr)) < 0 ||
	    (r = open_sockets(a, reterr)) < 0)
		return r;
	for (i = 0; i < 3; i++) {
		a->sigs[i] = evsignal_new(a->base, sigs[i], on_signal, a);
		event_add(a->sigs[i], NULL);
	}
	a->started = true;
	weft_agent_sync_init(a);
	weft_agent_sync(a);
	return 0;
}

static void remove_socket(const struct weft_agent *a, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%.4000s/%s", a->opt->run_dir, name);
	unlink(path);
}

void weft_agent_stop(struct weft_agent *a)
{
	struct weft_err e = {0};
	int i;

	if (a->unenroll && a->started)
		weft_agent_release(a);
	for (i = 0; i < 3; i++)
		if (a->sigs[i])
			event_free(a->sigs[i]);
	weft_agent_sync_done(a);
	weft_http_admin_free(a->admin);
	weft_source_file_close(a->source);
	weft_broker_free(a->broker);
	weft_certs_free(a->certs);
	weft_ca_free(a->ca);
	weft_xds_server_free(a->xds);
	weft_store_free(a->store);
	weft_pods_free(a->pods);
	weft_bpf_close(a->bpf);
	if (a->unenroll && weft_bpf_unload(a->opt->pin_dir, &e) < 0)
		weft_log_err(WEFT_LOG_ERROR, &e, "unload");
	if (a->started) {
		remove_socket(a, "xds.sock");
		remove_socket(a, "waypoint.sock");
		remove_socket(a, "admin.sock");
	}
	if (a->base)
		event_base_free(a->base);
}
