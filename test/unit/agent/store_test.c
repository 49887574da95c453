/* What changes from load to load, this node's pods, objects that meet only here. Conversions:
 * test/golden/store. */
#include "agent/store.h"
#include "proxy/core/arena.h"
#include "xds/proto/workload.pb-c.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS                                                                                         \
	"apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {weft.io/mesh: "          \
	"enabled}}\n---\n"
#define POD(name, addr, more)                                                                      \
	"apiVersion: v1\nkind: Pod\nmetadata: {name: " name ", namespace: shop" more "}\n"         \
	"spec: {nodeName: n1}\nstatus: {podIP: " addr "}\n---\n"
#define DENY(name, port)                                                                           \
	"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: " name      \
	", namespace: shop}\n"                                                                     \
	"spec: {action: DENY, rules: [{to: [{operation: {ports: [\"" port "\"]}}]}]}\n---\n"

/* Loads files[0..n), each a text; returns the number of errors. */
static int load(struct weft_store *s, const char *const *texts, size_t n, struct weft_errs *errs)
{
	struct weft_file *files[8] = {0};
	struct weft_objects *objs;
	char name[32];
	int bad;

	for (size_t i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "f%u.yaml", (unsigned)i);
		files[i] = weft_file_parse(name, texts[i], strlen(texts[i]));
		assert_int_equal(files[i]->n_errors, 0);
	}
	objs = weft_objects_new(files, n);
	bad = weft_store_load(s, objs, errs);
	weft_objects_unref(objs);
	for (size_t i = 0; i < n; i++)
		weft_file_unref(files[i]);
	return bad; /* the objects are gone: what the store answers is its own */
}

static int load1(struct weft_store *s, const char *text)
{
	return load(s, (const char *const[]){text}, 1, NULL);
}

static void expect_changes(const struct weft_store *s, const char *want)
{
	const struct weft_store_resource *v;
	size_t n = weft_store_changes(s, &v);
	char got[600] = "";

	for (size_t i = 0; i < n; i++)
		snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s%s%s", i ? " " : "",
			 v[i].msg ? "+" : "-", v[i].name);
	assert_string_equal(got, want);
}

static void changes(void **state)
{
	struct weft_store *s = weft_store_new();

	assert_int_equal(
		load1(s, NS POD("a", "10.0.0.1", "") POD("b", "10.0.0.2", "") DENY("p", "80")), 0);
	expect_changes(s, "+shop/p +Kubernetes//Pod/shop/a +Kubernetes//Pod/shop/b");
	load1(s, NS POD("a", "10.0.0.1", "") POD("b", "10.0.0.2", "") DENY("p", "80"));
	expect_changes(s, "");
	load1(s, NS POD("a", "10.0.0.9", "") POD("b", "10.0.0.2", "") DENY("p", "81"));
	expect_changes(s, "+shop/p +Kubernetes//Pod/shop/a");
	load1(s, NS POD("b", "10.0.0.2", "") POD("c", "10.0.0.3", ""));
	expect_changes(s, "+Kubernetes//Pod/shop/c -shop/p -Kubernetes//Pod/shop/a");
	load1(s, "");
	expect_changes(s, "-Kubernetes//Pod/shop/b -Kubernetes//Pod/shop/c");
	weft_store_free(s);
}

/* The model follows, also where only the place of a policy in its file changed. */
static void model(void **state)
{
	struct weft_store *s = weft_store_new();
	struct weft_ip at;

	load1(s, NS POD("a", "10.0.0.1", "") DENY("p", "80"));
	assert_int_equal(weft_ip_parse("10.0.0.1", &at), 0);
	assert_non_null(weft_model_workload_by_ip(weft_store_model(s), "", &at));
	assert_string_equal(weft_policy_source(weft_model_policy(weft_store_model(s), "shop/p")),
			    "f0.yaml:11");
	load1(s, "# one line more\n" NS POD("a", "10.0.0.1", "") DENY("p", "80"));
	expect_changes(s, "");
	assert_string_equal(weft_policy_source(weft_model_policy(weft_store_model(s), "shop/p")),
			    "f0.yaml:12");
	assert_string_equal(weft_store_source(s, &weft_xds_type_address, "Kubernetes//Pod/shop/a"),
			    "f0.yaml:6");
	assert_string_equal(weft_store_source(s, &weft_xds_type_address, "shop/p"), "");
	load1(s, "apiVersion: weft.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: m}\nspec: "
		 "{network: west}\n---\n" NS POD("a", "10.0.0.1", ""));
	assert_null(weft_model_workload_by_ip(weft_store_model(s), "", &at));
	assert_non_null(weft_model_workload_by_ip(weft_store_model(s), "west", &at));
	assert_string_equal(weft_store_mesh(s)->network, "west");
	weft_store_free(s);
}

static void node(void **state)
{
	struct weft_store *s = weft_store_new();
	const struct weft_store_pod *pods;
	const char *const *ids;

	load1(s, NS POD("a", "10.0.0.1", ", uid: u-1, annotations: {weft.io/netns: /run/netns/a}")
			 POD("b", "10.0.0.2", ", uid: \"../etc\"")
				 POD("c", "10.0.0.3", ", labels: {weft.io/mesh: none}"));
	assert_int_equal(weft_store_pods(s, "n2", &pods), 0);
	assert_int_equal(weft_store_pods(s, "n1", &pods), 2);
	assert_string_equal(pods[0].conf.uid, "u-1");
	assert_string_equal(pods[0].conf.netns_path, "/run/netns/a");
	assert_string_equal(pods[0].conf.workload_uid, "Kubernetes//Pod/shop/a");
	assert_string_equal(pods[1].conf.uid,
			    "shop_b"); /* it names files: one with a slash is not taken */
	assert_null(pods[1].conf.netns_path);
	assert_int_equal(weft_store_identities(s, "n1", &ids), 1);
	assert_string_equal(ids[0], "spiffe://cluster.local/ns/shop/sa/default");
	weft_store_free(s);
}

/* Files that are fine by themselves, but not together. */
static void meets(void **state)
{
	struct weft_store *s = weft_store_new();
	struct weft_errs errs = {0};
	const char *const texts[] = {
		NS POD("a", "10.0.0.1", ""),
		POD("b", "10.0.0.1", "") POD("c", "10.0.0.2", ""),
		"apiVersion: weft.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: m1}\nspec: "
		"{trustDomain: one}\n",
		"apiVersion: weft.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: m2}\nspec: "
		"{trustDomain: two}\n",
	};
	char text[600];

	assert_int_equal(load(s, texts, 4, &errs), 2);
	assert_string_equal(
		weft_err_text(&errs.v[0], text, sizeof(text)),
		"f3.yaml:3:18: a second MeshConfig; the one in force is m1 (f2.yaml:1)");
	assert_string_equal(weft_err_text(&errs.v[1], text, sizeof(text)),
			    "f1.yaml:5:9: status.podIPs: 10.0.0.1 is also the address of Pod "
			    "shop/a (f0.yaml:5)");
	expect_changes(s, "+Kubernetes//Pod/shop/a +Kubernetes//Pod/shop/c");
	/* the one left out is not the same as one that is gone */
	assert_true(weft_store_pod_unusable(s, "n1", "shop_b"));
	assert_false(weft_store_pod_unusable(s, "n2", "shop_b"));
	assert_false(weft_store_pod_unusable(s, "n1", "shop_a"));
	assert_false(weft_store_pod_unusable(s, "n1", "shop_d"));
	assert_string_equal(weft_store_mesh(s)->trust_domain, "one");
	weft_store_free(s);
}

/* Nothing is walked for each object: 40,000 are made into resources well within a test's time,
 * where a walk would take minutes. */
enum { MANY = 8000, MANY_KINDS = 5 };
static void one_of_many(FILE *out, int kind, int i)
{
	switch (kind) {
	case 0:
		fprintf(out,
			"apiVersion: v1\nkind: Pod\nmetadata: {name: p%d, namespace: shop}\nspec: "
			"{nodeName: n1}\nstatus: {podIP: 10.0.%d.%d}\n---\n",
			i, i / 250, i % 250 + 1);
		break;
	case 1:
		fprintf(out,
			"apiVersion: v1\nkind: Service\nmetadata: {name: s%d, namespace: shop}\n"
			"spec: {clusterIP: 10.96.%d.%d, selector: {app: a}, ports: [{name: http, "
			"port: 80}]}\n---\n",
			i, i / 250, i % 250 + 1);
		break;
	case 2:
		fprintf(out,
			"apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n"
			"metadata: {name: r%d, namespace: shop}\nspec: {parentRefs: [{group: \"\", "
			"kind: Service, name: s%d}], rules: [{matches: [{path: {value: /a}}]}]}\n"
			"---\n",
			i, i);
		break;
	case 3:
		fprintf(out,
			"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
			"metadata: {name: a%d, namespace: shop}\nspec: {targetRefs: [{kind: "
			"Service, name: s%d}], rules: [{}]}\n---\n",
			i, i);
		break;
	default:
		fprintf(out,
			"apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\n"
			"metadata: {name: t%d, namespace: shop}\nspec: {targetRefs: [{group: \"\", "
			"kind: Service, name: s%d}], validation: {wellKnownCACertificates: System, "
			"hostname: a.b}}\n---\n",
			i, i);
	}
}

static void many(void **state)
{
	char *texts[MANY_KINDS + 1] = {
		[MANY_KINDS] =
			"apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: "
			"{weft.io/mesh: enabled, istio.io/use-waypoint: wp}}\n---\n"
			"apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: "
			"wp, namespace: shop}\nspec: {gatewayClassName: weft-waypoint, listeners: "
			"[{name: m, port: 15008, protocol: HBONE}], addresses: [{value: "
			"10.9.9.9}]}\n"};
	struct weft_store *s = weft_store_new();
	const struct weft_store_resource *v;
	size_t n, clusters = 0;

	for (int i = 0; i < MANY_KINDS; i++) {
		FILE *out = open_memstream(&texts[i], &n);

		assert_non_null(out);
		for (int k = 0; k < MANY; k++)
			one_of_many(out, i, k);
		assert_int_equal(fclose(out), 0);
	}
	assert_int_equal(load(s, (const char *const *)texts, MANY_KINDS + 1, NULL), 0);
	n = weft_store_resources(s, &v);
	for (size_t i = 0; i < n; i++)
		clusters += !strcmp(v[i].type->brief, "cluster");
	assert_int_equal(clusters, MANY);
	/* of each route and each BackendTLSPolicy, and of the Gateway */
	assert_int_equal(json_array_size(weft_store_status(s)), 2 * MANY + 1);
	weft_store_free(s);
	for (int i = 0; i < MANY_KINDS; i++)
		free(texts[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(changes), cmocka_unit_test(model), cmocka_unit_test(node),
		cmocka_unit_test(meets),   cmocka_unit_test(many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
