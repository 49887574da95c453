#include "agent/ctl/ctl.h"
#include "proxy/core/arena.h"
#include "proxy/core/err.h"
#include "proxy/net/http_admin.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int ask(const struct weft_ctl *c, const char *socket, const char *method, const char *target,
	       const json_t *body, char **ret_text, struct weft_err *reterr)
{
	char path[PATH_MAX];
	char *text = body ? json_dumps(body, 0) : NULL;
	size_t n = 0;
	int r;

	snprintf(path, sizeof(path), "%.4000s/%s", c->run_dir, socket);
	r = weft_http_unix(path, method, target, text ? text : "", text ? strlen(text) : 0,
			   CTL_WAIT_MS, ret_text, &n, reterr);
	free(text);
	return r;
}

int weft_ctl_ask(const struct weft_ctl *c, const char *socket, const char *method,
		 const char *target, const json_t *body, json_t **ret)
{
	struct weft_err e = {0};
	json_error_t je;
	char *text = NULL;
	int status = ask(c, socket, method, target, body, &text, &e);

	*ret = NULL;
	if (status < 0) {
		fprintf(stderr, "weftctl: %s/%s: %s%s\n", c->run_dir, socket,
			e.code ? e.msg : strerror(-status),
			status == -ENOENT || status == -ECONNREFUSED
				? " (is it running? --run-dir names its folder)"
				: "");
		return 1;
	}
	if (status != 200) {
		fprintf(stderr, "weftctl: %s\n", text && *text ? strtok(text, "\n") : "refused");
		free(text);
		return 1;
	}
	*ret = json_loads(text, JSON_DECODE_ANY, &je);
	free(text);
	if (*ret)
		return 0;
	fprintf(stderr, "weftctl: %s: answer cannot be read: %s\n", socket, je.text);
	return 1;
}

bool weft_ctl_try(const struct weft_ctl *c, const char *socket, const char *target, json_t **ret)
{
	char *text = NULL;
	bool ok = ask(c, socket, "GET", target, NULL, &text, NULL) == 200;

	if (ret)
		*ret = ok ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
	free(text);
	return ok;
}

int weft_ctl_json(json_t *j)
{
	char *text = json_dumps(j, JSON_INDENT(2) | JSON_ENCODE_ANY);

	json_decref(j);
	if (!text)
		return 1;
	puts(text);
	free(text);
	return 0;
}

char *weft_ctl_escape(const char *s)
{
	char *out = weft_xcalloc(strlen(s) * 3 + 1, 1), *p = out;

	for (; *s; s++) {
		if (strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~",
			   *s))
			*p++ = *s;
		else
			p += sprintf(p, "%%%02X", (unsigned char)*s);
	}
	return out;
}

const char *weft_ctl_str(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	return s ? s : "";
}

long long weft_ctl_int(const json_t *j, const char *key)
{
	return json_integer_value(json_object_get(j, key));
}

void weft_ctl_age(long long s, char *dst, size_t cap)
{
	if (s < 0)
		snprintf(dst, cap, "-");
	else if (s < 120)
		snprintf(dst, cap, "%llds", s);
	else if (s < 7200)
		snprintf(dst, cap, "%lldm%llds", s / 60, s % 60);
	else if (s < 172800)
		snprintf(dst, cap, "%lldh%lldm", s / 3600, s % 3600 / 60);
	else
		snprintf(dst, cap, "%lldd%lldh", s / 86400, s % 86400 / 3600);
}

char *weft_ctl_join(const json_t *array, const char *sep)
{
	size_t n = 1, i;
	json_t *v;
	char *out;

	json_array_foreach((json_t *)array, i, v) n +=
		strlen(sep) + (json_is_string(v) ? json_string_length(v) : 0);
	out = weft_xcalloc(n, 1);
	json_array_foreach((json_t *)array, i, v)
	{
		if (i)
			strcat(out, sep);
		if (json_is_string(v))
			strcat(out, json_string_value(v));
	}
	return out;
}
