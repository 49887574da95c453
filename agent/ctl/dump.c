/* weftctl dump. */
#include "agent/ctl/ctl.h"
#include "proxy/core/addr.h"
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Addresses are bytes in the messages. */
static void address(const char *base64, char *dst, size_t cap)
{
	unsigned char raw[64];
	size_t n = strlen(base64);
	struct weft_ip ip;
	int len;

	snprintf(dst, cap, "?");
	if (!n || n > 64 || n % 4)
		return;
	len = EVP_DecodeBlock(raw, (const unsigned char *)base64, (int)n);
	while (len > 0 && n && base64[n - 1] == '=') {
		len--;
		n--;
	}
	if (len > 0 && weft_ip_from_bytes(raw, (size_t)len, &ip) == 0)
		weft_ip_text(&ip, dst, cap);
}

static void addresses(const json_t *array, char *dst, size_t cap)
{
	char one[WEFT_IP_TEXT];
	json_t *v;
	size_t i;

	*dst = 0;
	json_array_foreach((json_t *)array, i, v)
	{
		const char *s =
			json_is_string(v) ? json_string_value(v) : weft_ctl_str(v, "address");

		address(s, one, sizeof(one));
		snprintf(dst + strlen(dst), cap - strlen(dst), "%s%s", i ? "," : "", one);
	}
}

static void workload(struct weft_table *t, const json_t *r)
{
	const json_t *w = json_object_get(json_object_get(r, "resource"), "workload");
	const char *td = weft_ctl_str(w, "trustDomain"), *sa = weft_ctl_str(w, "serviceAccount"),
		   *ns = weft_ctl_str(w, "namespace");
	const char *tunnel = weft_ctl_str(w, "tunnelProtocol"), *status = weft_ctl_str(w, "status");
	char addrs[256], id[512], name[520];
	const char *cells[] = {name,
			       addrs,
			       weft_ctl_str(w, "node"),
			       *tunnel ? tunnel : "plain",
			       id,
			       *status ? status : "HEALTHY",
			       weft_ctl_str(r, "source")};

	snprintf(name, sizeof(name), "%.250s/%.250s", ns, weft_ctl_str(w, "name"));
	snprintf(id, sizeof(id), "%.100s/ns/%.150s/sa/%.200s", *td ? td : "cluster.local", ns,
		 *sa ? sa : "default");
	addresses(json_object_get(w, "addresses"), addrs, sizeof(addrs));
	weft_table_row(t, cells);
}

static void service(struct weft_table *t, const json_t *r)
{
	const json_t *s = json_object_get(json_object_get(r, "resource"), "service");
	char addrs[256], ports[256] = "";
	const char *cells[] = {weft_ctl_str(r, "name"), addrs, ports, weft_ctl_str(r, "source")};
	json_t *p;
	size_t i;

	addresses(json_object_get(s, "addresses"), addrs, sizeof(addrs));
	json_array_foreach(json_object_get(s, "ports"), i, p) snprintf(
		ports + strlen(ports), sizeof(ports) - strlen(ports), "%s%lld>%lld", i ? "," : "",
		weft_ctl_int(p, "servicePort"), weft_ctl_int(p, "targetPort"));
	weft_table_row(t, cells);
}

static void policy(struct weft_table *t, const json_t *r)
{
	const json_t *p = json_object_get(r, "resource");
	const char *action = weft_ctl_str(p, "action"), *scope = weft_ctl_str(p, "scope");
	char rules[24];
	const char *cells[] = {weft_ctl_str(r, "name"), *action ? action : "ALLOW",
			       *scope ? scope : "GLOBAL", rules, weft_ctl_str(r, "source")};

	snprintf(rules, sizeof(rules), "%zu", json_array_size(json_object_get(p, "rules")));
	weft_table_row(t, cells);
}

static void object(struct weft_table *t, const json_t *r)
{
	char where[400];
	const char *cells[] = {weft_ctl_str(r, "kind"), weft_ctl_str(r, "namespace"),
			       weft_ctl_str(r, "name"), where};

	snprintf(where, sizeof(where), "%.300s:%lld", weft_ctl_str(r, "file"),
		 weft_ctl_int(r, "line"));
	weft_table_row(t, cells);
}

static const struct kind {
	const char *name;
	const char *heads[8];
	size_t cols;
	void (*row)(struct weft_table *t, const json_t *r);
} kinds[] = {
	{"workloads",
	 {"WORKLOAD", "ADDRESSES", "NODE", "TUNNEL", "IDENTITY", "STATUS", "SOURCE"},
	 7,
	 workload},
	{"services", {"SERVICE", "ADDRESSES", "PORTS", "SOURCE"}, 4, service},
	{"policies", {"POLICY", "ACTION", "SCOPE", "RULES", "SOURCE"}, 5, policy},
	{"config", {"KIND", "NAMESPACE", "NAME", "SOURCE"}, 4, object},
};

static int table(struct weft_ctl *c, const struct kind *k)
{
	struct weft_table *t;
	char target[64];
	json_t *all, *v;
	size_t i;
	int r;

	snprintf(target, sizeof(target), "/dump?what=%s", k->name);
	r = weft_ctl_ask(c, "admin.sock", "GET", target, NULL, &all);
	if (r)
		return r;
	if (!json_array_size(all))
		printf("no %s\n", k->name);
	t = weft_table_new(k->heads, k->cols);
	json_array_foreach(all, i, v) k->row(t, v);
	weft_table_print(t);
	json_decref(all);
	return 0;
}

/* The chain of trust has no table: JSON tells it. */
static int as_json(struct weft_ctl *c, const char *socket, const char *target)
{
	json_t *j;
	int r = weft_ctl_ask(c, socket, "GET", target, NULL, &j);

	return r ? r : weft_ctl_json(j);
}

int weft_ctl_dump(struct weft_ctl *c)
{
	const char *what = c->n_args ? c->args[0] : "";
	char target[64];
	size_t i;
	int r = 0;

	if (c->n_args > 1)
		what = "?";
	if (!strcmp(what, "proxy"))
		return as_json(c, "proxy/admin.sock", "/status");
	if (!strcmp(what, "certs"))
		return as_json(c, "admin.sock", "/dump?what=certs");
	for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (!strcmp(what, kinds[i].name))
			break;
	if (*what && i == sizeof(kinds) / sizeof(kinds[0])) {
		fprintf(stderr, "weftctl: dump [workloads|services|policies|certs|config|proxy]\n");
		return 2;
	}
	if (c->json) {
		snprintf(target, sizeof(target), "/dump%s%s", *what ? "?what=" : "", what);
		return as_json(c, "admin.sock", target);
	}
	if (*what)
		return table(c, &kinds[i]);
	for (i = 0; i < 3 && !r; i++) {
		if (i)
			putchar('\n');
		r = table(c, &kinds[i]);
	}
	return r;
}
