#include "fake_bytes.h"
#include "proxy/core/log.h"
#include "proxy/node/metrics.h"
#include "xds/proto/workload.pb-c.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/wait.h>

static struct weft_node *node;
static char log_path[64];
static struct weft_model *model;

static void fill(Istio__Workload__Workload *w, const char *uid, const char *name)
{
	istio__workload__workload__init(w);
	w->uid = (char *)uid;
	w->name = (char *)name;
	w->namespace_ = (char *)"shop";
	w->workload_name = (char *)name;
	w->canonical_name = (char *)name;
	w->canonical_revision = (char *)"v1";
	w->cluster_id = (char *)"Kubernetes";
	w->service_account = (char *)name;
}

static void make_model(void)
{
	Istio__Workload__Workload w[2];
	Istio__Workload__Locality here = ISTIO__WORKLOAD__LOCALITY__INIT;
	Istio__Workload__Service sv = ISTIO__WORKLOAD__SERVICE__INIT;
	Istio__Workload__Address a[3];
	struct weft_change c[3] = {0};
	struct weft_model *empty = weft_model_empty("");

	fill(&w[0], "uid-curl", "curl");
	fill(&w[1], "uid-web", "web");
	here.region = (char *)"eu";
	w[1].locality = &here;
	sv.name = (char *)"web";
	sv.namespace_ = (char *)"shop";
	sv.hostname = (char *)"web.shop.svc.cluster.local";
	for (int i = 0; i < 3; i++) {
		istio__workload__address__init(&a[i]);
		a[i].type_case = i < 2 ? ISTIO__WORKLOAD__ADDRESS__TYPE_WORKLOAD
				       : ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE;
		if (i < 2)
			a[i].workload = &w[i];
		else
			a[i].service = &sv;
		c[i].kind = WEFT_SET_ADDRESS;
		c[i].msg = &a[i];
	}
	c[0].name = "uid-curl";
	c[1].name = "uid-web";
	c[2].name = "shop/web.shop.svc.cluster.local";
	model = weft_model_apply(empty, c, 3);
	for (int i = 0; i < 3; i++)
		assert_int_equal(c[i].err.code, 0);
	weft_model_unref(empty);
}

static void flow_make(struct weft_flow *f, bool inbound)
{
	memset(f, 0xee, sizeof(*f)); /* init must not rely on zeroes */
	weft_flow_init(f, &node->ws[0], inbound);
	f->mtls = true;
	weft_sockaddr_parse("10.0.0.5:41822", &f->src);
	weft_sockaddr_parse("10.0.1.7:15008", &f->dst);
	weft_sockaddr_parse("10.0.1.7:8080", &f->hbone);
	f->src_w = weft_workload_ref(weft_model_workload_by_uid(model, "uid-curl"));
	f->dst_w = weft_workload_ref(weft_model_workload_by_uid(model, "uid-web"));
	f->dst_s = weft_service_ref(weft_model_service(model, "shop/web.shop.svc.cluster.local"));
	weft_flow_set(&f->src_id, "spiffe://cluster.local/ns/shop/sa/curl");
	weft_flow_set(&f->dst_id, "spiffe://cluster.local/ns/shop/sa/web");
}

static char *metrics(bool openmetrics)
{
	struct evbuffer *b = evbuffer_new();
	char *text;

	weft_metrics_print(b, openmetrics);
	evbuffer_add(b, "", 1);
	text = strdup((char *)evbuffer_pullup(b, -1));
	evbuffer_free(b);
	return text;
}

/* The value of the one line with this name and all of these labels. */
static long value(const char *name, const char *const *labels)
{
	char *text = metrics(false), *save = NULL;
	long v = -1;

	for (char *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
		bool all = strncmp(l, name, strlen(name)) == 0 && l[strlen(name)] == '{';

		for (int i = 0; all && labels[i]; i++)
			all = strstr(l, labels[i]) != NULL;
		if (all) {
			assert_int_equal(v, -1);
			v = atol(strrchr(l, ' '));
		}
	}
	free(text);
	return v;
}
#define VALUE(name, ...) value(name, (const char *const[]){__VA_ARGS__, NULL})

static char *last_line(void)
{
	static char line[8192];
	FILE *f;

	/* flushed by its timer */
	usleep(60000);
	event_base_loop(node->ws[0].w->base, EVLOOP_NONBLOCK);
	f = fopen(log_path, "r");
	line[0] = 0;
	while (fgets(line, sizeof(line), f))
		;
	fclose(f);
	return line;
}

static void test_both_directions(void **state)
{
	static const char out[] = "reporter=\"source\"", in[] = "reporter=\"destination\"";
	struct weft_flow o, i;

	flow_make(&o, false);
	flow_make(&i, true);
	weft_flow_open(&o);
	weft_flow_open(&i);
	assert_int_equal(VALUE("istio_tcp_connections_opened_total", out), 1);
	assert_int_equal(VALUE("istio_tcp_sockets_open", out), 1);
	o.sent = 100;
	weft_flow_tick(&o);
	assert_int_equal(VALUE("istio_tcp_received_bytes_total", out), 100);
	/* the client sent 130 and got 239; at the server it is the other way round */
	o.sent = i.received = 130;
	o.received = i.sent = 239;
	weft_flow_close(&o, WEFT_REASON_OK, NULL);
	weft_flow_close(&i, WEFT_REASON_OK, NULL);
	assert_int_equal(VALUE("istio_tcp_received_bytes_total", out), 130);
	assert_int_equal(VALUE("istio_tcp_sent_bytes_total", out), 239);
	assert_int_equal(VALUE("istio_tcp_received_bytes_total", in), 130);
	assert_int_equal(VALUE("istio_tcp_sent_bytes_total", in), 239);
	assert_int_equal(VALUE("istio_tcp_sockets_open", in), 0);
	assert_int_equal(VALUE("istio_tcp_connections_closed_total", in, "response_flags=\"-\""),
			 1);
	assert_int_equal(VALUE("weft_connections_ended_total", in, "reason=\"ok\""), 1);
	assert_int_equal(
		VALUE("istio_tcp_connections_opened_total", in, "source_workload=\"curl\"",
		      "source_principal=\"spiffe://cluster.local/ns/shop/sa/curl\"",
		      "source_workload_namespace=\"shop\"", "source_app=\"curl\"",
		      "source_version=\"v1\"", "source_cluster=\"Kubernetes\"",
		      "destination_service=\"web.shop.svc.cluster.local\"",
		      "destination_service_name=\"web\"", "destination_service_namespace=\"shop\"",
		      "destination_principal=\"spiffe://cluster.local/ns/shop/sa/web\"",
		      "request_protocol=\"tcp\"", "connection_security_policy=\"mutual_tls\"",
		      "source_region=\"unknown\"", "destination_region=\"eu\"",
		      "destination_zone=\"unknown\""),
		1);
}

static void test_log_line(void **state)
{
	struct weft_flow f;
	char *l, *rest;

	flow_make(&f, true);
	weft_flow_open(&f);
	f.sent = 5;
	weft_flow_close(&f, WEFT_REASON_POLICY_CHANGED, "shop/deny rule 0");
	l = last_line();
	rest = strchr(l, '\t');
	assert_non_null(rest);
	assert_null(f.src_w);
	/* the time differs, and it took less than 10 s */
	assert_non_null(strstr(rest,
			       "\terror\taccess\tconnection complete\tsrc.addr=10.0.0.5:41822 "
			       "src.workload=\"curl\" src.namespace=\"shop\" "
			       "src.identity=\"spiffe://cluster.local/ns/shop/sa/curl\" "
			       "src.cluster=\"Kubernetes\" dst.addr=10.0.1.7:15008 "
			       "dst.hbone_addr=10.0.1.7:8080 "
			       "dst.service=\"web.shop.svc.cluster.local\" dst.workload=\"web\" "
			       "dst.namespace=\"shop\" "
			       "dst.identity=\"spiffe://cluster.local/ns/shop/sa/web\" "
			       "dst.cluster=\"Kubernetes\" direction=\"inbound\" bytes_sent=5 "
			       "bytes_recv=0 duration=\""));
	assert_non_null(strstr(rest,
			       "reason=\"policy_changed\" error=\"a live connection was cut: the "
			       "policy now denies it: shop/deny rule 0\"\n"));
}

static void test_opened_in_debug(void **state)
{
	struct weft_flow f;
	char *l;

	weft_log_setup("t", WEFT_LOG_DEBUG, false);
	flow_make(&f, true);
	weft_flow_open(&f);
	l = last_line();
	assert_non_null(strstr(l, "\tdebug\taccess\tconnection opened\tsrc.addr="));
	assert_non_null(strstr(l, "direction=\"inbound\"\n"));
	weft_log_setup("t", WEFT_LOG_INFO, false);
	weft_flow_close(&f, WEFT_REASON_OK, NULL);
}

static void test_failed(void **state)
{
	struct weft_flow f;

	flow_make(&f, false);
	f.mtls = false;
	weft_flow_close(&f, WEFT_REASON_TLS_FAILED, NULL);
	assert_int_equal(
		VALUE("istio_tcp_connections_failed_total", "response_flags=\"TLS_FAILURE\"",
		      "connection_security_policy=\"unknown\"", "source_principal=\"unknown\""),
		1);
	assert_null(strstr(last_line(), "identity"));
	/* nothing is known yet */
	weft_flow_init(&f, &node->ws[0], false);
	weft_flow_close(&f, WEFT_REASON_NO_CAPTURE, NULL);
	assert_int_equal(VALUE("istio_tcp_connections_failed_total", "source_workload=\"unknown\"",
			       "destination_service=\"unknown\""),
			 1);
	assert_non_null(strstr(last_line(), "\twarn\taccess\tconnection failed\t"));
	assert_int_equal(VALUE("istio_tcp_sockets_open", "reporter=\"source\""), 0);
}

/* Labels of an unknown source come from its baggage, and a known one's do not. */
static void test_baggage(void **state)
{
	struct weft_flow f;

	for (int known = 0; known < 2; known++) {
		flow_make(&f, true);
		if (!known) {
			weft_workload_unref(f.src_w);
			f.src_w = NULL;
		}
		weft_flow_set(&f.src_labels_workload, "far");
		weft_flow_set(&f.src_labels_app, "far-app");
		weft_flow_set(&f.src_labels_ns, "far-ns");
		weft_flow_open(&f);
		weft_flow_close(&f, WEFT_REASON_OK, NULL);
	}
	assert_int_equal(VALUE("istio_tcp_connections_opened_total", "source_workload=\"far\"",
			       "source_canonical_service=\"far-app\"", "source_version=\"unknown\"",
			       "source_workload_namespace=\"far-ns\""),
			 1);
}

static void test_no_locality_no_label(void **state)
{
	struct weft_flow f;
	char *text;

	flow_make(&f, true);
	weft_workload_unref(f.dst_w);
	f.dst_w = weft_workload_ref(f.src_w);
	weft_flow_open(&f);
	weft_flow_close(&f, WEFT_REASON_OK, NULL);
	text = metrics(false);
	for (char *save = NULL, *l = strtok_r(text, "\n", &save); l;
	     l = strtok_r(NULL, "\n", &save))
		if (strstr(l, "destination_workload=\"curl\""))
			assert_null(strstr(l, "region"));
	free(text);
}

/* Names of peers in labels, escaped as the format wants. */
static void test_promtool(void **state)
{
	struct weft_flow f;
	char *text;
	FILE *p;

	flow_make(&f, true);
	weft_workload_unref(f.src_w);
	f.src_w = NULL;
	weft_flow_set(&f.src_labels_workload, "a\"b\\c\nd");
	weft_flow_open(&f);
	weft_flow_close(&f, WEFT_REASON_OK, NULL);
	text = metrics(false);
	fflush(stdout);
	p = popen("promtool check metrics >&2", "w");
	assert_non_null(p);
	assert_true(fwrite(text, 1, strlen(text), p) == strlen(text));
	assert_int_equal(pclose(p), 0);
	free(text);
	text = metrics(true);
	assert_string_equal(text + strlen(text) - 6, "# EOF\n");
	free(text);
}

static void test_many_kinds(void **state)
{
	struct weft_flow f;
	char id[64];

	/* more kinds of flow than are kept: no fewer are counted */
	for (int i = 0; i < 9000; i++) {
		flow_make(&f, true);
		snprintf(id, sizeof(id), "spiffe://cluster.local/ns/many/sa/s%d", i);
		weft_flow_set(&f.src_id, id);
		weft_flow_open(&f);
		weft_flow_close(&f, WEFT_REASON_OK, NULL);
	}
	assert_int_equal(VALUE("istio_tcp_connections_closed_total", "ns/many/sa/s8999\""), 1);
	assert_int_equal(VALUE("istio_tcp_connections_closed_total", "ns/many/sa/s7\""), 1);
}

static int setup(void **state)
{
	struct weft_err err = {0};

	strcpy(log_path, "/tmp/weft-flows-XXXXXX");
	close(mkstemp(log_path));
	node = weft_xcalloc(1, sizeof(*node));
	node->conf.workers = 1;
	assert_int_equal(weft_log_sink_open(log_path, &node->access_log, &err), 0);
	assert_int_equal(weft_node_init(node, &err), 0);
	weft_metrics_setup();
	make_model();
	return 0;
}

static int teardown(void **state)
{
	struct weft_log_sink *s = node->access_log;

	fake_node_free(node);
	weft_log_sink_free(s);
	weft_model_unref(model);
	unlink(log_path);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_both_directions), cmocka_unit_test(test_log_line),
		cmocka_unit_test(test_opened_in_debug), cmocka_unit_test(test_failed),
		cmocka_unit_test(test_baggage),		cmocka_unit_test(test_no_locality_no_label),
		cmocka_unit_test(test_promtool),	cmocka_unit_test(test_many_kinds),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
