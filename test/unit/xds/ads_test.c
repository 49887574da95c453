/* ADS server and client in one process on one loop, over a unix socket; and a hand-made client for
 * what ours never says. */
#include "proxy/codec/grpc.h"
#include "proxy/core/arena.h"
#include "proxy/core/worker.h"
#include "xds/client.h"
#include "xds/proto/authorization.pb-c.h"
#include "xds/proto/envoy/service/discovery/v3/discovery.pb-c.h"
#include "xds/proto/workload.pb-c.h"
#include "xds/server.h"
#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

enum { WAIT_MS = 20000, MAX_NAMES = 20000 };

struct seen { /* what a sink holds */
	char names[MAX_NAMES][40];
	int n, updates, removals, calls, ups, downs, completes;
	const char *refuse; /* a resource of this name */
	char value[64];	    /* of the last update */
	int complete_at;    /* resources held when it was told */
};

struct env {
	struct event_base *base;
	struct weft_xds_server *server;
	struct weft_xds_client *client;
	struct seen addr, auth;
	char dir[64], path[96], nacked[WEFT_XDS_TEXT_MAX + 1], nacked_node[64];
	int nacks, lost;
	uid_t refuse_uid;
	bool allow_none;
	pid_t pid;
	struct weft_xds_times times;
	unsigned ack_ms;
};

static void spin(struct env *e, unsigned ms)
{
	const struct timeval tv = {ms / 1000, (suseconds_t)(ms % 1000) * 1000};

	event_base_loopexit(e->base, &tv);
	event_base_dispatch(e->base);
}

/* Runs the loop until cond holds; fails after WAIT_MS. */
#define UNTIL(e, cond)                                                                             \
	do {                                                                                       \
		uint64_t until_ = weft_now_ns() + (uint64_t)WAIT_MS * 1000000;                     \
		while (!(cond)) {                                                                  \
			if (weft_now_ns() > until_)                                                \
				fail_msg("line %d: not within %d ms: %s", __LINE__, WAIT_MS,       \
					 #cond);                                                   \
			spin(e, 2);                                                                \
		}                                                                                  \
	} while (0)

static int find(const struct seen *s, const char *name)
{
	for (int i = s->n - 1; i >= 0; i--)
		if (!strcmp(s->names[i], name))
			return i;
	return -1;
}

static void apply(void *owner, struct weft_xds_reply *c, const struct weft_xds_resource *up,
		  size_t n_up, const char *const *removed, size_t n_removed)
{
	struct seen *s = owner;

	s->calls++;
	for (size_t i = 0; i < n_up; i++) {
		const ProtobufCMessage *m = up[i].msg;

		s->updates++;
		assert_true(strlen(up[i].version) == 16);
		assert_int_equal(protobuf_c_message_get_packed_size(m), up[i].n);
		if (s->refuse && !strcmp(s->refuse, up[i].name)) {
			struct weft_err err = {0};

			weft_fail(&err, NULL, EINVAL, "must not be, is");
			weft_xds_reject(c, up[i].name, &err);
			continue;
		}
		if (m->descriptor == &istio__workload__address__descriptor)
			snprintf(s->value, sizeof(s->value), "%s",
				 ((const Istio__Workload__Address *)m)->service->hostname);
		if ((s->n < 2000 || n_up < 200) && find(s, up[i].name) >= 0)
			continue;
		assert_true(s->n < MAX_NAMES);
		snprintf(s->names[s->n++], sizeof(s->names[0]), "%s", up[i].name);
	}
	for (size_t i = 0; i < n_removed; i++) {
		int k = find(s, removed[i]);

		s->removals++;
		if (k >= 0)
			memmove(s->names[k], s->names[--s->n], sizeof(s->names[0]));
	}
}

static void connected(void *owner, bool up)
{
	struct seen *s = owner;

	if (up)
		s->ups++;
	else
		s->downs++;
}

static void complete(void *owner)
{
	struct seen *s = owner;

	s->completes++;
	s->complete_at = s->n;
}

static const struct weft_xds_sink sink = {
	.apply = apply, .connected = connected, .complete = complete};

static bool allow(void *owner, pid_t pid, uid_t uid)
{
	struct env *e = owner;

	e->pid = pid;
	assert_int_equal(uid, getuid());
	return !e->allow_none;
}

static void nacked(void *owner, const char *node, const struct weft_xds_type *t, const char *text)
{
	struct env *e = owner;

	e->nacks++;
	snprintf(e->nacked, sizeof(e->nacked), "%s", text);
	snprintf(e->nacked_node, sizeof(e->nacked_node), "%s", node);
}

static void lost(void *owner, const char *why)
{
	struct env *e = owner;

	assert_true(why[0]);
	e->lost++;
}

static void server_up(struct env *e)
{
	const struct weft_xds_server_conf conf = {.allow = allow,
						  .nacked = nacked,
						  .owner = e,
						  .ack_ms = e->ack_ms,
						  .times = e->times};
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	unlink(e->path);
	strcpy(a.sun_path, e->path);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 64), 0);
	e->server = weft_xds_server_new(e->base, &conf);
	assert_int_equal(weft_xds_server_listen(e->server, fd, NULL), 0);
}

static void server_down(struct env *e)
{
	weft_xds_server_free(e->server);
	e->server = NULL;
}

static void client_up(struct env *e)
{
	const struct weft_xds_client_conf conf = {.path = e->path,
						  .node_id = "ztunnel~10.0.0.1~a.b~c",
						  .node_name = "node-a",
						  .lost = lost,
						  .owner = e,
						  .times = e->times};

	e->client = weft_xds_client_new(e->base, &conf);
	assert_int_equal(weft_xds_subscribe(e->client, &weft_xds_type_address, &sink, &e->addr), 0);
	assert_int_equal(
		weft_xds_subscribe(e->client, &weft_xds_type_authorization, &sink, &e->auth), 0);
	assert_int_equal(
		weft_xds_subscribe(e->client, &weft_xds_type_authorization, &sink, &e->auth),
		-EEXIST);
	weft_xds_client_start(e->client);
}

static int setup(void **st)
{
	struct env *e = weft_xcalloc(1, sizeof(*e));

	snprintf(e->dir, sizeof(e->dir), "/tmp/ads_test.XXXXXX");
	if (!mkdtemp(e->dir))
		return -1;
	snprintf(e->path, sizeof(e->path), "%s/xds.sock", e->dir);
	e->base = event_base_new();
	*st = e;
	return 0;
}

static int teardown(void **st)
{
	struct env *e = *st;

	weft_xds_client_free(e->client);
	weft_xds_server_free(e->server);
	event_base_free(e->base);
	unlink(e->path);
	rmdir(e->dir);
	free(e);
	return 0;
}

static void put_service(struct env *e, const char *name, const char *host,
			const char *const *aliases)
{
	Istio__Workload__Address a = ISTIO__WORKLOAD__ADDRESS__INIT;
	Istio__Workload__Service s = ISTIO__WORKLOAD__SERVICE__INIT;

	a.type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE;
	a.service = &s;
	s.name = s.namespace_ = (char *)name;
	s.hostname = (char *)host;
	weft_xds_publish(e->server, &weft_xds_type_address, name, &a.base, aliases);
}

static void del_service(struct env *e, const char *name)
{
	weft_xds_publish(e->server, &weft_xds_type_address, name, NULL, NULL);
}

static void put_policy(struct env *e, const char *name)
{
	Istio__Security__Authorization a = ISTIO__SECURITY__AUTHORIZATION__INIT;

	a.name = a.namespace_ = (char *)name;
	weft_xds_publish(e->server, &weft_xds_type_authorization, name, &a.base, NULL);
}

static void initial_update_removal(void **st)
{
	struct env *e = *st;

	server_up(e);
	put_service(e, "ns/a", "a", NULL);
	put_service(e, "ns/b", "b", NULL);
	client_up(e);
	assert_false(weft_xds_ready(e->client));
	UNTIL(e, weft_xds_ready(e->client)); /* the first answer comes for an empty type as well */
	assert_true(weft_xds_connected(e->client));
	assert_int_equal(e->addr.ups, 1);
	assert_int_equal(e->addr.n, 2);
	assert_int_equal(e->auth.n, 0);
	assert_int_equal(e->addr.completes, 1);
	assert_int_equal(e->addr.complete_at, 2);
	assert_int_equal(e->auth.completes, 1);
	assert_int_equal(e->pid, getpid());
	assert_int_equal(weft_xds_server_clients(e->server), 1);
	assert_int_equal(weft_xds_server_count(e->server, &weft_xds_type_address), 2);

	put_service(e, "ns/a", "a", NULL); /* no change, no version */
	spin(e, 30);
	assert_int_equal(e->addr.updates, 2);
	put_service(e, "ns/a", "a2", NULL);
	put_policy(e, "ns/p");
	UNTIL(e, e->addr.updates == 3 && e->auth.n == 1);
	assert_string_equal(e->addr.value, "a2");
	del_service(e, "ns/b");
	del_service(e, "ns/never");
	UNTIL(e, e->addr.removals == 1);
	assert_int_equal(e->addr.n, 1);
	put_service(e, "ns/b", "b", NULL); /* back from the grave */
	UNTIL(e, e->addr.n == 2);
	assert_int_equal(e->nacks, 0);
	assert_int_equal(weft_xds_server_count(e->server, &weft_xds_type_address), 2);
}

/* Between begin and end nothing is pushed, over turns of the loop. */
static void begin_and_end(void **st)
{
	struct env *e = *st;
	int calls;

	server_up(e);
	client_up(e);
	UNTIL(e, weft_xds_ready(e->client));
	calls = e->addr.calls;
	weft_xds_server_begin(e->server);
	put_service(e, "ns/a", "a", NULL);
	spin(e, 30);
	weft_xds_server_begin(e->server);
	put_service(e, "ns/b", "b", NULL);
	weft_xds_server_end(e->server);
	spin(e, 30);
	put_service(e, "ns/c", "c", NULL);
	del_service(e, "ns/c");
	assert_int_equal(e->addr.calls, calls);
	weft_xds_server_end(e->server);
	UNTIL(e, e->addr.n == 2);
	assert_int_equal(e->addr.calls, calls + 1);
}

static void nack_of_one(void **st)
{
	struct env *e = *st;

	server_up(e);
	put_service(e, "ns/a", "a", NULL);
	put_service(e, "ns/bad", "x", NULL);
	put_service(e, "ns/b", "b", NULL);
	e->addr.refuse = "ns/bad";
	client_up(e);
	UNTIL(e, e->nacks == 1);
	assert_string_equal(e->nacked, "ns/bad: must not be, is");
	assert_string_equal(e->nacked_node, "ztunnel~10.0.0.1~a.b~c");
	assert_int_equal(e->addr.n, 2); /* the others are applied */
	assert_false(weft_xds_ready(e->client));
	assert_int_equal(e->addr.completes, 1); /* all of it came, if not all was good */
	spin(e, 50);
	assert_int_equal(e->addr.updates, 3); /* not sent again until it changes */
	assert_int_equal(e->nacks, 1);
	put_service(e, "ns/b", "b2", NULL);
	UNTIL(e, weft_xds_ready(e->client));
	assert_int_equal(e->addr.updates, 4);
	e->addr.refuse = NULL;
	put_service(e, "ns/bad", "good", NULL);
	UNTIL(e, e->addr.n == 3);
	assert_int_equal(e->nacks, 1);
}

/* Resources that cannot be read are refused by themselves, with the path. */
static void nack_of_unreadable(void **st)
{
	struct env *e = *st;

	server_up(e);
	put_service(e, "ns/a", "a", NULL);
	put_service(e, "ns/bad", "caf\xe9", NULL);
	client_up(e);
	UNTIL(e, e->nacks == 1);
	assert_non_null(strstr(e->nacked, "ns/bad: service.hostname"));
	assert_int_equal(e->addr.n, 1);
	assert_int_equal(e->addr.updates, 1); /* the sink never sees it */
}

static void reconnect_with_versions(void **st)
{
	struct env *e = *st;
	int updates;

	server_up(e);
	put_service(e, "ns/same", "s", NULL);
	put_service(e, "ns/changed", "c", NULL);
	put_service(e, "ns/gone", "g", NULL);
	put_service(e, "ns/refused", "r", NULL);
	put_service(e, "ns/refused-gone", "r", NULL);
	put_policy(e, "ns/p");
	client_up(e);
	UNTIL(e, weft_xds_ready(e->client));
	e->addr.refuse = "ns/refused";
	put_service(e, "ns/refused", "r2", NULL);
	UNTIL(e, e->nacks == 1);
	e->addr.refuse = "ns/refused-gone";
	put_service(e, "ns/refused-gone", "r2", NULL);
	UNTIL(e, e->nacks == 2);
	e->addr.refuse = NULL;
	assert_int_equal(e->addr.n, 5);
	server_down(e);
	UNTIL(e, e->addr.downs == 1);
	assert_false(weft_xds_connected(e->client));
	assert_true(weft_xds_ready(e->client)); /* the state is kept */
	assert_int_equal(e->addr.n, 5);
	spin(e, 50);

	server_up(e); /* another process would give the same versions */
	put_service(e, "ns/same", "s", NULL);
	put_service(e, "ns/changed", "c2", NULL);
	put_service(e, "ns/new", "n", NULL);
	put_service(e, "ns/refused", "r2", NULL);
	put_policy(e, "ns/p");
	updates = e->addr.updates;
	UNTIL(e, e->addr.ups == 2 && find(&e->addr, "ns/new") >= 0 && e->addr.removals == 2);
	spin(e, 50);
	assert_int_equal(e->addr.updates,
			 updates + 3); /* changed, new, refused: not the same one */
	assert_true(find(&e->addr, "ns/gone") < 0 && find(&e->addr, "ns/refused-gone") < 0);
	assert_int_equal(e->addr.n, 4);
	assert_int_equal(e->auth.updates, 1);
	assert_int_equal(e->auth.removals, 0);
	assert_int_equal(e->addr.downs, 1);
	assert_true(e->lost >= 1);
}

static void many_resources(void **st)
{
	struct env *e = *st;
	char name[64], host[900];
	int updates;

	memset(host, 'h', sizeof(host) - 1); /* 10,000 of them are 9 MB: three responses */
	host[sizeof(host) - 1] = '\0';
	server_up(e);
	for (int i = 0; i < 10000; i++) {
		snprintf(name, sizeof(name), "ns/s%d", i);
		put_service(e, name, host, NULL);
	}
	client_up(e);
	UNTIL(e, weft_xds_ready(e->client));
	assert_int_equal(e->addr.n, 10000); /* ready means all */
	assert_int_equal(e->addr.complete_at, 10000);
	assert_true(e->addr.calls >= 3);
	put_service(e, "ns/s777", "x", NULL);
	UNTIL(e, e->addr.updates == 10001);
	updates = e->addr.updates;
	server_down(e);
	UNTIL(e, e->addr.downs == 1);
	server_up(e);
	for (int i = 0; i < 10000; i += 2) { /* half of them are gone */
		snprintf(name, sizeof(name), "ns/s%d", i);
		put_service(e, name, host, NULL);
	}
	UNTIL(e, e->addr.removals == 5000);
	spin(e, 50);
	assert_int_equal(e->addr.updates, updates);
	assert_int_equal(e->addr.n, 5000);
}

/* The map of versions would not fit a request: names left out are found gone all the same. */
static void more_versions_than_a_request(void **st)
{
	struct env *e = *st;
	char name[1100];

	server_up(e);
	for (int i = 0; i < 5000; i++) { /* 5 MB of names; the sink keeps 39 bytes of each */
		memset(name, 'n', sizeof(name) - 1);
		name[sizeof(name) - 1] = '\0';
		snprintf(name, 16, "ns/%08d", i);
		name[11] = 'x';
		put_service(e, name, "h", NULL);
	}
	client_up(e);
	UNTIL(e, weft_xds_ready(e->client));
	assert_int_equal(e->addr.updates, 5000);
	server_down(e);
	UNTIL(e, e->addr.downs == 1);
	server_up(e);
	UNTIL(e, e->addr.ups == 2 && e->addr.removals == 5000);
}

static void wrong_uid(void **st)
{
	struct env *e = *st;

	server_up(e);
	e->allow_none = true;
	client_up(e);
	UNTIL(e, e->lost >= 3);
	assert_int_equal(e->addr.ups, 0);
	assert_int_equal(weft_xds_server_clients(e->server), 0);
	e->allow_none = false;
	UNTIL(e, weft_xds_ready(e->client));
}

static void no_server_at_first(void **st)
{
	struct env *e = *st;

	client_up(e);
	spin(e, 100);
	assert_in_range(e->lost, 1, 8); /* 20, 40, 80 ms: backoff */
	server_up(e);
	UNTIL(e, weft_xds_ready(e->client));
}

static int raw_connect(struct env *e)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	strcpy(a.sun_path, e->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static bool is_closed(int fd)
{
	char buf[4096];
	ssize_t n;

	while ((n = recv(fd, buf, sizeof(buf), 0)) > 0)
		;
	return n == 0 || errno == ECONNRESET;
}

static void garbage_client(void **st)
{
	struct env *e = *st;
	int fd, silent;

	e->times.handshake = 200;
	server_up(e);
	client_up(e);
	UNTIL(e, weft_xds_ready(e->client));
	fd = raw_connect(e);
	silent = raw_connect(e);
	assert_true(send(fd, "GET / HTTP/1.1\r\n\r\n", 18, 0) == 18);
	UNTIL(e, is_closed(fd));
	UNTIL(e, is_closed(silent)); /* by the handshake limit */
	close(fd);
	close(silent);
	UNTIL(e, weft_xds_server_clients(e->server) == 1);
	put_service(e, "ns/a", "a", NULL); /* the good one lives */
	UNTIL(e, e->addr.n == 1);
}

/* ---- a client by hand */

struct raw {
	struct env *e;
	struct weft_xds_link *link;
	struct weft_h2_stream *s;
	struct weft_grpc_in in;
	struct evbuffer *out;
	Envoy__Service__Discovery__V3__DeltaDiscoveryResponse *last;
	char status[16], grpc_status[16], grpc_message[300];
	int responses;
	bool closed, deaf;
	size_t held; /* bytes not consumed */
};

static void raw_status(struct raw *r, const struct weft_h2_headers *h)
{
	const char *v = weft_h2_headers_get(h, "grpc-status");

	if (v)
		snprintf(r->grpc_status, sizeof(r->grpc_status), "%s", v);
	v = weft_h2_headers_get(h, "grpc-message");
	if (v)
		snprintf(r->grpc_message, sizeof(r->grpc_message), "%s", v);
}

static void raw_headers(struct weft_h2_stream *s, const struct weft_h2_headers *h, bool end)
{
	struct raw *r = weft_h2_stream_user(s);

	snprintf(r->status, sizeof(r->status), "%s", weft_h2_headers_get(h, ":status"));
	raw_status(r, h);
}

static void raw_data(struct weft_h2_stream *s, const uint8_t *p, size_t n)
{
	struct raw *r = weft_h2_stream_user(s);
	uint8_t *m;
	size_t len;

	r->held += n;
	if (!r->deaf) {
		weft_h2_consume(s, r->held);
		r->held = 0;
	}
	weft_grpc_in_feed(&r->in, p, n);
	while (weft_grpc_in_next(&r->in, &m, &len) == 1) {
		if (r->last)
			protobuf_c_message_free_unpacked(&r->last->base, NULL);
		r->last = (Envoy__Service__Discovery__V3__DeltaDiscoveryResponse *)
			protobuf_c_message_unpack(
				&envoy__service__discovery__v3__delta_discovery_response__descriptor,
				NULL, len, m);
		assert_non_null(r->last);
		assert_true(len < WEFT_XDS_RESPONSE_BYTES + 100000);
		r->responses++;
		free(m);
	}
}

static void raw_trailers(struct weft_h2_stream *s, const struct weft_h2_headers *h)
{
	raw_status(weft_h2_stream_user(s), h);
}

static void raw_end(struct weft_h2_stream *s)
{
}

static void raw_closed(struct weft_h2_stream *s, uint32_t code)
{
	struct raw *r = weft_h2_stream_user(s);

	r->closed = true;
	r->s = NULL;
}

static ssize_t raw_pull(struct weft_h2_stream *s, uint8_t *dst, size_t max, bool *ret_end)
{
	struct raw *r = weft_h2_stream_user(s);

	return evbuffer_remove(r->out, dst, max);
}

static void raw_settings(struct weft_h2 *h)
{
	weft_xds_link_up(((struct raw *)weft_h2_owner(h))->link);
}

static void raw_down(void *owner, const char *why)
{
	struct raw *r = owner;

	r->closed = true;
	weft_xds_link_free(r->link);
	r->link = NULL;
}

static const struct weft_h2_ops raw_ops = {.headers = raw_headers,
					   .data = raw_data,
					   .trailers = raw_trailers,
					   .end = raw_end,
					   .closed = raw_closed,
					   .pull = raw_pull,
					   .settings = raw_settings};

static struct weft_h2_header header(const char *name, const char *value)
{
	return (struct weft_h2_header){name, value, strlen(name), strlen(value)};
}

static void raw_open(struct raw *r, struct env *e, const char *method, const char *path,
		     const char *type)
{
	const struct weft_xds_link_conf conf = {.ops = &raw_ops, .down = raw_down, .owner = r};
	const struct weft_h2_header h[] = {
		header(":method", method),   header(":scheme", "http"),	   header(":path", path),
		header(":authority", "any"), header("content-type", type),
	};

	*r = (struct raw){.e = e};
	weft_grpc_in_init(&r->in, 64 << 20);
	r->out = evbuffer_new();
	r->link = weft_xds_link_new(e->base, raw_connect(e), &conf);
	r->s = weft_h2_request(weft_xds_link_h2(r->link), h, 5, true, r);
	assert_non_null(r->s);
}

static const char ads[] =
	"/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

static void raw_ads(struct raw *r, struct env *e)
{
	raw_open(r, e, "POST", ads, "application/grpc");
}

static void raw_done(struct raw *r)
{
	weft_xds_link_free(r->link);
	weft_grpc_in_done(&r->in);
	evbuffer_free(r->out);
	if (r->last)
		protobuf_c_message_free_unpacked(&r->last->base, NULL);
}

struct req {
	const char *node, *type, *nonce, *error;
	const char *sub[4], *unsub[4], *known[4][2];
};

static void raw_send(struct raw *r, struct req q)
{
	typedef Envoy__Service__Discovery__V3__DeltaDiscoveryRequest__InitialResourceVersionsEntry
		entry;
	Envoy__Service__Discovery__V3__DeltaDiscoveryRequest m =
		ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_REQUEST__INIT;
	Envoy__Config__Core__V3__Node node = ENVOY__CONFIG__CORE__V3__NODE__INIT;
	Google__Rpc__Status status = GOOGLE__RPC__STATUS__INIT;
	entry v[4], *pv[4];
	uint8_t *p;
	size_t n;

	for (int i = 0; i < 4 && q.known[i][0]; i++) {
		v[i] = (entry)
			ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_REQUEST__INITIAL_RESOURCE_VERSIONS_ENTRY__INIT;
		v[i].key = (char *)q.known[i][0];
		v[i].value = (char *)q.known[i][1];
		pv[i] = &v[i];
		m.n_initial_resource_versions++;
	}
	m.initial_resource_versions = pv;
	node.id = (char *)q.node;
	m.node = q.node ? &node : NULL;
	m.type_url = (char *)(q.type ?: weft_xds_type_address.url);
	m.response_nonce = (char *)q.nonce;
	status.message = (char *)q.error;
	m.error_detail = q.error ? &status : NULL;
	m.resource_names_subscribe = (char **)q.sub;
	while (m.n_resource_names_subscribe < 4 && q.sub[m.n_resource_names_subscribe])
		m.n_resource_names_subscribe++;
	m.resource_names_unsubscribe = (char **)q.unsub;
	while (m.n_resource_names_unsubscribe < 4 && q.unsub[m.n_resource_names_unsubscribe])
		m.n_resource_names_unsubscribe++;
	n = protobuf_c_message_get_packed_size(&m.base);
	p = weft_xcalloc(1, n + 1);
	protobuf_c_message_pack(&m.base, p);
	weft_grpc_out(r->out, p, n);
	free(p);
	weft_h2_resume(r->s);
	weft_xds_link_push(r->link);
}

static void raw_ack(struct raw *r)
{
	raw_send(r, (struct req){.type = r->last->type_url, .nonce = r->last->nonce});
}

static void by_name(void **st)
{
	const char *const vip[] = {"/10.0.0.1", NULL};
	struct env *e = *st;
	struct raw r;

	server_up(e);
	put_service(e, "ns/a", "a", vip);
	put_service(e, "ns/b", "b", vip);
	put_service(e, "ns/c", "c", NULL);
	raw_ads(&r, e);
	/* * subscribed and given up in one message: nothing, but an answer */
	raw_send(&r, (struct req){.node = "n", .sub = {"*"}, .unsub = {"*"}});
	UNTIL(e, r.responses == 1);
	assert_int_equal(r.last->n_resources, 0);
	assert_int_equal(r.last->n_removed_resources, 0);
	raw_ack(&r);
	raw_send(&r, (struct req){.sub = {"ns/c", "ns/nothing"}});
	UNTIL(e, r.responses == 2);
	assert_int_equal(r.last->n_resources, 1);
	assert_string_equal(r.last->resources[0]->name, "ns/c");
	assert_string_equal(r.last->resources[0]->resource->type_url, weft_xds_type_address.url);
	assert_int_equal(r.last->n_removed_resources, 1);
	assert_string_equal(r.last->removed_resources[0], "ns/nothing");
	raw_ack(&r);
	raw_send(&r, (struct req){.sub = {"/10.0.0.1"}}); /* an alias of two */
	UNTIL(e, r.responses == 3);
	assert_int_equal(r.last->n_resources, 2);
	assert_int_equal(r.last->resources[0]->n_aliases, 1);
	assert_string_equal(r.last->resources[0]->aliases[0], "/10.0.0.1");
	raw_ack(&r);
	spin(e, 20);
	put_service(e, "ns/d", "d", NULL); /* not asked for */
	spin(e, 30);
	assert_int_equal(r.responses, 3);
	put_service(e, "ns/nothing", "now there", NULL);
	UNTIL(e, r.responses == 4);
	assert_string_equal(r.last->resources[0]->name, "ns/nothing");
	raw_ack(&r);
	spin(e, 20);
	del_service(e, "ns/b"); /* known under its alias, removed under its name */
	UNTIL(e, r.responses == 5);
	assert_int_equal(r.last->n_removed_resources, 1);
	assert_string_equal(r.last->removed_resources[0], "ns/b");
	raw_ack(&r);
	raw_send(&r, (struct req){.unsub = {"ns/c", "ns/not-asked"}});
	spin(e, 20);
	put_service(e, "ns/c", "c2", NULL);
	spin(e, 30);
	assert_int_equal(r.responses, 5);
	raw_send(&r, (struct req){.sub = {"*"}}); /* now everything */
	UNTIL(e, r.responses == 6);
	assert_int_equal(r.last->n_resources, 4);
	assert_int_equal(r.last->n_removed_resources, 0);
	raw_done(&r);
}

static void known_versions(void **st)
{
	struct env *e = *st;
	char version[32];
	struct raw r;

	server_up(e);
	put_service(e, "ns/a", "a", NULL);
	put_service(e, "ns/b", "b", NULL);
	raw_ads(&r, e);
	raw_send(&r, (struct req){.node = "n", .sub = {"ns/a"}});
	UNTIL(e, r.responses == 1);
	snprintf(version, sizeof(version), "%s", r.last->resources[0]->version);
	raw_done(&r);
	raw_ads(&r, e);
	raw_send(&r, (struct req){.node = "n",
				  .known = {{"ns/a", version}, {"ns/b", "old"}, {"ns/x", "1"}}});
	UNTIL(e, r.responses == 1);
	assert_int_equal(r.last->n_resources, 1);
	assert_string_equal(r.last->resources[0]->name, "ns/b");
	assert_int_equal(r.last->n_removed_resources, 1);
	assert_string_equal(r.last->removed_resources[0], "ns/x");
	raw_done(&r);
	raw_ads(&r, e); /* asked for, known and gone: told once */
	raw_send(&r, (struct req){.node = "n", .sub = {"ns/x"}, .known = {{"ns/x", "1"}}});
	UNTIL(e, r.responses == 1);
	assert_int_equal(r.last->n_removed_resources, 1);
	raw_ack(&r);
	raw_send(&r, (struct req){.sub = {"ns/b"}});
	UNTIL(e, r.responses == 2);
	raw_ack(&r);
	spin(e, 20);
	weft_xds_server_begin(e->server);
	del_service(e, "ns/b");
	raw_send(&r, (struct req){.sub = {"ns/b"}});
	spin(e, 20);
	weft_xds_server_end(e->server);
	UNTIL(e, r.responses == 3);
	assert_int_equal(r.last->n_removed_resources, 1);
	put_service(e, "ns/b", "b", NULL);
	raw_done(&r);
	raw_ads(&r, e); /* nothing new at all: an empty answer */
	raw_send(&r, (struct req){.node = "n", .sub = {"ns/a"}, .known = {{"ns/a", version}}});
	UNTIL(e, r.responses == 1);
	assert_int_equal(r.last->n_resources, 0);
	assert_int_equal(r.last->n_removed_resources, 0);
	raw_done(&r);
}

static void nonces(void **st)
{
	struct env *e = *st;
	char first[64];
	struct raw r;

	server_up(e);
	put_service(e, "ns/a", "a", NULL);
	raw_ads(&r, e);
	raw_send(&r, (struct req){.node = "node-x"});
	UNTIL(e, r.responses == 1);
	raw_send(&r, (struct req){.type = weft_xds_type_authorization.url}); /* same stream */
	UNTIL(e, r.responses == 2);
	raw_ack(&r); /* of the second only */
	spin(e, 10);
	put_policy(e, "ns/p"); /* the other type waits for nobody */
	UNTIL(e, r.responses == 3);
	assert_string_equal(r.last->type_url, weft_xds_type_authorization.url);
	snprintf(first, sizeof(first), "%s", r.last->nonce);
	put_policy(e, "ns/q");
	spin(e, 30);
	assert_int_equal(r.responses, 3); /* not before the answer */
	raw_send(&r, (struct req){.type = r.last->type_url, .nonce = "stale", .error = "no"});
	spin(e, 30);
	assert_int_equal(r.responses, 3);
	assert_int_equal(e->nacks, 0);
	raw_send(&r, (struct req){.type = r.last->type_url, .nonce = first, .error = "ns/p: why"});
	UNTIL(e, r.responses == 4);
	assert_int_equal(e->nacks, 1);
	assert_string_equal(e->nacked, "ns/p: why");
	assert_string_equal(e->nacked_node, "node-x");
	assert_int_equal(r.last->n_resources, 1); /* q; p not again */
	assert_string_equal(r.last->resources[0]->name, "ns/q");
	raw_done(&r);
}

static void refused_requests(void **st)
{
	static const struct {
		struct req q;
		const char *status, *message;
	} t[] = {
		{{0}, "3", "node.id: must be set"},
		{{.node = ""}, "3", "node.id: must be set"},
		{{.node = "n", .type = "type.googleapis.com/x\n%"},
		 "3",
		 "type_url: not served: \"type.googleapis.com/x%0A%25\""},
	};
	struct env *e = *st;
	struct raw r;

	server_up(e);
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		raw_ads(&r, e);
		raw_send(&r, t[i].q);
		UNTIL(e, r.grpc_status[0]);
		assert_string_equal(r.grpc_status, t[i].status);
		assert_string_equal(r.grpc_message, t[i].message);
		raw_done(&r);
	}
	raw_ads(&r, e); /* not a protobuf message */
	weft_grpc_out(r.out, "\xff\xff\xff", 3);
	weft_h2_resume(r.s);
	weft_xds_link_push(r.link);
	UNTIL(e, r.grpc_status[0]);
	assert_string_equal(r.grpc_status, "3");
	raw_done(&r);
	raw_ads(&r, e); /* too large */
	evbuffer_add(r.out, "\0\x10\0\0\0", 5);
	weft_h2_resume(r.s);
	UNTIL(e, r.grpc_status[0]);
	assert_string_equal(r.grpc_status, "8");
	raw_done(&r);
	raw_ads(&r, e); /* compressed */
	evbuffer_add(r.out, "\1\0\0\0\0", 5);
	weft_h2_resume(r.s);
	UNTIL(e, r.grpc_status[0]);
	assert_string_equal(r.grpc_status, "13");
	raw_done(&r);
	raw_open(&r, e, "POST", "/x.Y/Z", "application/grpc");
	UNTIL(e, r.grpc_status[0]);
	assert_string_equal(r.status, "200");
	assert_string_equal(r.grpc_status, "12");
	raw_done(&r);
	raw_open(&r, e, "POST", ads, "application/json");
	UNTIL(e, r.status[0]);
	assert_string_equal(r.status, "415");
	raw_done(&r);
	raw_open(&r, e, "GET", ads, "application/grpc+proto");
	UNTIL(e, r.status[0]);
	assert_string_equal(r.status, "405");
	raw_done(&r);
	UNTIL(e, weft_xds_server_clients(e->server) == 0);
}

/* A client that does not read gets the newest state once it does, not all that was in between. */
static void slow_client(void **st)
{
	struct env *e = *st;
	char host[900], name[32];
	struct raw r;

	memset(host, 'h', sizeof(host) - 1);
	host[sizeof(host) - 1] = '\0';
	server_up(e);
	for (int i = 0; i < 2000; i++) {
		snprintf(name, sizeof(name), "ns/s%d", i);
		put_service(e, name, host, NULL);
	}
	client_up(e); /* a quick one beside it */
	raw_ads(&r, e);
	r.deaf = true;
	raw_send(&r, (struct req){.node = "slow"});
	UNTIL(e, weft_xds_ready(e->client));
	for (int round = 0; round < 50; round++) {
		for (int i = 0; i < 100; i++) {
			snprintf(name, sizeof(name), "ns/s%d", i);
			snprintf(host, 12, "%010d", round);
			host[10] = 'h';
			put_service(e, name, host, NULL);
		}
		del_service(e, "ns/s1999");
		put_service(e, "ns/s1999", host, NULL);
		UNTIL(e, e->addr.updates >= 2000 + 100 * (round + 1));
	}
	assert_int_equal(r.responses, 0);
	r.deaf = false;
	weft_h2_consume(r.s, r.held);
	weft_xds_link_push(r.link);
	r.held = 0;
	UNTIL(e, r.responses == 1); /* as it was when it was written */
	raw_ack(&r);
	UNTIL(e, r.responses == 2); /* 50 rounds in one */
	assert_int_equal(r.last->n_resources, 101);
	raw_ack(&r);
	spin(e, 30);
	assert_int_equal(r.responses, 2);
	raw_done(&r);
}

static void acks_have_a_limit(void **st)
{
	struct env *e = *st;
	struct raw r;

	e->ack_ms = 100;
	server_up(e);
	raw_ads(&r, e);
	raw_send(&r, (struct req){.node = "n"});
	UNTIL(e, r.grpc_status[0]);
	assert_string_equal(r.grpc_status, "4");
	raw_done(&r);
}

static void keepalive(void **st)
{
	struct env *e = *st;
	struct raw r;

	e->times = (struct weft_xds_times){.ping = 50, .pong = 100};
	server_up(e);
	client_up(e);
	UNTIL(e, weft_xds_ready(e->client));
	spin(e, 500); /* answers to pings keep it */
	assert_int_equal(e->addr.downs, 0);
	raw_ads(&r, e);
	raw_send(&r, (struct req){.node = "n"});
	UNTIL(e, r.responses == 1);
	weft_xds_link_free(r.link); /* gone: noticed at once */
	r.link = NULL;
	UNTIL(e, weft_xds_server_clients(e->server) == 1);
	raw_done(&r);
}

/* A server that hangs: the client finds out and comes again. */
static void hanging_server(void **st)
{
	struct env *e = *st;
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	e->times.handshake = 100;
	strcpy(a.sun_path, e->path);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 16), 0);
	client_up(e);
	UNTIL(e, e->lost >= 2);
	close(fd);
	server_up(e);
	UNTIL(e, weft_xds_ready(e->client));
}

static void not_a_listener(void **st)
{
	struct env *e = *st;
	struct weft_err err = {0};
	int sv[2];

	server_up(e);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	assert_int_equal(weft_xds_server_listen(e->server, sv[0], &err), -EINVAL);
	assert_non_null(strstr(err.msg, "listening"));
	close(sv[1]);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	const struct CMUnitTest t[] = {
		T(initial_update_removal),
		T(begin_and_end),
		T(nack_of_one),
		T(nack_of_unreadable),
		T(reconnect_with_versions),
		T(many_resources),
		T(more_versions_than_a_request),
		T(wrong_uid),
		T(no_server_at_first),
		T(garbage_client),
		T(by_name),
		T(known_versions),
		T(nonces),
		T(refused_requests),
		T(slow_client),
		T(acks_have_a_limit),
		T(keepalive),
		T(hanging_server),
		T(not_a_listener),
	};

	return cmocka_run_group_tests(t, NULL, NULL);
}
