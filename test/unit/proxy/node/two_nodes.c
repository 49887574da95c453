/* Included by tests of the byte path: two nodes in one thread, fakes of what the main thread and
 * the agent give. Each pod has a loopback address of its own, so that fixed ports do not meet those
 * of other processes. */
#include "proxy/core/arena.h"
#include "proxy/net/origdst.h"
#include "proxy/net/tls.h"
#include "proxy/node/conns.h"
#include "proxy/node/flowtext.h"
#include "proxy/node/node.h"
#include "proxy/node/pool.h"
#include "test/unit/proxy/net/certs.h"
#include "xds/proto/authorization.pb-c.h"
#include "xds/proto/workload.pb-c.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

struct node {
	struct weft_wstate ws;
	struct weft_worker w;
	struct weft_node_conf conf;
	struct weft_npod *pod;
	struct weft_secret *secret;
	struct weft_sockaddr capture; /* listener of captured connections */
};
struct ended {
	bool inbound;
	enum weft_reason r;
	uint64_t sent, received;
	char src_id[128], dst_id[128], detail[160];
};
enum { ENDED_MAX = 20000 };

static struct event_base *base;
static struct node na, nb;
static struct weft_sockaddr original;  /* what weft_origdst tells */
static struct weft_sockaddr plain_dst; /* what weft_sock_local tells of 15006, if set */
static bool no_original, no_sockets;
static struct ended ended[ENDED_MAX];
static unsigned n_ended;
static atomic_uint n_opened, n_given, n_taken;
static pthread_mutex_t ended_lock = PTHREAD_MUTEX_INITIALIZER; /* ended, n_ended */
static struct test_cert ca, leaf_a, leaf_b;
static char ip_a[16], ip_b[16], ip_c[16];

static const char id_a[] = "spiffe://cluster.local/ns/app/sa/a";
static const char id_b[] = "spiffe://cluster.local/ns/app/sa/b";

/* ---- fakes */

struct weft_npod *weft_npod_ref(struct weft_npod *p)
{
	atomic_fetch_add(&p->refs, 1);
	return p;
}

void weft_npod_unref(struct weft_npod *p)
{
	if (atomic_fetch_sub(&p->refs, 1) != 1)
		return;
	free(p->workload_uid);
	free(p);
}

void weft_secret_unref(struct weft_secret *s)
{
	if (atomic_fetch_sub(&s->refs, 1) != 1)
		return;
	weft_tls_ctx_free(s->server);
	weft_tls_ctx_free(s->client);
	free(s);
}

struct weft_secret *weft_secret_get(struct weft_wstate *ws, const char *identity)
{
	struct weft_secret *s = strcmp(identity, id_a) == 0 ? na.secret : nb.secret;

	if (!s || strcmp(s->identity, identity) != 0)
		return NULL;
	atomic_fetch_add(&s->refs, 1);
	return s;
}

int weft_stock_take(struct weft_wstate *ws, struct weft_npod *p, enum weft_sock_kind k,
		    void (*got)(void *arg, int fd), void *arg, struct weft_sock_wait **ret_wait)
{
	bool v6 = k == WEFT_SOCK_OUT6 || k == WEFT_SOCK_IN6;
	bool in = k == WEFT_SOCK_IN4 || k == WEFT_SOCK_IN6;
	int fd, one = 1;

	if (no_sockets)
		return -ENOBUFS;
	fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (in)
		setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
	if (!v6 && !in) { /* shows the pod's address, as in its namespace */
		struct sockaddr_in sa = {.sin_family = AF_INET};

		inet_pton(AF_INET, p == na.pod ? ip_a : ip_b, &sa.sin_addr);
		setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
		assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	}
	n_taken++;
	return fd;
}

void weft_stock_cancel(struct weft_sock_wait *w)
{
}

void weft_stock_give(struct weft_wstate *ws, struct weft_npod *p, enum weft_sock_kind k, int fd)
{
	n_given++;
	close(fd);
}

void weft_stock_abort(struct weft_wstate *ws, struct weft_npod *p, enum weft_sock_kind k, int fd)
{
	struct linger l = {1, 0};

	n_given++;
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	close(fd);
}

void weft_flow_init(struct weft_flow *f, struct weft_wstate *ws, bool inbound)
{
	f->inbound = inbound;
	f->worker = ws->w;
	weft_flow_texts_init(f);
}

void weft_flow_open(struct weft_flow *f)
{
	n_opened++;
}

void weft_flow_tick(struct weft_flow *f)
{
}

void weft_flow_close(struct weft_flow *f, enum weft_reason r, const char *detail)
{
	struct ended *e;

	pthread_mutex_lock(&ended_lock);
	e = &ended[n_ended];
	if (n_ended < ENDED_MAX - 1)
		n_ended++;
	*e = (struct ended){
		.inbound = f->inbound, .r = r, .sent = f->sent, .received = f->received};
	snprintf(e->src_id, sizeof(e->src_id), "%.127s", f->src_id);
	snprintf(e->dst_id, sizeof(e->dst_id), "%.127s", f->dst_id);
	snprintf(e->detail, sizeof(e->detail), "%s", detail ? detail : "");
	pthread_mutex_unlock(&ended_lock);
	weft_flow_texts_done(f);
	weft_workload_unref(f->src_w);
	weft_workload_unref(f->dst_w);
	weft_service_unref(f->dst_s);
}

int weft_origdst(int fd, struct weft_sockaddr *ret)
{
	*ret = original;
	return no_original ? -ENOENT : 0;
}

int weft_sock_local(int fd, struct weft_sockaddr *ret)
{
	struct sockaddr_storage ss;
	socklen_t n = sizeof(ss);

	if (getsockname(fd, (struct sockaddr *)&ss, &n) == 0 &&
	    weft_sockaddr_from_kernel(&ss, ret) == 0 && ret->port == 15006 && plain_dst.port) {
		*ret = plain_dst;
		return 0;
	}
	n = sizeof(ss);
	return getsockname(fd, (struct sockaddr *)&ss, &n) < 0
		       ? -errno
		       : weft_sockaddr_from_kernel(&ss, ret);
}

void weft_sock_abort(int fd)
{
	struct linger l = {1, 0};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	close(fd);
}

/* ---- configuration */

static struct weft_sockaddr addr_of(const char *ip, uint16_t port)
{
	struct weft_sockaddr a;

	assert_int_equal(weft_ip_parse(ip, &a.ip), 0);
	a.port = port;
	return a;
}

static uint64_t secret_serial;

static struct weft_secret *secret_make(const struct test_cert *leaf, const char *identity)
{
	struct weft_tls_pem pem = {leaf->pem,	leaf->key_pem,	 ca.pem,   NULL,
				   leaf->pem_n, leaf->key_pem_n, ca.pem_n, 0};
	struct weft_secret *s = weft_xcalloc(1, sizeof(*s));
	struct weft_err err = {0};

	atomic_init(&s->refs, 1);
	s->identity = (char *)identity;
	s->trust_domain = (char *)"cluster.local";
	s->serial = ++secret_serial;
	s->server = weft_tls_ctx_new(true, &pem, &s->not_after, &err);
	s->client = weft_tls_ctx_new(false, &pem, NULL, &err);
	if (!s->server || !s->client)
		fail_msg("%s", err.msg);
	return s;
}

static struct weft_npod *pod_make(const char *name, const char *ip, const char *identity)
{
	struct weft_npod *p = weft_xcalloc(1, sizeof(*p));
	char uid[64];

	atomic_init(&p->refs, 1);
	snprintf(uid, sizeof(uid), "Kubernetes//Pod/app/%s", name);
	p->uid = (char *)name;
	p->name = (char *)name;
	p->ns = (char *)"app";
	p->sa = (char *)name;
	p->trust_domain = (char *)"cluster.local";
	p->workload_uid = weft_xstrdup(uid);
	p->identity = (char *)identity;
	p->addrs[0] = addr_of(ip, 1).ip;
	p->n_addrs = 1;
	p->network = (char *)"";
	return p;
}

struct model_conf {
	const char *b_sa;   /* NULL: "b"; "-": workload b is not there */
	const char *deny_a; /* not NULL: b has a policy that denies a */
	bool a_missing;
	bool b_plain;
	bool service; /* vip:80 → port of b, and of c where nobody listens */
	uint16_t port;
};

static const char vip[] = "10.9.8.7";

static Istio__Workload__Address workload(Istio__Workload__Workload *w, char *uid, const char *name,
					 const char *sa, const char *ip, uint8_t *raw)
{
	Istio__Workload__Address a = ISTIO__WORKLOAD__ADDRESS__INIT;
	static ProtobufCBinaryData addrs[8];
	static int at;
	ProtobufCBinaryData *d = &addrs[at++ % 8];

	istio__workload__workload__init(w);
	snprintf(uid, 64, "Kubernetes//Pod/app/%s", name);
	inet_pton(AF_INET, ip, raw);
	d->data = raw;
	d->len = 4;
	w->uid = uid;
	w->name = (char *)name;
	w->namespace_ = (char *)"app";
	w->service_account = (char *)sa;
	w->trust_domain = (char *)"cluster.local";
	w->has_tunnel_protocol = 1;
	w->tunnel_protocol = ISTIO__WORKLOAD__WORKLOAD__TUNNEL_PROTOCOL__HBONE;
	w->n_addresses = 1;
	w->addresses = d;
	a.type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_WORKLOAD;
	a.workload = w;
	return a;
}

static void set_model(const struct model_conf *c)
{
	char ua[64], ub[64], uc[64];
	uint8_t ra[4], rb[4], rc[4], rv[4];
	Istio__Workload__Workload wa, wb, wc;
	Istio__Workload__Address a = workload(&wa, ua, "a", "a", ip_a, ra);
	Istio__Workload__Address b = workload(&wb, ub, "b", c->b_sa ? c->b_sa : "b", ip_b, rb);
	Istio__Workload__Address cc = workload(&wc, uc, "c", "b", ip_c, rc);
	Istio__Workload__Service svc = ISTIO__WORKLOAD__SERVICE__INIT;
	Istio__Workload__Address sa = ISTIO__WORKLOAD__ADDRESS__INIT;
	Istio__Workload__NetworkAddress na_ = ISTIO__WORKLOAD__NETWORK_ADDRESS__INIT,
					*nas[] = {&na_};
	Istio__Workload__Port port = ISTIO__WORKLOAD__PORT__INIT, *ports[] = {&port};
	Istio__Workload__PortList pl = ISTIO__WORKLOAD__PORT_LIST__INIT;
	Istio__Workload__Workload__ServicesEntry
		se = ISTIO__WORKLOAD__WORKLOAD__SERVICES_ENTRY__INIT,
		*ses[] = {&se};
	Istio__Security__Authorization pol = ISTIO__SECURITY__AUTHORIZATION__INIT;
	Istio__Security__Rule rule = ISTIO__SECURITY__RULE__INIT, *rules[] = {&rule};
	Istio__Security__Clause cl = ISTIO__SECURITY__CLAUSE__INIT, *cls[] = {&cl};
	Istio__Security__Match ma = ISTIO__SECURITY__MATCH__INIT, *mas[] = {&ma};
	Istio__Security__StringMatch sm = ISTIO__SECURITY__STRING_MATCH__INIT, *sms[] = {&sm};
	char *names[] = {(char *)"app/deny"};
	struct weft_change ch[5] = {{.kind = WEFT_SET_ADDRESS, .name = ua, .msg = &a},
				    {.kind = WEFT_SET_ADDRESS, .name = ub, .msg = &b},
				    {.kind = WEFT_SET_POLICY, .name = names[0], .msg = &pol},
				    {.kind = WEFT_SET_ADDRESS, .name = uc, .msg = &cc},
				    {.kind = WEFT_SET_ADDRESS,
				     .name = (char *)"app/web.app.svc.cluster.local",
				     .msg = &sa}};
	struct weft_change use[5];
	unsigned n_use = 0;
	struct weft_model *empty = weft_model_empty(""), *m;
	bool no_b = c->b_sa && strcmp(c->b_sa, "-") == 0;

	if (c->b_plain)
		wb.tunnel_protocol = ISTIO__WORKLOAD__WORKLOAD__TUNNEL_PROTOCOL__NO_TUNNEL;
	sm.match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_EXACT;
	sm.exact = (char *)id_a + strlen("spiffe://");
	ma.n_principals = 1;
	ma.principals = sms;
	cl.n_matches = 1;
	cl.matches = mas;
	rule.n_clauses = 1;
	rule.clauses = cls;
	pol.name = (char *)"deny";
	pol.namespace_ = (char *)"app";
	pol.has_scope = pol.has_action = 1;
	pol.scope = ISTIO__SECURITY__SCOPE__WORKLOAD_SELECTOR;
	pol.action = ISTIO__SECURITY__ACTION__DENY;
	pol.n_rules = 1;
	pol.rules = rules;
	if (c->deny_a) {
		wb.n_authorization_policies = 1;
		wb.authorization_policies = names;
	}
	if (c->service) {
		inet_pton(AF_INET, vip, rv);
		na_.has_address = 1;
		na_.address.data = rv;
		na_.address.len = 4;
		port.has_service_port = port.has_target_port = 1;
		port.service_port = 80;
		port.target_port = c->port;
		svc.name = (char *)"web";
		svc.namespace_ = (char *)"app";
		svc.hostname = (char *)"web.app.svc.cluster.local";
		svc.n_addresses = svc.n_ports = 1;
		svc.addresses = nas;
		svc.ports = ports;
		sa.type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE;
		sa.service = &svc;
		pl.n_ports = 1;
		pl.ports = ports;
		se.key = (char *)"app/web.app.svc.cluster.local";
		se.value = &pl;
		wb.n_services = wc.n_services = 1;
		wb.services = wc.services = ses;
	}
	for (unsigned i = 0; i < 5; i++) {
		if ((i == 0 && c->a_missing) || (i == 1 && no_b) || (i == 2 && !c->deny_a) ||
		    (i > 2 && !c->service))
			continue;
		use[n_use++] = ch[i];
	}
	m = weft_model_apply(empty, use, n_use);
	for (unsigned i = 0; i < n_use; i++) {
		if (use[i].err.code)
			fail_msg("%s: %s", use[i].name, use[i].err.msg);
	}
	weft_model_unref(empty);
	for (int i = 0; i < 2; i++) {
		struct weft_wstate *ws = i ? &nb.ws : &na.ws;

		weft_model_unref(ws->model);
		ws->model = weft_model_ref(m);
		if (ws->conns)
			weft_model_changed(ws, true);
	}
	weft_model_unref(m);
}

static int listen_at(const char *ip, uint16_t port, struct weft_sockaddr *ret)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	inet_pton(AF_INET, ip, &sa.sin_addr);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(fd, 4096), 0);
	assert_int_equal(weft_sock_local(fd, ret), 0);
	return fd;
}

static void node_up(struct node *n, const char *name, const char *ip, const char *identity,
		    const struct test_cert *leaf)
{
	struct weft_sockaddr any;

	n->conf = (struct weft_node_conf){.workers = 1,
					  .connect_ms = 2000,
					  .tls_ms = 2000,
					  .preface_ms = 2000,
					  .answer_ms = 3000,
					  .workload_wait_ms = 500,
					  .drain_ms = 2000,
					  .pool_idle_ms = 300000,
					  .ping_ms = 10000,
					  .ping_timeout_ms = 20000,
					  .max_conns = 20000,
					  .max_handshakes = 4096,
					  .stream_window = 262144,
					  .max_streams = 200};
	n->w.base = base;
	n->w.owner = &n->ws;
	n->ws.w = &n->w;
	n->ws.conf = &n->conf;
	n->ws.draining = false;
	n->pod = pod_make(name, ip, identity);
	n->secret = leaf ? secret_make(leaf, identity) : NULL;
	weft_pool_init(&n->ws);
	weft_outbound_init(&n->ws);
	weft_inbound_init(&n->ws);
	weft_accept_add(&n->ws, n->pod, 1, listen_at(ip, 15001, &n->capture));
	weft_accept_add(&n->ws, n->pod, 3, listen_at(ip, 15008, &any));
	weft_accept_add(&n->ws, n->pod, 5, listen_at(ip, 15006, &any));
}

static void node_down(struct node *n)
{
	weft_inbound_done(&n->ws);
	weft_outbound_done(&n->ws);
	weft_pool_done(&n->ws);
	weft_model_unref(n->ws.model);
	n->ws.model = NULL;
	assert_int_equal(atomic_load(&n->pod->refs), 1);
	weft_npod_unref(n->pod);
	if (n->secret)
		weft_secret_unref(n->secret);
	n->secret = NULL;
}

static int nodes_up(void **state)
{
	struct test_san a = {id_a, 0}, b = {id_b, 0};
	unsigned x = (unsigned)getpid();

	signal(SIGPIPE, SIG_IGN); /* as the program does */
	snprintf(ip_a, sizeof(ip_a), "127.%u.%u.10", 1 + (x >> 8) % 250, x & 255);
	snprintf(ip_b, sizeof(ip_b), "127.%u.%u.20", 1 + (x >> 8) % 250, x & 255);
	snprintf(ip_c, sizeof(ip_c), "127.%u.%u.30", 1 + (x >> 8) % 250, x & 255);
	ca = test_cert_new(NULL, NULL, 0, NULL, -3600, 3600);
	leaf_a = test_cert_new(&ca, &a, 1, NULL, -3600, 3600);
	leaf_b = test_cert_new(&ca, &b, 1, NULL, -3600, 3600);
	base = event_base_new();
	n_ended = n_opened = n_given = n_taken = 0;
	no_original = no_sockets = false;
	plain_dst = (struct weft_sockaddr){0};
	node_up(&na, "a", ip_a, id_a, &leaf_a);
	node_up(&nb, "b", ip_b, id_b, &leaf_b);
	set_model(&(struct model_conf){0});
	return 0;
}

static int nodes_down(void **state)
{
	node_down(&na);
	node_down(&nb);
	event_base_free(base);
	test_cert_free(&ca);
	test_cert_free(&leaf_a);
	test_cert_free(&leaf_b);
	return 0;
}

/* ---- the loop */

static bool loop_until(bool (*ok)(void *arg), void *arg, unsigned ms)
{
	uint64_t end = weft_now_ns() + ms * 1000000ull;
	struct timeval tick = {0, 2000};

	while (!ok(arg)) {
		if (weft_now_ns() > end)
			return false;
		event_base_loopexit(base, &tick);
		event_base_loop(base, EVLOOP_ONCE);
	}
	return true;
}

static bool never(void *arg)
{
	return false;
}

static inline void loop_ms(unsigned ms)
{
	loop_until(never, NULL, ms);
}

static bool ended_count(void *arg)
{
	return n_ended >= *(unsigned *)arg;
}

static bool wait_ended(unsigned n, unsigned ms)
{
	return loop_until(ended_count, &n, ms);
}

static bool flag_set(void *arg)
{
	return atomic_load((atomic_uint *)arg) != 0;
}
