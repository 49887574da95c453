/* store_dump FILE...: what the store makes of objects, as text, for golden tests. Errors of the
 * files and of the store come first. Node n1's pods and identities come last. --explain FILE (or
 * --explain-json): explains each "# explain SRC DST" in it. */
#include "agent/explain.h"
#include "proxy/core/arena.h"
#include "xds/proto/authorization.pb-c.h"
#include "xds/proto/workload.pb-c.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_bytes(const ProtobufCBinaryData *b)
{
	struct weft_ip ip;
	char text[WEFT_IP_TEXT];

	printf("%s", weft_ip_from_bytes(b->data, b->len, &ip)
			     ? "?"
			     : weft_ip_text(&ip, text, sizeof(text)));
}

static void print_text(const char *name, const char *s)
{
	if (s && *s)
		printf(" %s=%s", name, s);
}

static void print_ports(Istio__Workload__Port *const *v, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		printf(" %u>%u", v[i]->service_port, v[i]->target_port);
		if (v[i]->app_protocol)
			printf("(%d)", (int)v[i]->app_protocol);
	}
}

static void print_gateway(const char *name, const Istio__Workload__GatewayAddress *g)
{
	if (g && g->destination_case == ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_ADDRESS) {
		printf("  %s ", name);
		print_bytes(&g->address->address);
		printf(":%u\n", g->hbone_mtls_port);
	} else if (g) {
		printf("  %s %s/%s:%u\n", name, g->hostname->namespace_, g->hostname->hostname,
		       g->hbone_mtls_port);
	}
}

static void print_workload(const Istio__Workload__Workload *w)
{
	printf("  tunnel=%d status=%d network_mode=%d", (int)w->tunnel_protocol, (int)w->status,
	       (int)w->network_mode);
	print_text("name", w->name);
	print_text("ns", w->namespace_);
	print_text("sa", w->service_account);
	print_text("td", w->trust_domain);
	print_text("network", w->network);
	print_text("node", w->node);
	print_text("workload", w->workload_name);
	print_text("app", w->canonical_name);
	print_text("version", w->canonical_revision);
	if (w->native_tunnel)
		printf(" native");
	if (w->locality)
		printf(" locality=%s/%s/%s", w->locality->region ? w->locality->region : "",
		       w->locality->zone ? w->locality->zone : "",
		       w->locality->subzone ? w->locality->subzone : "");
	printf("\n  addresses");
	for (size_t i = 0; i < w->n_addresses; i++) {
		printf(" ");
		print_bytes(&w->addresses[i]);
	}
	printf("\n");
	for (size_t i = 0; i < w->n_services; i++) {
		printf("  of %s", w->services[i]->key);
		print_ports(w->services[i]->value->ports, w->services[i]->value->n_ports);
		printf("\n");
	}
	for (size_t i = 0; i < w->n_authorization_policies; i++)
		printf("  policy %s\n", w->authorization_policies[i]);
	print_gateway("waypoint", w->waypoint);
}

static void print_service(const Istio__Workload__Service *s)
{
	printf("  vips");
	for (size_t i = 0; i < s->n_addresses; i++) {
		printf(" %s/", s->addresses[i]->network ? s->addresses[i]->network : "");
		print_bytes(&s->addresses[i]->address);
	}
	printf("\n  ports");
	print_ports(s->ports, s->n_ports);
	printf("\n");
	if (s->ip_families)
		printf("  ip_families %d\n", (int)s->ip_families);
	if (s->load_balancing) {
		printf("  lb mode=%d health=%d prefer", (int)s->load_balancing->mode,
		       (int)s->load_balancing->health_policy);
		for (size_t i = 0; i < s->load_balancing->n_routing_preference; i++)
			printf(" %d", (int)s->load_balancing->routing_preference[i]);
		printf("\n");
	}
	print_gateway("waypoint", s->waypoint);
	for (size_t i = 0; i < s->n_weighted_waypoints; i++) {
		printf("  weight %u", s->weighted_waypoints[i]->weight);
		print_gateway("", s->weighted_waypoints[i]->destination);
	}
}

static void print_texts(const char *name, Istio__Security__StringMatch *const *v, size_t n)
{
	static const char *const kinds[] = {"?", "", "prefix:", "suffix:", "*"};

	if (!n)
		return;
	printf(" %s[", name);
	for (size_t i = 0; i < n; i++) {
		bool presence =
			v[i]->match_type_case == ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PRESENCE;

		printf("%s%s%s", i ? " " : "", kinds[v[i]->match_type_case],
		       presence ? "" : v[i]->exact);
	}
	printf("]");
}

static void print_ranges(const char *name, Istio__Security__IpRange *const *v, size_t n)
{
	if (!n)
		return;
	printf(" %s[", name);
	for (size_t i = 0; i < n; i++) {
		printf("%s", i ? " " : "");
		print_bytes(&v[i]->address);
		printf("/%u", v[i]->length);
	}
	printf("]");
}

static void print_numbers(const char *name, const uint32_t *v, size_t n)
{
	if (!n)
		return;
	printf(" %s[", name);
	for (size_t i = 0; i < n; i++)
		printf("%s%u", i ? " " : "", v[i]);
	printf("]");
}

static void print_accounts(const char *name, Istio__Security__ServiceAccountMatch *const *v,
			   size_t n)
{
	if (!n)
		return;
	printf(" %s[", name);
	for (size_t i = 0; i < n; i++)
		printf("%s%s/%s", i ? " " : "", v[i]->namespace_, v[i]->service_account);
	printf("]");
}

static void print_match(const Istio__Security__Match *m)
{
	printf(" {");
	print_texts("namespaces", m->namespaces, m->n_namespaces);
	print_texts("not_namespaces", m->not_namespaces, m->n_not_namespaces);
	print_texts("principals", m->principals, m->n_principals);
	print_texts("not_principals", m->not_principals, m->n_not_principals);
	print_ranges("source_ips", m->source_ips, m->n_source_ips);
	print_ranges("not_source_ips", m->not_source_ips, m->n_not_source_ips);
	print_ranges("destination_ips", m->destination_ips, m->n_destination_ips);
	print_ranges("not_destination_ips", m->not_destination_ips, m->n_not_destination_ips);
	print_numbers("destination_ports", m->destination_ports, m->n_destination_ports);
	print_numbers("not_destination_ports", m->not_destination_ports,
		      m->n_not_destination_ports);
	print_accounts("service_accounts", m->service_accounts, m->n_service_accounts);
	print_accounts("not_service_accounts", m->not_service_accounts, m->n_not_service_accounts);
	printf(" }");
}

static void print_policy(const Istio__Security__Authorization *p)
{
	static const char *const scopes[] = {"GLOBAL", "NAMESPACE", "WORKLOAD_SELECTOR"};

	printf("  %s %s%s\n", p->action ? "DENY" : "ALLOW", scopes[p->scope],
	       p->dry_run ? " dry_run" : "");
	for (size_t i = 0; i < p->n_rules; i++) {
		printf("  rule %zu\n", i);
		for (size_t k = 0; k < p->rules[i]->n_clauses; k++) {
			const Istio__Security__Clause *c = p->rules[i]->clauses[k];

			printf("    %s", k ? "and" : "if ");
			for (size_t j = 0; j < c->n_matches; j++) {
				printf("%s", j ? " or" : "");
				print_match(c->matches[j]);
			}
			printf("\n");
		}
	}
}

static void print_resource(const struct weft_store_resource *r)
{
	printf("%s %s (%s)", r->type->brief, r->name, r->source);
	for (size_t i = 0; r->aliases && r->aliases[i]; i++)
		printf(" %s", r->aliases[i]);
	printf("\n");
	if (r->type == &weft_xds_type_authorization) {
		print_policy((const Istio__Security__Authorization *)r->msg);
	} else {
		const Istio__Workload__Address *a = (const Istio__Workload__Address *)r->msg;

		if (a->type_case == ISTIO__WORKLOAD__ADDRESS__TYPE_WORKLOAD)
			print_workload(a->workload);
		else
			print_service(a->service);
	}
}

static void print_node(struct weft_store *s)
{
	const struct weft_store_pod *pods;
	const char *const *ids;
	size_t n = weft_store_pods(s, "n1", &pods);
	char text[WEFT_IP_TEXT];

	for (size_t i = 0; i < n; i++) {
		printf("node n1: pod %s (%s) netns %s", pods[i].conf.uid, pods[i].source,
		       pods[i].conf.netns_path ? pods[i].conf.netns_path : "-");
		for (size_t k = 0; k < pods[i].conf.n_addrs; k++)
			printf(" %s", weft_ip_text(&pods[i].conf.addrs[k], text, sizeof(text)));
		printf("\n");
	}
	n = weft_store_identities(s, "n1", &ids);
	for (size_t i = 0; i < n; i++)
		printf("node n1: identity %s\n", ids[i]);
}

static void print_errors(const char *what, const struct weft_errs *e)
{
	char text[600];

	for (int i = 0; i < e->n; i++)
		printf("%s: %s\n", what, weft_err_text(&e->v[i], text, sizeof(text)));
}

/* Each comment that asks. */
static int print_explanations(const struct weft_store *s, const char *path, bool json)
{
	char line[600], src[200], dst[200], *text;
	FILE *f = fopen(path, "r");
	struct weft_err e = {0};
	json_t *o;

	if (!f)
		return 1;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "# explain %199s %199s", src, dst) != 2)
			continue;
		printf("== %s to %s\n", src, dst);
		if (weft_explain(s, src, dst, &o, &text, &e)) {
			printf("%s\n", weft_err_text(&e, line, sizeof(line)));
			continue;
		}
		printf("%s", text);
		if (json) {
			json_dumpf(o, stdout, JSON_INDENT(1) | JSON_SORT_KEYS);
			printf("\n");
		}
		json_decref(o);
		free(text);
	}
	fclose(f);
	return 0;
}

int main(int argc, char **argv)
{
	bool explain = argc == 3 && !strncmp(argv[1], "--explain", 9);
	const struct weft_store_resource *v;
	struct weft_errs files = {0}, store = {0};
	struct weft_objects *objs = NULL;
	struct weft_store *s = weft_store_new();
	size_t n;
	int bad;

	if (explain)
		argv++, argc--;
	if (argc < 2) {
		fprintf(stderr, "usage: store_dump FILE...\n");
		return 2;
	}
	bad = weft_check_paths((const char *const *)(argv + 1), (size_t)argc - 1, &objs, &files,
			       NULL);
	print_errors("file", &files);
	bad += weft_store_load(s, objs, &store);
	print_errors("store", &store);
	n = weft_store_resources(s, &v);
	for (size_t i = 0; !explain && i < n && !*v[i].scope; i++)
		print_resource(&v[i]);
	if (explain)
		bad += print_explanations(s, argv[1], !strcmp(argv[0], "--explain-json"));
	else
		print_node(s);
	weft_store_free(s);
	weft_objects_unref(objs);
	return bad ? 1 : 0;
}
