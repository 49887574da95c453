#include "proxy/node/admin.h"

#include "proxy/core/log.h"
#include "proxy/core/version.h"
#include "proxy/node/metrics.h"
#include "proxy/node/podtab.h"
#include "proxy/node/reserve.h"
#include "proxy/node/state.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static json_t *socket_counts(const struct weft_node *n, const struct weft_npod *p)
{
	static const char *const names[] = {"out4", "out6", "in4", "in6"};
	json_t *all = json_object();

	for (int i = 0; i < 4; i++) {
		struct weft_reserve_count c;

		weft_reserve_count(n->reserve, p, (enum weft_sock_kind)(WEFT_SOCK_OUT4 + i), &c);
		json_object_set_new(all, names[i],
				    json_pack("{s:i,s:i,s:i,s:i}", "kept", (int)c.kept, "target",
					      (int)c.target, "asked", (int)c.asked, "waiting",
					      (int)c.waiting));
	}
	return all;
}

struct list {
	const struct weft_node *n;
	json_t *array;
};

static void add_pod(void *ctx, const struct weft_npod *p)
{
	struct list *l = ctx;
	json_t *addrs = json_array();
	char text[WEFT_IP_TEXT];

	for (size_t i = 0; i < p->n_addrs; i++)
		json_array_append_new(addrs,
				      json_string(weft_ip_text(&p->addrs[i], text, sizeof(text))));
	json_array_append_new(
		l->array,
		json_pack("{s:s,s:s,s:s,s:s,s:s,s:o,s:i,s:i,s:o}", "uid", p->uid, "namespace",
			  p->ns, "name", p->name, "identity", p->identity, "workload",
			  p->workload_uid, "addresses", addrs, "worker", p->home, "connections",
			  (int)atomic_load(&p->conns), "sockets", socket_counts(l->n, p)));
}

static void add_secret(void *ctx, const struct weft_secret *s)
{
	struct list *l = ctx;

	json_array_append_new(l->array, json_pack("{s:s,s:I,s:I}", "identity", s->identity,
						  "serial", (json_int_t)s->serial, "not_after",
						  (json_int_t)s->not_after));
}

/* A snapshot of the last answers: workers are asked again for the next time. */
static json_t *workers(struct weft_node *n)
{
	json_t *a = json_array();

	for (unsigned i = 0; i < n->n_ws; i++)
		json_array_append_new(a, json_pack("{s:i,s:i}", "id", (int)i, "connections",
						   (int)atomic_load(&n->live[i].conns)));
	weft_node_ask_live(n);
	return a;
}

static json_t *missing(const struct weft_node *n)
{
	struct evbuffer *b = evbuffer_new();
	json_t *a = json_array();
	char *line;

	weft_ready_print(n, b);
	while ((line = evbuffer_readln(b, NULL, EVBUFFER_EOL_LF))) {
		json_array_append_new(a, json_string(line));
		free(line);
	}
	evbuffer_free(b);
	return a;
}

static json_t *status(struct weft_node *n)
{
	static const char *const phases[] = {"starting", "running", "draining"};
	struct list pods = {n, json_array()}, certs = {n, json_array()};
	size_t w, s, p;

	weft_podtab_each(n->podtab, add_pod, &pods);
	weft_secrets_each(weft_state_secrets(n->state), add_secret, &certs);
	weft_model_counts(weft_state_model(n->state), &w, &s, &p);
	return json_pack(
		"{s:s,s:i,s:s,s:I,s:o,s:{s:b,s:s},s:{s:b,s:b,s:I,s:s},s:{s:I,s:I,s:I},s:o,s:o,s:o}",
		"version", WEFT_VERSION, "pid", (int)getpid(), "phase", phases[n->phase],
		"uptime_ms", (json_int_t)((weft_now_ns() - n->start_ns) / 1000000), "missing",
		missing(n), "broker", "connected", (int)weft_podtab_welcomed(n->podtab), "error",
		weft_podtab_last_error(n->podtab), "xds", "connected",
		(int)weft_state_connected(n->state), "ready", (int)weft_state_ready(n->state),
		"refused", (json_int_t)weft_state_rejected(n->state), "last_refused",
		weft_state_last_reject(n->state), "model", "workloads", (json_int_t)w, "services",
		(json_int_t)s, "policies", (json_int_t)p, "workers", workers(n), "pods", pods.array,
		"certificates", certs.array);
}

static int on_status(struct weft_admin *a, struct evbuffer *out, const char **ret_type)
{
	return weft_http_json(out, ret_type, status(a->node));
}

static int on_logging(struct weft_admin *a, const struct weft_http_req *r, struct evbuffer *out)
{
	enum weft_log_level level;
	char text[16];

	if (weft_http_query(r->query, "level", text, sizeof(text)) ||
	    (strcmp(text, "reset") != 0 && weft_log_level_parse(text, &level))) {
		evbuffer_add_printf(out, "level: must be error, warn, info, debug or reset\n");
		return 400;
	}
	if (strcmp(text, "reset") == 0)
		level = a->opt->log_level;
	weft_log_setup("weft-proxy", level, a->opt->log_json);
	evbuffer_add_printf(out, "level set\n");
	return 200;
}

int weft_admin_handler(void *owner, const struct weft_http_req *r, struct evbuffer *out,
		       const char **ret_type)
{
	struct weft_admin *a = owner;
	bool get = strcmp(r->method, "GET") == 0, post = strcmp(r->method, "POST") == 0;

	if (strcmp(r->path, "/status") == 0)
		return get ? on_status(a, out, ret_type) : 405;
	if (strcmp(r->path, "/logging") == 0)
		return post ? on_logging(a, r, out) : 405;
	if (strcmp(r->path, "/quitquitquit") == 0) {
		if (!post)
			return 405;
		evbuffer_add_printf(out, "draining\n");
		a->quit(a->owner);
		return 200;
	}
	if (strcmp(r->path, "/ready") == 0) {
		if (!get)
			return 405;
		if (!weft_ready_print(a->node, out))
			return 500;
		evbuffer_add_printf(out, "ready\n");
		return 200;
	}
	return weft_metrics_handler(a->node, r, out, ret_type);
}

/* A socket nobody answers on is left from a killed proxy. */
static int remove_stale(const struct sockaddr_un *sun, struct weft_err *reterr)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), err = 0;

	if (fd < 0)
		return weft_fail(reterr, NULL, errno, "socket: %s", strerror(errno));
	if (connect(fd, (const struct sockaddr *)sun, sizeof(*sun)))
		err = errno;
	close(fd);
	if (err == ENOENT)
		return 0;
	/* a successor takes the name: the one who drains keeps its socket without it */
	if (unlink(sun->sun_path) && errno != ENOENT)
		return weft_fail(reterr, NULL, errno, "%s: %s", sun->sun_path, strerror(errno));
	if (!err)
		weft_log(WEFT_LOG_WARN, "%s: another proxy listened there", sun->sun_path);
	return 0;
}

/* A folder that is there already keeps its owner: it is the agent's to give. */
static int make_dir(const char *path, uid_t uid, gid_t gid, mode_t mode, struct weft_err *reterr)
{
	if (mkdir(path, mode)) {
		if (errno == EEXIST)
			return 0;
		return weft_fail(reterr, NULL, errno, "%s: %s", path, strerror(errno));
	}
	if (geteuid() == 0 && lchown(path, uid, gid))
		return weft_fail(reterr, NULL, errno, "%s: %s", path, strerror(errno));
	return 0;
}

int weft_admin_listen(const char *run_dir, uid_t uid, gid_t gid, struct weft_err *reterr)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	char dir[sizeof(sun.sun_path)];
	mode_t old;
	int fd, err;

	if ((size_t)snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/proxy/admin.sock", run_dir) >=
	    sizeof(sun.sun_path))
		return weft_fail(reterr, NULL, ENAMETOOLONG, "--run-dir %s: path is too long",
				 run_dir);
	snprintf(dir, sizeof(dir), "%s/proxy", run_dir);
	err = make_dir(run_dir, 0, 0, 0755, reterr);
	if (!err)
		err = make_dir(dir, uid, gid, 0700, reterr);
	if (!err)
		err = remove_stale(&sun, reterr);
	if (err)
		return err;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	old = umask(0177);
	err = fd < 0 || bind(fd, (struct sockaddr *)&sun, sizeof(sun)) || listen(fd, 16) ? errno
											 : 0;
	umask(old);
	if (!err && geteuid() == 0 && lchown(sun.sun_path, uid, gid))
		err = errno;
	if (!err)
		return fd;
	if (fd >= 0)
		close(fd);
	return weft_fail(reterr, NULL, err, "%s: %s", sun.sun_path, strerror(err));
}
