/* gateway_dump FILE...: what the agent makes for waypoints and gateways of these objects: each
 * resource as YAML, then the status of Gateways and routes. Errors come first. */
#include "agent/store.h"
#include "xds/cfg.h"
#include "xds/yaml.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static void print_errors(const char *what, const struct weft_errs *e)
{
	char text[600];

	for (int i = 0; i < e->n; i++)
		printf("# %s: %s\n", what, weft_err_text(&e->v[i], text, sizeof(text)));
}

/* A waypoint would refuse what does not hold its rules. Fields that nobody acts on are found by the
 * programs' own tests. */
static void print_resource(const struct weft_store_resource *r)
{
	struct weft_errs errs = {0};
	struct weft_cfg c = {.arena = weft_arena_new(0), .errs = &errs, .file = true};
	char *text = weft_yaml_encode(r->msg, false);

	printf("--- # %s %s %s\n%s", r->scope, r->type->brief, r->name, text);
	if (weft_cfg_check(&c, NULL, r->msg))
		print_errors("refused", &errs);
	weft_arena_free(c.arena);
	free(text);
}

int main(int argc, char **argv)
{
	const struct weft_store_resource *v;
	struct weft_errs files = {0}, store = {0};
	struct weft_objects *objs = NULL;
	struct weft_store *s = weft_store_new();
	size_t n;
	int bad;

	if (argc < 2) {
		fprintf(stderr, "usage: gateway_dump FILE...\n");
		return 2;
	}
	bad = weft_check_paths((const char *const *)(argv + 1), (size_t)argc - 1, &objs, &files,
			       NULL);
	print_errors("file", &files);
	bad += weft_store_load(s, objs, &store);
	print_errors("store", &store);
	n = weft_store_resources(s, &v);
	for (size_t i = 0; i < n; i++)
		if (*v[i].scope)
			print_resource(&v[i]);
	printf("--- # status\n");
	json_dumpf(weft_store_status(s), stdout, JSON_INDENT(1));
	printf("\n");
	weft_store_free(s);
	weft_objects_unref(objs);
	return bad ? 1 : 0;
}
