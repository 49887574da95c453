/* Admin: Envoy's paths on a unix socket, or on TCP loopback with a bearer token. Never open. */
#include "proxy/core/log.h"
#include "proxy/l4/als.h"
#include "proxy/net/listener.h"
#include "proxy/net/origdst.h"
#include "proxy/waypoint/admin_priv.h"
#include "xds/wire.h"
#include "xds/yaml.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { TOKEN_MAX = 4096, TOKEN_MIN = 16 };

struct waypoint_admin {
	struct waypoint *w;
	struct weft_http_admin *http;
	char *path; /* NULL: TCP */
	const struct weft_access_logs *logs;
	struct weft_arena *arena; /* of them */
};

/* ---- for handlers */
const char *areq_param(const struct areq *r, const char *key)
{
	size_t cap = strlen(r->http->query) + 1;
	char *v = weft_arena_alloc(r->arena, cap);

	return weft_http_query(r->http->query, key, v, cap) ? NULL : v;
}

int areq_text(const struct areq *r, int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	evbuffer_add_vprintf(r->out, fmt, ap);
	va_end(ap);
	return status;
}

int areq_json(const struct areq *r, const ProtobufCMessage *m)
{
	char *s = weft_yaml_encode(m, true);

	evbuffer_add(r->out, s, strlen(s));
	free(s);
	*r->ret_type = "application/json";
	return 200;
}

void *admin_new(struct weft_arena *a, const ProtobufCMessageDescriptor *d)
{
	void *m = weft_arena_alloc(a, d->sizeof_message);

	weft_message_init(d, m);
	return m;
}

void admin_push(struct weft_arena *a, void *field, size_t *n, void *m)
{
	void ***v = field, **more;

	if (!(*n & (*n - 1))) { /* full at each power of two */
		more = weft_arena_alloc(a, (*n ? 2 * *n : 1) * sizeof(*more));
		if (*n)
			memcpy(more, *v, *n * sizeof(*more));
		*v = more;
	}
	(*v)[(*n)++] = m;
}

Google__Protobuf__Timestamp *admin_time(struct weft_arena *a, uint64_t unix_s)
{
	Google__Protobuf__Timestamp *t = admin_new(a, &google__protobuf__timestamp__descriptor);

	t->has_seconds = true;
	t->seconds = (int64_t)unix_s;
	return t;
}

Envoy__Config__Core__V3__Address *admin_address(struct weft_arena *a, const struct weft_sockaddr *s,
						const char *unix_path)
{
	Envoy__Config__Core__V3__Address *m =
		admin_new(a, &envoy__config__core__v3__address__descriptor);
	Envoy__Config__Core__V3__SocketAddress *sa;
	char text[WEFT_IP_TEXT];

	if (unix_path) {
		m->address_case = ENVOY__CONFIG__CORE__V3__ADDRESS__ADDRESS_PIPE;
		m->pipe = admin_new(a, &envoy__config__core__v3__pipe__descriptor);
		m->pipe->path = weft_arena_strdup(a, unix_path);
		return m;
	}
	sa = admin_new(a, &envoy__config__core__v3__socket_address__descriptor);
	sa->address = weft_arena_strdup(a, weft_ip_text(&s->ip, text, sizeof(text)));
	sa->port_specifier_case =
		ENVOY__CONFIG__CORE__V3__SOCKET_ADDRESS__PORT_SPECIFIER_PORT_VALUE;
	sa->port_value = s->port;
	m->address_case = ENVOY__CONFIG__CORE__V3__ADDRESS__ADDRESS_SOCKET_ADDRESS;
	m->socket_address = sa;
	return m;
}

const char *admin_address_text(const struct weft_sockaddr *s, const char *unix_path, char *dst,
			       size_t cap)
{
	if (unix_path)
		snprintf(dst, cap, "%s", unix_path);
	else
		weft_sockaddr_text(s, dst, cap);
	return dst;
}

enum waypoint_state waypoint_state(const struct waypoint *w)
{
	return w->state == WAYPOINT_LIVE && (w->health_failed || w->draining) ? WAYPOINT_DRAINING
									      : w->state;
}

static int ready(struct areq *r)
{
	static const char *const names[] = {"PRE_INITIALIZING", "INITIALIZING", "LIVE", "DRAINING"};
	enum waypoint_state s = waypoint_state(r->w);

	return areq_text(r, s == WAYPOINT_LIVE ? 200 : 503, "%s\n", names[s]);
}

static int hot_restart_version(struct areq *r)
{
	return areq_text(r, 200, "disabled\n");
}

/* ---- dispatch */
static int help(struct areq *r);
static const struct {
	const char *path;
	bool post;
	int (*run)(struct areq *r);
	const char *help;
} commands[] = {
	{"/", false, help, "this list"},
	{"/certs", false, admin_certs, "certificates in use"},
	{"/clusters", false, admin_clusters, "clusters and their hosts; format=text|json"},
	{"/config_dump", false, admin_config_dump,
	 "configuration; resource=FIELD mask=PATHS name_regex=REGEX include_eds"},
	{"/drain_listeners", true, admin_drain, "stop listening; graceful skip_exit inboundonly"},
	{"/healthcheck/fail", true, admin_fail, "answer health checks with failure"},
	{"/healthcheck/ok", true, admin_ok, "answer health checks as usual"},
	{"/help", false, help, "this list"},
	{"/hot_restart_version", false, hot_restart_version, "there is no hot restart"},
	{"/init_dump", false, admin_init_dump, "what is waited for; mask=listener"},
	{"/listeners", false, admin_listeners, "addresses; format=text|json"},
	{"/logging", true, admin_logging, "level of the log; level=LEVEL"},
	{"/memory", false, admin_memory, "memory of the heap"},
	{"/quitquitquit", true, admin_quit, "end the process"},
	{"/ready", false, ready, "200 when LIVE, else 503"},
	{"/reopen_logs", true, admin_reopen, "open access logs again"},
	{"/reset_counters", true, admin_reset, "set all counters to zero"},
	{"/server_info", false, admin_server_info, "version, state, options, node"},
	{"/stats", false, admin_stats,
	 "statistics; usedonly filter=REGEX format=text|json|prometheus "
	 "type=All|Counters|Gauges|Histograms histogram_buckets=MODE"},
	{"/stats/prometheus", false, admin_prometheus,
	 "statistics for Prometheus; usedonly filter=REGEX"},
};
enum { N_COMMANDS = sizeof(commands) / sizeof(*commands) };

static int help(struct areq *r)
{
	size_t i;

	areq_text(r, 200, "admin commands are:\n");
	for (i = 0; i < N_COMMANDS; i++)
		areq_text(r, 200, "  %s%s: %s\n", commands[i].path,
			  commands[i].post ? " (POST)" : "", commands[i].help);
	return 200;
}

static int run(struct areq *r)
{
	const char *method = r->http->method;
	size_t i;

	for (i = 0; i < N_COMMANDS; i++)
		if (!strcmp(r->http->path, commands[i].path))
			break;
	if (i == N_COMMANDS) {
		areq_text(r, 404, "invalid path. ");
		help(r);
		return 404;
	}
	if (commands[i].post
		    ? strcmp(method, "POST")
		    : strcmp(method, "GET") && strcmp(method, "HEAD") && strcmp(method, "POST"))
		return areq_text(r, 405, "Method %s not allowed, %s required.", method,
				 commands[i].post ? "POST" : "GET");
	return commands[i].run(r);
}

static void log_request(struct waypoint_admin *a, const struct areq *r, int status,
			uint64_t start_ns)
{
	struct weft_headers h;
	struct weft_info info = {.arena = r->arena,
				 .protocol = WEFT_HTTP_11,
				 .status = status,
				 .start_ns = start_ns,
				 .end_ns = weft_now_ns(),
				 .rx_bytes = r->http->body_n,
				 .tx_bytes = evbuffer_get_length(r->out)};
	struct weft_format_in in = {.info = &info, .req = &h, .log_type = "DownstreamEnd"};
	const char *target = *r->http->query ? weft_arena_printf(r->arena, "%s?%s", r->http->path,
								 r->http->query)
					     : r->http->path;
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	info.start_wall_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	weft_headers_init(&h, r->arena);
	weft_headers_add(&h, ":method", 7, r->http->method, strlen(r->http->method));
	weft_headers_add(&h, ":path", 5, target, strlen(target));
	weft_access_logs_write(a->logs, &in);
}

static int handle(void *owner, const struct weft_http_req *http, struct evbuffer *out,
		  const char **ret_type)
{
	struct waypoint_admin *a = owner;
	struct areq r = {.w = a->w,
			 .arena = weft_arena_new(0),
			 .http = http,
			 .out = out,
			 .ret_type = ret_type};
	uint64_t start = weft_now_ns();
	int status = http->allowed ? run(&r) : areq_text(&r, 401, "a bearer token is required\n");

	if (a->logs)
		log_request(a, &r, status, start);
	weft_arena_free(r.arena);
	return status;
}

/* ---- where it listens */
/* The token of --admin-token-file; malloc'ed. */
static char *token_read(const char *path, struct weft_err *reterr)
{
	char buf[TOKEN_MAX + 1];
	struct stat st;
	ssize_t n = -1;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	if (fd >= 0 && !fstat(fd, &st)) {
		if (st.st_mode & 077) {
			close(fd);
			weft_fail(
				reterr, NULL, EPERM,
				"--admin-token-file %s: must be its owner's alone (0600), is %04o",
				path, (unsigned)(st.st_mode & 07777));
			return NULL;
		}
		n = read(fd, buf, TOKEN_MAX);
	}
	if (fd >= 0)
		close(fd);
	if (n < 0) {
		weft_fail(reterr, NULL, errno ? errno : EIO, "--admin-token-file %s: %s", path,
			  strerror(errno));
		return NULL;
	}
	while (n > 0 && (buf[n - 1] == '\n' || buf[n - 1] == '\r' || buf[n - 1] == ' '))
		n--;
	buf[n] = '\0';
	if (n < TOKEN_MIN || strlen(buf) != (size_t)n || strpbrk(buf, " \t\r\n")) {
		weft_fail(reterr, NULL, EINVAL,
			  "--admin-token-file %s: must have one token of %d bytes or more", path,
			  TOKEN_MIN);
		return NULL;
	}
	return weft_xstrdup(buf);
}

static int tcp_address(const Envoy__Config__Core__V3__SocketAddress *m, struct weft_listen_conf *lc,
		       struct weft_err *reterr)
{
	if (!m->address || weft_ip_parse(m->address, &lc->addr.ip))
		return weft_fail(reterr, NULL, EINVAL,
				 "admin.address.socket_address.address: must be an IP address, is "
				 "\"%s\"",
				 m->address ? m->address : "");
	if (!weft_ip_is_loopback(&lc->addr.ip))
		return weft_fail(reterr, NULL, EINVAL,
				 "admin.address: must be a loopback address or a pipe, is %s",
				 m->address);
	lc->addr.port = (uint16_t)m->port_value;
	return 0;
}

/* Where: 1: a socket's conf; 0: no admin; < 0. */
static int where(const struct waypoint *w, struct weft_listen_conf *lc, struct weft_err *reterr)
{
	const Envoy__Config__Bootstrap__V3__Admin *m = w->boot.msg->admin;
	int err;

	*lc = (struct weft_listen_conf){.unix_mode = 0600, .unix_path = w->opt.admin_path};
	if (lc->unix_path)
		return 1;
	if (!m || !m->address)
		return 0;
	if (m->address->address_case == ENVOY__CONFIG__CORE__V3__ADDRESS__ADDRESS_PIPE) {
		lc->unix_path = m->address->pipe->path;
		return 1;
	}
	if (m->address->address_case != ENVOY__CONFIG__CORE__V3__ADDRESS__ADDRESS_SOCKET_ADDRESS)
		return weft_fail(reterr, NULL, EINVAL,
				 "admin.address: must be a pipe or a loopback socket_address");
	err = tcp_address(m->address->socket_address, lc, reterr);
	if (err)
		return err;
	if (!w->opt.admin_token_file)
		return weft_fail(reterr, NULL, EINVAL,
				 "admin.address: a TCP address is open to every user of this host: "
				 "give --admin-token-file FILE, or a pipe");
	return 1;
}

static int logs_prepare(struct waypoint_admin *a, struct weft_errs *errs)
{
	const Envoy__Config__Bootstrap__V3__Admin *m = a->w->boot.msg->admin;
	struct weft_path at = {NULL, "admin", -1}, pl = {&at, "access_log", -1};
	struct weft_cfg c = {
		.arena = a->arena, .errs = errs, .marks = a->w->boot.marks, .file = true};

	return m ? weft_access_logs_prepare(&c, &pl, m->access_log, m->n_access_log, &a->logs) : 0;
}

/* Options of its socket, where it is of the bootstrap. */
static int options_prepare(struct waypoint *w, struct weft_listen_conf *lc, struct weft_errs *errs)
{
	const Envoy__Config__Bootstrap__V3__Admin *m = w->boot.msg->admin;
	struct weft_path at = {NULL, "admin", -1};
	struct weft_cfg c = {
		.arena = w->boot.arena, .errs = errs, .marks = w->boot.marks, .file = true};

	return m && !w->opt.admin_path
		       ? lsockopts_prepare(&c, &at, m->socket_options, m->n_socket_options, lc)
		       : 0;
}

static int prepare(struct waypoint_admin *a, struct weft_listen_conf *lc, struct weft_err *reterr)
{
	struct weft_errs *errs = weft_xcalloc(1, sizeof(*errs));
	int err = logs_prepare(a, errs) | options_prepare(a->w, lc, errs);

	if (err)
		*reterr = errs->v[0];
	free(errs);
	return err;
}

/* The words of where() begin with the path. */
static void place(struct weft_err *e)
{
	char msg[sizeof(e->msg)], *colon = strstr(e->msg, ": ");

	if (!colon || strncmp(e->msg, "admin.", 6))
		return;
	snprintf(e->path, sizeof(e->path), "%.*s", (int)(colon - e->msg), e->msg);
	memcpy(msg, e->msg, sizeof(msg));
	snprintf(e->msg, sizeof(e->msg), "%s", msg + (colon + 2 - e->msg));
}

int waypoint_admin_check(struct waypoint *w, struct weft_errs *errs, struct weft_errs *warns)
{
	const char *token = w->opt.admin_token_file;
	struct waypoint_admin a = {.w = w, .arena = w->boot.arena};
	struct weft_listen_conf lc;
	struct weft_err err = {0}, *e;
	int rc;

	/* that is said when it starts */
	w->opt.admin_token_file = "";
	rc = where(w, &lc, &err);
	w->opt.admin_token_file = token;
	if (rc < 0) {
		place(&err);
		e = weft_errs_next(errs);
		if (e)
			*e = err;
	} else if (rc && !lc.unix_path && !token && (e = weft_errs_next(warns)) != NULL) {
		snprintf(e->path, sizeof(e->path), "admin.address");
		snprintf(e->msg, sizeof(e->msg),
			 "is TCP, which every user of this host can reach: --admin-token-file FILE "
			 "is needed to start");
	}
	if (logs_prepare(&a, errs) || options_prepare(w, &lc, errs))
		rc = -EINVAL;
	return rc < 0 ? -EINVAL : 0;
}

static int address_write(const char *file, const char *text, struct weft_err *reterr)
{
	FILE *f = fopen(file, "we");
	bool ok = f && fputs(text, f) >= 0;

	if (f && fclose(f))
		ok = false;
	return ok ? 0
		  : weft_fail(reterr, NULL, errno, "--admin-address-path %s: %s", file,
			      strerror(errno));
}

struct waypoint_admin *waypoint_admin_new(struct waypoint *w, struct weft_err *reterr)
{
	char text[256], *token = NULL;
	struct weft_listen_conf lc;
	struct waypoint_admin *a;
	struct weft_sockaddr at;
	int fd = -1;

	reterr->code = 0;
	if (where(w, &lc, reterr) <= 0)
		return NULL;
	if (w->opt.admin_token_file) {
		token = token_read(w->opt.admin_token_file, reterr);
		if (!token)
			return NULL;
	}
	a = weft_xcalloc(1, sizeof(*a));
	a->w = w;
	a->arena = weft_arena_new(0);
	if (prepare(a, &lc, reterr) || weft_listen(&lc, &fd, reterr) < 0)
		goto fail;
	at = lc.addr;
	if (lc.unix_path)
		a->path = weft_xstrdup(lc.unix_path);
	else
		(void)weft_sock_local(fd, &at);
	admin_address_text(&at, a->path, text, sizeof(text));
	if (w->opt.admin_address_file && address_write(w->opt.admin_address_file, text, reterr))
		goto fail;
	a->http = weft_http_admin_new(w->main->base, fd, handle, a);
	if (token)
		weft_http_admin_token(a->http, token);
	free(token);
	weft_log(WEFT_LOG_INFO, "admin address=%s", text);
	return a;
fail:
	if (fd >= 0)
		close(fd);
	weft_arena_free(a->arena);
	free(a->path);
	free(a);
	free(token);
	return NULL;
}

void waypoint_admin_free(struct waypoint_admin *a)
{
	if (!a)
		return;
	weft_http_admin_free(a->http);
	if (a->path)
		unlink(a->path);
	weft_arena_free(a->arena);
	free(a->path);
	free(a);
}
