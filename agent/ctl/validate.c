/* weftctl validate: the checks of the agent, on files, without an agent. */
#include "agent/ctl/ctl.h"
#include "agent/store.h"
#include "proxy/core/arena.h"
#include "xds/check.h"
#include <stdio.h>
#include <stdlib.h>

static void print_errs(FILE *to, const struct weft_errs *errs)
{
	char text[sizeof(struct weft_err) + 8];
	int i;

	for (i = 0; i < errs->n; i++)
		fprintf(to, "%s\n", weft_err_text(&errs->v[i], text, sizeof(text)));
	if (errs->dropped)
		fprintf(to, "... and %d more\n", errs->dropped);
}

int weft_ctl_validate(struct weft_ctl *c)
{
	struct weft_errs *errs = weft_xcalloc(1, sizeof(*errs)),
			 *notes = weft_xcalloc(1, sizeof(*notes));
	struct weft_store *store = weft_store_new();
	struct weft_objects *set = NULL;
	int n = 0, i;

	if (c->n_args && weft_ctl_is_bootstrap(c->args[0])) {
		for (i = 0; i < c->n_args; i++) {
			int rc = weft_ctl_is_bootstrap(c->args[i])
					 ? weft_ctl_bootstrap(c->args[i], c->json)
					 : 2;

			if (rc == 2)
				fprintf(stderr, "weftctl: %s: not looked at beside bootstraps\n",
					c->args[i]);
			n = rc > n ? rc : n;
		}
		n = n == 2 ? -1 : n;
		goto out;
	}
	if (c->json) {
		fprintf(stderr, "weftctl: validate -o json is for Envoy bootstraps\n");
		n = -1;
		goto out;
	}
	if (!c->n_args) {
		fprintf(stderr, "weftctl: validate FILE|FOLDER...\n");
		n = -1;
		goto out;
	}
	n = weft_check_paths((const char *const *)c->args, (size_t)c->n_args, &set, errs, notes);
	if (!n && set)
		n = weft_store_load(store, set, errs); /* what only shows when objects meet */
	print_errs(stdout, notes);
	print_errs(stdout, errs);
	printf("%zu objects, %d errors\n", set ? set->n : 0, n);
out:
	weft_objects_unref(set);
	weft_store_free(store);
	free(errs);
	free(notes);
	return n < 0 ? 2 : n > 0;
}
