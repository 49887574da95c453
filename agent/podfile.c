/* weftctl pod add|remove: a file pod-NAMESPACE-NAME.yaml in the configuration folder, which stays
 * the one truth. */
#include "agent/agent.h"
#include "agent/netns.h"
#include "proxy/core/arena.h"
#include "proxy/core/log.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int say(char **ret, int status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int say(char **ret, int status, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text) - 1, fmt, ap);
	va_end(ap);
	strcat(text, "\n");
	*ret = weft_xstrdup(text);
	return status;
}

/* RFC 1123 labels: what Kubernetes takes, and nothing that leaves the folder. */
static bool label_ok(const char *s, size_t n, bool dots)
{
	size_t i;

	if (!n || n > (dots ? 253 : 63) || s[0] == '-' || s[0] == '.' || s[n - 1] == '-' ||
	    s[n - 1] == '.')
		return false;
	for (i = 0; i < n; i++)
		if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= '0' && s[i] <= '9') || s[i] == '-' ||
		      (dots && s[i] == '.')))
			return false;
	return true;
}

static bool names_ok(const char *ns, const char *name)
{
	return ns && name && label_ok(ns, strlen(ns), false) && label_ok(name, strlen(name), true);
}

static bool path_of(const struct weft_agent *a, const char *ns, const char *name, char *dst,
		    size_t cap, char **ret_file)
{
	if (snprintf(dst, cap, "%s/pod-%s-%s.yaml", a->opt->config, ns, name) >= (int)cap)
		return false;
	*ret_file = strrchr(dst, '/') + 1;
	return true;
}

/* Addresses asked for, or those of the namespace. NULL: *ret tells. */
static json_t *addresses(json_t *in, const char *netns, int *ret_status, char **ret)
{
	json_t *given = json_object_get(in, "ips"), *out = json_array();
	char text[WEFT_IP_TEXT];
	struct weft_err e = {0};
	struct weft_ip v[4];
	size_t n = 0, i;
	int fd, r;

	for (i = 0; i < json_array_size(given); i++) {
		const char *s = json_string_value(json_array_get(given, i));
		struct weft_ip ip;

		if (!s || weft_ip_parse(s, &ip) < 0) {
			*ret_status =
				say(ret, 400, "ips: must be addresses, is \"%.60s\"", s ? s : "?");
			goto fail;
		}
		json_array_append_new(
			out, json_pack("{s:s}", "ip", weft_ip_text(&ip, text, sizeof(text))));
	}
	if (i)
		return out;
	fd = weft_netns_open(netns, &e);
	if (fd < 0) {
		*ret_status = say(ret, 400, "%s", e.msg);
		goto fail;
	}
	r = weft_netns_addrs(fd, v, 4, &n);
	close(fd);
	if (r < 0 || !n || n > 4) {
		*ret_status = say(ret, 400, "%s has %zu addresses of its own: name 1..4 by ips",
				  netns, n);
		goto fail;
	}
	for (i = 0; i < n; i++)
		json_array_append_new(
			out, json_pack("{s:s}", "ip", weft_ip_text(&v[i], text, sizeof(text))));
	return out;
fail:
	json_decref(out);
	return NULL;
}

static char *pod_text(const struct weft_agent *a, json_t *in, const char *ns, const char *name,
		      json_t *ips)
{
	json_t *labels = json_object_get(in, "labels"), *j;
	const char *sa = json_string_value(json_object_get(in, "sa"));
	char *text;

	labels = json_is_object(labels) ? json_deep_copy(labels) : json_object();
	if (!json_object_get(labels, "weft.io/mesh") &&
	    !json_object_get(labels, "istio.io/dataplane-mode"))
		json_object_set_new(labels, "weft.io/mesh", json_string("enabled"));
	j = json_pack("{s:s,s:s,s:{s:s,s:s,s:o,s:{s:O}},s:{s:s,s:s},s:{s:s,s:O,s:[{s:s,s:s}]}}",
		      "apiVersion", "v1", "kind", "Pod", "metadata", "name", name, "namespace", ns,
		      "labels", labels, "annotations", "weft.io/netns",
		      json_object_get(in, "netns"), "spec", "nodeName", a->opt->node,
		      "serviceAccountName", sa ? sa : "default", "status", "phase", "Running",
		      "podIPs", ips, "conditions", "type", "Ready", "status", "True");
	text = j ? json_dumps(j, JSON_INDENT(2)) : NULL;
	json_decref(j);
	return text;
}

static int write_file(const char *path, const char *text, char **ret)
{
	char tmp[PATH_MAX];
	size_t n = strlen(text);
	int fd;

	/* a name with a dot in front is not read as configuration */
	snprintf(tmp, sizeof(tmp), "%.*s/.pod-XXXXXX", (int)(strrchr(path, '/') - path), path);
	fd = mkostemp(tmp, O_CLOEXEC);
	if (fd < 0)
		return say(ret, 500, "%s: %s", tmp, strerror(errno));
	if (fchmod(fd, 0644) < 0 || write(fd, text, n) != (ssize_t)n || write(fd, "\n", 1) != 1 ||
	    fsync(fd) < 0 || rename(tmp, path) < 0) {
		int e = errno;

		close(fd);
		unlink(tmp);
		return say(ret, 500, "%s: %s", path, strerror(e));
	}
	close(fd);
	return 200;
}

static int check_text(const char *file, const char *text, char **ret)
{
	struct weft_file *f = weft_file_parse(file, text, strlen(text));
	char line[sizeof(struct weft_err) + 8];
	int status = 200;

	if (f->n_errors)
		status = say(ret, 400, "%s",
			     f->errs && f->errs->n
				     ? weft_err_text(&f->errs->v[0], line, sizeof(line))
				     : "object not accepted");
	weft_file_unref(f);
	return status;
}

/* Another object in the file that would be written: "a/b-c" and "a-b/c" share a name, and a person
 * may have added to it. */
static const struct weft_object *neighbour(const struct weft_agent *a, const char *file,
					   const struct weft_object *own)
{
	const struct weft_objects *set = weft_source_file_set(a->source);
	size_t i;

	for (i = 0; set && i < set->n; i++)
		if (&set->v[i] != own && !strcmp(set->v[i].file, file))
			return &set->v[i];
	return NULL;
}

/* What became of it, for whoever asked. */
static int result(struct weft_agent *a, const char *ns, const char *name, const char *file,
		  char **ret)
{
	const struct weft_pod *pod;
	json_t *j;

	for (pod = weft_pods_first(a->pods); pod; pod = pod->next)
		if (!strcmp(pod->ns, ns) && !strcmp(pod->name, name))
			break;
	j = json_pack("{s:s,s:s}", "file", file, "state",
		      !pod				? "not enrolled"
		      : pod->state == WEFT_POD_CAPTURED ? "captured"
							: "failed");
	if (pod && pod->err.code)
		json_object_set_new(j, "error", json_string(pod->err.msg));
	*ret = json_dumps(j, JSON_INDENT(2));
	json_decref(j);
	return 200;
}

int weft_podfile_add(struct weft_agent *a, const char *body, size_t n, char **ret_text)
{
	json_t *in = json_loadb(body, n, 0, NULL), *ips = NULL;
	const char *ns = json_string_value(json_object_get(in, "namespace")),
		   *name = json_string_value(json_object_get(in, "name"));
	const char *netns = json_string_value(json_object_get(in, "netns"));
	const struct weft_object *o, *other;
	char path[PATH_MAX], *file, *text = NULL;
	int status = 500;

	weft_source_file_rescan(a->source); /* what is there now decides */
	if (!json_is_object(in))
		status = say(ret_text, 400, "the body must be a JSON object");
	else if (!names_ok(ns, name))
		status = say(ret_text, 400, "namespace and name: must be DNS labels");
	else if (!netns || netns[0] != '/')
		status = say(ret_text, 400, "netns: must be the path of a network namespace");
	else if (!path_of(a, ns, name, path, sizeof(path), &file))
		status = say(ret_text, 400, "name: too long");
	else if ((o = weft_objects_find(weft_source_file_set(a->source), WEFT_KIND_POD, ns,
					name)) &&
		 strcmp(o->file, file))
		status = say(ret_text, 409, "pod %s/%s is defined in %s, line %d", ns, name,
			     o->file, o->line);
	else if ((other = neighbour(a, file, o)))
		status = say(ret_text, 409, "%s holds %s/%s, line %d: add the pod by hand", file,
			     other->ns, other->name, other->line);
	else if ((ips = addresses(in, netns, &status, ret_text))) {
		text = pod_text(a, in, ns, name, ips);
		status = text ? check_text(file, text, ret_text)
			      : say(ret_text, 400, "sa and labels: must be strings");
		if (status == 200)
			status = write_file(path, text, ret_text);
		if (status == 200) {
			weft_source_file_rescan(a->source);
			weft_agent_sync(a);
			status = result(a, ns, name, file, ret_text);
		}
	}
	free(text);
	json_decref(ips);
	json_decref(in);
	return status;
}

int weft_podfile_remove(struct weft_agent *a, const char *pod, char **ret_text)
{
	char path[PATH_MAX], copy[600], *file, *name;
	const struct weft_object *o, *other;

	snprintf(copy, sizeof(copy), "%s", pod);
	name = strchr(copy, '/');
	if (name)
		*name++ = 0;
	if (!names_ok(copy, name) || !path_of(a, copy, name, path, sizeof(path), &file))
		return say(ret_text, 400, "pod: must be NAMESPACE/NAME, is \"%.80s\"", pod);
	weft_source_file_rescan(a->source);
	o = weft_objects_find(weft_source_file_set(a->source), WEFT_KIND_POD, copy, name);
	if (!o)
		return say(ret_text, 404, "pod %s/%s is not in the configuration", copy, name);
	if (strcmp(o->file, file))
		return say(ret_text, 409, "pod %s/%s is defined in %s, line %d: remove it there",
			   copy, name, o->file, o->line);
	other = neighbour(a, file, o);
	if (other)
		return say(ret_text, 409, "%s holds %s/%s too, line %d: remove the pod there", file,
			   other->ns, other->name, other->line);
	if (unlink(path) < 0)
		return say(ret_text, 500, "%s: %s", path, strerror(errno));
	weft_source_file_rescan(a->source);
	weft_agent_sync(a);
	return result(a, copy, name, file, ret_text);
}
