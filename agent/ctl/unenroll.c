/* weftctl unenroll --all: the way out, with an agent or without. */
#include "agent/bpf_load.h"
#include "agent/ctl/ctl.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool agreed(const struct weft_ctl *c)
{
	char line[16] = "";

	if (c->yes)
		return true;
	if (!isatty(STDIN_FILENO)) {
		fprintf(stderr, "weftctl: unenroll: add --yes where nobody can be asked\n");
		return false;
	}
	printf("Every pod of this node leaves the mesh: its traffic goes on in plaintext, live "
	       "connections end. Go on? [y/N] ");
	fflush(stdout);
	return fgets(line, sizeof(line), stdin) && (line[0] == 'y' || line[0] == 'Y');
}

int weft_ctl_unenroll(struct weft_ctl *c)
{
	struct weft_err e = {0};
	json_t *j;
	int r;

	if (!c->all || c->n_args) {
		fprintf(stderr, "weftctl: unenroll --all [--yes]\n");
		return 2;
	}
	if (!agreed(c))
		return 1;
	if (weft_ctl_try(c, "admin.sock", "/healthz", NULL)) {
		r = weft_ctl_ask(c, "admin.sock", "POST", "/unenroll", NULL, &j);
		if (r)
			return r;
		printf("%lld pods released; the agent ends\n", weft_ctl_int(j, "released"));
		json_decref(j);
		return 0;
	}
	if (weft_bpf_unload(c->pin_dir, &e) < 0) {
		fprintf(stderr, "weftctl: %s\n", e.msg);
		return 1;
	}
	printf("%s: no agent runs; nothing is captured any more\n", c->pin_dir);
	return 0;
}
