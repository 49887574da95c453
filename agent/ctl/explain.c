/* weftctl explain: decided by the agent with the code that decides for traffic. */
#include "agent/ctl/ctl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int weft_ctl_explain(struct weft_ctl *c)
{
	char target[3300], *src, *dst;
	json_t *j;
	int r;

	if (c->n_args != 2) {
		fprintf(stderr, "weftctl: explain SRC DST:PORT\n");
		return 2;
	}
	src = weft_ctl_escape(c->args[0]);
	dst = weft_ctl_escape(c->args[1]);
	r = snprintf(target, sizeof(target), "/explain?src=%s&dst=%s", src, dst) >=
	    (int)sizeof(target);
	free(src);
	free(dst);
	if (r) {
		fprintf(stderr, "weftctl: explain: names too long\n");
		return 2;
	}
	r = weft_ctl_ask(c, "admin.sock", "GET", target, NULL, &j);
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
