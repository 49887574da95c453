/* weftctl status, weftctl pod list: the agent's answer for people. */
#include "agent/ctl/ctl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void print_pods(const json_t *pods)
{
	static const char *const heads[] = {
		"POD", "STATE", "ADDRESSES", "SERVICE ACCOUNT", "NETWORK NAMESPACE", "WHY"};
	struct weft_table *t = weft_table_new(heads, 6);
	json_t *p;
	size_t i;

	json_array_foreach((json_t *)pods, i, p)
	{
		char name[600], *addrs = weft_ctl_join(json_object_get(p, "addresses"), ",");
		const char *cells[] = {name,
				       weft_ctl_str(p, "state"),
				       addrs,
				       weft_ctl_str(p, "service_account"),
				       weft_ctl_str(p, "netns"),
				       weft_ctl_str(p, "error")};

		snprintf(name, sizeof(name), "%.250s/%.250s", weft_ctl_str(p, "namespace"),
			 weft_ctl_str(p, "name"));
		weft_table_row(t, cells);
		free(addrs);
	}
	weft_table_print(t);
}

static void print_certs(const json_t *certs)
{
	static const char *const heads[] = {"IDENTITY",	  "AGE",    "RENEWS IN",
					    "EXPIRES IN", "ISSUED", "ERROR"};
	struct weft_table *t = weft_table_new(heads, 6);
	long long now = (long long)time(NULL);
	json_t *p;
	size_t i;

	json_array_foreach((json_t *)certs, i, p)
	{
		char age[32], renews[32], expires[32], issued[24];
		const char *cells[] = {weft_ctl_str(p, "identity"), age, renews, expires, issued,
				       weft_ctl_str(p, "error")};

		weft_ctl_age(weft_ctl_int(p, "age_s"), age, sizeof(age));
		weft_ctl_age(weft_ctl_int(p, "renews") - now, renews, sizeof(renews));
		weft_ctl_age(weft_ctl_int(p, "not_after") - now, expires, sizeof(expires));
		snprintf(issued, sizeof(issued), "%lld", weft_ctl_int(p, "issued"));
		weft_table_row(t, cells);
	}
	weft_table_print(t);
}

static void print_config(const json_t *c)
{
	json_t *errors = json_object_get(c, "errors"), *e;
	size_t i;

	printf("config    %s: %lld files, %lld objects, %zu problems now%s\n",
	       weft_ctl_str(c, "folder"), weft_ctl_int(c, "files"), weft_ctl_int(c, "objects"),
	       json_array_size(errors),
	       json_is_true(json_object_get(c, "folder_gone"))
		       ? "; the folder is gone, the last good configuration stays"
		       : "");
	json_array_foreach(errors, i, e)
	{
		const char *file = weft_ctl_str(e, "file"), *text = weft_ctl_str(e, "text");

		/* the message names its file by itself, mostly */
		if (*file && strncmp(text, file, strlen(file)))
			printf("          %s: %s\n", file, text);
		else
			printf("          %s\n", text);
		if (*file)
			printf("          %s: %lld errors, its last good content stays in use\n",
			       file, weft_ctl_int(e, "errors"));
	}
}

static void print_agent(const json_t *s)
{
	const json_t *x = json_object_get(s, "xds"), *m = json_object_get(s, "mesh");
	char up[32];

	weft_ctl_age(weft_ctl_int(s, "uptime_ms") / 1000, up, sizeof(up));
	printf("agent     node %s, version %s, pid %lld, up %s%s\n", weft_ctl_str(s, "node"),
	       weft_ctl_str(s, "version"), weft_ctl_int(s, "pid"), up,
	       json_is_true(json_object_get(s, "synced")) ? "" : "; pods not synced yet");
	printf("mesh      trust domain %s, root namespace %s%s%s\n",
	       weft_ctl_str(m, "trust_domain"), weft_ctl_str(m, "root_namespace"),
	       *weft_ctl_str(m, "network") ? ", network " : "", weft_ctl_str(m, "network"));
	print_config(json_object_get(s, "config"));
	printf("xds       %lld clients; %lld workloads and services, %lld policies, %lld secrets; "
	       "%lld refused%s%s\n",
	       weft_ctl_int(x, "clients"), weft_ctl_int(x, "addresses"),
	       weft_ctl_int(x, "policies"), weft_ctl_int(x, "secrets"), weft_ctl_int(x, "refused"),
	       weft_ctl_int(x, "refused") ? ", last: " : "", weft_ctl_str(x, "last_refused"));
}

static void print_proxy(const json_t *s, const json_t *p)
{
	char up[32];

	if (!p) {
		printf("proxy     %s\n",
		       json_is_true(json_object_get(json_object_get(s, "proxy"), "connected"))
			       ? "connected to the agent, but its admin socket does not answer"
			       : "not running");
		return;
	}
	weft_ctl_age(weft_ctl_int(p, "uptime_ms") / 1000, up, sizeof(up));
	printf("proxy     version %s, pid %lld, %s, up %s", weft_ctl_str(p, "version"),
	       weft_ctl_int(p, "pid"), weft_ctl_str(p, "phase"), up);
	if (json_array_size(json_object_get(p, "missing"))) {
		char *missing = weft_ctl_join(json_object_get(p, "missing"), "; ");

		printf(", waits for: %s", missing);
		free(missing);
	}
	putchar('\n');
}

static void print_counters(const json_t *c)
{
	const char *key;
	json_t *v;
	int n = 0;

	printf("capture  ");
	json_object_foreach((json_t *)c, key, v)
	{
		if (!json_integer_value(v))
			continue;
		printf("%s %s %lld", n++ ? "," : "", key, (long long)json_integer_value(v));
	}
	puts(n ? "" : " nothing yet");
}

int weft_ctl_status(struct weft_ctl *c)
{
	json_t *s, *p = NULL;
	int r;

	if (c->n_args)
		return weft_ctl_gateways(c);
	r = weft_ctl_ask(c, "admin.sock", "GET", "/status", NULL, &s);
	if (r)
		return r;
	weft_ctl_try(c, "proxy/admin.sock", "/status", &p);
	if (c->json) {
		json_object_set_new(s, "proxy_status", p ? p : json_null());
		return weft_ctl_json(s);
	}
	print_agent(s);
	print_proxy(s, p);
	print_counters(json_object_get(s, "counters"));
	if (json_array_size(json_object_get(s, "pods")))
		putchar('\n');
	print_pods(json_object_get(s, "pods"));
	if (json_array_size(json_object_get(s, "certificates")))
		putchar('\n');
	print_certs(json_object_get(s, "certificates"));
	json_decref(s);
	json_decref(p);
	return 0;
}

static int pod_list(struct weft_ctl *c)
{
	json_t *pods;
	int r = weft_ctl_ask(c, "admin.sock", "GET", "/pods", NULL, &pods);

	if (r)
		return r;
	if (c->json)
		return weft_ctl_json(pods);
	if (!json_array_size(pods))
		puts("no pod of this node is enrolled");
	print_pods(pods);
	json_decref(pods);
	return 0;
}

/* The answer to add and remove; 1 when the pod did not come to what was asked. */
static int pod_told(struct weft_ctl *c, json_t *j, const char *verb, const char *want)
{
	int r = strcmp(weft_ctl_str(j, "state"), want) != 0;

	if (c->json) {
		weft_ctl_json(j);
		return r;
	}
	printf("%s %s: %s%s%s\n", weft_ctl_str(j, "file"), verb, weft_ctl_str(j, "state"),
	       *weft_ctl_str(j, "error") ? ": " : "", weft_ctl_str(j, "error"));
	json_decref(j);
	return r;
}

static int pod_add(struct weft_ctl *c)
{
	json_t *in = json_object(), *labels = json_object(), *ips = json_array(), *out;
	const char *slash = strchr(c->args[1], '/');
	int i, r = 0;

	for (i = 0; i < c->n_labels && !r; i++) {
		const char *eq = strchr(c->labels[i], '=');

		if (!eq || eq == c->labels[i]) {
			fprintf(stderr, "weftctl: --label: must be KEY=VALUE, is \"%s\"\n",
				c->labels[i]);
			r = 2;
			break;
		}
		r = json_object_setn_new(labels, c->labels[i], (size_t)(eq - c->labels[i]),
					 json_string(eq + 1))
			    ? 2
			    : 0;
	}
	for (i = 0; i < c->n_ips; i++)
		json_array_append_new(ips, json_string(c->ips[i]));
	json_object_set_new(in, "namespace",
			    json_stringn(c->args[1], (size_t)(slash - c->args[1])));
	json_object_set_new(in, "name", json_string(slash + 1));
	json_object_set_new(in, "netns", json_string(c->netns));
	json_object_set_new(in, "labels", labels);
	json_object_set_new(in, "ips", ips);
	if (c->sa)
		json_object_set_new(in, "sa", json_string(c->sa));
	if (!r)
		r = weft_ctl_ask(c, "admin.sock", "POST", "/pods/add", in, &out);
	if (!r)
		r = pod_told(c, out, "written", "captured");
	json_decref(in);
	return r;
}

static int pod_remove(struct weft_ctl *c)
{
	char target[2000], *pod = weft_ctl_escape(c->args[1]);
	json_t *out;
	int r;

	snprintf(target, sizeof(target), "/pods/remove?pod=%.1900s", pod);
	free(pod);
	r = weft_ctl_ask(c, "admin.sock", "POST", target, NULL, &out);
	return r ? r : pod_told(c, out, "removed", "not enrolled");
}

int weft_ctl_pod(struct weft_ctl *c)
{
	bool named = c->n_args == 2 && strchr(c->args[1], '/'),
	     options = c->netns || c->sa || c->n_ips || c->n_labels;

	if (c->n_args == 1 && !strcmp(c->args[0], "list") && !options)
		return pod_list(c);
	if (named && !strcmp(c->args[0], "add") && c->netns)
		return pod_add(c);
	if (named && !strcmp(c->args[0], "remove") && !options)
		return pod_remove(c);
	fprintf(stderr,
		"weftctl: pod add NS/NAME --netns PATH [--ip IP]... [--sa SA] [--label K=V]...\n"
		"         pod remove NS/NAME\n"
		"         pod list\n");
	return 2;
}
