/* weftctl explain: decided by the agent with the code that decides for traffic. */
#include "agent/ctl/ctl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A line each, escaped. */
static char *headers_of(const struct weft_ctl *c)
{
	char *text = NULL, *escaped;
	size_t n;
	FILE *f = open_memstream(&text, &n);

	if (!f)
		abort(); /* memory is out */
	for (int i = 0; i < c->n_headers; i++)
		fprintf(f, "%s\n", c->headers[i]);
	fclose(f);
	escaped = weft_ctl_escape(text);
	free(text);
	return escaped;
}

int weft_ctl_explain(struct weft_ctl *c)
{
	char *target = NULL, *src, *dst, *method, *path, *headers;
	json_t *j;
	int r;

	if (c->n_args != 2) {
		fprintf(stderr, "weftctl: explain SRC DST:PORT\n");
		return 2;
	}
	src = weft_ctl_escape(c->args[0]);
	dst = weft_ctl_escape(c->args[1]);
	method = weft_ctl_escape(c->method ? c->method : "GET");
	path = weft_ctl_escape(c->path ? c->path : "/");
	headers = headers_of(c);
	if (asprintf(&target, "/explain?src=%s&dst=%s&method=%s&path=%s&headers=%s", src, dst,
		     method, path, headers) < 0)
		abort(); /* memory is out */
	free(src);
	free(dst);
	free(method);
	free(path);
	free(headers);
	r = weft_ctl_ask(c, "admin.sock", "GET", target, NULL, &j);
	free(target);
	if (r)
		return r;
	if (c->json) {
		json_object_del(j, "text");
		return weft_ctl_json(j);
	}
	fputs(weft_ctl_str(j, "text"), stdout);
	json_decref(j);
	return 0;
}
