/* also built: tsan */
#include "fake_bytes.h"
#include "fake_cert.h"
#include "fake_xds.h"
#include "proxy/net/tls.h"
#include "proxy/node/state.h"
#include "xds/proto/authorization.pb-c.h"
#include "xds/proto/secret.pb-c.h"
#include "xds/proto/workload.pb-c.h"

#include <errno.h>

#define ID_A "spiffe://cluster.local/ns/shop/sa/a"
#define ID_B "spiffe://cluster.local/ns/shop/sa/b"

static struct weft_node *node;
static struct fake_ca ca;

static void apply(const struct weft_xds_type *t, const struct weft_xds_resource *up, size_t n,
		  const char *const *removed, size_t n_removed)
{
	for (int i = 0; i < xds.n; i++)
		if (xds.types[i] == t)
			xds.sinks[i]->apply(xds.owner, (struct weft_xds_reply *)&client, up, n,
					    removed, n_removed);
}

static void complete(const struct weft_xds_type *t)
{
	for (int i = 0; i < xds.n; i++)
		if (xds.types[i] == t)
			xds.sinks[i]->complete(xds.owner);
}

static int setup(void **state)
{
	static struct weft_state *once; /* its metric families are made once a program */

	memset(&fake, 0, sizeof(fake));
	if (!once) {
		node = fake_node(2);
		once = node->state = weft_state_new(node, "/nonexistent");
		weft_state_welcome(node->state, "node-a", "net");
	}
	usleep(60000); /* what comes is not joined to an earlier change */
	pump(node);
	memset(&fake, 0, sizeof(fake));
	xds.rejects = 0;
	return 0;
}

static void put_workload(const char *uid, uint32_t ip, const char *policy)
{
	Istio__Workload__Workload w = ISTIO__WORKLOAD__WORKLOAD__INIT;
	Istio__Workload__Address a = ISTIO__WORKLOAD__ADDRESS__INIT;
	ProtobufCBinaryData addr = {ip ? 4 : 3, (uint8_t *)&ip};
	struct weft_xds_resource r = {.name = uid, .version = "1", .msg = &a.base};
	char *policies[] = {(char *)policy};

	w.uid = w.name = (char *)uid;
	w.namespace_ = (char *)"shop";
	w.network = (char *)"net";
	w.addresses = &addr;
	w.n_addresses = 1;
	w.authorization_policies = policies;
	w.n_authorization_policies = policy ? 1 : 0;
	a.type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_WORKLOAD;
	a.workload = &w;
	apply(&weft_xds_type_address, &r, 1, NULL, 0);
}

static void put_secret(const char *name, char *cert, char *key, char *roots)
{
	Envoy__Tls__Secret s = ENVOY__TLS__SECRET__INIT;
	Envoy__Tls__TlsCertificate c = ENVOY__TLS__TLS_CERTIFICATE__INIT;
	Envoy__Tls__CertificateValidationContext v =
		ENVOY__TLS__CERTIFICATE_VALIDATION_CONTEXT__INIT;
	Envoy__Tls__DataSource d[3];
	char *text[3] = {cert, key, roots};
	struct weft_xds_resource r = {.name = name, .version = "1", .msg = &s.base};

	for (int i = 0; i < 3; i++) {
		envoy__tls__data_source__init(&d[i]);
		d[i].specifier_case = ENVOY__TLS__DATA_SOURCE__SPECIFIER_INLINE_BYTES;
		d[i].inline_bytes =
			(ProtobufCBinaryData){text[i] ? strlen(text[i]) : 0, (uint8_t *)text[i]};
	}
	c.certificate_chain = &d[0];
	c.private_key = &d[1];
	v.trusted_ca = &d[2];
	s.name = (char *)name;
	s.tls_certificate = &c;
	s.validation_context = &v;
	apply(&weft_xds_type_secret, &r, 1, NULL, 0);
}

static void put_leaf(const char *name, const char *id)
{
	char *cert, *key;

	fake_leaf(&ca, id, 1, &cert, &key);
	put_secret(name, cert, key, ca.pem);
	free(cert);
	free(key);
}

static bool settled(int n_model)
{
	for (int i = 0; i < 200 && fake.n_model < n_model; i++) {
		pump(node);
		usleep(1000);
	}
	return fake.n_model == n_model;
}

static void test_started(void **state)
{
	assert_int_equal(xds.n, 3);
	assert_int_equal(xds.started, 1);
	assert_string_equal(
		xds.node_id,
		"ztunnel~1.1.1.1~weft-proxy-node-a.weft-system~weft-system.svc.cluster.local");
	weft_state_welcome(node->state, "node-a", "net"); /* another agent: the same client */
	assert_int_equal(xds.started, 1);
}

/* An address alone, or with a part of the policies, would be served without them. */
static void test_first_state_is_whole(void **state)
{
	put_workload("w0", 0x6400000a, NULL);
	complete(&weft_xds_type_address);
	assert_false(settled(1));
	assert_null(weft_model_workload_by_uid(node->ws[0].model, "w0"));
	assert_false(weft_state_ready(node->state));
	put_leaf(ID_A, ID_A); /* certificates do not wait */
	for (int i = 0; i < 100 && fake.n_secrets < 2; i++)
		pump(node), usleep(1000);
	assert_int_equal(fake.n_secrets, 2);
	assert_int_equal(fake.n_model, 0);
	complete(&weft_xds_type_authorization); /* none at all is a state as well */
	assert_true(settled(2));
	for (int i = 0; i < 2; i++)
		assert_non_null(weft_model_workload_by_uid(node->ws[i].model, "w0"));
}

static void test_model_reaches_workers(void **state)
{
	struct weft_ip ip;

	put_workload("w1", 0x0100000a, NULL);
	assert_true(settled(2));
	assert_int_equal(xds.rejects, 0);
	weft_ip_parse("10.0.0.1", &ip);
	for (int i = 0; i < 2; i++)
		assert_non_null(weft_model_workload_by_ip(node->ws[i].model, "net", &ip));
}

static void test_changes_are_joined(void **state)
{
	/* the first at once, those that follow within 50 ms together */
	put_workload("j0", 0x0200000a, NULL);
	pump(node);
	assert_int_equal(fake.n_model, 2);
	for (int i = 0; i < 20; i++) {
		char uid[16];

		snprintf(uid, sizeof(uid), "j%d", i + 1);
		put_workload(uid, 0x0300000a + ((uint32_t)i << 24), NULL);
		pump(node);
	}
	assert_int_equal(fake.n_model, 2);
	assert_true(settled(4));
	assert_non_null(weft_model_workload_by_uid(node->ws[1].model, "j20"));
}

static void test_policy_generation(void **state)
{
	put_workload("p1", 0x6300000a, NULL);
	assert_true(settled(2));
	assert_int_equal(fake.n_policies, 0);
	usleep(60000);
	put_workload("p1", 0x6300000a, "shop/deny");
	assert_true(settled(4));
	assert_int_equal(fake.n_policies, 2);
}

static void test_refused_leaves_the_rest(void **state)
{
	put_workload("bad", 0, NULL); /* three bytes of address */
	assert_int_equal(xds.rejects, 1);
	assert_string_equal(xds.rejected, "bad");
	assert_non_null(strstr(xds.why, "address"));
	assert_non_null(strstr(weft_state_last_reject(node->state), "address"));
	settled(2);
	assert_null(weft_model_workload_by_uid(node->ws[0].model, "bad"));
	assert_non_null(weft_model_workload_by_uid(node->ws[0].model, "w1"));
}

static void test_removed(void **state)
{
	const char *gone[] = {"w1"};

	apply(&weft_xds_type_address, NULL, 0, gone, 1);
	assert_true(settled(2));
	assert_null(weft_model_workload_by_uid(node->ws[0].model, "w1"));
}

static void test_secret_and_rotation(void **state)
{
	struct weft_secret *first, *second;
	const char *gone[] = {ID_A};

	put_leaf(ID_A, ID_A);
	assert_int_equal(xds.rejects, 0);
	for (int i = 0; i < 100 && fake.n_secrets < 2; i++)
		pump(node), usleep(1000);
	assert_int_equal(fake.n_secrets, 2);
	assert_string_equal(fake.secrets[0], ID_A);
	first = weft_secret_get(&node->ws[0], ID_A);
	assert_non_null(first);
	assert_non_null(first->server);
	assert_non_null(first->client);
	assert_string_equal(first->trust_domain, "cluster.local");
	assert_in_range(first->not_after - time(NULL), 86000, 86500);
	usleep(60000);
	put_leaf(ID_A, ID_A);
	for (int i = 0; i < 100 && fake.n_secrets < 4; i++)
		pump(node), usleep(1000);
	second = weft_secret_get(&node->ws[1], ID_A);
	assert_ptr_not_equal(first, second);
	assert_true(second->serial > first->serial);
	/* the first one lives on with whoever uses it */
	assert_non_null(first->server);
	weft_secret_unref(first);
	weft_secret_unref(second);
	usleep(60000);
	apply(&weft_xds_type_secret, NULL, 0, gone, 1);
	for (int i = 0; i < 100 && fake.n_secrets < 6; i++)
		pump(node), usleep(1000);
	assert_null(weft_secret_get(&node->ws[0], ID_A));
}

static void refused(const char *what)
{
	struct weft_secret *s;

	assert_int_equal(xds.rejects, 1);
	assert_non_null(strstr(xds.why, what));
	xds.rejects = 0;
	/* the last good one stays */
	pump(node);
	usleep(60000);
	pump(node);
	s = weft_secret_get(&node->ws[0], ID_B);
	assert_non_null(s);
	weft_secret_unref(s);
}

static void test_bad_secrets(void **state)
{
	char *cert, *key, *cert2, *key2, *old_cert, *old_key;

	put_leaf(ID_B, ID_B);
	assert_int_equal(xds.rejects, 0);
	fake_leaf(&ca, ID_B, 1, &cert, &key);
	fake_leaf(&ca, ID_B, 1, &cert2, &key2);
	fake_leaf(&ca, ID_B, 0, &old_cert, &old_key);
	put_secret(ID_B, cert, key2, ca.pem);
	refused("key");
	put_secret(ID_B, (char *)"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
		   key, ca.pem);
	refused("certificate");
	put_secret(ID_B, (char *)"no pem at all", key, ca.pem);
	refused("certificate");
	put_secret(ID_B, cert, key, (char *)"none");
	refused("roots");
	put_secret(ID_B, cert, key, NULL);
	refused("trusted_ca");
	put_secret(ID_B, old_cert, old_key, ca.pem);
	refused("valid now");
	put_leaf(ID_B, ID_A);
	refused("URI SAN");
	put_secret("db-password", cert, key, ca.pem);
	refused("SPIFFE");
	free(cert);
	free(key);
	free(cert2);
	free(key2);
	free(old_cert);
	free(old_key);
}

static void test_ready(void **state)
{
	xds.ready = false;
	assert_false(weft_state_ready(node->state));
	xds.ready = true;
	put_workload("r1", 0x7700000a, NULL);
	assert_false(weft_state_ready(node->state)); /* not with the workers yet */
	assert_true(settled(2));
	assert_true(weft_state_ready(node->state));
}

static atomic_int reads, stop_reading;

/* On the worker's thread, again and again: what the byte path does with what was published. */
static void read_all(struct weft_worker *w, void *arg)
{
	struct weft_wstate *ws = w->owner;
	struct weft_secret *s = weft_secret_get(ws, ID_A);
	struct weft_ip ip;

	weft_ip_parse("10.0.0.136", &ip);
	if (s) {
		struct weft_tls_want want = {.server = true, .trust_domain = s->trust_domain};
		struct weft_tls *t = weft_tls_new(s->server, &want, 0);

		weft_tls_free(t);
		weft_secret_unref(s);
	}
	if (weft_model_workload_by_ip(ws->model, "net", &ip)) {
		struct weft_workload *x =
			weft_workload_ref(weft_model_workload_by_ip(ws->model, "net", &ip));

		atomic_fetch_add(&reads, (int)x->n_addrs);
		weft_workload_unref(x);
	}
	if (!atomic_load(&stop_reading))
		weft_worker_post(w, read_all, NULL);
}

/* The interesting one is the run under the thread sanitizer. */
static void test_swap_with_threads(void **state)
{
	struct weft_err err = {0};

	assert_int_equal(weft_node_start(node, &err), 0);
	for (unsigned i = 0; i < node->n_ws; i++)
		weft_worker_post(node->ws[i].w, read_all, NULL);
	for (int i = 0; i < 60; i++) {
		char policy[32];

		snprintf(policy, sizeof(policy), "shop/p%d", i);
		put_workload("t1", 0x8800000a, policy);
		if (i % 5 == 0)
			put_leaf(ID_A, ID_A);
		weft_state_publish(node->state);
		event_base_loop(node->main->base, EVLOOP_NONBLOCK);
		usleep(2000);
	}
	atomic_store(&stop_reading, 1);
	weft_node_stop(node);
	assert_true(atomic_load(&reads) > 0);
	assert_int_equal(xds.rejects, 0);
}

static int group_setup(void **state)
{
	fake_ca_init(&ca);
	return 0;
}

static int group_teardown(void **state)
{
	struct weft_state *s = node->state;

	node->state = NULL;
	weft_state_free(s);
	fake_node_free(node);
	fake_ca_done(&ca);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_started, setup),
		cmocka_unit_test_setup(test_first_state_is_whole, setup),
		cmocka_unit_test_setup(test_model_reaches_workers, setup),
		cmocka_unit_test_setup(test_changes_are_joined, setup),
		cmocka_unit_test_setup(test_policy_generation, setup),
		cmocka_unit_test_setup(test_refused_leaves_the_rest, setup),
		cmocka_unit_test_setup(test_removed, setup),
		cmocka_unit_test_setup(test_secret_and_rotation, setup),
		cmocka_unit_test_setup(test_bad_secrets, setup),
		cmocka_unit_test_setup(test_ready, setup),
		cmocka_unit_test_setup(test_swap_with_threads, setup), /* last: ends the threads */
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
